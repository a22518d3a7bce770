"""Which of the choices at hand fit a query, by `MoMARouter.rank`, and from when on the best does."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from moma_core import Candidate, Encoder, InvalidInputError, MoMARouter, Query, RoutingEncoder
from moma_core.types import Ranking

__all__ = [
    "CLOSED_LIST",
    "Judged",
    "check_least",
    "judge",
    "packaged_encoder",
]

CLOSED_LIST = 0.25
"""Default for the least probability to accept; see `docs/llamaindex.md` for how it was found."""

K = 10  # candidates shown at least
K = 10  # candidates that an event shows at least
_NEAR = 0.5  # share of the best score from which on a rival may be wanted as well


@cache
def packaged_encoder() -> Encoder:
    """Return the packaged encoder: one for all selectors and retrievers of a process."""
    return RoutingEncoder()


@dataclass(frozen=True)
class Judged:
    """Candidates for one query, and whether the best one fits well enough.

    Args:
        candidates: Best first, as in `moma_core.types.Ranking`; empty when nobody is eligible.
        probability: Calibrated probability that the best one is right.
        fits: Whether that is enough.
        reason: Why nobody fits; empty when somebody does.
        ms: Milliseconds that it took.
    """

    candidates: tuple[Candidate, ...]
    probability: float
    fits: bool
    reason: str
    ms: float


def check_least(probability: float | None) -> None:
    """Refuse a least probability that is none.

    Raises:
        InvalidInputError: It does not lie in [0, 1].
    """
    if probability is not None and not 0.0 <= probability <= 1.0:
        raise InvalidInputError(
            f"min_probability lies in [0, 1], or is None for the router's own, got {probability!r}."
        )


def judge(
    router: MoMARouter,
    text: str,
    names: Collection[str],
    count: int,
    *,
    least: float | None,
    several: bool = False,
) -> Judged:
    """Rank the agents in ``names`` and say whether the best one fits.

    Args:
        router: Ranks.
        text: The query's words.
        names: The agents that may be chosen; all others are left out.
        count: How many candidates are wanted at most.
        least: Probability from which on the best candidate fits; None asks the router's gate.
        several: Whether a query may need several agents. Two that share a query each take half of
            the probability, so the best one is then judged without the others that stand near it.

    Raises:
        InvalidQueryError: ``text`` is blank.

    Example:
        >>> from moma_core import AgentCard
        >>> cards = [AgentCard("rain", "Weather and rain"), AgentCard("soup", "Cooking soup")]
        >>> router = MoMARouter.from_cards(cards, llms=None, encoder=packaged_encoder())
        >>> judged = judge(router, "rain today?", ["rain", "soup"], 2, least=0.2)
        >>> [candidate.name for candidate in judged.candidates]
        ['rain', 'soup']
    """
    start = time.perf_counter()
    query = Query.of(text)
    ranking = router.rank(query, max(count, K), names)
    alone = ranking
    if several and ranking and not _fits(ranking, least):
        near = [c.name for c in ranking[1:] if c.score >= _NEAR * ranking[0].score]
        alone = router.rank(query, 1, names, exclude=near) if near else ranking
    fits, ms = _fits(alone, least), (time.perf_counter() - start) * 1e3
    reason = "" if fits else _why(ranking, least)
    return Judged(ranking.candidates, alone.best_probability, fits, reason, ms)


def _fits(ranking: Ranking, least: float | None) -> bool:
    if least is None or not ranking:
        return ranking.fits
    return ranking.best_probability >= least


def _why(ranking: Ranking, least: float | None) -> str:
    if not ranking.fits and (least is None or not ranking):
        return ranking.reason
    return (
        f"the nearest, {ranking[0].name!r}, is right with probability "
        f"{ranking.best_probability:.2f} and {least or 0.0:.2f} is needed"
    )
