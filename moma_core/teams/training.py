"""Trains the controller by REINFORCE on utility = quality - rate x cost, or by imitation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from moma_core.decision import TeamPlan
from moma_core.errors import InvalidDataError, UnknownNameError
from moma_core.protocols import Progress
from moma_core.teams.cards import TeamOptions
from moma_core.teams.features import Tables, TeamInputs
from moma_core.teams.planner import TeamParts, TeamValue
from moma_core.teams.policy import (
    RATES,
    Adam,
    Allowed,
    Choose,
    PlanBatch,
    Policy,
    PolicyStep,
    Rollout,
    forced,
    greedy,
    sampled,
)

__all__ = [
    "Environment",
    "LoggedPlans",
    "OffPolicy",
    "TrainConfig",
    "ascent",
    "domain_labels",
    "estimate",
    "fit_teams",
    "fit_value",
    "imitate",
    "importance",
    "index_plans",
    "reinforce",
]

"""Quality that must be gained for what the best single LLM costs on average; one plan each."""


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
    *,
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
        rollout = policy.rollout(tables, inputs.take(rows), rates, sampled(rng), allowed)
        utility = _utility(environment, rows, rollout.plans, rates / policy.unit, config, rng)
        advantage = _advantage(utility.reshape(config.queries, config.samples)).ravel()
        upstream = ascent(rollout, advantage, weight, config.classify, domains[rows])
        optimiser.step(policy.backward(rollout, upstream), 1.0 - 0.9 * done)
        target = config.entropy[0] + done * (config.entropy[1] - config.entropy[0])
        weight = float(np.clip(weight * np.exp(0.1 * (target - _entropy(rollout))), 1e-4, 0.1))
        history.append(float(utility.mean()))
        if progress is not None:
            progress("training the controller", number + 1, config.steps)
    return history


def ascent(
    rollout: Rollout, advantage: _Array, entropy: float, classify: float, domains: _Index
) -> list[_Array]:
    """Return the gradient of the objective by each step's logits, to climb.

    The objective is ``mean(advantage log p(plan) + entropy sum of step entropies) + classify
    mean(log p(true domain))``.

    Args:
        rollout: B plans with their steps.
        advantage: Shape (B,).
        entropy: Weight of the entropy bonus.
        classify: Weight of the task-classification loss.
        domains: True domains, -1 where not known, shape (B,).
    """
    return [
        _classify(step, domains, classify) / len(domains)
        if step.stage == "domain"
        else _climb(step, advantage, entropy) / len(domains)
        for step in rollout.steps
    ]


def _climb(step: PolicyStep, advantage: _Array, weight: float) -> _Array:
    logs, places = step.log_probabilities, np.arange(len(step.rows))
    probabilities = np.exp(logs)
    possible = (
        probabilities[places, step.chosen] > 0
    )  # a logged choice may be barred to this cascade
    drive = advantage[step.rows] * possible
    grad = -probabilities * drive[:, None]
    grad[places, step.chosen] += drive
    finite = np.where(probabilities > 0, logs, 0.0)
    spread = -(probabilities * finite).sum(axis=1, keepdims=True)
    climbed: _Array = grad - weight * probabilities * (finite + spread)
    return climbed


def _classify(step: PolicyStep, domains: _Index, weight: float) -> _Array:
    known = domains >= 0
    grad = -np.exp(step.log_probabilities)
    grad[np.flatnonzero(known), domains[known]] += 1.0
    scaled: _Array = weight * grad * known[:, None]
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


def _entropy(rollout: Rollout) -> float:
    """Mean entropy of the steps beside the greatest possible, in [0, 1]."""
    shares = []
    for step in rollout.steps:
        options = np.isfinite(step.logits).sum(axis=1)
        if step.stage == "domain" or options.max() < 2:
            continue
        logs = step.log_probabilities
        spread = -(np.exp(logs) * np.where(np.isfinite(logs), logs, 0.0)).sum(axis=1)
        several = options > 1
        shares.append((spread[several] / np.log(options[several])).mean())
    return float(np.mean(shares)) if shares else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class LoggedPlans:
    """B plans with what became of them.

    Args:
        plans: The plans.
        rates: Quality that a unit of cost had to bring, shape (B,).
        right: Quality of the answers, in [0, 1], shape (B,).
        cost: USD, shape (B,).
        log_probability: Of each plan when it was drawn; zeros for plans chosen for sure, which say
            nothing of others (`offpolicy` needs drawn ones), shape (B,).

    Raises:
        InvalidDataError: Lengths differ, there is no plan, or a number is missing.
    """

    plans: PlanBatch
    rates: _Array
    right: _Array
    cost: _Array
    log_probability: _Array

    def __post_init__(self) -> None:
        columns = (self.rates, self.right, self.cost, self.log_probability)
        if not len(self.plans) or any(column.shape != (len(self.plans),) for column in columns):
            raise InvalidDataError(
                f"expected a rate, quality, cost and probability for each of {len(self.plans)} "
                f"plans, got shapes {[column.shape for column in columns]}."
            )
        if not all(np.isfinite(column).all() for column in columns):
            raise InvalidDataError("a logged rate, quality, cost or probability is not finite.")

    def utility(self, unit: float) -> _Array:
        """Return quality less rate times cost in units, shape (B,)."""
        gained: _Array = self.right - self.rates * self.cost / unit
        return gained


def index_plans(tables: Tables, llms: Sequence[str], plans: Sequence[TeamPlan]) -> PlanBatch:
    """Return named plans as positions.

    Args:
        tables: Of the options that the plans were made from.
        llms: Names of the LLMs, in the order of the columns.
        plans: B plans.

    Raises:
        UnknownNameError: A plan names a mode, role, domain or LLM that there is not.
        InvalidInputError: A plan has more or fewer members or rounds than its mode takes.
    """
    options = tables.options
    seats = (len(plans), options.most_members)
    roles, members = np.full(seats, -1), np.full(seats, -1)
    names = [role.name for role in options.roles]
    for row, plan in enumerate(plans):
        for seat, member in enumerate(plan.members[: options.most_members]):
            roles[row, seat] = _find("role", names, member.role)
            members[row, seat] = _find("LLM", llms, member.llm)
    modes = [_find("mode", [mode.name for mode in options.modes], p.mode) for p in plans]
    domains = [_find("domain", options.domains, _domain(options, plan)) for plan in plans]
    sizes = [_size(tables, mode, plan) for mode, plan in zip(modes, plans, strict=True)]
    mode, size = np.array(modes, np.intp), np.array(sizes, np.intp)
    return PlanBatch(
        np.array(domains, np.intp), mode, tables.sizes[size, 0], tables.sizes[size, 1], roles,
        members, tables.calls[mode, size], tables.lengths[mode],
    )  # fmt: skip


def imitate(
    policy: Policy,
    tables: Tables,
    inputs: TeamInputs,
    logged: LoggedPlans,
    domains: _Index,
    rng: np.random.Generator,
    *,
    steps: int = 200,
    step_size: float = 0.01,
    inverse_temperature: float = 2.0,
    progress: Progress | None = None,
) -> list[float]:
    """Train ``policy`` in place on logged plans, weighted by how well they did.

    The weight is ``exp(inverse_temperature (U - mean U) / std U)``, at most 20, over plans of
    like rate.
    A role outside the pool of the plan's domain teaches nothing; the rest of its plan does.

    Args:
        policy: Changed in place.
        tables: The options.
        inputs: The query of each logged plan, B rows.
        logged: B plans.
        domains: True domains, -1 where not known, shape (B,).
        rng: Draws the batches.
        steps: Gradient steps of up to 256 plans.
        step_size: Adam's.
        inverse_temperature: 0 copies the logging policy; more prefers what did well.
        progress: Called after each step.

    Returns:
        Weighted mean log-probability of each step's plans, those it cannot draw left out.
    """
    utility = logged.utility(policy.unit)
    weight = np.exp(inverse_temperature * _standard(utility, logged.rates))
    weight = np.minimum(weight, 20.0)
    weight /= weight.mean()
    optimiser, history = Adam(policy.params, step_size), []
    for number in range(steps):
        rows = rng.integers(len(logged.plans), size=min(256, len(logged.plans)))
        plans = logged.plans.take(rows)
        choose = forced(plans, tables.sizes)
        rollout = policy.rollout(tables, inputs.take(rows), logged.rates[rows], choose)
        upstream = ascent(rollout, weight[rows], 1e-3, 0.5, domains[rows])
        optimiser.step(policy.backward(rollout, upstream), 1.0 - 0.9 * number / steps)
        likelihood = weight[rows] * rollout.log_probability
        history.append(float(np.where(np.isfinite(likelihood), likelihood, 0.0).mean()))
        if progress is not None:
            progress("imitating logged plans", number + 1, steps)
    return history


def _standard(values: _Array, groups: _Array) -> _Array:
    """Values less their group's mean over its spread, shape (B,)."""
    scaled = np.zeros(len(values))
    for group in np.unique(groups):
        kept = groups == group
        scaled[kept] = (values[kept] - values[kept].mean()) / (values[kept].std() + 1e-9)
    return scaled


