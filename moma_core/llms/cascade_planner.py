"""What one LLM's answer says about the others': a hidden difficulty that all of them share.

Given the query, LLM j is right with chance ``sigmoid(a_j logit(p_j) + b_j + l_j u)``, p_j being the
head's prediction and u ~ N(0, 1) what the head could not see (item response theory with one
factor; Gauss-Hermite quadrature over u). Given u, LLMs err independently. A wrong answer is
unreadable with chance v_j, the query's popular mistake with chance r, else like no other. Costs go
with u too: ``E[c_j | u] = k_j c_j exp(g_j u)``. So each agreement updates quality *and* cost, which
is what cascade routing needs (arXiv 2410.10347). What a call cost against what was expected (how
long the LLM thought) speaks for or against its answer: short, usual or long, each with a chance for
right and for wrong answers. Knows no plan and no preference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.llm_routing.answers import UNREADABLE

__all__ = ["DIFFICULTIES", "WEIGHTS", "SharedDifficulty"]

_Array = npt.NDArray[np.float64]

_POINTS, _RAW = np.polynomial.hermite_e.hermegauss(9)
DIFFICULTIES: _Array = _POINTS
"""Quadrature points of u, shape (9,); higher is easier."""
WEIGHTS: _Array = _RAW / _RAW.sum()
"""Their weights under N(0, 1), shape (9,)."""

_SLOPE, _SLOPE_PRIOR, _OFFSET_PRIOR, _LOADING_PRIOR = 1.3, 2.0, 0.2, 0.3
_MISTAKE_PRIOR = 300.0
_QUANTILES = (0.15, 0.5)
"""Answers at most this share of which are shorter are short, or usual: short ones tell most."""
_LENGTH_PRIOR, _SMOOTH = 30.0, 0.7


@dataclass(frozen=True, slots=True, eq=False)
class SharedDifficulty:
    """How right, how dear and how alike answers are, given the hidden difficulty.

    Args:
        slope: a, shape (m,).
        offset: b, shape (m,).
        loading: l, shape (m,).
        unreadable: v, shape (m,).
        cost_slope: g, shape (m,).
        cost_scale: k, shape (m,).
        edges: Log of measured over expected USD that parts short, usual and long, shape (m, 2).
        lengths: Chance of each length of an answer that is wrong and that is right, at each
            difficulty, shape (m, 3, 2, U).
        mistake: Intercept and slope on the query's mean logit of the squared chance r, shape (2,).
    """

    slope: _Array
    offset: _Array
    loading: _Array
    unreadable: _Array
    cost_slope: _Array
    cost_scale: _Array
    edges: _Array
    lengths: _Array
    mistake: _Array

    @classmethod
    def fit(
        cls,
        predicted: _Array,
        expected: _Array,
        scores: _Array,
        costs: _Array,
        answers: npt.NDArray[np.int32],
    ) -> SharedDifficulty:
        """Fit by maximum posterior; all shapes (n, m).

        Args:
            predicted: Quality, predicted by a head that did not see the query.
            expected: Predicted USD.
            scores: Measured quality, NaN where unknown.
            costs: Measured USD, without NaN.
            answers: Which answers are the same, `answers.answer_ids`.
        """
        slope, offset, loading = _fit_chances(logit(predicted), scores)
        chance = _chances(logit(predicted), slope, offset, loading)
        after = _posterior(chance, scores)  # (n, U)
        easy = after @ DIFFICULTIES
        surplus = np.log(costs + 1e-9) - np.log(expected + 1e-9)
        centred = easy - easy.mean()
        cost_slope = centred @ (surplus - surplus.mean(axis=0)) / max(centred @ centred, 1e-9)
        grown = after @ np.exp(np.outer(DIFFICULTIES, cost_slope))  # (n, m)
        level = (expected * grown).mean(axis=0)
        scale = np.divide(costs.mean(axis=0), level, out=np.ones_like(level), where=level > 0)
        known = ~np.isnan(scores)
        wrong = np.where(known, 1.0 - np.nan_to_num(scores), 0.0)
        lost = (wrong * (answers == UNREADABLE)).sum(axis=0) / np.maximum(wrong.sum(axis=0), 1.0)
        mistake = _fit_mistakes(logit(predicted).mean(axis=1), wrong > 0.5, answers)
        lost = np.clip(lost, 1e-3, 1.0 - 1e-3)
        edges = np.quantile(surplus, _QUANTILES, axis=0).T
        lengths = _fit_lengths(surplus, edges, scores, after)
        return cls(slope, offset, loading, lost, cost_slope, scale, edges, lengths, mistake)

    def chances(self, predicted: _Array) -> _Array:
        """Return how probably each LLM is right at each difficulty, shape (n, m, U)."""
        return _chances(logit(predicted), self.slope, self.offset, self.loading)

    def spending(self, expected: _Array) -> _Array:
        """Return each LLM's expected USD at each difficulty, shape (n, m, U)."""
        grown = np.exp(self.cost_slope[:, None] * DIFFICULTIES) * self.cost_scale[:, None]
        spent: _Array = expected[:, :, None] * grown
        return spent

    def limits(self, expected: _Array) -> _Array:
        """Return the USD that part short, usual and long answers, shape (n, m, 2)."""
        parted: _Array = expected[:, :, None] * np.exp(self.edges)
        return parted

    def popular_mistake(self, predicted: _Array) -> _Array:
        """Return the chance r that a wrong answer is the query's popular mistake, shape (n,)."""
        squared = self.mistake[0] + self.mistake[1] * logit(predicted).mean(axis=1)
        chance: _Array = np.sqrt(np.clip(squared, 0.005, 0.8))
        return chance

    def only(self, columns: Sequence[int | None]) -> SharedDifficulty:
        """Return the same for these LLMs, None standing for one that is like the mean of all.

        r keeps meaning the mean logit of the pool it was fitted on.
        """
        kept = {}
        for name in (each for each in self.__slots__ if each != "mistake"):
            values = getattr(self, name)
            mean = values.mean(axis=0)
            kept[name] = np.array([mean if c is None else values[c] for c in columns])
        return SharedDifficulty(**kept, mistake=self.mistake)

    @staticmethod
    def shapes(m: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each of `arrays` for m LLMs."""
        plain = dict.fromkeys(SharedDifficulty.__slots__, (m,))
        bins = len(_QUANTILES)
        wide = {"edges": (m, bins), "lengths": (m, bins + 1, 2, len(DIFFICULTIES))}
        return {**plain, **wide, "mistake": (2,)}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, _Array]) -> SharedDifficulty:
        """Rebuild from `arrays`."""
        return cls(**{name: np.asarray(arrays[name], np.float64) for name in cls.__slots__})


def logit(chance: _Array) -> _Array:
    """Return log odds of chances held to [0.02, 0.98]."""
    held = np.clip(chance, 0.02, 0.98)
    odds: _Array = np.log(held / (1.0 - held))
    return odds


def _chances(logits: _Array, slope: _Array, offset: _Array, loading: _Array) -> _Array:
    raw = (slope * logits + offset)[:, :, None] + loading[:, None] * DIFFICULTIES
    chance: _Array = 0.5 * (1.0 + np.tanh(0.5 * raw))
    return chance


def _posterior(chance: _Array, scores: _Array) -> _Array:
    """Return the distribution of u after all scores of a query, shape (n, U)."""
    return _normalise(_log_joint(chance, scores))[0]


def _log_joint(chance: _Array, scores: _Array) -> _Array:
    known = ~np.isnan(scores)
    hit = np.where(known, scores, 0.0)[:, :, None]
    miss = np.where(known, 1.0 - scores, 0.0)[:, :, None]
    held = np.clip(chance, 1e-9, 1.0 - 1e-9)
    joint: _Array = (hit * np.log(held) + miss * np.log1p(-held)).sum(axis=1) + np.log(WEIGHTS)
    return joint


def _normalise(log_joint: _Array) -> tuple[_Array, float]:
    top = log_joint.max(axis=1, keepdims=True)
    weights = np.exp(log_joint - top)
    total = weights.sum(axis=1, keepdims=True)
    return weights / total, float((np.log(total) + top).sum())


def _fit_chances(logits: _Array, scores: _Array) -> tuple[_Array, _Array, _Array]:
    """Maximise the marginal likelihood of the scores with weak priors, by L-BFGS."""
    from scipy.optimize import minimize

    m = scores.shape[1]
    known = ~np.isnan(scores)[:, :, None]
    target = np.nan_to_num(scores)[:, :, None]

    def loss(flat: _Array) -> tuple[float, _Array]:
        slope, offset, loading = flat.reshape(3, m)
        chance = _chances(logits, slope, offset, loading)
        after, likelihood = _normalise(_log_joint(chance, scores))
        pull = np.where(known, target - chance, 0.0) * after[:, None, :]  # (n, m, U)
        total = pull.sum(axis=2)
        steep, spread = slope - _SLOPE, loading - loading.mean()
        gradient = np.stack([
            (total * logits).sum(axis=0) - 2 * _SLOPE_PRIOR * steep,
            total.sum(axis=0) - 2 * _OFFSET_PRIOR * offset,
            (pull @ DIFFICULTIES).sum(axis=0) - 2 * _LOADING_PRIOR * spread,
        ])  # fmt: skip
        prior = (
            _SLOPE_PRIOR * (steep**2).sum()
            + _OFFSET_PRIOR * (offset**2).sum()
            + _LOADING_PRIOR * (spread**2).sum()
        )
        return float(prior - likelihood), -gradient.ravel()

    start = np.concatenate([np.full(m, _SLOPE), np.zeros(m), np.ones(m)])
    solved = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 80})
    slope, offset, loading = solved.x.reshape(3, m)
    return slope, offset, loading


def _fit_lengths(surplus: _Array, edges: _Array, scores: _Array, after: _Array) -> _Array:
    """Count lengths by right and wrong, smoothed over u, drawn to their mean; (m, 3, 2, U)."""
    near = np.exp(-0.5 * ((DIFFICULTIES[:, None] - DIFFICULTIES) / _SMOOTH) ** 2)
    chances = np.ones((len(edges), edges.shape[1] + 1, 2, len(DIFFICULTIES)))
    for llm, limits in enumerate(edges):
        length = (surplus[:, llm][:, None] > limits).sum(axis=1)
        right = np.nan_to_num(scores[:, llm], nan=0.5)
        for hit, share in enumerate((1.0 - right, right)):
            is_length = length == np.arange(chances.shape[1])[:, None]  # (3, n)
            counts = (is_length * share) @ after @ near  # (3, U)
            usual = (counts.sum(axis=1, keepdims=True) + 1.0) / (counts.sum() + len(counts))
            chances[llm, :, hit] = (counts + _LENGTH_PRIOR * usual) / (
                counts.sum(axis=0) + _LENGTH_PRIOR
            )
    return chances


def _fit_mistakes(
    ease: _Array, wrong: npt.NDArray[np.bool_], answers: npt.NDArray[np.int32]
) -> _Array:
    """Regress how often two readable wrong answers are equal on the query's mean logit."""
    pairs, equal = np.zeros(len(ease)), np.zeros(len(ease))
    usable = wrong & (answers != UNREADABLE)
    for a, b in combinations(range(wrong.shape[1]), 2):
        both = usable[:, a] & usable[:, b]
        pairs += both
        equal += both & (answers[:, a] == answers[:, b])
    inputs = np.stack([np.ones_like(ease), ease], axis=1)
    gram = (inputs * pairs[:, None]).T @ inputs + np.diag([1e-6, _MISTAKE_PRIOR])
    return np.asarray(np.linalg.solve(gram, inputs.T @ equal), np.float64)
