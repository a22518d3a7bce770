"""Adapted head: another head's LLMs, some left out, some added from a few scored queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moma_core._numerics import find_centres
from moma_core.llms.heads.contract import Head
from moma_core.types import FloatArray, LLMCard

__all__ = [
    "GAMMA",
    "AdaptedHead",
    "Blend",
    "fit_blend",
]

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedHead:
    """Predicts ``base @ weights + bias + similarity @ kernel_weights``, held to [0, 1].

    Args:
        llms: Cards of the columns.
        base: The trained head over m LLMs.
        weights: Shape (m, len(llms)); a kept LLM has a single 1.
        bias: Shape (len(llms),).
        points: Queries that LLMs were added with, shape (k, d); k is 0 where none was.
        kernel_weights: What being like a point adds to an LLM's quality, shape (k, len(llms)).
        gamma: Similarity is exp(-gamma * squared distance).
    """

    kind: ClassVar[str] = "adapted"
    llms: tuple[LLMCard, ...]
    base: Head
    weights: _Array
    bias: _Array
    points: npt.NDArray[np.float32]
    kernel_weights: _Array
    gamma: float = 0.0

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
        """Rebuild from `config` and `arrays`."""
        return cls(
            llms,
            base,
            arrays["weights"],
            arrays["bias"],
            arrays["points"],
            arrays["kernel_weights"],
            float(config["gamma"]),
        )

    def only(self, columns: Sequence[int], llms: tuple[LLMCard, ...]) -> AdaptedHead:
        """Return the head of some of its columns, under these cards."""
        kept = list(columns)
        kernel_weights = self.kernel_weights[:, kept]
        used = kernel_weights.any(axis=1)
        return replace(
            self,
            llms=llms,
            weights=self.weights[:, kept],
            bias=self.bias[kept],
            points=self.points[used],
            kernel_weights=kernel_weights[used],
        )

    def over_more(self, base: Head, llms: tuple[LLMCard, ...]) -> AdaptedHead:
        """Return the head over a base with one LLM more, which it predicts as the base does."""
        m, n = self.weights.shape
        weights = np.zeros((m + 1, n + 1))
        weights[:m, :n], weights[m, n] = self.weights, 1.0
        return replace(
            self,
            llms=llms,
            base=base,
            weights=weights,
            bias=np.append(self.bias, 0.0),
            kernel_weights=np.pad(self.kernel_weights, ((0, 0), (0, 1))),
        )

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1], shape (n, len(llms))."""
        quality = self.base.predict(embeddings).astype(np.float64) @ self.weights + self.bias
        if len(self.points):
            quality += similarity(embeddings, self.points, self.gamma) @ self.kernel_weights
        return np.minimum(np.maximum(quality, 0.0), 1.0).astype(np.float32)

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        names = [card.name for card in self.base.llms]
        base = {"kind": self.base.kind, **self.base.config()}
        return {"base": base, "base_llms": names, "gamma": self.gamma}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps; the base's names are prefixed."""
        inner = {f"base.{name}": values for name, values in self.base.arrays().items()}
        own = {
            name: getattr(self, name) for name in ("weights", "bias", "points", "kernel_weights")
        }
        return {**own, **inner}


def similarity(
    inputs: npt.NDArray[np.floating], points: npt.NDArray[np.floating], gamma: float
) -> _Array:
    """Return exp(-gamma * squared distance), shape (n, k), of inputs (n, d), points (k, d)."""
    squares = np.einsum("nd,nd->n", inputs, inputs)[:, None] + np.einsum("kd,kd->k", points, points)
    distances = squares - 2.0 * (inputs @ points.T)
    near: _Array = np.exp(-gamma * np.maximum(distances, 0.0)).astype(np.float64)
    return near


GAMMA = 0.7
"""Of the similarity between queries: half of it is left at the distance of related topics."""

_MEASURED = 0.1
_PREDICTED = (0.1, 1.0)
_BEYOND = (0.0, 0.05, 0.2, 0.6)
"""Prior variances of weights, and of what lies beyond the others, in units of a score's noise."""

_DRAWN = 2.0
"""Queries' worth of the others' mean that a new LLM's level is drawn to."""

_POINTS = 200


