"""How planned teams do on scored queries, with SIMULATED outcomes (`teams.simulator`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError
from moma_core.llms.data import LLMDataset
from moma_core.llms.router import LLMRouter
from moma_core.llms.selection import choose, choose_at_rate
from moma_core.llms.training import train_pool
from moma_core.protocols import Encoder, Progress
from moma_core.teams.cards import TeamOptions
from moma_core.teams.features import Tables, TeamInputs
from moma_core.teams.planner import Candidates, TeamParts
from moma_core.teams.policy import RATES, Allowed, PlanBatch
from moma_core.teams.router import Signal, TeamRouter, next_on_front
from moma_core.teams.simulator import Outcomes, TeamSimulator
from moma_core.teams.training import TrainConfig, fit_teams
from moma_core.types import Auto, Cost, FloatArray, Performance, Preference

__all__ = [
    "SimulatedPool",
    "baseline_plans",
    "evaluate_teams",
    "fixed_plans",
    "guess_domains",
    "measure",
    "measure_repair",
    "routed_llms",
    "simulate_testing",
    "simulate_training",
    "train_teams",
]

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


_PREFERENCES: dict[str, Preference] = {
    "performance": Performance(),
    "auto": Auto(),
    "cost": Cost(),
}


def guess_domains(
    options: TeamOptions, encoder: Encoder, tasks: Sequence[str], vectors: FloatArray
) -> dict[str, str]:
    """Return the nearest task domain of each task, by its name and the mean of its queries.

    Args:
        options: Its roles form the domains.
        encoder: Encodes the names.
        tasks: Task of each query, length n.
        vectors: Of the queries, shape (n, d).
    """
    names, rows = sorted(set(tasks)), np.array(tasks)
    called = encoder.encode(names)
    guessed = {}
    for place, name in enumerate(names):
        near = options.domain_vectors @ (called[place] + vectors[rows == name].mean(axis=0))
        guessed[name] = options.domains[int(near.argmax())]
    return guessed


def train_teams(
    dataset: LLMDataset,
    encoder: Encoder,
    domains: Mapping[str, str] | None = None,
    config: TrainConfig | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[TeamRouter, LLMRouter]:
    """Train an LLM router and, in the simulator over its held-out predictions, a team router.

    Args:
        dataset: Scored queries; rows with a gap train the LLM router only.
        encoder: Turns queries into vectors.
        domains: Task domain of each task; None guesses by `guess_domains`.
        config: How long the cascade is trained.
        seed: Of every draw.
        progress: Called after each step.

    Raises:
        InvalidDataError: Too few queries, or a domain without a role.
    """
    options = TeamOptions.embed(encoder)
    pool, llms = simulate_training(dataset, encoder, domains, options, seed=seed, progress=progress)
    unit = float(pool.simulator.costs[:, pool.best_single].mean())
    notes = {"simulated": True, "llms": list(pool.llms), "data_sha256": dataset.fingerprint()}
    parts = fit_teams(
        options,
        pool.inputs,
        pool.simulator,
        pool.simulator.domains,
        unit=max(unit, 1e-9),
        config=config,
        seed=seed,
        progress=progress,
        notes=notes,
    )
    return TeamRouter(encoder, llms, parts), llms


def simulate_training(
    dataset: LLMDataset,
    encoder: Encoder,
    domains: Mapping[str, str] | None,
    options: TeamOptions,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    vectors: FloatArray | None = None,
) -> tuple[SimulatedPool, LLMRouter]:
    """Train an LLM router and return it after a simulator over its held-out predictions.

    Arguments and errors as for `train_teams`; ``options`` are the modes and roles, ``vectors`` the
    queries' when already encoded, shape (n, d).
    """
    vectors = encoder.encode(dataset.queries) if vectors is None else vectors
    trained = train_pool(dataset, encoder, seed=seed, progress=progress, vectors=vectors)
    ordered = vectors[dataset.order()].astype(np.float64)
    if domains is None and dataset.tasks:
        domains = guess_domains(options, encoder, dataset.tasks, vectors)
    inputs = TeamInputs(ordered, trained.held_out, trained.expected)
    complete = np.asarray(~np.isnan(trained.data.scores).any(axis=1))
    return _simulated(trained.data, inputs, trained.costs, complete, domains or {}, options), (
        trained.router
    )


def simulate_testing(
    llms: LLMRouter,
    dataset: LLMDataset,
    encoder: Encoder,
    domains: Mapping[str, str] | None,
    options: TeamOptions,
    vectors: FloatArray | None = None,
) -> SimulatedPool:
    """Return a simulator over queries that ``llms`` was not trained on.

    Arguments and errors as for `evaluate_teams` and `simulate_training`.
    """
    data = dataset.pool(llms.names)
    vectors = encoder.encode(data.queries) if vectors is None else vectors
    if domains is None and data.tasks:
        domains = guess_domains(options, encoder, data.tasks, vectors)
    quality, costs = llms.predict(data.queries, vectors)
    inputs = TeamInputs(vectors.astype(np.float64), quality, costs)
    complete = np.asarray(~(np.isnan(data.scores) | np.isnan(data.costs)).any(axis=1))
    return _simulated(data, inputs, data.costs, complete, domains or {}, options)


def _simulated(
    data: LLMDataset,
    inputs: TeamInputs,
    costs: _Array,
    complete: npt.NDArray[np.bool_],
    domains: Mapping[str, str],
    options: TeamOptions,
) -> SimulatedPool:
    if not complete.any():
        raise InvalidDataError(
            f"no query was scored on all of {list(data.llms)}; the simulator needs such rows."
        )
    kept = np.flatnonzero(complete)
    tasks = data.tasks or ("",) * len(data)
    named = [domains.get(tasks[row], "") for row in kept.tolist()]
    simulator = TeamSimulator(data.scores[kept], costs[kept], named, options)
    return SimulatedPool(inputs.take(kept), simulator, data.llms)


def evaluate_teams(
    router: TeamRouter,
    llms: LLMRouter,
    dataset: LLMDataset,
    domains: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return how planned teams do on queries that the router was not trained on, SIMULATED.

    Args:
        router: Trained on other queries.
        llms: The LLM router it plans with.
        dataset: With score and cost of each LLM of its pool.
        domains: True task domain of each task; None guesses.
        seed: Of the simulated outcomes.
        progress: Called after each rate at which plans were made.

    Returns:
        ``simulated`` (always True), ``curve`` of [USD, quality] by rate, ``preferences``,
        ``baselines`` and ``n_test``.

    Raises:
        InvalidDataError: No column for an LLM of the pool, or no complete query.
    """
    pool = simulate_testing(llms, dataset, router.encoder, domains, router.parts.options)
    found = []
    for done, rate in enumerate(RATES, 1):
        found.append(_at_rate(router, pool, rate))
        if progress is not None:
            progress("planning", done, len(RATES))
    strongest = pool.llms.index(llms.best_single)
    planned = {name: _chosen(found, wanted) for name, wanted in _PREFERENCES.items()}
    fixed = baseline_plans(pool, router.planner.tables, strongest)
    return {
        "simulated": True,
        "n_test": len(pool.inputs),
        "curve": [_point(pool, each.plans, seed)[::-1] for each in found],
        "preferences": {name: _named(pool, plans, seed) for name, plans in planned.items()},
        "baselines": {name: _named(pool, plans, seed) for name, plans in fixed.items()},
    }


