"""The cascade: probabilities, gradients by finite differences, plans that hold together."""

import numpy as np
import pytest

from moma_core.teams.features import Tables
from moma_core.teams.policy import Allowed, Policy, forced, greedy, sampled
from moma_core.teams.training import ascent

RATES = np.array([0.01, 0.1, 0.5])


@pytest.fixture(scope="module")
def world(build):
    encoder, options, inputs, *_ = build(60)
    rng = np.random.default_rng(1)
    policy = Policy.start(encoder.dimension, 2e-3, rng)
    for name, values in policy.params.items():  # away from the start, where some slopes vanish
        values += 0.3 * rng.standard_normal(values.shape) / np.sqrt(max(values.shape[0], 1))
        assert np.isfinite(values).all(), name
    return policy, Tables.of(options, policy.projection), inputs, options


def rows(inputs, n, seed=0):
    rng = np.random.default_rng(seed)
    return inputs.take(rng.integers(len(inputs), size=n)), rng.choice(RATES, size=n)


def objective(policy, tables, inputs, rates, plans, advantage, entropy, classify, domains):
    """What `ascent` climbs, written out."""
    rollout = policy.rollout(tables, inputs, rates, forced(plans, tables.sizes))
    total = (advantage * rollout.log_probability).mean()
    for step in rollout.steps:
        logs = step.log_probabilities
        if step.stage == "domain":
            known = domains >= 0
            total += classify * logs[np.flatnonzero(known), domains[known]].sum() / len(domains)
        else:
            finite = np.where(np.isfinite(logs), logs, 0.0)
            total -= entropy * (np.exp(logs) * finite).sum() / len(domains)
    return total


def test_gradients_agree_with_finite_differences(world):
    policy, tables, inputs, _ = world
    some, rates = rows(inputs, 40)
    rng = np.random.default_rng(2)
    plans = policy.rollout(tables, some, rates, sampled(rng)).plans
    advantage, domains = rng.normal(size=40), rng.integers(-1, 2, size=40)
    arguments = (tables, some, rates, plans, advantage, 0.3, 0.7, domains)
    rollout = policy.rollout(tables, some, rates, forced(plans, tables.sizes))
    gradients = policy.backward(rollout, ascent(rollout, advantage, 0.3, 0.7, domains))
    checked = 0
    for name, values in policy.params.items():
        flat = values.reshape(-1)
        for place in rng.integers(flat.size, size=min(flat.size, 6)) if flat.size else ():
            kept, step = flat[place], 1e-5
            flat[place] = kept + step
            above = objective(policy, *arguments)
            flat[place] = kept - step
            below = objective(policy, *arguments)
            flat[place] = kept
            slope = (above - below) / (2 * step)
            assert gradients[name].reshape(-1)[place] == pytest.approx(slope, abs=1e-6, rel=1e-4)
            checked += abs(slope) > 1e-5
    assert checked > 40  # most of them say something


def test_plans_hold_together(world):
    policy, tables, inputs, options = world
    some, rates = rows(inputs, 200)
    plans = policy.rollout(tables, some, rates, sampled(np.random.default_rng(3))).plans
    for i in range(len(plans)):
        mode, size = options.modes[plans.mode[i]], plans.size[i]
        assert mode.min_members <= size <= mode.max_members
        assert 1 <= plans.rounds[i] <= mode.max_rounds
        assert (plans.roles[i, :size] >= 0).all()
        assert (plans.llms[i, size:] == -1).all()
        assert {options.role_domains[r] for r in plans.roles[i, :size]} == {plans.domain[i]}
        assert plans.calls[i, :size].min() >= 1
        assert plans.calls[i, size:].sum() == 0
    assert len(np.unique(plans.mode)) == len(options.modes)


def test_forced_plans_have_the_probability_they_were_drawn_with(world):
    policy, tables, inputs, _ = world
    some, rates = rows(inputs, 50)
    drawn = policy.rollout(tables, some, rates, sampled(np.random.default_rng(4)))
    again = policy.rollout(tables, some, rates, forced(drawn.plans, tables.sizes))
    np.testing.assert_allclose(again.log_probability, drawn.log_probability)
    assert (drawn.log_probability < 0).all()


def test_draws_follow_the_probabilities(world):
    policy, tables, inputs, options = world
    some, rates = inputs.take(np.zeros(4000, int)), np.full(4000, 0.1)
    rollout = policy.rollout(tables, some, rates, sampled(np.random.default_rng(5)))
    step = next(step for step in rollout.steps if step.stage == "mode")
    share = np.bincount(rollout.plans.mode, minlength=len(options.modes)) / 4000
    np.testing.assert_allclose(share, np.exp(step.log_probabilities[0]), atol=0.03)


def test_greedy_is_one_plan_and_seeds_repeat(world):
    policy, tables, inputs, _ = world
    some, rates = rows(inputs, 30)
    twice = [policy.rollout(tables, some, rates, greedy).plans for _ in range(2)]
    np.testing.assert_array_equal(twice[0].llms, twice[1].llms)
    draws = [
        policy.rollout(tables, some, rates, sampled(np.random.default_rng(seed))).plans.llms
        for seed in (7, 7, 8)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_rows_do_not_touch_one_another(world):
    policy, tables, inputs, _ = world
    some, rates = rows(inputs, 20)
    together = policy.rollout(tables, some, rates).plans
    for i in (0, 7, 19):
        alone = policy.rollout(tables, some.take([i]), rates[[i]]).plans
        np.testing.assert_array_equal(alone.llms[0], together.llms[i])
        np.testing.assert_array_equal(alone.roles[0], together.roles[i])


def test_only_what_is_allowed_is_chosen(world):
    policy, tables, inputs, options = world
    some, rates = rows(inputs, 100)
    allowed = Allowed(
        modes=np.array([mode.name in ("debate", "chain") for mode in options.modes]),
        roles=np.array([role.duty == "solve" for role in options.roles]),
        llms=np.array([True, False, True]),
    )
    choose = sampled(np.random.default_rng(6))
    plans = policy.rollout(tables, some, rates, choose, allowed).plans
    assert {options.modes[m].name for m in plans.mode} == {"debate", "chain"}
    assert set(np.unique(plans.llms)) == {-1, 0, 2}
    assert {options.roles[r].duty for r in plans.roles[plans.seated]} == {"solve"}
    seats = np.array([3, 2, 1, 0, 0])
    fixed = policy.rollout(tables, some, rates, choose, Allowed(seats=seats)).plans
    for seat in range(5):
        here = fixed.seated[:, seat]
        assert (fixed.roles[here, seat] == seats[seat]).all()


def test_cost_counts_every_call(world):
    policy, tables, inputs, options = world
    some, rates = rows(inputs, 30)
    plans = policy.rollout(tables, some, rates, sampled(np.random.default_rng(9))).plans
    for i in range(30):
        mode = options.modes[plans.mode[i]]
        spent = sum(
            plans.calls[i, seat] * some.costs[i, plans.llms[i, seat]]
            for seat in range(plans.size[i])
        )
        assert plans.cost(some.costs)[i] == pytest.approx(spent * mode.length)
