"""MoMA inside a LangGraph graph: a node that decides and goes, or a conditional edge.

A graph ends without a word when a node goes to a name it does not have. Here every name is known
when the graph is compiled, and a decision for any other name raises.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from langchain_core.runnables import RunnableConfig
from langgraph.graph import MessagesState
from langgraph.types import Command

from langchain_moma.conversation import query_of
from langchain_moma.decisions import MoMARecord, dispatch, preference_in, record, state_in
from langchain_moma.registered import check_registered, unreachable
from moma_core import (
    InvalidInputError,
    MoMARouter,
    NoTargetError,
    Preference,
    RoutingDecision,
    UnknownNameError,
)

__all__ = ["MoMAState", "RoutingNode", "RoutingPath", "as_edge", "as_node"]

_KEY = "moma"
_NAME = "router"


class MoMAState(MessagesState):
    """Graph state with the messages and what the router last decided."""

    moma: MoMARecord


class RoutingNode(Protocol):
    """A LangGraph node that decides and goes."""

    def __call__(self, state: Any, config: RunnableConfig) -> Command[Any]:
        """Decide from the state of the graph."""


class RoutingPath(Protocol):
    """A path for ``add_conditional_edges``."""

    def __call__(self, state: Any, config: RunnableConfig) -> str:
        """Return the name of the next node."""


class _Route(NamedTuple):
    node: str
    record: MoMARecord


@dataclass(frozen=True)
class _Destinations:
    """Target names and the graph nodes that take them."""

    router: MoMARouter
    nodes: Mapping[str, str]
    llm: str | None
    default: str | None
    preference: str | Preference | None

    def __post_init__(self) -> None:
        check_registered(self.router, self.nodes)
        if not self.names:
            raise InvalidInputError(
                "a router needs somewhere to go, got no destination. Name the nodes, for example "
                "as_node(router, ['calculator'], llm='chat')."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Every node that can be reached, once."""
        extra = [node for node in (self.llm, self.default) if node is not None]
        return tuple(dict.fromkeys([*self.nodes.values(), *extra]))

    def route(self, state: Any, config: RunnableConfig) -> _Route:
        """Decide where the graph goes from ``state``."""
        before = state_in(_get(state, _KEY))
        start = time.perf_counter()
        try:
            decision = self.router.route(
                query_of(_conversation(state)),
                preference_in(config, self.preference),
                before,
                exclude=unreachable(self.router, self.nodes, any_llm=self.llm is not None),
            )
        except NoTargetError as error:
            if self.default is None:
                raise
            ms = (time.perf_counter() - start) * 1e3
            return _Route(self.default, record(None, before, str(error), ms))
        ms = (time.perf_counter() - start) * 1e3
        dispatch(decision.to_dict(), config)
        return _Route(self._node_for(decision), record(decision, before, decision.reason, ms))

    def _node_for(self, decision: RoutingDecision) -> str:
        node = self.nodes.get(decision.target)
        if node is None and decision.kind == "llm":
            node = self.llm
        if node is None:
            raise UnknownNameError(
                f"the router chose {decision.target!r}, which has no node; the nodes are "
                f"{list(self.names)!r}. Add it to the destinations of as_node or as_edge."
            )
        return node


def as_node(
    router: MoMARouter,
    destinations: Sequence[str] | Mapping[str, str],
    *,
    llm: str | None = None,
    default: str | None = None,
    preference: str | Preference | None = None,
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
        llm: Node for every LLM that has no node of its own; it finds the chosen LLM by
            ``decision_in(state["moma"]).target``.
        default: Node for what neither an agent nor an LLM can take; else `NoTargetError` is raised.
        preference: As in `MoMARouter.route`; for one call:
            ``config={"configurable": {"moma_preference": "cost"}}``.
        name: Name of the node when it is added without one.

    Raises:
        UnknownNameError: A destination is not registered with the router.
        InvalidInputError: There is no destination at all.

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
    ways = _Destinations(router, _nodes(destinations), llm, default, preference)

    def node(state: Any, config: RunnableConfig) -> Command[Any]:
        where = ways.route(state, config)
        return Command(goto=where.node, update={_KEY: where.record})

    # LangGraph draws the edges from this annotation, and compile() refuses a name without a node.
    ends: Any = Literal[ways.names]
    node.__annotations__["return"] = Command[ends]
    node.__name__ = node.__qualname__ = name
    return node


def as_edge(
    router: MoMARouter,
    destinations: Sequence[str] | Mapping[str, str],
    *,
    llm: str | None = None,
    default: str | None = None,
    preference: str | Preference | None = None,
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
        name: Name of the branch; two edges from one node need different ones.

    Raises:
        UnknownNameError: A destination is not registered with the router.
        InvalidInputError: There is no destination at all.

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
    ways = _Destinations(router, _nodes(destinations), llm, default, preference)

    def path(state: Any, config: RunnableConfig) -> str:
        return ways.route(state, config).node

    path.__annotations__["return"] = Literal[ways.names]
    path.__name__ = path.__qualname__ = name
    return path


def _nodes(destinations: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    if isinstance(destinations, Mapping):
        return dict(destinations)
    if isinstance(destinations, str):
        raise InvalidInputError(
            f"destinations are a list of names, got one text. Write [{destinations!r}]."
        )
    return {name: name for name in destinations}


def _get(state: Any, key: str) -> Any:
    return state.get(key) if isinstance(state, Mapping) else getattr(state, key, None)


def _conversation(state: Any) -> Any:
    if isinstance(state, Mapping):
        return state
    return {key: _get(state, key) for key in ("messages", "query")}
