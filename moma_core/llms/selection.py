"""Chooses among scored LLMs by a preference: score against cost, latency and budget (5.2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moma_core.decision import ScoreTable
from moma_core.errors import InvalidPreferenceError, NoTargetError
from moma_core.types import Auto, Cost, Performance, Preference, Topsis

__all__ = [
    "DEFAULT_BUDGET_SHARE",
    "LEAST_USD",
    "POINTS",
    "StreamBudget",
    "check_latency",
    "choose",
    "choose_at_rate",
    "closeness_on_front",
    "front_mask",
    "in_time",
    "pareto_front",
    "rank",
    "select",
    "topsis",
    "value",
]


def front_mask(
    costs: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Return which candidates no other one dominates, row by row (eq. 7).

    Candidate k dominates i when it costs no more and scores no less, and differs in one of the two.
    Candidates equal in both dominate neither each other, so all of them stay.

    Args:
        costs: USD, shape (n, m).
        scores: Quality, shape (n, m).

    Returns:
        True on the front, shape (n, m); at least one in each row.
    """
    cheaper = costs[:, None, :] <= costs[:, :, None]  # (n, i, k): k costs no more than i
    better = scores[:, None, :] >= scores[:, :, None]
    differs = (costs[:, None, :] != costs[:, :, None]) | (scores[:, None, :] != scores[:, :, None])
    dominated: npt.NDArray[np.bool_] = (cheaper & better & differs).any(axis=2)
    return ~dominated


def pareto_front(
    costs: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]
) -> npt.NDArray[np.intp]:
    """Return the non-dominated candidates of one query, cheapest first (eq. 7).

    Args:
        costs: USD, shape (m,).
        scores: Quality, shape (m,).

    Returns:
        Indices by ascending cost; equal candidates are all kept, in the order given.

    Example:
        >>> pareto_front(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.4, 0.9])).tolist()
        [0, 2]
    """
    costs, scores = np.asarray(costs, np.float64), np.asarray(scores, np.float64)
    front = np.flatnonzero(front_mask(costs[None], scores[None])[0])
    return front[np.argsort(costs[front], kind="stable")]


POINTS = 0.02
"""Score that halving the cost is worth under `Auto` where neither the user nor training says."""

LEAST_USD = 1e-7
"""USD: what costs less, or nothing, counts as costing this much, so that a free LLM does not win
whatever it scores. A short call to the cheapest LLMs on offer costs a hundred times as much."""

_Array = npt.NDArray[np.float64]


def topsis(costs: _Array, scores: _Array, w_cost: float, w_score: float) -> _Array:
    """Return the closeness of each candidate of a front to the ideal (eq. 8-11).

    Both columns are brought to [0, 1] by min-max (8); a constant column becomes all 1 for the
    score and all 0 for the cost. With the ideal (0, 1) and the anti-ideal (1, 0) and weighted
    Euclidean distances D+ (9) and D- (10), the closeness is D- / (D+ + D-) (11).

    On a fixed front the candidate of the largest closeness never gets dearer as ``w_cost`` grows:
    closeness orders as (D-/D+)^2, and for a cheaper candidate a and a dearer b the sign of the
    difference is a quadratic in (w_score/w_cost)^2 that is positive at zero and negative at
    infinity, so it changes once, from a to b.

    Args:
        costs: USD of the candidates on the front, shape (m,).
        scores: Their quality, shape (m,).
        w_cost: Weight of the cost, zero or more.
        w_score: Weight of the score, zero or more; not both zero.

    Returns:
        Closeness in [0, 1], shape (m,).

    Raises:
        ValueError: A weight is negative, or both are zero.

    Example:
        >>> topsis(np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.9, 1.0]), 0.5, 0.5).round(2).tolist()
        [0.5, 0.67, 0.5]
    """
    if not (w_cost >= 0 and w_score >= 0 and w_cost + w_score > 0):
        raise ValueError(
            f"expected weights of zero or more, not both zero, got {w_cost!r}, {w_score!r}."
        )
    costs, scores = np.asarray(costs, np.float64)[None], np.asarray(scores, np.float64)[None]
    closeness: _Array = closeness_on_front(
        costs, scores, np.ones(costs.shape, bool), w_cost, w_score
    )[0]
    return closeness


def closeness_on_front(
    costs: _Array, scores: _Array, front: npt.NDArray[np.bool_], w_cost: float, w_score: float
) -> _Array:
    """Return the closeness of each candidate, -inf off the front; all shapes (n, m) (eq. 8-11)."""
    cost = _min_max(costs, front, constant=0.0)
    score = _min_max(scores, front, constant=1.0)
    to_ideal = np.hypot(w_cost * cost, w_score * (1.0 - score))
    to_worst = np.hypot(w_cost * (1.0 - cost), w_score * score)
    total = to_ideal + to_worst
    closeness = np.divide(to_worst, total, out=np.ones_like(total), where=total > 0)
    return np.where(front, closeness, -np.inf)


def value(costs: _Array, scores: _Array, points: float) -> _Array:
    """Return ``score - points * log2(cost)``: each halving of the cost adds ``points``.

    It says of two candidates which one is better whatever else there is to choose from, and it
    needs no unit of cost. Whoever maximises it never pays more as ``points`` grows.

    Args:
        costs: USD, zero or more; below `LEAST_USD` counts as that much.
        scores: Quality, of the same shape.
        points: Score, zero or more.

    Example:
        >>> value(np.array([1e-3, 2e-3]), np.array([0.80, 0.82]), 0.02).round(4).tolist()
        [0.9993, 0.9993]
    """
    earned: _Array = scores - points * np.log2(np.maximum(costs, LEAST_USD))
    return earned


