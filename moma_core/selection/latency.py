"""Latency as a limit: who answers in time; the preference chooses among those.

A limit, not a third weight: what is shown of TOPSIS's order (`topsis`) is shown for two criteria,
and it holds among those in time as it does among all. Knows seconds only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidPreferenceError

__all__ = ["check_latency", "in_time"]


def check_latency(limit: float | None) -> float:
    """Return the limit in seconds, infinity for None.

    Raises:
        InvalidPreferenceError: It is not a positive number.
    """
    if limit is None:
        return np.inf
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
        raise InvalidPreferenceError(
            f"max_latency is seconds, more than zero, got {limit!r}. Leave it out for no limit."
        )
    return float(limit)


def in_time(latencies: Sequence[float | None], limit: float) -> npt.NDArray[np.bool_]:
    """Return which candidates answer within the limit, shape (m,); the fastest where none does.

    A candidate of unknown latency counts as in time: leave it out of the pool if that is wrong.

    Args:
        latencies: Typical seconds of each candidate, None where not known, length m.
        limit: Seconds.

    Example:
        >>> in_time([0.5, None, 4.0], 1.0).tolist(), in_time([3.0, 4.0], 1.0).tolist()
        ([True, True, False], [True, False])
    """
    seconds = np.array([0.0 if each is None else each for each in latencies])
    fits: npt.NDArray[np.bool_] = seconds <= limit
    return fits if fits.any() else seconds == seconds.min(initial=np.inf)
