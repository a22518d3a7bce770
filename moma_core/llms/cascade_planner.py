"""The best cascade of each query at each rate: beliefs over a lattice, then backward induction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._numerics import sigmoid
from moma_core.llms.answers import UNREADABLE

__all__ = [
    "DIFFICULTIES",
    "WEIGHTS",
    "Level",
    "Outlook",
    "Policy",
    "SharedDifficulty",
    "build_lattice",
    "canonical",
    "solve",
]

_Ints = npt.NDArray[np.intp]
_Node = tuple[tuple[int, ...], tuple[int, ...], int]


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """The nodes at which k LLMs have been asked.

    Args:
        members: LLMs asked, ascending, shape (N, k).
        groups: Group of each one's answer, shape (N, k).
        lengths: How long the watched LLM's answer was, 0 where it was not asked, shape (N,).
        asks: LLMs not asked yet, shape (N, L - k).
        children: Node of the next level by LLM asked and what it may answer (`outcome`), shape
            (N, L - k, (k + 2) * bins); -1 where that outcome does not exist.
        bins: Lengths told apart.
    """

    members: _Ints
    groups: _Ints
    lengths: _Ints
    asks: _Ints
    children: _Ints
    bins: int = 1

    @property
    def n_groups(self) -> _Ints:
        """Readable groups of each node, shape (N,)."""
        if not self.groups.shape[1]:
            return np.zeros(len(self.groups), np.intp)
        return np.asarray(self.groups.max(axis=1) + 1, np.intp)

    def new_group(self, node: int) -> int:
        """Return the number that an answer unlike all others would get."""
        return int(self.groups[node].max(initial=-1)) + 1

    def outcome(self, group: int, length: int = 0) -> int:
        """Return the place in `children` of an answer in this group (-1: unreadable)."""
        return (group + 1) * self.bins + length


@lru_cache(maxsize=32)
def build_lattice(
    n_llms: int, depth: int, watched: int | None = None, bins: int = 1
) -> tuple[Level, ...]:
    """Return levels 0 to ``depth`` of the lattice over ``n_llms`` LLMs.

    Args:
        n_llms: LLMs L that may be asked.
        depth: Most calls.
        watched: The LLM the length of whose answer is looked at.
        bins: Lengths told apart.

    Example:
        >>> [len(level.members) for level in build_lattice(2, 2)]
        [1, 4, 5]
        >>> [len(level.members) for level in build_lattice(2, 2, watched=0, bins=3)]
        [1, 8, 15]
    """
    depth = min(depth, n_llms)
    nodes = [
        [
            (members, groups, length)
            for members in combinations(range(n_llms), k)
            for groups in _groupings(k)
            for length in range(bins if watched in members else 1)
        ]
        for k in range(depth + 1)
    ]
    places = [{node: place for place, node in enumerate(level)} for level in nodes]
    return tuple(
        _level(level, n_llms, places[k + 1] if k < depth else None, k, (watched, bins))
        for k, level in enumerate(nodes)
    )


def canonical(groups: tuple[int, ...]) -> tuple[int, ...]:
    """Return the groups numbered by first appearance; negative ones stay -1.

    Example:
        >>> canonical((4, -1, 2, 4))
        (0, -1, 1, 0)
    """
    known: dict[int, int] = {}
    return tuple(-1 if g < 0 else known.setdefault(g, len(known)) for g in groups)


def _groupings(k: int) -> list[tuple[int, ...]]:
    if k == 0:
        return [()]
    return [
        (*before, group)
        for before in _groupings(k - 1)
        for group in range(-1, max(before, default=-1) + 2)
    ]


def _level(
    nodes: list[_Node],
    n_llms: int,
    following: dict[_Node, int] | None,
    k: int,
    watch: tuple[int | None, int],
) -> Level:
    watched, bins = watch
    width = n_llms - k if following is not None else 0
    asks = np.zeros((len(nodes), width), np.intp)
    children = np.full((len(nodes), width, (k + 2) * bins), -1, np.intp)
    level = Level(
        np.array([members for members, _, _ in nodes], np.intp).reshape(len(nodes), k),
        np.array([groups for _, groups, _ in nodes], np.intp).reshape(len(nodes), k),
        np.array([length for _, _, length in nodes], np.intp),
        asks,
        children,
        bins,
    )
    for place, (members, groups, length) in enumerate(nodes):
        if following is None:
            break
        asks[place] = [llm for llm in range(n_llms) if llm not in members]
        for column, llm in enumerate(asks[place].tolist()):
            at = sum(member < llm for member in members)
            joined = (*members[:at], llm, *members[at:])
            for group in range(-1, max(groups, default=-1) + 2):
                seen = canonical((*groups[:at], group, *groups[at:]))
                for now in range(bins if llm == watched else 1):
                    child = following[joined, seen, now if llm == watched else length]
                    children[place, column, level.outcome(group, now)] = child
    return level


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
        mistake: Intercept and slope on the query's mean logit of the squared probability r,
            shape (2,).
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
        slope, offset, loading = _fit_probabilities(logit(predicted), scores)
        probability = _probabilities(logit(predicted), slope, offset, loading)
        after = _posterior(probability, scores)  # (n, U)
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

    def probabilities(self, predicted: _Array) -> _Array:
        """Return how probably each LLM is right at each difficulty, shape (n, m, U)."""
        return _probabilities(logit(predicted), self.slope, self.offset, self.loading)

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
        """Return r, how probably a wrong answer is the query's popular mistake, shape (n,)."""
        squared = self.mistake[0] + self.mistake[1] * logit(predicted).mean(axis=1)
        probability: _Array = np.sqrt(np.clip(squared, 0.005, 0.8))
        return probability

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


