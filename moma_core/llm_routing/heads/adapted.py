"""Adapted head: another head's LLMs, some left out, some added as blends of the others.

A new LLM is right where LLMs like it are right, so its quality is a weighted sum of what the base
head predicts for the rest. Fitting that takes milliseconds and leaves every other column alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moma_core.llm_routing.heads.contract import Head
from moma_core.types import FloatArray, LLMCard

__all__ = ["AdaptedHead", "fit_blend"]

_Array = npt.NDArray[np.float64]
_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedHead:
    """Predicts ``base @ weights + bias``, held to [0, 1].

    Args:
        llms: Cards of the columns.
        base: The trained head over m LLMs.
        weights: Shape (m, len(llms)); a kept LLM has a single 1.
        bias: Shape (len(llms),).
    """

    kind: ClassVar[str] = "adapted"
    llms: tuple[LLMCard, ...]
    base: Head
    weights: _Array
    bias: _Array

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1], shape (n, len(llms))."""
        quality = self.base.predict(embeddings).astype(np.float64) @ self.weights + self.bias
        return np.clip(quality, 0.0, 1.0).astype(np.float32)

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        names = [card.name for card in self.base.llms]
        return {"base": {"kind": self.base.kind, **self.base.config()}, "base_llms": names}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps; the base's names are prefixed."""
        inner = {f"base.{name}": values for name, values in self.base.arrays().items()}
        return {"weights": self.weights, "bias": self.bias, **inner}


def fit_blend(
    predicted: _Array, scores: _Array, measured: _Array | None = None
) -> tuple[_Array, float]:
    """Return weights (m,) and bias that explain a new LLM's scores by the others' predictions.

    Ridge regression around "as good as the others on average, shifted by its own level"; the
    penalty of least generalised cross-validation error is taken. Where the others were measured on
    the same queries, the level is corrected by how far those were luckier than predicted (a
    control variate: LLMs are lucky together).

    Args:
        predicted: Quality of the others on the scored queries, shape (n, m).
        scores: The new LLM's scores there, shape (n,).
        measured: What the others really scored there, shape (n, m).
    """
    n, m = predicted.shape
    prior = np.full(m, 1.0 / m)
    centred = predicted - predicted.mean(axis=0)
    rest = (scores - scores.mean()) - centred @ prior
    values, basis = np.linalg.eigh(centred.T @ centred)
    values = np.maximum(values, 0.0)
    projected = basis.T @ (centred.T @ rest)

    def error(penalty: float) -> float:
        residual = rest - centred @ (basis @ (projected / (values + penalty)))
        freedom = 1.0 + float((values / (values + penalty)).sum())
        return float(float(residual @ residual) / max(1.0 - freedom / n, 1e-3) ** 2)

    penalty = min(_PENALTIES, key=error)
    weights = prior + basis @ (projected / (values + penalty))
    level = (scores.sum() + 2.0 * predicted.mean()) / (n + 2.0)
    if measured is not None:
        level -= _shared_luck(measured.mean(axis=1) - predicted.mean(axis=1), scores)
    return weights, float(level - predicted.mean(axis=0) @ weights)


def _shared_luck(luck: _Array, scores: _Array) -> float:
    """Return how much the new LLM's mean owes to queries on which the others did well."""
    centred = luck - luck.mean()
    return float(luck.mean() * (centred @ scores) / max(float(centred @ centred), 1e-9))
