"""Escalation along the predicted front, and what it is worth in the simulator."""

import numpy as np
import pytest

from moma_core.teams.features import Tables
from moma_core.teams.planner import Candidates
from moma_core.teams.router import doubted, next_on_front
from moma_core.teams.training import RATES, TrainConfig, fit_teams
from moma_core.training.evaluate_teams import (
    SimulatedPool,
    baseline_plans,
    measure,
    measure_repair,
    routed_llms,
)

UNIT = 2e-3


def candidates(costs, quality):
    """Only the prices matter for a rollout along the front."""
    return Candidates(None, np.array(quality), np.array(costs))


@pytest.mark.parametrize(
    ("quality", "doubt", "left", "expected"),
    [
        (0.70, 1.0, np.inf, 1),  # the cheapest that is as good as was hoped
        (0.78, 1.0, np.inf, 3),
        (0.95, 1.0, np.inf, None),  # nothing is better than an answer not in doubt
        (0.95, 0.05, np.inf, 3),  # the best there is, against one in doubt
        (0.70, 1.0, 0.5, None),  # nothing within what is left
        (0.50, 1.0, 1.5, 0),
    ],
)
def test_the_next_plan_on_the_front(quality, doubt, left, expected):
    found = candidates([1.0, 2.0, 3.0, 4.0, 0.1], [0.6, 0.75, 0.7, 0.8, 0.99])
    other = np.array([True, True, True, True, False])  # the last one uses the failed mode
    assert next_on_front(found, other, quality, doubt, left) == expected


def test_doubt_lowers_the_odds():
    assert doubted(0.8, 1.0) == pytest.approx(0.8)
    assert doubted(0.8, 0.25) == pytest.approx(0.5)
    assert doubted(1.0, 0.25) <= 1.0


@pytest.fixture(scope="module")
def pool(build):
    _, _, inputs, simulator, _ = build()
    return SimulatedPool(inputs, simulator, ("small", "medium", "large"))


def test_repair_on_a_failing_check_beats_repair_at_random(pool):
    simulator = pool.simulator
    config = TrainConfig(steps=40, queries=16, samples=6, repeats=2, priced=3000)
    parts = fit_teams(
        simulator.options,
        pool.inputs,
        simulator,
        simulator.domains,
        unit=UNIT,
        config=config,
        seed=1,
    )
    found = measure_repair(parts, pool, RATES.index(0.05))
    checked, drawn = found["failing check"], found["failing check, at random"]
    assert found["none"]["escalated"] == 0.0
    assert checked["escalated"] == pytest.approx(drawn["escalated"], abs=0.05)
    assert checked["quality"] > max(drawn["quality"], found["none"]["quality"]) + 0.01
    assert checked["cost"] > found["none"]["cost"]


def test_baselines_have_the_calls_they_should(pool):
    tables = Tables.of(pool.simulator.options, np.eye(pool.inputs.vectors.shape[1])[:, :4])
    assert pool.best_single == 2
    plans = baseline_plans(pool, tables, 2)
    calls = {name: each.calls.sum(axis=1).tolist()[0] for name, each in plans.items()}
    assert list(calls.values()) == [1, 7, 3]
    for each in plans.values():
        assert set(np.unique(each.llms)) <= {-1, 2}
        domains = pool.simulator.options.role_domains[each.roles[:, 0]]
        assert (domains == each.domain).all()
    quality, cost = measure(pool, plans["one strong LLM"])
    np.testing.assert_allclose(cost, pool.simulator.costs[:, 2])
    assert 0.6 < quality.mean() < 0.95
    routed = routed_llms(pool, tables, UNIT)
    spent = [measure(pool, each, repeats=1)[1].mean() for each in routed]
    assert spent == sorted(spent, reverse=True)
