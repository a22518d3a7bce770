"""The simulator does what its assumptions say, and says that it is one."""

from dataclasses import replace

import numpy as np
import pytest

import moma_core.teams.simulator
from moma_core import TeamPlan, UnknownNameError
from moma_core.decision import TeamMember
from moma_core.errors import InvalidDataError
from moma_core.teams.cards import ModeCard
from moma_core.teams.features import Tables
from moma_core.teams.simulator import MECHANICS, Assumptions, TeamSimulator
from moma_core.teams.training import index_plans

NAMES = ("small", "medium", "large")


@pytest.fixture(scope="module")
def world(build):
    _, options, inputs, simulator, _ = build(400)
    return Tables.of(options, np.eye(inputs.vectors.shape[1])[:, :4]), inputs, simulator


def outcome(world, mode, seats, rounds=1, rows=None, assumptions=None, repeats=40):
    tables, _, simulator = world
    if assumptions is not None:
        simulator = replace(simulator, assumptions=assumptions)
    rows = np.arange(len(simulator.scores)) if rows is None else rows
    plan = TeamPlan(mode, tuple(TeamMember(role, llm) for role, llm in seats), rounds)
    plans = index_plans(tables, NAMES, [plan] * len(rows))
    rng = np.random.default_rng(0)
    runs = [simulator.run(rows, plans, rng) for _ in range(repeats)]
    return float(np.mean([run.right.mean() for run in runs])), runs[0]


def of_domain(world, domain):
    return np.flatnonzero(np.array(world[2].domains) == domain)


def test_a_better_llm_answers_better_and_the_cost_is_the_recorded_one(world):
    rows = of_domain(world, "maths")
    qualities = []
    for name in NAMES:
        quality, run = outcome(world, "cot", [("solver", name)], rows=rows)
        qualities.append(quality)
        np.testing.assert_allclose(run.cost, world[2].costs[rows, NAMES.index(name)])
    assert qualities == sorted(qualities)


def test_one_call_is_right_about_as_often_as_recorded(world):
    plain = Assumptions(right_domain=0, wrong_domain=0, right_duty=0, wrong_duty=0)
    quality, _ = outcome(world, "cot", [("solver", "medium")], assumptions=plain)
    assert quality == pytest.approx(world[2].scores[:, 1].mean(), abs=0.04)


def test_recorded_successes_and_failures_show(world):
    scores = world[2].scores[:, 2]
    right, _ = outcome(world, "cot", [("solver", "large")], rows=np.flatnonzero(scores == 1))
    wrong, _ = outcome(world, "cot", [("solver", "large")], rows=np.flatnonzero(scores == 0))
    assert right > wrong + 0.5


@pytest.mark.parametrize(
    ("mode", "seats", "rounds"),
    [
        ("chain", [("solver", "large"), ("checker", "large")], 1),
        ("debate", [("solver", "large"), ("checker", "large")], 2),
        ("reflection", [("solver", "large"), ("checker", "large")], 2),
    ],
)
def test_working_together_helps_a_little(world, mode, seats, rounds):
    rows = of_domain(world, "maths")
    alone, _ = outcome(world, "cot", seats[:1], rows=rows)
    together, _ = outcome(world, mode, seats, rounds, rows=rows)
    assert -0.02 < together - alone < 0.12


def test_a_bare_answer_is_cheaper_and_worse_on_maths(world):
    rows = of_domain(world, "maths")
    steps, dear = outcome(world, "cot", [("solver", "medium")], rows=rows)
    bare, cheap = outcome(world, "io", [("solver", "medium")], rows=rows)
    assert bare < steps
    assert cheap.cost.sum() < 0.5 * dear.cost.sum()


def test_roles_of_the_right_domain_and_duty_help(world):
    rows = of_domain(world, "maths")
    right, _ = outcome(world, "cot", [("solver", "medium")], rows=rows, repeats=100)
    duty, _ = outcome(world, "cot", [("checker", "medium")], rows=rows, repeats=100)
    domain, _ = outcome(world, "cot", [("coder", "medium")], rows=rows, repeats=100)
    assert duty < right - 0.02
    assert domain < right - 0.02
    flat = Assumptions(right_domain=0, wrong_domain=0, right_duty=0, wrong_duty=0)
    same = [outcome(world, "cot", [(role, "medium")], rows=rows, assumptions=flat)[0]
            for role in ("solver", "checker", "coder")]  # fmt: skip
    assert same[0] == same[1] == same[2]


def test_a_specialist_knows_better_where_one_is_named(world):
    tables, inputs, simulator = world
    rows = of_domain(world, "maths")
    named = replace(simulator, specialists=("solver",) * len(simulator.scores))
    plain, _ = outcome(world, "cot", [("solver", "medium")], rows=rows, repeats=100)
    better, _ = outcome((tables, inputs, named), "cot", [("solver", "medium")], rows=rows,
                        repeats=100)  # fmt: skip
    assert better > plain + 0.01
    with pytest.raises(InvalidDataError, match="a specialist for each"):
        replace(simulator, specialists=("solver",))


def test_a_strong_critic_mends_more_than_a_weak_one(world):
    rows = of_domain(world, "code")
    weak, _ = outcome(world, "reflection", [("coder", "small"), ("reviewer", "small")], rows=rows)
    strong, _ = outcome(world, "reflection", [("coder", "small"), ("reviewer", "large")], rows=rows)
    assert strong > weak + 0.03


def test_agreement_and_checks_tell_right_from_wrong(world):
    seats = [("solver", "large"), ("checker", "large"), ("solver", "large")]
    _, run = outcome(world, "debate", seats)
    assert (run.agreement >= 0.5).all()
    right = run.right > 0
    assert run.agreement[right].mean() > run.agreement[~right].mean()
    assert run.passed[right].mean() > 0.8 > 0.6 > run.passed[~right].mean()
    assert run.confidence[right].mean() > run.confidence[~right].mean() + 0.1


def test_draws_repeat_by_seed(world):
    seats = [("solver", "small"), ("checker", "large")]
    first = outcome(world, "debate", seats, repeats=1)[1]
    second = outcome(world, "debate", seats, repeats=1)[1]
    np.testing.assert_array_equal(first.right, second.right)


def test_gaps_unlike_shapes_and_unknown_modes_are_refused(world, hashing, build):
    _, _, simulator = world
    options = simulator.options
    gap = simulator.scores.copy()
    gap[0, 0] = np.nan
    with pytest.raises(InvalidDataError, match="every score"):
        TeamSimulator(gap, simulator.costs, simulator.domains, options)
    with pytest.raises(InvalidDataError, match="a domain a query"):
        TeamSimulator(simulator.scores, simulator.costs, simulator.domains[:-1], options)
    encoder = build(4)[0]
    more = options.adding(encoder, ModeCard("swarm", "Everyone at once", 1, 9, each=1))
    with pytest.raises(UnknownNameError, match="no simulated mechanics for mode 'swarm'"):
        TeamSimulator(simulator.scores, simulator.costs, simulator.domains, more)


def test_it_is_labelled():
    for module in (moma_core.teams.simulator, moma_core.teams.simulator):
        assert "SIMULATED" in module.__doc__
    assert set(MECHANICS) == {"io", "cot", "chain", "full", "debate", "reflection"}
