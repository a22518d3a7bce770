"""Which queries to have judged: representative ones of each domain (4.1.2). Knows vectors only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidInputError
from moma_core.llm_routing.heads.centres import find_centres, squared_distances
from moma_core.types import FloatArray

__all__ = ["representatives"]

_Array = npt.NDArray[np.float64]


def representatives(
    vectors: FloatArray,
    domains: Sequence[str],
    total: int,
    method: Literal["k-centre", "k-means"] = "k-means",
    seed: int = 0,
) -> npt.NDArray[np.intp]:
    """Return rows that stand for the others, each domain by its share (at least one).

    Args:
        vectors: Query vectors, shape (n, d).
        domains: Domain of each query, length n.
        total: Queries wanted.
        method: ``"k-means"``: those nearest to cluster centres, typical ones; ``"k-centre"``:
            farthest-first, so that no query is far from a chosen one, unusual ones too.
        seed: Of the starting points.

    Returns:
        Distinct row numbers, ascending.

    Raises:
        InvalidInputError: More rows are wanted than exist, fewer than domains, or no such method.

    Example:
        >>> rows = representatives(np.eye(4, dtype=np.float32), ["a", "a", "b", "b"], 2)
        >>> len(rows), rows[0] < 2 <= rows[1]
        (2, np.True_)
    """
    labels, sizes = np.unique(np.array(domains), return_counts=True)
    if not len(labels) <= total <= len(vectors):
        raise InvalidInputError(
            f"expected {len(labels)} (domains) to {len(vectors)} (queries) representatives, got "
            f"total={total}."
        )
    if method not in ("k-centre", "k-means"):
        raise InvalidInputError(f"unknown method {method!r}. Choose 'k-means' or 'k-centre'.")
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for label, count in zip(labels, _quotas(sizes, total), strict=True):
        rows = np.flatnonzero(np.array(domains) == label)
        points = np.asarray(vectors[rows], np.float64)
        pick = _farthest_first if method == "k-centre" else _nearest_to_centres
        chosen.extend(rows[pick(points, int(count), rng)].tolist())
    return np.array(sorted(chosen), np.intp)


def _quotas(sizes: npt.NDArray[np.intp], total: int) -> npt.NDArray[np.intp]:
    """Shares by size, one at least, rounded to the total by largest remainder."""
    spare = total - len(sizes)
    shares = (sizes - 1) * spare / max(int((sizes - 1).sum()), 1)
    quotas = shares.astype(np.intp)
    order = np.argsort(-(shares - quotas), kind="stable")
    quotas[order[: spare - int(quotas.sum())]] += 1
    return np.asarray(quotas + 1, np.intp)


def _farthest_first(points: _Array, count: int, rng: np.random.Generator) -> list[int]:
    """Start at the point nearest to the mean; then always the one farthest from all chosen."""
    del rng
    chosen = [int(squared_distances(points, points.mean(axis=0)[None]).argmin())]
    distance = squared_distances(points, points[chosen])[:, 0]
    while len(chosen) < count:
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, squared_distances(points, points[chosen[-1:]])[:, 0])
    return chosen


def _nearest_to_centres(points: _Array, count: int, rng: np.random.Generator) -> list[int]:
    centres = find_centres(points, count, rng)
    distances = squared_distances(points, centres)
    chosen: list[int] = []
    for column in range(distances.shape[1]):
        distances[chosen] = np.inf
        chosen.append(int(distances[:, column].argmin()))
    while len(chosen) < count:
        chosen.append(next(row for row in range(len(points)) if row not in chosen))
    return chosen
