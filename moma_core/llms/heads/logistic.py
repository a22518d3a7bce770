"""Logistic head: one logistic regression of each LLM's score on the inputs. A plain baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from moma_core._numerics import sigmoid
from moma_core.llms.heads.linear import LinearHead
from moma_core.types import FloatArray, LLMCard

__all__ = [
    "LogisticConfig",
    "LogisticHead",
    "fit_logistic",
]

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LogisticConfig:
    """How to fit.

    Args:
        penalty: Ridge penalty on the weights.
        rounds: Most steps of L-BFGS.
    """

    penalty: float = 3.0
    rounds: int = 100


@dataclass(frozen=True, slots=True, eq=False)
class LogisticHead(LinearHead):
    """Predicts ``sigmoid(inputs @ weights + bias)``; saved as a `LinearHead` is."""

    kind: ClassVar[str] = "logistic"

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1], shape (n, m)."""
        return sigmoid(embeddings @ self.weights + self.bias).astype(np.float32)


def fit_logistic(
    inputs: FloatArray,
    scores: _Array,
    llms: tuple[LLMCard, ...],
    config: LogisticConfig,
    rng: np.random.Generator,
) -> LogisticHead:
    """Fit on inputs (n, d) and complete scores in [0, 1] (n, m) by L-BFGS on the cross-entropy."""
    from scipy.optimize import minimize

    del rng
    x, (d, m) = inputs.astype(np.float64), (inputs.shape[1], scores.shape[1])

    def loss(flat: _Array) -> tuple[float, _Array]:
        weights, bias = flat[: d * m].reshape(d, m), flat[d * m :]
        logits = x @ weights + bias
        gap = sigmoid(logits) - scores
        value = float((np.logaddexp(0.0, logits) - scores * logits).sum())
        value += 0.5 * config.penalty * float((weights**2).sum())
        slope = x.T @ gap + config.penalty * weights
        return value, np.concatenate([slope.ravel(), gap.sum(axis=0)])

    mean = np.clip(scores.mean(axis=0), 0.01, 0.99)
    start = np.concatenate([np.zeros(d * m), np.log(mean / (1.0 - mean))])
    options = {"maxiter": config.rounds}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    weights, bias = found[: d * m].reshape(d, m), found[d * m :]
    return LogisticHead(llms, weights.astype(np.float32), bias.astype(np.float32))
