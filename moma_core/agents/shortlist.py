"""The shortlist: the best agents by the ranker, looked at once more beside their own examples.

One linear column says what an agent's queries have in common; its examples say what they are one
by one. Over the few best agents both are affordable: to the logit comes, with a weight that
held-out examples choose, how close the query is to the agent's examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agent_routing.fitting import logsumexp
from moma_core.agent_routing.gate import Signals
from moma_core.protocols import AgentRecord
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Shortlist", "closeness", "exemplars", "shortlist"]

_LENGTH = 16
_LEAST = -50.0  # stands for the logit of nobody
_SHARPNESS = 20.0  # how much the nearest examples outweigh the mean one


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

    def without(self, owners: npt.NDArray[np.intp]) -> Shortlist:
        """Return the list as if each query's owner (n,) were not eligible."""
        gone = np.where(self.agents == owners[:, None], np.float32(-np.inf), self.logits)
        return Shortlist(self.agents, gone, self.closeness, self.rest)


def shortlist(
    logits: FloatArray,
    vectors: FloatArray,
    exemplars_of: Callable[[int], FloatArray] | None,
) -> Shortlist:
    """Return the best agents of each query with their closeness.

    Args:
        logits: Shape (n, c), c at least 1.
        vectors: The queries' unit vectors, shape (n, d).
        exemplars_of: Column -> the agent's exemplars, shape (m, d); None where closeness has no
            say: it is 0 then.
    """
    n, c = logits.shape
    k = min(_LENGTH, c)
    agents = np.argpartition(-logits, k - 1, axis=1)[:, :k]
    chosen = np.take_along_axis(logits, agents, axis=1)
    others = np.full(n, -np.inf, dtype=np.float32)
    if c > k:
        remaining = logits.copy()
        np.put_along_axis(remaining, agents, -np.inf, axis=1)
        others = logsumexp(remaining)
    if exemplars_of is None:
        return Shortlist(agents, chosen, np.zeros((n, k), dtype=np.float32), others)
    close = [
        [closeness(exemplars_of(int(agent)), vector) for agent in row]
        for row, vector in zip(agents, vectors, strict=True)
    ]
    return Shortlist(agents, chosen, np.array(close, dtype=np.float32).reshape(n, k), others)


def closeness(exemplars: FloatArray, vector: FloatArray) -> float:
    """Return a soft maximum of the cosines of exemplars (m, d) and a vector (d,).

    Example:
        >>> bool(closeness(np.eye(2, dtype=np.float32), np.array([1.0, 0.0])) > 0.9)
        True
    """
    weights = np.exp(_SHARPNESS * (exemplars @ vector))
    return math.log(float(np.add.reduce(weights)) / len(weights)) / _SHARPNESS


def exemplars(record: AgentRecord) -> FloatArray:
    """Return an agent's example vectors (m, d), or its description's where it has none."""
    if len(record.example_vectors):
        return record.example_vectors
    return record.description_vector[None]
