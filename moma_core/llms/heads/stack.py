"""Stacked head: a weighted sum of other heads, weights learnt on queries they were not fitted on.

A prediction is split into the query's ease (its mean over LLMs) and each LLM's spread around it.
Both parts get non-negative weights of their own by least squares, each LLM's
training mean being the origin. Spread that does not generalise is so shrunk towards "the LLM that
is best overall", which keeps the performance preference from chasing noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moma_core.llms.heads.contract import Head
from moma_core.types import FloatArray, LLMCard

__all__ = [
    "StackWeights",
    "StackedHead",
    "fit_weights",
]

_Array = npt.NDArray[np.float64]
_SOFT = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class StackWeights:
    """How predictions are blended.

    Args:
        base: Training mean of each LLM, shape (m,).
        ease_means: Mean ease in each member's predictions, shape (h,).
        spread_means: Mean spread in each member's predictions, shape (h, m).
        ease_weights: Weight of each member's ease, shape (h,).
        spread_weights: Weight of each member's spread, shape (h,).
    """

    base: _Array
    ease_means: _Array
    spread_means: _Array
    ease_weights: _Array
    spread_weights: _Array

    def blend(self, predictions: _Array) -> _Array:
        """Return quality in (0, 1), shape (n, m), from predictions of shape (h, n, m).

        Values beyond 0.05 and 0.95 are bent, not cut, so that no two of them become equal.
        """
        h, n, m = predictions.shape
        flat = predictions.reshape(h, n * m)
        means = flat.reshape(h, n, m) @ np.full(m, 1.0 / m)  # (h, n); np.mean is slow on one row
        common = (self.ease_weights - self.spread_weights) @ means  # (n,)
        origin = (
            self.base
            - self.ease_weights @ self.ease_means
            - self.spread_weights @ self.spread_means
        )
        raw: _Array = (self.spread_weights @ flat).reshape(n, m) + common[:, None] + origin
        if raw.max(initial=0.0) > 1.0 - _SOFT:
            high = 1.0 - _SOFT * np.exp(-np.maximum(raw - (1.0 - _SOFT), 0.0) / _SOFT)
            raw = np.where(raw > 1.0 - _SOFT, high, raw)
        if raw.min(initial=1.0) < _SOFT:
            raw = np.where(raw < _SOFT, _SOFT * np.exp(np.minimum(raw - _SOFT, 0.0) / _SOFT), raw)
        return raw


def fit_weights(
    predictions: _Array, scores: _Array, observed: npt.NDArray[np.bool_]
) -> StackWeights:
    """Learn the blend from held-out predictions.

    Args:
        predictions: Of queries the members did not see, shape (h, n, m).
        scores: Complete scores, shape (n, m).
        observed: Which of them were measured; the others weigh nothing, shape (n, m).
    """
    from scipy.optimize import nnls

    base, means = scores.mean(axis=0), predictions.mean(axis=2)
    spread = predictions - means[:, :, None]
    ease_means, spread_means = means.mean(axis=1), spread.mean(axis=1)
    true_ease = scores.mean(axis=1)
    around = scores - true_ease[:, None] - (base - base.mean())
    kept = observed.ravel()
    by_spread = (spread - spread_means[:, None, :]).reshape(len(predictions), -1)[:, kept].T
    ease = nnls((means - ease_means[:, None]).T, true_ease - base.mean())[0]
    return StackWeights(
        base, ease_means, spread_means, ease, nnls(by_spread, around.ravel()[kept])[0]
    )


@dataclass(frozen=True, slots=True, eq=False)
class StackedHead:
    """Blends member heads by `StackWeights`; members of no weight are left out by training.

    Args:
        llms: Cards of the columns.
        members: Heads over the same LLMs in the same order.
        weights: The blend.
    """

    kind: ClassVar[str] = "stack"
    llms: tuple[LLMCard, ...]
    members: Sequence[Head]
    weights: StackWeights

    @classmethod
    def of(cls, members: Sequence[Head], weights: StackWeights) -> StackedHead:
        """Return the blend of those members that weigh something, or of the first."""
        weighs = weights.ease_weights + weights.spread_weights > 0.0
        kept = np.flatnonzero(weighs) if weighs.any() else np.zeros(1, np.intp)
        by_member = {
            name: getattr(weights, name)[kept] for name in StackWeights.__slots__ if name != "base"
        }
        heads = [members[row] for row in kept.tolist()]
        return cls(members[0].llms, heads, StackWeights(weights.base, **by_member))

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in (0, 1), shape (n, m)."""
        predictions = np.array([member.predict(embeddings) for member in self.members], np.float64)
        return self.weights.blend(predictions).astype(np.float32)

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        return {"members": [{"kind": member.kind, **member.config()} for member in self.members]}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps; members' names are prefixed by their position."""
        arrays: dict[str, npt.NDArray[Any]] = {
            name: getattr(self.weights, name) for name in StackWeights.__slots__
        }
        for position, member in enumerate(self.members):
            arrays |= {f"{position}.{name}": values for name, values in member.arrays().items()}
        return arrays