@dataclass(frozen=True, slots=True, eq=False)
class Blend:
    """Quality of a new LLM: ``predicted @ weights + bias + similarity to points @ kernel_weights``.

    Args:
        weights: Of the others' predicted quality, shape (m,).
        bias: Added to it.
        points: Queries of the sample, shape (k, d).
        kernel_weights: Shape (k,).
        error: Standard error of the level on queries like the sample.
    """

    weights: _Array
    bias: float
    points: npt.NDArray[np.float32]
    kernel_weights: _Array
    error: float


def fit_blend(inputs: FloatArray, predicted: _Array, scores: _Array, measured: _Array) -> Blend:
    """Fit in milliseconds; rows are the scored queries.

    Args:
        inputs: Query inputs, shape (n, d).
        predicted: Quality of the others, as predicted, shape (n, m).
        scores: The new LLM's scores, shape (n,).
        measured: What the others scored, as predicted where unknown, shape (n, m).
    """
    m = measured.shape[1]
    points = find_centres(inputs.astype(np.float64), _POINTS, np.random.default_rng(0))
    whiten = _whiten(points)
    smooth = similarity(inputs, points, GAMMA) @ whiten
    centre = np.concatenate([measured.mean(axis=0), predicted.mean(axis=0)])
    features = np.column_stack([np.column_stack([measured, predicted]) - centre, smooth])
    prior = np.concatenate([np.full(m, 1.0 / m), np.zeros(m + smooth.shape[1])])
    solved, shift, error = _averaged(features, scores - scores.mean() - features @ prior, m)
    solved += prior
    level = (scores.sum() + _DRAWN * predicted.mean()) / (len(scores) + _DRAWN)
    bias = float(level + shift - centre @ solved[: 2 * m])
    kernel_weights = whiten @ solved[2 * m :]
    return Blend(
        solved[:m] + solved[m : 2 * m], bias, points.astype(np.float32), kernel_weights, error
    )


def _whiten(points: _Array) -> _Array:
    """Return what turns similarities to points into features of unit prior variance, (k, k)."""
    values, vectors = np.linalg.eigh(similarity(points, points, GAMMA))
    return np.asarray(vectors / np.sqrt(np.maximum(values, 1e-6)), np.float64)


def _averaged(features: _Array, rest: _Array, m: int) -> tuple[_Array, float, float]:
    """Return weights (D,), shift and standard error, averaged over the grid by likelihood."""
    grid = list(product(_PREDICTED, _BEYOND))
    found, likely = [], np.empty(len(grid))
    for place, (by_prediction, beyond) in enumerate(grid):
        parts = [(_MEASURED, m), (by_prediction, m), (beyond, features.shape[1] - 2 * m)]
        scale = np.concatenate([np.full(width, np.sqrt(variance)) for variance, width in parts])
        weights, shift, variance, likely[place] = _solve(features * scale, rest)
        found.append((weights * scale, shift, variance))
    probabilities = np.exp(likely - likely.max())
    probabilities /= probabilities.sum()
    weights, shift, variance = (
        sum(c * each[part] for c, each in zip(probabilities, found, strict=True))
        for part in range(3)
    )
    return np.asarray(weights, np.float64), float(shift), float(np.sqrt(variance))


def _solve(features: _Array, rest: _Array) -> tuple[_Array, float, float, float]:
    """Return weights of unit prior variance, shift, the sample mean's variance, log likelihood.

    The noise's variance is profiled out, the shift integrated out (Rasmussen and Williams, 2.7).
    """
    n = len(rest)
    inner = np.eye(features.shape[1]) + features.T @ features
    both = np.column_stack([rest, np.ones(n)])
    white = both - features @ np.linalg.solve(inner, features.T @ both)  # (I + F F')^-1 both
    firm = float(white[:, 1].sum())
    shift = float(white[:, 0].sum()) / firm
    white_rest = white[:, 0] - shift * white[:, 1]
    squares = max(float((rest - shift) @ white_rest), 1e-12)
    half_log = 0.5 * float(np.linalg.slogdet(inner)[1]) + 0.5 * np.log(firm)
    likelihood = -0.5 * (n - 1) * np.log(squares) - half_log
    return features.T @ white_rest, shift, squares / n**2, likelihood
