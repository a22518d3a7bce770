"""MoMALLM: every call goes to one of several LLMs, callbacks and tool calls included."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core import MockEmbedding, Settings, VectorStoreIndex
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    LLMMetadata,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import BaseModel, PrivateAttr
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMChatStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import TextNode
from llama_index.core.tools import FunctionTool

from llamaindex_moma import MoMALLM, MoMALLMFailureEvent, MoMARouteEvent
from moma_core import InvalidInputError, MoMARouter, NoTargetError, UnknownNameError
from moma_core.errors import InvalidCardError, InvalidPreferenceError
from moma_core.health import Health

CHEAP, DEAR, MIDDLE = "gemini-1.5-flash", "claude-3-5-sonnet-20241022", "gpt-4o-2024-08-06"
HARD = "Prove that there are infinitely many primes of the form 4k + 3."


class Town(BaseModel):
    """A town."""

    name: str


def answer(messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
    """Call the first tool when there is one that was not called yet."""
    tools = kwargs.get("tools") or ()
    if tools and messages[-1].role != MessageRole.TOOL:
        name = tools[0].metadata.name
        call = ToolCallBlock(tool_call_id="1", tool_name=name, tool_kwargs={"name": "Oslo"})
        return ChatMessage(role="assistant", blocks=[call])
    return ChatMessage(role="assistant", content=f"heard {messages[-1].content}")


async def apieces(messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
    yield answer(messages, **kwargs)


class Scripted(MockFunctionCallingLLM):
    """An LLM with a name of its own that counts calls and may be down."""

    window: int = 8_000
    broken: bool = False
    _calls: list[str] = PrivateAttr(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=self.window, is_function_calling_model=True, is_chat_model=True
        )

    def _get_response_generator(self) -> Any:
        self._calls.append("chat")
        if self.broken:
            raise ConnectionError("provider is down")
        return answer

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        if self.broken:
            raise ConnectionError("provider is down")
        return super().complete(prompt, formatted, **kwargs)


class Recorder(BaseEventHandler):
    """Keeps every event that the dispatcher hands on."""

    seen: list[Any] = []  # noqa: RUF012 - pydantic copies it

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.seen.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]


@pytest.fixture(scope="module")
def router() -> MoMARouter:
    return MoMARouter.from_cards()


@pytest.fixture
def events() -> Any:
    recorder, root = Recorder(), get_dispatcher()
    root.add_event_handler(recorder)
    yield recorder
    root.event_handlers.remove(recorder)


@pytest.fixture
def pool() -> dict[str, Any]:
    return {CHEAP: Scripted(window=32_000), DEAR: Scripted(), MIDDLE: MockLLM(max_tokens=64)}


def author(response: Any) -> str:
    return str(response.additional_kwargs["moma_llm"])


def test_preference_decides_and_a_call_may_bring_its_own(
    pool: dict[str, Any], router: MoMARouter
) -> None:
    llm = MoMALLM(pool, router, preference="cost")
    ask = [ChatMessage("Be brief.", role="system"), ChatMessage(HARD)]
    assert author(llm.chat(ask)) == CHEAP
    best = author(llm.chat(ask, preference="performance"))
    assert best != CHEAP
    assert author(llm.with_preference("performance").chat(ask)) == best
    assert author(llm.chat(ask)) == CHEAP


async def test_all_eight_calls_are_delegated(pool: dict[str, Any], router: MoMARouter) -> None:
    llm = MoMALLM(pool, router, preference="cost")
    ask = [ChatMessage("hello")]
    assert llm.complete("hello").text == "hello"
    assert (await llm.acomplete("hello")).text == "hello"
    assert [piece.text for piece in llm.stream_complete("hello")] == ["hello"]
    assert [piece.text async for piece in await llm.astream_complete("hello")] == ["hello"]
    assert llm.chat(ask).message.content == "heard hello"
    assert (await llm.achat(ask)).message.content == "heard hello"
    assert [piece.delta for piece in llm.stream_chat(ask)] == ["heard hello"]
    pieces = [piece async for piece in await llm.astream_chat(ask)]
    assert [author(piece) for piece in pieces] == [CHEAP]
    assert pool[DEAR]._calls == []


async def test_tool_calls_go_to_llms_that_can(pool: dict[str, Any], router: MoMARouter) -> None:
    able = {MIDDLE: pool[MIDDLE], DEAR: pool[DEAR]}
    llm = MoMALLM(able, router, preference="cost")
    assert author(llm.complete("which town?")) == MIDDLE  # cheaper, but calls no tools
    tool = FunctionTool.from_defaults(lambda name: name, name="visit", description="Visit a town")
    asked = {"tools": [tool], "user_msg": "which town?"}
    responses: list[ChatResponse] = [
        llm.chat_with_tools(**asked),
        await llm.achat_with_tools(**asked),
        *llm.stream_chat_with_tools(**asked),
        *[piece async for piece in await llm.astream_chat_with_tools(**asked)],
    ]
    assert [author(response) for response in responses] == [DEAR] * 4
    for response in responses:
        [call] = llm.get_tool_calls_from_response(response)
        assert (call.tool_name, call.tool_kwargs) == ("visit", {"name": "Oslo"})
    assert llm.predict_and_call([tool], user_msg="which town?").response == "Oslo"
    prepared = llm._prepare_chat_with_tools([tool], user_msg="which town?")
    assert author(llm.chat(**prepared)) == DEAR
    with pytest.raises(NoTargetError, match="can call tools"):
        MoMALLM({MIDDLE: MockLLM()}, router).chat_with_tools([tool], user_msg="which town?")


async def test_structured_answers(pool: dict[str, Any], router: MoMARouter) -> None:
    llm = MoMALLM(pool, router, preference="performance")
    prompt = PromptTemplate("Which town is {what}?")
    assert llm.structured_predict(Town, prompt, what="cold").name == "Oslo"
    assert (await llm.astructured_predict(Town, prompt, what="cold")).name == "Oslo"


def test_metadata_is_the_least_of_all(pool: dict[str, Any], router: MoMARouter) -> None:
    metadata = MoMALLM(pool, router).metadata
    assert metadata.context_window == min(llm.metadata.context_window for llm in pool.values())
    assert metadata.num_output == 64
    assert metadata.is_function_calling_model
    assert not metadata.is_chat_model  # MockLLM completes
    assert not MoMALLM({MIDDLE: MockLLM()}, router).metadata.is_function_calling_model
    assert "api_key" not in MoMALLM(pool, router).to_payload()


async def test_the_next_llm_takes_over_before_the_first_token(
    pool: dict[str, Any], router: MoMARouter, events: Recorder
) -> None:
    pool[CHEAP].broken = True
    patient = Health(failures=99)
    llm = MoMALLM({CHEAP: pool[CHEAP], DEAR: pool[DEAR]}, router, preference="cost", health=patient)
    ask = [ChatMessage("hello")]
    tool = FunctionTool.from_defaults(lambda name: name, name="visit", description="Visit a town")
    answers = [
        llm.chat(ask),
        await llm.achat(ask),
        llm.complete("hello"),
        next(llm.stream_chat(ask)),
        await anext(await llm.astream_chat(ask)),
        llm.chat_with_tools([tool], user_msg="hello"),
    ]
    assert [author(response) for response in answers] == [DEAR] * len(answers)
    failures = events.of(MoMALLMFailureEvent)
    assert {(event.llm, event.following) for event in failures} == {(CHEAP, DEAR)}
    assert len(failures) == len(answers)
    pool[DEAR].broken = True
    with pytest.raises(ConnectionError, match="down"):
        llm.chat(ask)
    with pytest.raises(ConnectionError, match="down"):
        await llm.astream_chat(ask)
    careful = MoMALLM(pool, router, preference="cost", fallback_on=(TimeoutError,))
    with pytest.raises(ConnectionError, match="down"):
        careful.chat(ask)


def test_callbacks_and_events_fire_once(
    pool: dict[str, Any], router: MoMARouter, events: Recorder
) -> None:
    counter = TokenCountingHandler(tokenizer=str.split)
    llm = MoMALLM({CHEAP: pool[CHEAP]}, router, callback_manager=CallbackManager([counter]))
    llm.chat([ChatMessage("hello")])
    assert len(counter.llm_token_counts) == 1
    list(llm.stream_chat([ChatMessage("hello")]))
    assert len(counter.llm_token_counts) == 2
    assert len(events.of(LLMChatStartEvent)) == len(events.of(LLMChatEndEvent)) == 2
    first, _ = events.of(MoMARouteEvent)
    assert (first.kind, first.targets, first.query, first.fallback) == (
        "llm",
        [CHEAP],
        "hello",
        False,
    )
    assert first.cost > 0
    assert first.ms > 0
    assert first.span_id
    assert first.span_id.startswith("MoMALLM.chat")


async def test_fifty_at_once_keep_their_answers(pool: dict[str, Any], router: MoMARouter) -> None:
    llm = MoMALLM(pool, router, preference="cost")
    answers = await asyncio.gather(*(llm.achat([ChatMessage(f"hello {i}")]) for i in range(50)))
    assert [a.message.content for a in answers] == [f"heard hello {i}" for i in range(50)]


def test_one_llm_for_all_steps_of_a_tool_loop(pool: dict[str, Any], router: MoMARouter) -> None:
    llm = MoMALLM(pool, router)
    turns = [ChatMessage(HARD), ChatMessage("calling", role="assistant")]
    once = author(llm.chat(turns[:1]))
    assert author(llm.chat([*turns, ChatMessage("42", role="tool")])) == once
    # Images alone have no words to route by; they are answered all the same.
    assert llm.chat([ChatMessage(blocks=[])]) is not None


def test_in_a_query_engine_and_as_the_default(pool: dict[str, Any], router: MoMARouter) -> None:
    llm = MoMALLM(pool, router, preference="cost")
    index = VectorStoreIndex(
        [TextNode(text="Oslo is cold")], embed_model=MockEmbedding(embed_dim=4)
    )
    assert "Oslo is cold" in str(index.as_query_engine(llm=llm).query("which town is cold?"))
    before = Settings._llm
    try:
        Settings.llm = llm
        assert "Oslo is cold" in str(index.as_query_engine().query("which town is cold?"))
    finally:
        Settings._llm = before


def test_a_slip_shows_before_the_first_call(router: MoMARouter) -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'gemini-1\.5-flash'"):
        MoMALLM({"gemini-1.5-flush": MockLLM()}, router)
    with pytest.raises(InvalidInputError, match="no LLM"):
        MoMALLM({}, router)
    with pytest.raises(InvalidPreferenceError):
        MoMALLM({CHEAP: MockLLM()}, router, preference="cheapest")
    with pytest.raises(InvalidCardError, match=r"price of LLM 'gemini-1\.5-flush' is not known"):
        MoMALLM({"gemini-1.5-flush": MockLLM()}, MoMARouter.from_cards(llms=None))
