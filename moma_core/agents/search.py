"""Finds the best of very many columns without looking at all of them.

Columns are grouped by k-means. A query looks at the groups whose centres are nearest to it and at
the columns that hold its rare n-grams, there at the main directions alone; the best of these at
their whole vectors. What it never looked at still has a share of the softmax: a sample tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core._numerics import find_centres
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt
    from scipy.sparse import csr_matrix

    _Rows = npt.NDArray[np.intp]

__all__ = ["MANY", "Index"]

MANY = 20_000
"""Columns from which a query is compared with the likeliest only."""

_DIRECTIONS = 96
_GROUPS = 256
_SAMPLE = 8_192  # columns that directions and groups are found from
_ROUNDS = 5  # of k-means
_LOOKED_AT = 0.16  # share of the columns whose groups are looked at
_BY_TERMS = 1_000  # columns looked at for their n-grams
_ROUGH = 16  # times the columns wanted, looked at with their whole vectors
_COMMON = 0.2  # share of columns from which an n-gram is left out of rough scores
_TELLING = 256  # columns that tell for all
_TELLING_TERMS = 16  # columns of which one tells how much the best hold of rare n-grams
_CHUNK = 8_192


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """n columns, group after group.

    Args:
        basis: The main directions, orthonormal, shape (d, r).
        centres: Of k groups, shape (k, d).
        labels: Each column's group, shape (n,).
        rows: The columns in order of their groups, shape (n,).
        places: Where each column is in ``rows``, shape (n,).
        starts: Where each group begins there, shape (k + 1,).
        along: The columns in that order along the main directions, shape (n, r).
    """

    basis: FloatArray
    centres: FloatArray
    labels: _Rows
    rows: _Rows
    places: _Rows
    starts: _Rows
    along: FloatArray

    @classmethod
    def of(cls, dense: FloatArray) -> _Groups:
        """Group columns (n, d)."""
        sample = dense[:: max(len(dense) // _SAMPLE, 1)]
        _, directions = np.linalg.eigh(sample.T @ sample)  # ascending
        basis = np.ascontiguousarray(directions[:, ::-1][:, :_DIRECTIONS]).astype(np.float32)
        rng, along = np.random.default_rng(0), dense @ basis
        found = find_centres((sample @ basis).astype(np.float64), _GROUPS, rng, _ROUNDS)
        means = found.astype(np.float32)
        away = 0.5 * (means**2).sum(axis=1)
        chunks = (along[start : start + _CHUNK] for start in range(0, len(along), _CHUNK))
        chosen = np.concatenate([(chunk @ means.T - away).argmax(axis=1) for chunk in chunks])
        present, labels = np.unique(chosen, return_inverse=True)
        rows = np.argsort(labels, kind="stable")
        starts = np.searchsorted(labels[rows], np.arange(present.size + 1))
        parts = np.split(rows, starts[1:-1])
        centres = np.array([dense[part].mean(axis=0) for part in parts])
        return cls(basis, centres, labels, rows, np.argsort(rows), starts, along[rows])

    def looked_at(
        self, vector: FloatArray, among: npt.NDArray[np.bool_], least: int, also: _Rows
    ) -> tuple[_Rows, FloatArray]:
        """Return the columns of the groups nearest to a vector (d,), with rough products with it.

        Args:
            vector: The query's.
            among: Which columns count, shape (n,).
            least: How many of them to look at, where there are more.
            also: Rows to look at, whatever their group.
        """
        order = np.argsort(-(self.centres @ vector))
        sizes = np.diff(self.starts)
        if not among.all():
            sizes = np.bincount(self.labels[among], minlength=len(order))
        seen = np.cumsum(sizes[order])
        near = order[: int(np.searchsorted(seen, max(_LOOKED_AT * seen[-1], least))) + 1]
        far = np.ones(len(order), dtype=bool)
        far[near] = False
        also = self.places[also[far[self.labels[also]]]]
        bounds = zip(self.starts[near].tolist(), self.starts[near + 1].tolist(), strict=True)
        parts: list[Any] = [*(slice(*bound) for bound in bounds), also]
        turned = vector @ self.basis
        products = [self.along[part] @ turned for part in parts]
        return np.concatenate([self.rows[part] for part in parts]), np.concatenate(products)


class Index:
    """n columns laid out for a search, made when first looked at.

    Args:
        dense: Shape (n, d).
        lexical: Sparse, shape (n, t).
        bias: Shape (n,).
    """

    def __init__(self, dense: FloatArray, lexical: csr_matrix, bias: FloatArray) -> None:
        self._dense, self._lexical, self._bias = dense, lexical, bias

    def __len__(self) -> int:
        return len(self._dense)

    @cached_property
    def by_term(self) -> csr_matrix:
        """The n-grams' weights, shape (t, n): a query has some hundred, so few rows are touched."""
        return self._lexical.T.tocsr()

    def term_sums(self, terms: _Rows, weights: FloatArray) -> FloatArray:
        """Return ``weights @ by_term[terms]`` of one text, touching only these rows, shape (n,).

        Args:
            terms: The n-grams, shape (t,).
            weights: Theirs in the text, shape (t,).
        """
        by_term = self.by_term
        starts, counts = by_term.indptr[terms], by_term.indptr[terms + 1]
        counts = counts - starts
        before = np.repeat(starts - (np.cumsum(counts) - counts), counts)
        held = before + np.arange(before.size)
        products = by_term.data[held] * np.repeat(weights, counts)
        sums = np.bincount(by_term.indices[held], products, minlength=by_term.shape[1])
        return sums.astype(np.float32)

    @cached_property
    def _groups(self) -> _Groups:
        return _Groups.of(self._dense)

    @cached_property
    def _sample(self) -> _Rows:
        """Rows that stand for all, as many of each group as it has columns."""
        return self._groups.rows[:: max(len(self) // _TELLING, 1)]

    @cached_property
    def _common(self) -> tuple[_Rows, FloatArray]:
        """Place of each n-gram among the m that very many columns hold, or -1; weights (n, m)."""
        terms = np.flatnonzero(np.diff(self.by_term.indptr) >= _COMMON * len(self))
        places = np.full(self.by_term.shape[0], -1, dtype=np.intp)
        places[terms] = np.arange(terms.size)
        return places, np.ascontiguousarray(self.by_term[terms].toarray().T)

    def near(
        self, vector: FloatArray, terms: csr_matrix, among: npt.NDArray[np.bool_], count: int
    ) -> tuple[_Rows, float]:
        """Return about the best columns for one text, and the log-sum-exp of the other ones.

        Args:
            vector: Its dense features, shape (d,).
            terms: Its n-grams, shape (1, t).
            among: Which columns may be found, shape (n,).
            count: How many to return, where there are more.
        """
        places, common = self._common
        place = places[terms.indices]
        rare = place < 0
        sums = self.by_term[terms.indices[rare]].T @ terms.data[rare]  # `term_sums` is for few
        by_terms = sums + self._bias
        if not among.all():
            by_terms[~among] = -np.inf
        weights = np.zeros(common.shape[1], dtype=np.float32)
        weights[place[~rare]] = terms.data[~rare]

        def whole(rows: _Rows) -> FloatArray:
            logits: FloatArray = self._dense[rows] @ vector + by_terms[rows]
            return logits + common[rows] @ weights

        worded = _highest(by_terms, self._groups.rows[::_TELLING_TERMS], _BY_TERMS)
        rows, rough = self._groups.looked_at(vector, among, _ROUGH * count, worded)
        rows, rough = rows[among[rows]], rough[among[rows]]
        rows = _best(rows, rough + by_terms[rows], _ROUGH * count)
        rows = np.sort(_best(rows, whole(rows), count))
        others = self._sample[among[self._sample] & ~np.isin(self._sample, rows)]
        if not others.size:
            return rows, -np.inf
        each = np.log(len(self) / self._sample.size)
        return rows, float(np.logaddexp.reduce(whole(others)) + each)


def _best(rows: _Rows, scores: FloatArray, count: int) -> _Rows:
    """Return the rows of the highest scores."""
    if rows.size <= count:
        return rows
    return rows[np.argpartition(scores, rows.size - count)[rows.size - count :]]


def _highest(scores: FloatArray, some: _Rows, count: int) -> _Rows:
    """Return about so many rows of the highest of n scores; ``some`` tell from where on."""
    told = scores[some]
    place = max(some.size - max(count * some.size // scores.size, 1), 0)
    rows = np.flatnonzero(scores > np.partition(told, place)[place])
    return _best(rows, scores[rows], count)
