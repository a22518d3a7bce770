"""How probable the best of a ranking must be before it is taken."""

from __future__ import annotations

from dataclasses import replace

from moma_core import InvalidInputError
from moma_core.decision import Ranking
from moma_core.types import is_number

__all__ = [
    "CLOSED_LIST",
    "check_min_probability",
    "judged",
]

CLOSED_LIST = 0.35
"""Default for ``min_probability``; `docs/llamaindex.md` says how it was found."""


def check_min_probability(min_probability: float | None) -> None:
    """Refuse what is no probability.

    Raises:
        InvalidInputError: It does not lie in [0, 1].
    """
    if min_probability is None:
        return
    if not is_number(min_probability) or not 0.0 <= min_probability <= 1.0:
        raise InvalidInputError(
            "min_probability lies in [0, 1], or is None for the router's own, got "
            f"{min_probability!r}."
        )


def judged(ranking: Ranking, min_probability: float | None, *, several: bool = False) -> Ranking:
    """Return a ranking whose ``fits`` and ``reason`` follow from a threshold.

    Args:
        ranking: From `MoMARouter.rank`.
        min_probability: Least probability that the best one is right; None keeps the router's own
            judgement.
        several: Whether it is enough that some of them fit: two that share a query each have half
            of the probability.

    Example:
        >>> from moma_core import Candidate
        >>> two = Ranking((Candidate("rain", 0.4), Candidate("soup", 0.4)), 0.8, 0.4, True)
        >>> judged(two, 0.5).reason
        "the nearest, 'rain', is right with probability 0.40 and 0.50 is needed"
        >>> judged(two, 0.5, several=True).fits
        True
    """
    if min_probability is None or not ranking:
        return ranking
    probability = ranking.probability if several else ranking.best_probability
    if probability >= min_probability:
        return replace(ranking, fits=True, reason="")
    who = "any of them fits" if several else f"the nearest, {ranking[0].name!r}, is right"
    reason = f"{who} with probability {probability:.2f} and {min_probability:.2f} is needed"
    return replace(ranking, fits=False, reason=reason)
