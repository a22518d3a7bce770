"""Mixture-of-experts head (fig. 4): a gating net picks the top experts, whose logits are blended.

``p(q) = sigmoid(sum_k w_k(q) f_k(q))``, with w the softmax over the top-k gating logits. Trained on
per-query scores by cross-entropy in numpy: the base install needs no torch. Nets that differ by
chance only may be averaged: their experts lie side by side in one set of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moma_core._numerics import sigmoid
from moma_core.types import FloatArray, LLMCard

__all__ = [
    "MoEConfig",
    "MoEHead",
    "averaged",
    "batch_size",
    "batches",
    "fit_moe",
    "initial",
    "train_mixture",
]

_Floats = npt.NDArray[np.float32]
_Weights = dict[str, _Floats]


@dataclass(frozen=True, slots=True)
class MoEConfig:
    """How to build and train the mixture.

    Args:
        experts: Experts K.
        top: Experts that answer a query.
        width: Hidden units of an expert.
        epochs: Passes over the data.
        batch: Queries of a step; fewer when there are fewer than six such batches.
        rate: Adam's first step size; it falls to zero along a cosine.
        decay: Weight decay, decoupled.
        dropout: Share of inputs dropped.
        balance: Weight of the penalty that asks for experts that are used equally often.
        nets: Nets that are trained one after the other and averaged (`fit_moe`).
    """

    experts: int = 8
    top: int = 2
    width: int = 32
    epochs: int = 15
    batch: int = 256
    rate: float = 2e-3
    decay: float = 1e-2
    dropout: float = 0.3
    balance: float = 0.01
    nets: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class MoEHead:
    """Blends the logits of the top experts.

    Args:
        llms: Cards of the columns.
        weights: ``gating`` (d, K), ``hidden`` (d, K * H), ``hidden_bias`` (K * H,),
            ``output`` (K, H, m), ``output_bias`` (K, m), ``centre`` and ``spread`` (d,) of inputs.
        top: Experts of a net that answer a query.
        nets: Nets whose outputs are averaged, each with its share of the K experts.
    """

    kind: ClassVar[str] = "moe"
    llms: tuple[LLMCard, ...]
    weights: Mapping[str, _Floats]
    top: int
    nets: int = 1

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1], shape (n, m)."""
        return sigmoid(self.outputs(embeddings)).astype(np.float32)

    def outputs(self, embeddings: FloatArray) -> FloatArray:
        """Return the blended outputs of the experts before the sigmoid, shape (n, outputs)."""
        weights = self.weights
        inputs = (embeddings - weights["centre"]) / weights["spread"]
        return _forward(inputs, weights, self.top, self.nets)[0]

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        return {"top": self.top, "nets": self.nets}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""
        return dict(self.weights)

    @classmethod
    def from_parts(
        cls, llms: tuple[LLMCard, ...], config: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> MoEHead:
        """Rebuild from `config` and `arrays`."""
        return cls(llms, dict(arrays), config["top"], config.get("nets", 1))


def fit_moe(
    inputs: FloatArray,
    scores: npt.NDArray[np.float64],
    llms: tuple[LLMCard, ...],
    config: MoEConfig,
    rng: np.random.Generator,
) -> MoEHead:
    """Fit on inputs (n, d) and complete scores (n, m) by Adam on the cross-entropy."""
    targets = scores.astype(np.float32)

    def grad(rows: npt.NDArray[np.intp], logits: _Floats) -> _Floats:
        return sigmoid(logits).astype(np.float32) - targets[rows]

    mean = np.clip(scores.mean(axis=0), 0.02, 0.98)
    start = np.log(mean / (1.0 - mean))
    return averaged(
        [train_mixture(inputs, start, grad, llms, config, rng) for _ in range(config.nets)]
    )


def averaged(nets: Sequence[MoEHead]) -> MoEHead:
    """Return the mean of nets of one shape that were trained on the same inputs.

    Args:
        nets: At least one, each a single net.
    """
    weights = dict(nets[0].weights)
    for name, axis in _BY_EXPERT.items():
        weights[name] = np.concatenate([net.weights[name] for net in nets], axis=axis)
    return MoEHead(nets[0].llms, weights, nets[0].top, len(nets))


_BY_EXPERT = {"gating": 1, "hidden": 1, "hidden_bias": 0, "output": 0, "output_bias": 0}
"""Axis of each array along which experts lie."""


def train_mixture(
    inputs: FloatArray,
    start: npt.NDArray[np.float64],
    grad: Callable[[npt.NDArray[np.intp], _Floats], _Floats],
    llms: tuple[LLMCard, ...],
    config: MoEConfig,
    rng: np.random.Generator,
    *,
    moments: tuple[_Floats, _Floats] | None = None,
) -> MoEHead:
    """Return a mixture trained by Adam on whatever loss ``grad`` is the gradient of.

    Args:
        inputs: Shape (n, d); only a batch at a time is copied, so it may lie on disk.
        start: First output of every expert, shape (outputs,).
        grad: Gradient of a query's loss by the mixture's outputs, from rows (B,) of ``inputs``
            and outputs (B, outputs), shape (B, outputs).
        llms: Cards of the first outputs.
        config: How to build and train.
        rng: Source of every random choice.
        moments: Mean and standard deviation of the inputs, shape (d,) each, when already known.
    """
    centre, spread = moments or (inputs.mean(axis=0), inputs.std(axis=0))
    spread = np.where(spread > 1e-6, spread, 1.0).astype(np.float32)
    weights = initial(inputs.shape[1], start, config, rng)
    size = batch_size(len(inputs), config)
    optimiser = _Adam(weights, config, steps=config.epochs * -(-len(inputs) // size))
    for rows, dropped in batches(inputs, (centre, spread), config, rng, size):
        forward = _forward(dropped, weights, config.top)
        optimiser.step(
            weights, _gradients(dropped, forward, grad(rows, forward[0]), weights, config)
        )
    return MoEHead(
        llms, {**weights, "centre": centre, "spread": spread}, min(config.top, config.experts)
    )


def batch_size(n: int, config: MoEConfig) -> int:
    """Return how many of n queries one step takes."""
    return min(config.batch, max(16, n // 6))


def batches(
    inputs: FloatArray,
    moments: tuple[_Floats, _Floats],
    config: MoEConfig,
    rng: np.random.Generator,
    size: int,
) -> Iterator[tuple[npt.NDArray[np.intp], _Floats]]:
    """Yield each step's rows (B,) and their inputs, standardised and dropped out, shape (B, d).

    Args:
        inputs: Shape (n, d); may lie on disk.
        moments: Centre and spread of the inputs, shape (d,) each.
        config: Epochs and dropout.
        rng: Source of order and dropout.
        size: Rows of a step; the last one of an epoch has what is left.
    """
    centre, spread = moments
    for _ in range(config.epochs):
        order = rng.permutation(len(inputs))
        for first in range(0, len(inputs), size):
            rows = order[first : first + size]
            points = ((inputs[rows] - centre) / spread).astype(np.float32, copy=False)
            keep = rng.random(points.shape, dtype=np.float32) > config.dropout
            yield rows, points * keep / np.float32(1.0 - config.dropout)


def initial(
    d: int, start: npt.NDArray[np.float64], config: MoEConfig, rng: np.random.Generator
) -> _Weights:
    """Return the untrained weights for inputs of d numbers, see `MoEHead`.

    Args:
        d: Numbers of an input.
        start: First output of every expert, shape (outputs,).
        config: Experts and width.
        rng: Source of what is random in them.
    """
    experts, width, m = config.experts, config.width, len(start)
    weights = {
        "gating": rng.normal(size=(d, experts)) * 0.5 / np.sqrt(d),
        "hidden": rng.normal(size=(d, experts * width)) / np.sqrt(d),
        "hidden_bias": np.zeros(experts * width),
        "output": rng.normal(size=(experts, width, m)) * 0.01,
        "output_bias": np.tile(start, (experts, 1)),
    }
    return {name: values.astype(np.float32) for name, values in weights.items()}


def _forward(
    inputs: _Floats, weights: Mapping[str, _Floats], top: int, nets: int = 1
) -> tuple[_Floats, _Floats, _Floats, _Floats]:
    """Return logits (B, m), gate weights (B, K), hidden (B, K, H), experts' logits (B, K, m)."""
    experts, width, _ = weights["output"].shape
    choice = (inputs @ weights["gating"]).reshape(-1, experts // nets)  # a row for each net
    gate = _top_softmax(choice, top).reshape(len(inputs), experts) / np.float32(nets)
    hidden = np.maximum(inputs @ weights["hidden"] + weights["hidden_bias"], 0.0)
    hidden = hidden.reshape(len(inputs), experts, width)  # (B, K, H)
    outputs = np.matmul(hidden.transpose(1, 0, 2), weights["output"]).transpose(1, 0, 2)
    outputs = outputs + weights["output_bias"]  # (B, K, m)
    return (gate[:, None, :] @ outputs)[:, 0, :], gate, hidden, outputs


def _gradients(
    inputs: _Floats,
    forward: tuple[_Floats, _Floats, _Floats, _Floats],
    grad: _Floats,
    weights: _Weights,
    config: MoEConfig,
) -> _Weights:
    """Gradients of the mean loss, whose gradient by the outputs is ``grad`` (B, m)."""
    _, gate, hidden, outputs = forward
    size, experts, width = hidden.shape
    grad = grad / np.float32(size)
    to_outputs = gate[:, :, None] * grad[:, None, :]  # (B, K, m)
    crowding = np.float32(config.balance * experts / size) * gate.mean(axis=0)  # (K,)
    to_gate = (outputs @ grad[:, :, None])[:, :, 0] + crowding  # (B, K)
    to_choice = gate * (to_gate - (gate * to_gate).sum(axis=1, keepdims=True))
    by_expert = to_outputs.transpose(1, 0, 2)  # (K, B, m)
    to_hidden = (by_expert @ weights["output"].transpose(0, 2, 1)).transpose(1, 0, 2) * (hidden > 0)
    flat = to_hidden.reshape(size, experts * width)
    return {
        "gating": inputs.T @ to_choice,
        "hidden": inputs.T @ flat,
        "hidden_bias": flat.sum(axis=0),
        "output": hidden.transpose(1, 2, 0) @ by_expert,
        "output_bias": to_outputs.sum(axis=0),
    }


class _Adam:
    """Adam with decoupled weight decay and a cosine schedule; updates weights in place."""

    def __init__(self, weights: _Weights, config: MoEConfig, steps: int) -> None:
        self._first = {name: np.zeros_like(values) for name, values in weights.items()}
        self._second = {name: np.zeros_like(values) for name, values in weights.items()}
        self._config, self._steps, self._done = config, steps, 0

    def step(self, weights: _Weights, gradients: _Weights) -> None:
        self._done += 1
        rate = self._config.rate * 0.5 * (1.0 + np.cos(np.pi * self._done / self._steps))
        for name, gradient in gradients.items():
            first, second = self._first[name], self._second[name]
            first += np.float32(0.1) * (gradient - first)
            second += np.float32(0.001) * (gradient**2 - second)
            unit = first / (1 - 0.9**self._done)
            unit /= np.sqrt(second / (1 - 0.999**self._done)) + 1e-8
            shrink = 0.0 if name.endswith("bias") else self._config.decay
            weights[name] -= np.float32(rate) * (unit + np.float32(shrink) * weights[name])


def _top_softmax(logits: _Floats, top: int) -> _Floats:
    """Softmax over the ``top`` largest logits of each row, zero elsewhere, shape (B, K)."""
    if logits.shape[1] == 1:
        return np.ones_like(logits)
    top = min(top, logits.shape[1])
    threshold = np.partition(logits, -top, axis=1)[:, -top][:, None]
    kept = np.where(logits >= threshold, logits, -np.inf)
    weights = np.exp(kept - kept.max(axis=1, keepdims=True))
    gate: _Floats = weights / weights.sum(axis=1, keepdims=True)
    return gate
