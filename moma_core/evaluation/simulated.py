"""SIMULATED comparisons: queries with a simulator, fixed baselines, and their mean figures.

Baselines get the roles of a query's *true* domain, so they lose nothing by their roles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moma_core.selection import choose_at_rate
from moma_core.teams.features import Tables, TeamInputs
from moma_core.teams.options import TeamOptions
from moma_core.teams.plans import PlanBatch
from moma_core.teams.simulator import TeamSimulator
from moma_core.teams.training import RATES

__all__ = ["SimulatedPool", "baseline_plans", "fixed_plans", "measure", "routed_llms"]

_REPEATS = 20
_Array = npt.NDArray[np.float64]
_Index = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedPool:
    """Queries with predictions, and a simulator of teams on them.

    Args:
        inputs: What a router knows of n queries.
        simulator: Draws outcomes of plans on them.
        llms: Names of the LLMs, in the order of the columns.
    """

    inputs: TeamInputs
    simulator: TeamSimulator
    llms: tuple[str, ...]

    def take(self, rows: npt.ArrayLike) -> SimulatedPool:
        """Return these queries, given as indices or as a mask."""
        kept = np.arange(len(self.inputs))[np.asarray(rows)]
        whole = self.simulator
        domains = [whole.domains[row] for row in kept.tolist()]
        part = TeamSimulator(
            whole.scores[kept], whole.costs[kept], domains, whole.options, whole.assumptions
        )
        return SimulatedPool(self.inputs.take(kept), part, self.llms)

    @property
    def best_single(self) -> int:
        """Position of the LLM of the best mean score; ties: the cheaper one."""
        scores, costs = self.simulator.scores.mean(axis=0), self.simulator.costs.mean(axis=0)
        return int(np.lexsort((costs, -scores))[0])


def measure(
    pool: SimulatedPool, plans: PlanBatch, seed: int = 0, repeats: int = _REPEATS
) -> tuple[_Array, _Array]:
    """Return simulated quality and USD of one plan a query, both of shape (n,).

    Args:
        pool: n queries.
        plans: One for each.
        seed: Of the draws.
        repeats: Runs of each plan.
    """
    rng, rows = np.random.default_rng(seed), np.arange(len(plans))
    runs = [pool.simulator.run(rows, plans, rng) for _ in range(repeats)]
    quality: _Array = np.mean([run.right for run in runs], axis=0)
    return quality, runs[0].cost


def fixed_plans(
    pool: SimulatedPool, tables: Tables, mode: str, llms: Sequence[int] | _Index
) -> PlanBatch:
    """Return one plan a query: a fixed mode, one round, roles of the query's *true* domain.

    Solvers sit first; the last of several seats goes to the domain's judge (critic in
    ``reflection``, checker in ``chain``). So baselines lose nothing by their roles.

    Args:
        pool: n queries.
        tables: The options.
        mode: Its name.
        llms: LLM of each seat, shape (S,), or of each seat of each query, shape (n, S).
    """
    options, n = tables.options, len(pool.inputs)
    seats = np.broadcast_to(np.asarray(llms, np.intp), (n, np.shape(llms)[-1]))
    size, most = seats.shape[1], options.most_members
    last = {"reflection": "check", "chain": "check"}.get(mode, "judge")
    rows = {name: _roles_of(options, name, size, last) for name in options.domains}
    first = options.domains[0]
    roles, members = np.full((n, most), -1), np.full((n, most), -1)
    roles[:, :size] = [rows.get(name, rows[first]) for name in pool.simulator.domains]
    members[:, :size] = seats
    number = [card.name for card in options.modes].index(mode)
    which = [tuple(pair) for pair in tables.sizes.tolist()].index((size, 1))
    every = np.full(n, number)
    calls = np.broadcast_to(tables.calls[number, which], (n, most))
    domain = np.array([options.domains.index(d or first) for d in pool.simulator.domains])
    return PlanBatch(
        domain, every, np.full(n, size), np.ones(n, np.intp), roles, members, calls,
        np.full(n, tables.lengths[number]),
    )  # fmt: skip


def _roles_of(options: TeamOptions, domain: str, size: int, last: str) -> list[int]:
    def with_duty(duty: str) -> list[int]:
        found = [
            i for i, r in enumerate(options.roles) if r.domain == domain and r.duty in (duty, "")
        ]
        return found or [i for i, r in enumerate(options.roles) if r.domain == domain]

    solvers = with_duty("solve")
    seats = [solvers[i % len(solvers)] for i in range(size)]
    return seats if size == 1 else [*seats[:-1], with_duty(last)[0]]


def baseline_plans(pool: SimulatedPool, tables: Tables, strongest: int) -> dict[str, PlanBatch]:
    """Return the fixed strategies: one strong LLM, and teams of nothing but it."""
    return {
        "one strong LLM": fixed_plans(pool, tables, "cot", [strongest]),
        "all-strongest team (debate)": fixed_plans(pool, tables, "debate", [strongest] * 3),
        "all-strongest reflection": fixed_plans(pool, tables, "reflection", [strongest] * 2),
    }


def routed_llms(pool: SimulatedPool, tables: Tables, unit: float) -> list[PlanBatch]:
    """Return LLM routing alone: one member on the LLM of the best score at each of `RATES`."""
    inputs = pool.inputs
    picked = [choose_at_rate(inputs.costs, inputs.quality, rate / unit) for rate in RATES]
    return [fixed_plans(pool, tables, "cot", column[:, None]) for column in picked]
