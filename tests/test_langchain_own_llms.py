"""Chat models of one's own known by cards alone, and what their calls cost, through every door."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents.middleware import ModelFallbackMiddleware
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_moma import (
    ChatMoMA,
    MoMAMiddleware,
    agent_cards_from_tools,
    create_moma_agent,
)
from langchain_moma.testing import ScriptedChat
from moma_core import InvalidInputError, LLMCard, MoMARouter, UnknownNameError
from moma_core.errors import InvalidCardError
from moma_core.llms.prices import price_table

EASY = ("hello there", "What is the capital of France?", "Write a short thank-you note.")
HARD = (
    "Prove that every finite integral domain is a field, and that Z[sqrt(-5)] is none of its kind.",
    "Derive the Navier-Stokes energy balance for a compressible fluid with variable viscosity.",
    "A particle of mass m moves in the potential V(x) = a x^4. Find the WKB energy levels.",
)
CARDS = (
    LLMCard("nano", 0.05, 0.4, quality={"mmlu_pro": 0.68, "math": 0.7}, cached_input_price=0.005),
    LLMCard("mini", 0.25, 2.0, quality={"mmlu_pro": 0.78, "math": 0.85}),
    LLMCard("full", 1.25, 10.0, quality={"mmlu_pro": 0.87, "math": 0.95}),
)


def chats(**options: Any) -> dict[str, ScriptedChat]:
    return {card.name: ScriptedChat(name=card.name, **options) for card in CARDS}


class Metered(ScriptedChat):
    """Reports the usage that it is given."""

    read: int = 1_000
    written: int = 1_000
    cached: int = 0

    def _answer(self, messages: list[Any], options: dict[str, Any]) -> AIMessage:
        usage = {
            "input_tokens": self.read,
            "output_tokens": self.written,
            "total_tokens": self.read + self.written,
            "input_token_details": {"cache_read": self.cached},
        }
        return super()._answer(messages, options).model_copy(update={"usage_metadata": usage})


def who(answer: AIMessage) -> str:
    return str(answer.response_metadata["moma_llm"])


def cost(answer: AIMessage) -> dict[str, float]:
    found: dict[str, float] = answer.response_metadata["moma_cost"]
    return found


def test_three_llms_of_ones_own_route_by_difficulty_in_one_line() -> None:
    chat = ChatMoMA(llms=chats(), cards=CARDS)
    easy, hard = ([who(chat.invoke(text)) for text in texts] for texts in (EASY, HARD))
    assert easy == ["nano"] * 3
    assert sum(name != "nano" for name in hard) >= 2
    assert who(chat.invoke(EASY[0], {"configurable": {"moma_preference": "performance"}})) == "full"


def test_a_router_with_agents_alone_keeps_to_them() -> None:
    def clock() -> str:
        """Tell the time."""
        return "noon"

    router = MoMARouter.from_cards(agent_cards_from_tools([clock]), llms=None)
    chat = ChatMoMA(router=router, llms=chats(), cards=CARDS)
    assert who(chat.invoke(EASY[0])) == "nano"
    assert router.llms is None
    assert chat.router.agents is router.agents
    agent = create_moma_agent(chats(), [clock], router=router, cards=CARDS)
    end = agent.invoke({"messages": "tell the time"})
    assert end["moma_turn"]["tools"] == ["clock"]
    assert who(end["messages"][-1]) in chats()
    assert cost(end["messages"][1])["expected"] > 0
    with pytest.raises(InvalidInputError, match="chat models by name"):
        MoMAMiddleware(router, llms={})


@pytest.fixture
def litellm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    package = tmp_path / "litellm"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('never imported')", encoding="utf-8")
    listed = {
        "gpt-x": {"input_cost_per_token": 1e-5, "output_cost_per_token": 3e-5},
        "gpt-y": {
            "input_cost_per_token": 1e-7,
            "output_cost_per_token": 4e-7,
            "cache_read_input_token_cost": 1e-8,
            "max_input_tokens": 4_000,
        },
    }
    file = package / "model_prices_and_context_window_backup.json"
    file.write_text(json.dumps(listed), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    price_table.cache_clear()
    yield
    price_table.cache_clear()


class Named(ScriptedChat):
    model_name: str


def test_prices_and_windows_come_from_litellms_table(litellm: None) -> None:
    llms = {"big": Named(model_name="gpt-x"), "gpt-y": ScriptedChat(), "own": ScriptedChat()}
    chat = ChatMoMA(llms=llms, cards=[LLMCard("own", 0.0, 0.0)], preference="cost")
    pool = chat.router.llms
    assert pool is not None
    big, listed = pool.card("big"), pool.card("gpt-y")
    assert (big.input_price, big.output_price) == (10.0, 30.0)
    assert (listed.cached_input_price, listed.context_window) == (0.01, 4_000)
    assert who(chat.invoke("hello", {"configurable": {"moma_exclude": "own"}})) == "gpt-y"
    assert who(chat.invoke("word " * 5_000, {"configurable": {"moma_exclude": "own"}})) == "big"


def test_what_is_not_known_of_an_llm_is_asked_for() -> None:
    with pytest.raises(InvalidCardError, match=r"price of LLM 'mini'.*LLMCard\('mini'"):
        ChatMoMA(llms=chats(), cards=CARDS[:1])
    with pytest.raises(UnknownNameError, match="card of LLM 'full', but no such LLM"):
        ChatMoMA(llms={"nano": ScriptedChat(), "mini": ScriptedChat()}, cards=CARDS)
    with pytest.raises(InvalidInputError, match="second ones"):
        ChatMoMA(router=MoMARouter.from_cards(llms=CARDS), llms=chats(), cards=CARDS)
    with pytest.raises(InvalidInputError, match="chat models by name"):
        ChatMoMA(cards=CARDS)
    packaged = ChatMoMA(llms={"gpt-4o-mini-2024-07-18": ScriptedChat()})
    assert len(packaged.router.llms.names) == 9  # type: ignore[union-attr]


def answered(chat: ChatMoMA, way: str) -> AIMessage:
    if way == "invoke":
        return chat.invoke(EASY[0])
    if way == "ainvoke":
        return asyncio.run(chat.ainvoke(EASY[0]))

    async def astream() -> list[AIMessageChunk]:
        return [chunk async for chunk in chat.astream(EASY[0])]

    chunks = list(chat.stream(EASY[0])) if way == "stream" else asyncio.run(astream())
    whole: AIMessage = sum(chunks[1:], chunks[0])
    return whole


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
def test_expected_and_real_cost_are_compared_and_the_next_is_expected_better(way: str) -> None:
    llms = {card.name: Metered(name=card.name, read=20, written=600) for card in CARDS}
    chat = ChatMoMA(llms=llms, cards=CARDS, preference="cost")
    first, *_, last = (cost(answered(chat, way)) for _ in range(40))
    assert first["real"] == last["real"] == pytest.approx((20 * 0.05 + 600 * 0.4) / 1e6)
    assert first["expected"] < first["real"] / 2
    assert last["expected"] == pytest.approx(last["real"], rel=0.25)


def test_what_the_provider_cached_is_paid_less_and_what_we_cached_not_at_all() -> None:
    llms = {card.name: Metered(name=card.name, cached=800, written=100) for card in CARDS}
    chat = ChatMoMA(llms=llms, cards=CARDS, preference="cost")
    real = cost(chat.invoke(EASY[0]))["real"]
    assert real == pytest.approx((200 * 0.05 + 800 * 0.005 + 100 * 0.4) / 1e6)
    cache = InMemoryCache()
    kept = {name: llm.model_copy(update={"cache": cache}) for name, llm in llms.items()}
    chat = ChatMoMA(llms=kept, cards=CARDS, preference="cost")
    assert cost(chat.invoke(EASY[0]))["real"] > 0
    seen = chat.router.llms.usage.to_dict()  # type: ignore[union-attr]
    again = chat.invoke(EASY[0])
    assert "moma_cost" not in again.response_metadata
    assert chat.router.llms.usage.to_dict() == seen  # type: ignore[union-attr]


def test_an_llm_asked_in_anothers_place_is_measured_by_its_own_expectation() -> None:
    llms = chats()
    llms["nano"].failures = 99
    chat = ChatMoMA(llms=llms, cards=CARDS, preference="cost")
    told = cost(chat.invoke(EASY[0]))
    assert list(chat.router.llms.usage.to_dict()) == ["mini"]  # type: ignore[union-attr]
    alone = ChatMoMA(llms=chats(), cards=CARDS, preference="cost")
    mini = cost(alone.invoke(EASY[0], model="mini"))
    assert told["expected"] == pytest.approx(mini["expected"])


def test_an_inner_fallback_teaches_nothing() -> None:
    router = MoMARouter.from_cards(llms=CARDS)
    inner = ModelFallbackMiddleware(ScriptedChat(name="other"))
    broken = {name: ScriptedChat(name=name, failures=99) for name in chats()}
    agent = create_moma_agent(broken, [], router=router, middleware=[inner])
    said = agent.invoke({"messages": EASY[0]})["messages"][-1]
    assert said.text == "other heard: hello there"
    assert router.llms is not None
    assert not router.llms.usage.to_dict()
    assert "moma_cost" not in said.response_metadata
