"""MoMALLM sends another LLM's thoughts, calls and ids as the reader's provider takes them."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    LLMMetadata,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.llms.mock import MockFunctionCallingLLM

from llamaindex_moma import MoMALLM
from llamaindex_moma.portable import Authors, portable_messages
from moma_core import LLMCard

CARDS = (LLMCard("claude", 0.1, 0.4, quality=0.6), LLMCard("gpt", 2.0, 8.0, quality=0.9))
THOUGHT = ThinkingBlock(content="hm", additional_information={"signature": "c2ln"})
ASK = ChatMessage("which town is cold?")


class Provider(MockFunctionCallingLLM):
    """Keeps what it is sent, and answers with what it is told."""

    kind: str = "openai_llm"
    answer: Any = None
    sent: Any = None

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=50_000, is_function_calling_model=True)

    def class_name(self) -> str:  # type: ignore[override]
        return self.kind

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        self.sent = list(messages)
        return ChatResponse(message=self.answer or ChatMessage("Oslo", role="assistant"))

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        yield self.chat(messages)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        raw = response.message.additional_kwargs.get("tool_calls", [])
        return [
            ToolSelection(tool_id=c.id, tool_name=c.name, tool_kwargs={"place": "Oslo"})
            for c in raw
        ]


def answer(*blocks: Any, **extra: Any) -> ChatMessage:
    return ChatMessage(list(blocks), role="assistant", additional_kwargs=extra)


def both(said: ChatMessage | None = None, reader: str = "openai_llm") -> tuple[MoMALLM, Any, Any]:
    claude, gpt = Provider(kind="Anthropic_LLM", answer=said), Provider(kind=reader)
    llm = MoMALLM({"claude": claude, "gpt": gpt}, cards=CARDS)
    return llm, claude, gpt


@pytest.mark.parametrize("method", ["chat", "stream_chat"])
def test_thoughts_stay_with_their_author(method: str) -> None:
    said = answer(THOUGHT, TextBlock(text="Oslo"))
    llm, claude, gpt = both(said)

    def ask(messages: Sequence[ChatMessage], exclude: str) -> ChatMessage:
        found = getattr(llm, method)(messages, exclude=exclude)
        return (found if isinstance(found, ChatResponse) else list(found)[-1]).message

    first = ask([ASK], "gpt")
    conversation = [ASK, ChatMessage.model_validate_json(first.model_dump_json()), ASK]
    ask(conversation, "claude")
    assert gpt.sent[1].blocks == [TextBlock(text="Oslo")]
    assert [gpt.sent[0], gpt.sent[2]] == [ASK, ASK]
    ask(conversation, "gpt")
    assert claude.sent[1].blocks == said.blocks
    assert conversation[1].blocks == said.blocks  # the caller's stay as they are
    again = pickle.loads(pickle.dumps(llm))  # noqa: S301 - our own
    again.chat(conversation, exclude="gpt")
    assert again._calls.llms["claude"].sent[1].blocks == said.blocks


def test_a_thought_of_nobody_known_goes_where_its_form_is_read() -> None:
    llm, claude, gpt = both()
    said = [ASK, answer(THOUGHT, TextBlock(text="Oslo")), ASK]
    llm.chat(said, exclude="gpt")
    llm.chat(said, exclude="claude")
    assert claude.sent[1].blocks == said[1].blocks
    assert gpt.sent[1].blocks == [TextBlock(text="Oslo")]
    unsigned = [ASK, answer(ThinkingBlock(content="hm"), TextBlock(text="Oslo")), ASK]
    llm.chat(unsigned, exclude="gpt")
    assert claude.sent[1].blocks == [TextBlock(text="Oslo")]


def test_calls_are_sent_as_blocks_with_ids_and_arguments_that_the_reader_takes() -> None:
    raw = SimpleNamespace(id="toolu_01ABC", name="weather")
    call = ToolCallBlock(tool_call_id=raw.id, tool_name="weather", tool_kwargs='{"place": "Oslo"}')
    result = ChatMessage("cold", role="tool", additional_kwargs={"tool_call_id": raw.id})
    for said in (answer(call, tool_calls=[raw]), answer(tool_calls=[raw])):
        llm, claude, gpt = both(said, reader="MistralAI_LLM")
        llm.chat([ASK], exclude="gpt")
        conversation = [ASK, said, result]
        llm.chat(conversation, exclude="claude")
        [block] = gpt.sent[1].blocks
        assert (block.tool_name, block.tool_kwargs) == ("weather", {"place": "Oslo"})
        assert block.tool_call_id.isalnum()
        assert len(block.tool_call_id) == 9
        assert gpt.sent[2].additional_kwargs["tool_call_id"] == block.tool_call_id
        assert "tool_calls" not in gpt.sent[1].additional_kwargs
        llm.chat(conversation, exclude="gpt")
        assert claude.sent == conversation
        llm.chat_with_tools([], chat_history=conversation, exclude="claude")


def test_cache_points_go_to_those_that_cache_by_them() -> None:
    llm, claude, gpt = both()
    point = ChatMessage([TextBlock(text="hi"), CachePoint(cache_control={"type": "ephemeral"})])
    llm.chat([point], exclude="gpt")
    llm.chat([point], exclude="claude")
    assert claude.sent[0] == point
    assert gpt.sent[0].blocks == [TextBlock(text="hi")]


ids = st.text(max_size=50) | st.sampled_from(["call_1", "toolu_1", "abcdefgh1"])


@given(st.lists(ids, max_size=6), st.sampled_from(["openai_llm", "MistralAI_LLM"]))
def test_whatever_the_ids_calls_and_answers_stay_pairs_and_prefixes_stay_equal(
    known: list[str], reader: str
) -> None:
    messages = [ASK]
    for each in dict.fromkeys(known):
        call = ToolCallBlock(tool_call_id=each, tool_name="weather")
        result = ChatMessage("cold", role="tool", additional_kwargs={"tool_call_id": each})
        messages += [answer(call), result]
    llms = {"reader": Provider(kind=reader)}
    sent = portable_messages(messages, llms, "reader", Authors())
    made = [b.tool_call_id for m in sent for b in m.blocks if isinstance(b, ToolCallBlock)]
    assert len(set(made)) == len(made) == len(set(known))
    answered = [m.additional_kwargs["tool_call_id"] for m in sent if m.role == MessageRole.TOOL]
    assert answered == made
    assert portable_messages(messages[:3], llms, "reader", Authors()) == sent[:3]


def test_an_llm_without_tools_is_asked_with_words_alone() -> None:
    class Plain(CustomLLM):
        seen: Any = None

        @property
        def metadata(self) -> LLMMetadata:
            return LLMMetadata()

        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            raise AssertionError

        def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            raise AssertionError

        def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
            self.seen = list(messages)
            return ChatResponse(message=ChatMessage("hi", role="assistant"))

    llm, plain = Plain(), Plain()
    chat = MoMALLM({"claude": llm, "gpt": plain}, cards=CARDS)
    chat.chat([ASK, answer(THOUGHT, TextBlock(text="Oslo")), ASK], exclude="claude")
    assert [message.content for message in plain.seen] == [ASK.content, "Oslo", ASK.content]
