"""Elo over judged pairs: a global ranking with confidence intervals (4.1.2).

Bradley-Terry by maximum likelihood on win shares, on Elo's scale; a tie is half a win each. A check
of the judge: a ranking that contradicts the LLMs' known order means bad judgements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError

__all__ = ["Rating", "count_outcomes", "elo_of_counts", "elo_ratings"]

_SCALE = 400.0 / np.log(10.0)
_MEAN = 1_000.0
_PRIOR = 0.5
_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rating:
    """One LLM's Elo.

    Args:
        name: The LLM.
        elo: Rating; the pool's mean is 1,000, and 400 points are odds of 10.
        low: Lower end of the 95 % interval.
        high: Upper end.
        games: Judged pairs it took part in.
    """

    name: str
    elo: float
    low: float
    high: float
    games: int


def elo_ratings(
    names: Sequence[str],
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    outcome: npt.ArrayLike,
    rounds: int = 200,
    seed: int = 0,
) -> list[Rating]:
    """Rate LLMs by judged pairs, best first.

    Args:
        names: The LLMs.
        first: Index of the first LLM of each pair.
        second: Index of the second one.
        outcome: Codes of `outcomes.OUTCOMES`; strong and weak wins count alike.
        rounds: Bootstrap rounds of the intervals.
        seed: Of the bootstrap.

    Raises:
        InvalidDataError: There is no pair, or a pair compares an LLM with itself.

    Example:
        >>> [r.name for r in elo_ratings(["x", "y"], [0, 1, 0], [1, 0, 1], [2, 1, 0], rounds=9)]
        ['y', 'x']
    """
    return elo_of_counts(names, count_outcomes(first, second, outcome, len(names)), rounds, seed)


def count_outcomes(
    first: npt.ArrayLike, second: npt.ArrayLike, outcome: npt.ArrayLike, m: int
) -> npt.NDArray[np.int64]:
    """Return how often each pair of LLMs ended each way; counts of parts may be added.

    Args:
        first: Index of the first LLM of each pair, shape (n,).
        second: Index of the second one, shape (n,).
        outcome: Codes of `outcomes.OUTCOMES`, shape (n,).
        m: How many LLMs.

    Returns:
        Shape (m, m, 3): tie, the row LLM won, the column LLM won.

    Raises:
        InvalidDataError: A pair compares an LLM with itself.
    """
    a, b, code = (np.asarray(each, np.intp) for each in (first, second, outcome))
    if (a == b).any():
        raise InvalidDataError("Elo needs judged pairs of two different LLMs each.")
    ended = np.array([0, 1, 2, 1, 2, 0])[code]
    cells = np.bincount((a * m + b) * 3 + ended, minlength=3 * m * m)
    return cells.reshape(m, m, 3).astype(np.int64)


def elo_of_counts(
    names: Sequence[str], counts: npt.NDArray[np.int64], rounds: int = 200, seed: int = 0
) -> list[Rating]:
    """Rate LLMs by what `count_outcomes` counted, best first.

    Drawing pairs with replacement is drawing the counts from a multinomial, so the bootstrap costs
    the same for a hundred pairs and for millions.

    Args:
        names: The LLMs, length m.
        counts: Shape (m, m, 3).
        rounds: Bootstrap rounds of the intervals.
        seed: Of the bootstrap.

    Raises:
        InvalidDataError: There is no pair.
    """
    total = int(counts.sum())
    if not total:
        raise InvalidDataError("Elo needs judged pairs of two different LLMs each.")
    ratings = _bradley_terry(_wins(counts))
    rng = np.random.default_rng(seed)
    shares = counts.ravel() / total
    draws = [
        _bradley_terry(_wins(rng.multinomial(total, shares).reshape(counts.shape)))
        for _ in range(rounds)
    ]
    low, high = np.percentile(np.array(draws), [2.5, 97.5], axis=0)
    games = counts.sum(axis=(1, 2)) + counts.sum(axis=(0, 2))
    rated = [
        Rating(name, float(ratings[i]), float(low[i]), float(high[i]), int(games[i]))
        for i, name in enumerate(names)
    ]
    return sorted(rated, key=lambda rating: (-rating.elo, rating.name))


def _wins(counts: npt.NDArray[np.int64]) -> _Array:
    """How often the row LLM beat the column LLM, ties half each, shape (m, m)."""
    half_ties = 0.5 * counts[:, :, 0]
    wins: _Array = counts[:, :, 1] + counts[:, :, 2].T + half_ties + half_ties.T
    return wins


def _bradley_terry(wins: _Array) -> _Array:
    """Newton's maximum posterior with a weak prior, so that an unbeaten LLM stays finite."""
    games = wins + wins.T
    skill = np.zeros(len(wins))
    for _ in range(30):
        chance = 0.5 * (1.0 + np.tanh(0.5 * (skill[:, None] - skill)))
        slope = (wins - games * chance).sum(axis=1) - _PRIOR * skill
        curve = games * chance * (1.0 - chance)
        hessian = np.diag(curve.sum(axis=1) + _PRIOR) - curve
        step = np.linalg.solve(hessian, slope)
        skill = skill + np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    rated: _Array = _MEAN + _SCALE * (skill - skill.mean())
    return rated
