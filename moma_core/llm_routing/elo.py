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

__all__ = ["Rating", "elo_ratings"]

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
    first: Sequence[int],
    second: Sequence[int],
    outcome: Sequence[int],
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
    a, b, code = (np.asarray(each, np.intp) for each in (first, second, outcome))
    if not len(a) or (a == b).any():
        raise InvalidDataError("Elo needs judged pairs of two different LLMs each.")
    won = np.select([np.isin(code, (1, 3)), np.isin(code, (2, 4))], [1.0, 0.0], 0.5)
    m = len(names)
    ratings = _bradley_terry(_wins(a, b, won, np.ones(len(a)), m))
    rng = np.random.default_rng(seed)
    draws = np.array([
        _bradley_terry(_wins(a, b, won, np.bincount(rng.integers(0, len(a), len(a)),
                                                    minlength=len(a)), m))
        for _ in range(rounds)
    ])  # fmt: skip
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    games = np.bincount(np.concatenate([a, b]), minlength=m)
    rated = [
        Rating(name, float(ratings[i]), float(low[i]), float(high[i]), int(games[i]))
        for i, name in enumerate(names)
    ]
    return sorted(rated, key=lambda rating: (-rating.elo, rating.name))


def _wins(
    a: npt.NDArray[np.intp],
    b: npt.NDArray[np.intp],
    won: _Array,
    counts: npt.NDArray[np.number],
    m: int,
) -> _Array:
    """How often the row LLM beat the column LLM, shape (m, m)."""
    wins = np.zeros((m, m))
    np.add.at(wins, (a, b), won * counts)
    np.add.at(wins, (b, a), (1.0 - won) * counts)
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
