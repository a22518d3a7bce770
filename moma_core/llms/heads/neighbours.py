"""Neighbours head: the mean score of each LLM over the k most similar training queries.

The nearest of them may count more: the mean over these is averaged with the mean over all k.
A strong baseline; it keeps every training input, so files and times grow with the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moma_core.types import FloatArray, LLMCard

__all__ = [
    "NeighboursConfig",
    "NeighboursHead",
    "fit_neighbours",
]


@dataclass(frozen=True, slots=True)
class NeighboursConfig:
    """How many vote.

    Args:
        k: Neighbours that vote.
        near: The nearest of them, which vote once more; zero: none does.
    """

    k: int = 100
    near: int = 20


@dataclass(frozen=True, slots=True, eq=False)
class NeighboursHead:
    """Averages the scores of the k nearest training queries by cosine.

    Args:
        llms: Cards of the columns.
        points: Training inputs of length one, shape (n_train, d).
        scores: Their scores, shape (n_train, m).
        k: Neighbours that vote, at most n_train.
        near: The nearest of them, which vote once more.
    """

    kind: ClassVar[str] = "neighbours"
    llms: tuple[LLMCard, ...]
    points: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    k: int
    near: int = 0

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1], shape (n, m)."""
        similar = (
            embeddings @ self.points.T
        )  # (n, n_train); the query's own length changes no order
        voted = [self._mean(similar, k) for k in (self.k, self.near) if k]
        quality: FloatArray = sum(voted[1:], voted[0]) / np.float32(len(voted))
        return quality

    def _mean(self, similar: FloatArray, k: int) -> FloatArray:
        """Return the mean scores of the k nearest, shape (n, m), by similarity (n, n_train)."""
        if k >= len(self.points):
            return np.tile(self.scores.mean(axis=0), (len(similar), 1))
        nearest = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        quality: FloatArray = self.scores[nearest].mean(axis=1)
        return quality

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        return {"k": self.k, "near": self.near}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""
        return {"points": self.points, "scores": self.scores}

    @classmethod
    def from_parts(
        cls, llms: tuple[LLMCard, ...], config: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> NeighboursHead:
        """Rebuild from `config` and `arrays`."""
        return cls(llms, arrays["points"], arrays["scores"], config["k"], config.get("near", 0))


def fit_neighbours(
    inputs: FloatArray,
    scores: npt.NDArray[np.float64],
    llms: tuple[LLMCard, ...],
    config: NeighboursConfig,
    rng: np.random.Generator,
) -> NeighboursHead:
    """Keep inputs (n, d) and complete scores (n, m)."""
    del rng
    points = inputs / np.maximum(np.linalg.norm(inputs, axis=1, keepdims=True), 1e-12)
    kept = points.astype(np.float32), scores.astype(np.float32)
    return NeighboursHead(llms, *kept, min(config.k, len(points)), config.near)
