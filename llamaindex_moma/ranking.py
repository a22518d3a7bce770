"""Asks a router's agent ranker for one query: who fits, who comes next, and how surely.

A decision of the core shows ten candidates; here the list is as long as wanted. Knows the names it
may choose among, and nothing of engines, tools or workflows.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache

from moma_core import Candidate, Encoder, InvalidInputError, MiniLMEncoder, MoMARouter, Query
from moma_core.types import Deferred, Handled

__all__ = [
    "CLOSED_LIST",
    "Ranking",
    "check_least",
    "packaged_encoder",
    "rank",
]

CLOSED_LIST = 0.25
"""Default for the least probability to accept; see `docs/llamaindex.md` for how it was found."""

_NEAR = 0.5  # share of the best score from which on a rival may be wanted as well


@cache
def packaged_encoder() -> Encoder:
    """Return the packaged encoder: one for all selectors and retrievers of a process."""
    return MiniLMEncoder()


@dataclass(frozen=True)
class Ranking:
    """Candidates for one query.

    Args:
        candidates: Best first, their scores adding up to at most 1; empty when nobody is eligible.
        probability: Calibrated chance that the best one is right.
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


def rank(
    router: MoMARouter,
    text: str,
    names: Collection[str],
    count: int,
    *,
    least: float | None,
    several: bool = False,
) -> Ranking:
    """Return at least ``count`` candidates, or as many as there are.

    Args:
        router: Ranks.
        text: The query's words.
        names: The agents that may be chosen; all others are left out.
        count: How many candidates are wanted.
        least: Probability from which on the best candidate fits; None asks the router's gate.
        several: Whether a query may need several agents. Two that share a query each take half of
            the probability, so the best one is then judged without the others that stand near it.

    Raises:
        InvalidQueryError: ``text`` is blank.

    Example:
        >>> from moma_core import AgentCard
        >>> cards = [AgentCard("rain", "Weather and rain"), AgentCard("soup", "Cooking soup")]
        >>> router = MoMARouter.from_cards(cards, llms=None, encoder=packaged_encoder())
        >>> ranking = rank(router, "rain today?", ["rain", "soup"], 2, least=0.2)
        >>> [candidate.name for candidate in ranking.candidates]
        ['rain', 'soup']
    """
    start = time.perf_counter()
    vectors = router.encoder.encode([Query.of(text).text])
    left_out = set(router.agents.names).difference(names)

    def ask(also: Collection[str] = ()) -> Handled | Deferred:
        [outcome] = router.agent_router.route_batch([text], vectors, left_out.union(also))
        return outcome

    outcome = ask()
    candidates = list(outcome.candidates)
    while candidates and len(candidates) < count:
        more = ask({candidate.name for candidate in candidates}).candidates
        if not more:
            break
        # Shares among those left, brought back to shares among all.
        mass = max(0.0, 1.0 - sum(candidate.score for candidate in candidates))
        candidates += [replace(candidate, score=candidate.score * mass) for candidate in more]
    judged = outcome
    if several and not _fits(outcome, least):
        near = [c.name for c in candidates[1:] if c.score >= _NEAR * candidates[0].score]
        judged = ask(near) if near else outcome
    fits, ms = _fits(judged, least), (time.perf_counter() - start) * 1e3
    reason = "" if fits else _why(outcome, least)
    return Ranking(tuple(candidates), judged.probability, fits, reason, ms)


def _fits(outcome: Handled | Deferred, least: float | None) -> bool:
    if least is None or not outcome.candidates:
        return isinstance(outcome, Handled)
    return outcome.probability >= least


def _why(outcome: Handled | Deferred, least: float | None) -> str:
    if isinstance(outcome, Deferred) and (least is None or not outcome.candidates):
        return outcome.reason
    return (
        f"the nearest, {outcome.candidates[0].name!r}, is right with probability "
        f"{outcome.probability:.2f} and {least or 0.0:.2f} is needed"
    )
