"""What a policy would have earned, from the log of another: IPS, SNIPS, doubly robust.

All three weigh rewards by how probable the logged choice was. The learnt policy is cross-fitted:
what is used on a line was learnt from other lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError
from moma_core.llms.feedback import (
    FeedbackRecord,
    LearningConfig,
    Memory,
    cautious,
    corrected,
    learnt_choice,
)
from moma_core.types import parse_preference

__all__ = [
    "LEAST",
    "Estimate",
    "Estimates",
    "estimate",
]

LEAST = 20
_FOLDS = 5
_Z = 1.96
_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean reward of a policy, by three estimators with 95 % intervals.

    Args:
        ips: Inverse propensity scoring: unbiased, wide.
        snips: Its self-normalised form.
        dr: Doubly robust: predictions, corrected by weighted surprises; unbiased, narrower.
        ips_range: Low and high.
        snips_range: Low and high.
        dr_range: Low and high.
        cost: Mean expected USD of what the policy chooses.
        matched: Lines on which the log chose the same LLM.
    """

    ips: float
    snips: float
    dr: float
    ips_range: tuple[float, float]
    snips_range: tuple[float, float]
    dr_range: tuple[float, float]
    cost: float
    matched: int


@dataclass(frozen=True, slots=True)
class Estimates:
    """How what was logged, the router without learning and the learnt router compare.

    Args:
        lines: Feedback in the log.
        logged: Mean reward of the log itself.
        logged_range: Its 95 % interval.
        static: Without learning.
        learnt: With what was learnt applied.
        gain: Learnt less static, doubly robust, line by line.
        gain_range: Its 95 % interval.
    """

    lines: int
    logged: float
    logged_range: tuple[float, float]
    static: Estimate
    learnt: Estimate
    gain: float
    gain_range: tuple[float, float]

    @property
    def worthwhile(self) -> bool:
        """Whether the whole interval of the gain is above zero."""
        return self.gain_range[0] > 0.0


def estimate(
    records: Sequence[FeedbackRecord], config: LearningConfig | None = None, seed: int = 0
) -> Estimates:
    """Estimate from a log what applying the learnt corrections would have earned.

    Args:
        records: Of one router, made with ``explore`` above zero.
        config: Its priors are those of learning.
        seed: Of the folds.

    Raises:
        InvalidDataError: There are fewer than 20 records, or none was explored.
    """
    if len(records) < LEAST:
        raise InvalidDataError(
            f"{len(records)} feedbacks are too few to estimate from; collect at least {LEAST}, "
            "better some hundreds."
        )
    if all(record.trial.propensity > 1.0 - 1e-9 for record in records):
        raise InvalidDataError(
            "nothing was explored, so nothing can be said of other choices. Set "
            "LearningConfig(explore=0.05) and collect more."
        )
    config, n = config or LearningConfig(), len(records)
    folds = np.random.default_rng(seed).permutation(n) % _FOLDS
    memories = [Memory.of([r for r, f in zip(records, folds, strict=True) if f != fold], config)
                for fold in range(_FOLDS)]  # fmt: skip
    expected = _Expected(records, [memories[fold] for fold in folds], config)
    static, static_lines = expected.of(lambda i: records[i].trial.baseline)
    learnt, learnt_lines = expected.of(expected.learnt_choice)
    gains = learnt_lines - static_lines
    rewards = np.array([record.reward for record in records])
    return Estimates(
        lines=n,
        logged=float(rewards.mean()),
        logged_range=_interval(rewards),
        static=static,
        learnt=learnt,
        gain=float(gains.mean()),
        gain_range=_interval(gains),
    )


class _Expected:
    """Estimates policies on lines whose corrections were learnt elsewhere."""

    def __init__(
        self,
        records: Sequence[FeedbackRecord],
        memories: Sequence[Memory],
        config: LearningConfig,
    ) -> None:
        self._records = records
        self._scored, self._ranked = [], []
        for record, memory in zip(records, memories, strict=True):
            asked, names = record.candidates, [each.name for each in record.candidates]
            beliefs = memory.beliefs(record.vector, names)
            self._scored.append(corrected(asked, beliefs))
            self._ranked.append(cautious(asked, beliefs, record.trial.baseline, config))

    def learnt_choice(self, line: int) -> str:
        """Return what the learnt corrections choose on a line."""
        trial = self._records[line].trial
        preference = parse_preference(trial.preference)
        return learnt_choice(self._ranked[line], trial.safe, preference, trial.anchor)

    def of(self, policy: Callable[[int], str]) -> tuple[Estimate, _Array]:
        """Return the estimate of a policy and its doubly robust lines, shape (n,)."""
        names = [policy(line) for line in range(len(self._records))]
        weights, rewards, modelled, fitted, costs = (np.zeros(len(names)) for _ in range(5))
        for i, (record, name) in enumerate(zip(self._records, names, strict=True)):
            quality = {each.name: each.score for each in self._scored[i]}
            weights[i] = (record.chosen == name) / record.trial.propensity
            rewards[i], costs[i] = record.reward, record.cost(name)
            modelled[i], fitted[i] = quality[name], quality[record.chosen]
        robust = modelled + weights * (rewards - fitted)
        weighed = weights * rewards
        total = max(float(weights.sum()), 1e-12)
        snips = float(weighed.sum()) / total
        spread = weights * (rewards - snips) * len(names) / total
        low, high = _interval(spread)
        found = Estimate(
            ips=float(weighed.mean()),
            snips=snips,
            dr=float(robust.mean()),
            ips_range=_interval(weighed),
            snips_range=(snips + low - float(spread.mean()), snips + high - float(spread.mean())),
            dr_range=_interval(robust),
            cost=float(costs.mean()),
            matched=int((weights > 0).sum()),
        )
        return found, robust


def _interval(values: _Array) -> tuple[float, float]:
    half = _Z * float(values.std(ddof=1)) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)
