"""Who may be chosen now: enabled, healthy, allowed by the conversation's state, not excluded.

Knows no scores: an agent that is not eligible is never ranked, so no decision can name it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agent_routing.catalog import Snapshot
from moma_core.agent_routing.states import StateMachine
from moma_core.types import RoutingState

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Eligible", "eligible_agents"]


@dataclass(frozen=True, slots=True, eq=False)
class Eligible:
    """The agents that may be chosen, and why not the others.

    Args:
        rows: Of the snapshot, those that may be chosen.
        total: How many agents are registered.
        left_out: Reason and number of agents, each agent counted once.
        state: Names of the active states.
    """

    rows: npt.NDArray[np.intp]
    total: int
    left_out: tuple[tuple[str, int], ...] = ()
    state: tuple[str, ...] = ()

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out)
        counted = f"{self.rows.size} of {self.total} agents"
        return f"{counted} ({reasons})" if reasons else counted

    @property
    def why_nobody(self) -> str:
        """Why an LLM takes the query where no agent may be chosen."""
        if not self.total:
            return "no agents are registered"
        where = f" in state {' + '.join(self.state)}" if self.state else ""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out)
        return f"none of {self.total} agents is enabled and eligible{where} ({reasons})"


def eligible_agents(
    snapshot: Snapshot,
    states: StateMachine,
    state: RoutingState,
    unhealthy: Collection[str] = (),
    exclude: Collection[str] = (),
) -> Eligible:
    """Return which agents may be chosen in ``state``.

    Args:
        snapshot: All agents.
        states: Says which of them a state allows.
        state: Where the conversation stands.
        unhealthy: Names that failed lately.
        exclude: Names that may not be chosen this time.
    """
    masks = [("disabled", snapshot.enabled)]
    if unhealthy:
        masks.append(("unhealthy", _without(snapshot, unhealthy)))
    if exclude:
        masks.append(("excluded", _without(snapshot, exclude)))
    if state.active:
        categories = [record.card.categories for record in snapshot.records]
        allowed = states.eligible(state, snapshot.names, categories)
        if allowed is not None:
            masks.append(("outside the state", allowed))
    eligible = np.ones(len(snapshot.records), dtype=bool)
    left_out = []
    for reason, mask in masks:
        count = int((eligible & ~mask).sum())
        eligible &= mask
        if count:
            left_out.append((reason, count))
    return Eligible(np.flatnonzero(eligible), eligible.size, tuple(left_out), state.active)


def _without(snapshot: Snapshot, names: Collection[str]) -> npt.NDArray[np.bool_]:
    mask = np.ones(len(snapshot.records), dtype=bool)
    mask[[snapshot.position[name] for name in names if name in snapshot.position]] = False
    return mask