def logit(probability: _Array) -> _Array:
    """Return log odds of probabilities held to [0.02, 0.98]."""
    held = np.clip(probability, 0.02, 0.98)
    odds: _Array = np.log(held / (1.0 - held))
    return odds


def _probabilities(logits: _Array, slope: _Array, offset: _Array, loading: _Array) -> _Array:
    raw = (slope * logits + offset)[:, :, None] + loading[:, None] * DIFFICULTIES
    probability: _Array = sigmoid(raw)
    return probability


def _posterior(probability: _Array, scores: _Array) -> _Array:
    """Return the distribution of u after all scores of a query, shape (n, U)."""
    return _normalise(_log_joint(probability, scores))[0]


def _log_joint(probability: _Array, scores: _Array) -> _Array:
    known = ~np.isnan(scores)
    hit = np.where(known, scores, 0.0)[:, :, None]
    miss = np.where(known, 1.0 - scores, 0.0)[:, :, None]
    held = np.clip(probability, 1e-9, 1.0 - 1e-9)
    joint: _Array = (hit * np.log(held) + miss * np.log1p(-held)).sum(axis=1) + np.log(WEIGHTS)
    return joint


def _normalise(log_joint: _Array) -> tuple[_Array, float]:
    top = log_joint.max(axis=1, keepdims=True)
    weights = np.exp(log_joint - top)
    total = weights.sum(axis=1, keepdims=True)
    return weights / total, float((np.log(total) + top).sum())


