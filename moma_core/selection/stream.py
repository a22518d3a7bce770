"""A budget over a stream of queries: what was spent so far decides what the next one may cost.

A value, not a counter: the caller holds it and passes it on. Knows no LLM.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from moma_core.errors import InvalidPreferenceError
from moma_core.types import Cost

__all__ = ["StreamBudget"]

_BURST = 3.0


@dataclass(frozen=True, slots=True)
class StreamBudget:
    """USD for a number of queries, spread evenly over those still to come.

    A query may take up to three times its even share, but never more than is left; what easy
    queries leave over falls to the hard ones.

    Args:
        total: USD for all queries.
        queries: Queries expected.
        spent: USD spent so far.
        asked: Queries routed so far.

    Raises:
        InvalidPreferenceError: A number is negative, or no query is expected.

    Example:
        >>> budget = StreamBudget(total=1.0, queries=100)
        >>> budget.preference()
        Cost(budget=0.03)
        >>> budget.after(0.7).preference().budget < 0.01
        True
    """

    total: float
    queries: int
    spent: float = 0.0
    asked: int = 0

    def __post_init__(self) -> None:
        if not (self.total >= 0 and self.spent >= 0 and self.asked >= 0 and self.queries > 0):
            raise InvalidPreferenceError(
                f"a stream's budget is USD of zero or more for one query or more, got {self}."
            )

    @property
    def left(self) -> float:
        """USD not spent yet, zero when overspent."""
        return max(self.total - self.spent, 0.0)

    def preference(self) -> Cost:
        """Return what the next query may cost, as a preference to route it with."""
        share = self.left / max(self.queries - self.asked, 1)
        return Cost(min(_BURST * share, self.left))

    def after(self, cost: float) -> StreamBudget:
        """Return the budget after a query that cost so much (measured, or as expected)."""
        return replace(self, spent=self.spent + cost, asked=self.asked + 1)
