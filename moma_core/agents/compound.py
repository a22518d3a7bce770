"""Queries that ask for several things: cut, rank each part, list who takes them in order (eq. 26).

A query is cut where a sentence, a clause or a conjunction ends. All runs of neighbouring pieces are
ranked at once. A cut is made where agents of their own explain the parts better than one explains
the whole, and the parts mean different things. No list of verbs says what a request is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, combinations, pairwise

import numpy as np

from moma_core.agents.conversation import acts
from moma_core.agents.router import AgentRouter, Choice
from moma_core.decision import AgentOutcome, Handled
from moma_core.protocols import Encoder
from moma_core.types import FloatArray, Query

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
    text: str,
    vector: FloatArray,
    whole: AgentOutcome,
    agents: AgentRouter,
    encoder: Encoder,
    choice: Choice,
) -> tuple[Ranked, ...]:
    """Return the parts of a query that ask for different things; none where it asks for one.

    Of all ways to cut it whose neighbours have different takers, the likeliest is made, if it is
    likelier than not.

    Args:
        text: The query.
        vector: Its unit vector, shape (d,).
        whole: Its outcome, undivided.
        agents: Rank the parts.
        encoder: Encodes them.
        choice: Who may be chosen this time.
    """
    cut = pieces(text)
    if len(cut) < 2:
        return ()
    parts = _Parts.of(vector, cut, agents, encoder, choice)
    ways = [way for way in _ways(len(cut)) if parts.differ(way)]
    if not ways:
        return ()
    undivided = _worth(Ranked(text, whole, 1.0))
    logits = np.array([parts.features(way, undivided) for way in ways]) @ _WEIGHTS + _BIAS
    best = int(np.argmax(logits))
    return tuple(parts.ranked[span] for span in ways[best]) if logits[best] > 0.0 else ()


_Span = tuple[int, int]


@cache
def _ways(n: int) -> tuple[tuple[_Span, ...], ...]:
    """Return all ways to cut n pieces into two runs of neighbours or more."""
    inner = chain.from_iterable(combinations(range(1, n), size) for size in range(1, n))
    return tuple(tuple(pairwise((0, *places, n))) for places in inner)


# Fitted to queries for one and for several of the corpus, real and joined from two; sources left
# out: benchmarks/weights/train_cuts.py and LOG.md of 2026-11-28.
_WEIGHTS = (4.79, -11.06, 12.96)  # of `_Parts.features`
_BIAS = -9.58
_REFUSED = 0.2  # most that a part is worth which its agent does not take
_NOBODY = 0.8  # probability of a request that no agent takes, from which it is a part of its own
_FOR_AN_LLM = 0.7  # what such a part is worth


def _worth(part: Ranked) -> float:
    """Return what a part of its own is worth: by its agent, or as a request that none fits."""
    if part.agent is not None:
        return part.outcome.probability
    for_an_llm = part.ask * (1.0 - part.outcome.some_fits) >= _NOBODY
    return _FOR_AN_LLM if for_an_llm else min(part.outcome.probability, _REFUSED)


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """All runs of neighbouring pieces of a query but the whole.

    Args:
        ranked: What became of each.
        places: Row of each in ``cosines``.
        cosines: Of all runs with each other, and in the last row with the whole, shape (m + 1, m).
    """

    ranked: Mapping[_Span, Ranked]
    places: Mapping[_Span, int]
    cosines: FloatArray

    @classmethod
    def of(
        cls,
        vector: FloatArray,
        cut: Sequence[str],
        agents: AgentRouter,
        encoder: Encoder,
        choice: Choice,
    ) -> _Parts:
        """Rank all runs at once; ``vector`` (d,) is of the whole."""
        n = len(cut)
        spans = [(i, j) for i in range(n) for j in range(i + 1, n + 1) if (i, j) != (0, n)]
        texts = [", ".join(cut[i:j]) for i, j in spans]
        queries = [Query(each) for each in texts]
        turns = agents.states.encode(queries, encoder)
        outcomes = agents.route_batch(queries, turns, choice)
        asks = acts(texts)[:, 0].tolist()
        ranked = dict(zip(spans, map(Ranked, texts, outcomes, asks), strict=True))
        cosines = np.concatenate([turns.alone, vector[None]]) @ turns.alone.T
        return cls(ranked, {span: i for i, span in enumerate(spans)}, cosines)

    def differ(self, way: Sequence[_Span]) -> bool:
        """Return whether neighbours have different takers."""
        takers = [self.ranked[span].agent for span in way]
        same = any(a == b and a is not None for a, b in pairwise(takers))
        return len({*takers}) > 1 and not same

    def features(self, way: Sequence[_Span], whole: float) -> tuple[float, float, float]:
        """Return what speaks for a cut, or against it: what is gained, how alike, how meant.

        Args:
            way: Its runs.
            whole: What the query is worth undivided.
        """
        gain = sum(_worth(self.ranked[span]) for span in way) - whole
        rows = [self.places[span] for span in way]
        alike = max(float(self.cosines[i, j]) for i, j in combinations(rows, 2))
        meant = float(self.cosines[-1, rows].min())
        return gain, alike, meant
