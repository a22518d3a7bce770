"""What `benchmarks/teams.py` compares: the team router, its ablations, and other assumptions.

Every outcome is SIMULATED. A `Setting` is one pool and seed; each function returns figures of one
system on its test rows. Knows nothing of seeds, files or print-outs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moma_core import LLMDataset, RoutingEncoder
from moma_core.teams.cards import TeamOptions
from moma_core.teams.features import Tables
from moma_core.teams.planner import TeamParts
from moma_core.teams.policy import RATES, Allowed, PlanBatch, Policy, sampled
from moma_core.teams.simulator import Assumptions
from moma_core.teams.training import TrainConfig, fit_teams
from moma_core.training.evaluate_teams import (
    SimulatedPool,
    baseline_plans,
    measure,
    simulate_testing,
    simulate_training,
)

DOMAINS = {
    "zeroeval": {"gsm": "maths", "math-l5": "maths", "crux": "code"},
    "mmlu_pro": {
        "math": "maths", "physics": "maths", "engineering": "maths", "computer science": "code",
        "law": "business", "economics": "business", "business": "business",
        "chemistry": "commonsense", "health": "commonsense", "biology": "commonsense",
        "psychology": "commonsense", "philosophy": "commonsense", "history": "commonsense",
        "other": "commonsense",
    },
}  # fmt: skip
TEAM = "all-strongest team (debate)"
MULTI = ("chain", "full", "debate", "reflection")


@dataclass
class Setting:
    """One pool and seed: where to fit, to pick a rate, and to test."""

    options: TeamOptions
    fit: SimulatedPool
    pick: SimulatedPool
    test: SimulatedPool
    unit: float
    strongest: int
    seed: int
    steps: int


def prepare(
    pool: str, data: LLMDataset, vectors: np.ndarray, encoder: RoutingEncoder, seed: int, steps: int
) -> Setting:
    options = TeamOptions.embed(encoder)
    held = np.array(data.splits) == "val"
    train, llms = simulate_training(
        data.take(~held), encoder, DOMAINS[pool], options, seed=seed, vectors=vectors[~held]
    )
    test = simulate_testing(llms, data.take(held), encoder, DOMAINS[pool], options, vectors[held])
    fifth = np.random.default_rng(seed).permutation(len(train.inputs)) % 5 == 0
    strongest = train.best_single
    unit = float(train.simulator.costs[:, strongest].mean())
    return Setting(
        options, train.take(~fifth), train.take(fifth), test, unit, strongest, seed, steps
    )


def fit(setting: Setting, allowed: Allowed | None = None) -> TeamParts:
    simulator = setting.fit.simulator
    return fit_teams(
        setting.options, setting.fit.inputs, simulator, simulator.domains, unit=setting.unit,
        config=TrainConfig(steps=setting.steps), seed=setting.seed, allowed=allowed,
    )  # fmt: skip


def plans_at(parts: TeamParts, pool: SimulatedPool, allowed: Allowed | None) -> list[PlanBatch]:
    tables = Tables.of(parts.options, parts.policy.projection)
    rates = [np.full(len(pool.inputs), rate) for rate in RATES]
    rollouts = [parts.policy.rollout(tables, pool.inputs, each, allowed=allowed) for each in rates]
    return [rollout.plans for rollout in rollouts]


def figures(pool: SimulatedPool, plans: PlanBatch, seed: int) -> dict[str, float]:
    quality, cost = measure(pool, plans, seed)
    return {
        "quality": float(quality.mean()),
        "cost": float(cost.mean()),
        "calls": float(plans.calls.sum(axis=1).mean()),
        "members": float(plans.size.mean()),
    }


def pick_rate(
    setting: Setting, plans: list[PlanBatch], goal: float
) -> tuple[int, list[dict[str, float]]]:
    found = [figures(setting.pick, each, setting.seed) for each in plans]
    good = [i for i, each in enumerate(found) if each["quality"] >= goal]
    if good:
        return min(good, key=lambda i: found[i]["cost"]), found
    return max(range(len(found)), key=lambda i: found[i]["quality"]), found


def system(
    setting: Setting, goal: float, picking: list[PlanBatch], testing: list[PlanBatch]
) -> dict[str, Any]:
    best, _ = pick_rate(setting, picking, goal)
    curve = [figures(setting.test, plans, setting.seed) for plans in testing]
    return {
        **curve[best],
        "rate": RATES[best],
        "curve": [[each["cost"], each["quality"]] for each in curve],
    }


def planned(setting: Setting, goal: float, allowed: Allowed | None = None) -> dict[str, Any]:
    parts = fit(setting, allowed)
    picking = plans_at(parts, setting.pick, allowed)
    return {
        **system(setting, goal, picking, plans_at(parts, setting.test, allowed)),
        "parts": parts,
        "picking": picking,
    }


def ablations(setting: Setting, goal: float, full: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Retrained with one choice taken away; what stands in is chosen on the fifth."""
    parts, options = full["parts"], setting.options
    names = [mode.name for mode in options.modes]
    scores = {}
    for mode in MULTI:
        only = Allowed(modes=np.array([name == mode for name in names]))
        best, found = pick_rate(setting, plans_at(parts, setting.pick, only), goal)
        met = found[best]["quality"] >= goal
        scores[mode] = (met, -found[best]["cost"] if met else found[best]["quality"])
    fixed_mode = max(scores, key=scores.get)
    every = PlanBatch.joined(full["picking"])
    seats = [
        int(np.bincount(column[column >= 0]).argmax()) if (column >= 0).any() else 0
        for column in every.roles.T
    ]
    strong = np.arange(len(setting.test.llms)) == setting.strongest
    without = {
        "no mode choice": Allowed(modes=np.array([name == fixed_mode for name in names])),
        "no role choice": Allowed(seats=np.array(seats)),
        "no LLM choice": Allowed(llms=strong),
    }
    results = {name: planned(setting, goal, allowed) for name, allowed in without.items()}
    results["no mode choice"]["fixed"] = fixed_mode
    results["no role choice"]["fixed"] = [options.roles[i].name for i in seats]
    return results


