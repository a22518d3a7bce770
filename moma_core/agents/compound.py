"""Queries that ask for several things: split, route each part, list the agents in order (eq. 26).

A split is only a suggestion. A query goes to several agents when two or more of its parts are each
taken by an agent, and by different ones; in all other cases it is routed whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from moma_core.agents.router import AgentRouter, Choice
from moma_core.protocols import Encoder
from moma_core.types import AgentOutcome, Handled, Query, Trace

__all__ = [
    "in_parts",
    "join",
    "split",
]

_MAX_PARTS = 8
_MIN_WORDS = 3
_VERBS = (
    r"(?:please|can|could|would|will|what|when|where|who|which|how|is|are|do|does|also|tell|give|"
    r"show|find|get|set|send|book|add|create|make|write|check|calculate|convert|compute|translate|"
    r"list|remind|search|look|retrieve|provide|recommend|suggest|plan|play|turn|order|buy|analy[sz]e)"
)
_CUTS = re.compile(
    r"(?<=[.?!;])\s+"  # the end of a sentence
    rf"|,?\s+(?:and\s+)?(?:then|afterwards|after that|finally|lastly)\s+(?={_VERBS}\b)"
    rf"|,?\s+and\s+(?:also\s+)?(?={_VERBS}\b)",
    re.IGNORECASE,
)


def in_parts(
    query: Query,
    whole: AgentOutcome,
    agents: AgentRouter,
    encoder: Encoder,
    choice: Choice,
    trace: Trace,
) -> AgentOutcome:
    """Return the outcome of a query's parts where they go to different agents, else the whole's.

    Args:
        query: The query.
        whole: Its outcome, undivided.
        agents: Route the parts.
        encoder: Encodes them.
        choice: Who may be chosen this time.
        trace: Receives the step.
    """
    parts = split(query.text)
    if len(parts) < 2:
        return whole
    with trace.timed("several") as detail:
        queries = [Query(part) for part in parts]
        turns = agents.states.encode(queries, encoder)
        outcome = join(whole, agents.route_batch(queries, turns, choice))
        taken = outcome.agents if isinstance(outcome, Handled) else ()
        detail.append(f"{len(parts)} parts, {len(taken)} agents")
    return outcome


def split(text: str) -> tuple[str, ...]:
    """Return the parts that may be requests of their own; one part means nothing to split.

    Example:
        >>> split("Convert 5 miles to km and then tell me the time in Lisbon")
        ('Convert 5 miles to km', 'tell me the time in Lisbon')
        >>> split("salt and pepper")
        ('salt and pepper',)
    """
    parts: list[str] = []
    for piece in _CUTS.split(text.strip()):
        if parts and (len(piece.split()) < _MIN_WORDS or len(parts) == _MAX_PARTS):
            parts[-1] = f"{parts[-1]} {piece}"
        elif piece:
            parts.append(piece)
    if len(parts) > 1 and len(parts[0].split()) < _MIN_WORDS:
        parts[:2] = [f"{parts[0]} {parts[1]}"]
    return tuple(parts)


def join(whole: AgentOutcome, parts: Sequence[AgentOutcome]) -> AgentOutcome:
    """Return one outcome: the parts' agents in order, each once, or the whole query's outcome.

    The probability is the least of the parts'; the candidates are those of every part that an
    agent takes, best first.
    """
    taken: dict[str, Handled] = {}
    for part in parts:
        if isinstance(part, Handled):
            taken.setdefault(part.agents[0], part)
    if len(taken) < 2:
        return whole
    candidates = {
        candidate.name: candidate
        for part in taken.values()
        for candidate in sorted(part.candidates, key=lambda c: c.score)
    }
    return Handled(
        agents=tuple(taken),
        probability=min(part.probability for part in taken.values()),
        candidates=tuple(sorted(candidates.values(), key=lambda c: -c.score)),
    )
