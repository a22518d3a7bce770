"""Forty turns with the packaged encoder: topics, follow-ups, events, a failing agent, LLM turns."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from moma_core import (
    AgentCard,
    MoMARouter,
    NoTargetError,
    Query,
    RoutingDecision,
    State,
    StateMachine,
)
from moma_core.health import Health

SCRIPT = tomllib.loads((Path(__file__).parent / "conversation.toml").read_text())
CARDS = [AgentCard(**agent) for agent in SCRIPT["agents"]]
TURNS = SCRIPT["turns"]
STATES = """
[[states]]
name = "TRAVEL"
keywords = ["flight", "flights", "hotel"]
categories = ["travel"]

[[states]]
name = "FILE_UPLOADED"
events = ["file_uploaded"]
priority = 10
sticky = 5
leave = ["^agent_finished:expense_reporter"]
agents = ["document_reader"]

[[states]]
name = "MONEY_BACK"
keywords = ["expense", "expenses", "reimburse"]
agents = ["expense_reporter", "document_reader"]

[[states]]
name = "RECEIPT"
all_of = ["FILE_UPLOADED", "MONEY_BACK"]
agents = ["expense_reporter"]

[[states]]
name = "COOKING"
prompt = "cooking a meal at home, recipes and ingredients"
threshold = 0.45
categories = ["food"]
"""


class Clock:
    """Seconds that a test moves."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def router(minilm):
    return MoMARouter.from_cards(CARDS, states=STATES, encoder=minilm)


def converse(router, turns, *, keep=lambda decision: decision.state):
    """Play the turns as an adapter would, and return the decisions."""
    clock = Clock()
    router.agent_router.health = Health(failures=3, cooldown=30, clock=clock)
    state, decisions = None, []
    for turn in turns:
        clock.now += turn.get("after", 2)
        decision = router.route(Query(turn["user"], events=turn.get("events", ())), state=state)
        if turn.get("fails"):
            router.health.report_failure(decision.target)
        else:
            router.health.report_success(decision.target)
        state = keep(decision)
        decisions.append(decision)
    return decisions


def taken(decision):
    return decision.target if decision.kind == "agent" else "llm"


def test_forty_turns(router):
    assert len(TURNS) == 40
    decisions = converse(router, TURNS)
    wrong = [
        (i, turn, decision.target, decision.reason, decision.trace)
        for i, (turn, decision) in enumerate(zip(TURNS, decisions, strict=True))
        if taken(decision) != turn["taken_by"]
    ]
    assert wrong == []


def test_a_state_survives_json(router):
    def keep(decision):
        return RoutingDecision.from_dict(decision.to_dict()).state

    expected = converse(router, TURNS)
    found = converse(router, TURNS, keep=keep)
    assert [d.targets for d in found] == [d.targets for d in expected]
    assert [d.state for d in found] == [d.state for d in expected]


def test_what_the_trace_says(router):
    decisions = converse(router, TURNS)
    details = [{step.name: step.detail for step in decision.trace} for decision in decisions]
    assert (
        "(follow-up, read as 'will it rain in Bergen today? and in Oslo?')" in details[2]["state"]
    )
    assert details[7]["state"] == "none (changed mind)"
    assert details[12]["state"].startswith("TRAVEL (follow-up")
    assert details[12]["eligible"] == "2 of 12 agents (10 outside the state)"
    assert details[22]["state"] == "RECEIPT + FILE_UPLOADED + MONEY_BACK"
    assert details[22]["eligible"] == "1 of 12 agents (11 outside the state)"
    assert details[28]["eligible"] == "11 of 12 agents (1 unhealthy)"
    assert details[35]["eligible"] == "12 of 12 agents"


def test_history_serves_where_no_state_was_kept(router):
    history = ("will it rain in Bergen today?", "and in Oslo?")
    query = Query("what about Sunday?", history=history)
    decision = router.route(query)
    assert decision.target == "weather"
    assert decision.state.topic == "will it rain in Bergen today?"
    assert router.route(Query("what about Sunday?")).state.topic == "what about Sunday?"


def test_a_batch_reads_turns_as_single_routes_do(router):
    queries = [
        Query("and in Oslo?", history=("will it rain in Bergen today?",)),
        Query("will it rain in Bergen today?"),
        Query("never mind, what's 2+2"),
        Query("find me a flight to Lisbon"),
        Query("and who painted it?", history=("tell me about the Mona Lisa",)),
        Query("sum it up", events=("file_uploaded:pdf",)),
    ]
    singles = [router.route(query) for query in queries]
    batch = router.route_batch(queries)
    assert [d.targets for d in batch] == [d.targets for d in singles]
    assert [d.probability for d in batch] == pytest.approx(
        [d.probability for d in singles], abs=1e-3
    )


def test_disabled_and_excluded_agents_are_counted_once(router):
    router.agents.disable("weather")
    try:
        decision = router.route("will it rain?", exclude=("weather", "calendar"))
        [detail] = [step.detail for step in decision.trace if step.name == "eligible"]
        assert detail == "10 of 12 agents (1 disabled, 1 excluded)"
        assert decision.target != "weather"
    finally:
        router.agents.enable("weather")


def test_nobody_left_in_a_state_says_why(router):
    decision = router.route("a flight to Rome", exclude=("flight_search", "hotel_search"))
    assert decision.kind == "llm"
    assert "none of 12 agents is enabled and eligible in state TRAVEL" in decision.reason
    assert "2 excluded, 10 outside the state" in decision.reason


class TwoTongues:
    """Maps known words of English and German to shared concepts."""

    fingerprint, dimension = "two-tongues", 8
    WORDS = (
        {"rain", "regnet", "wetter", "weather", "forecast"},
        {"translate", "übersetze", "heißt", "say"},
        {"table", "tisch", "restaurant", "dinner", "abendessen"},
        {"tomorrow", "morgen"},
        {"poem", "gedicht", "autumn", "herbst"},
    )

    def encode(self, texts):
        rows = np.full((len(texts), self.dimension), 0.01, dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                for i, concept in enumerate(self.WORDS):
                    row[i] += word in concept
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_another_language_by_another_encoder():
    cards = (
        AgentCard("weather", "weather forecast", examples=("will it rain", "rain tomorrow")),
        AgentCard("translator", "translate words", examples=("translate this", "say hello")),
        AgentCard("booker", "table in a restaurant", examples=("dinner", "a table tomorrow")),
    )
    encoder = TwoTongues()
    machine = StateMachine(
        [State("FOOD", prompt="dinner in a restaurant", agents=("booker",))],
        encoder,
        follow_ups=("und", "was ist mit"),
        cancel=("vergiss es",),
    )
    router = MoMARouter.from_cards(
        cards, encoder=encoder, states=machine, llms=None, negatives=("poem", "autumn")
    )
    first = router.route("regnet es in Bonn?")
    assert first.target == "weather"
    follow_up = router.route("und in Köln?", state=first.state)
    assert (follow_up.target, follow_up.state.topic) == ("weather", "regnet es in Bonn?")
    assert router.route("übersetze das").target == "translator"
    booked = router.route("einen Tisch, bitte", state=follow_up.state)
    assert (booked.target, booked.state.active) == ("booker", ("FOOD",))
    left = router.route("vergiss es, regnet es?", state=booked.state)
    assert (left.target, left.state.active) == ("weather", ())
    with pytest.raises(NoTargetError):
        router.route("ein Gedicht")
