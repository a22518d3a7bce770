"""The gate: does the best agent fit at all? ``Handled`` above a probability, else ``Deferred``.

A logistic curve over two numbers of a query's logits: how high the best one is, and which share of
the softmax it holds. Fitted on held-out examples (right or wrong), on the same examples with their
own agent taken away (then none is right: leave-one-agent-out), and on queries that the user says
no agent should take. Knows nothing of states and names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agent_routing.conformal import conformal_threshold
from moma_core.agent_routing.fitting import logsumexp
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Gate", "Signals", "fit_gate", "signals"]


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """What the gate sees of n queries: each array has shape (n,)."""

    top: FloatArray
    log_share: FloatArray

    def rows(self) -> npt.NDArray[np.float64]:
        """Return the two numbers side by side, shape (n, 2)."""
        return np.column_stack([self.top, self.log_share]).astype(np.float64)


def signals(logits: FloatArray) -> Signals:
    """Return the gate's view of logits (n, n_eligible), n_eligible >= 1."""
    top = logits.max(axis=1)
    return Signals(top, top - logsumexp(logits))


@dataclass(frozen=True, slots=True)
class Gate:
    """Accepts an agent when its calibrated probability reaches a threshold.

    Args:
        top: Weight of the best logit.
        log_share: Weight of the best agent's log share of the softmax.
        intercept: Of the logistic curve.
        threshold: Least probability to accept.
        coverage: Share of held-out examples that the threshold accepts, when fitted.
        max_wrong_agent_rate: The promise that the threshold keeps, when one was asked for.

    The defaults hold for agents known by their descriptions alone (benchmarks/cold_gate.py).

    Example:
        >>> gate = Gate()
        >>> bool(gate.probabilities(np.array([[9.0, 0.0]]))[0] > gate.threshold)
        True
    """

    top: float = 1.93
    log_share: float = 1.02
    intercept: float = -1.79
    threshold: float = 0.5
    coverage: float | None = None
    max_wrong_agent_rate: float | None = None

    def probabilities(self, logits: FloatArray) -> npt.NDArray[np.float64]:
        """Return the chance that the best of the eligible agents is right, shape (n,)."""
        return self.chances(signals(logits))

    def chances(self, seen: Signals) -> npt.NDArray[np.float64]:
        """Return the same from the signals of n queries."""
        score = seen.rows() @ np.array([self.top, self.log_share]) + self.intercept
        chances: npt.NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(score, -50, 50)))
        return chances


_COLD = Gate()


def fit_gate(
    held_out: Signals,
    right: npt.NDArray[np.bool_],
    without_owner: Signals,
    negatives: Signals,
    *,
    n_given: int = 0,
    max_wrong_agent_rate: float | None = None,
) -> Gate:
    """Return a gate fitted on examples that the ranker had not seen.

    Args:
        held_out: Of n examples, all agents eligible.
        right: Whether the best agent was the wanted one, shape (n,).
        without_owner: Of the same examples, the wanted agent not eligible.
        negatives: Of m queries that no agent should take; m may be 0.
        n_given: How many of those are the user's own, which come first.
        max_wrong_agent_rate: Promise to keep on examples and the user's negatives together
            (`conformal_threshold`); None balances what is kept with what is caught.
    """
    rows = np.concatenate([held_out.rows(), without_owner.rows(), negatives.rows()])
    n, m = right.size, negatives.top.size
    labels = np.concatenate([right, np.zeros(n + m, dtype=bool)])
    real = m / (m + _ENOUGH_NEGATIVES)
    weights = np.concatenate(
        [
            np.ones(n),
            np.full(n, _NONE_FITS * (1.0 - real)),
            np.full(m, _NONE_FITS * real * n / max(m, 1)),
        ]
    )
    top, log_share, intercept = _fit_logistic(rows, labels, weights)
    fitted = Gate(top, log_share, intercept)
    shown, foreign = fitted.chances(held_out), fitted.chances(negatives)
    if max_wrong_agent_rate is not None:
        chances = np.concatenate([shown, foreign[:n_given]])
        correct = np.concatenate([right, np.zeros(n_given, dtype=bool)])
        threshold = conformal_threshold(chances, correct, max_wrong_agent_rate)
    else:
        threshold = _threshold(shown, right, foreign)
    threshold = min(max(threshold, _CERTAIN), 1.0 - _CERTAIN)
    return replace(
        fitted,
        threshold=threshold,
        coverage=float((shown >= threshold).mean()) if n else None,
        max_wrong_agent_rate=max_wrong_agent_rate,
    )


_NONE_FITS = 0.4  # queries for which no agent fits, for each one that some agent should take
_ENOUGH_NEGATIVES = 20  # as many count as much as the made-up ones, and set the threshold
_CERTAIN = 1e-6  # chances this near to 0 or 1 are rounding
_KEEP = 0.97  # share of right examples that a threshold without real negatives keeps


def _fit_logistic(
    rows: npt.NDArray[np.float64],
    labels: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.float64],
) -> tuple[float, float, float]:
    """Minimise the weighted logistic loss, held near the cold gate so that few rows cannot run."""
    from scipy.optimize import minimize

    design = np.column_stack([rows, np.ones(len(rows))])
    prior = np.array([_COLD.top, _COLD.log_share, _COLD.intercept])
    signs = np.where(labels, 1.0, -1.0)

    def loss(theta: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        margins = signs * (design @ theta)
        value = float((weights * np.logaddexp(0.0, -margins)).sum())
        slope = -weights * signs / (1.0 + np.exp(np.clip(margins, -50, 50)))
        away = theta - prior
        return value + 0.5 * float(away @ away), design.T @ slope + away

    bounds = [(0.0, None), (0.0, None), (None, None)]  # a higher logit never lowers the chance
    theta = minimize(loss, prior, jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(theta[0]), float(theta[1]), float(theta[2])


def _threshold(
    chances: npt.NDArray[np.float64],
    right: npt.NDArray[np.bool_],
    negatives: npt.NDArray[np.float64],
) -> float:
    """Return the least probability to accept.

    With enough real negatives: the largest sum of (examples kept and right) and (negatives
    caught) or rather, by the one-standard-error rule, the lowest threshold that is no worse within
    the noise of so few negatives: users' words stray further than examples do.
    Without them nothing tells how near a foreign query may come, so the threshold keeps a fixed
    share of the right examples.
    """
    kept = np.sort(chances[right])
    if kept.size == 0:
        return _COLD.threshold
    if negatives.size < _ENOUGH_NEGATIVES:
        return float(np.quantile(kept, 1.0 - _KEEP))
    cuts = np.unique(np.concatenate([kept, negatives]))
    keeps = (kept.size - np.searchsorted(kept, cuts)) / right.size
    catches = np.searchsorted(np.sort(negatives), cuts) / negatives.size
    total = keeps + catches
    best = int(np.argmax(total))
    spread = np.sqrt(catches[best] * (1.0 - catches[best]) / negatives.size)
    first = int(np.flatnonzero(total >= total[best] - max(spread, 1.0 / negatives.size))[0])
    return float((cuts[max(first - 1, 0)] + cuts[first]) / 2)
