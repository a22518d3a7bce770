"""The shortlist: the best agents by the ranker, looked at once more beside their own examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agents.catalog import Snapshot
from moma_core.agents.gate import Signals
from moma_core.agents.ranker import Columns, logsumexp
from moma_core.protocols import AgentRecord
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "Shortlist",
    "closeness",
    "cold_start_features",
    "downweight_ngrams",
    "exemplars",
    "shortlist",
]

_LENGTH = 16
_LEAST = -50.0  # stands for the logit of nobody
_GAMMA = 20.0  # how much the nearest examples outweigh the mean one


@dataclass(frozen=True, slots=True, eq=False)
class Shortlist:
    """The k best agents of each of n queries, unordered.

    Args:
        agents: Column of each in the logits it was made from, shape (n, k).
        logits: Theirs, shape (n, k).
        closeness: Theirs, at most 1, shape (n, k).
        rest: Log-sum-exp of the logits of all other agents, shape (n,).
    """

    agents: npt.NDArray[np.intp]
    logits: FloatArray
    closeness: FloatArray
    rest: FloatArray

    def refined(self, weight: float) -> FloatArray:
        """Return logits with the examples' say, shape (n, k)."""
        return self.logits + np.float32(weight) * self.closeness

    def total(self, weight: float) -> FloatArray:
        """Return the log-sum-exp over all agents, those off the list as far as the list's last."""
        others = self.rest + np.float32(weight) * self.closeness.min(axis=1)
        total: FloatArray = np.logaddexp(logsumexp(self.refined(weight)), others)
        return total

    def best(self, weight: float) -> npt.NDArray[np.intp]:
        """Return the column of the best agent, shape (n,)."""
        first = self.refined(weight).argmax(axis=1)[:, None]
        chosen: npt.NDArray[np.intp] = np.take_along_axis(self.agents, first, axis=1)[:, 0]
        return chosen

    def signals(self, weight: float, scope: FloatArray | None = None) -> Signals:
        """Return what the gate sees, ``scope`` (n,) beside the logits."""
        top = np.maximum(self.refined(weight).max(axis=1), _LEAST)
        total = np.maximum(self.total(weight), _LEAST)
        return Signals(top, np.minimum(top - total, 0.0), scope)

    def without(self, y: npt.NDArray[np.intp]) -> Shortlist:
        """Return the list as if each query's owner (n,) were not eligible."""
        gone = np.where(self.agents == y[:, None], np.float32(-np.inf), self.logits)
        return Shortlist(self.agents, gone, self.closeness, self.rest)


def shortlist(
    logits: FloatArray,
    vectors: FloatArray,
    exemplars_of: Callable[[int], FloatArray | None] | None,
    length: int = _LENGTH,
) -> Shortlist:
    """Return the best agents of each query with their closeness.

    Args:
        logits: Shape (n, c), c at least 1.
        vectors: The queries' unit vectors, shape (n, d).
        exemplars_of: Column -> the agent's exemplars, shape (m, d), or None where it has none: it
            is taken to be as close as the closest agent. None where closeness has no say: it is 0.
        length: Agents to keep, where more than usual are wanted.
    """
    n, c = logits.shape
    k = min(max(length, _LENGTH), c)
    agents = np.argpartition(-logits, k - 1, axis=1)[:, :k]
    chosen = np.take_along_axis(logits, agents, axis=1)
    others = np.full(n, -np.inf, dtype=np.float32)
    if c > k:
        remaining = logits.copy()
        np.put_along_axis(remaining, agents, -np.inf, axis=1)
        others = logsumexp(remaining)
    if exemplars_of is None:
        return Shortlist(agents, chosen, np.zeros((n, k), dtype=np.float32), others)
    close = np.array(
        [
            [_closeness_or_nan(exemplars_of(int(agent)), vector) for agent in row]
            for row, vector in zip(agents, vectors, strict=True)
        ],
        dtype=np.float32,
    ).reshape(n, k)
    nearest = np.where(np.isnan(close), -1.0, close).max(axis=1, keepdims=True)
    return Shortlist(agents, chosen, np.where(np.isnan(close), nearest, close), others)


def _closeness_or_nan(exemplars: FloatArray | None, vector: FloatArray) -> float:
    return math.nan if exemplars is None else closeness(exemplars, vector)


def closeness(exemplars: FloatArray, vector: FloatArray) -> float:
    """Return a soft maximum of the cosines of exemplars (m, d) and a vector (d,).

    Example:
        >>> bool(closeness(np.eye(2, dtype=np.float32), np.array([1.0, 0.0])) > 0.9)
        True
    """
    weights = np.exp(_GAMMA * (exemplars @ vector))
    return math.log(float(np.add.reduce(weights)) / len(weights)) / _GAMMA


def exemplars(record: AgentRecord) -> FloatArray | None:
    """Return an agent's example vectors (m, d); None where it has none."""
    return record.example_vectors if len(record.example_vectors) else None


_NAMES_LEXICAL = 0.7  # share of the n-grams' weight that bare names keep; benchmarks/LOG.md
_NOBODY = np.float32(0.5)  # logit that somebody reaches for any query: no lead over less


def downweight_ngrams(columns: Columns, snapshot: Snapshot) -> Columns:
    """Return columns of agents without examples, n-grams weighing less among bare names.

    A name is two or three words, so one of them in a query makes up half its n-gram vector, whether
    or not it tells anything ("balance", "change"). Beside descriptions the full weight is right.

    Args:
        columns: Of some agents of the snapshot, as `description_columns` makes them.
        snapshot: All agents; one description or example among them, and nothing changes.
    """
    if not snapshot.names_only:
        return columns
    lexical = (columns.lexical * np.float32(_NAMES_LEXICAL)).tocsr()
    return Columns(columns.dense, lexical, columns.bias)


def cold_start_features(
    best: Shortlist,
    weight: float,
    vectors: FloatArray,
    rows: npt.NDArray[np.intp],
    snapshot: Snapshot,
) -> FloatArray:
    """Return what `Signals.cold` holds of n queries, shape (n, 2).

    Args:
        best: Their shortlists.
        weight: Of the examples one by one, as in `Shortlist.refined`.
        vectors: Their unit vectors, shape (n, d).
        rows: Of the snapshot, what the list's agents are columns of.
        snapshot: All agents.

    Returns:
        How far the best logit leads the next one, or what anybody reaches, and the cosine of
        query and best agent's description.
    """
    refined = best.refined(weight)
    look = np.empty((len(refined), 2), dtype=np.float32)
    ranked = np.sort(refined, axis=1)
    rival = ranked[:, -2] if ranked.shape[1] > 1 else _NOBODY
    look[:, 0] = ranked[:, -1] - np.maximum(rival, _NOBODY)
    chosen = rows[best.best(weight)]
    for i, (row, vector) in enumerate(zip(chosen, vectors, strict=True)):
        look[i, 1] = snapshot.records[row].description_vector @ vector
    return look