def _domain(options: TeamOptions, plan: TeamPlan) -> str:
    """The plan's own domain, or that of its first role when it names none."""
    if plan.domain:
        return plan.domain
    names = [role.name for role in options.roles]
    return options.roles[_find("role", names, plan.members[0].role)].domain


def _size(tables: Tables, mode: int, plan: TeamPlan) -> int:
    from moma_core.teams.cards import calls

    card = tables.options.modes[mode]
    calls(card, len(plan.members), plan.rounds)  # refuses what the mode does not take
    wanted = (len(plan.members), min(plan.rounds, card.max_rounds))
    return [tuple(size) for size in tables.sizes.tolist()].index(wanted)


def _find(what: str, names: Sequence[str], name: str) -> int:
    if name not in names:
        raise UnknownNameError(f"no {what} {name!r}; there are {list(names)}.")
    return list(names).index(name)


def fit_teams(
    options: TeamOptions,
    inputs: TeamInputs,
    environment: Environment,
    domains: Sequence[str],
    *,
    unit: float,
    config: TrainConfig | None = None,
    seed: int = 0,
    allowed: Allowed | None = None,
    progress: Progress | None = None,
    notes: Mapping[str, Any] | None = None,
) -> TeamParts:
    """Train a cascade and a value for an LLM pool.

    Args:
        options: Modes and roles.
        inputs: n training queries, predicted by heads that did not see them.
        environment: Runs plans on them: `TeamSimulator`, or a harness around real teams.
        domains: True task domain of each query, "" where not known, length n.
        unit: USD that rates refer to: the mean cost of the best single LLM.
        config: How long and how boldly.
        seed: Of every draw.
        allowed: What may be chosen (for ablations).
        progress: Called after each step.
        notes: JSON-like facts to keep.

    Raises:
        InvalidDataError: No query, a domain without a role, or a unit that is no money.
    """
    if not unit > 0:
        raise InvalidDataError(
            f"the unit is the mean cost of the best single LLM in USD, more than 0, got {unit!r}. "
            "A pool that costs nothing needs no rates: give 1e-6."
        )
    labels, config = domain_labels(options, domains), config or TrainConfig()
    rng = np.random.default_rng(seed)
    policy = Policy.start(inputs.vectors.shape[1], unit, rng)
    tables = Tables.of(options, policy.projection)
    history = reinforce(
        policy,
        tables,
        inputs,
        environment,
        labels,
        config,
        rng=rng,
        allowed=allowed,
        progress=progress,
    )
    value = fit_value(policy, tables, inputs, environment, rng, runs=config.priced, allowed=allowed)
    last = history[-max(len(history) // 10, 1) :]
    facts = {
        "seed": seed,
        "queries": len(inputs),
        "steps": config.steps,
        "last_utility": round(float(np.mean(last)), 4),
        **(notes or {}),
    }
    return TeamParts(options, policy, value, facts).rounded()


def domain_labels(options: TeamOptions, domains: Sequence[str]) -> _Index:
    """Return positions in ``options.domains``, -1 for "", shape (n,).

    Raises:
        InvalidDataError: A domain has no role.
    """
    for name in dict.fromkeys(domains):
        if name and name not in options.domains:
            raise InvalidDataError(
                f"no role has the domain {name!r}; there are {list(options.domains)}. Add a "
                f"RoleCard(..., domain={name!r}), or map the task to one of these."
            )
    return np.array([options.domains.index(name) if name else -1 for name in domains], np.intp)


def fit_value(
    policy: Policy,
    tables: Tables,
    inputs: TeamInputs,
    environment: Environment,
    rng: np.random.Generator,
    *,
    runs: int = 24_000,
    allowed: Allowed | None = None,
) -> TeamValue:
    """Learn the quality of plans from one run each of greedy, drawn and random plans.

    Args:
        policy: Makes the plans.
        tables: The options.
        inputs: n queries.
        environment: Runs plans on them.
        rng: Of every draw.
        runs: How many, a third of each kind.
        allowed: What may be chosen.
    """
    rows = rng.integers(len(inputs), size=runs // 3 * 3)
    rates = rng.choice(RATES, size=len(rows))
    flat = Policy({k: np.zeros_like(v) for k, v in policy.params.items()}, policy.projection,
                  policy.unit)  # fmt: skip
    ways = ((policy, greedy), (policy, sampled(rng)), (flat, sampled(rng)))
    plans, third = [], runs // 3
    for number, (each, choose) in enumerate(ways):
        part = slice(number * third, (number + 1) * third)
        rollout = each.rollout(tables, inputs.take(rows[part]), rates[part], choose, allowed)
        plans.append(rollout.plans)
    joined = PlanBatch.joined(plans)
    right = environment.run(rows, joined, rng).right
    return TeamValue.fit(tables, inputs.take(rows), joined, right)


@dataclass(frozen=True, slots=True)
class OffPolicy:
    """Estimates of mean utility.

    Args:
        ips: Inverse propensity scoring, weights clipped.
        snips: The same, normalised by the weights' sum: less spread, slightly biased.
        direct: The value model's word alone.
        doubly_robust: The model's word plus the reweighted error.
        effective: Effective number of logged plans, ``(sum w)^2 / sum w^2``; below some dozens the
            first two are noise.
    """

    ips: float
    snips: float
    direct: float
    doubly_robust: float
    effective: float


def importance(new: _Array, old: _Array, most: float = 50.0) -> _Array:
    """Return likelihood ratios from log-probabilities, at most ``most``, shape (B,).

    Example:
        >>> importance(np.log([0.2, 0.9]), np.log([0.1, 0.001])).tolist()
        [2.0, 50.0]
    """
    ratio: _Array = np.exp(np.minimum(new - old, np.log(most)))
    return ratio.round(12)


def estimate(
    policy: Policy,
    tables: Tables,
    inputs: TeamInputs,
    logged: LoggedPlans,
    value: TeamValue,
    rng: np.random.Generator,
    *,
    samples: int = 8,
    most: float = 50.0,
) -> OffPolicy:
    """Estimate the mean utility of plans drawn from ``policy`` at the logged rates.

    Args:
        policy: To be judged.
        tables: The options.
        inputs: The query of each logged plan, B rows.
        logged: Plans drawn by another policy, with their log-probabilities.
        value: Predicts the quality of plans.
        rng: Draws the policy's own plans for the direct method.
        samples: Of those, for each query.
        most: Largest weight.
    """
    rollout = policy.rollout(tables, inputs, logged.rates, forced(logged.plans, tables.sizes))
    weight = importance(rollout.log_probability, logged.log_probability, most)
    earned, price = logged.utility(policy.unit), logged.rates / policy.unit
    believed = value.predict(tables, inputs, logged.plans) - price * logged.plans.cost(inputs.costs)
    expected = np.mean(
        [_believed(policy, tables, inputs, logged.rates, value, sampled(rng))
         for _ in range(samples)],
        axis=0,
    )  # fmt: skip
    return OffPolicy(
        ips=float((weight * earned).mean()),
        snips=float((weight * earned).sum() / max(weight.sum(), 1e-12)),
        direct=float(expected.mean()),
        doubly_robust=float((expected + weight * (earned - believed)).mean()),
        effective=float(weight.sum() ** 2 / max((weight**2).sum(), 1e-12)),
    )


def _believed(
    policy: Policy,
    tables: Tables,
    inputs: TeamInputs,
    rates: _Array,
    value: TeamValue,
    choose: Choose,
) -> _Array:
    """Utility that the value model expects of plans drawn by the policy, shape (B,)."""
    plans = policy.rollout(tables, inputs, rates, choose).plans
    quality = value.predict(tables, inputs, plans)
    expected: _Array = quality - rates / policy.unit * plans.cost(inputs.costs)
    return expected
