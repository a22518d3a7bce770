"""Five outcomes of comparing two LLMs on a query (method.md, eq. 1-4), in log space.

With d = s_a - s_b, theta = 1 + exp(eta) > 1, t = log theta (Rao-Kupper):

    P(a wins) = sigmoid(d - t)                                              (1)
    P(tie) = (theta^2 - 1) / ((e^d + theta)(e^-d + theta))
    share of strong wins  g_a = sigmoid(alpha (d - t - delta))              (2, 3)
    P(a >> b) = P(a wins) g_a,  P(a > b) = P(a wins) (1 - g_a)              (4)

Grounded (after P2L): both denominators of (1) get 1 more, and "both bad" has the chance
1 / (1 + e^s_a + e^s_b); it takes its share from the ties. Knows scores only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["OUTCOMES", "Outcomes", "log_outcomes", "log_sigmoid", "outcomes_of_scores"]

OUTCOMES = ("equal", "a better", "b better", "a much better", "b much better", "both bad")
"""Outcomes by code; the last one exists in the grounded form only."""

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Which form of the outcome probabilities is meant.

    Args:
        strength: alpha, comparison strength of strong wins.
        margin: delta, advantage at which half of the wins are strong.
        grounded: Whether "both bad" is an outcome of its own.
    """

    strength: float = 1.0
    margin: float = 1.0
    grounded: bool = False


def log_sigmoid(values: _Array) -> _Array:
    """Return log(1 / (1 + exp(-values))) without overflow."""
    result: _Array = -np.logaddexp(0.0, -values)
    return result


def log_outcomes(s_a: _Array, s_b: _Array, eta: _Array, form: Outcomes | None = None) -> _Array:
    """Return the log probability of each outcome; they sum to 1 (eq. 1-4).

    Args:
        s_a: Score of the first LLM, shape (n,).
        s_b: Score of the second LLM, shape (n,).
        eta: Tie threshold of the query, shape (n,).
        form: Strength, margin, grounded.

    Returns:
        Shape (n, 5), or (n, 6) in the grounded form, in the order of `OUTCOMES`.

    Example:
        >>> even = np.exp(log_outcomes(np.zeros(1), np.zeros(1), np.zeros(1)))[0]
        >>> even.round(3).tolist(), float(even.sum().round(6))
        ([0.333, 0.282, 0.282, 0.052, 0.052], 1.0)
    """
    form = form or Outcomes()
    t = np.logaddexp(0.0, eta)
    gap = s_a - s_b
    if form.grounded:
        both = np.logaddexp(s_a, s_b)
        ground = np.logaddexp(0.0, both)
        a_under = np.logaddexp(0.0, np.logaddexp(s_a, t + s_b))
        b_under = np.logaddexp(0.0, np.logaddexp(s_b, t + s_a))
        a_wins, b_wins = s_a - a_under, s_b - b_under
        tie = s_a + s_b + eta - ground + np.logaddexp(-a_under, -b_under)
    else:
        a_wins, b_wins = log_sigmoid(gap - t), log_sigmoid(-gap - t)
        tie = eta + np.logaddexp(np.log(2.0), eta) - np.logaddexp(gap, t) - np.logaddexp(-gap, t)
    strong_a = form.strength * (gap - t - form.margin)
    strong_b = form.strength * (-gap - t - form.margin)
    columns = [
        tie,
        a_wins + log_sigmoid(-strong_a),
        b_wins + log_sigmoid(-strong_b),
        a_wins + log_sigmoid(strong_a),
        b_wins + log_sigmoid(strong_b),
    ]
    if form.grounded:
        columns.append(-ground)
    return np.stack(columns, axis=-1)


def outcomes_of_scores(
    score_a: _Array, score_b: _Array, much: float = 0.5, bad: float | None = None
) -> npt.NDArray[np.int8]:
    """Return the outcome code that two scores in [0, 1] stand for (4.1.2).

    Args:
        score_a: Of the first LLM.
        score_b: Of the second LLM; same shape.
        much: Difference from which a win is strong.
        bad: Where both scores are at most this, the outcome is "both bad"; None: never.

    Example:
        >>> a, b = np.array([1.0, 0.6, 0.0, 0.0]), np.array([0.0, 0.5, 0.0, 0.1])
        >>> outcomes_of_scores(a, b, bad=0.05).tolist()
        [3, 1, 5, 2]
    """
    gap = score_a - score_b
    weak = np.where(gap > 0, 1, np.where(gap < 0, 2, 0))
    code = np.where(np.abs(gap) >= much, weak + 2 * (weak > 0), weak)
    if bad is not None:
        code = np.where((score_a <= bad) & (score_b <= bad), 5, code)
    return code.astype(np.int8)
