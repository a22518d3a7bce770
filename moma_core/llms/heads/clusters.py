"""Clusters head: each LLM's mean score in the query's cluster, drawn towards its overall mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moma_core._numerics import find_centres, nearest
from moma_core.types import FloatArray, LLMCard

__all__ = [
    "ClustersConfig",
    "ClustersHead",
    "fit_clusters",
]


@dataclass(frozen=True, slots=True)
class ClustersConfig:
    """How to cluster.

    Args:
        k: Clusters; fewer when there are fewer than 20 queries for each.
        prior: Queries' worth of the overall mean that each cluster's mean is drawn towards.
    """

    k: int = 32
    prior: float = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class ClustersHead:
    """Looks up the scores of the nearest centre.

    Args:
        llms: Cards of the columns.
        centres: Shape (k, d).
        scores: Quality of each LLM in each cluster, shape (k, m).
    """

    kind: ClassVar[str] = "clusters"
    llms: tuple[LLMCard, ...]
    centres: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1], shape (n, m)."""
        offset = 0.5 * np.einsum("kd,kd->k", self.centres, self.centres)
        quality: FloatArray = self.scores[(embeddings @ self.centres.T - offset).argmax(axis=1)]
        return quality

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        return {}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""
        return {"centres": self.centres, "scores": self.scores}

    @classmethod
    def from_parts(
        cls, llms: tuple[LLMCard, ...], config: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> ClustersHead:
        """Rebuild from `config` and `arrays`."""
        del config
        return cls(llms, arrays["centres"], arrays["scores"])


def fit_clusters(
    inputs: FloatArray,
    scores: npt.NDArray[np.float64],
    llms: tuple[LLMCard, ...],
    config: ClustersConfig,
    rng: np.random.Generator,
) -> ClustersHead:
    """Fit on inputs (n, d) and complete scores (n, m)."""
    points = inputs.astype(np.float64)
    k = max(1, min(config.k, len(points) // 20))
    centres = find_centres(points, k, rng, rounds=25, starts=3)
    owner = nearest(points, centres)
    sums = np.zeros((len(centres), scores.shape[1]))
    np.add.at(sums, owner, scores)
    counts = np.bincount(owner, minlength=len(centres))[:, None]
    means = (sums + config.prior * scores.mean(axis=0)) / (counts + config.prior)
    return ClustersHead(llms, centres.astype(np.float32), means.astype(np.float32))
