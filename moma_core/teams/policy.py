"""The controller (MasRouter, sect. 4): domain -> mode -> size -> roles in order -> an LLM each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moma_core.errors import NoTargetError
from moma_core.teams.cards import TeamOptions
from moma_core.teams.features import (
    LLM_NUMBERS,
    MODE_NUMBERS,
    NUMBERS,
    ROLE_NUMBERS,
    SEAT_NUMBERS,
    SIZE_NUMBERS,
    Tables,
    TeamInputs,
    llm_numbers,
    query_numbers,
)

__all__ = [
    "HIDDEN",
    "PROJECTED",
    "RATES",
    "Adam",
    "Allowed",
    "Cascade",
    "Choose",
    "Params",
    "PlanBatch",
    "Policy",
    "PolicyStep",
    "Rollout",
    "Scored",
    "allowed_without",
    "forced",
    "greedy",
    "init_scorer",
    "sampled",
    "scorer_backward",
    "scorer_forward",
]

_Array = npt.NDArray[np.float64]
Params = dict[str, _Array]
"""Parameters by name, ``"<stage>.<Q|K|L|t|n>"`` and those of the shared layer."""

RANK = 16
RATES = (0.001, 0.003, 0.008, 0.02, 0.05, 0.12, 0.3, 0.8)
"""Quality worth one unit of cost, from spending freely to saving."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What the backward pass needs of a forward one.

    Args:
        context: Shape (B, c).
        texts: Shape (O, t), shared by the rows.
        numbers: Shape (B, O, f).
        inner: ``context @ Q``, shape (B, k).
        keys: ``texts @ K``, shape (O, k).
    """

    context: _Array
    texts: _Array
    numbers: _Array
    inner: _Array
    keys: _Array


def init_scorer(
    stage: str, widths: tuple[int, int, int], rng: np.random.Generator, start: Mapping[int, float]
) -> Params:
    """Return a scorer's parameters.

    Args:
        stage: Prefix of their names.
        widths: Of the context, the texts and the numbers.
        rng: Draws the starting point.
        start: Weight of some numbers before training: the prior that an untrained router uses.
    """
    context, texts, numbers = widths
    direct = np.zeros(numbers)
    for column, weight in start.items():
        direct[column] = weight
    return {
        f"{stage}.Q": rng.normal(0, 1 / np.sqrt(context), (context, RANK)),
        f"{stage}.K": rng.normal(0, 0.1 / np.sqrt(max(texts, 1)), (texts, RANK)),
        f"{stage}.L": rng.normal(0, 0.1 / np.sqrt(max(numbers, 1)), (numbers, RANK)),
        f"{stage}.t": np.zeros(texts),
        f"{stage}.n": direct,
    }


def scorer_forward(
    params: Params, stage: str, context: _Array, texts: _Array, numbers: _Array
) -> tuple[_Array, Scored]:
    """Return logits of shape (B, O) and what `scorer_backward` needs.

    Args:
        params: Of all stages.
        stage: Which scorer.
        context: Shape (B, c).
        texts: Shape (O, t).
        numbers: Shape (B, O, f).
    """
    inner = context @ params[f"{stage}.Q"]
    keys = texts @ params[f"{stage}.K"]
    by_number = inner @ params[f"{stage}.L"].T + params[f"{stage}.n"]  # (B, f)
    logits = inner @ keys.T + texts @ params[f"{stage}.t"]
    logits += np.matmul(numbers, by_number[:, :, None])[:, :, 0]
    return logits, Scored(context, texts, numbers, inner, keys)


def scorer_backward(
    params: Params, stage: str, scored: Scored, upstream: _Array, gradients: Params
) -> _Array:
    """Add a stage's gradients to ``gradients`` and return that of the context, shape (B, c).

    Args:
        params: As in the forward pass.
        stage: Which scorer.
        scored: From the forward pass.
        upstream: Gradient of the logits, shape (B, O).
        gradients: Changed in place.
    """
    on_numbers = np.matmul(upstream[:, None, :], scored.numbers)[:, 0]  # (B, f)
    on_inner = upstream @ scored.keys + on_numbers @ params[f"{stage}.L"]
    gradients[f"{stage}.K"] += scored.texts.T @ (upstream.T @ scored.inner)
    gradients[f"{stage}.t"] += scored.texts.T @ upstream.sum(axis=0)
    gradients[f"{stage}.L"] += on_numbers.T @ scored.inner
    gradients[f"{stage}.n"] += on_numbers.sum(axis=0)
    gradients[f"{stage}.Q"] += scored.context.T @ on_inner
    on_context: _Array = on_inner @ params[f"{stage}.Q"].T
    return on_context


class Adam:
    """Adam's moments for a set of parameters, which `step` changes in place.

    Args:
        params: What to train.
        rate: Step size.
    """

    def __init__(self, params: Params, rate: float) -> None:
        self._params = params
        self._rate = rate
        self._first = {name: np.zeros_like(value) for name, value in params.items()}
        self._second = {name: np.zeros_like(value) for name, value in params.items()}
        self._count = 0

    def step(self, gradients: Params, shrink: float = 1.0) -> None:
        """Climb ``gradients`` once, the step size multiplied by ``shrink``."""
        self._count += 1
        bias = np.sqrt(1 - 0.999**self._count) / (1 - 0.9**self._count)
        for name, gradient in gradients.items():
            first, second = self._first[name], self._second[name]
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            self._params[name] += self._rate * shrink * bias * first / (np.sqrt(second) + 1e-8)


_Index = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class PlanBatch:
    """B plans; S is the most members that any of them has.

    Args:
        domain: Task domain, shape (B,).
        mode: Mode, shape (B,).
        size: Number of members, shape (B,).
        rounds: Number of rounds, shape (B,).
        roles: Role of each member, -1 beyond ``size``, shape (B, S).
        llms: LLM of each member, -1 beyond ``size``, shape (B, S).
        calls: Calls of each member, 0 beyond ``size``, shape (B, S).
        length: Cost of one call beside a step-by-step answer, shape (B,).
    """

    domain: _Index
    mode: _Index
    size: _Index
    rounds: _Index
    roles: _Index
    llms: _Index
    calls: _Index
    length: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.mode)

    @property
    def seated(self) -> npt.NDArray[np.bool_]:
        """Which seats are taken, shape (B, S)."""
        return self.llms >= 0

    def take(self, rows: npt.ArrayLike) -> PlanBatch:
        """Return the plans of these rows, given as indices or as a mask."""
        kept = np.asarray(rows)
        return PlanBatch(*(getattr(self, name)[kept] for name in self.__slots__))

    @classmethod
    def joined(cls, parts: Sequence[PlanBatch]) -> PlanBatch:
        """Return the plans of several batches one after the other."""
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__)
        )

    def cost(self, costs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return USD of each plan, shape (B,).

        Args:
            costs: USD of one step-by-step answer of each LLM on each plan's query, shape (B, m).
        """
        each = costs[np.arange(len(self))[:, None], np.maximum(self.llms, 0)] * self.calls
        total: npt.NDArray[np.float64] = each.sum(axis=1) * self.length
        return total


