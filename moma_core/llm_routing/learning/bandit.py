"""A contextual bandit over LLMs: learnt corrections of a head's predictions, within a safe floor.

The expected reward of an LLM is what the head predicts plus a correction linear in the context,
with a normal prior around zero (Bayesian ridge regression, as in LinUCB). Pure functions on arrays
and values; knows no file and no router.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidInputError
from moma_core.selection import parse_preference, rank
from moma_core.types import Auto, Candidate, Cost, Performance, Preference, ScoreTable

__all__ = [
    "Arm",
    "LearningConfig",
    "cautious",
    "corrected",
    "learnt_choice",
    "parse_text",
    "preference_text",
    "safe_set",
]

_Array = npt.NDArray[np.float64]
_NOISE = 0.4
"""Standard deviation of a reward around its expectation; at most 0.5 in [0, 1]."""


@dataclass(frozen=True, slots=True)
class LearningConfig:
    """How carefully to learn.

    Args:
        explore: Share of queries on which any safe LLM is tried, each with the same chance.
        delta: An LLM is safe when its predicted quality is at most this much below that of the
            choice without learning.
        dearest: And when it costs at most so many times as much as that choice.
        apply: Whether what was learnt changes choices; else it is only collected.
        caution: Standard deviations by which an LLM must be better before it is chosen instead.
        level_prior: Rewards' worth of belief that the head's level of an LLM is right.
        weight_prior: The same for each direction of the context.

    Raises:
        InvalidInputError: A number is out of bounds.
    """

    explore: float = 0.05
    delta: float = 0.05
    dearest: float = 2.0
    apply: bool = False
    caution: float = 1.0
    level_prior: float = 100.0
    weight_prior: float = 300.0

    def __post_init__(self) -> None:
        numbers = (self.explore, self.delta, self.dearest, self.caution)
        priors = (self.level_prior, self.weight_prior)
        if not all(isinstance(value, int | float) for value in (*numbers, *priors)):
            raise InvalidInputError(f"all but apply are numbers, got {self}.")
        if not isinstance(self.apply, bool):
            raise InvalidInputError(f"apply is True or False, got {self.apply!r:.40}.")
        if not (0.0 <= self.explore <= 1.0 and 0.0 <= self.delta <= 1.0):
            raise InvalidInputError(f"explore and delta lie in [0, 1], got {self}.")
        if not (self.dearest >= 1.0 and self.caution >= 0.0):
            raise InvalidInputError(f"dearest is 1 or more and caution 0 or more, got {self}.")
        if not (self.level_prior > 0.0 and self.weight_prior > 0.0):
            raise InvalidInputError(f"priors are positive, got {self}.")


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """What is known of one LLM's correction.

    Args:
        spread: Inverse of prior and observed squares, shape (k, k).
        moment: Sum of context times surprise, shape (k,).
        rewards: How many rewards were seen.
    """

    spread: _Array
    moment: _Array
    rewards: int = 0

    @classmethod
    def blank(cls, config: LearningConfig, k: int) -> Arm:
        """Return an LLM without rewards; the first number of a context is its level."""
        prior = np.array([config.level_prior, *[config.weight_prior] * (k - 1)])
        return cls(np.diag(1.0 / prior), np.zeros(k))

    def correction(self, context: _Array) -> float:
        """Return how much better than predicted the LLM is expected to be; context (k,)."""
        return float(self.moment @ self.spread @ context)

    def variance(self, context: _Array) -> float:
        """Return the variance of that expectation, for rewards in [0, 1]."""
        return _NOISE**2 * float(context @ self.spread @ context)

    def after(self, context: _Array, surprise: float) -> Arm:
        """Return what is known after a reward that was ``surprise`` above the prediction."""
        step = self.spread @ context
        shrunk = self.spread - np.outer(step, step) / (1.0 + float(context @ step))
        return Arm(shrunk, self.moment + context * surprise, self.rewards + 1)


def safe_set(
    candidates: Sequence[Candidate],
    baseline: Candidate,
    preference: Preference,
    config: LearningConfig,
) -> tuple[str, ...]:
    """Return the LLMs that may be chosen: the baseline, and what is hardly worse and not dear.

    Example:
        >>> small, big = Candidate("small", 0.80, 0.001), Candidate("big", 0.83, 0.01)
        >>> safe_set([small, big], big, Performance(), LearningConfig())
        ('small', 'big')
        >>> safe_set([small, big], small, Performance(), LearningConfig())
        ('small',)
    """  # fmt: skip
    most = (baseline.cost or 0.0) * config.dearest
    if isinstance(preference, Cost) and preference.budget is not None:
        most = min(most, max(preference.budget, baseline.cost or 0.0))
    return tuple(
        each.name
        for each in candidates
        if each.name == baseline.name
        or (each.score >= baseline.score - config.delta and (each.cost or 0.0) <= most)
    )


def corrected(
    candidates: Sequence[Candidate], arms: Mapping[str, Arm], context: _Array
) -> tuple[Candidate, ...]:
    """Return the candidates with their learnt corrections, held to [0, 1]."""
    return tuple(
        replace(each, score=float(np.clip(each.score + arms[each.name].correction(context), 0, 1)))
        if each.name in arms
        else each
        for each in candidates
    )


def cautious(
    candidates: Sequence[Candidate],
    arms: Mapping[str, Arm],
    context: _Array,
    baseline: str,
    config: LearningConfig,
) -> tuple[Candidate, ...]:
    """Return corrected candidates, those beside the baseline lowered by how uncertain that is."""
    blank = Arm.blank(config, len(context))
    own = arms.get(baseline, blank).variance(context)
    return tuple(
        each
        if each.name == baseline
        else replace(each, score=each.score - config.caution * float(np.sqrt(own + variance)))
        for each in corrected(candidates, arms, context)
        for variance in [arms.get(each.name, blank).variance(context)]
    )


def learnt_choice(
    candidates: Sequence[Candidate], safe: Sequence[str], preference: Preference, anchor: str
) -> str:
    """Return the safe LLM that the preference ranks first, by the scores of `cautious`."""
    table = ScoreTable(
        tuple(each.name for each in candidates),
        np.array([each.score for each in candidates]),
        np.array([each.cost or 0.0 for each in candidates]),
    )
    return next(table.names[i] for i in rank(table, preference, anchor) if table.names[i] in safe)


def preference_text(preference: Preference) -> str:
    """Return a preference as text that `parse_text` reads back.

    Example:
        >>> parse_text(preference_text(Auto(0.7)))
        Auto(w_score=0.7)
    """
    match preference:
        case Performance():
            return "performance"
        case Auto(w_score=weight):
            return f"auto:{weight!r}"
        case Cost(budget=budget):
            return "cost" if budget is None else f"cost:{budget!r}"


def parse_text(text: str) -> Preference:
    """Return the preference that `preference_text` wrote.

    Raises:
        InvalidPreferenceError: It is none.
    """
    name, _, weight = text.partition(":")
    return Auto(float(weight)) if name == "auto" and weight else parse_preference(text)
