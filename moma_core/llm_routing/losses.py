"""Losses over judged pairs and their gradients by the scores (eq. 5-6, 29, 33); arrays only.

Gradients are plain numpy: closed form, and central differences where outcomes are grounded or only
the winner is known. Every loss is a mean over the pairs that count; swapping the two LLMs of a pair
together with its outcome changes nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moma_core.llm_routing.outcomes import Outcomes, log_outcomes, log_sigmoid

__all__ = ["best_llm_loss", "five_to_three", "outcome_loss", "pairwise_loss"]

_Array = npt.NDArray[np.float64]
_Codes = npt.NDArray[np.integer]


def outcome_loss(
    s_a: _Array, s_b: _Array, eta: _Array, outcome: _Codes, form: Outcomes, three: bool = False
) -> tuple[float, _Array, _Array, _Array]:
    """Return the cross-entropy over outcomes (eq. 5-6) and its gradients by s_a, s_b and eta.

    Args:
        s_a: Score of the first LLM of each pair, shape (n,).
        s_b: Score of the second one, shape (n,).
        eta: Tie threshold of the pair's query, shape (n,).
        outcome: Code of each pair, shape (n,); see `outcomes.OUTCOMES`.
        form: Strength, margin, grounded.
        three: Labels tell only who won (0, 1, 2): the strong and weak halves are added.
    """
    if not three and not form.grounded:
        return _five_outcome_loss(s_a - s_b, eta, np.asarray(outcome, np.intp), form)
    losses, slopes = [], []
    for inputs in _stencil(s_a, s_b, eta):
        logs = log_outcomes(*inputs, form)
        losses.append(-_picked(five_to_three(logs) if three else logs, outcome))
    for up, down in zip(losses[1::2], losses[2::2], strict=True):
        slopes.append((up - down) / (2.0 * _H * len(outcome)))
    return float(losses[0].mean()), slopes[0], slopes[1], slopes[2]


def _five_outcome_loss(
    gap: _Array, eta: _Array, outcome: npt.NDArray[np.intp], form: Outcomes
) -> tuple[float, _Array, _Array, _Array]:
    """The loss with its gradients in closed form, several times faster than by differences."""
    side = np.array([0.0, 1.0, -1.0, 1.0, -1.0])[outcome]
    tie, sign = outcome == 0, np.where(outcome >= 3, 1.0, -1.0)
    t, by_t_of_eta = np.logaddexp(0.0, eta), _sigmoid(eta)
    up, down = gap - t, -gap - t
    lead = np.where(side < 0, down, up)  # of the winner, beyond the threshold
    strong = sign * form.strength * (lead - form.margin)
    won = log_sigmoid(lead) + log_sigmoid(strong)
    by_lead = _sigmoid(-lead) + sign * form.strength * _sigmoid(-strong)
    drawn = eta + np.logaddexp(np.log(2.0), eta) - 2.0 * t + log_sigmoid(-up) + log_sigmoid(-down)
    by_gap = np.where(tie, _sigmoid(down) - _sigmoid(up), side * by_lead)
    by_t = np.where(tie, _sigmoid(up) + _sigmoid(down) - 2.0, -by_lead)
    by_eta = by_t * by_t_of_eta + np.where(tie, 1.0 + _sigmoid(eta - np.log(2.0)), 0.0)
    loss, size = -np.where(tie, drawn, won), len(outcome)
    return float(loss.mean()), -by_gap / size, by_gap / size, -by_eta / size


def _sigmoid(values: _Array) -> _Array:
    result: _Array = 0.5 * (1.0 + np.tanh(0.5 * values))
    return result


_H = 1e-4


def _stencil(s_a: _Array, s_b: _Array, eta: _Array) -> list[tuple[_Array, _Array, _Array]]:
    """The point, then a step up and a step down along each input: central differences, O(h^2)."""
    return [
        (s_a, s_b, eta),
        (s_a + _H, s_b, eta), (s_a - _H, s_b, eta),
        (s_a, s_b + _H, eta), (s_a, s_b - _H, eta),
        (s_a, s_b, eta + _H), (s_a, s_b, eta - _H),
    ]  # fmt: skip


def _picked(logs: _Array, outcome: _Codes) -> _Array:
    picked: _Array = np.take_along_axis(logs, np.asarray(outcome, np.intp)[:, None], axis=1)[:, 0]
    return picked


def five_to_three(logs: _Array) -> _Array:
    """Return log probabilities of tie (and both bad), a wins, b wins, shape (n, 3)."""
    tie = logs[:, 0] if logs.shape[1] == 5 else np.logaddexp(logs[:, 0], logs[:, 5])
    wins = [np.logaddexp(logs[:, 1], logs[:, 3]), np.logaddexp(logs[:, 2], logs[:, 4])]
    return np.stack([tie, *wins], axis=1)


def pairwise_loss(values: _Array, scores: _Array) -> tuple[float, _Array]:
    """Return -log sigmoid(f_a - f_b) over all pairs that differ in score (eq. 31-33).

    A pair counts by how much its scores differ; ties count nothing.

    Args:
        values: f of each query and LLM, shape (n, m).
        scores: Measured quality, shape (n, m).

    Returns:
        Mean over queries, and the gradient by values, shape (n, m), summed within a query.
    """
    better = np.maximum(scores[:, :, None] - scores[:, None, :], 0.0)  # (n, a, b): a beats b
    gap = values[:, :, None] - values[:, None, :]
    loss = float((better * np.logaddexp(0.0, -gap)).sum() / len(values))
    slope = -better * 0.5 * (1.0 - np.tanh(0.5 * gap))
    return loss, slope.sum(axis=2) - slope.sum(axis=1)


def best_llm_loss(values: _Array, scores: _Array) -> tuple[float, _Array]:
    """Return the cross-entropy to the best LLM of each query (eq. 27-29) and its gradient.

    LLMs that tie for the best share the target equally, so their order cannot matter.

    Args:
        values: Logit of each LLM, shape (n, m).
        scores: Measured quality, shape (n, m).
    """
    best = scores == scores.max(axis=1, keepdims=True)
    target = best / best.sum(axis=1, keepdims=True)
    shifted = values - values.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-(target * logs).sum() / len(values)), np.exp(logs) - target
