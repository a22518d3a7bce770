"""Trains the cascade by REINFORCE on utility = quality - rate x cost (MasRouter, sect. 4).

    gradient of E[U] = E[(U(plan) - baseline) grad log p(plan | query)]

The baseline is the mean utility of the other plans drawn for the same query at the same rate. A
task-classification loss on the domain stage is added, and an entropy bonus whose weight is steered
so that entropy falls along a line. Knows an `Environment`, not whether it is simulated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError
from moma_core.teams.features import Tables, TeamInputs
from moma_core.teams.network import Adam
from moma_core.teams.plans import PlanBatch
from moma_core.teams.policy import Policy
from moma_core.teams.steps import Allowed, Step, Walk, sampled

__all__ = ["RATES", "Environment", "Progress", "TrainConfig", "ascent", "reinforce"]

RATES = (0.001, 0.003, 0.008, 0.02, 0.05, 0.12, 0.3, 0.8)
"""Quality that must be gained for what the best single LLM costs on average; one plan each."""

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``."""

_Array = npt.NDArray[np.float64]
_Index = npt.NDArray[np.intp]
_STEEPEST = 3.0


class Environment(Protocol):
    """Runs plans on queries: a simulator, or a harness around real teams."""

    def run(self, rows: _Index, plans: PlanBatch, rng: np.random.Generator) -> Result:
        """Run plan b on query ``rows[b]``, all of shape (B,)."""


class Result(Protocol):
    """What became of B plans."""

    @property
    def right(self) -> _Array:
        """Quality of the final answers, in [0, 1], shape (B,)."""

    @property
    def cost(self) -> _Array:
        """USD, shape (B,)."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How long and how boldly to train.

    Args:
        steps: Gradient steps.
        queries: Queries a step.
        samples: Plans drawn for each of them; at least 2, for the baseline.
        repeats: Runs of each plan; their mean is its utility.
        step_size: Adam's, falling linearly to a tenth.
        classify: Weight of the task-classification loss.
        entropy: Share of the greatest entropy kept at first and at last.
        priced: Runs from which the quality of plans is learnt afterwards.
    """

    steps: int = 400
    queries: int = 64
    samples: int = 8
    repeats: int = 4
    step_size: float = 0.01
    classify: float = 0.5
    entropy: tuple[float, float] = (0.6, 0.05)
    priced: int = 24_000


def reinforce(
    policy: Policy,
    tables: Tables,
    inputs: TeamInputs,
    environment: Environment,
    domains: _Index,
    config: TrainConfig,
    rng: np.random.Generator,
    allowed: Allowed | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Train ``policy`` in place and return the mean utility of each step.

    Args:
        policy: Changed in place.
        tables: The options.
        inputs: n training queries, predicted by heads that did not see them.
        environment: Runs drawn plans.
        domains: True domain of each query as a position in the options' domains, -1 where not
            known, shape (n,).
        config: How long and how boldly.
        rng: Of every draw; equal seeds give equal weights.
        allowed: What may be chosen (for ablations).
        progress: Called after each step.

    Raises:
        InvalidDataError: No query, or domains of another length.
    """
    if not len(inputs) or len(domains) != len(inputs):
        raise InvalidDataError(
            f"expected queries and a domain for each, got {len(inputs)} and {len(domains)}."
        )
    optimiser, weight, history = Adam(policy.params, config.step_size), 0.02, []
    for number in range(config.steps):
        done = number / config.steps
        rows = np.repeat(rng.integers(len(inputs), size=config.queries), config.samples)
        rates = np.repeat(rng.choice(RATES, size=config.queries), config.samples)
        walk = policy.walk(tables, inputs.take(rows), rates, sampled(rng), allowed)
        utility = _utility(environment, rows, walk.plans, rates / policy.unit, config, rng)
        advantage = _advantage(utility.reshape(config.queries, config.samples)).ravel()
        upstream = ascent(walk, advantage, weight, config.classify, domains[rows])
        optimiser.step(policy.backward(walk, upstream), 1.0 - 0.9 * done)
        target = config.entropy[0] + done * (config.entropy[1] - config.entropy[0])
        weight = float(np.clip(weight * np.exp(0.1 * (target - _entropy(walk))), 1e-4, 0.1))
        history.append(float(utility.mean()))
        if progress is not None:
            progress("training the controller", number + 1, config.steps)
    return history


def ascent(
    walk: Walk, advantage: _Array, entropy: float, classify: float, domains: _Index
) -> list[_Array]:
    """Return the gradient of the objective by each step's logits, to climb.

    The objective is ``mean(advantage log p(plan) + entropy sum of step entropies) + classify
    mean(log p(true domain))``.

    Args:
        walk: B plans with their steps.
        advantage: Shape (B,).
        entropy: Weight of the entropy bonus.
        classify: Weight of the task-classification loss.
        domains: True domains, -1 where not known, shape (B,).
    """
    return [
        _classify(step, domains, classify) / len(domains)
        if step.stage == "domain"
        else _climb(step, advantage, entropy) / len(domains)
        for step in walk.steps
    ]


def _climb(step: Step, advantage: _Array, weight: float) -> _Array:
    logs, places = step.log_probabilities, np.arange(len(step.rows))
    chances = np.exp(logs)
    possible = chances[places, step.chosen] > 0  # a logged choice may be barred to this cascade
    drive = advantage[step.rows] * possible
    slope = -chances * drive[:, None]
    slope[places, step.chosen] += drive
    finite = np.where(chances > 0, logs, 0.0)
    spread = -(chances * finite).sum(axis=1, keepdims=True)
    climbed: _Array = slope - weight * chances * (finite + spread)
    return climbed


def _classify(step: Step, domains: _Index, weight: float) -> _Array:
    known = domains >= 0
    slope = -np.exp(step.log_probabilities)
    slope[np.flatnonzero(known), domains[known]] += 1.0
    scaled: _Array = weight * slope * known[:, None]
    return scaled


def _utility(
    environment: Environment,
    rows: _Index,
    plans: PlanBatch,
    price: _Array,
    config: TrainConfig,
    rng: np.random.Generator,
) -> _Array:
    total = np.zeros(len(rows))
    for _ in range(config.repeats):
        result = environment.run(rows, plans, rng)
        total += result.right - price * result.cost
    return total / config.repeats


def _advantage(utility: _Array) -> _Array:
    """Utility less the others' mean in its row, in units of its spread, (queries, samples)."""
    samples = utility.shape[1]
    others = (utility.sum(axis=1, keepdims=True) - utility) / (samples - 1)
    gain = utility - others
    scaled: _Array = np.clip(gain / (gain.std() + 1e-9), -_STEEPEST, _STEEPEST)
    return scaled


def _entropy(walk: Walk) -> float:
    """Mean entropy of the steps beside the greatest possible, in [0, 1]."""
    shares = []
    for step in walk.steps:
        options = np.isfinite(step.logits).sum(axis=1)
        if step.stage == "domain" or options.max() < 2:
            continue
        logs = step.log_probabilities
        spread = -(np.exp(logs) * np.where(np.isfinite(logs), logs, 0.0)).sum(axis=1)
        several = options > 1
        shares.append((spread[several] / np.log(options[several])).mean())
    return float(np.mean(shares)) if shares else 0.0
