"""The Pareto front over cost and score (eq. 7): what no other candidate beats on both.

Knows numbers only: nothing of LLMs, preferences or weights.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["front_mask", "pareto_front"]


def front_mask(
    costs: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Return which candidates no other one dominates, row by row (eq. 7).

    Candidate k dominates i when it costs no more and scores no less, and differs in one of the two.
    Candidates equal in both dominate neither each other, so all of them stay.

    Args:
        costs: USD, shape (n, m).
        scores: Quality, shape (n, m).

    Returns:
        True on the front, shape (n, m); at least one in each row.
    """
    cheaper = costs[:, None, :] <= costs[:, :, None]  # (n, i, k): k costs no more than i
    better = scores[:, None, :] >= scores[:, :, None]
    differs = (costs[:, None, :] != costs[:, :, None]) | (scores[:, None, :] != scores[:, :, None])
    dominated: npt.NDArray[np.bool_] = (cheaper & better & differs).any(axis=2)
    return ~dominated


def pareto_front(
    costs: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]
) -> npt.NDArray[np.intp]:
    """Return the non-dominated candidates of one query, cheapest first (eq. 7).

    Args:
        costs: USD, shape (m,).
        scores: Quality, shape (m,).

    Returns:
        Indices by ascending cost; equal candidates are all kept, in the order given.

    Example:
        >>> pareto_front(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.4, 0.9])).tolist()
        [0, 2]
    """
    costs, scores = np.asarray(costs, np.float64), np.asarray(scores, np.float64)
    front = np.flatnonzero(front_mask(costs[None], scores[None])[0])
    return front[np.argsort(costs[front], kind="stable")]
