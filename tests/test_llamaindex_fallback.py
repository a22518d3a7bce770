"""MoMALLM when LLMs fail: whom it asks next, what it raises, what feedback is credited with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
)
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import CustomLLM, MockLLM
from llama_index.core.schema import TextNode
from llama_index.core.tools import FunctionTool

from llamaindex_moma import MoMALLM, MoMARouteEvent
from moma_core import InvalidInputError, Learning, MoMARouter, NoTargetError, RoutingDecision
from moma_core.errors import InvalidPreferenceError
from moma_core.health import Health
from moma_core.llms.feedback import FeedbackLog

CHEAP, MIDDLE, DEAR = "gpt-4o-mini-2024-07-18", "gemini-1.5-flash", "claude-3-5-sonnet-20241022"
ASK = [ChatMessage("hello")]


class RefusedError(Exception):
    """What a provider's SDK raises, with a status."""

    def __init__(self, status: int, words: str = "") -> None:
        super().__init__(words or f"status {status}")
        self.status_code = status


class Provider(CustomLLM):
    """An LLM with a name and a window, which fails as it is told."""

    name: str = "llm"
    window: int = 8_000
    pieces: tuple[str, ...] = ("he", "llo")
    _error: BaseException | None = PrivateAttr(default=None)
    _asked: int = PrivateAttr(default=0)
    _breaks_after: int | None = PrivateAttr(default=None)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=self.window, num_output=100, model_name=self.name)

    def _ask(self) -> None:
        self._asked += 1
        if self._error is not None:
            raise self._error

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self._ask()
        return CompletionResponse(text="".join(self.pieces))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        self._ask()

        def pieces() -> Any:
            text = ""
            for i, piece in enumerate(self.pieces):
                if i == self._breaks_after:
                    raise ConnectionError("cut off")
                text += piece
                yield CompletionResponse(text=text, delta=piece)

        return pieces()


class Heard(BaseEventHandler):
    """Keeps the decisions."""

    routes: list[Any] = []  # noqa: RUF012 - pydantic copies it

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, MoMARouteEvent):
            self.routes.append(event)


@pytest.fixture(scope="module")
def router() -> MoMARouter:
    return MoMARouter.from_cards()


@pytest.fixture
def llms() -> dict[str, Provider]:
    return {name: Provider(name=name) for name in (CHEAP, MIDDLE, DEAR)}


@pytest.fixture
def heard() -> Any:
    handler, root = Heard(), get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


def author(response: Any) -> str:
    return str(response.additional_kwargs["moma_llm"])


async def every_way(llm: MoMALLM, **options: Any) -> list[str]:
    """Ask in each of the eight ways and return who answered."""
    found: list[Any] = [
        llm.complete("hello", **options),
        llm.chat(ASK, **options),
        await llm.acomplete("hello", **options),
        await llm.achat(ASK, **options),
        list(llm.stream_complete("hello", **options))[-1],
        list(llm.stream_chat(ASK, **options))[-1],
        [piece async for piece in await llm.astream_complete("hello", **options)][-1],
        [piece async for piece in await llm.astream_chat(ASK, **options)][-1],
    ]
    return [author(response) for response in found]


@pytest.mark.parametrize(
    "error", [RefusedError(400, "no such role"), RefusedError(400, "content_policy")]
)
async def test_what_the_caller_did_wrong_is_raised_at_once(
    llms: dict[str, Provider], router: MoMARouter, error: RefusedError
) -> None:
    for llm in llms.values():
        llm._error = error
    chat = MoMALLM(llms, router, preference="cost")
    for _ in range(4):
        with pytest.raises(RefusedError, match=str(error)):
            chat.chat(ASK)
        with pytest.raises(RefusedError):
            await chat.astream_chat(ASK)
    assert sum(llm._asked for llm in llms.values()) == llms[CHEAP]._asked == 8
    assert not chat.health.is_open(CHEAP)


@pytest.mark.parametrize(
    "error", [TimeoutError("slow"), RefusedError(529), RefusedError(503), RefusedError(429)]
)
async def test_what_the_provider_did_wrong_goes_to_the_next(
    llms: dict[str, Provider], router: MoMARouter, error: Exception
) -> None:
    llms[CHEAP]._error = error
    chat = MoMALLM(llms, router, preference="cost", health=Health(failures=99))
    assert await every_way(chat) == [MIDDLE] * 8
    assert llms[CHEAP]._asked == 8


async def test_one_that_keeps_failing_is_left_alone_everywhere(
    llms: dict[str, Provider], router: MoMARouter
) -> None:
    llms[CHEAP]._error = TimeoutError("slow")
    shared = Health()
    chat = MoMALLM(llms, router, preference="cost", health=shared)
    assert await every_way(chat) == [MIDDLE] * 8
    assert llms[CHEAP]._asked == 3
    assert shared.is_open(CHEAP)
    other = MoMALLM({CHEAP: llms[CHEAP], DEAR: llms[DEAR]}, router, health=shared)
    assert author(other.chat(ASK, preference="cost")) == DEAR
    assert llms[CHEAP]._asked == 3
    # All circuits open: one honest try.
    alone = MoMALLM({CHEAP: llms[CHEAP]}, router, health=shared)
    llms[CHEAP]._error = None
    assert author(alone.chat(ASK)) == CHEAP
    assert author(chat.chat(ASK)) == CHEAP


