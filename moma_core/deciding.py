"""From outcomes to decisions: an agent's, or the LLM that the preference picks (sect. 5).

Knows how a decision is told; never how a query is ranked or scored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from moma_core.errors import InvalidInputError, NoTargetError
from moma_core.llm_routing import LLMRouter
from moma_core.selection import preference_name
from moma_core.types import (
    Candidate,
    Cost,
    Deferred,
    FloatArray,
    Handled,
    Preference,
    RoutingDecision,
    ScoreTable,
)

__all__ = ["excluded", "score_deferred", "to_agent", "to_llm"]


def excluded(names: object) -> frozenset[str]:
    """Return the names that may not be chosen this time, given one by one or as one text.

    Raises:
        InvalidInputError: They are no collection of names.

    Example:
        >>> sorted(excluded(["weather", "news"])), sorted(excluded("weather"))
        (['news', 'weather'], ['weather'])
    """
    if isinstance(names, str):
        return frozenset([names])
    found = tuple(names) if isinstance(names, Iterable) else (names,)
    if not all(isinstance(name, str) for name in found):
        raise InvalidInputError(
            f"exclude takes names, got {names!r:.60}. Write exclude=['weather'], or leave it out "
            "to exclude nobody."
        )
    return frozenset(found)


def score_deferred(
    llms: LLMRouter | None,
    texts: Sequence[str],
    vectors: FloatArray,
    deferred: Sequence[Deferred],
) -> list[ScoreTable]:
    """Return the LLMs' scores for n queries that no agent takes.

    Args:
        llms: The pool.
        texts: n queries.
        vectors: Theirs, shape (n, d).
        deferred: Why no agent takes them.

    Raises:
        NoTargetError: There are no LLMs.
    """
    if llms is None:
        raise NoTargetError(
            f"{deferred[0].reason}, and this router has no LLMs. Add an agent with "
            "router.agents.add(...), or give LLMs: MoMARouter.from_cards(agents, llms='packaged')."
        )
    return llms.score_batch(texts, vectors)


def to_llm(
    llms: LLMRouter | None,
    table: ScoreTable,
    preference: Preference,
    exclude: Collection[str],
    outcome: Deferred,
) -> RoutingDecision:
    """Return the decision for the LLM that a preference picks.

    Raises:
        NoTargetError: No LLM may be chosen.
    """
    assert llms is not None  # noqa: S101 - score_deferred raised otherwise
    name, candidates = llms.select(table, preference, exclude)
    best: Candidate = candidates[0]
    label = preference_name(preference)
    return RoutingDecision(
        kind="llm",
        targets=(name,),
        probability=best.score,
        candidates=candidates,
        preference=label,
        reason=f"{outcome.reason}; {label} picks {name!r}: score {best.score:.2f} at "
        f"${best.cost or 0:.6f}{_over_budget(preference, best)}",
        cost=best.cost,
    )


def _over_budget(preference: Preference, best: Candidate) -> str:
    match preference:
        case Cost(budget=float() | int() as budget) if (best.cost or 0.0) > budget:
            return f"; no LLM is within the budget of ${budget:.3g}, so the cheapest is taken"
    return ""


def to_agent(outcome: Handled, preference: Preference) -> RoutingDecision:
    """Return the decision for one agent, or for several in order."""
    verb = "is" if len(outcome.agents) == 1 else "are each"
    return RoutingDecision(
        kind="agent",
        targets=outcome.agents,
        probability=outcome.probability,
        candidates=outcome.candidates,
        preference=preference_name(preference),
        reason=f"{' then '.join(map(repr, outcome.agents))} {verb} right with probability "
        f"{outcome.probability:.2f}",
    )
