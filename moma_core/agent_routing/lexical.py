"""Word and character n-grams beside the sentence vector: names, codes and rare terms it blurs.

Hashing keeps the feature space fixed, so a new agent brings no new dimensions and nobody else's
weights move. Knows nothing of agents: texts in, sparse rows out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core.types import FloatArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = [
    "N_FEATURES",
    "N_WORD_FEATURES",
    "document_frequencies",
    "inverse_frequencies",
    "lexical_rows",
    "warm_up",
]

N_WORD_FEATURES = 2**17
_CHAR_FEATURES = 2**17
N_FEATURES = N_WORD_FEATURES + _CHAR_FEATURES
_WORD = r"(?u)\b\w+\b"
_CHAR_LENGTH = 1.225  # of the character part: half as much again as words, by descriptions alone
_MAX_CHARS = 4_096  # of a text; a 1 MB query costs no more than a page


@cache
def _vectorizers() -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import HashingVectorizer

    shared = {"alternate_sign": False, "norm": None, "dtype": np.float32}
    word = HashingVectorizer(
        n_features=N_WORD_FEATURES, ngram_range=(1, 2), token_pattern=_WORD, **shared
    )
    char = HashingVectorizer(
        n_features=_CHAR_FEATURES, ngram_range=(3, 5), analyzer="char_wb", **shared
    )
    return word, char


def warm_up() -> None:
    """Do the slow imports now, so that no query waits for them."""
    _vectorizers()


def _counts(texts: Sequence[str]) -> list[csr_matrix]:
    from scipy.sparse import csr_matrix

    if not texts:  # the vectorizer refuses an empty list
        return [csr_matrix((0, n), dtype=np.float32) for n in (N_WORD_FEATURES, _CHAR_FEATURES)]
    clipped = [text.lstrip()[:_MAX_CHARS] for text in texts]
    return [vectorizer.transform(clipped) for vectorizer in _vectorizers()]


def document_frequencies(texts: Sequence[str]) -> FloatArray:
    """Return in how many texts each feature occurs, shape (N_FEATURES,)."""
    word, char = _counts(texts)
    counts = (
        np.bincount(word.indices, minlength=N_WORD_FEATURES),
        np.bincount(char.indices, minlength=_CHAR_FEATURES),
    )
    return np.concatenate(counts).astype(np.float32)


def inverse_frequencies(frequencies: FloatArray, n_texts: int) -> FloatArray:
    """Return smoothed inverse document frequencies, shape (N_FEATURES,), each at least 1."""
    idf: FloatArray = np.log((1.0 + n_texts) / (1.0 + frequencies)) + 1.0
    return idf.astype(np.float32)


def lexical_rows(texts: Sequence[str], idf: FloatArray) -> csr_matrix:
    """Return TF-IDF rows, shape (n, N_FEATURES): unit word part beside the character part.

    Args:
        texts: n texts.
        idf: Shape (N_FEATURES,), from `inverse_frequencies`.

    Example:
        >>> idf = inverse_frequencies(document_frequencies(["rain in Paris"]), 1)
        >>> lexical_rows(["rain", "snow"], idf).shape
        (2, 262144)
    """
    from scipy.sparse import hstack

    word, char = _counts(texts)
    parts = [_weighted(word, idf[:N_WORD_FEATURES]), _weighted(char, idf[N_WORD_FEATURES:])]
    parts[1].data *= np.float32(_CHAR_LENGTH)
    if len(texts) == 1:  # the hot path: a quarter of what the general one takes
        return _beside(*parts)
    return hstack(parts, format="csr", dtype=np.float32)


def _beside(word: csr_matrix, char: csr_matrix) -> csr_matrix:
    """Return one row's two parts as one row."""
    from scipy.sparse import csr_matrix

    data = np.concatenate([word.data, char.data])
    terms = np.concatenate([word.indices, char.indices + N_WORD_FEATURES])
    ends = np.array([0, data.size], dtype=terms.dtype)
    return csr_matrix((data, terms, ends), shape=(1, N_FEATURES))


def _weighted(counts: csr_matrix, idf: FloatArray) -> csr_matrix:
    """Replace counts by log(1 + count) x idf, each row scaled to unit length, in place."""
    counts.data = np.log1p(counts.data) * idf[counts.indices]
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    squares = np.bincount(rows, weights=counts.data**2, minlength=counts.shape[0])
    norms = np.sqrt(np.maximum(squares, 1e-12))
    counts.data = (counts.data / norms[rows]).astype(np.float32)
    return counts
