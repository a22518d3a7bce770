"""How planned teams do on scored queries, with SIMULATED outcomes (`teams.simulator`).

Trains a team router beside an LLM router, and replays plans and baselines in the simulator. No LLM
is asked, so every figure says "simulated".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError
from moma_core.evaluation.simulated import SimulatedPool, baseline_plans, measure
from moma_core.llm_routing.dataset import LLMDataset
from moma_core.llm_routing.router import LLMRouter
from moma_core.llm_routing.training import train_pool
from moma_core.protocols import Encoder
from moma_core.selection import choose
from moma_core.teams.candidates import Candidates
from moma_core.teams.features import TeamInputs
from moma_core.teams.fitting import fit_teams
from moma_core.teams.options import TeamOptions
from moma_core.teams.plans import PlanBatch
from moma_core.teams.router import TeamRouter
from moma_core.teams.simulator import TeamSimulator
from moma_core.teams.training import RATES, Progress, TrainConfig
from moma_core.types import Auto, Cost, FloatArray, Performance, Preference

__all__ = [
    "evaluate_teams",
    "guess_domains",
    "simulate_testing",
    "simulate_training",
    "train_teams",
]

_PREFERENCES: dict[str, Preference] = {
    "performance": Performance(),
    "auto": Auto(),
    "cost": Cost(),
}
_Array = npt.NDArray[np.float64]


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
    pool, llms = simulate_training(dataset, encoder, domains, options, seed, progress)
    unit = float(pool.simulator.costs[:, pool.best_single].mean())
    notes = {"simulated": True, "llms": list(pool.llms), "data_sha256": dataset.fingerprint()}
    parts = fit_teams(
        options,
        pool.inputs,
        pool.simulator,
        pool.simulator.domains,
        max(unit, 1e-9),
        config,
        seed,
        progress=progress,
        notes=notes,
    )
    return TeamRouter(encoder, llms, parts), llms


def simulate_training(
    dataset: LLMDataset,
    encoder: Encoder,
    domains: Mapping[str, str] | None,
    options: TeamOptions,
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
    plans = router.parts.policy.walk(router.planner.tables, pool.inputs, rates).plans
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
