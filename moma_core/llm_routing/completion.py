"""Filling in scores and costs of LLMs that were not asked a query, from those that were.

A pool joined from several tables has LLMs that saw maths but no history. Read as zero, or left to
a regression to extrapolate, their scores elsewhere would be nonsense; here they follow the query's
difficulty and the LLM's ability (a Rasch model: one-parameter item response theory), corrected by
what was measured nearby. Only measured entries are learnt from.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moma_core.llm_routing.heads.centres import find_centres, nearest
from moma_core.types import FloatArray

__all__ = ["abilities", "fill_costs", "fill_scores"]

_Array = npt.NDArray[np.float64]
_EASE_PRIOR = 0.3
_ABILITY_PRIOR = 0.1
_NEARBY_PRIOR = 20.0


def abilities(scores: _Array, rounds: int = 40) -> tuple[_Array, _Array]:
    """Return each query's ease (n,) and each LLM's ability (m,), both in logits.

    Maximum posterior of ``score = sigmoid(ease + ability)`` over measured entries, with normal
    priors around zero and the mean ability, by alternating Newton steps.

    Args:
        scores: In [0, 1], NaN where not measured, shape (n, m).
        rounds: Alternations.
    """
    known = ~np.isnan(scores)
    target = np.where(known, scores, 0.0)
    ease, ability = np.zeros(len(scores)), np.zeros(scores.shape[1])
    for _ in range(rounds):
        for axis in (1, 0):
            chance = _sigmoid(ease[:, None] + ability)
            slope = ((target - chance) * known).sum(axis=axis)
            curve = (chance * (1.0 - chance) * known).sum(axis=axis)
            if axis:
                ease += np.clip((slope - _EASE_PRIOR * ease) / (curve + _EASE_PRIOR), -2.0, 2.0)
            else:
                pull = _ABILITY_PRIOR * (ability - ability.mean())
                ability += np.clip((slope - pull) / (curve + _ABILITY_PRIOR), -2.0, 2.0)
    return ease, ability


def fill_scores(scores: _Array, inputs: FloatArray, seed: int = 0, regions: int = 64) -> _Array:
    """Return scores without NaN, shape (n, m).

    Args:
        scores: In [0, 1], NaN where not measured, shape (n, m).
        inputs: Query inputs, shape (n, d).
        seed: Of the regions' centres.
        regions: Regions in which a measured deviation carries over to its neighbours.
    """
    known = ~np.isnan(scores)
    if known.all():
        return scores
    ease, ability = abilities(scores)
    expected = _sigmoid(ease[:, None] + ability)
    points = inputs.astype(np.float64)
    centres = find_centres(
        points, max(1, min(regions, len(points) // 20)), np.random.default_rng(seed)
    )
    owner = nearest(points, centres)
    surplus, seen = (
        np.zeros((len(centres), scores.shape[1])),
        np.zeros((len(centres), scores.shape[1])),
    )
    np.add.at(surplus, owner, np.where(known, scores - expected, 0.0))
    np.add.at(seen, owner, known.astype(np.float64))
    shared = surplus.sum(axis=1, keepdims=True) / (seen.sum(axis=1, keepdims=True) + _NEARBY_PRIOR)
    nearby = ((surplus + _NEARBY_PRIOR * shared) / (seen + _NEARBY_PRIOR))[owner]
    return np.where(known, scores, np.clip(expected + nearby, 0.0, 1.0))


def fill_costs(costs: _Array, rounds: int = 20) -> _Array:
    """Return costs without NaN: what the query costs others times the LLM's usual ratio to them.

    Two-way additive fit of log cost over measured entries; an LLM free everywhere stays free.

    Args:
        costs: USD, NaN where not measured, shape (n, m).
        rounds: Alternations of the fit.
    """
    known = ~np.isnan(costs)
    if known.all():
        return costs
    priced = known & (costs > 0.0)
    logs = np.log(np.where(priced, costs, 1.0))
    query, llm = np.zeros(len(costs)), np.zeros(costs.shape[1])
    for _ in range(rounds):
        query = _masked_mean(logs - llm, priced, axis=1)
        llm = _masked_mean(logs - query[:, None], priced, axis=0)
    expected = np.where(priced.any(axis=0), np.exp(query[:, None] + llm), 0.0)
    return np.where(known, costs, expected)


def _masked_mean(values: _Array, known: npt.NDArray[np.bool_], axis: int) -> _Array:
    total = np.where(known, values, 0.0).sum(axis=axis)
    mean: _Array = total / np.maximum(known.sum(axis=axis), 1)
    return mean


def _sigmoid(logits: _Array) -> _Array:
    return 0.5 * (1.0 + np.tanh(0.5 * logits))
