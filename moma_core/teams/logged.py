"""Plans that were run, with what became of them: drawn to explore, learnt from by imitation.

An imitation step raises the log-probability of logged plans, the more the better they did; it is
the way to learn from a team harness that cannot be run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError, UnknownNameError
from moma_core.teams.features import Tables, TeamInputs
from moma_core.teams.network import Adam
from moma_core.teams.options import TeamOptions
from moma_core.teams.plans import PlanBatch
from moma_core.teams.policy import Policy
from moma_core.teams.steps import forced
from moma_core.teams.training import Progress, ascent
from moma_core.types import TeamPlan

__all__ = ["LoggedPlans", "imitate", "index_plans"]

_Array = npt.NDArray[np.float64]
_Index = npt.NDArray[np.intp]


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
    steps: int = 200,
    step_size: float = 0.01,
    sharpness: float = 2.0,
    progress: Progress | None = None,
) -> list[float]:
    """Train ``policy`` in place on logged plans, weighted by how well they did.

    The weight is ``exp(sharpness (U - mean U) / std U)``, at most 20, over plans of like rate.
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
        sharpness: 0 copies the logging policy; more prefers what did well.
        progress: Called after each step.

    Returns:
        Weighted mean log-probability of each step's plans, those it cannot draw left out.
    """
    utility = logged.utility(policy.unit)
    weight = np.exp(sharpness * _standard(utility, logged.rates))
    weight = np.minimum(weight, 20.0)
    weight /= weight.mean()
    optimiser, history = Adam(policy.params, step_size), []
    for number in range(steps):
        rows = rng.integers(len(logged.plans), size=min(256, len(logged.plans)))
        plans = logged.plans.take(rows)
        choose = forced(plans, tables.sizes)
        walk = policy.walk(tables, inputs.take(rows), logged.rates[rows], choose)
        upstream = ascent(walk, weight[rows], 1e-3, 0.5, domains[rows])
        optimiser.step(policy.backward(walk, upstream), 1.0 - 0.9 * number / steps)
        likelihood = weight[rows] * walk.log_probability
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
    from moma_core.teams.modes import calls

    card = tables.options.modes[mode]
    calls(card, len(plan.members), plan.rounds)  # refuses what the mode does not take
    wanted = (len(plan.members), min(plan.rounds, card.max_rounds))
    return [tuple(size) for size in tables.sizes.tolist()].index(wanted)


def _find(what: str, names: Sequence[str], name: str) -> int:
    if name not in names:
        raise UnknownNameError(f"no {what} {name!r}; there are {list(names)}.")
    return list(names).index(name)
