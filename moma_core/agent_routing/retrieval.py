"""Which categories a query is looked up in: the k nearest above a cosine (eq. 17-20).

Both numbers come from examples, so that the wanted category of a query not seen is among those
retrieved with the promised probability. Free functions on arrays; knows no names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Retrieval", "fit_retrieval"]

_MOST_CANDIDATES = 24
_WORK_SAMPLE = 500


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Retrieves at most k categories whose cosine reaches a threshold, and always the nearest.

    Args:
        k: Most categories, at least 1.
        threshold: Least cosine.

    Example:
        >>> Retrieval(2, 0.3).of(np.array([0.1, 0.9, 0.2, 0.5], np.float32)).tolist()
        [1, 3]
    """

    k: int
    threshold: float

    def of(self, cosines: FloatArray) -> npt.NDArray[np.intp]:
        """Return the retrieved categories, nearest first, from all cosines (k_all,)."""
        k = min(self.k, cosines.size)
        best = np.argpartition(-cosines, k - 1)[:k]
        best = best[np.argsort(-cosines[best], kind="stable")]
        reached = int((cosines[best] >= self.threshold).sum())
        chosen: npt.NDArray[np.intp] = best[: max(reached, 1)]
        return chosen


def fit_retrieval(
    cosines: FloatArray,
    wanted: npt.NDArray[np.bool_],
    sizes: npt.NDArray[np.intp],
    share: float = 0.99,
) -> Retrieval | None:
    """Return the cheapest k and threshold that retrieve a wanted category often enough.

    Of m examples, ``ceil((m + 1) * share)`` must be found (the split-conformal quantile): then so
    is the next exchangeable query with probability ``share`` or more. That number of misses is
    given partly to k and partly to the threshold, whichever way leaves the fewest agents to score.

    Args:
        cosines: Of examples and categories, shape (m, k).
        wanted: Categories that hold a wanted agent, shape (m, k).
        sizes: Agents of each category, shape (k,).
        share: Of examples whose category must be retrieved, in (0, 1).

    Returns:
        None when so few examples cannot promise ``share``.

    Example:
        >>> cosines = np.tile(np.array([0.9, 0.5, 0.1], np.float32), (200, 1))
        >>> wanted = np.tile(np.array([False, True, False]), (200, 1))
        >>> fit_retrieval(cosines, wanted, np.array([5, 5, 5])).k
        2
    """
    m = len(cosines)
    needed = int(np.ceil((m + 1) * share))
    if needed > m:
        return None
    best = np.where(wanted, cosines, -np.inf).max(axis=1)  # (m,)
    ranks = (cosines > best[:, None]).sum(axis=1) + 1
    ordered = np.sort(ranks)
    step = max((m - needed) // _MOST_CANDIDATES, 1)
    lengths = sorted({int(ordered[i]) for i in range(needed - 1, m, step)})
    options = []
    for k in lengths:
        inside = np.sort(best[ranks <= k])
        options.append(Retrieval(k, float(inside[inside.size - needed])))
    seen = cosines[:: max(m // _WORK_SAMPLE, 1)]
    work = [_scored(seen, sizes, option) for option in options]
    return options[int(np.argmin(work))]


def _scored(cosines: FloatArray, sizes: npt.NDArray[np.intp], option: Retrieval) -> float:
    """Return how many agents the retrieved categories hold, on average."""
    return float(np.mean([sizes[option.of(row)].sum() for row in cosines]))
