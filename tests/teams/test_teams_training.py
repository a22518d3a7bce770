"""REINFORCE, imitation and off-policy estimates find what a known world rewards."""

from dataclasses import dataclass

import numpy as np
import pytest

from moma_core import InvalidInputError, TeamPlan, UnknownNameError
from moma_core.decision import TeamMember
from moma_core.errors import InvalidDataError
from moma_core.teams.features import Tables
from moma_core.teams.planner import TeamParts
from moma_core.teams.policy import Policy, forced, sampled
from moma_core.teams.training import (
    LoggedPlans,
    TrainConfig,
    domain_labels,
    estimate,
    fit_teams,
    fit_value,
    imitate,
    index_plans,
    reinforce,
)

UNIT = 2e-3
QUICK = TrainConfig(steps=10, queries=16, samples=4, repeats=1, priced=300)


@dataclass
class Result:
    right: np.ndarray
    cost: np.ndarray


@dataclass
class OnlyReflection:
    """A world in which answers are right in one mode only, with a checker in the second seat."""

    tables: Tables
    inputs: object

    def run(self, rows, plans, rng):
        modes = np.array([mode.name for mode in self.tables.options.modes])
        duty = np.array([role.duty for role in self.tables.options.roles])
        probability = np.where(modes[plans.mode] == "reflection", 0.6, 0.2)
        probability = probability + 0.3 * (duty[plans.roles[:, 1]] == "check") * (plans.size > 1)
        right = (rng.random(len(plans)) < probability).astype(float)
        return Result(right, plans.cost(self.inputs.costs[rows]))


@pytest.fixture(scope="module")
def world(build):
    encoder, options, inputs, simulator, domains = build()
    policy = Policy.start(encoder.dimension, UNIT, np.random.default_rng(0))
    return policy, Tables.of(options, policy.projection), inputs, simulator, domains


def fresh(policy):
    params = {name: values.copy() for name, values in policy.params.items()}
    return Policy(params, policy.projection, policy.unit)


def test_reinforce_finds_the_mode_and_the_role_that_pay(world):
    start, tables, inputs, _, domains = world
    policy, labels = fresh(start), domain_labels(tables.options, domains)
    history = reinforce(
        policy,
        tables,
        inputs,
        OnlyReflection(tables, inputs),
        labels,
        TrainConfig(steps=200, queries=24, samples=8, repeats=1),
        rng=np.random.default_rng(1),
    )
    assert np.mean(history[-25:]) > np.mean(history[:25]) + 0.1
    plans = policy.rollout(tables, inputs, np.full(len(inputs), 0.003)).plans
    names = np.array([mode.name for mode in tables.options.modes])
    duty = np.array([role.duty for role in tables.options.roles])
    assert (names[plans.mode] == "reflection").mean() > 0.95
    assert (duty[plans.roles[:, 1]] == "check").mean() > 0.9
    assert (plans.domain == labels).mean() > 0.95  # the classification loss


def test_training_repeats_by_seed_and_beats_the_start(world, build):
    _, tables, inputs, simulator, domains = world
    options = tables.options
    config = TrainConfig(steps=60, queries=16, samples=6, repeats=2, priced=300)
    fitted = [
        fit_teams(options, inputs, simulator, domains, unit=UNIT, config=config, seed=seed)
        for seed in (3, 3, 4)
    ]
    same, other = (fitted[i].policy.params["W"] for i in (1, 2))
    np.testing.assert_array_equal(fitted[0].policy.params["W"], same)
    assert (same != other).any()
    _, _, unseen, judge, _ = build(240, seed=9)
    rows, rate = np.arange(240), 0.3
    utility = []
    for policy in (Policy.start(inputs.vectors.shape[1], UNIT, np.random.default_rng(3)),
                   fitted[0].policy):  # fmt: skip
        plans = policy.rollout(
            Tables.of(options, policy.projection), unseen, np.full(240, rate)
        ).plans
        rng = np.random.default_rng(0)
        runs = [judge.run(rows, plans, rng) for _ in range(20)]
        utility.append(np.mean([(r.right - rate * r.cost / UNIT).mean() for r in runs]))
    assert utility[1] > utility[0]


def test_predicted_quality_is_calibrated_on_fresh_plans(world, build):
    _, tables, inputs, simulator, _ = world
    policy = fresh(world[0])
    value = fit_value(policy, tables, inputs, simulator, np.random.default_rng(0), runs=6000)
    _, _, unseen, judge, _ = build(240, seed=9)
    rng, rows = np.random.default_rng(1), np.arange(240).repeat(10)
    plans = policy.rollout(tables, unseen.take(rows), np.full(2400, 0.05), sampled(rng)).plans
    right = judge.run(rows, plans, rng).right
    predicted = value.predict(tables, unseen.take(rows), plans)
    assert predicted.mean() == pytest.approx(right.mean(), abs=0.06)
    best = predicted > np.quantile(predicted, 0.7)
    assert right[best].mean() > right[~best].mean() + 0.1


def drawn(policy, tables, inputs, environment, n=4000, rate=0.05):
    rng = np.random.default_rng(5)
    rows = rng.integers(len(inputs), size=n)
    rollout = policy.rollout(tables, inputs.take(rows), np.full(n, rate), sampled(rng))
    result = environment.run(rows, rollout.plans, rng)
    logged = LoggedPlans(
        rollout.plans, np.full(n, rate), result.right, result.cost, rollout.log_probability
    )
    return rows, logged


