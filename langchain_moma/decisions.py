"""How a decision travels: a custom event in the trace, a plain dict in a graph's state.

Own classes in a checkpoint make LangGraph warn and later refuse them, so only plain data is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypedDict

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_callback_manager_for_config

from moma_core import Preference, RoutingDecision, RoutingState

__all__ = [
    "EVENT",
    "PREFERENCE",
    "MoMARecord",
    "adispatch",
    "decision_in",
    "dispatch",
    "preference_in",
    "record",
    "state_in",
]

EVENT = "moma.route"
"""Name of the custom event; its data is `RoutingDecision.to_dict`."""

PREFERENCE = "moma_preference"
"""Key under ``config["configurable"]`` that sets the preference for one call."""


class MoMARecord(TypedDict):
    """What a routing node leaves in the graph's state: plain data, fit for any checkpointer."""

    decision: dict[str, Any] | None
    """`RoutingDecision.to_dict`; None when nothing fitted and the default node took over."""

    state: dict[str, Any]
    """Conversation state for the next turn."""

    reason: str
    """Why, in words."""

    ms: float
    """Milliseconds that the route took."""


def record(
    decision: RoutingDecision | None, state: RoutingState | None, reason: str, ms: float
) -> MoMARecord:
    """Return plain data for a graph's state."""
    kept = decision.state if decision is not None else state or RoutingState()
    plain = {**asdict(kept), "active": list(kept.active)}
    decided = decision.to_dict() if decision is not None else None
    return {"decision": decided, "state": plain, "reason": reason, "ms": ms}


def decision_in(record: Mapping[str, Any] | None) -> RoutingDecision | None:
    """Rebuild the decision from a graph's state, for example ``decision_in(state["moma"])``.

    Example:
        >>> from moma_core import RoutingDecision
        >>> plain = RoutingDecision("agent", ("weather",), 0.97).to_dict()
        >>> decision_in({"decision": plain}).target
        'weather'
        >>> decision_in(None) is None
        True
    """
    if not record or not record.get("decision"):
        return None
    return RoutingDecision.from_dict(record["decision"])


def state_in(record: Mapping[str, Any] | None) -> RoutingState | None:
    """Rebuild the conversation's routing state, if a turn left one."""
    if not record or not record.get("state"):
        return None
    plain = record["state"]
    return RoutingState(tuple(plain["active"]), plain["turns"], plain["last_target"])


def preference_in(
    config: RunnableConfig | None, default: str | Preference | None
) -> str | Preference | None:
    """Return the preference set for this call, else ``default``."""
    chosen: str | Preference | None = ((config or {}).get("configurable") or {}).get(PREFERENCE)
    return default if chosen is None else chosen


def dispatch(data: dict[str, Any], config: RunnableConfig) -> None:
    """Send the `moma.route` event, once, to whoever listens to this run."""
    if _inside_run(config):
        dispatch_custom_event(EVENT, data, config=config)


async def adispatch(data: dict[str, Any], config: RunnableConfig) -> None:
    """Send the `moma.route` event without blocking the loop."""
    if _inside_run(config):
        await adispatch_custom_event(EVENT, data, config=config)


def _inside_run(config: RunnableConfig) -> bool:
    # A node called by hand, outside any graph, has no run to attach an event to.
    return get_callback_manager_for_config(config).parent_run_id is not None
