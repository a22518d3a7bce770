"""The cascade (MasRouter, sect. 4): domain -> mode -> size -> roles in order -> an LLM each.

``p(plan | query) = p(mode) p(size | mode) prod_i p(role_i | mode, roles before) prod_i p(llm_i |
mode, role_i, LLMs before)``, every factor a softmax over scored options. Draws, judges and
differentiates plans; knows no outcome.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moma_core.teams.cascade import Cascade
from moma_core.teams.features import (
    LLM_NUMBERS,
    MODE_NUMBERS,
    NUMBERS,
    ROLE_NUMBERS,
    SEAT_NUMBERS,
    SIZE_NUMBERS,
    Tables,
    TeamInputs,
)
from moma_core.teams.network import Params, init_scorer, scorer_backward
from moma_core.teams.steps import Allowed, Choose, Walk, greedy

__all__ = ["HIDDEN", "PROJECTED", "Policy"]

HIDDEN, PROJECTED = 32, 32
_Array = npt.NDArray[np.float64]


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

    def walk(
        self,
        tables: Tables,
        inputs: TeamInputs,
        rates: _Array,
        choose: Choose = greedy,
        allowed: Allowed | None = None,
    ) -> Walk:
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
            self.params, self.unit, tables, inputs, rates, choose, allowed or Allowed(), hidden
        )
        cascade.run()
        return Walk(cascade.plans(), tuple(cascade.steps), hidden, inputs.vectors)

    def backward(self, walk: Walk, upstream: list[_Array]) -> Params:
        """Return the gradients of all parameters.

        Args:
            walk: From `walk`.
            upstream: Gradient of each step's logits, shapes as in ``walk.steps``.
        """
        gradients = {name: np.zeros_like(value) for name, value in self.params.items()}
        on_hidden = np.zeros(walk.hidden.shape)
        for step, slope in zip(walk.steps, upstream, strict=True):
            context = scorer_backward(self.params, step.stage, step.scored, slope, gradients)
            if step.stage in ("domain", "mode", "role"):
                on_hidden[step.rows] += context[:, :HIDDEN]
        on_hidden *= 1.0 - walk.hidden**2
        gradients["W"] += walk.vectors.T @ on_hidden
        gradients["b"] += on_hidden.sum(axis=0)
        return gradients
