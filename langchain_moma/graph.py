"""MoMA inside a LangGraph graph: a node that decides and goes, or a conditional edge.

The conversation's routing state travels in the graph's state as plain data, so that any
checkpointer keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, MessagesState
from langgraph.types import Command, Send

from langchain_moma.conversation import last_turn, messages_in
from langchain_moma.decisions import MoMARecord
from langchain_moma.destinations import Destinations, Stop
from langchain_moma.several import Several, check_several
from langchain_moma.telemetry import Telemetry
from moma_core import MoMARouter, Preference

__all__ = ["MoMAState", "RoutingNode", "RoutingPath", "as_edge", "as_node"]

_KEY = "moma"
_NAME = "router"


class MoMAState(MessagesState):
    """Graph state with the messages and what the router last decided.

    A state without the key ``moma`` works too, but LangGraph then drops what a turn leaves for the
    next one. Add further keys in a subclass.

    Example:
        >>> class Support(MoMAState):
        ...     ticket: str
        >>> sorted(Support.__annotations__)
        ['messages', 'moma', 'ticket']
    """

    moma: MoMARecord


class RoutingNode(Protocol):
    """A LangGraph node that decides and goes."""

    def __call__(self, state: Any, config: RunnableConfig) -> Command[Any]:
        """Decide from the state of the graph."""


class RoutingPath(Protocol):
    """A path for ``add_conditional_edges``."""

    def __call__(self, state: Any, config: RunnableConfig) -> str | list[Send]:
        """Return the name of the next node, or one `Send` for each of several."""


def as_node(
    router: MoMARouter,
    destinations: Sequence[str] | Mapping[str, str],
    *,
    llm: str | None = None,
    default: str | None = None,
    preference: str | Preference | None = None,
    several: Several = "first",
    active_agent: str | None = None,
    telemetry: Telemetry | None = None,
    name: str = _NAME,
) -> RoutingNode:
    """Return a LangGraph node that routes and goes to the chosen node.

    It reads the last human text from ``state["messages"]`` (or ``state["query"]``), goes with a
    `Command`, and leaves a `MoMARecord` in ``state["moma"]``: the decision and the conversation's
    routing state as plain data, so that a checkpointer keeps both. Draw no static edge from it.

    Args:
        router: Decides. Registered names without a node are never chosen.
        destinations: Agent and LLM names that have a node: the node's name is the same, or given by
            a mapping.
        llm: Node for every LLM that has no node of its own, and for teams of LLMs. `llm_node` is
            one; yours finds the choice in ``decision_in(state["moma"])``.
        default: Node for what neither an agent nor an LLM can take; else `NoTargetError` is raised.
        preference: As in `MoMARouter.route`; for one call:
            ``config={"configurable": {"moma_preference": "cost"}}``.
        several: ``"first"``: each query goes to one agent. Else one that asks for several things
            may go to several: ``"parallel"`` sends to all at once, each with its own decision;
            ``"in_order"`` goes to the first, to the next whenever the graph comes back to this
            node, and at last to the end: draw an edge from each agent back here.
        active_agent: Key of the graph's state that also gets the node's name; ``"active_agent"``
            lets a swarm (langgraph-swarm) go on from there.
        telemetry: Counters.
        name: Name of the node when it is added without one.

    Raises:
        UnknownNameError: A destination is not registered with the router.
        InvalidInputError: There is no destination at all, or no such ``several``.
        InvalidPreferenceError: There is no such preference.

    Example:
        >>> from langgraph.graph import START, StateGraph
        >>> from moma_core import AgentCard, MoMARouter
        >>> card = AgentCard("shout", "Put text in capitals", examples=("write hello in capitals",))
        >>> router = MoMARouter.from_cards([card], llms=None)
        >>> builder = StateGraph(MoMAState)
        >>> _ = builder.add_node(as_node(router, ["shout"], default="sorry"))
        >>> _ = builder.add_node("shout", lambda s: {"messages": s["messages"][-1].text.upper()})
        >>> _ = builder.add_node("sorry", lambda s: {"messages": "nobody can do that"})
        >>> graph = builder.add_edge(START, "router").compile()
        >>> end = graph.invoke({"messages": "write hello in capitals"})
        >>> end["messages"][-1].text, end["moma"]["decision"]["targets"]
        ('WRITE HELLO IN CAPITALS', ['shout'])
    """
    check_several(several)
    ways = Destinations.of(router, destinations, llm, default, preference, telemetry, several)
    node = _Node(ways, several, active_agent)

    def decide(state: Any, config: RunnableConfig) -> Command[Any]:
        return node.command(state, config)

    # LangGraph draws the edges from this annotation, and compile() refuses a name without a node.
    ends: Any = Literal[(*ways.names, END)] if several == "in_order" else Literal[ways.names]
    decide.__annotations__["return"] = Command[ends]
    decide.__name__ = decide.__qualname__ = name
    return decide


def as_edge(
    router: MoMARouter,
    destinations: Sequence[str] | Mapping[str, str],
    *,
    llm: str | None = None,
    default: str | None = None,
    preference: str | Preference | None = None,
    several: Literal["first", "parallel"] = "first",
    telemetry: Telemetry | None = None,
    name: str = _NAME,
) -> RoutingPath:
    """Return a path for ``add_conditional_edges``; its path map is in its return annotation.

    An edge cannot write to the graph's state: take `as_node` where the conversation's routing state
    matters, or where a node must know which LLM was chosen.

    Args:
        router: As in `as_node`.
        destinations: As in `as_node`.
        llm: As in `as_node`.
        default: As in `as_node`.
        preference: As in `as_node`.
        several: As in `as_node`; an edge cannot come back, so not in order.
        telemetry: Counters.
        name: Name of the branch; two edges from one node need different ones.

    Raises:
        UnknownNameError: A destination is not registered with the router.
        InvalidInputError: There is no destination at all, or no such ``several``.
        InvalidPreferenceError: There is no such preference.

    Example:
        >>> from langgraph.graph import START, MessagesState, StateGraph
        >>> from moma_core import AgentCard, MoMARouter
        >>> card = AgentCard("shout", "Put text in capitals", examples=("write hello in capitals",))
        >>> router = MoMARouter.from_cards([card], llms=None)
        >>> builder = StateGraph(MessagesState)
        >>> _ = builder.add_conditional_edges(START, as_edge(router, {"shout": "loud"}))
        >>> _ = builder.add_node("loud", lambda s: {"messages": s["messages"][-1].text.upper()})
        >>> builder.compile().invoke({"messages": "write hello in capitals"})["messages"][-1].text
        'WRITE HELLO IN CAPITALS'
    """
    check_several(several, ("first", "parallel"))
    ways = Destinations.of(router, destinations, llm, default, preference, telemetry, several)

    def path(state: Any, config: RunnableConfig) -> str | list[Send]:
        stops, record = ways.route(_conversation(state), _get(state, _KEY), config)
        if several == "parallel" and len(stops) > 1:
            return _sends(stops, record, state)
        return stops[0].node

    path.__annotations__["return"] = Literal[ways.names]
    path.__name__ = path.__qualname__ = name
    return path


@dataclass(frozen=True)
class _Node:
    """What `as_node` does with a graph's state."""

    ways: Destinations
    several: Several
    active_agent: str | None

    def command(self, state: Any, config: RunnableConfig) -> Command[Any]:
        before = _get(state, _KEY)
        turn = _turn(state)
        if before and self.several == "in_order" and before.get("turn") == turn:
            return self._next(before)
        stops, record = self.ways.route(_conversation(state), before, config)
        if self.several == "parallel" and len(stops) > 1:
            return Command(goto=_sends(stops, record, state), update=self._update(stops, record))
        if self.several == "in_order":
            record = {**record, "turn": turn, "pending": [stop.node for stop in stops[1:]]}
        return Command(goto=stops[0].node, update=self._update(stops, record))

    def _next(self, before: MoMARecord) -> Command[Any]:
        """Go to the next agent of the turn, or end it."""
        pending = before.get("pending") or []
        if not pending:
            return Command(goto=END, update={_KEY: {**before, "turn": None}})
        record: MoMARecord = {**before, "pending": pending[1:]}
        return Command(goto=pending[0], update=self._update([Stop(pending[0], None)], record))

    def _update(self, stops: Sequence[Stop], record: MoMARecord) -> dict[str, Any]:
        active = {} if self.active_agent is None else {self.active_agent: stops[0].node}
        return {_KEY: record, **active}


def _sends(stops: Sequence[Stop], record: MoMARecord, state: Any) -> list[Send]:
    """Return one `Send` an agent, each with the state and a decision for itself alone."""
    keys = state if isinstance(state, Mapping) else vars(state)
    whole = {key: _get(state, key) for key in keys}
    return [Send(stop.node, {**whole, _KEY: _only(record, stop.target)}) for stop in stops]


def _only(record: MoMARecord, target: str | None) -> MoMARecord:
    return {**record, "decision": {**(record["decision"] or {}), "targets": [target]}}


def _turn(state: Any) -> str:
    turn = last_turn(messages_in(_conversation(state)))
    return str(turn[0].id or turn[0].text)


def _get(state: Any, key: str) -> Any:
    return state.get(key) if isinstance(state, Mapping) else getattr(state, key, None)


def _conversation(state: Any) -> Any:
    if isinstance(state, Mapping):
        return state
    return {key: _get(state, key) for key in ("messages", "query")}
