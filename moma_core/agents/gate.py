"""The gate: does the best agent fit at all? ``Handled`` above a probability, else ``Deferred``.

    P(best agent is right) = P(some agent fits) P(best agent is right | some agent fits)

Each factor is a logistic curve over numbers of a query: how high its best logit is, which share of
the softmax that one holds, and whether its words are in scope (`moma_core.agent_routing.scope`).
The first is fitted on held-out examples against the same examples with their own agent taken away
(leave-one-agent-out) and queries that the user says no agent should take; the second on right and
wrong among the held-out examples. Knows nothing of states and names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core.agent_routing.conformal import conformal_threshold
from moma_core.agent_routing.fitting import logsumexp
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["DESCRIPTIONS_CURVE", "Curve", "Gate", "Signals", "fit_gate", "signals"]


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """What the gate sees of n queries: each array has shape (n,).

    Args:
        top: The best logit.
        log_share: Log share of the softmax that it holds.
        scope: Logit of being in scope; None where nothing was fitted to tell.
        closer: What `moma_core.agent_routing.cold_start.closer_look` saw, shape (n, 2): lead over
            the next agent, cosine; None where the curve does not ask for it.
    """

    top: FloatArray
    log_share: FloatArray
    scope: FloatArray | None = None
    closer: FloatArray | None = None

    def rows(self) -> npt.NDArray[np.float64]:
        """Return the three numbers side by side, shape (n, 3)."""
        scope = np.zeros_like(self.top) if self.scope is None else self.scope
        return np.column_stack([self.top, self.log_share, scope]).astype(np.float64)


def signals(logits: FloatArray) -> Signals:
    """Return the gate's view of logits (n, n_eligible), n_eligible >= 1."""
    top = logits.max(axis=1)
    return Signals(top, top - logsumexp(logits))


@dataclass(frozen=True, slots=True)
class Curve:
    """A logistic curve over what the gate sees.

    Args:
        top: Weight of the best logit.
        log_share: Weight of the best agent's log share of the softmax.
        intercept: Of the curve.
        scope: Weight of the logit of being in scope.
        lead: Weight of how far the best logit leads the next.
        cosine: Weight of the cosine of query and best agent's description.
    """

    top: float
    log_share: float
    intercept: float
    scope: float = 0.0
    lead: float = 0.0
    cosine: float = 0.0

    @property
    def looks_closer(self) -> bool:
        """Whether it weighs `Signals.closer`."""
        return any((self.lead, self.cosine))

    def chances(self, seen: Signals) -> npt.NDArray[np.float64]:
        """Return the curve's value for each of n queries, shape (n,)."""
        score = seen.rows() @ np.array([self.top, self.log_share, self.scope]) + self.intercept
        if seen.closer is not None:
            score += seen.closer @ np.array([self.lead, self.cosine])
        chances: npt.NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(score, -50, 50)))
        return chances


_COLD_CURVE = Curve(top=0.96, log_share=0.72, intercept=-1.39)
DESCRIPTIONS_CURVE = Curve(top=0.063, log_share=0.509, intercept=-1.913, lead=1.599, cosine=4.165)
"""Of agents known by their descriptions alone, looked at more closely; benchmarks/cold_gate.py."""

_RIGHT_CURVE = Curve(top=0.5, log_share=1.0, intercept=0.0)  # where few examples tell nothing else