def test_the_first_error_is_raised_with_notes_on_the_others(
    llms: dict[str, Provider], router: MoMARouter
) -> None:
    for name, llm in llms.items():
        llm._error = ConnectionError(f"{name} is down")
    with pytest.raises(ConnectionError, match=f"{CHEAP} is down") as caught:
        MoMALLM(llms, router, preference="cost").chat(ASK)
    assert any(DEAR in note for note in caught.value.__notes__)


async def test_a_stream_without_words_is_no_commitment(
    llms: dict[str, Provider], router: MoMARouter
) -> None:
    chat = MoMALLM(llms, router, preference="cost", health=Health(failures=99))
    llms[CHEAP].pieces = ()
    assert [piece.delta for piece in chat.stream_complete("hello")] == ["he", "llo"]
    assert [piece.delta async for piece in await chat.astream_chat(ASK)] == ["he", "llo"]
    llms[CHEAP].pieces, llms[CHEAP]._breaks_after = ("", "never"), 1
    pieces = list(chat.stream_chat(ASK))
    assert [piece.delta for piece in pieces] == ["he", "llo"]
    assert {author(piece) for piece in pieces} == {MIDDLE}
    # After the first words, a failure is the caller's.
    llms[CHEAP].pieces = ("so ", "far")
    stream = chat.stream_complete("hello")
    assert next(stream).delta == "so "
    with pytest.raises(ConnectionError, match="cut off"):
        next(stream)


async def test_windows_are_respected(llms: dict[str, Provider], router: MoMARouter) -> None:
    llms[CHEAP].window, llms[MIDDLE].window, llms[DEAR].window = 1_000, 4_000, 200_000
    chat = MoMALLM(llms, router, preference="cost")
    assert author(chat.complete("word " * 100)) == CHEAP
    assert author(chat.complete("word " * 2_000)) == MIDDLE
    assert author(chat.chat([ChatMessage("word " * 20_000), *ASK])) == DEAR
    # 950 tokens fit a window of 1000, but no answer of 100 does.
    assert author(await chat.acomplete("word " * 950)) == MIDDLE
    # What fits nowhere goes to the widest; its own error tells the caller.
    assert author(chat.complete("word " * 250_000)) == DEAR
    # An overflow that was not foreseen goes to wider ones only.
    llms[MIDDLE]._error = RefusedError(400, "maximum context length is 4000 tokens")
    llms[DEAR].window = 4_000
    with pytest.raises(RefusedError, match="maximum context"):
        chat.complete("word " * 2_000)
    llms[DEAR].window = 5_000
    assert author(chat.complete("word " * 2_000)) == DEAR
    assert not chat.health.is_open(MIDDLE)


def test_fallback_on_is_the_callers_word(llms: dict[str, Provider], router: MoMARouter) -> None:
    llms[CHEAP]._error = RefusedError(400, "flaky gateway")
    eager = MoMALLM(
        llms, router, preference="cost", fallback_on=lambda error: "flaky" in str(error)
    )
    assert author(eager.chat(ASK)) == MIDDLE
    careful = MoMALLM(llms, router, preference="cost", fallback_on=(TimeoutError,))
    with pytest.raises(RefusedError):
        careful.chat(ASK)
    with pytest.raises(InvalidInputError, match="fallback_on"):
        MoMALLM(llms, router, fallback_on="TimeoutError")  # type: ignore[arg-type]


async def test_exclude_names_and_a_text_is_one(
    llms: dict[str, Provider], router: MoMARouter
) -> None:
    chat = MoMALLM(llms, router, preference="cost")
    assert await every_way(chat, exclude=CHEAP) == [MIDDLE] * 8
    assert author(chat.chat(ASK, exclude=[CHEAP, MIDDLE])) == DEAR
    assert author(chat.chat(ASK, exclude=f"{CHEAP}-8b")) == CHEAP
    with pytest.raises(NoTargetError):
        chat.chat(ASK, exclude=list(llms))
    llms[MIDDLE]._error = TimeoutError("slow")
    llms[DEAR]._error = TimeoutError("slower")
    with pytest.raises(TimeoutError):
        chat.chat(ASK, exclude=CHEAP)
    assert llms[CHEAP]._asked == 1


def test_max_latency_is_checked_and_kept(llms: dict[str, Provider], router: MoMARouter) -> None:
    with pytest.raises(InvalidPreferenceError, match="max_latency"):
        MoMALLM(llms, router, max_latency=0)
    chat = MoMALLM(llms, router, preference="cost", max_latency=9.0)
    assert author(chat.chat(ASK)) == CHEAP
    with pytest.raises(InvalidPreferenceError, match="max_latency"):
        chat.chat(ASK, max_latency=-1)


