"""MoMA's third outcome: a team instead of one LLM, when the expected gain is worth its cost.

Receives the decision for one LLM and returns it, or the team's. Knows no agent.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace

from moma_core.errors import NoTargetError
from moma_core.teams.router import TeamRouter
from moma_core.types import FloatArray, Preference, RoutingDecision

__all__ = ["team_instead"]


def team_instead(
    teams: TeamRouter,
    decision: RoutingDecision,
    text: str,
    vector: FloatArray,
    preference: Preference,
    exclude: Collection[str] = (),
) -> RoutingDecision:
    """Return the decision for a team when `TeamRouter.improves` on the one for an LLM, else that.

    The team's targets are its LLMs, each once. A plan of one member is no team, and a budget below
    every team leaves the LLM.

    Args:
        teams: Plans.
        decision: For one LLM.
        text: The query's words.
        vector: Its vector, shape (d,).
        preference: What to optimise.
        exclude: LLMs that may not take part now; other names are ignored.
    """
    kept = [name for name in exclude if name in teams.llms.names]
    with suppress(NoTargetError):
        plan = teams.plan_encoded(text, vector, preference, exclude=kept)
        if len(plan.members) == 1:
            return decision
        single = teams.alone(text, vector, decision.target)
        quality = decision.probability if single is None else single.quality
        cost = decision.cost or 0.0
        if teams.improves(plan, quality, cost, preference):
            return replace(
                decision,
                kind="team",
                targets=plan.llms,
                probability=plan.quality,
                cost=plan.cost,
                team=plan,
                reason=f"a team adds {plan.quality - quality:.2f} of expected quality for "
                f"${plan.cost - cost:.6f} more than {decision.target!r}: {plan.reason}",
            )
    return decision
