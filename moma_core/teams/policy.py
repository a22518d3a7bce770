"""One pass through the cascade's stages (MasRouter, sect. 4); see `policy` for the whole.

Builds each stage's context from what was decided before and asks the stage's scorer. Knows the
parameters by name only.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moma_core.teams.features import Tables, TeamInputs, llm_numbers, query_numbers
from moma_core.teams.network import Params, scorer_forward
from moma_core.teams.plans import PlanBatch
from moma_core.teams.steps import Allowed, Choose, Step

__all__ = ["Cascade"]

_Array = npt.NDArray[np.float64]
_Index = npt.NDArray[np.intp]


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
        self.steps: list[Step] = []

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
        step = Step(stage, seat, rows, logits, scored, np.zeros(len(rows), np.intp))
        step.chosen[:] = self._choose(step)
        self.steps.append(step)
        return step.chosen
