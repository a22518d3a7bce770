"""Linear head: ridge regression of each LLM's score on the inputs. The plainest baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from moma_core.types import FloatArray, LLMCard

__all__ = [
    "LinearConfig",
    "LinearHead",
    "fit_linear",
    "ridge",
]

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LinearConfig:
    """Args: penalty: Ridge penalty on the weights."""

    penalty: float = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class LinearHead:
    """Predicts ``inputs @ weights + bias``, held to [0, 1].

    Args:
        llms: Cards of the columns.
        weights: Shape (d, m).
        bias: Shape (m,).
    """

    kind: ClassVar[str] = "linear"
    llms: tuple[LLMCard, ...]
    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1], shape (n, m)."""
        quality: FloatArray = np.clip(embeddings @ self.weights + self.bias, 0.0, 1.0)
        return quality

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        return {}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""
        return {"weights": self.weights, "bias": self.bias}

    @classmethod
    def from_parts(
        cls, llms: tuple[LLMCard, ...], config: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> Self:
        """Rebuild from `config` and `arrays`."""
        del config
        return cls(llms, arrays["weights"], arrays["bias"])


def ridge(inputs: _Array, targets: _Array, penalty: float) -> tuple[_Array, _Array]:
    """Return weights (d, m) and bias (m,) of a ridge regression with a free intercept."""
    centre, mean = inputs.mean(axis=0), targets.mean(axis=0)
    centred = inputs - centre
    gram = centred.T @ centred + penalty * np.eye(inputs.shape[1])
    weights: _Array = np.linalg.solve(gram, centred.T @ (targets - mean))
    bias: _Array = mean - centre @ weights
    return weights, bias


def fit_linear(
    inputs: FloatArray,
    scores: _Array,
    llms: tuple[LLMCard, ...],
    config: LinearConfig,
    rng: np.random.Generator,
) -> LinearHead:
    """Fit on inputs (n, d) and complete scores (n, m)."""
    del rng
    weights, bias = ridge(inputs.astype(np.float64), scores, config.penalty)
    return LinearHead(llms, weights.astype(np.float32), bias.astype(np.float32))