@dataclass(frozen=True, slots=True, eq=False)
class PolicyStep:
    """One decision of the cascade for some rows.

    Args:
        stage: ``"domain"``, ``"mode"``, ``"size"``, ``"role"`` or ``"llm"``.
        seat: Which seat, 0 for stages without.
        rows: Which plans it is taken for, shape (b,).
        logits: -inf where an option is not allowed, shape (b, O).
        scored: For the gradient.
        chosen: Picked options, shape (b,).
    """

    stage: str
    seat: int
    rows: _Index
    logits: _Array
    scored: Scored
    chosen: _Index

    @property
    def log_probabilities(self) -> _Array:
        """Of every option, -inf where not allowed, shape (b, O)."""
        top = self.logits - self.logits.max(axis=1, keepdims=True)
        logs: _Array = top - np.log(np.exp(top).sum(axis=1, keepdims=True))
        return logs


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """Plans with the steps that led to them.

    Args:
        plans: B plans.
        steps: In order; a row need not take part in every one.
        hidden: The shared layer's output, shape (B, 32).
        vectors: Its input, shape (B, d).
    """

    plans: PlanBatch
    steps: tuple[PolicyStep, ...]
    hidden: _Array
    vectors: _Array

    @property
    def log_probability(self) -> _Array:
        """Of each plan given its query and domain, shape (B,)."""
        total = np.zeros(len(self.plans))
        for step in self.steps:
            if step.stage != "domain":
                picked = step.log_probabilities[np.arange(len(step.rows)), step.chosen]
                total[step.rows] += picked
        return total