def _fit_probabilities(logits: _Array, scores: _Array) -> tuple[_Array, _Array, _Array]:
    """Maximise the marginal likelihood of the scores with weak priors, by L-BFGS."""
    from scipy.optimize import minimize

    m = scores.shape[1]
    known = ~np.isnan(scores)[:, :, None]
    target = np.nan_to_num(scores)[:, :, None]

    def loss(flat: _Array) -> tuple[float, _Array]:
        slope, offset, loading = flat.reshape(3, m)
        probability = _probabilities(logits, slope, offset, loading)
        after, likelihood = _normalise(_log_joint(probability, scores))
        residual = np.where(known, target - probability, 0.0) * after[:, None, :]  # (n, m, U)
        total = residual.sum(axis=2)
        steep, spread = slope - _SLOPE, loading - loading.mean()
        gradient = np.stack([
            (total * logits).sum(axis=0) - 2 * _SLOPE_PRIOR * steep,
            total.sum(axis=0) - 2 * _OFFSET_PRIOR * offset,
            (residual @ DIFFICULTIES).sum(axis=0) - 2 * _LOADING_PRIOR * spread,
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
    probabilities = np.ones((len(edges), edges.shape[1] + 1, 2, len(DIFFICULTIES)))
    for llm, limits in enumerate(edges):
        length = (surplus[:, llm][:, None] > limits).sum(axis=1)
        right = np.nan_to_num(scores[:, llm], nan=0.5)
        for hit, share in enumerate((1.0 - right, right)):
            is_length = length == np.arange(probabilities.shape[1])[:, None]  # (3, n)
            counts = (is_length * share) @ after @ near  # (3, U)
            usual = (counts.sum(axis=1, keepdims=True) + 1.0) / (counts.sum() + len(counts))
            probabilities[llm, :, hit] = (counts + _LENGTH_PRIOR * usual) / (
                counts.sum(axis=0) + _LENGTH_PRIOR
            )
    return probabilities


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


_TWO_MISTAKES = 1e-4
"""Chance that wrong answers agree beyond the popular mistake."""


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """What is believed of n queries before anything is asked.

    Args:
        probabilities: That an LLM is right at each difficulty, shape (n, L, U).
        spending: USD of asking it at each difficulty, shape (n, L, U).
        unreadable: Chance that its wrong answer cannot be read, shape (L,).
        mistake: Chance that a wrong answer is the query's popular mistake, shape (n,).
        watched: The LLM whose answer's length is looked at, None for no LLM.
        lengths: Chance of each length of its answer when it is wrong and when it is right, at each
            difficulty, shape (bins, 2, U).
        seconds: Latency of each LLM, shape (L,); calls follow each other, so they add up.
        limit: Most seconds of a plan.
    """

    probabilities: _Array
    spending: _Array
    unreadable: _Array
    mistake: _Array
    watched: int | None = None
    lengths: _Array = field(default_factory=lambda: np.ones((1, 2, len(WEIGHTS))))
    seconds: _Array = field(default_factory=lambda: np.zeros(1))
    limit: float = np.inf


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """What to do at every node, for each query and rate.

    Args:
        choices: By level, shape (n, R, N): below k accept that group, else ask column choice - k.
        scores: Expected score of the whole cascade, shape (n, R).
        costs: Expected USD of the whole cascade, shape (n, R).
    """

    choices: tuple[npt.NDArray[np.int8], ...]
    scores: _Array
    costs: _Array


def solve(levels: Sequence[Level], outlook: Outlook, rates: _Array) -> Policy:
    """Return the best cascade of each query at each rate.

    Args:
        levels: From `build_lattice` over L LLMs.
        outlook: Beliefs about n queries.
        rates: Score that one USD must bring, shape (R,).
    """
    score = cost = np.zeros((len(outlook.mistake), len(rates), 1))
    choices: list[npt.NDArray[np.int8]] = []
    for level in reversed(levels):
        right, asked = _beliefs(level, outlook)
        asked = np.where(_too_late(level, outlook), np.inf, asked)
        score, cost, chosen = _step(level, right, asked, score, cost, rates)
        choices.append(chosen)
    return Policy(tuple(reversed(choices)), score[:, :, 0], cost[:, :, 0])


def _step(
    level: Level, right: _Array, asked: _Array, score: _Array, cost: _Array, rates: _Array
) -> tuple[_Array, _Array, npt.NDArray[np.int8]]:
    """One step of the backward induction; next level's score and cost have shape (n, R, N')."""
    k, (n, n_rates) = right.shape[2], score.shape[:2]
    blank = np.zeros((n, n_rates, 1))
    following = [np.concatenate([each, blank], axis=2) for each in (score, cost)]
    gained, spent = (each[:, :, level.children].sum(axis=4) for each in following)  # (n, R, N, A)
    spent = spent + asked[:, None]
    shape = (n, n_rates, *right.shape[1:])
    scores = np.concatenate([np.broadcast_to(right[:, None], shape), gained], axis=3)
    costs = np.concatenate([np.zeros(shape), spent], axis=3)
    value = np.where(np.isinf(costs), -np.inf, scores - rates[:, None, None] * costs)
    value[..., :k][..., _cannot_accept(level)] = -np.inf
    chosen = value.argmax(axis=3)[..., None]
    picked = [np.take_along_axis(each, chosen, axis=3)[..., 0] for each in (scores, costs)]
    return picked[0], picked[1], chosen[..., 0].astype(np.int8)


def _too_late(level: Level, outlook: Outlook) -> npt.NDArray[np.bool_]:
    """Calls that would end after the limit, shape (N, A); the first call is always allowed."""
    if np.isinf(outlook.limit) or not level.members.shape[1]:
        return np.zeros(level.asks.shape, bool)
    spent = outlook.seconds[level.members].sum(axis=1)[:, None]
    late: npt.NDArray[np.bool_] = spent + outlook.seconds[level.asks] > outlook.limit
    return late


def _cannot_accept(level: Level) -> npt.NDArray[np.bool_]:
    """Groups that do not exist, shape (N, k); where nothing is readable the first one stands in."""
    k = level.members.shape[1]
    return np.arange(k) >= np.maximum(level.n_groups, 1)[:, None]


def _beliefs(level: Level, outlook: Outlook) -> tuple[_Array, _Array]:
    """Return P(node, group is right), shape (n, N, k), and E[c_j; node], shape (n, N, A)."""
    n_nodes, k = level.members.shape
    n = len(outlook.mistake)
    joint = np.broadcast_to(WEIGHTS, (n, n_nodes, k + 1, len(WEIGHTS))).copy()
    right = level.groups[:, None, :] == np.arange(k + 1)[:, None]  # (N, H, k); last: none is
    for place in range(k):
        probability = outlook.probabilities[:, level.members[:, place]][:, :, None]  # (n, N, 1, U)
        lost = outlook.unreadable[level.members[:, place]]
        seen = np.where(level.groups[:, place] < 0, lost, 1.0 - lost)[:, None, None]
        told = _told(level, place, outlook)  # (N, 2, U)
        hit, miss = probability * told[:, None, 1], (1.0 - probability) * seen * told[:, None, 0]
        joint *= np.where(right[:, :, place, None], hit, miss)
    hypotheses = np.arange(k + 1)
    exists = (hypotheses < level.n_groups[:, None]) | (hypotheses == k)  # (N, H)
    joint *= (_alike(level, right, outlook.mistake) * exists)[..., None]
    total = joint.sum(axis=2)  # (n, N, U)
    asked = np.einsum("nku,nkau->nka", total, outlook.spending[:, level.asks])
    return joint[:, :, :k].sum(axis=3), asked


def _told(level: Level, place: int, outlook: Outlook) -> _Array:
    """Return the probability of the length seen of the answer at ``place``, shape (N, 2, U)."""
    if outlook.watched is None:
        return np.ones((1, 2, 1))
    watched = level.members[:, place] == outlook.watched
    return np.where(watched[:, None, None], outlook.lengths[level.lengths], 1.0)


def _alike(level: Level, right: npt.NDArray[np.bool_], mistake: _Array) -> _Array:
    """Return the probability that readable wrong answers agree as they do, shape (n, N, H)."""
    readable = (level.groups >= 0)[:, None, :]
    wrong = readable & ~right  # (N, H, k)
    groups = level.groups[:, None, :, None] == np.arange(max(right.shape[2], 1))
    sizes = (wrong[..., None] & groups).sum(axis=2)  # (N, H, G)
    count, largest = wrong.sum(axis=2), sizes.max(axis=2, initial=0)
    probability = mistake[:, None, None]
    alone = (1.0 - probability) ** np.maximum(count - 1, 0)
    none_alike = np.where(count > 0, alone * (1.0 - probability + count * probability), 1.0)
    some_alike = probability**largest * (1.0 - probability) ** (count - largest)
    repeated = (sizes > 1).sum(axis=2)
    alike: _Array = np.where(
        repeated > 1, _TWO_MISTAKES, np.where(repeated == 1, some_alike, none_alike)
    )
    return alike
