"""Whose an example is: what cards repeat, copy from others or flood a catalog with counts little.

A card is written by whoever offers the agent, and may be careless or hostile. Three rules bound
what it can take: spellings of one text count once; an example that two agents bring is that one's
whose description says more of it, where that is clear; and nobody counts with many times more
examples than the others have.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agents.catalog import Snapshot, card_text
from moma_core.agents.ranker import (
    Features,
    description_columns,
    document_frequencies,
    inverse_frequencies,
)
from moma_core.protocols import AgentRecord
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["counting"]

_SAME = 0.95  # cosine from which two agents' examples are one
_CLEARLY = 0.7  # logit by which another's description must say more of an example
_MOST, _TIMES = 40, 4  # examples that anybody may have, and times what half of the agents have
_COMPARED = 3_000  # examples up to which cosines tell which are the same; above, spelling alone
_TOLD = 3  # examples of another's from which a warning names both


def counting(snapshot: Snapshot) -> Snapshot:
    """Return the agents with the examples that count; the same snapshot where all do.

    Warns of an agent that brings several examples which are rather another's.
    """
    counts = [len(record.card.examples) for record in snapshot.records]
    if sum(counts) < 2:
        return snapshot
    texts = [text for record in snapshot.records for text in record.card.examples]
    vectors = np.concatenate([record.example_vectors for record in snapshot.records])
    owners = np.repeat(np.arange(len(counts)), counts)
    spelt = [_folded(text) for text in texts]
    first = {
        (owner, text): i
        for i, (owner, text) in reversed(list(enumerate(zip(owners.tolist(), spelt, strict=True))))
    }
    keep = np.zeros(len(texts), dtype=bool)
    keep[list(first.values())] = True
    lost = _disputed(snapshot, texts, spelt, owners, vectors, keep)
    _cap(owners, keep)
    for (agent, other), count in sorted(lost.items()):
        if count >= _TOLD:
            warnings.warn(
                f"agent {snapshot.names[agent]!r} brings {count} examples that are rather those of "
                f"{snapshot.names[other]!r} by their descriptions; they do not count for "
                f"{snapshot.names[agent]!r}. Give each agent examples of its own.",
                stacklevel=2,
            )
    if keep.all():
        return snapshot
    start = np.cumsum([0, *counts])
    parts = [keep[a:b] for a, b in pairwise(start)]
    records = [
        record if kept.all() else _with_examples(record, np.flatnonzero(kept))
        for record, kept in zip(snapshot.records, parts, strict=True)
    ]
    return Snapshot(tuple(records), snapshot.dimension)


def _folded(text: str) -> str:
    """Return what the spellings of a text share: its letters and digits, in lower case."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip() or text


def _with_examples(record: AgentRecord, kept: npt.NDArray[np.intp]) -> AgentRecord:
    examples = tuple(record.card.examples[i] for i in kept)
    card = replace(record.card, examples=examples)
    return replace(record, card=card, example_vectors=record.example_vectors[kept])


def _disputed(
    snapshot: Snapshot,
    texts: list[str],
    spelt: list[str],
    owners: npt.NDArray[np.intp],
    vectors: FloatArray,
    keep: npt.NDArray[np.bool_],
) -> Counter[tuple[int, int]]:
    """Drop examples that are rather another's; return how many of (agent, the other)."""
    twins = _twins(spelt, owners, vectors)
    lost: Counter[tuple[int, int]] = Counter()
    if not twins:
        return lost
    cards = [card_text(record.card) for record in snapshot.records]
    idf = inverse_frequencies(document_frequencies(cards), len(cards))
    described = description_columns(Features.of(cards, snapshot.descriptions, idf))
    rows = sorted(twins)
    says = described.logits(Features.of([texts[i] for i in rows], vectors[rows], idf))
    for i, said in zip(rows, says, strict=True):
        rivals = np.array(sorted(twins[i]), dtype=np.intp)
        other = int(rivals[said[rivals].argmax()])
        if keep[i] and said[other] > said[owners[i]] + _CLEARLY:
            keep[i] = False
            lost[int(owners[i]), other] += 1
    return lost


def _twins(
    spelt: list[str], owners: npt.NDArray[np.intp], vectors: FloatArray
) -> dict[int, set[int]]:
    """Return the examples that other agents bring too, with those agents."""
    bring: dict[str, set[int]] = {}
    for text, owner in zip(spelt, owners.tolist(), strict=True):
        bring.setdefault(text, set()).add(owner)
    found = {
        i: bring[text] - {owner}
        for i, (text, owner) in enumerate(zip(spelt, owners.tolist(), strict=True))
        if len(bring[text]) > 1
    }
    if len(spelt) <= _COMPARED:
        same = vectors @ vectors.T >= _SAME
        same &= owners[:, None] != owners[None]
        for i, j in zip(*np.nonzero(same), strict=True):
            found.setdefault(int(i), set()).add(int(owners[j]))
    return found


def _cap(owners: npt.NDArray[np.intp], keep: npt.NDArray[np.bool_]) -> None:
    """Thin out, evenly, the examples of agents that have far more than the others."""
    counts = np.bincount(owners[keep])
    if not counts.size:
        return
    most = int(max(_MOST, _TIMES * np.median(counts[counts > 0])))
    for agent in np.flatnonzero(counts > most):
        mine = np.flatnonzero(keep & (owners == agent))
        keep[mine] = False
        keep[mine[np.linspace(0, len(mine) - 1, most).astype(int)]] = True
