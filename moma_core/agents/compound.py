"""Queries that ask for several things: cut, rank each part, list who takes them in order (eq. 26).

A query is cut where a sentence, a clause or a conjunction ends. All runs of neighbouring pieces are
ranked at once, and the cut whose parts agents of their own explain best is kept, if they explain it
better than the whole query does. No list of verbs says what a request is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moma_core.agents.conversation import acts
from moma_core.agents.router import AgentRouter, Choice
from moma_core.decision import AgentOutcome, Handled
from moma_core.protocols import Encoder
from moma_core.types import Query

__all__ = ["Ranked", "divided", "pieces"]

_MAX_PIECES = 6
_AND = (
    r"and|then|also|but|plus|besides|additionally|afterwards|after that|finally|lastly|as well as"
    r"|und|dann|sowie|außerdem|y|luego|después|además|et|puis|ensuite|aussi|e|poi|en|dan"
)
_CUTS = re.compile(
    rf"(?:(?<=[.?!;:。？！；])\s*|\s*(?:,(?!\d)|[，、])\s*|\s+[-–—]\s+|\n+|\s+(?=(?:{_AND})\s))"
    rf"(?:(?:{_AND})(?:\s*,)?\s+|，)*",
    re.IGNORECASE,
)
_QUOTES = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|`[^`]*`|(?<!\w)'[^']*'(?!\w)")


@dataclass(frozen=True, slots=True)
class Ranked:
    """A part of a query, and what became of it.

    Args:
        text: Its words.
        outcome: Who takes it, or why no agent does.
        ask: How likely its words are to ask for something.
    """

    text: str
    outcome: AgentOutcome
    ask: float

    @property
    def agent(self) -> str | None:
        """Who takes it; None: no agent."""
        return self.outcome.agents[0] if isinstance(self.outcome, Handled) else None


def pieces(text: str) -> tuple[str, ...]:
    """Return the pieces that a query may be cut into; what is quoted stays in one.

    Example:
        >>> pieces("dim the lamps, then play 'Salt, Pepper and Lime'")
        ('dim the lamps', "play 'Salt, Pepper and Lime'")
    """
    quoted = [m.span() for m in _QUOTES.finditer(text) if len(m[0]) < len(text) - 1]
    found, start = [], 0
    for cut in _CUTS.finditer(text):
        if cut.start() == cut.end() or any(a < cut.start() < b for a, b in quoted):
            continue
        found.append(text[start : cut.start()])
        start = cut.end()
    found = [each.strip() for each in (*found, text[start:])]
    found = [each for each in found if any(letter.isalnum() for letter in each)]
    while len(found) > _MAX_PIECES:  # the shortest goes with the one before it
        i = min(range(1, len(found)), key=lambda i: len(found[i]))
        found[i - 1 : i + 1] = [f"{found[i - 1]}, {found[i]}"]
    return tuple(found)


def divided(
    text: str, whole: AgentOutcome, agents: AgentRouter, encoder: Encoder, choice: Choice
) -> tuple[Ranked, ...]:
    """Return the parts of a query that ask for different things; none where it asks for one.

    Every run of pieces is worth the probability that its agent is right, less `_LEAST`; a cut is
    worth the sum over its parts, and is made where that beats the whole query by `_GAIN`.

    Args:
        text: The query.
        whole: Its outcome, undivided.
        agents: Rank the parts.
        encoder: Encodes them.
        choice: Who may be chosen this time.
    """
    cut = pieces(text)
    if len(cut) < 2:
        return ()
    everything = (0, len(cut))
    ranked = _ranked(cut, agents, encoder, choice)
    ranked[everything] = Ranked(text, whole, 1.0)
    values = {span: _value(part) for span, part in ranked.items()}
    total, best = _best_cut(len(cut), values)
    parts = [ranked[span] for span in _joined(best, ranked)]
    takers = {part.agent for part in parts}
    if len(takers) < 2 or total < values[everything] + _GAIN:
        return ()
    return tuple(parts)


def _ranked(
    cut: Sequence[str], agents: AgentRouter, encoder: Encoder, choice: Choice
) -> dict[tuple[int, int], Ranked]:
    """Return all runs of neighbouring pieces but the whole, ranked at once."""
    n = len(cut)
    spans = [(i, j) for i in range(n) for j in range(i + 1, n + 1) if (i, j) != (0, n)]
    texts = [", ".join(cut[i:j]) for i, j in spans]
    queries = [Query(text) for text in texts]
    outcomes = agents.route_batch(queries, agents.states.encode(queries, encoder), choice)
    found = zip(texts, outcomes, acts(texts)[:, 0].tolist(), strict=True)
    return dict(zip(spans, (Ranked(*each) for each in found), strict=True))


# Chosen on real queries of Seal-Tools, on made-up pairs and single queries of MetaTool, CLINC150
# and banking50; see benchmarks/LOG.md of 2026-11-28.
_LEAST = 0.4  # probability of an agent from which a part of its own is worth having
_GAIN = 0.3  # by which the parts together must beat the whole
_UNASKED = 0.1  # taken off a part whose words ask for nothing
_NOBODY = 0.8  # probability of a request that no agent takes, from which it is a part of its own
_FOR_AN_LLM = 0.3  # what such a part is worth
_REFUSED = 0.2  # most that a part is worth which its agent does not take


def _value(part: Ranked) -> float:
    """Return what a part of its own is worth: by its agent, or as a request that none fits."""
    unasked = _UNASKED * (1.0 - part.ask)
    if part.agent is not None:
        return part.outcome.probability - _LEAST - unasked
    value = min(part.outcome.probability, _REFUSED) - _LEAST
    if part.ask * (1.0 - part.outcome.some_fits) >= _NOBODY:
        value = max(value, _FOR_AN_LLM)
    return value - unasked


def _best_cut(
    n: int, values: Mapping[tuple[int, int], float]
) -> tuple[float, list[tuple[int, int]]]:
    """Return the runs that n pieces are best cut into, with the sum of their values."""
    best: list[tuple[float, list[tuple[int, int]]]] = [(0.0, [])]
    for end in range(1, n + 1):
        options = [(best[start][0] + values[start, end], start) for start in range(end)]
        total, start = max(options)
        best.append((total, [*best[start][1], (start, end)]))
    return best[n]


def _joined(
    spans: Sequence[tuple[int, int]], ranked: Mapping[tuple[int, int], Ranked]
) -> list[tuple[int, int]]:
    """Return the runs with neighbours of one taker as one run, where it takes that, too."""
    found = [spans[0]]
    for span in spans[1:]:
        joined = ranked[found[-1][0], span[1]]
        if ranked[span].agent == ranked[found[-1]].agent == joined.agent:
            found[-1] = (found[-1][0], span[1])
        else:
            found.append(span)
    return found
