"""LLMs of one's own in LlamaIndex, known by cards alone, and what their calls cost."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
)
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.llms import CustomLLM, MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.tools import FunctionTool
from llama_index.core.utils import get_tokenizer

from llamaindex_moma import MoMALLM, MoMARouteEvent
from moma_core import AgentCard, InvalidInputError, LLMCard, MoMARouter

CARDS = (
    LLMCard("nano", 0.05, 0.4, quality={"mmlu_pro": 0.68, "math": 0.7}, cached_input_price=0.005),
    LLMCard("full", 1.25, 10.0, quality={"mmlu_pro": 0.87, "math": 0.95}),
)
HARD = "A particle of mass m moves in the potential V(x) = a x^4. Find the WKB energy levels."
OPENAI = {
    "prompt_tokens": 1_000,
    "completion_tokens": 400,
    "prompt_tokens_details": {"cached_tokens": 800},
}
ANTHROPIC = SimpleNamespace(
    input_tokens=200, output_tokens=400, cache_read_input_tokens=800, cache_creation_input_tokens=0
)
ANTHROPIC.model_dump = lambda: {"input_tokens": 200, "output_tokens": 400}
CACHED = (200 * 0.05 + 800 * 0.005 + 400 * 0.4) / 1e6


class Metered(CustomLLM):
    """Reports the usage that it is given, at the end of a stream."""

    usage: Any = None

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=100_000, num_output=100)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text="hello", raw={"usage": self.usage})

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        yield CompletionResponse(text="hel", delta="hel", raw={})
        yield CompletionResponse(text="hello", delta="lo", raw={"usage": self.usage})


def own(usage: Any = None, **options: Any) -> MoMALLM:
    llms = {card.name: Metered(usage=usage) for card in CARDS}
    return MoMALLM(llms, cards=CARDS, **options)


def who(answer: Any) -> str:
    return str(answer.additional_kwargs["moma_llm"])


def test_llms_of_ones_own_route_by_difficulty_in_one_line() -> None:
    llm = own()
    assert [who(llm.complete(text)) for text in ("hello there", HARD)] == ["nano", "full"]
    router = MoMARouter.from_cards([AgentCard("clock", "Tells the time")], llms=None)
    beside = MoMALLM({card.name: MockLLM() for card in CARDS}, router, cards=CARDS)
    assert who(beside.complete("hello there")) == "nano"
    assert router.llms is None
    assert beside.router.agents is router.agents
    with pytest.raises(InvalidInputError, match="second ones"):
        MoMALLM({"nano": MockLLM()}, MoMARouter.from_cards(llms=CARDS), cards=CARDS)


@pytest.mark.parametrize("usage", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize("method", ["complete", "chat", "stream_complete", "stream_chat"])
def test_expected_and_real_cost_are_compared(method: str, usage: Any) -> None:
    llm = own(usage, preference="cost")
    asked = [ChatMessage("hello there")] if "chat" in method else "hello there"

    def cost() -> dict[str, float]:
        answer = getattr(llm, method)(asked)
        if not isinstance(answer, ChatResponse | CompletionResponse):
            *_, answer = answer
        return dict(answer.additional_kwargs["moma_cost"])

    first, *_, last = (cost() for _ in range(30))
    assert first["real"] == last["real"] == pytest.approx(CACHED)
    assert abs(last["expected"] / CACHED - 1) < 0.25 < abs(first["expected"] / CACHED - 1)


class Recorder(BaseEventHandler):
    _kept: list[MoMARouteEvent] = PrivateAttr(default_factory=list)

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        if isinstance(event, MoMARouteEvent):
            self._kept.append(event)


@pytest.fixture
def events() -> Iterator[list[MoMARouteEvent]]:
    recorder, root = Recorder(), get_dispatcher()
    root.add_event_handler(recorder)
    yield recorder._kept
    root.event_handlers.remove(recorder)


def test_all_that_is_sent_is_expected_to_be_paid(events: list[MoMARouteEvent]) -> None:
    def cost(llm: MoMALLM, *sent: Any, **options: Any) -> float:
        getattr(llm, options.pop("method", "chat"))(*sent, **options)
        found = events[-1].decision["cost"]
        assert found is not None
        return float(found)

    llm, question = own(preference="cost"), ChatMessage("hello there")
    alone = cost(llm, [question])
    text = ". ".join([*HARD.split(". "), str(MoMALLM.__doc__)]) * 10
    tokens = len(get_tokenizer()(text))
    after = cost(llm, [ChatMessage(text, role="system"), question])
    assert after - alone == pytest.approx(tokens * 0.05 / 1e6, rel=0.25)

    def clock(place: str) -> str:
        return place

    tool = FunctionTool.from_defaults(clock, description=text)
    able = MoMALLM(
        {card.name: MockFunctionCallingLLM() for card in CARDS}, cards=CARDS, preference="cost"
    )
    with_tool = cost(able, [tool], user_msg="hello there", method="chat_with_tools")
    assert with_tool - alone == pytest.approx(tokens * 0.05 / 1e6, rel=0.25)
