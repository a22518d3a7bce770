"""The controller's arithmetic: a bilinear scorer of options, its hand-written gradient, and Adam.

One scorer a stage of the cascade. With context C, shared option texts T and option numbers N,

    logits_bo = (C_b Q) . (T_o K + N_bo L) + T_o t + N_bo n

so an option is scored from its description and figures alone, and one added later needs no new
parameter. Free functions on arrays; knows nothing of modes, roles or LLMs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Adam", "Params", "Scored", "init_scorer", "scorer_backward", "scorer_forward"]

_Array = npt.NDArray[np.float64]
Params = dict[str, _Array]
"""Parameters by name, ``"<stage>.<Q|K|L|t|n>"`` and those of the shared layer."""

RANK = 16


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What the backward pass needs of a forward one.

    Args:
        context: Shape (B, c).
        texts: Shape (O, t), shared by the rows.
        numbers: Shape (B, O, f).
        inner: ``context @ Q``, shape (B, k).
        keys: ``texts @ K``, shape (O, k).
    """

    context: _Array
    texts: _Array
    numbers: _Array
    inner: _Array
    keys: _Array


def init_scorer(
    stage: str, widths: tuple[int, int, int], rng: np.random.Generator, start: Mapping[int, float]
) -> Params:
    """Return a scorer's parameters.

    Args:
        stage: Prefix of their names.
        widths: Of the context, the texts and the numbers.
        rng: Draws the starting point.
        start: Weight of some numbers before training: the prior that an untrained router uses.
    """
    context, texts, numbers = widths
    direct = np.zeros(numbers)
    for column, weight in start.items():
        direct[column] = weight
    return {
        f"{stage}.Q": rng.normal(0, 1 / np.sqrt(context), (context, RANK)),
        f"{stage}.K": rng.normal(0, 0.1 / np.sqrt(max(texts, 1)), (texts, RANK)),
        f"{stage}.L": rng.normal(0, 0.1 / np.sqrt(max(numbers, 1)), (numbers, RANK)),
        f"{stage}.t": np.zeros(texts),
        f"{stage}.n": direct,
    }


def scorer_forward(
    params: Params, stage: str, context: _Array, texts: _Array, numbers: _Array
) -> tuple[_Array, Scored]:
    """Return logits of shape (B, O) and what `scorer_backward` needs.

    Args:
        params: Of all stages.
        stage: Which scorer.
        context: Shape (B, c).
        texts: Shape (O, t).
        numbers: Shape (B, O, f).
    """
    inner = context @ params[f"{stage}.Q"]
    keys = texts @ params[f"{stage}.K"]
    by_number = inner @ params[f"{stage}.L"].T + params[f"{stage}.n"]  # (B, f)
    logits = inner @ keys.T + texts @ params[f"{stage}.t"]
    logits += np.matmul(numbers, by_number[:, :, None])[:, :, 0]
    return logits, Scored(context, texts, numbers, inner, keys)


def scorer_backward(
    params: Params, stage: str, scored: Scored, upstream: _Array, gradients: Params
) -> _Array:
    """Add a stage's gradients to ``gradients`` and return that of the context, shape (B, c).

    Args:
        params: As in the forward pass.
        stage: Which scorer.
        scored: From the forward pass.
        upstream: Gradient of the logits, shape (B, O).
        gradients: Changed in place.
    """
    on_numbers = np.matmul(upstream[:, None, :], scored.numbers)[:, 0]  # (B, f)
    on_inner = upstream @ scored.keys + on_numbers @ params[f"{stage}.L"]
    gradients[f"{stage}.K"] += scored.texts.T @ (upstream.T @ scored.inner)
    gradients[f"{stage}.t"] += scored.texts.T @ upstream.sum(axis=0)
    gradients[f"{stage}.L"] += on_numbers.T @ scored.inner
    gradients[f"{stage}.n"] += on_numbers.sum(axis=0)
    gradients[f"{stage}.Q"] += scored.context.T @ on_inner
    on_context: _Array = on_inner @ params[f"{stage}.Q"].T
    return on_context


class Adam:
    """Adam's moments for a set of parameters, which `step` changes in place.

    Args:
        params: What to train.
        rate: Step size.
    """

    def __init__(self, params: Params, rate: float) -> None:
        self._params = params
        self._rate = rate
        self._first = {name: np.zeros_like(value) for name, value in params.items()}
        self._second = {name: np.zeros_like(value) for name, value in params.items()}
        self._count = 0

    def step(self, gradients: Params, shrink: float = 1.0) -> None:
        """Climb ``gradients`` once, the step size multiplied by ``shrink``."""
        self._count += 1
        bias = np.sqrt(1 - 0.999**self._count) / (1 - 0.9**self._count)
        for name, gradient in gradients.items():
            first, second = self._first[name], self._second[name]
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            self._params[name] += self._rate * shrink * bias * first / (np.sqrt(second) + 1e-8)
