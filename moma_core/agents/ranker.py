"""The ranker: one linear column an agent over the sentence vector and its n-grams (sect. 4.2).

A column starts at the agent's description (the prior) and is moved by few-shot examples
(`fit_columns`), so cold start and many examples are one and the same thing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from moma_core.agents.search import Index
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt
    from scipy.sparse import csr_matrix

__all__ = [
    "BIAS_L2",
    "HELD",
    "N_FEATURES",
    "N_WORD_FEATURES",
    "Columns",
    "Features",
    "LinearRanker",
    "add_terms",
    "description_columns",
    "document_frequencies",
    "fit_columns",
    "inverse_frequencies",
    "learned_terms",
    "lexical_rows",
    "logsumexp",
    "minimised",
    "stack_columns",
    "stack_features",
    "warm_up",
]

_Found = TypeVar("_Found")

N_WORD_FEATURES = 2**17
N_FEATURES = 2 * N_WORD_FEATURES  # as many of letters
_WORD = r"(?u)\b\w+\b"
_CHAR_LENGTH = 1.225  # of the character part: half as much again as words
_WORDS_KEPT = 2**14  # whose features are known, some 10 MB
_SHORT = 24  # letters of a word that is worth knowing
_MAX_CHARS = 4_096  # of a text; a 1 MB query costs no more than a page


@cache
def _terms() -> tuple[Callable[[str], list[str]], Callable[[str], list[str]], Any]:
    """Return what cuts a text into words and pairs, into letters, and what hashes either."""
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.feature_extraction.text import HashingVectorizer

    words = HashingVectorizer(ngram_range=(1, 2), token_pattern=_WORD)
    letters = HashingVectorizer(ngram_range=(3, 5), analyzer="char_wb")
    hasher = FeatureHasher(
        N_WORD_FEATURES, input_type="string", dtype=np.float32, alternate_sign=False
    )
    return words.build_analyzer(), letters.build_analyzer(), hasher


@cache
def _places() -> tuple[Callable[[str], int], Callable[[str], tuple[int, ...]]]:
    """Return what finds the feature of a term by words, and those of the letters of a word.

    Both hash as the hasher does, and know what they were asked lately: words come again.
    """
    from sklearn.utils import murmurhash3_32

    _, letters, _ = _terms()

    def place(term: str) -> int:
        return int(abs(murmurhash3_32(term)) % N_WORD_FEATURES)

    def spelt(word: str) -> tuple[int, ...]:
        return tuple(N_WORD_FEATURES + place(term) for term in letters(word))

    return _remembered(place), _remembered(spelt)


def _remembered(of: Callable[[str], _Found]) -> Callable[[str], _Found]:
    """Return a function that knows what it said of the last short words."""
    known = lru_cache(_WORDS_KEPT)(of)
    return lambda word: known(word) if len(word) <= _SHORT else of(word)


def warm_up() -> None:
    """Do the slow imports now, so that no query waits for them."""
    _places()


def _counts(texts: Sequence[str]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32], FloatArray]:
    """Return rows, features and counts of n texts' terms, of the n by letters after those by words.

    Returns:
        Ascending rows below 2n, features below N_FEATURES, counts; all of shape (t,).
    """
    n = len(texts)
    if not n:  # the hasher refuses an empty list
        return np.zeros(0, np.intp), np.zeros(0, np.int32), np.zeros(0, np.float32)
    words, letters, hasher = _terms()
    clipped = [_RUN.sub(_in_pairs, text.lstrip()[:_MAX_CHARS]) for text in texts]
    if n == 1:  # the hot path: calling the hasher costs more than hashing
        place, spelt = _places()
        each = [*map(place, words(clipped[0]))]
        each += chain.from_iterable(map(spelt, clipped[0].split()))
        features, counts = np.unique(np.array(each, dtype=np.int32), return_counts=True)
        return (features >= N_WORD_FEATURES).astype(np.intp), features, counts.astype(np.float32)
    found = hasher.transform([*map(words, clipped), *map(letters, clipped)])
    rows = np.repeat(np.arange(2 * n), np.diff(found.indptr))
    features = found.indices.astype(np.int32, copy=False)
    features[found.indptr[n] :] += N_WORD_FEATURES
    return rows, features, found.data


# Han, kana, Thai, Lao, Khmer, Burmese: written without spaces between words.
_RUN = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)


def _in_pairs(run: re.Match[str]) -> str:
    """Return a run of letters without spaces as its pairs of neighbours, which stand for words."""
    letters = run[0]
    pairs = (letters[i : i + 2] for i in range(max(len(letters) - 1, 1)))
    return f" {' '.join(pairs)} "


def document_frequencies(texts: Sequence[str]) -> FloatArray:
    """Return in how many texts each feature occurs, shape (N_FEATURES,)."""
    _, features, _ = _counts(texts)
    return np.bincount(features, minlength=N_FEATURES).astype(np.float32)


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
    from scipy.sparse import csr_matrix

    n = len(texts)
    rows, features, counts = _counts(texts)
    values = np.log1p(counts) * idf[features]
    squares = np.bincount(rows, weights=values**2, minlength=2 * n)
    values = (values / np.sqrt(np.maximum(squares, 1e-12))[rows]).astype(np.float32)
    values[rows >= n] *= np.float32(_CHAR_LENGTH)
    if n == 1:  # the hot path: its rows need no sorting
        ends = np.array([0, values.size], dtype=np.int32)
        return csr_matrix((values, features, ends), shape=(1, N_FEATURES))
    return csr_matrix((values, (rows % max(n, 1), features)), shape=(n, N_FEATURES))


# Scales of the two parts of a feature row and the share of a description in its agent's column;
# chosen by cross-validation on CLINC150 and MetaTool train rows (benchmarks/LOG.md, 2026-11-21).
_DENSE_SCALE = 4.0
_LEXICAL_SCALE = 3.0
_PRIOR = 0.25

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

    def downweighted(self, weights: FloatArray) -> Features:
        """Return the texts with their n-grams times weights, shape (n,)."""
        return Features(self.dense, self.lexical.multiply(weights[:, None]).tocsr())


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
        self._index = index or Index(columns.dense, columns.lexical, columns.bias)

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
        return self._exact(features)

    def _exact(self, features: Features) -> FloatArray:
        logits: FloatArray = features.dense @ self.columns.dense.T
        logits += self.columns.bias
        indexed, terms = len(self._index), features.lexical
        if features.dense.shape[0] == 1:
            logits[0, :indexed] += self._index.term_sums(terms.indices, terms.data)
        else:
            logits[:, :indexed] += (terms @ self._index.by_term).toarray()
        if indexed < len(self.names):
            logits[:, indexed:] += (terms @ self._newest.lexical.T).toarray()
        return logits

    def near(
        self, features: Features, rows: npt.NDArray[np.intp], count: int
    ) -> tuple[npt.NDArray[np.intp], float]:
        """Return about the best agents for one text, and the log-sum-exp of the other logits.

        Args:
            features: The text.
            rows: Agents that matter.
            count: How many to return; those that came after the index was made are always there.
        """
        indexed = len(self._index)
        among = np.full(len(self.names), rows.size == len(self.names))
        if rows.size < among.size:
            among[rows] = True
        found, rest = self._index.near(features.dense[0], features.lexical, among[:indexed], count)
        return np.concatenate([found, np.flatnonzero(among[indexed:]) + indexed]), rest

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


_L2 = 1.0
BIAS_L2 = 0.01
HELD = 1e6
"""Penalty that holds a bias: texts of one agent alone would raise it until it took every query."""

_MAX_LEARNED_TERMS = 16_384  # the most frequent n-grams; the rest keep their prior weight
_RARE_FROM = 2_000  # with so many examples, n-grams seen once or twice are left alone
_PRUNE = 0.01  # smaller changes of an n-gram's weight are dropped


def logsumexp(logits: FloatArray) -> FloatArray:
    """Return log(sum(exp(logits))) along the last axis, without overflow; -inf for no columns."""
    if logits.shape[-1] == 0:
        return np.full(logits.shape[:-1], -np.inf, dtype=np.float32)
    top = logits.max(axis=-1, keepdims=True)
    total: FloatArray = np.log(np.exp(logits - top).sum(axis=-1)) + top[..., 0]
    return total


def fit_columns(
    features: Features,
    y: npt.NDArray[np.intp],
    prior: Columns,
    frozen: FloatArray | None = None,
    max_iterations: int = 30,
    bias_l2: float = BIAS_L2,
) -> Columns:
    """Return columns fitted to labelled texts.

    Args:
        features: n texts.
        y: For each text the row of ``prior`` that should take it, or ``len(prior.bias)``
            when one of the frozen agents should; shape (n,).
        prior: The k columns to start from and to stay near to.
        frozen: Log-sum-exp of the logits of all agents that are not being fitted, shape (n,).
        max_iterations: Of L-BFGS; 30 is within noise of convergence on our data.
        bias_l2: Penalty of a bias; `HELD` for a column that is fitted alone.
    """
    terms = learned_terms(features.lexical)
    problem = _Problem(
        dense=features.dense,
        lexical=features.lexical[:, terms],
        targets=_one_hot(y, prior.bias.shape[0] + 1),
        offsets=_offsets(features, prior, frozen),
        bias_l2=bias_l2,
    )
    found = minimised(problem.loss_and_gradient, problem.n_parameters, max_iterations)
    dense, lexical, bias = problem.unpack(found.astype(np.float32))
    term, agent = np.nonzero(lexical)
    return Columns(
        prior.dense + dense.T,
        add_terms(prior.lexical, agent, terms[term], lexical[term, agent]),
        prior.bias + bias,
    )


def minimised(
    loss_and_gradient: Callable[[npt.NDArray[np.float64]], tuple[float, npt.NDArray[np.float64]]],
    size: int,
    max_iterations: int,
) -> npt.NDArray[np.float64]:
    """Return where a loss is least, shape (size,), from zero on by L-BFGS."""
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    # More BLAS threads only spin between L-BFGS' many small steps: measured 2.7 times slower.
    with threadpool_limits(1, "blas"):
        result = minimize(
            loss_and_gradient,
            np.zeros(size),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": max_iterations, "maxcor": 8, "ftol": 1e-7},
        )
    found: npt.NDArray[np.float64] = result.x
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """The objective over changes of the k columns; the last target column is "frozen"."""

    dense: FloatArray  # (n, d)
    lexical: csr_matrix  # (n, t)
    targets: FloatArray  # (n, k + 1)
    offsets: FloatArray  # (n, k + 1): logits under the prior, and of the frozen agents
    bias_l2: float

    @property
    def n_parameters(self) -> int:
        rows: int = self.dense.shape[1] + self.lexical.shape[1] + 1
        return rows * int(self.targets.shape[1] - 1)

    def unpack(self, flat: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        k, d, t = self.targets.shape[1] - 1, self.dense.shape[1], self.lexical.shape[1]
        matrix = flat.reshape(d + t + 1, k)
        return matrix[:d], matrix[d : d + t], matrix[d + t]

    def loss_and_gradient(
        self, flat: npt.NDArray[np.float64]
    ) -> tuple[float, npt.NDArray[np.float64]]:
        dense, lexical, bias = self.unpack(flat.astype(np.float32))
        logits = self.offsets.copy()
        logits[:, :-1] += self.dense @ dense + self.lexical @ lexical + bias
        total = logsumexp(logits)
        chosen = (np.where(self.targets > 0, logits, 0.0)).sum(axis=1)
        loss = float((total - chosen).sum(dtype=np.float64))
        loss += 0.5 * _L2 * float((dense**2).sum() + (lexical**2).sum())
        loss += 0.5 * self.bias_l2 * float((bias**2).sum())
        grad = (np.exp(logits - total[:, None]) - self.targets)[:, :-1]  # (n, k)
        gradient = (
            self.dense.T @ grad + _L2 * dense,
            self.lexical.T @ grad + _L2 * lexical,
            (grad.sum(axis=0) + self.bias_l2 * bias)[None, :],
        )
        return loss, np.concatenate(gradient).ravel().astype(np.float64)


def _offsets(features: Features, prior: Columns, frozen: FloatArray | None) -> FloatArray:
    others = np.full(features.dense.shape[0], -1e9) if frozen is None else frozen
    return np.column_stack([prior.logits(features), np.maximum(others, -1e9)]).astype(np.float32)


def _one_hot(y: npt.NDArray[np.intp], width: int) -> FloatArray:
    targets = np.zeros((y.size, width), dtype=np.float32)
    targets[np.arange(y.size), y] = 1.0
    return targets


def learned_terms(lexical: csr_matrix) -> npt.NDArray[np.intp]:
    """Return the n-grams of n texts (n, N_FEATURES) whose weights examples may move."""
    # Character n-grams are five times as many and add nothing once there are examples: they keep
    # the weights that descriptions give them.
    seen = np.bincount(lexical.indices, minlength=lexical.shape[1])[:N_WORD_FEATURES]
    terms = np.flatnonzero(seen >= (3 if lexical.shape[0] >= _RARE_FROM else 1))
    if terms.size > _MAX_LEARNED_TERMS:
        terms = np.sort(terms[np.argsort(-seen[terms], kind="stable")[:_MAX_LEARNED_TERMS]])
    return terms


def add_terms(
    prior: csr_matrix,
    agents: npt.NDArray[np.intp],
    terms: npt.NDArray[np.intp],
    changes: FloatArray,
) -> csr_matrix:
    """Return ``prior`` (k, N_FEATURES) plus m changes of an agent's term, less the small ones."""
    from scipy.sparse import csr_matrix

    kept = np.abs(changes) > _PRUNE
    moved = csr_matrix((changes[kept], (agents[kept], terms[kept])), shape=prior.shape)
    return (prior + moved).tocsr()
