"""An agent that asked something keeps the answer; a request of another kind leaves."""

from dataclasses import replace

import pytest

from moma_core import AgentCard, MoMARouter, RoutingState

CARDS = [
    AgentCard("table", "Reserves tables in restaurants", examples=("a table for two tonight",)),
    AgentCard("returns", "Takes back purchases", examples=("I want to return a lamp",)),
    AgentCard("shop", "Orders goods from the shop", examples=("order a desk lamp",)),
    AgentCard("weather", "Weather forecast for a place", examples=("will it rain in Bath?",)),
]


@pytest.fixture(scope="module")
def router() -> MoMARouter:
    return MoMARouter.from_cards(CARDS)


def after(router: MoMARouter, first: str) -> RoutingState:
    return router.route(first).state


@pytest.mark.parametrize(
    "answer", ["Friday at eight", "four people", "the quieter one please", "yes, do that", "Leeds"]
)
def test_an_answer_stays(router: MoMARouter, answer: str) -> None:
    state = after(router, "I'd like a table somewhere tonight")
    assert state.last_target == "table"
    decision = router.route(answer, state=state)
    assert decision.target == "table"
    assert decision.state.topic == state.topic


def test_an_answer_with_the_words_of_another_agent_stays(router: MoMARouter) -> None:
    state = after(router, "I want to return a chair")
    assert router.route("order 5512", state=state).target == "returns"
    assert router.route("it was scratched", state=state).target == "returns"


@pytest.mark.parametrize(
    ("request_", "target"),
    [
        ("will it snow in York tomorrow?", "weather"),
        ("please order two desk lamps for the office", "shop"),
    ],
)
@pytest.mark.parametrize("waits", [False, True])
def test_a_new_request_leaves(router: MoMARouter, request_: str, target: str, waits: bool) -> None:
    state = after(router, "I'd like a table somewhere tonight")
    state = state.asks("table") if waits else state
    decision = router.route(request_, state=state)
    assert decision.target == target
    assert decision.state.waiting_for is None


def test_who_waits_is_more_patient(router: MoMARouter) -> None:
    state = RoutingState(last_target="table", topic="a table tonight")
    vague = "maybe with the whole family"
    assert router.route(vague, state=state).kind == "llm"
    assert router.route(vague, state=state.asks("table")).target == "table"
    plain = {"waiting_for": "table", "topic": "a table tonight"}
    assert router.route(vague, state=plain).target == "table"


def test_nobody_stays_with_who_is_gone_or_when_the_mind_changed(router: MoMARouter) -> None:
    state = after(router, "I'd like a table somewhere tonight").asks("table")
    assert router.route("never mind", state=state).target != "table"
    assert router.route("four people", state=state, exclude="table").target != "table"
    gone = replace(state, last_target="gone", waiting_for="gone")
    assert router.route("four people", state=gone).kind == "llm"


def test_an_answer_to_an_llm_goes_to_no_agent(router: MoMARouter) -> None:
    state = after(router, "Write a short story about a desk.")
    decision = router.route("order 5512", state=state)
    assert decision.kind == "llm"
    assert "goes on" in decision.reason
