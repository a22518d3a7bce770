"""The next step up after a mode that was wrong: a walk along the predicted cost-quality front."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moma_core.selection import pareto_front
from moma_core.teams.candidates import Candidates

__all__ = ["MARK", "doubted", "next_on_front"]

MARK = "escalated from"
"""How the reason of an escalated plan begins; such a plan is not escalated again."""


def doubted(quality: float, doubt: float) -> float:
    """Return the chance that an answer is right after a sign of trouble.

    Args:
        quality: The chance before.
        doubt: What the sign does to the odds; see `Signal.doubt`.

    Example:
        >>> round(doubted(0.8, 0.25), 3)
        0.5
    """
    odds = doubt * quality / max(1.0 - quality, 1e-9)
    return odds / (1.0 + odds)


def next_on_front(
    found: Candidates,
    other: npt.NDArray[np.bool_],
    quality: float,
    doubt: float,
    left: float = np.inf,
) -> int | None:
    """Return the cheapest plan of another mode on the front that is as good as was hoped for.

    Where there is none, the best one on the front, if it is better than the doubted answer.

    Args:
        found: The alternatives.
        other: Which of them use another mode than the plan that was run, shape (B,).
        quality: Predicted quality of the plan that was run, before its trouble.
        doubt: What the trouble does to the odds that its answer is right.
        left: USD that may be spent on the next plan.

    Returns:
        A position, or None when there is no such plan.
    """
    fits = np.flatnonzero(other & (found.costs <= left))
    if not len(fits):
        return None
    front = fits[pareto_front(found.costs[fits], found.quality[fits])]  # cheapest first
    hoped = front[found.quality[front] >= quality]
    if len(hoped):
        return int(hoped[0])
    best = int(front[-1])
    return best if found.quality[best] > doubted(quality, doubt) else None
