"""Agent routing from outside: Handled or Deferred, and never the wrong name."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moma_core import AgentCard, Query, RoutingState, State, StateMachine
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.conversation import EncodedTurns
from moma_core.agents.router import AgentRouter, Choice, eligible_agents
from moma_core.decision import Deferred, Handled, Trace
from moma_core.errors import ScoreError
from moma_core.registry.memory import MemoryRegistry
from moma_core.testing import HashEncoder

ENCODER = HashEncoder()
START = RoutingState()
STATES = StateMachine(
    [
        State("OUTSIDE", keywords=("outside",), categories=("outside",), sticky=1),
        State("NOBODY", keywords=("nobody",), agents=("not registered",)),
    ]
)


def router_of(cards, states=None):
    catalog = AgentCatalog(ENCODER, MemoryRegistry())
    catalog.add(*cards)
    return AgentRouter(catalog, states)


def route(router, text, state=START, exclude=()):
    query = Query(text)
    turns = router.states.encode([query], ENCODER, state)
    return router.route(query, turns, state, Choice(exclude))


def batch_of(router, texts, exclude=()):
    queries = [Query(text) for text in texts]
    return router.route_batch(queries, router.states.encode(queries, ENCODER), Choice(exclude))


@pytest.fixture
def router(word_cards):
    return router_of(word_cards, STATES)


def test_its_own_examples_are_handled(router, word_cards):
    for card in word_cards:
        outcome, _ = route(router, card.examples[0])
        assert isinstance(outcome, Handled)
        assert outcome.agents == (card.name,)
        assert outcome.candidates[0].name == card.name
        assert outcome.probability > 0.3


def test_candidates_are_sorted_shares_of_one(router):
    outcome, _ = route(router, "rain wind french")
    shares = [candidate.score for candidate in outcome.candidates]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert {c.name for c in outcome.candidates} == set(router.catalog.names)


def test_at_most_ten_candidates():
    router = router_of([AgentCard(f"agent{i}", f"does thing {i}") for i in range(15)])
    outcome, _ = route(router, "thing 3")
    assert len(outcome.candidates) == 10
    assert sum(c.score for c in outcome.candidates) < 1


def test_foreign_queries_are_deferred_with_words(router):
    outcome, _ = route(router, "zebra okapi")
    assert isinstance(outcome, Deferred)
    assert "no agent fits" in outcome.reason
    assert outcome.candidates


def test_disabled_agents_are_never_chosen(router, word_cards):
    for card in word_cards:
        router.catalog.disable(card.name)
        outcome, _ = route(router, card.examples[0])
        assert card.name not in [c.name for c in outcome.candidates]
        router.catalog.enable(card.name)
        assert route(router, card.examples[0])[0].agents == (card.name,)


def test_disabling_refits_nothing(router):
    before = router.trained
    router.catalog.disable("weather")
    assert router.trained is before


def test_removed_agents_are_gone_and_new_ones_there_at_once(router):
    route(router, "rain snow wind")
    router.catalog.remove("weather")
    outcome, _ = route(router, "rain snow wind")
    assert "weather" not in [c.name for c in outcome.candidates]
    router.catalog.add(AgentCard("zoo", "zebra okapi", examples=("feed the zebra",)))
    assert route(router, "feed the zebra")[0].agents == ("zoo",)


@pytest.mark.parametrize(
    ("text", "exclude", "says"),
    [
        ("rain snow wind", ("weather", "translator", "calculator"), "none of 3 agents"),
        ("rain nobody", (), "in state NOBODY"),
    ],
)
def test_nobody_eligible(router, text, exclude, says):
    outcome, _ = route(router, text, exclude=exclude)
    assert isinstance(outcome, Deferred)
    assert says in outcome.reason
    assert outcome.candidates == ()
    (batch,) = batch_of(router, [text], exclude)
    assert batch == outcome


def test_no_agents_at_all():
    router = router_of([])
    assert route(router, "rain") == (Deferred("no agents are registered"), START)
    assert batch_of(router, ["rain"]) == [Deferred("no agents are registered")]
    assert batch_of(router, []) == []


def test_states_restrict_stay_and_leave(router):
    outcome, state = route(router, "sum times root outside")
    assert state.active == ("OUTSIDE",)
    assert [c.name for c in outcome.candidates] == ["weather"]
    outcome, state = route(router, "sum times root", state)
    assert [c.name for c in outcome.candidates] == ["weather"]
    outcome, state = route(router, "sum times root", state)
    assert state.active == ()
    assert outcome.agents == ("calculator",)


def test_steps_say_what_happened(router):
    trace = Trace()
    text = "rain snow wind"
    router.route(Query(text), router.states.encode([Query(text)], ENCODER), START, trace=trace)
    names = [step.name for step in trace.done()]
    assert names == ["categories", "state", "eligible", "rank", "gate"]
    assert all(step.ms >= 0 and step.detail for step in trace.done())
    assert "3 of 3" in trace.done()[2].detail


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite(router, bad):
    vectors = np.full((1, 64), bad, np.float32)
    query = Query("will it rain")
    turns = EncodedTurns([router.states.read(query, START)], vectors, vectors[:0])
    with np.errstate(all="ignore"), pytest.raises(ScoreError, match="not finite"):
        router.route(query, turns, START)


words = ["rain", "snow", "french", "german", "sum", "root", "outside", "nobody", "zebra", "?"]
queries = st.lists(st.sampled_from(words), min_size=1, max_size=5).map(" ".join)
names = st.sampled_from(["weather", "translator", "calculator"])


@settings(max_examples=60)
@given(
    st.lists(queries, min_size=1, max_size=4),
    st.sets(names),
    st.sets(names | st.just("not registered")),
)
def test_an_outcome_never_names_who_may_not_answer(router, texts, disabled, excluded):
    catalog = router.catalog
    catalog.enable(*catalog.names)
    catalog.disable(*disabled)
    batch = batch_of(router, texts, excluded)
    for text, together in zip(texts, batch, strict=True):
        alone, state = route(router, text, exclude=excluded)
        allowed = set(catalog.names) - disabled - excluded
        if "OUTSIDE" in state.active:
            allowed &= {"weather"}
        elif state.active == ("NOBODY",):
            allowed = set()
        for outcome in (alone, together):
            assert {c.name for c in outcome.candidates} == allowed
            if isinstance(outcome, Handled):
                assert set(outcome.agents) <= allowed
                assert outcome.probability >= router.trained.gate.threshold
        assert type(alone) is type(together)
        assert together.probability == pytest.approx(alone.probability, abs=1e-4)


def test_nobody_takes_the_place_of_who_is_absent(router, word_cards):
    for card in word_cards:
        router.catalog.disable(card.name)
        outcome, _ = route(router, card.examples[0])
        assert isinstance(outcome, Deferred)
        router.catalog.enable(card.name)
    outcome, _ = route(router, "rain snow wind", exclude=("weather",))
    assert outcome.reason == "'weather', which fits as well as any agent, is excluded"
    assert batch_of(router, ["rain snow wind"], ("weather",))[0].reason == outcome.reason


def test_a_substitute_where_the_user_allows_it(router):
    query = Query("rain snow wind sum")
    turns = router.states.encode([query], ENCODER)
    choice = Choice(("weather",), substitutes=True)
    first, _ = router.route(query, turns, START, choice)
    assert first.candidates[0].name == "calculator"
    router.substitutes = True
    assert router.route(query, turns, START, Choice(("weather",)))[0] == first


def test_a_state_or_a_list_leaves_nobody_absent(router):
    allowed = eligible_agents(
        router.catalog.snapshot, router.states, RoutingState(("OUTSIDE",)), (), ("weather",)
    )
    assert set(allowed.absent.values()) == {"excluded"}
    snapshot = router.catalog.snapshot
    only = eligible_agents(snapshot, router.states, START, ("calculator",), (), ("weather",))
    assert only.absent == {}
