"""The ranker: one linear column an agent over the sentence vector and its n-grams (sect. 4.2).

A column starts at the agent's description (the prior) and is moved by few-shot examples
(`moma_core.agent_routing.fitting`), so cold start and many examples are one and the same thing.
Knows nothing of states, categories or thresholds: features in, one logit an agent out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core.agent_routing.coarse import Index, refined, term_sums
from moma_core.agent_routing.lexical import N_FEATURES, lexical_rows, warm_up
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt
    from scipy.sparse import csr_matrix

__all__ = [
    "Columns",
    "Features",
    "LinearRanker",
    "description_columns",
    "stack_columns",
    "stack_features",
]

# Scales of the two parts of a feature row and the share of a description in its agent's column;
# chosen by cross-validation on CLINC150 and MetaTool train rows (benchmarks/LOG.md, 2026-11-21).
_DENSE_SCALE = 4.0
_LEXICAL_SCALE = 3.0
_PRIOR = 0.25

_COARSE_FROM = 20_000  # agents, above which one query scores all roughly and the best exactly
_EXACT = 512  # agents scored exactly then
_UNINDEXED = 500  # agents that may come before all are indexed anew
_FEW = 0.1  # share of agents up to which the eligible ones are picked out and scored alone


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """n texts as the ranker sees them.

    Args:
        dense: Scaled sentence vectors, shape (n, d).
        lexical: Scaled n-gram rows, shape (n, N_FEATURES).
    """

    dense: FloatArray
    lexical: csr_matrix

    @classmethod
    def of(cls, texts: Sequence[str], vectors: FloatArray, idf: FloatArray) -> Features:
        """Build from texts, their unit vectors (n, d), and the corpus' idf (N_FEATURES,)."""
        lexical = lexical_rows(texts, idf)
        lexical.data *= np.float32(_LEXICAL_SCALE)
        return cls(np.float32(_DENSE_SCALE) * vectors, lexical)

    def rows(self, index: npt.NDArray[Any]) -> Features:
        """Return the rows that ``index`` picks."""
        return Features(self.dense[index], self.lexical[index])


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The parameters of n agents.

    Args:
        dense: Shape (n, d).
        lexical: Sparse, shape (n, N_FEATURES).
        bias: Shape (n,).
    """

    dense: FloatArray
    lexical: csr_matrix
    bias: FloatArray

    def rows(self, index: npt.NDArray[Any]) -> Columns:
        """Return the agents that ``index`` picks."""
        return Columns(self.dense[index], self.lexical[index], self.bias[index])

    def logits(self, features: Features) -> FloatArray:
        """Return one logit a text and agent, shape (n_texts, n_agents)."""
        lexical = (features.lexical @ self.lexical.T).toarray()
        logits: FloatArray = features.dense @ self.dense.T + lexical + self.bias
        return logits


def description_columns(descriptions: Features) -> Columns:
    """Return the columns of agents of which nothing but a description is known."""
    n = descriptions.dense.shape[0]
    return Columns(
        np.float32(_PRIOR) * descriptions.dense,
        (descriptions.lexical * np.float32(_PRIOR)).tocsr(),
        np.zeros(n, dtype=np.float32),
    )


def stack_columns(parts: Sequence[Columns]) -> Columns:
    """Return the agents of all ``parts``, in order."""
    from scipy.sparse import vstack

    return Columns(
        np.concatenate([part.dense for part in parts]),
        vstack([part.lexical for part in parts], format="csr"),
        np.concatenate([part.bias for part in parts]),
    )


def stack_features(first: Features, second: Features) -> Features:
    """Return the rows of both."""
    from scipy.sparse import vstack

    return Features(
        np.concatenate([first.dense, second.dense]),
        vstack([first.lexical, second.lexical], format="csr"),
    )


def _one_text(columns: Columns, features: Features) -> FloatArray:
    """Return ``columns.logits`` of a single text, shape (n_agents,), without a sparse product."""
    terms = np.zeros(N_FEATURES, dtype=np.float32)
    terms[features.lexical.indices] = features.lexical.data
    logits: FloatArray = columns.dense @ features.dense[0] + columns.lexical @ terms + columns.bias
    return logits


class LinearRanker:
    """Scores every agent of a catalog for a query with one product.

    Args:
        names: The agents, in the order of the columns.
        columns: Their parameters.
        idf: Inverse document frequencies of the n-grams, shape (N_FEATURES,).
        index: Of the first of the columns, where one was made; by default all are indexed.
    """

    def __init__(
        self, names: Sequence[str], columns: Columns, idf: FloatArray, index: Index | None = None
    ) -> None:
        warm_up()
        self.names = tuple(names)
        self.columns = columns
        self.idf = idf
        self._index = index or Index(columns.dense, columns.lexical)

    @cached_property
    def _newest(self) -> Columns:
        """The agents that came after the index was made."""
        return self.columns.rows(np.arange(len(self._index), len(self.names)))

    def extended(self, names: Sequence[str], columns: Columns) -> LinearRanker:
        """Return the ranker with a few agents more, whose columns come after all others."""
        stacked = stack_columns([self.columns, columns])
        grown = len(self.names) + len(names) - len(self._index)
        index = self._index if grown <= _UNINDEXED else None
        return LinearRanker((*self.names, *names), stacked, self.idf, index)

    def logits(
        self,
        texts: Sequence[str],
        vectors: FloatArray,
        rows: npt.NDArray[np.intp] | None = None,
    ) -> FloatArray:
        """Return logits, shape (n_texts, n_agents), from texts and their unit vectors (n, d).

        A single text among very many agents gets exact logits for the best of them, and rough ones
        for the others (`moma_core.agent_routing.coarse`).

        Args:
            texts: n texts.
            vectors: Theirs, shape (n, d).
            rows: Agents that matter, where not all do; the logits of others may be -inf.
        """
        return self.scores(self.features(texts, vectors), rows)

    def features(self, texts: Sequence[str], vectors: FloatArray) -> Features:
        """Return n texts and their unit vectors (n, d) as this ranker sees them."""
        return Features.of(texts, vectors, self.idf)

    def scores(self, features: Features, rows: npt.NDArray[np.intp] | None = None) -> FloatArray:
        """Return `logits` of n texts that are features already."""
        n, n_texts = len(self.names), features.dense.shape[0]
        if rows is not None and rows.size <= _FEW * n:
            logits = np.full((n_texts, n), -np.inf, dtype=np.float32)
            columns = self.columns.rows(rows)
            one = n_texts == 1
            logits[:, rows] = _one_text(columns, features) if one else columns.logits(features)
            return logits
        if n_texts == 1 and n >= _COARSE_FROM:
            return self._refined(features, rows)[None]
        return self._exact(features)

    def _exact(self, features: Features) -> FloatArray:
        logits: FloatArray = features.dense @ self.columns.dense.T
        logits += self.columns.bias
        indexed, by_term = len(self._index), self._index.by_term
        if features.dense.shape[0] == 1:
            logits[0, :indexed] += term_sums(by_term, features.lexical)
        else:
            logits[:, :indexed] += (features.lexical @ by_term).toarray()
        if indexed < len(self.names):
            logits[:, indexed:] += (features.lexical @ self._newest.lexical.T).toarray()
        return logits

    def _refined(self, features: Features, rows: npt.NDArray[np.intp] | None) -> FloatArray:
        """Return the logits of one text, exact for the best of the agents that matter, (n,)."""
        rough = self._index.rough(features.dense[0], features.lexical)
        rough += self.columns.bias[: len(self._index)]
        if len(rough) < len(self.names):
            rough = np.concatenate([rough, self._newest.logits(features)[0]])
        pool = rough if rows is None else rough[rows]
        chosen = np.argpartition(pool, pool.size - _EXACT)[pool.size - _EXACT :]
        chosen = chosen if rows is None else rows[chosen]
        return refined(rough, chosen, _one_text(self.columns.rows(chosen), features))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything but the names as plain arrays, for safetensors."""
        lexical = self.columns.lexical
        return {
            "dense": self.columns.dense,
            "bias": self.columns.bias,
            "idf": self.idf,
            "lexical_data": lexical.data.astype(np.float32),
            "lexical_indices": lexical.indices.astype(np.int32),
            "lexical_indptr": lexical.indptr.astype(np.int64),
        }

    @classmethod
    def from_arrays(
        cls, names: Sequence[str], arrays: Mapping[str, npt.NDArray[Any]]
    ) -> LinearRanker:
        """Rebuild a ranker from `arrays`."""
        from scipy.sparse import csr_matrix

        parts = (arrays["lexical_data"], arrays["lexical_indices"], arrays["lexical_indptr"])
        lexical = csr_matrix(parts, shape=(len(names), N_FEATURES))
        return cls(names, Columns(arrays["dense"], lexical, arrays["bias"]), arrays["idf"])
