"""Learns from real usage by what factor each LLM costs more, or less, than was expected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidInputError
from moma_core.locks import Lock

__all__ = ["Usage"]

_PRIOR = 5.0
"""Calls' worth of the belief that expectations are right."""

_MEMORY = 200.0
"""Calls that are remembered; older ones fade, so that a change of model or price is followed."""

_BEYOND = math.log(20.0)


class Usage:
    """A factor of each LLM's cost: the mean of real over expected in logs, drawn to one.

    Args:
        seen: By LLM: weight of what was seen and its mean log ratio.

    Example:
        >>> usage = Usage()
        >>> for _ in range(50):
        ...     usage.observe("small", 0.001 * usage.factors(["small"])[0], real=0.002)
        >>> usage.factors(["small", "unknown"]).round(1).tolist()
        [1.9, 1.0]
    """

    def __init__(self, seen: Mapping[str, Sequence[float]] | None = None) -> None:
        self._seen = {name: (float(n), float(mean)) for name, (n, mean) in (seen or {}).items()}
        self._lock = Lock()
        self.observed = 0  # times that the factors changed

    def observe(self, name: str, expected: float, real: float) -> None:
        """Learn what one call cost.

        Args:
            name: The LLM that was asked.
            expected: USD that the decision said; the factor that it held is taken out again.
            real: USD that was paid.

        Raises:
            InvalidInputError: A cost is negative or no number.
        """
        if not (0.0 <= expected < math.inf and 0.0 <= real < math.inf):
            raise InvalidInputError(
                f"costs are USD, zero or more, got expected={expected!r} and real={real!r}."
            )
        if expected == 0.0 or real == 0.0:
            return  # a free LLM has no ratio
        with self._lock:
            weight, mean = self._seen.get(name, (0.0, 0.0))
            ratio = math.log(real / expected)
            ratio = min(max(ratio, -_BEYOND), _BEYOND) + self._drawn(name)
            weight = min(weight + 1.0, _MEMORY)
            self._seen[name] = (weight, mean + (ratio - mean) / weight)
            self.observed += 1

    def expect(
        self, name: str, expected: npt.NDArray[np.float64], real: npt.NDArray[np.float64]
    ) -> None:
        """Learn from many calls at once, both in USD, shape (n,): the ratio of their sums."""
        if expected.sum() > 0.0 and real.sum() > 0.0:
            with self._lock:
                weight = min(float(len(real)), _MEMORY)
                self._seen[name] = (weight, math.log(real.sum() / expected.sum()))
                self.observed += 1

    def _drawn(self, name: str) -> float:
        weight, mean = self._seen.get(name, (0.0, 0.0))
        return mean * weight / (weight + _PRIOR)

    def factors(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return what to multiply expected USD by, one where nothing was seen, shape (m,)."""
        return np.exp([self._drawn(name) for name in names])

    def to_dict(self) -> dict[str, list[float]]:
        """Return plain numbers by LLM."""
        return {name: [weight, mean] for name, (weight, mean) in sorted(self._seen.items())}
