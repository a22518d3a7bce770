"""TeamRouter: plans, preferences, budgets, options added later, repair, files."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from moma_core import ArtifactError, Auto, Cost, NoTargetError, Performance, TeamPlan, TeamRouter
from moma_core.errors import (
    DuplicateNameError,
    InvalidCardError,
    InvalidPreferenceError,
    InvalidQueryError,
)
from moma_core.teams.cards import ModeCard, RoleCard, calls
from moma_core.teams.router import Signal
from moma_core.teams.training import TrainConfig, fit_teams
from moma_core.testing import HashEncoder

QUERY = "sum number equation"
UNIT = 2e-3


@pytest.fixture(scope="module")
def parts(build):
    _, options, inputs, simulator, domains = build()
    config = TrainConfig(steps=60, queries=24, samples=6, repeats=2, priced=3000)
    return fit_teams(options, inputs, simulator, domains, unit=UNIT, config=config, seed=1)


@pytest.fixture(scope="module")
def router(parts, fake_pool):
    return TeamRouter(HashEncoder(32), fake_pool(), parts)


def assert_whole(router, plan):
    """Names exist, the mode takes the team, and the cost is that of its calls."""
    options = router.parts.options
    mode = next(mode for mode in options.modes if mode.name == plan.mode)
    prompts = {role.name: role.prompt for role in options.roles}
    assert mode.min_members <= len(plan.members) <= mode.max_members
    assert all(prompts[member.role] == member.prompt for member in plan.members)
    assert set(plan.llms) <= set(router.llms.names)
    assert 0 < plan.quality < 1
    dearest = max(router.llms.costs[router.llms.names.index(name)] for name in plan.llms)
    most = calls(mode, len(plan.members), plan.rounds) * mode.length * dearest
    assert 0 < plan.cost <= most * (1 + 1e-9)
    assert TeamPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("preference", ["performance", "auto", "cost", Auto(0.001), None])
def test_a_plan_is_whole_and_explained(router, preference):
    plan = router.plan(QUERY, preference)
    assert_whole(router, plan)
    assert plan.domain == "maths"
    for word in (plan.mode, *plan.llms, *(m.role for m in plan.members), f"{plan.quality:.2f}"):
        assert word in plan.reason
    assert router.plan(QUERY, preference) == plan


def test_preferences_pull_as_they_should(router):
    best, cheap = router.plan(QUERY, Performance()), router.plan(QUERY, Auto(1.0))
    assert best.quality >= router.plan(QUERY, "auto").quality >= cheap.quality
    assert cheap.cost < best.cost


@pytest.mark.parametrize("budget", [1.0, 5e-3, 1e-3, 4e-4, 1e-4, 5e-5])
def test_a_plan_never_exceeds_its_budget(router, budget):
    plan = router.plan(QUERY, Cost(budget))
    assert_whole(router, plan)
    assert plan.cost <= budget


def test_more_money_never_makes_a_worse_plan(router):
    plans = [router.plan(QUERY, Cost(budget)) for budget in (5e-5, 1e-4, 1e-3, 1e-2, 1.0)]
    quality = [plan.quality for plan in plans[2:]]  # below, single members stand in
    assert quality == sorted(quality)


def test_a_budget_below_the_cheapest_plan(router):
    with pytest.raises(NoTargetError, match=r"budget of \$0.000001 is below the cheapest plan"):
        router.plan(QUERY, Cost(1e-6))
    with pytest.raises(NoTargetError, match=r"\$0.00000012 is below the cheapest plan, \$0.0000"):
        router.plan(QUERY, "cost:0.000000123")
    with pytest.raises(NoTargetError, match="below the cheapest"):
        router.plan(QUERY, "cost:0")


def test_one_llm_only(router, fake_pool):
    alone = replace(router, llms=fake_pool((0.6,), ("only",), (1e-3,)))
    for preference in ("performance", "auto", "cost"):
        assert alone.plan(QUERY, preference).llms == ("only",)
    with pytest.raises(NoTargetError, match="no LLM is left among 1"):
        alone.plan(QUERY, exclude="only")


def test_what_is_excluded_takes_no_part(router):
    exclude = ("large", "reflection", "debate", "solver")
    for preference in ("performance", "auto", "cost"):
        plan = router.plan(QUERY, preference, exclude=exclude)
        names = {plan.mode, *plan.llms, *(member.role for member in plan.members)}
        assert not names & set(exclude)
    with pytest.raises(NoTargetError, match="no mode is left"):
        router.plan(QUERY, exclude=[mode.name for mode in router.parts.options.modes])
    with pytest.raises(NoTargetError, match="every role of domain 'maths'"):
        router.plan(QUERY, exclude=("solver", "checker"))


@pytest.mark.parametrize("query", ["", "  ", None, 3])
def test_no_query(router, query):
    with pytest.raises(InvalidQueryError):
        router.plan(query)


def test_an_unknown_preference(router):
    with pytest.raises(InvalidPreferenceError):
        router.plan(QUERY, "fast")


def test_an_llm_added_after_training_is_planned_at_once(router, fake_pool):
    names = ("small", "medium", "large", "newcomer")
    richer = replace(router, llms=fake_pool((0.5, 0.7, 0.9, 0.98), names, (1e-4, 5e-4, 2e-3, 1e-5)))
    for preference in ("performance", "auto", "cost"):
        assert "newcomer" in richer.plan(QUERY, preference).llms


def test_a_role_of_a_new_domain_is_planned_at_once(router):
    lawyer = RoleCard("lawyer", "contract tenant court statute", "Cite the rule.", "law")
    more = router.adding(lawyer)
    plan = more.plan("contract tenant court", exclude=())
    assert plan.domain == "law"
    assert {member.role for member in plan.members} == {"lawyer"}
    assert plan.members[0].prompt == "Cite the rule."
    assert router.plan("contract tenant court").domain != "law"
    with pytest.raises(DuplicateNameError):
        more.adding(lawyer)


def test_a_mode_added_after_training_can_be_planned_at_once(router):
    pair = ModeCard("pair", "two in turn", 2, 3, max_rounds=4, each_round=1)
    more = router.adding(pair)
    others = [mode.name for mode in router.parts.options.modes]
    plan = more.plan(QUERY, exclude=others)
    assert plan.mode == "pair"
    assert 2 <= len(plan.members) <= 3
    assert_whole(more, plan)
    for seen in ("performance", "auto", "cost"):
        assert_whole(more, more.plan(QUERY, seen))


def test_repair_escalates_once_to_another_mode(router):
    plan = router.plan(QUERY, "cost")
    assert router.repair(plan, Signal(passed=True), QUERY) is plan
    other = router.repair(plan, Signal(passed=False), QUERY)
    assert other.mode != plan.mode
    assert_whole(router, other)
    assert other.reason.startswith(f"escalated from {plan.mode!r}, because a check failed")
    assert router.repair(other, Signal(passed=False), QUERY) is other
    assert router.repair(plan, Signal(agreement=0.5), QUERY).mode != plan.mode


def test_repair_stays_within_the_budget(router):
    plan = router.plan(QUERY, Cost(1e-4))
    tight = router.repair(plan, Signal(passed=False), QUERY, Cost(plan.cost * 1.01))
    assert tight is plan
    ample = router.repair(plan, Signal(passed=False), QUERY, Cost(0.05))
    assert ample is not plan
    assert plan.cost + ample.cost <= 0.05


def test_repair_with_nothing_better_leaves_the_plan(router):
    plan = replace(router.plan(QUERY), quality=0.9999)
    assert router.repair(plan, Signal(passed=False), QUERY) is plan
    only = [mode.name for mode in router.parts.options.modes if mode.name != plan.mode]
    assert router.repair(plan, Signal(passed=False), QUERY, exclude=only) is plan


def test_a_team_must_be_worth_its_cost(router):
    plan = replace(router.plan(QUERY), quality=0.8, cost=5e-3)
    assert router.improves(plan, 0.7, 1e-3, "performance")
    assert not router.improves(plan, 0.8, 1e-3, "performance")
    assert router.improves(plan, 0.7, 1e-3, "auto")  # 0.1 for 5 times the cost: 2.3 halvings
    assert not router.improves(plan, 0.77, 1e-3, "auto")
    assert not router.improves(plan, 0.7, 1e-3, "auto:0.05")
    assert router.improves(plan, 0.7, 1e-3, "topsis:1,0")
    assert router.improves(plan, 0.7, 1e-3, Cost(6e-3))
    assert not router.improves(plan, 0.7, 1e-3, Cost(4e-3))
    assert not router.improves(plan, 0.7, 1e-3, "cost")


def test_saved_and_loaded_it_plans_the_same(router, tmp_path, fake_pool):
    router.save(tmp_path / "deep" / "er")
    again = TeamRouter.load(tmp_path / "deep" / "er", HashEncoder(32), fake_pool())
    for query in (QUERY, "python loop bugs", "angle proof"):
        for preference in ("performance", "auto", "cost", "cost:0.0005"):
            assert again.plan(query, preference) == router.plan(query, preference)
    assert again.parts.metadata == router.parts.metadata


@pytest.mark.parametrize(
    "damage", ["cut", "flip", "gone", "format", "unit", "nan", "bytes", "json"]
)
def test_a_damaged_file_is_refused(router, tmp_path, fake_pool, damage):
    router.save(tmp_path)
    config, weights = tmp_path / "teams.json", tmp_path / "teams.safetensors"
    raw, document = weights.read_bytes(), json.loads(config.read_text())
    match damage:
        case "cut":
            weights.write_bytes(raw[:-7])
        case "flip":
            weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        case "gone":
            weights.unlink()
        case "format":
            config.write_text(json.dumps({**document, "format": 99}))
        case "unit":
            config.write_text(json.dumps({**document, "unit": "much"}))
        case "nan":
            config.write_text(json.dumps({**document, "unit": float("nan")}))
        case "bytes":
            config.write_bytes(b"\x00" * 9999)
        case "json":
            config.write_text("{")
    with pytest.raises(ArtifactError, match="moma train teams") as caught:
        TeamRouter.load(tmp_path, HashEncoder(32), fake_pool())
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_what_is_neither_mode_nor_role_is_not_added(router):
    with pytest.raises(InvalidCardError, match="RoleCard"):
        router.adding("a role")


def test_a_directory_that_cannot_be_written(router, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ArtifactError, match=r"cannot write .*what was saved before is intact"):
        router.save(blocked / "inside")


def test_another_encoder_is_refused(parts, fake_pool):
    with pytest.raises(ArtifactError, match="trained on vectors of 'hash-32'"):
        TeamRouter(HashEncoder(16), fake_pool(), parts)


def test_planning_is_quick(router):
    vector = router.encoder.encode([QUERY])[0]
    router.plan_encoded(QUERY, vector)
    times = []
    for _ in range(60):
        start = time.process_time()
        router.plan_encoded(QUERY, vector)
        times.append(time.process_time() - start)
    assert np.median(times) < 6e-3  # three times the target, for busy machines
