"""Who waits for the user's answer: an agent whose last words were a question, or that interrupted.

"Vienna" after "Which city?" belongs to the agent that asked. The adapters say so under
``"waiting_for"`` in the conversation state that they pass to `MoMARouter.route` and `rank`; what is
made of it is the router's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from langchain_moma.decision import MoMARecord, decision_in, plain_state, state_in
from langchain_moma.messages import last_turn, messages_in
from moma_core import InvalidInputError, RoutingState
from moma_core.errors import InvalidQueryError

__all__ = [
    "WAITING",
    "agent_before",
    "asks",
    "waiting_for",
    "waits",
    "with_waiting",
]

WAITING = "waiting_for"
"""Key of a conversation state with the agent that waits for the user's answer, or None."""

_ASKS = re.compile("[?\uff1f\u061f\u055e\u1367]")  # as scripts write it


def waits(state: Mapping[str, Any], agent: str | None = None) -> dict[str, MoMARecord]:
    """Return the update by which an agent's node says that it waits for the user's answer.

    Needed only where the question has no question mark and is no interrupt.

    Args:
        state: The graph's.
        agent: Who waits; None: whom the router chose.

    Raises:
        InvalidInputError: No routing node came before, or it chose no agent.

    Example:
        >>> from langchain_moma.decision import record
        >>> from moma_core import RoutingDecision
        >>> left = record(RoutingDecision("agent", ("refund",), 0.97), None, "it fits", 3.1)
        >>> waits({"moma": left})["moma"]["state"]["waiting_for"]
        'refund'
    """
    before: MoMARecord | None = state.get("moma")
    name = agent or (agent_before(before) if before else None)
    if not before or name is None:
        raise InvalidInputError(
            "nobody knows who waits: no routing node chose an agent. Go to the node by "
            "as_node(...), or name it: waits(state, 'issue_refund')."
        )
    return {"moma": {**before, "state": {**(before.get("state") or {}), WAITING: name}}}


def waiting_for(conversation: Any, before: Mapping[str, Any] | None) -> str | None:
    """Return the agent that waits for the words that a conversation ends with, if one does.

    Args:
        conversation: Text, messages, or a dict with them.
        before: The record that the last turn left.
    """
    if not before:
        return None
    state_in(before)  # refuses what is no record
    told = (before.get("state") or {}).get(WAITING)
    if isinstance(told, str) and told:
        return told
    name = agent_before(before)
    try:
        messages = messages_in(conversation)
    except InvalidQueryError:
        return None
    return name if name is not None and asks(messages, before.get("asked")) else None


def with_waiting(
    state: RoutingState | None, agent: str | None
) -> RoutingState | dict[str, Any] | None:
    """Return a conversation's state, with the agent that waits where one does.

    Example:
        >>> with_waiting(RoutingState(last_target="refund"), "refund")["waiting_for"]
        'refund'
    """
    if agent is None:
        return state
    return {**plain_state(state or RoutingState()), WAITING: agent}


def agent_before(before: Mapping[str, Any]) -> str | None:
    """Return the agent that had the last turn; of several in order, the last one that was visited.

    Example:
        >>> agent_before({"decision": None}) is None
        True
    """
    decision = decision_in(before)
    if decision is None or decision.kind != "agent":
        return None
    visited = len(decision.targets) - len(before.get("pending") or ())
    return decision.targets[max(visited, 1) - 1]


def asks(messages: Sequence[BaseMessage], asked: str | None = None) -> bool:
    """Say whether the turn before the last human message ended with a question, or amid its work.

    Args:
        messages: The conversation.
        asked: Id of the human message that the turn before was routed by, where it is known: if
            nothing came after it, the turn was interrupted.

    Example:
        >>> turns = [("human", "book a room"), ("ai", "Which city?"), ("human", "Vienna")]
        >>> asks(messages_in(turns)), asks(messages_in(turns[2:]))
        (True, False)
        >>> asks(messages_in([turns[0], ("ai", "It is booked."), turns[2]]))
        False
    """
    earlier = messages[: len(messages) - len(last_turn(messages))]
    if not earlier:
        return False
    last = earlier[-1]
    if not isinstance(last, AIMessage):
        return asked is not None and last.id == asked
    if last.tool_calls:
        return True  # its tools wait for somebody's approval
    lines = str(last.text).strip().splitlines()
    return bool(lines and _ASKS.search(lines[-1]))
