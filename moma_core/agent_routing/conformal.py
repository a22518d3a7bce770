"""A threshold that keeps a promise: risk control of the wrong-agent rate.

The loss of a query is 1 when an agent takes it and is not a wanted one, else 0; it can only fall as
the threshold rises. Of n calibration queries, k losses are few enough for a promised ``rate`` if

    (k + 1) / (n + 1) <= rate                       on average over calibrations
    P(Binomial(n, rate) <= k) <= 1 - confidence     in all but 1 - confidence of them

The first is conformal risk control (Angelopoulos et al., 2022, theorem 1). It is kept on average:
about half of all calibrations realise more than ``rate``, and a user has one calibration. So the
second is asked as well (Bates et al., Distribution-Free, Risk-Controlling Prediction Sets, 2021,
theorem 1, with the exact binomial tail). Nothing is assumed of the gate's calibration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["CONFIDENCE", "check_rate", "conformal_threshold"]

CONFIDENCE = 0.9
"""Share of calibrations that realise no more than the promised rate."""

_NEVER = 1.0  # no chance reaches it: every query goes to an LLM


def check_rate(rate: float) -> None:
    """Raise InvalidInputError unless ``rate`` is a number inside (0, 1)."""
    if not isinstance(rate, int | float) or not 0.0 < rate < 1.0:
        raise InvalidInputError(
            f"max_wrong_agent_rate must lie between 0 and 1, got {rate!r}. Write 0.05 for 5 %."
        )


def conformal_threshold(
    chances: npt.NDArray[np.floating[Any]],
    right: npt.NDArray[np.bool_],
    rate: float,
    confidence: float | None = CONFIDENCE,
) -> float:
    """Return the least probability to accept so that wrong agents stay within ``rate``.

    Args:
        chances: The gate's probabilities on n calibration queries, shape (n,).
        right: Whether the best agent was a wanted one, shape (n,).
        rate: Largest share of all queries that may go to a wrong agent, in (0, 1).
        confidence: In how many calibrations, in (0, 1); None promises the average alone.

    Returns:
        A threshold in [0, 1]; 1 when so few queries cannot promise ``rate`` at all.

    Raises:
        InvalidInputError: ``rate`` or ``confidence`` is not inside (0, 1).

    Example:
        >>> chances = np.linspace(0.01, 0.99, 99)
        >>> conformal_threshold(chances, chances > 0.3, rate=0.05) < 0.3
        True
    """
    check_rate(rate)
    n = len(chances)
    allowed = _allowed(n, rate, confidence)
    if allowed < 0:
        return _NEVER
    wrong = np.sort(np.asarray(chances, dtype=np.float64)[~right])[::-1]
    if allowed >= wrong.size:
        return 0.0
    # Above the first wrong one that is too many; ties with it are refused together.
    return float(min(np.nextafter(wrong[allowed], np.inf), _NEVER))


def _allowed(n: int, rate: float, confidence: float | None) -> int:
    """Return how many wrong ones of n may be accepted; less than 0: the promise cannot be made."""
    on_average = int(np.floor(rate * (n + 1) - 1.0 + 1e-9))
    if confidence is None:
        return on_average
    if not 0.0 < confidence < 1.0:
        raise InvalidInputError(
            f"confidence must lie between 0 and 1, got {confidence!r}. Write 0.9 for 90 %."
        )
    from scipy.stats import binom

    counts = np.arange(-1, max(on_average, -1) + 1)
    return int(counts[binom.cdf(counts, n, rate) <= 1.0 - confidence].max())