def random_plans(setting: Setting, parts: TeamParts) -> PlanBatch:
    flat = Policy({name: np.zeros_like(value) for name, value in parts.policy.params.items()},
                  parts.policy.projection, setting.unit)  # fmt: skip
    tables = Tables.of(setting.options, parts.policy.projection)
    rng = np.random.default_rng(setting.seed)
    rates = np.full(len(setting.test.inputs), 0.05)
    return flat.rollout(tables, setting.test.inputs, rates, sampled(rng)).plans


def robust(setting: Setting, full: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The same plans, planned as before, when the simulator's assumptions are others."""
    best = RATES.index(full["rate"])
    plans = plans_at(full["parts"], setting.test, None)[best]
    base = Assumptions()
    others = {
        "roles do not matter": replace(
            base, right_domain=0.0, wrong_domain=0.0, right_duty=0.0, wrong_duty=0.0
        ),
        "debates persuade half as often": replace(base, persuaded=0.25),
        "critics notice half as often": replace(base, noticed=0.275, noticed_code=0.4),
        "calls repeat themselves more": replace(base, repeat=0.8),
    }
    results = {}
    for name, assumptions in others.items():
        pool = replace(setting.test, simulator=replace(setting.test.simulator,
                                                       assumptions=assumptions))  # fmt: skip
        tables = Tables.of(setting.options, full["parts"].policy.projection)
        team = baseline_plans(pool, tables, setting.strongest)[TEAM]
        ours, theirs = figures(pool, plans, setting.seed), figures(pool, team, setting.seed)
        results[name] = {
            "share_of_quality": ours["quality"] / theirs["quality"],
            "saved": 1 - ours["cost"] / theirs["cost"],
        }
    return results
