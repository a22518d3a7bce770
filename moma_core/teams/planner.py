"""Competing plans of one query: the cascade walked at several rates, each plan priced.

Knows the query's predictions; nothing of preferences, budgets or names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from moma_core.teams.candidates import Candidates
from moma_core.teams.checkpoint import TeamParts
from moma_core.teams.features import Tables, TeamInputs
from moma_core.teams.plans import PlanBatch
from moma_core.teams.steps import Allowed
from moma_core.teams.training import RATES

__all__ = ["TeamPlanner"]


@dataclass(frozen=True, eq=False)
class TeamPlanner:
    """Proposes plans for one query.

    Args:
        parts: What training produced.
    """

    parts: TeamParts

    @cached_property
    def tables(self) -> Tables:
        """The options as the cascade sees them."""
        return Tables.of(self.parts.options, self.parts.policy.projection)

    def candidates(self, inputs: TeamInputs, allowed: Allowed | None = None) -> Candidates:
        """Return the plan of each rate for one query."""
        rows = inputs.take(np.zeros(len(RATES), np.intp))
        walk = self.parts.policy.walk(self.tables, rows, np.array(RATES), allowed=allowed)
        return self._priced(walk.plans, rows)

    def alternatives(self, inputs: TeamInputs, allowed: Allowed | None = None) -> Candidates:
        """Return the plans of every mode at three rates for one query."""
        allowed = allowed or Allowed()
        n_modes, rates = len(self.parts.options.modes), np.array(RATES[:-2:2])
        open_modes = np.ones(n_modes, bool) if allowed.modes is None else allowed.modes
        parts = []
        rows = inputs.take(np.zeros(len(rates), np.intp))
        for mode in np.flatnonzero(open_modes):
            only = replace(allowed, modes=np.arange(n_modes) == mode)
            parts.append(self.parts.policy.walk(self.tables, rows, rates, allowed=only).plans)
        plans = PlanBatch.joined(parts)
        return self._priced(plans, inputs.take(np.zeros(len(plans), np.intp)))

    def cheapest(self, inputs: TeamInputs, allowed: Allowed) -> Candidates:
        """Return the plan of fewest calls, on each LLM alone; ``inputs`` is of one query."""
        found = self.alternatives(inputs, allowed)
        columns = np.arange(inputs.quality.shape[1])
        columns = columns if allowed.llms is None else columns[allowed.llms]
        least = found.plans.calls.sum(axis=1) * found.plans.length
        cheapest = found.plans.take(np.flatnonzero(least == least.min())[:1])
        plans = cheapest.take(np.zeros(len(columns), np.intp))
        seats = np.where(plans.seated, columns[:, None], -1)
        return self._priced(replace(plans, llms=seats), inputs.take(np.zeros(len(plans), np.intp)))

    def _priced(self, plans: PlanBatch, rows: TeamInputs) -> Candidates:
        quality = self.parts.value.predict(self.tables, rows, plans)
        return Candidates(plans, quality, plans.cost(rows.costs))
