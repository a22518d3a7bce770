"""Kernel head: ridge regression on Gaussian similarities to landmark queries (Nyström).

LLMs share strength: each direction in which their scores move together (a principal component of
the score matrix; the first is the query's difficulty) gets its own penalty by generalised
cross-validation, so that directions without signal are shrunk to their mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moma_core._numerics import find_centres, squared_distances
from moma_core.types import FloatArray, LLMCard

__all__ = [
    "KernelConfig",
    "KernelHead",
    "fit_kernel",
]

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """How to fit.

    Args:
        landmarks: Landmark queries; fewer when there are fewer than 3 queries for each.
        gamma: Kernel exp(-gamma * squared distance).
        penalties: Ridge penalties to choose from, beside dropping the direction.
    """

    landmarks: int = 320
    gamma: float = 1.5
    penalties: tuple[float, ...] = (0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


@dataclass(frozen=True, slots=True, eq=False)
class KernelHead:
    """Predicts a weighted sum of similarities to landmarks, held to [0, 1].

    Args:
        llms: Cards of the columns.
        landmarks: Shape (k, d).
        squares: Squared length of each landmark, shape (k,).
        weights: Shape (k, m).
        bias: Shape (m,).
        gamma: Of the kernel.
    """

    kind: ClassVar[str] = "kernel"
    llms: tuple[LLMCard, ...]
    landmarks: npt.NDArray[np.float32]
    squares: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    gamma: float

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1], shape (n, m)."""
        squares = np.einsum("nd,nd->n", embeddings, embeddings)[:, None] + self.squares
        distances = squares - 2.0 * (embeddings @ self.landmarks.T)
        similar = np.exp(np.float32(-self.gamma) * distances)
        raw = similar @ self.weights + self.bias
        quality: FloatArray = np.minimum(np.maximum(raw, 0.0), 1.0)  # np.clip is slow on one row
        return quality

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        return {"gamma": self.gamma}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""
        names = ("landmarks", "squares", "weights", "bias")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_parts(
        cls, llms: tuple[LLMCard, ...], config: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> KernelHead:
        """Rebuild from `config` and `arrays`."""
        return cls(
            llms,
            arrays["landmarks"],
            arrays["squares"],
            arrays["weights"],
            arrays["bias"],
            config["gamma"],
        )


def fit_kernel(
    inputs: FloatArray,
    scores: _Array,
    llms: tuple[LLMCard, ...],
    config: KernelConfig,
    rng: np.random.Generator,
) -> KernelHead:
    """Fit on inputs (n, d) and complete scores (n, m)."""
    points = inputs.astype(np.float64)
    landmarks = find_centres(points, max(1, min(config.landmarks, len(points) // 3)), rng)
    values, vectors = np.linalg.eigh(
        np.exp(-config.gamma * squared_distances(landmarks, landmarks))
    )
    whiten = vectors / np.sqrt(np.maximum(values, 1e-6))
    features = np.exp(-config.gamma * squared_distances(points, landmarks)) @ whiten  # (n, k)
    centre, mean = features.mean(axis=0), scores.mean(axis=0)
    directions = np.linalg.eigh((scores - mean).T @ (scores - mean))[1]  # (m, m)
    solved = _ridge_by_gcv(features - centre, (scores - mean) @ directions, config.penalties)
    weights = whiten @ solved @ directions.T
    bias = mean - centre @ solved @ directions.T
    return KernelHead(
        llms,
        landmarks.astype(np.float32),
        (landmarks**2).sum(axis=1).astype(np.float32),
        weights.astype(np.float32),
        bias.astype(np.float32),
        config.gamma,
    )


def _ridge_by_gcv(features: _Array, targets: _Array, penalties: tuple[float, ...]) -> _Array:
    """Weights (k, m), each column with the penalty of least generalised cross-validation error."""
    n = len(features)
    values, basis = np.linalg.eigh(features.T @ features)
    values = np.maximum(values, 0.0)
    projected = (features @ basis).T @ targets  # (k, m)
    total = (targets**2).sum(axis=0)
    best, least = np.zeros_like(projected), total / n  # predicting the mean
    for penalty in penalties:
        solved = projected / (values + penalty)[:, None]
        fitted = (solved * (2.0 * projected - values[:, None] * solved)).sum(axis=0)
        freedom = (values / (values + penalty)).sum()
        error = (total - fitted) / n / (1.0 - freedom / n) ** 2
        better = error < least
        best[:, better], least = solved[:, better], np.minimum(error, least)
    weights: _Array = basis @ best
    return weights
