"""Scores for very many agents: all of them roughly, the best of them exactly.

A logit is a product of 384 numbers and a sum over n-grams, of which the commonest ("the", "get")
touch every fifth agent. Roughly, the main directions of the columns and the rarer n-grams do; they
pick some hundred agents, whose logits are then worked out in full. Knows the ranker's arrays only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt
    from scipy.sparse import csr_matrix

__all__ = ["Directions", "Index", "rare_terms", "refined", "term_sums"]

_DIRECTIONS = 48
_SAMPLE = 4_096
_COMMON = 0.05  # share of agents from which an n-gram is left out of the rough score
_TOP = 32  # exact logits that no rough one may pass


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """The main directions of n dense columns, and the columns along them.

    Args:
        basis: Orthonormal, shape (d, r).
        columns: Shape (n, r).
    """

    basis: FloatArray
    columns: FloatArray

    @classmethod
    def of(cls, dense: FloatArray) -> Directions:
        """Find the directions of columns (n, d) that hold most of their length."""
        sample = dense[:: max(len(dense) // _SAMPLE, 1)]
        _, directions = np.linalg.eigh(sample.T @ sample)  # ascending
        basis = np.ascontiguousarray(directions[:, ::-1][:, :_DIRECTIONS]).astype(np.float32)
        return cls(basis, dense @ basis)

    def products(self, vector: FloatArray) -> FloatArray:
        """Return about ``dense @ vector`` for a vector (d,), shape (n,)."""
        products: FloatArray = self.columns @ (vector @ self.basis)
        return products


class Index:
    """The columns of n agents laid out for a quick look, made when first looked at.

    Args:
        dense: Shape (n, d).
        lexical: Sparse, shape (n, t).
    """

    def __init__(self, dense: FloatArray, lexical: csr_matrix) -> None:
        self._dense = dense
        self._lexical = lexical

    def __len__(self) -> int:
        return len(self._dense)

    @cached_property
    def by_term(self) -> csr_matrix:
        """The n-grams' weights, shape (t, n): a query has some hundred, so few rows are touched."""
        return self._lexical.T.tocsr()

    @cached_property
    def directions(self) -> Directions:
        """The dense columns along their main directions."""
        return Directions.of(self._dense)

    def rough(self, vector: FloatArray, terms: csr_matrix) -> FloatArray:
        """Return about the logits of one text, less the biases, shape (n,).

        Args:
            vector: Shape (d,).
            terms: Shape (1, t).
        """
        products = self.directions.products(vector)
        products += term_sums(self.by_term, rare_terms(self.by_term, terms))
        return products


def term_sums(by_term: csr_matrix, terms: csr_matrix) -> FloatArray:
    """Return ``terms @ by_term`` as an array, touching only the rows of these terms.

    Args:
        by_term: Weight of each term in each column, shape (t, n).
        terms: One text, shape (1, t).
    """
    sums: FloatArray = by_term[terms.indices].T @ terms.data
    return sums


def rare_terms(by_term: csr_matrix, terms: csr_matrix) -> csr_matrix:
    """Return a text (1, t) without the terms that very many columns of ``by_term`` (t, n) hold."""
    from scipy.sparse import csr_matrix

    held = by_term.indptr[terms.indices + 1] - by_term.indptr[terms.indices]
    rare = held < _COMMON * by_term.shape[1]
    parts = (terms.data[rare], terms.indices[rare], np.array([0, rare.sum()]))
    return csr_matrix(parts, shape=terms.shape)


def refined(rough: FloatArray, chosen: npt.NDArray[np.intp], exact: FloatArray) -> FloatArray:
    """Return rough logits (n,) with the exact ones put in where they are known.

    The others are moved by what the rough score missed on average, so that their share of a
    softmax stays about right, and never pass the best exact ones.

    Args:
        rough: Shape (n,).
        chosen: The m columns known exactly.
        exact: Their logits, shape (m,).
    """
    missed = float((exact - rough[chosen]).mean())
    top = min(_TOP, exact.size)
    bound = np.partition(exact, exact.size - top)[exact.size - top]
    logits: FloatArray = np.minimum(rough + np.float32(missed), bound)
    logits[chosen] = exact
    return logits
