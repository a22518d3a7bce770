"""What repair is worth, SIMULATED: the same plans with and without one escalation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moma_core.evaluation.simulated import SimulatedPool
from moma_core.teams.candidates import Candidates
from moma_core.teams.checkpoint import TeamParts
from moma_core.teams.escalation import next_on_front
from moma_core.teams.features import Tables
from moma_core.teams.plans import PlanBatch
from moma_core.teams.signals import Signal
from moma_core.teams.simulator import Outcomes
from moma_core.teams.steps import Allowed
from moma_core.teams.training import RATES

__all__ = ["measure_repair"]

_REPEATS = 10
_DOUBTS = {
    "disagreement": Signal(agreement=0.0).doubt,
    "low confidence": Signal(confidence=0.0).doubt,
    "failing check": Signal(passed=False).doubt,
}
_Bools = npt.NDArray[np.bool_]


def measure_repair(
    parts: TeamParts, pool: SimulatedPool, rate: int, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Return simulated quality, USD and share of escalations for three signs of trouble.

    Beside each sign stands the control that escalates as many queries drawn at random.

    Args:
        parts: A trained team router's.
        pool: Queries to answer.
        rate: Position in `RATES` of the rate to plan at.
        seed: Of the draws.
    """
    tables = Tables.of(parts.options, parts.policy.projection)
    n = len(pool.inputs)
    plans = parts.policy.walk(tables, pool.inputs, np.full(n, RATES[rate])).plans
    targets = {
        sign: _escalations(parts, tables, pool, plans, doubt) for sign, doubt in _DOUBTS.items()
    }
    rng, rows = np.random.default_rng(seed), np.arange(n)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(_REPEATS):
        first = pool.simulator.run(rows, plans, rng)
        found.setdefault("none", []).append(_mixed(first, first, np.zeros(n, bool)))
        for name, wanted in _troubles(first).items():
            second, possible = targets[name]
            after, trouble = pool.simulator.run(rows, second, rng), wanted & possible
            drawn = possible & (rng.random(n) < trouble.sum() / max(possible.sum(), 1))
            found.setdefault(name, []).append(_mixed(first, after, trouble))
            found.setdefault(f"{name}, at random", []).append(_mixed(first, after, drawn))
    return {
        name: dict(zip(("quality", "cost", "escalated"), np.mean(rows_, axis=0), strict=True))
        for name, rows_ in found.items()
    }


def _troubles(first: Outcomes) -> dict[str, _Bools]:
    """Which answers each sign speaks against, by the rules of `Signal`."""
    signs = {
        "disagreement": [Signal(agreement=float(a)) for a in first.agreement],
        "low confidence": [Signal(confidence=float(c)) for c in first.confidence],
        "failing check": [Signal(passed=bool(p)) for p in first.passed],
    }
    return {name: np.array([bool(s.trouble) for s in each]) for name, each in signs.items()}


def _mixed(first: Outcomes, after: Outcomes, again: _Bools) -> tuple[float, float, float]:
    """Both plans are paid for where the second one runs; its answer counts there."""
    right = np.where(again, after.right, first.right)
    cost = first.cost + again * after.cost
    return float(right.mean()), float(cost.mean()), float(again.mean())


def _escalations(
    parts: TeamParts, tables: Tables, pool: SimulatedPool, plans: PlanBatch, doubt: float
) -> tuple[PlanBatch, _Bools]:
    """Return where each query's plan escalates to, and whether it can, as `TeamRouter.repair`."""
    n, modes, inputs = len(plans), len(parts.options.modes), pool.inputs
    batches = []
    for mode in range(modes):
        only = Allowed(modes=np.arange(modes) == mode)
        for rate in RATES[:-2:2]:
            walk = parts.policy.walk(tables, inputs, np.full(n, rate), allowed=only)
            batches.append(walk.plans)
    width = len(batches)
    every, repeated = PlanBatch.joined(batches), inputs.take(np.tile(np.arange(n), width))
    quality = parts.value.predict(tables, repeated, every).reshape(width, n)
    costs = every.cost(repeated.costs).reshape(width, n)
    hoped = parts.value.predict(tables, inputs, plans)
    target, possible = np.arange(n), np.zeros(n, bool)
    for row in range(n):
        there = np.arange(width) * n + row
        found = Candidates(every.take(there), quality[:, row], costs[:, row])
        best = next_on_front(found, found.plans.mode != plans.mode[row], float(hoped[row]), doubt)
        if best is not None:
            target[row], possible[row] = best * n + row, True
    return every.take(target), possible
