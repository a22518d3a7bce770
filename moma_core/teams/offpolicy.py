"""What a policy would earn, from plans that another one drew: no team is run.

Inverse propensity scoring reweights the logged utilities by how much likelier the new policy is to
draw each plan; the direct method trusts a value model; doubly robust adds to it the reweighted
error of the model and is right when either of the two is. Logged plans must have been *drawn*.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moma_core.teams.features import Tables, TeamInputs
from moma_core.teams.logged import LoggedPlans
from moma_core.teams.policy import Policy
from moma_core.teams.steps import Choose, forced, sampled
from moma_core.teams.value import TeamValue

__all__ = ["OffPolicy", "estimate", "importance"]

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OffPolicy:
    """Estimates of mean utility.

    Args:
        ips: Inverse propensity scoring, weights clipped.
        snips: The same, normalised by the weights' sum: less spread, slightly biased.
        direct: The value model's word alone.
        doubly_robust: The model's word plus the reweighted error.
        effective: Effective number of logged plans, ``(sum w)^2 / sum w^2``; below some dozens the
            first two are noise.
    """

    ips: float
    snips: float
    direct: float
    doubly_robust: float
    effective: float


def importance(new: _Array, old: _Array, most: float = 50.0) -> _Array:
    """Return likelihood ratios from log-probabilities, at most ``most``, shape (B,).

    Example:
        >>> importance(np.log([0.2, 0.9]), np.log([0.1, 0.001])).tolist()
        [2.0, 50.0]
    """
    ratio: _Array = np.exp(np.minimum(new - old, np.log(most)))
    return ratio.round(12)


def estimate(
    policy: Policy,
    tables: Tables,
    inputs: TeamInputs,
    logged: LoggedPlans,
    value: TeamValue,
    rng: np.random.Generator,
    samples: int = 8,
    most: float = 50.0,
) -> OffPolicy:
    """Estimate the mean utility of plans drawn from ``policy`` at the logged rates.

    Args:
        policy: To be judged.
        tables: The options.
        inputs: The query of each logged plan, B rows.
        logged: Plans drawn by another policy, with their log-probabilities.
        value: Predicts the quality of plans.
        rng: Draws the policy's own plans for the direct method.
        samples: Of those, for each query.
        most: Largest weight.
    """
    walk = policy.walk(tables, inputs, logged.rates, forced(logged.plans, tables.sizes))
    weight = importance(walk.log_probability, logged.log_probability, most)
    earned, price = logged.utility(policy.unit), logged.rates / policy.unit
    believed = value.predict(tables, inputs, logged.plans) - price * logged.plans.cost(inputs.costs)
    expected = np.mean(
        [_believed(policy, tables, inputs, logged.rates, value, sampled(rng))
         for _ in range(samples)],
        axis=0,
    )  # fmt: skip
    return OffPolicy(
        ips=float((weight * earned).mean()),
        snips=float((weight * earned).sum() / max(weight.sum(), 1e-12)),
        direct=float(expected.mean()),
        doubly_robust=float((expected + weight * (earned - believed)).mean()),
        effective=float(weight.sum() ** 2 / max((weight**2).sum(), 1e-12)),
    )


def _believed(
    policy: Policy,
    tables: Tables,
    inputs: TeamInputs,
    rates: _Array,
    value: TeamValue,
    choose: Choose,
) -> _Array:
    """Utility that the value model expects of plans drawn by the policy, shape (B,)."""
    plans = policy.walk(tables, inputs, rates, choose).plans
    quality = value.predict(tables, inputs, plans)
    expected: _Array = quality - rates / policy.unit * plans.cost(inputs.costs)
    return expected
