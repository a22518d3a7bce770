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
_MEASURED_PENALTY, _PREDICTED_PENALTY = 10.0, 3.0
_DRAWN = 2.0
"""Queries' worth of the others' mean that a new LLM's level is drawn to."""


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


def fit_blend(predicted: _Array, scores: _Array, measured: _Array) -> tuple[_Array, float, float]:
    """Return weights (m,), bias and standard error that give a new LLM's quality from the others'.

    Its scores are regressed on what the others *scored* on the same queries, which says far more
    than what was predicted of them, and on those predictions. By linearity of the mean the two
    weights, added, then apply to predictions alone. LLMs are lucky together, so this also takes
    the luck of a small sample out of the new LLM's level. Ridge regression around "as good as the
    others on average, shifted".

    Args:
        predicted: Quality of the others on the scored queries, shape (n, m).
        scores: The new LLM's scores there, shape (n,).
        measured: What the others scored there, as predicted where unknown, shape (n, m).
    """
    n, m = measured.shape
    both = np.column_stack([measured, predicted])
    centred = both - both.mean(axis=0)
    prior = np.concatenate([np.full(m, 1.0 / m), np.zeros(m)])
    rest = (scores - scores.mean()) - centred @ prior
    penalty = np.repeat([_MEASURED_PENALTY, _PREDICTED_PENALTY], m)
    solved = prior + np.linalg.solve(centred.T @ centred + np.diag(penalty), centred.T @ rest)
    level = (scores.sum() + _DRAWN * predicted.mean()) / (n + _DRAWN)
    bias = float(level - both.mean(axis=0) @ solved)
    residual = scores - scores.mean() - centred @ solved
    return solved[:m] + solved[m:], bias, float(residual.std() / np.sqrt(n))
