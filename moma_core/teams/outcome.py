"""MoMA's third outcome: a team instead of one LLM, when the expected gain is worth its cost.

Receives the decision for one LLM and returns it, or the team's. Knows no agent.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from moma_core.errors import ArtifactError, NoTargetError
from moma_core.protocols import Encoder
from moma_core.teams.checkpoint import CONFIG_FILE
from moma_core.teams.features import QualitySource
from moma_core.teams.router import TeamRouter
from moma_core.types import FloatArray, Preference, RoutingDecision

__all__ = ["load_beside", "save_beside", "team_instead"]

_FOLDER = "teams"


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


def save_beside(teams: TeamRouter | None, folder: Path) -> None:
    """Write a team router below a router's directory; None removes one that was there.

    Raises:
        ArtifactError: The directory cannot be written.
    """
    if teams is not None:
        teams.save(folder / _FOLDER)
        return
    try:
        (folder / _FOLDER / CONFIG_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot remove the teams in {folder} ({error}).") from error


def load_beside(folder: Path, encoder: Encoder, llms: QualitySource | None) -> TeamRouter | None:
    """Read what `save_beside` wrote; None when there are no teams or no LLMs.

    Raises:
        ArtifactError: A file is truncated, changed, or of another encoder.
    """
    if llms is None or not (folder / _FOLDER / CONFIG_FILE).exists():
        return None
    return TeamRouter.load(folder / _FOLDER, encoder, llms)