def test_imitation_learns_from_a_log_what_paid(world):
    start, tables, inputs, _, domains = world
    labels = domain_labels(tables.options, domains)
    rows, logged = drawn(start, tables, inputs, OnlyReflection(tables, inputs))
    policy = fresh(start)
    history = imitate(
        policy, tables, inputs.take(rows), logged, labels[rows], np.random.default_rng(0), steps=150
    )
    assert np.mean(history[-10:]) > np.mean(history[:10])
    number = [mode.name for mode in tables.options.modes].index("reflection")
    share = []
    for each in (start, policy):
        rng = np.random.default_rng(0)
        rollout = each.rollout(tables, inputs, np.full(len(inputs), 0.05), sampled(rng))
        share.append((rollout.plans.mode == number).mean())
    assert share[1] > share[0] + 0.1


def test_a_logged_role_of_another_domain_teaches_nothing_and_breaks_nothing(world):
    start, tables, inputs, *_ = world
    plan = TeamPlan(
        "chain", (TeamMember("solver", "small"), TeamMember("reviewer", "large")), domain="maths"
    )
    plans = index_plans(tables, ("small", "medium", "large"), [plan] * 4)
    ones = np.ones(4)
    logged = LoggedPlans(plans, 0.05 * ones, ones, 1e-3 * ones, 0 * ones)
    policy = fresh(start)
    labels, rng = np.zeros(4, np.intp), np.random.default_rng(0)
    imitate(policy, tables, inputs.take(range(4)), logged, labels, rng, steps=5)
    assert all(np.isfinite(values).all() for values in policy.params.values())


def test_off_policy_estimates_come_near_the_truth(world):
    start, tables, inputs, simulator, _ = world
    rows, logged = drawn(start, tables, inputs, simulator)
    rng = np.random.default_rng(0)
    value = fit_value(start, tables, inputs, simulator, rng, runs=6000)
    other = fresh(start)
    other.params["mode.n"][1] += 0.7  # likes single members more
    rollout = other.rollout(tables, inputs.take(rows), logged.rates, sampled(rng))
    true = simulator.run(rows, rollout.plans, rng)
    truth = (true.right - 0.05 * true.cost / UNIT).mean()
    logged_mean = logged.utility(UNIT).mean()
    found = estimate(other, tables, inputs.take(rows), logged, value, rng)
    assert abs(truth - logged_mean) > 0.02  # else the test would say nothing
    for guess in (found.ips, found.snips, found.direct, found.doubly_robust):
        assert guess == pytest.approx(truth, abs=0.03)
    assert 1000 < found.effective < 4000


def test_doubly_robust_survives_a_wrong_value_model(world):
    start, tables, inputs, simulator, _ = world
    rows, logged = drawn(start, tables, inputs, simulator)
    rng = np.random.default_rng(0)
    value = fit_value(start, tables, inputs, simulator, rng, runs=6000)
    value.weights[0] += 2.0  # far too hopeful
    found = estimate(start, tables, inputs.take(rows), logged, value, rng)
    truth = logged.utility(UNIT).mean()
    assert found.direct > truth + 0.1
    assert found.doubly_robust == pytest.approx(truth, abs=0.03)


def test_named_plans_become_positions_and_back(world):
    start, tables, inputs, *_ = world
    plan = TeamPlan(
        "debate", (TeamMember("coder", "small"), TeamMember("reviewer", "large")), rounds=2
    )
    plans = index_plans(tables, ("small", "medium", "large"), [plan])
    rollout = start.rollout(tables, inputs.take([0]), np.array([0.05]), forced(plans, tables.sizes))
    assert tables.options.domains[plans.domain[0]] == "code"
    assert plans.calls[0].tolist() == [3, 4, 0, 0, 0]
    assert np.isfinite(rollout.log_probability).all()


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        (TeamPlan("swarm", (TeamMember("solver", "small"),)), UnknownNameError),
        (TeamPlan("io", (TeamMember("poet", "small"),)), UnknownNameError),
        (TeamPlan("io", (TeamMember("solver", "huge"),)), UnknownNameError),
        (TeamPlan("io", (TeamMember("solver", "small"),), domain="law"), UnknownNameError),
        (TeamPlan("chain", (TeamMember("solver", "small"),)), InvalidInputError),
    ],
)
def test_plans_of_unknown_names_are_refused(world, plan, error):
    with pytest.raises(error):
        index_plans(world[1], ("small", "medium", "large"), [plan])


def test_bad_training_data_is_refused(world):
    _, tables, inputs, simulator, domains = world
    with pytest.raises(InvalidDataError, match="no role has the domain 'law'"):
        fit_teams(tables.options, inputs, simulator, ["law"] * len(inputs), unit=UNIT, config=QUICK)
    with pytest.raises(InvalidDataError, match="unit is the mean cost"):
        fit_teams(tables.options, inputs, simulator, domains, unit=0.0, config=QUICK)
    with pytest.raises(InvalidDataError, match="queries and a domain for each"):
        fit_teams(tables.options, inputs, simulator, domains[:-1], unit=UNIT, config=QUICK)
    plans = index_plans(tables, ("small",), [TeamPlan("io", (TeamMember("solver", "small"),))])
    one, bad = np.ones(1), np.full(1, np.nan)
    with pytest.raises(InvalidDataError, match="not finite"):
        LoggedPlans(plans, one, bad, one, one)
    with pytest.raises(InvalidDataError, match="for each of 1"):
        LoggedPlans(plans, one, np.ones(2), one, one)


def test_parts_are_rounded_as_a_file_keeps_them(world):
    _, tables, inputs, simulator, domains = world
    parts = fit_teams(tables.options, inputs, simulator, domains, unit=UNIT, config=QUICK)
    assert isinstance(parts, TeamParts)
    for values in (*parts.policy.params.values(), parts.value.weights):
        np.testing.assert_array_equal(values, values.astype(np.float32))
