"""Fits the columns of very many agents: each text is told apart from its likely rivals only.

`fit_columns` moves every column by every text, though a text says next to nothing of an agent that
nobody would take it for. Here the softmax of a text is over a few rivals. What a column learns sums
to zero over its texts, and what a text tells over its rivals, so that all others stay where they
were. A column lies in the span of the texts that it is a rival for: with K = X X' = L L' of those
texts, ``b = L' a`` is as long as the column's change ``X' a``, so that the problem and its L-BFGS
steps are the same, in some dozen numbers a column instead of thousands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agents.ranker import (
    BIAS_L2,
    Columns,
    Features,
    add_terms,
    learned_terms,
    logsumexp,
    minimised,
)
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt
    from scipy.sparse import csr_matrix

    _Rows = npt.NDArray[np.intp]

__all__ = ["MANY", "fit_among_rivals"]

MANY = 250
"""Agents with examples from which texts have rivals."""

_ROUNDS = 3  # of finding rivals and fitting
_ROWS = 64  # texts that a column becomes a rival for in a round, on average
_RIVALS = (8, 24)  # that a text gets in a round, least and most
_SPAN = 256  # texts that a column is made of, at most
_MEAN = 0.5  # share of an agent's mean text in the column that finds rivals
_CHUNK = 2_048  # texts
_BATCH = 64  # columns
_JITTER = 1e-4


def fit_among_rivals(
    features: Features, y: npt.NDArray[np.intp], prior: Columns, max_iterations: int = 30
) -> Columns:
    """Return columns fitted to labelled texts, as `fit_columns` does, among very many agents.

    Args:
        features: n texts.
        y: The row of ``prior`` that should take each text, shape (n,).
        prior: The k columns to start from and to stay near to.
        max_iterations: Of L-BFGS.
    """
    from threadpoolctl import threadpool_limits

    terms = learned_terms(features.lexical)
    learned = Features(features.dense, features.lexical[:, terms])
    k, n = prior.bias.size, len(y)
    more = min(max(int(_ROWS * k / n), _RIVALS[0]), _RIVALS[1], max((k - 1) // _ROUNDS, 1))
    columns, owners = _with_means(features, y, prior), y[:, None]
    with threadpool_limits(1, "blas"):
        for _ in range(_ROUNDS):
            owners, offsets = _rivals(features, owners, columns, prior, more)
            problem = _Problem.of(owners, offsets, learned, k)
            found = minimised(problem.loss_and_gradient, problem.n_parameters, max_iterations)
            columns = _moved(prior, problem.weights(found, n), learned, terms)
            columns.bias[:] += found[:k]
    return columns


def _moved(prior: Columns, weights: csr_matrix, learned: Features, terms: _Rows) -> Columns:
    """Return the columns that hold so much of each text, (k, n), beside their prior."""
    change = (weights @ learned.lexical).tocoo()
    return Columns(
        prior.dense + (weights @ learned.dense).astype(np.float32),
        add_terms(prior.lexical, change.row, terms[change.col], change.data),
        prior.bias.copy(),
    )


def _with_means(features: Features, y: _Rows, prior: Columns) -> Columns:
    """Return columns with half of the agents' mean texts: about where a step of fitting goes."""
    from scipy.sparse import csr_matrix

    n, k = len(y), prior.bias.size
    share = (_MEAN / np.bincount(y, minlength=k)[y]).astype(np.float32)
    means = csr_matrix((share, (y, np.arange(n))), shape=(k, n))
    return Columns(prior.dense + means @ features.dense, prior.lexical, prior.bias)


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Some columns of about as many texts, padded to the same number."""

    columns: _Rows  # (b,)
    places: _Rows  # (b, r): of their texts in the flat logits; the last place is nobody's
    texts: _Rows  # (b, q): those that span the columns; padded with 0
    factors: FloatArray  # (b, q, q): L of the texts that span, upper left of the identity
    basis: FloatArray  # (b, r, q): what each parameter adds to a text's logit
    first: int  # of its parameters

    @property
    def size(self) -> int:
        return int(self.texts.size)

    def own(self, flat: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return flat[self.first : self.first + self.size].reshape(self.texts.shape)


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """The objective over biases (k,) and then the parameters of the groups."""

    offsets: FloatArray  # (n, s): logits of the rivals under the prior
    owners: _Rows  # (n, s): the rivals, the right agent first
    groups: Sequence[_Group]
    n_columns: int

    @classmethod
    def of(cls, owners: _Rows, offsets: FloatArray, learned: Features, k: int) -> _Problem:
        """Lay out the pairs of text and rival by their columns."""
        order = np.argsort(owners.ravel(), kind="stable")
        ends = np.searchsorted(owners.ravel()[order], np.arange(k + 1))
        places = [order[ends[c] : ends[c + 1]] for c in range(k)]
        return cls(offsets, owners, list(_groups(places, learned, owners.shape[1])), k)

    @property
    def n_parameters(self) -> int:
        return self.n_columns + sum(group.size for group in self.groups)

    def loss_and_gradient(
        self, flat: npt.NDArray[np.float64]
    ) -> tuple[float, npt.NDArray[np.float64]]:
        n, s = self.owners.shape
        bias = flat[: self.n_columns].astype(np.float32)
        added = np.zeros(n * s + 1, dtype=np.float32)
        for group in self.groups:
            own = group.own(flat).astype(np.float32)
            added[group.places] = np.matmul(group.basis, own[:, :, None])[:, :, 0]
        logits = self.offsets + added[:-1].reshape(n, s) + bias[self.owners]
        total = logsumexp(logits)
        loss = float((total - logits[:, 0]).sum(dtype=np.float64))
        loss += 0.5 * float(flat[self.n_columns :] @ flat[self.n_columns :])
        loss += 0.5 * BIAS_L2 * float(bias @ bias)
        gradient = np.zeros(n * s + 1, dtype=np.float32)
        share = np.exp(logits - total[:, None])
        share[:, 0] -= 1.0
        gradient[:-1] = share.ravel()
        parts = [np.bincount(self.owners.ravel(), share.ravel(), self.n_columns) + BIAS_L2 * bias]
        for group in self.groups:
            told = np.matmul(gradient[group.places][:, None, :], group.basis)[:, 0]
            parts.append((told + group.own(flat)).ravel())
        return loss, np.concatenate(parts)

    def weights(self, flat: npt.NDArray[np.float64], n: int) -> csr_matrix:
        """Return how much of each text is in the change of each column, shape (k, n)."""
        from scipy.linalg import solve_triangular
        from scipy.sparse import csr_matrix

        rows, texts, values = [], [], []
        for group in self.groups:
            own = group.own(flat)
            for column, spans, factor, b in zip(
                group.columns, group.texts, group.factors, own, strict=True
            ):
                a = solve_triangular(factor, b, lower=True, trans="T")
                used = np.flatnonzero(a)
                rows.append(np.full(used.size, column))
                texts.append(spans[used])
                values.append(a[used])
        parts = (
            np.concatenate(values).astype(np.float32),
            (
                np.concatenate(rows),
                np.concatenate(texts),
            ),
        )
        return csr_matrix(parts, shape=(self.n_columns, n))


def _rivals(
    features: Features, owners: _Rows, columns: Columns, prior: Columns, more: int
) -> tuple[_Rows, FloatArray]:
    """Return more agents of each text, those that would take it soonest, and all their logits.

    Args:
        features: n texts.
        owners: Their agents so far, the right one first, shape (n, s).
        columns: What finds more of them.
        prior: What their logits are by.
        more: How many.
    """
    n, s = owners.shape
    grown = np.zeros((n, s + more), dtype=np.intp)
    offsets = np.zeros((n, s + more), dtype=np.float32)
    for start in range(0, n, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, n))
        part = features.rows(rows)
        likely = columns.logits(part)
        np.put_along_axis(likely, owners[rows], np.float32(-np.inf), axis=1)
        chosen = np.argpartition(-likely, more - 1, axis=1)[:, :more]
        grown[rows] = np.concatenate([owners[rows], chosen], axis=1)
        offsets[rows] = np.take_along_axis(prior.logits(part), grown[rows], axis=1)
    return grown, offsets


def _groups(places: Sequence[_Rows], learned: Features, s: int) -> Iterator[_Group]:
    """Yield the columns by how many texts they are rivals for."""
    nobody, first = learned.dense.shape[0] * s, len(places)
    order = np.argsort([len(each) for each in places], kind="stable")
    start = 0
    while start < len(order):
        columns = order[start : start + _BATCH]
        if len(places[columns[-1]]) > 2 * max(len(places[columns[0]]), 16):  # much to pad
            few = [c for c in columns if len(places[c]) <= 2 * max(len(places[columns[0]]), 16)]
            columns = np.array(few, dtype=np.intp)
        group = _group(columns, [places[c] for c in columns], learned, (s, nobody, first))
        yield group
        first += group.size
        start += len(columns)


def _group(
    columns: _Rows, places: Sequence[_Rows], learned: Features, at: tuple[int, int, int]
) -> _Group:
    """Return the padded group of some columns.

    Args:
        columns: Which.
        places: Of each, where its texts are in the flat logits.
        learned: The texts.
        at: Rivals a text, the place that is nobody's, and the first parameter.
    """
    from scipy.linalg import solve_triangular

    s, nobody, first = at
    b, r = len(columns), max(len(each) for each in places)
    q = min(r, _SPAN)
    padded = np.full((b, r), nobody, dtype=np.intp)
    texts = np.zeros((b, q), dtype=np.intp)
    factors = np.repeat(np.eye(q, dtype=np.float32)[None], b, axis=0)
    basis = np.zeros((b, r, q), dtype=np.float32)
    for i, own in enumerate(places):
        padded[i, : len(own)] = own
        rows = own // s
        spans = np.sort(np.random.default_rng(0).permutation(len(rows))[:_SPAN])
        gram = _gram(learned, rows, rows[spans])
        square = gram[spans] + _JITTER * np.eye(len(spans), dtype=np.float32)
        factor = np.linalg.cholesky(square)
        m = len(spans)
        texts[i, :m], factors[i, :m, :m] = rows[spans], factor
        basis[i, : len(own), :m] = solve_triangular(factor, gram.T, lower=True).T
    return _Group(columns, padded, texts, factors, basis, first)


def _gram(learned: Features, rows: _Rows, spans: _Rows) -> FloatArray:
    """Return the products of texts, shape (len(rows), len(spans))."""
    lexical = (learned.lexical[rows] @ learned.lexical[spans].T).toarray()
    products: FloatArray = learned.dense[rows] @ learned.dense[spans].T + lexical
    return products
