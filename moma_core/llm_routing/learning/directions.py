"""What a correction may depend on beside an LLM's level: a few principal directions of queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidInputError
from moma_core.types import FloatArray

__all__ = ["Directions"]

_CLIP = 3.0
_MEASURE = 0.7
_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """Turns a query's vector into the few numbers that corrections are linear in.

    Args:
        centre: Mean of the queries, shape (d,).
        weights: One column a direction, shape (d, k); k may be 0.

    Example:
        >>> Directions.none().context(np.ones(384, np.float32)).tolist()
        [1.0]
    """

    centre: _Array
    weights: _Array

    @classmethod
    def none(cls) -> Directions:
        """Return no direction: corrections are one level an LLM."""
        return cls(np.zeros(0), np.zeros((0, 0)))

    @classmethod
    def fit(cls, vectors: FloatArray, k: int = 8) -> Directions:
        """Return the k principal directions of typical queries' vectors, shape (n, d).

        Raises:
            InvalidInputError: There are fewer than k + 1 vectors.
        """
        points = np.asarray(vectors, np.float64)
        if points.ndim != 2 or not 0 < k < len(points):
            raise InvalidInputError(
                f"{k} directions need more than {k} vectors, got shape {points.shape}."
            )
        centre = points.mean(axis=0)
        _, values, rows = np.linalg.svd(points - centre, full_matrices=False)
        scale = np.maximum(values[:k] / np.sqrt(len(points)), 1e-6)
        return cls(centre, rows[:k].T / scale * _MEASURE)

    def context(self, vector: FloatArray) -> _Array:
        """Return 1 and the clipped coordinates of a vector (d,), shape (k + 1,)."""
        if not len(self.centre):
            return np.ones(1)
        places = (np.asarray(vector, np.float64) - self.centre) @ self.weights
        return np.concatenate([np.ones(1), np.clip(places, -_CLIP, _CLIP)])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""
        return {"centre": self.centre, "directions": self.weights}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Directions:
        """Rebuild from `arrays`."""
        return cls(arrays["centre"], arrays["directions"])
