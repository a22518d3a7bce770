"""The gate: a calibrated yes or no."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moma_core import AgentCard, Query
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.gate import Curve, Gate, Negatives, Signals, fit_gate, signals
from moma_core.agents.router import AgentRouter
from moma_core.agents.training import cold_threshold, train
from moma_core.decision import Deferred, Handled
from moma_core.registry.memory import MemoryRegistry
from moma_core.testing import HashEncoder

ENCODER = HashEncoder()
finite = st.floats(-60, 60, width=32)
weights = st.floats(0, 10)
curves = st.builds(Curve, weights, weights, st.floats(-10, 10))
gates = st.builds(Gate, curves, st.none() | curves, st.floats(0.01, 0.99))


def array(values):
    return np.array(values, dtype=np.float32)


@given(gates, st.lists(finite, min_size=1, max_size=6), st.floats(0, 20, width=32))
def test_a_higher_best_logit_never_lowers_the_chance(gate, row, more):
    raised = array(row)
    raised[raised.argmax()] += more
    low, high = gate.probabilities(signals(np.stack([array(row), raised])))
    assert 0 <= low <= high + 1e-6
    assert high <= 1


@given(gates, st.lists(finite, min_size=1, max_size=6))
def test_the_order_of_agents_does_not_matter(gate, row):
    forwards, backwards = gate.probabilities(signals(np.stack([array(row), array(row[::-1])])))
    assert forwards == pytest.approx(backwards, abs=1e-5)


def test_signals_are_the_best_logit_and_its_log_share():
    seen = signals(array([[0.0, 0.0], [9.0, -9.0]]))
    assert np.allclose(seen.top, [0, 9])
    assert np.allclose(seen.log_share, [np.log(0.5), 0], atol=1e-5)
    assert np.allclose(signals(array([[3.0]])).log_share, 0)


tops = st.lists(st.tuples(st.floats(-20, 60), st.floats(-9, 0), st.booleans()), max_size=30)


def as_signals(rows):
    return Signals(array([row[0] for row in rows]), array([row[1] for row in rows]))


@settings(max_examples=20)
@given(tops, tops)
def test_whatever_it_is_fitted_to(examples, out_of_scope):
    right = np.array([row[2] for row in examples], dtype=bool)
    lower = [(top - 5, share, yes) for top, share, yes in examples]
    gate = fit_gate(as_signals(examples), right, as_signals(lower), as_signals(out_of_scope))
    assert 0 < gate.threshold < 1
    for curve in (gate.fits, gate.right):
        assert min(curve.top, curve.log_share, curve.scope) >= 0
        assert np.isfinite([curve.top, curve.log_share, curve.intercept, curve.scope]).all()
    assert Gate.from_dict(json.loads(json.dumps(gate.to_dict()))) == gate


def test_clear_cases_are_told_apart():
    rng = np.random.default_rng(0)
    inside = Signals(rng.normal(8, 1, 60).astype(np.float32), np.full(60, -0.1, np.float32))
    outside = Signals(rng.normal(0, 1, 60).astype(np.float32), np.full(60, -2.0, np.float32))
    gate = fit_gate(inside, np.ones(60, bool), outside, outside)
    assert (gate.probabilities(inside) >= gate.threshold).mean() > 0.9
    assert (gate.probabilities(outside) < gate.threshold).mean() > 0.9


def test_the_chance_is_a_product_of_two():
    fits, right = Curve(1.0, 0.0, 0.0), Curve(0.0, 1.0, 0.0)
    seen = Signals(array([0.0]), array([0.0]))
    assert Gate(fits, None).probabilities(seen) == pytest.approx([0.5])
    assert Gate(fits, right).probabilities(seen) == pytest.approx([0.25])
    scoped = Gate(replace(fits, scope=2.0), right)
    assert scoped.probabilities(replace(seen, scope=array([50.0]))) == pytest.approx([0.5])
    assert scoped.probabilities(replace(seen, scope=array([-50.0]))) == pytest.approx([0.0])


def test_wrong_among_the_fitting_lowers_the_chance_and_not_the_fit():
    rng = np.random.default_rng(0)
    share = rng.uniform(-2, 0, 400).astype(np.float32)
    right = rng.random(400) < np.exp(share)  # as sure as the softmax says
    inside = Signals(rng.normal(8, 1, 400).astype(np.float32), share)
    outside = Signals(rng.normal(0, 1, 400).astype(np.float32), share)
    gate = fit_gate(inside, right, outside, outside)
    sure, torn = Signals(array([8.0]), array([-0.05])), Signals(array([8.0]), array([-1.5]))
    assert gate.probabilities(sure)[0] > gate.probabilities(torn)[0] + 0.3
    assert gate.fits.probabilities(torn)[0] > 0.8
    assert gate.probabilities(inside).mean() == pytest.approx(right.mean(), abs=0.08)


def separate(n=60, foreign_at=0.0):
    """Examples that are right and far above their likes without an owner, and 40 others."""
    rng = np.random.default_rng(0)
    in_scope, removed, out_of_scope = (
        Signals(rng.normal(at, 1, m).astype(np.float32), np.full(m, share, np.float32))
        for at, m, share in ((8, n, -0.05), (0, n, -2.0), (foreign_at, 40, -2.0))
    )
    return in_scope, np.ones(n, bool), removed, out_of_scope


def test_without_the_users_negatives_the_threshold_is_a_chance_of_being_right():
    alone = fit_gate(*separate())
    few = fit_gate(*separate(), n_given=19)
    far = fit_gate(*separate(foreign_at=-6.0))
    assert alone.threshold == few.threshold == far.threshold == 0.6
    assert alone.coverage > 0.9


def test_enough_of_the_users_negatives_set_the_threshold():
    given = fit_gate(*separate(), n_given=20)
    out_of_scope = separate()[-1]
    assert given.threshold != fit_gate(*separate(), n_given=19).threshold
    assert (given.probabilities(out_of_scope) < given.threshold).mean() > 0.9


def test_a_threshold_keeps_most_right_examples_however_low_their_chances():
    rng = np.random.default_rng(0)
    blurred = Signals(rng.normal(2, 1, 80).astype(np.float32), np.full(80, -1.5, np.float32))
    right = rng.random(80) < 0.3
    gate = fit_gate(blurred, right, blurred, blurred)
    assert gate.threshold < 0.6
    assert (gate.probabilities(blurred)[right] >= gate.threshold).mean() >= 0.75


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_without_examples_the_threshold_stays_between_bounds(out_of_scope):
    threshold = cold_threshold(np.array(out_of_scope))
    assert 0.15 <= threshold <= Gate().threshold


def topic(name, *words, n=8):
    rng = np.random.default_rng(len(name))
    examples = tuple(" ".join(rng.choice(words, 3)) for _ in range(n))
    return AgentCard(name, " ".join(words[:3]), examples=examples)


CARDS = (
    topic("weather", "rain", "snow", "sun", "forecast", "wind"),
    topic("maths", "sum", "root", "times", "divide", "number"),
    topic("travel", "flight", "hotel", "train", "ticket", "trip"),
)


def router_of(cards, negatives=()):
    catalog = AgentCatalog(ENCODER, MemoryRegistry())
    catalog.add(*cards)
    return AgentRouter(catalog, negatives=Negatives.of(negatives, ENCODER, background=False))


def outcomes(router, *texts):
    return router.route_batch(
        queries := [Query(text) for text in texts], router.states.encode(queries, ENCODER)
    )


@pytest.mark.parametrize("n_agents", [1, 2, 3])
@pytest.mark.parametrize("n_examples", [0, 1, 2, 8])
def test_few_agents_and_few_examples(n_agents, n_examples):
    cards = [
        AgentCard(card.name, card.description, examples=card.examples[:n_examples])
        for card in CARDS[:n_agents]
    ]
    for outcome in outcomes(router_of(cards), "rain snow", "zebra", "?"):
        assert 0 <= outcome.probability <= 1
        assert isinstance(outcome, Handled | Deferred)


def test_hits_are_handled_and_foreign_queries_deferred():
    found = outcomes(router_of(CARDS), "rain snow wind", "sum root", "zebra okapi", "why")
    assert [isinstance(outcome, Handled) for outcome in found] == [True, True, False, False]
    assert found[0].agents == ("weather",)
    assert "'" in found[2].reason


def test_negatives_defer_what_is_like_them():
    out_of_scope = [
        f"rain {word}" for word in ("boots", "coat", "song", "dance", "queen", "poetry")
    ] * 5
    asked = "rain song"
    (before,) = outcomes(router_of(CARDS), asked)
    (after,) = outcomes(router_of(CARDS, out_of_scope), asked)
    assert isinstance(after, Deferred)
    assert after.probability <= before.probability
    kept = outcomes(
        router_of(CARDS, out_of_scope), "snow forecast sun", "flight hotel", "sum times"
    )
    assert [isinstance(outcome, Handled) for outcome in kept] == [True] * 3


def test_negatives_alone_do_not_crash():
    trained = train(router_of([]).catalog.snapshot, Negatives.of(("x",), ENCODER))
    assert trained.gate == Gate()
    bare = [AgentCard("bare", "rain")]
    assert outcomes(router_of(bare, ["zebra"] * 30), "rain")


def test_a_very_sure_catalog_still_handles_its_own_examples():
    cards = [topic(f"agent{i}", f"only{i}", n=10) for i in range(6)]
    found = outcomes(router_of(cards), *(f"only{i} only{i} only{i}" for i in range(6)))
    assert [outcome.agents for outcome in found] == [(f"agent{i}",) for i in range(6)]
