"""Adapted head: another head's LLMs, some left out, some added from a few scored queries.

An added LLM's quality is a blend of what the base head predicts for the others, and of what lies
beyond them: a smooth function of the query (`heads.blend`). Every other column stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moma_core.llm_routing.heads.contract import Head
from moma_core.types import FloatArray, LLMCard

__all__ = ["AdaptedHead"]

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedHead:
    """Predicts ``base @ weights + bias + similarity @ pull``, held to [0, 1].

    Args:
        llms: Cards of the columns.
        base: The trained head over m LLMs.
        weights: Shape (m, len(llms)); a kept LLM has a single 1.
        bias: Shape (len(llms),).
        points: Queries that LLMs were added with, shape (k, d); k is 0 where none was.
        pull: What being like a point adds to an LLM's quality, shape (k, len(llms)).
        sharpness: Similarity is exp(-sharpness * squared distance).
    """

    kind: ClassVar[str] = "adapted"
    llms: tuple[LLMCard, ...]
    base: Head
    weights: _Array
    bias: _Array
    points: npt.NDArray[np.float32]
    pull: _Array
    sharpness: float = 0.0

    @classmethod
    def over(cls, base: Head, llms: tuple[LLMCard, ...]) -> AdaptedHead:
        """Return the base head's own predictions under these cards."""
        m = len(llms)
        return cls(
            llms, base, np.eye(m), np.zeros(m), np.zeros((0, 0), np.float32), np.zeros((0, m))
        )

    @classmethod
    def from_parts(
        cls, llms: tuple[LLMCard, ...], base: Head, config: Mapping[str, Any],
        arrays: Mapping[str, Any],
    ) -> AdaptedHead:  # fmt: skip
        """Rebuild from `config` and `arrays`; older files have no points."""
        plain = cls.over(base, llms)
        return cls(
            llms,
            base,
            arrays["weights"],
            arrays["bias"],
            arrays.get("points", plain.points),
            arrays.get("pull", plain.pull),
            float(config.get("sharpness", 0.0)),
        )

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1], shape (n, len(llms))."""
        quality = self.base.predict(embeddings).astype(np.float64) @ self.weights + self.bias
        if len(self.points):
            quality += similarity(embeddings, self.points, self.sharpness) @ self.pull
        return np.minimum(np.maximum(quality, 0.0), 1.0).astype(np.float32)

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        names = [card.name for card in self.base.llms]
        base = {"kind": self.base.kind, **self.base.config()}
        return {"base": base, "base_llms": names, "sharpness": self.sharpness}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps; the base's names are prefixed."""
        inner = {f"base.{name}": values for name, values in self.base.arrays().items()}
        own = {name: getattr(self, name) for name in ("weights", "bias", "points", "pull")}
        return {**own, **inner}


def similarity(
    inputs: npt.NDArray[np.floating], points: npt.NDArray[np.floating], sharpness: float
) -> _Array:
    """Return exp(-sharpness * squared distance), shape (n, k), of inputs (n, d), points (k, d)."""
    squares = np.einsum("nd,nd->n", inputs, inputs)[:, None] + np.einsum("kd,kd->k", points, points)
    distances = squares - 2.0 * (inputs @ points.T)
    near: _Array = np.exp(-sharpness * np.maximum(distances, 0.0)).astype(np.float64)
    return near
