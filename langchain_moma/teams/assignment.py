"""Which LLM plays which role: the most weighted quality that a budget buys for all roles together.

A multiple-choice knapsack, solved greedily over the convex hull of (cost, quality): the steps up
with the most quality for a dollar are taken first. Pure arithmetic; knows no router.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from moma_core import Candidate

__all__ = ["RoleShare", "assign"]


class RoleShare(NamedTuple):
    """How much a role matters.

    Args:
        weight: Of its LLM's quality.
        calls: How often it is asked for one query.
    """

    weight: float = 1.0
    calls: float = 1.0


class _Raise(NamedTuple):
    """One step up for one role."""

    slope: float
    role: str
    rung: int
    added: float


def assign(
    candidates: Sequence[Candidate], roles: Mapping[str, RoleShare], budget: float
) -> dict[str, Candidate]:
    """Return an LLM for each role.

    Args:
        candidates: The LLMs with predicted quality and USD of one call.
        roles: At least one.
        budget: USD for all calls together. Below the cheapest of all it buys the cheapest.

    Example:
        >>> llms = [Candidate("small", 0.6, 0.001), Candidate("large", 0.9, 0.01)]
        >>> roles = {"coder": RoleShare(2.0), "reviewer": RoleShare(0.5)}
        >>> {role: llm.name for role, llm in assign(llms, roles, 0.012).items()}
        {'coder': 'large', 'reviewer': 'small'}
    """
    rungs = _hull(candidates)
    at = dict.fromkeys(roles, 0)
    left = budget - sum(share.calls for share in roles.values()) * (rungs[0].cost or 0.0)
    # Slopes fall along a hull, so sorting keeps each role's steps in order.
    for step in sorted(_raises(rungs, roles), key=lambda step: step.slope, reverse=True):
        if step.added <= left * (1 + 1e-9) and at[step.role] == step.rung - 1:
            at[step.role], left = step.rung, left - step.added
    return {role: rungs[rung] for role, rung in at.items()}


def _hull(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the upper convex hull of quality over cost, the cheapest LLM first."""
    hull: list[Candidate] = []
    for llm in sorted(candidates, key=lambda one: (one.cost or 0.0, -one.score)):
        if hull and llm.score <= hull[-1].score:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], llm):
            hull.pop()
        hull.append(llm)
    return hull


def _slope(low: Candidate, high: Candidate) -> float:
    added = (high.cost or 0.0) - (low.cost or 0.0)
    return float("inf") if added <= 0 else (high.score - low.score) / added


def _raises(rungs: Sequence[Candidate], roles: Mapping[str, RoleShare]) -> list[_Raise]:
    return [
        _Raise(
            _slope(rungs[i - 1], rungs[i]) * share.weight / share.calls,
            role,
            i,
            ((rungs[i].cost or 0.0) - (rungs[i - 1].cost or 0.0)) * share.calls,
        )
        for role, share in roles.items()
        for i in range(1, len(rungs))
    ]
