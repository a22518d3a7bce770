"""Predicts the quality of a plan on a query: a logistic regression on numbers of both.

It prices the answer that a plan would give, so that plans can be compared, kept within a budget and
escalated. Learnt from outcomes, simulated or logged; knows not how they came about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.teams.features import Tables, TeamInputs
from moma_core.teams.plans import PlanBatch

__all__ = ["TeamValue"]

_Array = npt.NDArray[np.float64]
_MODE_AXES = 8


@dataclass(frozen=True, slots=True, eq=False)
class TeamValue:
    """Quality as a logistic function of plan features, whose number no new option changes.

    Args:
        weights: Shape (f,).
        centre: Mean of each feature in training, shape (f,).
        scale: Its spread, shape (f,).
    """

    weights: _Array
    centre: _Array
    scale: _Array

    @classmethod
    def fit(
        cls,
        tables: Tables,
        inputs: TeamInputs,
        plans: PlanBatch,
        right: _Array,
        penalty: float = 3.0,
    ) -> TeamValue:
        """Fit on B plans, the query of each (B rows of ``inputs``), and their quality in [0, 1]."""
        from scipy.optimize import minimize

        raw = _features(tables, inputs, plans)
        centre, scale = raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-6)
        centre[0], scale[0] = 0.0, 1.0  # the constant stays one
        design = (raw - centre) / scale
        strength = np.full(raw.shape[1], penalty)
        strength[0] = 0.0

        def objective(weights: _Array) -> tuple[float, _Array]:
            logits = design @ weights
            loss = np.logaddexp(0.0, logits) - right * logits
            slope = design.T @ (_sigmoid(logits) - right) + strength * weights
            return float(loss.sum() + 0.5 * strength @ weights**2), slope

        found = minimize(
            objective, np.zeros(len(centre)), jac=True, method="L-BFGS-B", options={"maxiter": 200}
        )
        return cls(found.x, centre, scale)

    def predict(self, tables: Tables, inputs: TeamInputs, plans: PlanBatch) -> _Array:
        """Return the chance that each plan's answer is right, in (0, 1), shape (B,)."""
        design = (_features(tables, inputs, plans) - self.centre) / self.scale
        return _sigmoid(design @ self.weights)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""
        return {"weights": self.weights, "centre": self.centre, "scale": self.scale}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> TeamValue:
        """Rebuild from `arrays`."""
        return cls(arrays["weights"], arrays["centre"], arrays["scale"])


def _features(tables: Tables, inputs: TeamInputs, plans: PlanBatch) -> _Array:
    """One, members' logits in several ways, team numbers, and those by mode axis, shape (B, f)."""
    quality = np.clip(inputs.quality, 0.02, 0.98)
    logits = np.log(quality / (1.0 - quality))
    seats = np.maximum(plans.llms, 0)
    rows = np.arange(len(plans))
    each, here = logits[rows[:, None], seats], plans.seated
    members = plans.size.astype(np.float64)
    mean = np.where(here, each, 0.0).sum(axis=1) / members
    best, worst = np.where(here, each, -9.0).max(axis=1), np.where(here, each, 9.0).min(axis=1)
    last = each[rows, plans.size - 1]
    roles = np.maximum(plans.roles, 0)
    likeness = (inputs.vectors @ tables.whole["role"].T)[rows[:, None], roles]
    liked = np.where(here, likeness, 0.0).sum(axis=1) / members
    team = np.stack(
        [
            np.ones(len(plans)), each[:, 0], last, mean, best, worst, inputs.difficulty,
            np.log(members), plans.rounds - 1.0, _repeats(plans.llms) / members,
            _repeats(plans.roles) / members, liked, np.log(plans.length),
            inputs.quality.max(axis=1),
        ],
        axis=1,
    )  # fmt: skip
    axes = tables.modes[plans.mode][:, :_MODE_AXES]
    by_mode = axes[:, :, None] * team[:, None, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]]
    return np.concatenate([team, by_mode.reshape(len(plans), -1)], axis=1)


def _repeats(names: npt.NDArray[np.intp]) -> _Array:
    """How many seats hold what an earlier seat holds, shape (B,)."""
    again = np.zeros(len(names))
    for seat in range(1, names.shape[1]):
        seen = (names[:, :seat] == names[:, seat : seat + 1]).any(axis=1)
        again += seen & (names[:, seat] >= 0)
    return again


def _sigmoid(values: _Array) -> _Array:
    squashed: _Array = 0.5 * (1.0 + np.tanh(0.5 * values))
    return squashed