@dataclass(frozen=True, slots=True, eq=False)
class Allowed:
    """What may be chosen now; None means everything.

    Args:
        modes: Shape (M,).
        roles: Of the domain's pool, shape (R,).
        seats: The role of each seat, shape (S,), instead of choosing any.
        llms: Shape (m,).
    """

    modes: npt.NDArray[np.bool_] | None = None
    roles: npt.NDArray[np.bool_] | None = None
    seats: _Index | None = None
    llms: npt.NDArray[np.bool_] | None = None


def allowed_without(options: TeamOptions, llms: Sequence[str], exclude: Collection[str]) -> Allowed:
    """Return what is left; names that are none of these are ignored.

    Args:
        options: Modes and roles.
        llms: Names of the LLMs.
        exclude: Names of LLMs, roles and modes; one text is one name.

    Raises:
        NoTargetError: No LLM, no mode, or no role of some domain is left.
    """
    names = frozenset([exclude] if isinstance(exclude, str) else exclude)
    left = {
        "LLM": np.array([name not in names for name in llms], bool),
        "mode": np.array([mode.name not in names for mode in options.modes], bool),
    }
    for what, kept in left.items():
        if not kept.any():
            raise NoTargetError(
                f"no {what} is left among {len(kept)}. Add one, or exclude fewer names."
            )
    roles = np.array([role.name not in names for role in options.roles], bool)
    for number, domain in enumerate(options.domains):
        if not roles[options.role_domains == number].any():
            raise NoTargetError(
                f"every role of domain {domain!r} is excluded. Leave one, or add one with "
                "router.adding(RoleCard(...))."
            )
    return Allowed(modes=left["mode"], roles=roles, llms=left["LLM"]) if names else Allowed()


Choose = Callable[[PolicyStep], _Index]
"""Picks one option a row of a step, shape (b,)."""


def greedy(step: PolicyStep) -> _Index:
    """Pick the likeliest option."""
    best: _Index = step.logits.argmax(axis=1)
    return best


def sampled(rng: np.random.Generator) -> Choose:
    """Return a chooser that draws by probability (the Gumbel trick); domains stay greedy."""

    def choose(step: PolicyStep) -> _Index:
        if step.stage == "domain":
            return greedy(step)
        best: _Index = (step.logits + rng.gumbel(size=step.logits.shape)).argmax(axis=1)
        return best

    return choose


def forced(plans: PlanBatch, sizes: _Index) -> Choose:
    """Return a chooser that follows given plans; ``sizes`` as in `Tables`."""
    by_size = {(n, r): g for g, (n, r) in enumerate(sizes.tolist())}
    size = np.array([by_size[n, r] for n, r in zip(plans.size, plans.rounds, strict=True)], np.intp)

    def choose(step: PolicyStep) -> _Index:
        columns = {"domain": plans.domain, "mode": plans.mode, "size": size}
        if step.stage in columns:
            return columns[step.stage][step.rows]
        seats = plans.roles if step.stage == "role" else plans.llms
        column: _Index = seats[step.rows, step.seat]
        return column

    return choose


