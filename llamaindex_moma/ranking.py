"""Asks a router's agent ranker for one query: who fits, who comes next, and how surely.

A decision of the core shows ten candidates; here the list is as long as wanted. Knows the names it
may choose among, and nothing of engines, tools or workflows.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace

from moma_core import Candidate, Deferred, Handled, MoMARouter, Query

__all__ = ["Ranking", "rank"]


@dataclass(frozen=True)
class Ranking:
    """Candidates for one query.

    Args:
        outcome: What the core says of the best one.
        candidates: Best first, their scores adding up to at most 1; empty when nobody is eligible.
        ms: Milliseconds that it took.
    """

    outcome: Handled | Deferred
    candidates: tuple[Candidate, ...]
    ms: float

    @property
    def fits(self) -> bool:
        """Whether the best candidate fits."""
        return isinstance(self.outcome, Handled)


def rank(
    router: MoMARouter, text: str, names: Collection[str], count: int, *, several: bool = False
) -> Ranking:
    """Return at least ``count`` candidates, or as many as there are.

    Args:
        router: Ranks.
        text: The query's words.
        names: The agents that may be chosen; all others are left out.
        count: How many candidates are wanted.
        several: Whether a query may need several agents. Two that share a query each take half of
            the probability, so the best one is then judged without the others that stand near it.

    Raises:
        InvalidQueryError: ``text`` is blank.

    Example:
        >>> from moma_core import AgentCard
        >>> cards = [AgentCard("rain", "Weather and rain"), AgentCard("soup", "Cooking soup")]
        >>> router = MoMARouter.from_cards(cards, llms=None)
        >>> [candidate.name for candidate in rank(router, "rain today?", ["rain", "soup"], 2).candidates]
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
    if several and isinstance(outcome, Deferred) and len(candidates) > 1:
        near = [c.name for c in candidates[1:] if c.score >= _NEAR * candidates[0].score]
        if near and isinstance(alone := ask(near), Handled):
            outcome = replace(alone, candidates=outcome.candidates)
    return Ranking(outcome, tuple(candidates), (time.perf_counter() - start) * 1e3)


_NEAR = 0.5  # share of the best score from which on a rival may be wanted as well
