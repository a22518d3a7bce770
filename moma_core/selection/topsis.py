"""TOPSIS over cost and score (eq. 8-11): how near each candidate is to cheap and perfect.

Knows nothing of LLMs; works on rows, so that one query and a test set share one code path.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["closeness_on_front", "topsis"]

_Array = npt.NDArray[np.float64]


def topsis(costs: _Array, scores: _Array, w_cost: float, w_score: float) -> _Array:
    """Return the closeness of each candidate of a front to the ideal (eq. 8-11).

    Both columns are brought to [0, 1] by min-max (8); a constant column becomes all 1 for the
    score and all 0 for the cost. With the ideal (0, 1) and the anti-ideal (1, 0) and weighted
    Euclidean distances D+ (9) and D- (10), the closeness is D- / (D+ + D-) (11).

    On a fixed front the candidate of the largest closeness never gets dearer as ``w_cost`` grows:
    closeness orders as (D-/D+)^2, and for a cheaper candidate a and a dearer b the sign of the
    difference is a quadratic in (w_score/w_cost)^2 that is positive at zero and negative at
    infinity, so it changes once, from a to b.

    Args:
        costs: USD of the candidates on the front, shape (m,).
        scores: Their quality, shape (m,).
        w_cost: Weight of the cost, zero or more.
        w_score: Weight of the score, zero or more; not both zero.

    Returns:
        Closeness in [0, 1], shape (m,).

    Raises:
        ValueError: A weight is negative, or both are zero.

    Example:
        >>> topsis(np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.9, 1.0]), 0.5, 0.5).round(2).tolist()
        [0.5, 0.67, 0.5]
    """
    if not (w_cost >= 0 and w_score >= 0 and w_cost + w_score > 0):
        raise ValueError(
            f"expected weights of zero or more, not both zero, got {w_cost!r}, {w_score!r}."
        )
    costs, scores = np.asarray(costs, np.float64)[None], np.asarray(scores, np.float64)[None]
    closeness: _Array = closeness_on_front(
        costs, scores, np.ones(costs.shape, bool), w_cost, w_score
    )[0]
    return closeness


def closeness_on_front(
    costs: _Array, scores: _Array, front: npt.NDArray[np.bool_], w_cost: float, w_score: float
) -> _Array:
    """Return the closeness of each candidate, -inf off the front; all shapes (n, m) (eq. 8-11)."""
    cost = _min_max(costs, front, constant=0.0)
    score = _min_max(scores, front, constant=1.0)
    to_ideal = np.hypot(w_cost * cost, w_score * (1.0 - score))
    to_worst = np.hypot(w_cost * (1.0 - cost), w_score * score)
    total = to_ideal + to_worst
    closeness = np.divide(to_worst, total, out=np.ones_like(total), where=total > 0)
    return np.where(front, closeness, -np.inf)


def _min_max(values: _Array, front: npt.NDArray[np.bool_], constant: float) -> _Array:
    low = np.where(front, values, np.inf).min(axis=1, keepdims=True)
    high = np.where(front, values, -np.inf).max(axis=1, keepdims=True)
    spread = high - low
    scaled = np.full(values.shape, constant)
    np.divide(values - low, spread, out=scaled, where=(spread > 0) & front)
    return scaled
