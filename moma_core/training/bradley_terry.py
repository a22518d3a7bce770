"""Levels of LLMs without a look at the query: the floor that a pairs' head starts from (eq. 1-4).

Bradley and Terry's model with Rao and Kupper's ties and strong wins: one level for each LLM, one
tie threshold, and what "much better" means, all of greatest posterior probability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.llms.heads.judged import Outcomes, log_outcomes, outcome_loss
from moma_core.training.pair_store import PairStore

__all__ = ["Levels", "count_five", "fit_levels"]

_Array = npt.NDArray[np.float64]
_LEVEL_PRIOR, _FORM_PRIOR = 0.1, 0.1
_AT_ONCE = 1_000_000
_STEP = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """What pairs say of LLMs whatever the query.

    Args:
        values: Level of each LLM in logits, mean zero, shape (m,).
        eta: Tie threshold.
        form: Strength and margin of strong wins.
    """

    values: _Array
    eta: float
    form: Outcomes

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, in the order of the pool's LLMs."""
        return {
            "values": self.values.tolist(),
            "eta": self.eta,
            "strength": self.form.strength,
            "margin": self.form.margin,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Levels:
        """Rebuild levels from `to_dict`."""
        form = Outcomes(strength=float(data["strength"]), margin=float(data["margin"]))
        return cls(np.array(data["values"], np.float64), float(data["eta"]), form)

    def log_outcomes(self, first: npt.ArrayLike, second: npt.ArrayLike) -> _Array:
        """Return log probabilities of the outcomes of pairs, shape (n, 5)."""
        a, b = np.asarray(first, np.intp), np.asarray(second, np.intp)
        return log_outcomes(self.values[a], self.values[b], np.full(len(a), self.eta), self.form)


def count_five(store: PairStore, pairs: npt.NDArray[np.intp] | None = None) -> _Array:
    """Return how often each pair of LLMs ended each of five ways, shape (m, m, 5).

    Args:
        store: The pairs.
        pairs: Which of them; None: all.
    """
    m = len(store.llms)
    chosen = len(store) if pairs is None else len(pairs)
    cells = np.zeros(5 * m * m)
    for start in range(0, chosen, _AT_ONCE):
        part = slice(start, start + _AT_ONCE) if pairs is None else pairs[start : start + _AT_ONCE]
        a, b, code = (
            np.asarray(each[part], np.intp) for each in (store.first, store.second, store.outcome)
        )
        cells += np.bincount((a * m + b) * 5 + code, minlength=5 * m * m)
    return cells.reshape(m, m, 5)


def fit_levels(counts: _Array) -> Levels:
    """Fit levels, tie threshold, strength and margin to counted outcomes.

    Weak normal priors keep finite what never lost, never tied or never was strong.

    Args:
        counts: Shape (m, m, 5), see `count_five`.

    Example:
        >>> counts = np.zeros((2, 2, 5))
        >>> counts[0, 1] = [10, 40, 25, 20, 5]
        >>> levels = fit_levels(counts)
        >>> np.exp(levels.log_outcomes([0], [1])).round(2).tolist()
        [[0.1, 0.4, 0.25, 0.2, 0.05]]
    """
    from scipy.optimize import minimize

    m = len(counts)
    a, b, code = np.nonzero(counts)
    weight = counts[a, b, code]

    def loss(flat: _Array) -> tuple[float, _Array]:
        values, eta, form = flat[:m], np.full(len(a), flat[m]), _form(flat)
        total = -float(weight @ _chosen(values, eta, form, (a, b, code)))
        _, by_a, by_b, by_eta = outcome_loss(values[a], values[b], eta, code, form)
        share = weight * len(a)
        slope = np.zeros(len(flat))
        slope[:m] = np.bincount(a, by_a * share, m) + np.bincount(b, by_b * share, m)
        slope[m] = float(by_eta @ share)
        for place in (m + 1, m + 2):
            moved = [flat.copy(), flat.copy()]
            moved[0][place] += _STEP
            moved[1][place] -= _STEP
            up, down = (
                -float(weight @ _chosen(values, eta, _form(each), (a, b, code))) for each in moved
            )
            slope[place] = (up - down) / (2.0 * _STEP)
        away = flat - start
        return total + 0.5 * float(prior @ away**2), slope + prior * away

    start = np.concatenate([np.zeros(m), [-1.0, 0.0, 1.0]])
    prior = np.concatenate([np.full(m, _LEVEL_PRIOR), np.full(3, _FORM_PRIOR)])
    bounds = [(-15.0, 15.0)] * m + [(-12.0, 12.0), (-3.0, 3.0), (-10.0, 10.0)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return Levels(found[:m] - found[:m].mean(), float(found[m]), _form(found))


def _form(flat: _Array) -> Outcomes:
    return Outcomes(strength=float(np.exp(flat[-2])), margin=float(flat[-1]))


def _chosen(
    values: _Array,
    eta: _Array,
    form: Outcomes,
    rows: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]],
) -> _Array:
    a, b, code = rows
    logs = log_outcomes(values[a], values[b], eta, form)
    picked: _Array = logs[np.arange(len(code)), code]
    return picked