def test_what_is_no_llm_by_name_is_a_typed_error(router: MoMARouter) -> None:
    with pytest.raises(InvalidInputError, match="by name, got list"):
        MoMALLM([MockLLM()], router)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="given as str"):
        MoMALLM({CHEAP: "gpt-4o"}, router)  # type: ignore[dict-item]


def words(handler: TokenCountingHandler) -> int:
    return len(handler.llm_token_counts)


async def test_callbacks_of_the_callers_llms_stay_and_each_handler_hears_once(
    router: MoMARouter,
) -> None:
    own, hub, both = (TokenCountingHandler(tokenizer=str.split) for _ in range(3))
    inner = CallbackManager([own, both])
    outer = CallbackManager([hub, both, LlamaDebugHandler(print_trace_on_end=False)])
    llm = Provider(callback_manager=inner)
    chat = MoMALLM({CHEAP: llm}, router, callback_manager=outer)
    await every_way(chat)
    assert words(hub) == 8
    assert {count.completion_token_count for count in hub.llm_token_counts} == {1, 2}
    assert words(both) == words(own) > 0  # through its own LLM alone, not twice
    assert llm.callback_manager is inner
    assert inner.handlers == [own, both]
    # A query engine sets MoMALLM's callbacks, and the caller's LLM still keeps its own.
    index = VectorStoreIndex([TextNode(text="x")], embed_model=MockEmbedding(embed_dim=4))
    index.as_query_engine(llm=chat).query("hello")
    assert llm.callback_manager is inner
    # A failure is an event as well.
    llm._error = TimeoutError("slow")
    with pytest.raises(TimeoutError):
        MoMALLM({CHEAP: llm}, router, callback_manager=CallbackManager([hub])).chat(ASK)


@pytest.fixture
def learning(router: MoMARouter, tmp_path: Path) -> Any:
    log = tmp_path / "feedback.jsonl"
    router.learn(Learning(log=log))
    yield log
    router.learn(None)


async def test_feedback_has_what_it_needs(
    llms: dict[str, Provider], router: MoMARouter, learning: Path, heard: Heard
) -> None:
    chat = MoMALLM(llms, router, preference="cost")
    stream = list(chat.stream_chat(ASK))
    pieces = [piece async for piece in await chat.astream_complete("hello")]
    answers = [chat.complete("hello"), chat.chat(ASK), await chat.achat(ASK), stream[0], pieces[-1]]
    assert all(chat.feedback(answer, 0.9) for answer in answers)
    assert not chat.feedback(answers[0], 0.9)  # twice counts once
    # Inside a query engine only words come back: the event carries the decision.
    index = VectorStoreIndex([TextNode(text="x")], embed_model=MockEmbedding(embed_dim=4))
    index.as_query_engine(llm=chat).query("hello, what is x?")
    assert chat.feedback(heard.routes[-1], 0.5)
    records = FeedbackLog.read(learning)
    assert [record.reward for record in records] == [0.9] * 5 + [0.5]
    assert {record.chosen for record in records} == {CHEAP}
    decision = RoutingDecision.from_dict(heard.routes[-1].decision)
    assert not chat.feedback(decision, 0.5)
    with pytest.raises(InvalidInputError, match="no decision in this CompletionResponse"):
        chat.feedback(CompletionResponse(text="not ours"), 1.0)


def test_without_learning_answers_stay_lean(llms: dict[str, Provider], router: MoMARouter) -> None:
    chat = MoMALLM(llms, router)
    response = chat.chat(ASK)
    assert list(response.additional_kwargs) == ["moma_llm"]
    with pytest.raises(InvalidInputError, match=r"llm\.router\.learn"):
        chat.feedback(response, 1.0)


def test_feedback_is_credited_to_the_llm_that_answered(
    llms: dict[str, Provider], router: MoMARouter, learning: Path
) -> None:
    llms[CHEAP]._error = TimeoutError("slow")
    chat = MoMALLM(llms, router, preference="cost")
    response = chat.chat(ASK)
    assert author(response) == MIDDLE
    assert chat.feedback(response, 1.0)
    [record] = FeedbackLog.read(learning)
    assert record.chosen == MIDDLE
    assert CHEAP not in {candidate.name for candidate in record.candidates}


def test_feedback_through_a_tool_call(router: MoMARouter, learning: Path) -> None:
    from llama_index.core.llms.mock import MockFunctionCallingLLM

    def answer(messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
        return ChatMessage("done", role="assistant")

    chat = MoMALLM({CHEAP: MockFunctionCallingLLM(response_generator=answer)}, router)
    tool = FunctionTool.from_defaults(lambda name: name, name="visit", description="Visit a town")
    response: ChatResponse = chat.chat_with_tools([tool], user_msg="which town?")
    assert chat.feedback(response, 1.0)
    prepared = chat._prepare_chat_with_tools([tool], user_msg="which town?")
    assert chat.feedback(chat.chat(**prepared), 0.0)
    assert len(FeedbackLog.read(learning)) == 2