def _at_rate(router: TeamRouter, pool: SimulatedPool, rate: float) -> Candidates:
    rates = np.full(len(pool.inputs), rate)
    plans = router.parts.policy.rollout(router.planner.tables, pool.inputs, rates).plans
    quality = router.parts.value.predict(router.planner.tables, pool.inputs, plans)
    return Candidates(plans, quality, plans.cost(pool.inputs.costs))


def _chosen(found: Sequence[Candidates], wanted: Preference) -> PlanBatch:
    """Return each query's plan among those of all rates, as `TeamRouter.plan` picks it."""
    costs = np.stack([each.costs for each in found], axis=1)
    quality = np.stack([each.quality for each in found], axis=1)
    column, n = choose(costs, quality, wanted), len(costs)
    return PlanBatch.joined([each.plans for each in found]).take(column * n + np.arange(n))


def _point(pool: SimulatedPool, plans: PlanBatch, seed: int) -> list[float]:
    quality, cost = measure(pool, plans, seed)
    return [float(quality.mean()), float(cost.mean())]


def _named(pool: SimulatedPool, plans: PlanBatch, seed: int) -> dict[str, float]:
    quality, cost = _point(pool, plans, seed)
    return {"quality": quality, "cost": cost, "calls": float(plans.calls.sum(axis=1).mean())}


_REPAIR_DRAWS = 10
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
    plans = parts.policy.rollout(tables, pool.inputs, np.full(n, RATES[rate])).plans
    targets = {
        sign: _escalations(parts, tables, pool, plans, doubt) for sign, doubt in _DOUBTS.items()
    }
    rng, rows = np.random.default_rng(seed), np.arange(n)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(_REPAIR_DRAWS):
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
            rollout = parts.policy.rollout(tables, inputs, np.full(n, rate), allowed=only)
            batches.append(rollout.plans)
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
