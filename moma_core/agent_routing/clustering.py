"""Groups of unit vectors: k-means with k from the data, and near-duplicates (eq. 14-16).

Free functions on arrays. Knows nothing of agents, names or queries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["group", "near_duplicates", "nearest", "unit"]

_SAMPLE = 4_000  # vectors that k-means looks at; the others join the nearest centre
_SILHOUETTE_SAMPLE = 1_000
_ITERATIONS = 15
_PARTS = (0.5, 0.7, 1.0, 1.4, 2.0)  # of the square root of n: the groups tried
_BLOCK = 1_024  # rows of a cosine matrix held at once


def unit(rows: FloatArray) -> FloatArray:
    """Return rows (n, d) at unit length; rows of zeros stay zeros."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: FloatArray = (rows / np.maximum(norms, 1e-12)).astype(np.float32)
    return scaled


def nearest(vectors: FloatArray, centres: FloatArray) -> npt.NDArray[np.intp]:
    """Return the centre of largest cosine for each vector, (n, d) and (k, d) to (n,)."""
    parts = [
        (vectors[start : start + _BLOCK] @ centres.T).argmax(axis=1)
        for start in range(0, len(vectors), _BLOCK)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.intp)


def group(vectors: FloatArray, seed: int = 0) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Return the group of each vector and the groups' unit centres (eq. 14-15).

    k-means runs for half to twice the square root of n groups, so that finding a group costs
    about as much as looking through it; the best silhouette wins.

    Args:
        vectors: Unit vectors, shape (n, d), n at least 2.
        seed: Of the sample and of k-means.

    Returns:
        Labels, shape (n,), each in [0, k), and centres, shape (k, d). No group is empty.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> corners = np.repeat(np.eye(4, dtype=np.float32), 9, axis=0)
        >>> labels, centres = group(unit(corners + 0.05 * rng.standard_normal((36, 4))))
        >>> len(centres), len(set(labels[:9].tolist()))
        (4, 1)
    """
    generator = np.random.default_rng(seed)
    n = len(vectors)
    picked = np.sort(generator.permutation(n)[:_SAMPLE])
    sample = vectors[picked]
    tried = [_kmeans(sample, k, seed) for k in _grid(n, len(sample))]
    scores = [_silhouette(sample, labels, seed) for labels, _ in tried]
    centres = unit(tried[int(np.argmax(scores))][1])
    labels = nearest(vectors, centres)
    used, labels = np.unique(labels, return_inverse=True)
    return labels.astype(np.intp), centres[used]


def _grid(n: int, n_sample: int) -> list[int]:
    root = np.sqrt(n)
    most = max(n_sample // 2, 1)
    return sorted({int(np.clip(round(root * part), 2, max(most, 2))) for part in _PARTS})


def _kmeans(sample: FloatArray, k: int, seed: int) -> tuple[npt.NDArray[np.intp], FloatArray]:
    from sklearn.cluster import KMeans

    k = min(k, len(np.unique(sample, axis=0)))
    fitted = KMeans(k, n_init=1, max_iter=_ITERATIONS, random_state=seed).fit(sample)
    return fitted.labels_.astype(np.intp), fitted.cluster_centers_.astype(np.float32)


def _silhouette(sample: FloatArray, labels: npt.NDArray[np.intp], seed: int) -> float:
    """Return the mean silhouette of a part of the sample; -1 where it has no meaning."""
    from sklearn.metrics import silhouette_score

    picked = np.random.default_rng(seed).permutation(len(sample))[:_SILHOUETTE_SAMPLE]
    chosen = labels[picked]
    if not 2 <= len(np.unique(chosen)) < len(chosen):
        return -1.0
    return float(silhouette_score(sample[picked], chosen))


def near_duplicates(vectors: FloatArray, least: float) -> npt.NDArray[np.intp]:
    """Return for each vector the earlier one that it repeats, or itself (eq. 16).

    Args:
        vectors: Unit vectors, shape (k, d); the earlier of two near-duplicates is kept.
        least: Cosine from which two are the same.

    Returns:
        Shape (k,); an entry that is kept points to itself.

    Example:
        >>> near_duplicates(np.array([[1, 0], [0, 1], [0.98, 0.2]], np.float32), 0.9).tolist()
        [0, 1, 0]
    """
    owner = np.arange(len(vectors))
    for start in range(0, len(vectors), _BLOCK):
        cosines = vectors[start : start + _BLOCK] @ vectors[: start + _BLOCK].T
        for i in np.flatnonzero((np.tril(cosines, start - 1) >= least).any(axis=1)):
            before = cosines[i, : start + i]
            before = np.where(owner[: start + i] == np.arange(start + i), before, -1.0)
            best = int(before.argmax())
            if before[best] >= least:
                owner[start + i] = best
    return owner
