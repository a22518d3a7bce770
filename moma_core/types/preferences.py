"""How a user weighs quality against money (5.2.3)."""

from __future__ import annotations

from dataclasses import dataclass

from moma_core.errors import InvalidPreferenceError
from moma_core.types.checks import is_number

__all__ = ["Auto", "Cost", "Performance", "Preference"]


@dataclass(frozen=True, slots=True)
class Performance:
    """Prefer the best score; cost only breaks ties (5.2.3).

    Tied are scores whose difference per USD is noise on queries the head did not see
    (`llm_routing.training.fit_thrift`; where that was not measured, equal scores).
    """


@dataclass(frozen=True, slots=True)
class Auto:
    """Balance score and cost by TOPSIS on the Pareto front (eq. 8-11).

    Args:
        w_score: Weight of the score, in [0, 1]; the cost weighs ``1 - w_score``.
    """

    w_score: float = 0.5

    def __post_init__(self) -> None:
        if not is_number(self.w_score) or not 0.0 <= self.w_score <= 1.0:
            raise InvalidPreferenceError(f"w_score must lie in [0, 1], got {self.w_score!r}.")


@dataclass(frozen=True, slots=True)
class Cost:
    """Prefer the best score within a budget (5.2.3).

    Args:
        budget: USD that one query may cost; None means the router's default share of what its
            strongest LLM would cost on this query.
    """

    budget: float | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and not (is_number(self.budget) and self.budget >= 0.0):
            raise InvalidPreferenceError(
                f"a budget is USD per query, zero or more, got {self.budget!r}."
            )


Preference = Performance | Auto | Cost
