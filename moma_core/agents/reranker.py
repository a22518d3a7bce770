"""The reranker: reads a query and a card together and tells how well they fit (sect. 4.2).

A cross-encoder on MiniLM, int8 ONNX, trained on tools and what people ask of them
(``benchmarks/train_reranker.py``). It is asked about the few best agents, where the ranker is not
sure: words that are quoted, negated or only talked about fool a sentence vector, and not a reader.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from moma_core._checks import readable
from moma_core.encoder import WordEmbeddings, Wordpieces, open_session, packaged, padded
from moma_core.types import AgentCard, FloatArray

__all__ = ["Reranker"]

_WEIGHTS = ("reranker.onnx", "94630ef0d6ae79579a5b4ed347d4b96e63871e983e0c0dd9f03b1f3e5b633549")
_QUERY_TOKENS, _CARD_TOKENS = 40, 72
_DESCRIPTION_CHARS = 420
_AT_ONCE = 16
_KEPT = 20_000  # cards whose tokens are remembered


class Reranker:
    """Scores cards for a query with the packaged cross-encoder; safe to share between threads.

    Args:
        threads: CPU threads of a forward pass; None takes the cores at hand, 4 at most.

    Raises:
        ArtifactError: The weights are not the ones this version was measured with.

    Example:
        >>> reranker = Reranker()
        >>> weather = AgentCard("weather", "Weather forecast for a place")
        >>> asked, quoted = (
        ...     reranker.logits(query, [weather])[0]
        ...     for query in ("will it rain in Oslo?", "Translate 'will it rain?' to French")
        ... )
        >>> bool(asked > 0 > quoted)
        True
    """

    def __init__(self, threads: int | None = None) -> None:
        self._pieces = Wordpieces(512)
        self._words = WordEmbeddings.packaged()
        self._session = open_session(packaged(*_WEIGHTS), threads)
        self._cards: OrderedDict[str, list[int]] = OrderedDict()

    @property
    def fingerprint(self) -> str:
        """Weights; what was fitted with one reranker does not go with another."""
        return f"reranker-{_WEIGHTS[1][:8]}"

    def logits(self, query: str, cards: Sequence[AgentCard]) -> FloatArray:
        """Return how well each card fits a query: log-odds, shape (n,).

        Args:
            query: The words; the first 40 wordpieces are read.
            cards: n agents. Their names and descriptions are read.
        """
        (asked,) = self._pieces.rows([query])
        asked = _cut(asked, _QUERY_TOKENS)
        rows = [[*asked, *row[1:]] for row in self._rows_of(cards)]
        found = np.empty(len(rows), dtype=np.float32)
        order = np.argsort([len(row) for row in rows], kind="stable")
        for start in range(0, len(rows), _AT_ONCE):
            batch = order[start : start + _AT_ONCE]
            tokens, mask = padded([rows[i] for i in batch])
            kinds = mask.copy()
            kinds[:, : len(asked)] = 0
            feed = {"words": self._words.of(tokens), "mask": mask, "kinds": kinds}
            (found[batch],) = self._session.run(None, feed)
        return found

    def _rows_of(self, cards: Sequence[AgentCard]) -> list[list[int]]:
        texts = [_text(card) for card in cards]
        known = {text: row for text in texts if (row := self._cards.get(text)) is not None}
        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        if fresh:
            new = [_cut(row, _CARD_TOKENS) for row in self._pieces.rows(fresh)]
            known.update(zip(fresh, new, strict=True))
            self._cards.update(zip(fresh, new, strict=True))
            while len(self._cards) > _KEPT:
                self._cards.popitem(last=False)
        return [known[text] for text in texts]


def _text(card: AgentCard) -> str:
    """Return a card as the reranker was trained on them: its name in words, and what it does."""
    name, said = readable(card.name).lower(), card.description[:_DESCRIPTION_CHARS].strip()
    return name if said.lower() == name else f"{name}: {said}"


def _cut(row: list[int], most: int) -> list[int]:
    """Return a row of at most so many tokens, the last one still [SEP]."""
    return row if len(row) <= most else [*row[: most - 1], row[-1]]
