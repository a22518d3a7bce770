"""From predictions and an environment to a trained team router's parts.

First the cascade by REINFORCE, then the quality of plans from fresh runs of its own plans and of
random ones, so that plans it would not choose are priced too. Deterministic by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError
from moma_core.teams.checkpoint import TeamParts
from moma_core.teams.features import Tables, TeamInputs
from moma_core.teams.options import TeamOptions
from moma_core.teams.plans import PlanBatch
from moma_core.teams.policy import Policy
from moma_core.teams.steps import Allowed, greedy, sampled
from moma_core.teams.training import RATES, Environment, Progress, TrainConfig, reinforce
from moma_core.teams.value import TeamValue

__all__ = ["domain_labels", "fit_teams", "fit_value"]

_Index = npt.NDArray[np.intp]


def fit_teams(
    options: TeamOptions,
    inputs: TeamInputs,
    environment: Environment,
    domains: Sequence[str],
    unit: float,
    config: TrainConfig | None = None,
    seed: int = 0,
    allowed: Allowed | None = None,
    progress: Progress | None = None,
    notes: Mapping[str, Any] | None = None,
) -> TeamParts:
    """Train a cascade and a value for an LLM pool.

    Args:
        options: Modes and roles.
        inputs: n training queries, predicted by heads that did not see them.
        environment: Runs plans on them: `TeamSimulator`, or a harness around real teams.
        domains: True task domain of each query, "" where not known, length n.
        unit: USD that rates refer to: the mean cost of the best single LLM.
        config: How long and how boldly.
        seed: Of every draw.
        allowed: What may be chosen (for ablations).
        progress: Called after each step.
        notes: JSON-like facts to keep.

    Raises:
        InvalidDataError: No query, a domain without a role, or a unit that is no money.
    """
    if not unit > 0:
        raise InvalidDataError(
            f"the unit is the mean cost of the best single LLM in USD, more than 0, got {unit!r}. "
            "A pool that costs nothing needs no rates: give 1e-6."
        )
    labels, config = domain_labels(options, domains), config or TrainConfig()
    rng = np.random.default_rng(seed)
    policy = Policy.start(inputs.vectors.shape[1], unit, rng)
    tables = Tables.of(options, policy.projection)
    history = reinforce(policy, tables, inputs, environment, labels, config, rng, allowed, progress)
    value = fit_value(policy, tables, inputs, environment, rng, config.priced, allowed)
    last = history[-max(len(history) // 10, 1) :]
    facts = {
        "seed": seed,
        "queries": len(inputs),
        "steps": config.steps,
        "last_utility": round(float(np.mean(last)), 4),
        **(notes or {}),
    }
    return TeamParts(options, policy, value, facts).rounded()


def domain_labels(options: TeamOptions, domains: Sequence[str]) -> _Index:
    """Return positions in ``options.domains``, -1 for "", shape (n,).

    Raises:
        InvalidDataError: A domain has no role.
    """
    for name in dict.fromkeys(domains):
        if name and name not in options.domains:
            raise InvalidDataError(
                f"no role has the domain {name!r}; there are {list(options.domains)}. Add a "
                f"RoleCard(..., domain={name!r}), or map the task to one of these."
            )
    return np.array([options.domains.index(name) if name else -1 for name in domains], np.intp)


def fit_value(
    policy: Policy,
    tables: Tables,
    inputs: TeamInputs,
    environment: Environment,
    rng: np.random.Generator,
    runs: int = 24_000,
    allowed: Allowed | None = None,
) -> TeamValue:
    """Learn the quality of plans from one run each of greedy, drawn and random plans.

    Args:
        policy: Makes the plans.
        tables: The options.
        inputs: n queries.
        environment: Runs plans on them.
        rng: Of every draw.
        runs: How many, a third of each kind.
        allowed: What may be chosen.
    """
    rows = rng.integers(len(inputs), size=runs // 3 * 3)
    rates = rng.choice(RATES, size=len(rows))
    flat = Policy({k: np.zeros_like(v) for k, v in policy.params.items()}, policy.projection,
                  policy.unit)  # fmt: skip
    ways = ((policy, greedy), (policy, sampled(rng)), (flat, sampled(rng)))
    plans, third = [], runs // 3
    for number, (each, choose) in enumerate(ways):
        part = slice(number * third, (number + 1) * third)
        walk = each.walk(tables, inputs.take(rows[part]), rates[part], choose, allowed)
        plans.append(walk.plans)
    joined = PlanBatch.joined(plans)
    right = environment.run(rows, joined, rng).right
    return TeamValue.fit(tables, inputs.take(rows), joined, right)
