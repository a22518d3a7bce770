"""Queries that ask for several things: cut, rank each part, list who takes them in order (eq. 26).

A query is cut where a sentence, a clause or a conjunction ends. All runs of neighbouring pieces are
ranked at once, and the cut whose parts agents of their own explain best is kept, if that tells well
enough (`evidence`). No list of verbs says what a request is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moma_core.agents.acts import acts
from moma_core.agents.router import AgentRouter, Choice
from moma_core.protocols import Encoder
from moma_core.types import AgentOutcome, FloatArray, Handled, Query

__all__ = ["Ranked", "best_parts", "divided", "evidence", "pieces"]

_MAX_PIECES = 6
_AND = (
    r"and|then|also|but|plus|besides|additionally|afterwards|after that|finally|lastly|as well as"
    r"|und|dann|sowie|außerdem|y|luego|después|además|et|puis|ensuite|aussi|e|poi|en|dan"
)
_CUTS = re.compile(
    rf"(?:(?<=[.?!;:。？！；])\s*|\s*(?:,(?!\d)|[，、])\s*|\s+[-–—]\s+|\n+|\s+(?=(?:{_AND})\s))"
    rf"(?:(?:{_AND})\s+|，)*",
    re.IGNORECASE,
)
_QUOTES = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|`[^`]*`|(?<!\w)'[^']*'(?!\w)")  # noqa: RUF001


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """A part of a query, and what became of it.

    Args:
        text: Its words.
        outcome: Who takes it, or why no agent does.
        vector: Its unit vector, shape (d,).
        ask: How likely its words are to ask for something.
    """

    text: str
    outcome: AgentOutcome
    vector: FloatArray
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
    text: str, vector: FloatArray, agents: AgentRouter, encoder: Encoder, choice: Choice
) -> tuple[Ranked, ...]:
    """Return the parts of a query that ask for different things; none where it asks for one.

    Args:
        text: The query.
        vector: Its unit vector, shape (d,).
        agents: Rank the parts.
        encoder: Encodes them.
        choice: Who may be chosen this time.
    """
    found = best_parts(text, agents, encoder, choice)
    if len({part.agent for part in found}) < 2:
        return ()
    score = float(np.dot(evidence(found, vector, agents), _WEIGHTS[:-1]) + _WEIGHTS[-1])
    return tuple(found) if score > 0.0 else ()


def best_parts(text: str, agents: AgentRouter, encoder: Encoder, choice: Choice) -> list[Ranked]:
    """Return the parts of a text that agents of their own explain best, at least two; or none.

    Args:
        text: The query.
        agents: Rank the parts.
        encoder: Encodes them.
        choice: Who may be chosen this time.
    """
    cut = pieces(text)
    spans = [(i, j) for i in range(len(cut)) for j in range(i + 1, len(cut) + 1)]
    spans = [span for span in spans if span != (0, len(cut))]
    if not spans:
        return []
    texts = [", ".join(cut[i:j]) for i, j in spans]
    queries = [Query(each) for each in texts]
    turns = agents.states.encode(queries, encoder)
    outcomes = agents.route_batch(queries, turns, choice)
    found = zip(texts, outcomes, turns.alone, acts(texts)[:, 0].tolist(), strict=True)
    ranked = dict(zip(spans, (Ranked(*each) for each in found), strict=True))
    best = _best_cut(len(cut), {span: _value(part) for span, part in ranked.items()})
    return [ranked[span] for span in _joined(best, ranked)]


def evidence(parts: Sequence[Ranked], whole: FloatArray, agents: AgentRouter) -> list[float]:
    """Return five numbers that tell parts of their own from pieces of one request.

    The least of the parts' log probabilities; of how likely their words are to ask for something; of
    how much nearer than the whole query each part comes to its own agent, a cosine; the largest
    cosine of two parts; and the least number of words, at most 8, as a logarithm.

    Args:
        parts: Of a query, at least two.
        whole: Its unit vector, shape (d,).
        agents: Know the takers.
    """
    nearer = [
        agents.nearness(part.agent, part.vector) - agents.nearness(part.agent, whole)
        for part in parts
        if part.agent is not None
    ]
    vectors = np.stack([part.vector for part in parts])
    return [
        min(math.log(_value(part)) for part in parts),
        min(part.ask for part in parts),
        min(nearer, default=0.0),
        float((vectors @ vectors.T)[np.triu_indices(len(parts), 1)].max()),
        min(math.log(min(len(part.text.split()), 8)) for part in parts),
    ]


# A logistic regression over made-up pairs of queries and real single ones of MetaTool, CLINC150,
# banking50 (train rows) and Seal-Tools; benchmarks/fit_compound.py. The last is the intercept.
_WEIGHTS = (1.268, 1.371, 4.603, -4.473, 1.069, -1.687)
_COST = 0.1  # of each cut, in the mean logarithm of the parts' probabilities
_NO_AGENT = 0.8  # probability of a request that no agent takes, from which that is a part
_LEAST = 0.01


def _value(part: Ranked) -> float:
    """Return how well a part is explained: by its agent, or as a request that none of them fits."""
    nobody = part.ask * (1.0 - part.outcome.some_fits)
    taken = part.outcome.probability
    return max(taken, nobody if part.agent is None and nobody >= _NO_AGENT else 0.0, _LEAST)


def _best_cut(n: int, values: Mapping[tuple[int, int], float]) -> list[tuple[int, int]]:
    """Return the two or more runs of n pieces whose mean logarithm, less the cuts' cost, is best."""
    best: dict[tuple[int, int], tuple[float, list[tuple[int, int]]]] = {(0, 0): (0.0, [])}
    for end in range(1, n + 1):
        for count in range(1, end + 1):
            options = [
                (best[start, count - 1][0] + math.log(values[start, end]), start)
                for start in range(end)
                if (start, count - 1) in best and (start, end) in values
            ]
            if options:
                total, start = max(options)
                best[end, count] = total, [*best[start, count - 1][1], (start, end)]
    ranked = [(best[n, k][0] / k - _COST * k, k) for k in range(2, n + 1) if (n, k) in best]
    return best[n, max(ranked)[1]][1]


def _joined(
    spans: Sequence[tuple[int, int]], ranked: Mapping[tuple[int, int], Ranked]
) -> list[tuple[int, int]]:
    """Return the runs with neighbours of one taker as one run, where it takes that, too."""
    found = [spans[0]]
    for span in spans[1:]:
        joined = ranked.get((found[-1][0], span[1]))
        taker = ranked[span].agent
        if joined is not None and taker == ranked[found[-1]].agent == joined.agent:
            found[-1] = (found[-1][0], span[1])
        else:
            found.append(span)
    return found