class Cascade:
    """Decides B plans, stage after stage; holds what was decided so far.

    Args:
        params: Of all scorers.
        unit: USD that rates refer to.
        tables: The options.
        inputs: B queries.
        rates: Shape (B,).
        choose: Picks options.
        allowed: What may be chosen.
        hidden: The shared layer's output, shape (B, 32).
    """

    def __init__(
        self,
        params: Params,
        unit: float,
        tables: Tables,
        inputs: TeamInputs,
        rates: _Array,
        *,
        choose: Choose,
        allowed: Allowed,
        hidden: _Array,
    ) -> None:
        self._params, self._tables, self._inputs = params, tables, inputs
        self._choose, self._allowed, self._hidden = choose, allowed, hidden
        self._rates = rates
        self._relative = inputs.costs / unit
        self._numbers = query_numbers(inputs, rates)
        self._burden = rates * np.median(self._relative, axis=1)
        self._role_likeness = inputs.vectors @ tables.whole["role"].T
        self.steps: list[PolicyStep] = []

    def run(self) -> None:
        """Take every decision in order."""
        every = np.arange(len(self._inputs))
        self._domain = self._decide_domain(every)
        self._mode = self._decide_mode(every)
        self._size = self._decide_size(every)
        members = self._tables.sizes[self._size, 0]
        seats = (len(every), self._tables.calls.shape[2])
        self._roles, self._llms = np.full(seats, -1), np.full(seats, -1)
        for seat in range(members.max()):
            self._decide_role(np.flatnonzero(members > seat), seat)
        for seat in range(members.max()):
            self._decide_llm(np.flatnonzero(members > seat), seat)

    def plans(self) -> PlanBatch:
        """Return what was decided."""
        tables = self._tables
        return PlanBatch(
            self._domain,
            self._mode,
            tables.sizes[self._size, 0],
            tables.sizes[self._size, 1],
            self._roles,
            self._llms,
            tables.calls[self._mode, self._size],
            tables.lengths[self._mode],
        )

    def _decide_domain(self, rows: _Index) -> _Index:
        likeness = self._inputs.vectors @ self._tables.whole["domain"].T
        return self._take(
            "domain", 0, rows, self._hidden, self._tables.domains, likeness[:, :, None]
        )

    def _decide_mode(self, rows: _Index) -> _Index:
        context = np.concatenate([self._hidden, self._numbers], axis=1)
        numbers = self._tables.mode_numbers(self._inputs, self._burden)
        return self._take(
            "mode", 0, rows, context, self._tables.modes, numbers, self._allowed.modes
        )

    def _decide_size(self, rows: _Index) -> _Index:
        context = np.concatenate([self._numbers, self._tables.modes[self._mode]], axis=1)
        numbers = self._tables.size_numbers(self._mode, self._burden)
        texts = np.zeros((len(self._tables.sizes), 0))
        return self._take("size", 0, rows, context, texts, numbers, self._tables.fits[self._mode])

    def _decide_role(self, rows: _Index, seat: int) -> None:
        tables, taken = self._tables, self._roles[rows, :seat]
        before = tables.roles[taken].sum(axis=1) / max(seat, 1)
        context = np.concatenate([self._hidden[rows], self._seat(rows, seat), before], axis=1)
        numbers = tables.role_numbers(self._role_likeness[rows], taken)
        fits = tables.options.role_domains == self._domain[rows, None]
        if self._allowed.roles is not None:
            fits &= self._allowed.roles
        if self._allowed.seats is not None:
            given = np.arange(fits.shape[1]) == self._allowed.seats[seat]
            fits = np.broadcast_to(given, fits.shape)
        chosen = self._take("role", seat, rows, context, tables.roles, numbers, fits)
        self._roles[rows, seat] = chosen

    def _decide_llm(self, rows: _Index, seat: int) -> None:
        tables, taken, inputs = self._tables, self._llms[rows, :seat], self._inputs.take(rows)
        share = tables.calls[self._mode[rows], self._size[rows], seat]
        weight = self._rates[rows] * share * tables.lengths[self._mode[rows]]
        best = np.zeros(len(rows))
        if seat:
            best = inputs.quality[np.arange(len(rows))[:, None], taken].max(axis=1)
        role = tables.roles[self._roles[rows, seat]]
        extra = np.stack([share / 3.0, best], axis=1)
        context = np.concatenate([self._seat(rows, seat), role, extra], axis=1)
        numbers = llm_numbers(inputs, self._relative[rows], weight, taken)
        texts = np.zeros((inputs.quality.shape[1], 0))
        chosen = self._take("llm", seat, rows, context, texts, numbers, self._allowed.llms)
        self._llms[rows, seat] = chosen

    def _seat(self, rows: _Index, seat: int) -> _Array:
        """The query's numbers, the mode, and first, last, and place of the seat."""
        members = self._tables.sizes[self._size[rows], 0]
        place = [np.full(len(rows), float(seat == 0)), members == seat + 1, seat / members]
        return np.concatenate(
            [self._numbers[rows], self._tables.modes[self._mode[rows]], np.stack(place, axis=1)],
            axis=1,
        )

    def _take(
        self,
        stage: str,
        seat: int,
        rows: _Index,
        context: _Array,
        texts: _Array,
        numbers: _Array,
        fits: npt.NDArray[np.bool_] | None = None,
    ) -> _Index:
        logits, scored = scorer_forward(self._params, stage, context, texts, numbers)
        if fits is not None:
            logits = np.where(fits, logits, -np.inf)
        step = PolicyStep(stage, seat, rows, logits, scored, np.zeros(len(rows), np.intp))
        step.chosen[:] = self._choose(step)
        self.steps.append(step)
        return step.chosen