@dataclass(frozen=True, slots=True)
class Gate:
    """Accepts an agent when its calibrated probability reaches a threshold.

    Args:
        fits: The chance that some agent fits.
        right: The chance that, if some agent fits, the best one is right; None where ``fits`` says
            both.
        threshold: Least probability to accept.
        coverage: Share of held-out examples that the threshold accepts, when fitted.
        max_wrong_agent_rate: The promise that the threshold keeps, when one was asked for.

    The defaults hold for agents known by their descriptions alone (benchmarks/cold_gate.py).

    Example:
        >>> gate = Gate()
        >>> bool(gate.probabilities(np.array([[9.0, 0.0]]))[0] > gate.threshold)
        True
    """

    fits: Curve = _COLD_CURVE
    right: Curve | None = None
    threshold: float = 0.5
    coverage: float | None = None
    max_wrong_agent_rate: float | None = None

    def probabilities(self, logits: FloatArray) -> npt.NDArray[np.float64]:
        """Return the chance that the best of the eligible agents is right, shape (n,)."""
        return self.chances(signals(logits))

    def chances(self, seen: Signals) -> npt.NDArray[np.float64]:
        """Return the same from the signals of n queries."""
        fits = self.fits.chances(seen)
        return fits if self.right is None else fits * self.right.chances(seen)

    def to_dict(self) -> dict[str, Any]:
        """Return a plain form for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Gate:
        """Rebuild what `to_dict` gave."""
        curves = {key: plain[key] and Curve(**plain[key]) for key in ("fits", "right")}
        return cls(**{**plain, **curves})


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
    n = right.size
    fitted = Gate(
        fits=_fits(held_out, without_owner, negatives),
        right=_fit_curve(held_out.rows()[:, :2], right, np.ones(n), _RIGHT_CURVE),
    )
    shown, foreign = fitted.chances(held_out), fitted.chances(negatives)
    if max_wrong_agent_rate is not None:
        chances = np.concatenate([shown, foreign[:n_given]])
        correct = np.concatenate([right, np.zeros(n_given, dtype=bool)])
        threshold = conformal_threshold(chances, correct, max_wrong_agent_rate)
    else:
        threshold = _threshold(shown, right, foreign if n_given >= _ENOUGH_NEGATIVES else None)
    threshold = min(max(threshold, _CERTAIN), 1.0 - _CERTAIN)
    coverage = float((shown >= threshold).mean()) if n else None
    return Gate(fitted.fits, fitted.right, threshold, coverage, max_wrong_agent_rate)


_NONE_FITS = 0.4  # queries for which no agent fits, for each one that some agent should take
_ENOUGH_NEGATIVES = 20  # as many count as much as the made-up ones; the user's set the threshold
_CERTAIN = 1e-6  # chances this near to 0 or 1 are rounding
_NOISE = 0.7  # standard errors of the sum that a lower threshold may cost
_SURE = 0.6  # threshold without so many negatives of the user's; benchmarks/few_examples.py
_KEEP = 0.8  # share of right examples that it keeps whatever their chances


def _fits(held_out: Signals, without_owner: Signals, negatives: Signals) -> Curve:
    """Return the curve that tells examples from what no agent should take."""
    n, m = held_out.top.size, negatives.top.size
    rows = np.concatenate([held_out.rows(), without_owner.rows(), negatives.rows()])
    labels = np.repeat([True, False], [n, n + m])
    real = m / (m + _ENOUGH_NEGATIVES)
    made_up = np.full(n, _NONE_FITS * (1.0 - real))
    foreign = np.full(m, _NONE_FITS * real * n / max(m, 1))
    return _fit_curve(rows, labels, np.concatenate([np.ones(n), made_up, foreign]), _COLD_CURVE)


def _fit_curve(
    rows: npt.NDArray[np.float64],
    labels: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.float64],
    near: Curve,
) -> Curve:
    """Minimise the weighted logistic loss, held near a curve so that few rows cannot run.

    Args:
        rows: Best logits, log shares and perhaps logits of being in scope, shape (n, 2 or 3).
        labels: Shape (n,).
        weights: Shape (n,).
        near: What no row at all would give.
    """
    from scipy.optimize import minimize

    count = rows.shape[1]
    design = np.column_stack([rows, np.ones(len(rows))])
    prior = np.array([*[near.top, near.log_share, near.scope][:count], near.intercept])
    signs = np.where(labels, 1.0, -1.0)

    def loss(theta: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        margins = signs * (design @ theta)
        value = float((weights * np.logaddexp(0.0, -margins)).sum())
        slope = -weights * signs / (1.0 + np.exp(np.clip(margins, -50, 50)))
        away = theta - prior
        return value + 0.5 * float(away @ away), design.T @ slope + away

    bounds = [*[(0.0, None)] * count, (None, None)]  # a higher logit never lowers the chance
    *found, intercept = map(float, minimize(loss, prior, jac=True, bounds=bounds).x)
    return Curve(found[0], found[1], intercept, *found[2:])


def _threshold(
    chances: npt.NDArray[np.float64],
    right: npt.NDArray[np.bool_],
    negatives: npt.NDArray[np.float64] | None,
) -> float:
    """Return the least probability to accept.

    Without negatives of the user's nothing tells how near a foreign query may come: the threshold
    is a fixed chance of being right, lower only where the examples' chances are low as a whole.
    With them: the largest sum of (examples kept and right) and (negatives caught) or rather, after
    the one-standard-error rule, the lowest threshold that is no worse within part of the noise of
    so few examples and negatives: users' words stray further than examples do.

    Args:
        chances: Of n examples, shape (n,).
        right: Whether the best agent was the wanted one, shape (n,).
        negatives: Chances of m queries that no agent should take, background included, shape (m,);
            None where the user gave too few.
    """
    kept = np.sort(chances[right])
    if kept.size == 0:
        return _COLD.threshold
    if negatives is None:
        return min(_SURE, float(np.quantile(kept, 1.0 - _KEEP)))
    cuts = np.unique(np.concatenate([kept, negatives]))
    keeps = (kept.size - np.searchsorted(kept, cuts)) / right.size
    catches = np.searchsorted(np.sort(negatives), cuts) / negatives.size
    total = keeps + catches
    best = int(np.argmax(total))
    spread = _NOISE * np.sqrt(
        catches[best] * (1.0 - catches[best]) / negatives.size
        + keeps[best] * (1.0 - keeps[best]) / right.size
    )
    first = int(np.flatnonzero(total >= total[best] - max(spread, 1.0 / negatives.size))[0])
    return float((cuts[max(first - 1, 0)] + cuts[first]) / 2)
