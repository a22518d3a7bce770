"""k-means and the logistic function in numpy, shared by heads, training and teams."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = [
    "find_centres",
    "nearest",
    "sigmoid",
    "squared_distances",
]

_Array = npt.NDArray[np.float64]


def sigmoid(logits: npt.ArrayLike) -> _Array:
    """Return ``1 / (1 + exp(-logits))``, of the same shape, without overflow."""
    probabilities: _Array = 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits)))
    return probabilities


def squared_distances(points: _Array, centres: _Array) -> _Array:
    """Return squared Euclidean distances, shape (n, k), of points (n, d) to centres (k, d)."""
    squares = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
    distances: _Array = np.maximum(squares - 2.0 * (points @ centres.T), 0.0)
    return distances


def nearest(points: _Array, centres: _Array) -> npt.NDArray[np.intp]:
    """Return the index of the nearest centre of each point, shape (n,)."""
    labels: npt.NDArray[np.intp] = squared_distances(points, centres).argmin(axis=1)
    return labels


def find_centres(
    points: _Array, k: int, rng: np.random.Generator, rounds: int = 12, starts: int = 1
) -> _Array:
    """Return at most k centres by Lloyd's rounds, the best of ``starts`` tries, shape (<= k, d).

    Each try starts at distinct points picked by the generator: the same seed, the same centres.

    Args:
        points: Shape (n, d).
        k: Centres wanted; fewer come back when fewer distinct points exist.
        rng: Source of the starting points.
        rounds: Lloyd's rounds of a try.
        starts: Tries.
    """
    distinct = np.unique(points, axis=0)
    if len(distinct) <= k:
        return distinct
    tries = [_lloyd(points, rng.permutation(distinct)[:k], rounds) for _ in range(starts)]
    return min(tries, key=lambda each: float(squared_distances(points, each).min(axis=1).sum()))


def _lloyd(points: _Array, centres: _Array, rounds: int) -> _Array:
    for _ in range(rounds):
        labels = nearest(points, centres)
        order = np.argsort(labels, kind="stable")
        present, first = np.unique(labels[order], return_index=True)
        sums = np.add.reduceat(points[order], first, axis=0)
        centres = centres.copy()
        centres[present] = sums / np.diff(first, append=len(points))[:, None]
    return centres
