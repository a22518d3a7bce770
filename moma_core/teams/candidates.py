"""Plans of one query that compete, and a chosen one as a `TeamPlan` explained in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moma_core.teams.features import TeamInputs
from moma_core.teams.options import TeamOptions
from moma_core.teams.plans import PlanBatch
from moma_core.types import TeamMember, TeamPlan

__all__ = ["Candidates", "explain", "team_plan"]

_Array = npt.NDArray[np.float64]


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
