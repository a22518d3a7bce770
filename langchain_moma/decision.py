"""How a decision travels: a custom event in the trace, a plain dict in a graph's state.

Own classes in a checkpoint make LangGraph warn and later refuse them, so only plain data is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, NotRequired

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_callback_manager_for_config
from typing_extensions import TypedDict  # typing's own gives no schema before Python 3.12

from moma_core import InvalidInputError, Preference, RoutingDecision, RoutingState

__all__ = [
    "EVENT",
    "EXCLUDE",
    "FALLBACK_EVENT",
    "PREFERENCE",
    "MoMARecord",
    "adispatch",
    "decision_in",
    "dispatch",
    "excluded_in",
    "plain_state",
    "preference_in",
    "record",
    "state_in",
]

EVENT = "moma.route"
"""Name of the custom event; its data is `RoutingDecision.to_dict`."""

FALLBACK_EVENT = "moma.fallback"
"""Name of the custom event when an LLM failed and the next one is asked."""

EXCLUDE = "moma_exclude"
"""Key under ``config["configurable"]`` with names that may not be chosen in one call."""

PREFERENCE = "moma_preference"
"""Key under ``config["configurable"]`` that sets the preference for one call."""


class MoMARecord(TypedDict):
    """What a routing node leaves in the graph's state: plain data, fit for any checkpointer.

    Example:
        >>> from moma_core import RoutingDecision
        >>> left = record(RoutingDecision("agent", ("weather",), 0.97), None, "it fits", 3.1)
        >>> left["decision"]["targets"], left["state"]["last_target"], left["reason"]
        (['weather'], None, 'it fits')
    """

    decision: dict[str, Any] | None
    """`RoutingDecision.to_dict`; None when nothing fitted and the default node took over."""

    state: dict[str, Any]
    """Conversation state for the next turn."""

    reason: str
    """Why, in words."""

    ms: float
    """Milliseconds that the route took."""

    turn: NotRequired[str | None]
    """Several agents in order: the turn that is being worked on."""

    pending: NotRequired[list[str]]
    """Several agents in order: nodes still to visit."""


def record(
    decision: RoutingDecision | None, state: RoutingState | None, reason: str, ms: float
) -> MoMARecord:
    """Return plain data for a graph's state."""
    kept = decision.state if decision is not None else state or RoutingState()
    decided = decision.to_dict() if decision is not None else None
    return {"decision": decided, "state": plain_state(kept), "reason": reason, "ms": ms}


def plain_state(state: RoutingState) -> dict[str, Any]:
    """Return a conversation's routing state as plain data; `state_in` reads it back."""
    plain = asdict(state)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


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
    """Rebuild the conversation's routing state, if a turn left one.

    Raises:
        InvalidInputError: Something else lies in the record's place.
    """
    if not record:
        return None
    if not isinstance(record, Mapping):
        raise InvalidInputError(
            f"the router's record in the graph's state is a dict, got {record!r:.60}. Keep other "
            "things under another key."
        )
    return RoutingState.of(record["state"]) if record.get("state") else None


def preference_in(
    config: RunnableConfig | None, default: str | Preference | None
) -> str | Preference | None:
    """Return the preference set for this call, else ``default``."""
    chosen: str | Preference | None = ((config or {}).get("configurable") or {}).get(PREFERENCE)
    return default if chosen is None else chosen


def excluded_in(config: RunnableConfig | None) -> frozenset[str]:
    """Return the names that may not be chosen in this call.

    Raises:
        InvalidInputError: They are not a list of names.
    """
    names: Collection[str] = ((config or {}).get("configurable") or {}).get(EXCLUDE) or ()
    if isinstance(names, str) or not isinstance(names, Collection):
        raise InvalidInputError(
            f"{EXCLUDE} is a list of names, got {names!r:.60}. Write ['weather', ...]."
        )
    return frozenset(names)


def dispatch(data: dict[str, Any], config: RunnableConfig, event: str = EVENT) -> None:
    """Send an event, `moma.route` unless told otherwise, to whoever listens to this run."""
    if _inside_run(config):
        dispatch_custom_event(event, data, config=config)


async def adispatch(data: dict[str, Any], config: RunnableConfig, event: str = EVENT) -> None:
    """Send an event without blocking the loop."""
    if _inside_run(config):
        await adispatch_custom_event(event, data, config=config)


def _inside_run(config: RunnableConfig) -> bool:
    # A node called by hand, outside any graph, has no run to attach an event to.
    return get_callback_manager_for_config(config).parent_run_id is not None
