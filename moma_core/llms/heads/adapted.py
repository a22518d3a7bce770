"""A new LLM's quality from a few scored queries and what is known of the other LLMs.

Its scores are regressed on what the others *scored* on the same queries, which says far more than
what was predicted of them, on those predictions, and on the query itself. By linearity of the mean
the two weights of an LLM, added, then apply to predictions alone. LLMs are lucky together, so this
also takes the luck of a small sample out of the new LLM's level.

A Gaussian process around "as good as the others on average, shifted", in weight space. How far to
leave the others' span, and by which of its parts, differs by pool (ulab: far, ZeroEval: hardly), so
predictions are averaged over a grid of prior variances by marginal likelihood (Rasmussen and
Williams 2006, 5.4.1). Knows no file and no cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from moma_core.llm_routing.heads.adapted import similarity
from moma_core.llm_routing.heads.centres import find_centres
from moma_core.types import FloatArray

__all__ = ["SHARPNESS", "Blend", "fit_blend"]

SHARPNESS = 0.7
"""Of the similarity between queries: half of it is left at the distance of related topics."""

_MEASURED = 0.1
_PREDICTED = (0.1, 1.0)
_BEYOND = (0.0, 0.05, 0.2, 0.6)
"""Prior variances of weights, and of what lies beyond the others, in units of a score's noise."""

_DRAWN = 2.0
"""Queries' worth of the others' mean that a new LLM's level is drawn to."""

_POINTS = 200
_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Blend:
    """Quality of a new LLM: ``predicted @ weights + bias + similarity to points @ pull``.

    Args:
        weights: Of the others' predicted quality, shape (m,).
        bias: Added to it.
        points: Queries of the sample, shape (k, d).
        pull: Shape (k,).
        error: Standard error of the level on queries like the sample.
    """

    weights: _Array
    bias: float
    points: npt.NDArray[np.float32]
    pull: _Array
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
    smooth = similarity(inputs, points, SHARPNESS) @ whiten
    centre = np.concatenate([measured.mean(axis=0), predicted.mean(axis=0)])
    features = np.column_stack([np.column_stack([measured, predicted]) - centre, smooth])
    prior = np.concatenate([np.full(m, 1.0 / m), np.zeros(m + smooth.shape[1])])
    solved, shift, error = _averaged(features, scores - scores.mean() - features @ prior, m)
    solved += prior
    level = (scores.sum() + _DRAWN * predicted.mean()) / (len(scores) + _DRAWN)
    bias = float(level + shift - centre @ solved[: 2 * m])
    pull = whiten @ solved[2 * m :]
    return Blend(solved[:m] + solved[m : 2 * m], bias, points.astype(np.float32), pull, error)


def _whiten(points: _Array) -> _Array:
    """Return what turns similarities to points into features of unit prior variance, (k, k)."""
    values, vectors = np.linalg.eigh(similarity(points, points, SHARPNESS))
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
    chances = np.exp(likely - likely.max())
    chances /= chances.sum()
    weights, shift, variance = (
        sum(c * each[part] for c, each in zip(chances, found, strict=True)) for part in range(3)
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
