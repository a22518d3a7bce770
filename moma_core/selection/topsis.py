"""TOPSIS over cost and score (eq. 8-11): how near each candidate is to cheap and perfect.

Of two candidates min-max leaves only (0, 0) and (1, 1): whatever they cost and score, they tie at
equal weights. `closeness_of_two` compares what they differ by instead.

Knows nothing of LLMs; works on rows, so that one query and a test set share one code path.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["WORTH", "closeness_of_two", "closeness_on_front", "topsis"]

WORTH = 0.25
"""Of two LLMs at equal weights, the dearer one's whole price is worth this share of its score. At 1
the cheaper one of most pairs of real LLMs would answer everything: prices differ by factors, scores
by a tenth."""

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


def closeness_of_two(costs: _Array, scores: _Array, w_cost: float, w_score: float) -> _Array:
    """Return what speaks for each of two candidates, neither of which beats the other on both.

    For the dearer one its lead in score, as a share of its score, times ``w_score``; for the
    cheaper one what it saves, as a share of the other's cost, times ``w_cost * WORTH``. More weight
    on cost takes from the one and gives to the other, so it never picks the dearer one.

    Args:
        costs: USD, shape (n, 2).
        scores: Quality, shape (n, 2).
        w_cost: Weight of the cost, zero or more.
        w_score: Weight of the score, zero or more.

    Returns:
        The larger, the better, shape (n, 2).

    Example:
        >>> costs, scores = np.array([[1.0, 15.0]] * 2), np.array([[0.81, 0.85], [0.50, 0.85]])
        >>> closeness_of_two(costs, scores, 0.5, 0.5).argmax(axis=1).tolist()
        [0, 1]
    """
    lead, saved = _share(scores - scores[:, ::-1], scores), _share(costs[:, ::-1] - costs, costs)
    speaks: _Array = w_score * np.maximum(lead, 0.0) + w_cost * WORTH * np.maximum(saved, 0.0)
    return speaks


def _share(gaps: _Array, values: _Array) -> _Array:
    largest = np.broadcast_to(values.max(axis=1, keepdims=True), values.shape)
    shares = gaps.copy()
    np.divide(gaps, largest, out=shares, where=largest > 0)
    return shares


def _min_max(values: _Array, front: npt.NDArray[np.bool_], constant: float) -> _Array:
    low = np.where(front, values, np.inf).min(axis=1, keepdims=True)
    high = np.where(front, values, -np.inf).max(axis=1, keepdims=True)
    spread = high - low
    scaled = np.full(values.shape, constant)
    np.divide(values - low, spread, out=scaled, where=(spread > 0) & front)
    return scaled
