"""A threshold that keeps a promise: conformal risk control of the wrong-agent rate.

The loss of a query is 1 when an agent takes it and is not a wanted one, else 0; it can only fall as
the threshold rises. Then the smallest threshold with

    (losses in n calibration queries + 1) / (n + 1) <= rate

keeps the expected loss of the next exchangeable query at or below ``rate`` (Angelopoulos et al.,
Conformal Risk Control, 2022, theorem 1). Nothing is assumed of the gate's calibration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["check_rate", "conformal_threshold"]

_NEVER = 1.0  # no chance reaches it: every query goes to an LLM


def check_rate(rate: float) -> None:
    """Raise InvalidInputError unless ``rate`` is a number inside (0, 1)."""
    if not isinstance(rate, int | float) or not 0.0 < rate < 1.0:
        raise InvalidInputError(
            f"max_wrong_agent_rate must lie between 0 and 1, got {rate!r}. Write 0.05 for 5 %."
        )


def conformal_threshold(
    chances: npt.NDArray[np.floating[Any]], right: npt.NDArray[np.bool_], rate: float
) -> float:
    """Return the least probability to accept so that wrong agents stay within ``rate``.

    Args:
        chances: The gate's probabilities on n calibration queries, shape (n,).
        right: Whether the best agent was a wanted one, shape (n,).
        rate: Largest share of all queries that may go to a wrong agent, in (0, 1).

    Returns:
        A threshold in [0, 1]; 1 when so few queries cannot promise ``rate`` at all.

    Raises:
        InvalidInputError: ``rate`` is not inside (0, 1).

    Example:
        >>> chances = np.linspace(0.01, 0.99, 99)
        >>> conformal_threshold(chances, chances > 0.3, rate=0.05) < 0.3
        True
    """
    check_rate(rate)
    n = len(chances)
    allowed = int(np.floor(rate * (n + 1) - 1.0 + 1e-9))  # wrong ones that may be accepted
    if allowed < 0:
        return _NEVER
    wrong = np.sort(np.asarray(chances, dtype=np.float64)[~right])[::-1]
    if allowed >= wrong.size:
        return 0.0
    # Above the first wrong one that is too many; ties with it are refused together.
    return float(min(np.nextafter(wrong[allowed], np.inf), _NEVER))