HIDDEN, PROJECTED = 32, 32


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A cascade of five scorers over one shared layer.

    Args:
        params: Of all scorers, and ``W`` (d, 32), ``b`` (32,) of the shared layer.
        projection: Fixed projection of texts' vectors, shape (d, 32).
        unit: USD that rates refer to.
    """

    params: Params
    projection: _Array
    unit: float

    @classmethod
    def start(cls, dimension: int, unit: float, rng: np.random.Generator) -> Policy:
        """Return an untrained policy: nearest roles, LLMs by predicted quality less cost."""
        projection = rng.normal(0, 1 / np.sqrt(PROJECTED), (dimension, PROJECTED))
        seat = NUMBERS + PROJECTED + SEAT_NUMBERS
        widths = {
            "domain": ((HIDDEN, PROJECTED, 1), {0: 10.0}),
            "mode": ((HIDDEN + NUMBERS, PROJECTED, MODE_NUMBERS), {0: 2.0, 3: -4.0}),
            "size": ((NUMBERS + PROJECTED, 0, SIZE_NUMBERS), {3: -4.0}),
            "role": ((HIDDEN + seat + PROJECTED, PROJECTED, ROLE_NUMBERS), {0: 4.0, 1: -1.0}),
            "llm": ((seat + PROJECTED + 2, 0, LLM_NUMBERS), {2: 8.0}),
        }
        params: Params = {
            "W": rng.normal(0, 1.0, (dimension, HIDDEN)),
            "b": np.zeros(HIDDEN),
        }
        for stage, (shape, prior) in widths.items():
            params |= init_scorer(stage, shape, rng, prior)
        return cls(params, projection, unit)

    def rollout(
        self,
        tables: Tables,
        inputs: TeamInputs,
        rates: _Array,
        choose: Choose = greedy,
        allowed: Allowed | None = None,
    ) -> Rollout:
        """Decide a plan for each row, stage after stage.

        Args:
            tables: The options.
            inputs: B queries.
            rates: Quality that one `unit` of cost must bring, more than zero, shape (B,).
            choose: Picks options: `greedy`, `sampled` or `forced`.
            allowed: What may be chosen.
        """
        hidden = np.tanh(inputs.vectors @ self.params["W"] + self.params["b"])
        cascade = Cascade(
            self.params,
            self.unit,
            tables,
            inputs,
            rates,
            choose=choose,
            allowed=allowed or Allowed(),
            hidden=hidden,
        )
        cascade.run()
        return Rollout(cascade.plans(), tuple(cascade.steps), hidden, inputs.vectors)

    def backward(self, rollout: Rollout, upstream: list[_Array]) -> Params:
        """Return the gradients of all parameters.

        Args:
            rollout: From `rollout`.
            upstream: Gradient of each step's logits, shapes as in ``rollout.steps``.
        """
        gradients = {name: np.zeros_like(value) for name, value in self.params.items()}
        on_hidden = np.zeros(rollout.hidden.shape)
        for step, grad in zip(rollout.steps, upstream, strict=True):
            context = scorer_backward(self.params, step.stage, step.scored, grad, gradients)
            if step.stage in ("domain", "mode", "role"):
                on_hidden[step.rows] += context[:, :HIDDEN]
        on_hidden *= 1.0 - rollout.hidden**2
        gradients["W"] += rollout.vectors.T @ on_hidden
        gradients["b"] += on_hidden.sum(axis=0)
        return gradients
