"""Measures of a score-cost trade-off: hull, score at a cost, cost of a score. Knows no router."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["COST_SHARES", "cost_of_score", "score_at_cost", "share_of", "upper_hull"]

COST_SHARES = (0.25, 0.5, 0.7)
"""Shares of the best single LLM's cost at which scores are reported."""

_Array = npt.NDArray[np.float64]


def upper_hull(points: _Array) -> _Array:
    """Return the rising part of the upper convex hull of (cost, score) points, cheapest first.

    A point between two corners is reached by using one setting for a share of the queries and the
    other setting for the rest.

    Args:
        points: Costs and scores, shape (n, 2), n at least 1.

    Example:
        >>> upper_hull(np.array([[0.0, 0.5], [1.0, 0.6], [2.0, 1.0], [3.0, 0.9]])).tolist()
        [[0.0, 0.5], [2.0, 1.0]]
    """
    points = np.asarray(points, np.float64)
    corners: list[_Array] = []
    for point in points[np.lexsort((-points[:, 1], points[:, 0]))]:
        if corners and point[1] <= corners[-1][1]:
            continue
        while len(corners) > 1 and _turns_up(corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    return np.array(corners)


def _turns_up(first: _Array, middle: _Array, last: _Array) -> bool:
    left = (middle[1] - first[1]) * (last[0] - first[0])
    right = (last[1] - first[1]) * (middle[0] - first[0])
    return bool(left <= right)


def score_at_cost(hull: _Array, cost: float) -> float | None:
    """Return the score reached at a mean cost, linear between corners; None below the cheapest."""
    if cost < hull[0, 0]:
        return None
    return float(np.interp(cost, hull[:, 0], hull[:, 1]))


def cost_of_score(hull: _Array, score: float) -> float | None:
    """Return the least mean cost at which a score is reached; None when it never is."""
    if score > hull[-1, 1]:
        return None
    if score <= hull[0, 1]:
        return float(hull[0, 0])
    return float(np.interp(score, hull[:, 1], hull[:, 0]))


def share_of(cost: float | None, whole: float) -> float | None:
    """Return the cost as a share of another one; None where either has no meaning."""
    return None if cost is None or whole <= 0 else float(cost / whole)
