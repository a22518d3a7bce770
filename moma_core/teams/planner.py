"""Competing plans of one query: the controller walked at several rates, each plan priced."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._numerics import sigmoid
from moma_core._store import read_pair, under, write_pair
from moma_core.decision import TeamMember, TeamPlan
from moma_core.errors import ArtifactError, MoMAError
from moma_core.teams.cards import ModeCard, RoleCard, TeamOptions
from moma_core.teams.features import Tables, TeamInputs
from moma_core.teams.policy import RATES, Allowed, PlanBatch, Policy

__all__ = [
    "TEAM_FILES",
    "Candidates",
    "TeamParts",
    "TeamPlanner",
    "TeamValue",
    "explain",
    "read_teams",
    "team_plan",
    "write_teams",
]

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
            grad = design.T @ (sigmoid(logits) - right) + strength * weights
            return float(loss.sum() + 0.5 * strength @ weights**2), grad

        found = minimize(
            objective, np.zeros(len(centre)), jac=True, method="L-BFGS-B", options={"maxiter": 200}
        )
        return cls(found.x, centre, scale)

    def predict(self, tables: Tables, inputs: TeamInputs, plans: PlanBatch) -> _Array:
        """Return the probability that each plan's answer is right, in (0, 1), shape (B,)."""
        design = (_features(tables, inputs, plans) - self.centre) / self.scale
        return sigmoid(design @ self.weights)

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


TEAM_FILES = "teams.json", "teams.safetensors"
_REMEDY = "Train it anew (moma train teams --data D.parquet --out DIR) or restore it from a copy."


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TeamParts:
    """What training produced and a directory holds.

    Args:
        options: Modes and roles with their vectors.
        policy: The cascade.
        value: Predicts a plan's quality.
        metadata: What it was trained on, JSON-like.
    """

    options: TeamOptions
    policy: Policy
    value: TeamValue
    metadata: dict[str, Any]

    def rounded(self) -> TeamParts:
        """Return the parts in single precision, as a file keeps them: plans agree after a load."""
        params = {name: _single(values) for name, values in self.policy.params.items()}
        policy = Policy(params, _single(self.policy.projection), self.policy.unit)
        value = TeamValue(**{name: _single(v) for name, v in self.value.arrays().items()})
        return dataclasses.replace(self, policy=policy, value=value)


def write_teams(parts: TeamParts, directory: str | Path) -> None:
    """Save the parts into ``directory``, which is made if absent; the config goes last.

    Raises:
        ArtifactError: The directory cannot be written.
    """
    arrays: dict[str, npt.NDArray[Any]] = {
        "mode_vectors": parts.options.mode_vectors,
        "role_vectors": parts.options.role_vectors,
        "projection": parts.policy.projection,
        **{f"policy.{name}": values for name, values in parts.policy.params.items()},
        **{f"value.{name}": values for name, values in parts.value.arrays().items()},
    }
    config = {
        "encoder": parts.options.fingerprint,
        "modes": [dataclasses.asdict(mode) for mode in parts.options.modes],
        "roles": [dataclasses.asdict(role) for role in parts.options.roles],
        "unit": parts.policy.unit,
        "training": parts.metadata,
    }
    singles = {name: values.astype(np.float32) for name, values in arrays.items()}
    write_pair(Path(directory), TEAM_FILES, config, singles)


def read_teams(directory: str | Path) -> TeamParts:
    """Return what `write_teams` wrote.

    Raises:
        ArtifactError: A file is missing, truncated, changed, or of another version.
    """
    config, arrays = read_pair(Path(directory), TEAM_FILES, _REMEDY)
    try:
        parts = _build(config, arrays)
        _probe(parts)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, MoMAError) as error:
        raise ArtifactError(
            f"no team router can be read from {str(directory)!r} ({type(error).__name__}: "
            f"{error}). {_REMEDY}"
        ) from error
    return parts