def _min_max(values: _Array, front: npt.NDArray[np.bool_], constant: float) -> _Array:
    low = np.where(front, values, np.inf).min(axis=1, keepdims=True)
    high = np.where(front, values, -np.inf).max(axis=1, keepdims=True)
    spread = high - low
    scaled = np.full(values.shape, constant)
    np.divide(values - low, spread, out=scaled, where=(spread > 0) & front)
    return scaled


DEFAULT_BUDGET_SHARE = 0.25
"""``cost`` without a budget may spend this share of what the strongest LLM costs on the query."""


def choose(
    costs: _Array,
    scores: _Array,
    preference: Preference,
    anchor: int | None = None,
    *,
    min_gain_per_usd: float = 0.0,
    points: float = POINTS,
    margin: float = 0.0,
) -> npt.NDArray[np.intp]:
    """Return the chosen LLM of each query (5.2.3, eq. 7-11).

    - `Performance`: the best score, less ``min_gain_per_usd`` times the cost, the anchor's more by
      ``margin``; ties: lower cost.
    - `Auto`: the largest `value`: halving the cost is worth some score; ties: lower cost. An LLM
      that is not chosen cannot change the choice.
    - `Cost`: the best score among those within the budget; ties: lower cost. When none is within
      it, the cheapest (ties: higher score). Without a budget, `DEFAULT_BUDGET_SHARE` of the
      strongest LLM's cost, and at most what `Auto` would pay.
    - `Topsis`: the largest closeness on the Pareto front (8-11); ties: higher score, lower cost.

    What is left tied after that goes to the first column. The choice is always on the front, but
    for an anchor that is taken within the margin.

    Args:
        costs: USD, shape (n, m), m at least 1.
        scores: Quality, shape (n, m).
        preference: What to optimise.
        anchor: Column of the LLM whose cost sets the default budget of `Cost`; None means the
            best-scoring one of each row.
        min_gain_per_usd: Score that one more USD must bring under `Performance`: below it,
            predicted scores count as tied (`training.fit_min_gain`). Zero: only equal scores do.
        points: Score that halving the cost is worth where ``Auto`` does not say.
        margin: Predicted lead that another LLM must have over the anchor under `Performance`
            (`training.fit_margin`).

    Returns:
        Column indices, shape (n,).
    """
    order: npt.NDArray[np.intp] = _order(
        costs, scores, preference, anchor, (min_gain_per_usd, points, margin)
    )[:, 0]
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
    table: ScoreTable,
    preference: Preference,
    anchor: str | None = None,
    *,
    min_gain_per_usd: float = 0.0,
    points: float = POINTS,
    margin: float = 0.0,
) -> tuple[int, ...]:
    """Return every index of ``table``, the chosen one first, then in order of preference.

    Cost lists the affordable ones by score, then the others by cost; TOPSIS the front by closeness,
    then the dominated ones by score.

    Args:
        table: Scores and costs of one query.
        preference: What to optimise.
        anchor: Name whose cost sets the default budget of `Cost`; see `choose`.
        min_gain_per_usd: See `choose`.
        points: See `choose`.
        margin: See `choose`.

    Raises:
        NoTargetError: The table is empty.
    """
    if not table.names:
        raise NoTargetError("no LLM to choose from. Enable or add at least one.")
    column = table.names.index(anchor) if anchor in table.names else None
    order = _order(
        table.costs[None],
        table.scores[None],
        preference,
        column,
        (min_gain_per_usd, points, margin),
    )[0]
    return tuple(order.tolist())


def _order(
    costs: _Array,
    scores: _Array,
    preference: Preference,
    anchor: int | None,
    learnt: tuple[float, float, float],
) -> npt.NDArray[np.intp]:
    min_gain_per_usd, points, margin = learnt
    match preference:
        case Performance():
            ahead = np.arange(scores.shape[1]) == (-1 if anchor is None else anchor)
            return _sorted(scores - min_gain_per_usd * costs + margin * ahead, -costs)
        case Auto(points=given):
            return _sorted(value(costs, scores, points if given is None else given), -costs, scores)
        case Topsis(w_score=weight):
            front = front_mask(costs, scores)
            closeness = closeness_on_front(costs, scores, front, 1.0 - weight, weight)
            return _sorted(closeness, scores, -costs)
        case Cost(budget=budget):
            limit = _default_budget(costs, scores, anchor, points) if budget is None else budget
            fits = costs <= limit
            within = np.where(fits, scores, -np.inf)
            return _sorted(within, -costs, scores)


def _default_budget(costs: _Array, scores: _Array, anchor: int | None, points: float) -> _Array:
    """Return a share of the strongest LLM's cost, at most what `Auto` pays, shape (n, 1)."""
    rows = np.arange(len(costs))
    strongest = _sorted(scores, -costs)[:, 0] if anchor is None else np.full(len(costs), anchor)
    by_auto = _sorted(value(costs, scores, points), -costs, scores)[:, 0]
    share = DEFAULT_BUDGET_SHARE * costs[rows, strongest]
    budget: _Array = np.minimum(share, costs[rows, by_auto])[:, None]
    return budget


def _sorted(*keys: _Array) -> npt.NDArray[np.intp]:
    """Columns of each row by descending keys, the first key leading; ties keep column order."""
    order: npt.NDArray[np.intp] = np.lexsort(tuple(-key for key in reversed(keys)), axis=1)
    return order


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
