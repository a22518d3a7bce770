"""The decisions of a cascade, who takes them, and what they may fall on; pure values.

Knows no parameter: a `Step` holds logits that someone computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moma_core.errors import NoTargetError
from moma_core.teams.network import Scored
from moma_core.teams.options import TeamOptions
from moma_core.teams.plans import PlanBatch

__all__ = ["Allowed", "Choose", "Step", "Walk", "allowed_without", "forced", "greedy", "sampled"]

_Array = npt.NDArray[np.float64]
_Index = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One decision of the cascade for some rows.

    Args:
        stage: ``"domain"``, ``"mode"``, ``"size"``, ``"role"`` or ``"llm"``.
        seat: Which seat, 0 for stages without.
        rows: Which plans it is taken for, shape (b,).
        logits: -inf where an option is not allowed, shape (b, O).
        scored: For the gradient.
        chosen: Picked options, shape (b,).
    """

    stage: str
    seat: int
    rows: _Index
    logits: _Array
    scored: Scored
    chosen: _Index

    @property
    def log_probabilities(self) -> _Array:
        """Of every option, -inf where not allowed, shape (b, O)."""
        top = self.logits - self.logits.max(axis=1, keepdims=True)
        logs: _Array = top - np.log(np.exp(top).sum(axis=1, keepdims=True))
        return logs


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """Plans with the steps that led to them.

    Args:
        plans: B plans.
        steps: In order; a row need not take part in every one.
        hidden: The shared layer's output, shape (B, 32).
        vectors: Its input, shape (B, d).
    """

    plans: PlanBatch
    steps: tuple[Step, ...]
    hidden: _Array
    vectors: _Array

    @property
    def log_probability(self) -> _Array:
        """Of each plan given its query and domain, shape (B,)."""
        total = np.zeros(len(self.plans))
        for step in self.steps:
            if step.stage != "domain":
                picked = step.log_probabilities[np.arange(len(step.rows)), step.chosen]
                total[step.rows] += picked
        return total


@dataclass(frozen=True, slots=True, eq=False)
class Allowed:
    """What may be chosen now; None means everything.

    Args:
        modes: Shape (M,).
        roles: Of the domain's pool, shape (R,).
        seats: The role of each seat, shape (S,), instead of choosing any.
        llms: Shape (m,).
    """

    modes: npt.NDArray[np.bool_] | None = None
    roles: npt.NDArray[np.bool_] | None = None
    seats: _Index | None = None
    llms: npt.NDArray[np.bool_] | None = None


def allowed_without(options: TeamOptions, llms: Sequence[str], exclude: Collection[str]) -> Allowed:
    """Return what is left; names that are none of these are ignored.

    Args:
        options: Modes and roles.
        llms: Names of the LLMs.
        exclude: Names of LLMs, roles and modes; one text is one name.

    Raises:
        NoTargetError: No LLM, no mode, or no role of some domain is left.
    """
    names = frozenset([exclude] if isinstance(exclude, str) else exclude)
    left = {
        "LLM": np.array([name not in names for name in llms], bool),
        "mode": np.array([mode.name not in names for mode in options.modes], bool),
    }
    for what, kept in left.items():
        if not kept.any():
            raise NoTargetError(
                f"no {what} is left among {len(kept)}. Add one, or exclude fewer names."
            )
    roles = np.array([role.name not in names for role in options.roles], bool)
    for number, domain in enumerate(options.domains):
        if not roles[options.role_domains == number].any():
            raise NoTargetError(
                f"every role of domain {domain!r} is excluded. Leave one, or add one with "
                "router.adding(RoleCard(...))."
            )
    return Allowed(modes=left["mode"], roles=roles, llms=left["LLM"]) if names else Allowed()


Choose = Callable[[Step], _Index]
"""Picks one option a row of a step, shape (b,)."""


def greedy(step: Step) -> _Index:
    """Pick the likeliest option."""
    best: _Index = step.logits.argmax(axis=1)
    return best


def sampled(rng: np.random.Generator) -> Choose:
    """Return a chooser that draws by probability (the Gumbel trick); domains stay greedy."""

    def choose(step: Step) -> _Index:
        if step.stage == "domain":
            return greedy(step)
        best: _Index = (step.logits + rng.gumbel(size=step.logits.shape)).argmax(axis=1)
        return best

    return choose


def forced(plans: PlanBatch, sizes: _Index) -> Choose:
    """Return a chooser that follows given plans; ``sizes`` as in `Tables`."""
    by_size = {(n, r): g for g, (n, r) in enumerate(sizes.tolist())}
    size = np.array([by_size[n, r] for n, r in zip(plans.size, plans.rounds, strict=True)], np.intp)

    def choose(step: Step) -> _Index:
        columns = {"domain": plans.domain, "mode": plans.mode, "size": size}
        if step.stage in columns:
            return columns[step.stage][step.rows]
        seats = plans.roles if step.stage == "role" else plans.llms
        column: _Index = seats[step.rows, step.seat]
        return column

    return choose