def _build(config: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> TeamParts:
    options = TeamOptions(
        tuple(ModeCard(**card) for card in config["modes"]),
        tuple(RoleCard(**card) for card in config["roles"]),
        arrays["mode_vectors"],
        arrays["role_vectors"],
        config["encoder"],
    )
    unit = float(config["unit"])
    if not 0.0 < unit < np.inf:
        raise ValueError(f"unit must be positive, got {unit}")
    policy = Policy(_doubles("policy.", arrays), arrays["projection"].astype(np.float64), unit)
    value = TeamValue.from_arrays(_doubles("value.", arrays))
    return TeamParts(options, policy, value, dict(config["training"]))


def _probe(parts: TeamParts) -> None:
    """Plan once, so that parts of unlike shapes are found at load and not in use."""
    from moma_core.teams.features import TeamInputs

    dimension = parts.policy.projection.shape[0]
    inputs = TeamInputs(np.zeros((1, dimension)), np.full((1, 2), 0.5), np.full((1, 2), 1e-4))
    tables = Tables.of(parts.options, parts.policy.projection)
    rollout = parts.policy.rollout(tables, inputs, np.full(1, 0.1))
    if not np.isfinite(parts.value.predict(tables, inputs, rollout.plans)).all():
        raise ValueError("predictions are not finite")


def _single(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return values.astype(np.float32).astype(np.float64)


def _doubles(prefix: str, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    return {name: values.astype(np.float64) for name, values in under(prefix, arrays).items()}


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Plans with their predicted quality and expected cost.

    Args:
        plans: B plans of one query.
        quality: Chance of a right answer, shape (B,).
        costs: Expected USD, shape (B,).
    """

    plans: PlanBatch
    quality: _Array
    costs: _Array

    def take(self, rows: npt.ArrayLike) -> Candidates:
        """Return these candidates, given as indices or as a mask."""
        kept = np.asarray(rows)
        return Candidates(self.plans.take(kept), self.quality[kept], self.costs[kept])


def team_plan(
    options: TeamOptions, llms: Sequence[str], found: Candidates, best: int, inputs: TeamInputs
) -> TeamPlan:
    """Return one candidate with names for its positions.

    Args:
        options: What the positions of modes, roles and domains mean.
        llms: What those of LLMs mean.
        found: The candidates.
        best: Which of them.
        inputs: Of the query, one row.
    """
    plans, members = found.plans, []
    for seat in range(int(plans.size[best])):
        role = options.roles[int(plans.roles[best, seat])]
        members.append(TeamMember(role.name, llms[int(plans.llms[best, seat])], role.prompt))
    return TeamPlan(
        mode=options.modes[int(plans.mode[best])].name,
        members=tuple(members),
        rounds=int(plans.rounds[best]),
        quality=float(found.quality[best]),
        cost=float(found.costs[best]),
        domain=options.domains[int(plans.domain[best])],
        difficulty=float(np.clip(inputs.difficulty[0], 0.0, 1.0)),
    )


def explain(plan: TeamPlan, preference: str) -> str:
    """Say in words why this plan.

    Example:
        >>> plan = TeamPlan("cot", (TeamMember("solver", "small"),), 1, 0.8, 1e-4, "maths", 0.3)
        >>> explain(plan, "auto")
        "a maths query of difficulty 0.30; auto picks 'cot' with solver on 'small': ... $0.000100"
    """
    seats = ", ".join(f"{member.role} on {member.llm!r}" for member in plan.members)
    turns = f" for {plan.rounds} rounds" if plan.rounds > 1 else ""
    return (
        f"a {plan.domain} query of difficulty {plan.difficulty:.2f}; {preference} picks "
        f"{plan.mode!r}{turns} with {seats}: expected quality {plan.quality:.2f} at "
        f"${plan.cost:.6f}"
    )


@dataclass(frozen=True, eq=False)
class TeamPlanner:
    """Proposes plans for one query.

    Args:
        parts: What training produced.
    """

    parts: TeamParts

    @cached_property
    def tables(self) -> Tables:
        """The options as the cascade sees them."""
        return Tables.of(self.parts.options, self.parts.policy.projection)

    def candidates(self, inputs: TeamInputs, allowed: Allowed | None = None) -> Candidates:
        """Return the plan of each rate for one query."""
        rows = inputs.take(np.zeros(len(RATES), np.intp))
        rollout = self.parts.policy.rollout(self.tables, rows, np.array(RATES), allowed=allowed)
        return self._priced(rollout.plans, rows)

    def alternatives(self, inputs: TeamInputs, allowed: Allowed | None = None) -> Candidates:
        """Return the plans of every mode at three rates for one query."""
        allowed = allowed or Allowed()
        n_modes, rates = len(self.parts.options.modes), np.array(RATES[:-2:2])
        open_modes = np.ones(n_modes, bool) if allowed.modes is None else allowed.modes
        parts = []
        rows = inputs.take(np.zeros(len(rates), np.intp))
        for mode in np.flatnonzero(open_modes):
            only = replace(allowed, modes=np.arange(n_modes) == mode)
            parts.append(self.parts.policy.rollout(self.tables, rows, rates, allowed=only).plans)
        plans = PlanBatch.joined(parts)
        return self._priced(plans, inputs.take(np.zeros(len(plans), np.intp)))

    def cheapest(self, inputs: TeamInputs, allowed: Allowed) -> Candidates:
        """Return the plan of fewest calls, on each LLM alone; ``inputs`` is of one query."""
        found = self.alternatives(inputs, allowed)
        columns = np.arange(inputs.quality.shape[1])
        columns = columns if allowed.llms is None else columns[allowed.llms]
        least = found.plans.calls.sum(axis=1) * found.plans.length
        cheapest = found.plans.take(np.flatnonzero(least == least.min())[:1])
        plans = cheapest.take(np.zeros(len(columns), np.intp))
        seats = np.where(plans.seated, columns[:, None], -1)
        return self._priced(replace(plans, llms=seats), inputs.take(np.zeros(len(plans), np.intp)))

    def _priced(self, plans: PlanBatch, rows: TeamInputs) -> Candidates:
        quality = self.parts.value.predict(self.tables, rows, plans)
        return Candidates(plans, quality, plans.cost(rows.costs))
