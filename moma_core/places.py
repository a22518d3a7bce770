"""Places on a shortlist, shared among the requests of one query.

"Weather in Rome, then book a flight" needs the tools of both: k places for the query as a whole may
all go to the louder request. Splits as `route(several=True)` does, and like it believes a split
only where two parts or more are taken, by different agents.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from moma_core.agents.compound import pieces
from moma_core.decision import Candidate, Ranking
from moma_core.errors import NoTargetError
from moma_core.router import MoMARouter
from moma_core.types import Query, RoutingState

__all__ = [
    "rank_requests",
    "shared",
]


def rank_requests(
    router: MoMARouter,
    query: str | Query,
    k: int,
    among: Collection[str] | None = None,
    state: RoutingState | Mapping[str, Any] | None = None,
) -> list[Ranking]:
    """Return the ranking of the whole query and, where it asks for several things, of each.

    Args:
        router: Ranks.
        query: The user's words.
        k: As in `MoMARouter.rank`.
        among: As there.
        state: As there; parts are read by themselves.
    """
    asked = Query.of(query)
    whole = router.rank(asked, k, among, state=state)
    if not whole or len(pieces(asked.text)) < 2:
        return [whole]
    others = () if among is None else set(router.agents.names).difference(among)
    try:
        parts = router.route(asked, None, state, exclude=others, several=True).parts
    except NoTargetError:  # no agent fits, and there are no LLMs
        return [whole]
    texts = [part.text for part in parts if part.kind == "agent"]
    return [whole, *(each for each in router.rank(texts, k, among) if each)] if texts else [whole]


def shared(rankings: Sequence[Ranking], k: int) -> tuple[Candidate, ...]:
    """Return k candidates: the best of each request, then of the whole, then the second best, ...

    Args:
        rankings: From `rank_requests`.
        k: How many at most.

    Example:
        >>> whole = Ranking((Candidate("a", 0.8), Candidate("b", 0.1)), 0.9)
        >>> parts = [Ranking((Candidate("a", 0.9),), 0.9), Ranking((Candidate("c", 0.7),), 0.7)]
        >>> [candidate.name for candidate in shared([whole, *parts], 3)]
        ['a', 'c', 'b']
    """
    whole, *parts = rankings
    found: dict[str, Candidate] = {}
    for row in zip_longest(*(ranking.candidates for ranking in (*parts, whole))):
        for candidate in row:
            if candidate is not None:
                found.setdefault(candidate.name, candidate)
    return tuple(found.values())[:k]
