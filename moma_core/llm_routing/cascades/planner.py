"""The best cascade of each query at each rate: beliefs over the lattice, then backward induction.

With U(node) = P(node) * value and rate lambda (score that one USD must bring),

    U(node) = max( max_g P(node, group g is right),
                   max_j sum_x U(node + answer x of j) - lambda * E[c_j; node] )

where both terms are integrals over the hidden difficulty (`difficulty`). Exact for its beliefs: no
look-ahead is cut. Knows arrays only, neither names nor texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moma_core.llm_routing.cascades.difficulty import WEIGHTS
from moma_core.llm_routing.cascades.lattice import Level

__all__ = ["Outlook", "Policy", "solve"]

_Array = npt.NDArray[np.float64]
_TWO_MISTAKES = 1e-4
"""Chance that wrong answers agree beyond the popular mistake."""


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """What is believed of n queries before anything is asked.

    Args:
        chances: That an LLM is right at each difficulty, shape (n, L, U).
        spending: USD of asking it at each difficulty, shape (n, L, U).
        unreadable: Chance that its wrong answer cannot be read, shape (L,).
        mistake: Chance that a wrong answer is the query's popular mistake, shape (n,).
        watched: The LLM whose answer's length is looked at, None for no LLM.
        lengths: Chance of each length of its answer when it is wrong and when it is right, at each
            difficulty, shape (bins, 2, U).
        seconds: Latency of each LLM, shape (L,); calls follow each other, so they add up.
        limit: Most seconds of a plan.
    """

    chances: _Array
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
        chance = outlook.chances[:, level.members[:, place]][:, :, None]  # (n, N, 1, U)
        lost = outlook.unreadable[level.members[:, place]]
        seen = np.where(level.groups[:, place] < 0, lost, 1.0 - lost)[:, None, None]
        told = _told(level, place, outlook)  # (N, 2, U)
        hit, miss = chance * told[:, None, 1], (1.0 - chance) * seen * told[:, None, 0]
        joint *= np.where(right[:, :, place, None], hit, miss)
    hypotheses = np.arange(k + 1)
    exists = (hypotheses < level.n_groups[:, None]) | (hypotheses == k)  # (N, H)
    joint *= (_alike(level, right, outlook.mistake) * exists)[..., None]
    total = joint.sum(axis=2)  # (n, N, U)
    asked = np.einsum("nku,nkau->nka", total, outlook.spending[:, level.asks])
    return joint[:, :, :k].sum(axis=3), asked


def _told(level: Level, place: int, outlook: Outlook) -> _Array:
    """Return the chance of the length seen of the answer at ``place``, shape (N, 2, U)."""
    if outlook.watched is None:
        return np.ones((1, 2, 1))
    watched = level.members[:, place] == outlook.watched
    return np.where(watched[:, None, None], outlook.lengths[level.lengths], 1.0)


def _alike(level: Level, right: npt.NDArray[np.bool_], mistake: _Array) -> _Array:
    """Return the chance that readable wrong answers agree as they do, shape (n, N, H)."""
    readable = (level.groups >= 0)[:, None, :]
    wrong = readable & ~right  # (N, H, k)
    groups = level.groups[:, None, :, None] == np.arange(max(right.shape[2], 1))
    sizes = (wrong[..., None] & groups).sum(axis=2)  # (N, H, G)
    count, largest = wrong.sum(axis=2), sizes.max(axis=2, initial=0)
    chance = mistake[:, None, None]
    alone = (1.0 - chance) ** np.maximum(count - 1, 0)
    none_alike = np.where(count > 0, alone * (1.0 - chance + count * chance), 1.0)
    some_alike = chance**largest * (1.0 - chance) ** (count - largest)
    repeated = (sizes > 1).sum(axis=2)
    alike: _Array = np.where(
        repeated > 1, _TWO_MISTAKES, np.where(repeated == 1, some_alike, none_alike)
    )
    return alike
