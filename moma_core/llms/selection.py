"""The three preferences (5.2.3): performance, auto, cost, for one query or for many at once.

Knows scores and costs; not where they come from, nor what a budget was spent on before.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidPreferenceError, NoTargetError
from moma_core.selection.pareto import front_mask
from moma_core.selection.topsis import closeness_of_two, closeness_on_front
from moma_core.types import Auto, Cost, Performance, Preference, ScoreTable

__all__ = [
    "DEFAULT_BUDGET_SHARE",
    "PREFERENCES",
    "choose",
    "choose_at_rate",
    "parse_preference",
    "preference_name",
    "rank",
    "select",
]

PREFERENCES = ("auto", "cost", "performance")
DEFAULT_BUDGET_SHARE = 0.25
"""``cost`` without a budget may spend this share of what the strongest LLM costs on the query."""

_CHOICES = "Choose 'performance', 'auto', 'cost', or 'cost:0.002' for a budget in USD per query."
_Array = npt.NDArray[np.float64]


def parse_preference(preference: str | Preference | None) -> Preference:
    """Return a `Preference` from what a user typed; None means auto.

    Args:
        preference: ``"performance"``, ``"auto"``, ``"cost"``, ``"cost:0.002"`` (USD per query),
            a `Preference`, or None.

    Raises:
        InvalidPreferenceError: Anything else; the message lists the choices.

    Example:
        >>> parse_preference("cost:0.002")
        Cost(budget=0.002)
    """
    if preference is None:
        return Auto()
    if isinstance(preference, Performance | Auto | Cost):
        return preference
    if not isinstance(preference, str):
        raise InvalidPreferenceError(f"unknown preference {preference!r:.60}. {_CHOICES}")
    name, separator, amount = preference.strip().lower().partition(":")
    plain: dict[str, Preference] = {"performance": Performance(), "auto": Auto(), "cost": Cost()}
    if name not in plain or (separator and name != "cost"):
        raise InvalidPreferenceError(f"unknown preference {preference!r:.60}. {_CHOICES}")
    return Cost(_budget(amount, preference)) if separator else plain[name]


def _budget(amount: str, preference: str) -> float:
    try:
        budget = float(amount.strip().removeprefix("$"))
    except ValueError:
        budget = math.nan
    if not (math.isfinite(budget) and budget >= 0):
        raise InvalidPreferenceError(
            f"a budget is USD per query, zero or more, got {preference!r:.60}. {_CHOICES}"
        )
    return budget


def preference_name(preference: Preference) -> str:
    """Return ``"performance"``, ``"auto"`` or ``"cost"``."""
    return type(preference).__name__.lower()


def choose(
    costs: _Array,
    scores: _Array,
    preference: Preference,
    anchor: int | None = None,
    thrift: float = 0.0,
) -> npt.NDArray[np.intp]:
    """Return the chosen LLM of each query (5.2.3, eq. 7-11).

    - `Performance`: the best score, less ``thrift`` times the cost; ties: lower cost.
    - `Auto`: the largest TOPSIS closeness on the Pareto front; ties: higher score, lower cost. Of
      two LLMs in all, by `closeness_of_two`, because TOPSIS cannot tell two apart.
    - `Cost`: the best score among those within the budget; ties: lower cost. When none is within
      it, the cheapest (ties: higher score).

    What is left tied after that goes to the first column. The choice is always on the front.

    Args:
        costs: USD, shape (n, m), m at least 1.
        scores: Quality, shape (n, m).
        preference: What to optimise.
        anchor: Column of the LLM whose cost sets the default budget of `Cost`; None means the
            best-scoring one of each row.
        thrift: Score that one more USD must bring under `Performance`: below it, predicted scores
            count as tied (`training.fit_thrift`). Zero: only equal scores do.

    Returns:
        Column indices, shape (n,).
    """
    order: npt.NDArray[np.intp] = _order(costs, scores, preference, anchor, thrift)[:, 0]
    return order


def choose_at_rate(costs: _Array, scores: _Array, rate: float) -> npt.NDArray[np.intp]:
    """Return the LLM of the largest ``score - rate * cost`` of each query, shape (n,).

    With one rate for many queries this spends a common budget best (the Lagrangian of "most score
    within a total cost"). Ties: lower cost, then the first column.

    Args:
        costs: USD, shape (n, m).
        scores: Quality, shape (n, m).
        rate: Score that one USD must bring, zero or more.
    """
    order: npt.NDArray[np.intp] = _sorted(scores - rate * costs, -costs)[:, 0]
    return order


def select(table: ScoreTable, preference: Preference, anchor: str | None = None) -> int:
    """Return the index of the chosen LLM in ``table``; see `choose` for the rules.

    Raises:
        NoTargetError: The table is empty.

    Example:
        >>> table = ScoreTable(("small", "large"), np.array([0.6, 0.9]), np.array([1e-4, 1e-2]))
        >>> table.names[select(table, Performance())], table.names[select(table, Cost(0.001))]
        ('large', 'small')
    """
    return rank(table, preference, anchor)[0]


def rank(
    table: ScoreTable, preference: Preference, anchor: str | None = None, thrift: float = 0.0
) -> tuple[int, ...]:
    """Return every index of ``table``, the chosen one first, then in order of preference.

    Auto lists the front by closeness, then the dominated ones by score; cost lists the affordable
    ones by score, then the others by cost.

    Args:
        table: Scores and costs of one query.
        preference: What to optimise.
        anchor: Name whose cost sets the default budget of `Cost`; see `choose`.
        thrift: See `choose`.

    Raises:
        NoTargetError: The table is empty.
    """
    if not table.names:
        raise NoTargetError("no LLM to choose from. Enable or add at least one.")
    column = table.names.index(anchor) if anchor in table.names else None
    order = _order(table.costs[None], table.scores[None], preference, column, thrift)[0]
    return tuple(order.tolist())


def _order(
    costs: _Array, scores: _Array, preference: Preference, anchor: int | None, thrift: float
) -> npt.NDArray[np.intp]:
    match preference:
        case Performance():
            return _sorted(scores - thrift * costs, -costs)
        case Auto(w_score=weight):
            front = front_mask(costs, scores)
            closeness = closeness_on_front(costs, scores, front, 1.0 - weight, weight)
            if costs.shape[1] == 2:
                pairs = closeness_of_two(costs, scores, 1.0 - weight, weight)
                closeness = np.where(front.all(axis=1, keepdims=True), pairs, closeness)
            return _sorted(closeness, scores, -costs)
        case Cost(budget=budget):
            limit = _default_budget(costs, scores, anchor) if budget is None else budget
            fits = costs <= limit
            within = np.where(fits, scores, -np.inf)
            return _sorted(within, -costs, scores)


def _default_budget(costs: _Array, scores: _Array, anchor: int | None) -> _Array:
    rows = np.arange(len(costs))
    strongest = _sorted(scores, -costs)[:, 0] if anchor is None else np.full(len(costs), anchor)
    budget: _Array = DEFAULT_BUDGET_SHARE * costs[rows, strongest][:, None]
    return budget


def _sorted(*keys: _Array) -> npt.NDArray[np.intp]:
    """Columns of each row by descending keys, the first key leading; ties keep column order."""
    order: npt.NDArray[np.intp] = np.lexsort(tuple(-key for key in reversed(keys)), axis=1)
    return order
