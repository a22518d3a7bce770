"""MoMA inside a LangGraph graph: a node that decides and goes, or a conditional edge."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, MessagesState
from langgraph.types import Command, Send

from langchain_moma.calls import by_room, tokens_of, window_of
from langchain_moma.decision import (
    FALLBACK_EVENT,
    MoMARecord,
    adispatch,
    check_registered,
    check_wish,
    decision_in,
    dispatch,
    excluded_in,
    preference_in,
    record,
    refuse_without_llms,
    state_in,
    unreachable,
)
from langchain_moma.messages import (
    LLM_KEY,
    is_wordless,
    last_turn,
    marked,
    messages_in,
    query_of,
    some_query_of,
)
from langchain_moma.portable import portable_messages
from langchain_moma.runnable import Several, check_several
from langchain_moma.teams.answering import team_answer
from langchain_moma.telemetry import Telemetry
from langchain_moma.waiting import waiting_for, with_waiting
from moma_core import (
    InvalidInputError,
    LLMCard,
    MoMARouter,
    NoTargetError,
    Preference,
    Query,
    RoutingDecision,
    TeamPlan,
    UnknownNameError,
)
from moma_core.errors import InvalidQueryError
from moma_core.fallback import Fallback, FallbackOn, check_fallback_on
from moma_core.health import Health

__all__ = [
    "Destinations",
    "MoMAState",
    "RoutingNode",
    "RoutingPath",
    "Stop",
    "as_edge",
    "as_node",
    "llm_node",
    "named_nodes",
]

_KEY = "moma"
_NAME = "router"
_NO_LLM = (
    "Add llm_node(llms) to the graph and write as_node(router, [...], llm='llm'), or name a node "
    "for such queries: default='sorry'."
)
_NO_WORDS = (
    "the user's last message has no words to route by, and no LLM can be reached. Name a node for "
    "such turns: llm='llm', or default='sorry'."
)


class Stop(NamedTuple):
    """One node to go to, and the target that it stands for; None for the default node."""

    node: str
    target: str | None


@dataclass(frozen=True)
class Destinations:
    """Target names and the graph nodes that take them.

    Args:
        router: Decides.
        nodes: Node of each target.
        llm: Node of every LLM without a node of its own, and of teams.
        default: Node for what nothing can take.
        preference: As in `MoMARouter.route`.
        telemetry: Receives the decisions.
        several: Whether a query may go to several agents.
        max_latency: As in `MoMARouter.route`.

    Raises:
        UnknownNameError: A name is not registered with the router.
        InvalidInputError: There is nowhere to go.
        InvalidPreferenceError: There is no such preference.
    """

    router: MoMARouter
    nodes: Mapping[str, str]
    llm: str | None
    default: str | None
    preference: str | Preference | None
    telemetry: Telemetry
    several: bool = False
    max_latency: float | None = None

    def __post_init__(self) -> None:
        check_registered(self.router, self.nodes)
        check_wish(self.preference, self.max_latency)
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

    def route(
        self, conversation: Any, before: Mapping[str, Any] | None, config: RunnableConfig
    ) -> tuple[list[Stop], MoMARecord]:
        """Decide where the graph goes, and return what to keep of it.

        A turn without words, such as a lone image, goes past the agents, who are known by words.

        Args:
            conversation: Text, messages, or a dict with them.
            before: What the last turn left.
            config: Of the running node.

        Raises:
            InvalidQueryError: There is nothing to route by, or no node for a turn without words.
            NoTargetError: Nothing fits and there is no default node.
            UnknownNameError: The router named something that has no node.
        """
        state = state_in(before)
        waiting = with_waiting(state, waiting_for(conversation, before))
        reachable = self.router, self.nodes
        out = unreachable(*reachable, any_llm=self.llm is not None) | excluded_in(config)
        query = _query(conversation, wordless := is_wordless(conversation))
        if wordless:
            out |= frozenset(self.router.agents.names)
        preference = preference_in(config, self.preference)
        start = time.perf_counter()
        try:
            decision = self.router.route(
                query,
                preference,
                waiting,
                exclude=out,
                several=self.several,
                max_latency=self.max_latency,
            )
        except NoTargetError as error:
            if self.default is None:
                if wordless:
                    raise InvalidQueryError(_NO_WORDS) from error
                if self.llm is None:
                    refuse_without_llms(error, *reachable, _NO_LLM)
                raise
            ms = (time.perf_counter() - start) * 1e3
            self.telemetry.unrouted(str(error), ms, "node")
            return [Stop(self.default, None)], record(None, state, str(error), ms)
        ms = (time.perf_counter() - start) * 1e3
        self.telemetry.decided(decision, ms, "node")
        dispatch(decision.to_dict(), config)
        if decision.kind == "team":
            stops = [Stop(self._team_node(), None)]
        else:
            stops = [
                Stop(self.node_for(name, decision.kind_of(name)), name) for name in decision.targets
            ]
        left = record(decision, state, decision.reason, ms)
        return stops, {**left, "asked": last_turn(messages_in(conversation))[0].id}

    def _team_node(self) -> str:
        if self.llm is None:
            raise UnknownNameError(
                "the router chose a team of LLMs, and there is no node that asks one. Add "
                "llm_node(llms) to the graph, and write as_node(router, [...], llm='llm')."
            )
        return self.llm

    def node_for(self, target: str, kind: str) -> str:
        """Return the node that takes ``target``.

        Raises:
            UnknownNameError: There is none.
        """
        node = self.nodes.get(target)
        if node is None and kind == "llm":
            node = self.llm
        if node is None:
            raise UnknownNameError(
                f"the router chose {target!r}, which has no node; the nodes are "
                f"{list(self.names)!r}. Add it to the destinations of as_node or as_edge."
            )
        return node


def _query(conversation: Any, wordless: bool) -> Query:
    return some_query_of(messages_in(conversation)) if wordless else query_of(conversation)


def named_nodes(destinations: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Return the node of each target.

    Raises:
        InvalidInputError: They are no names.
    """
    if isinstance(destinations, Mapping):
        nodes = dict(destinations)
    else:
        listed = [destinations] if isinstance(destinations, str) else destinations or ()
        nodes = {name: name for name in listed}
    for name in (*nodes, *nodes.values()):
        if not isinstance(name, str):
            raise InvalidInputError(
                f"destinations are names of agents and nodes, got {name!r:.60}. Write "
                "['calculator'] or {'calculator': 'sums'}."
            )
    return nodes


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
    max_latency: float | None = None,
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
        max_latency: As in `MoMARouter.route`.
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
    ways = Destinations(
        router,
        named_nodes(destinations),
        llm,
        default,
        preference,
        telemetry or Telemetry(),
        several=several != "first",
        max_latency=max_latency,
    )
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
    max_latency: float | None = None,
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
        max_latency: As in `as_node`.
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
    ways = Destinations(
        router,
        named_nodes(destinations),
        llm,
        default,
        preference,
        telemetry or Telemetry(),
        several=several != "first",
        max_latency=max_latency,
    )

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


def llm_node(
    llms: Mapping[str, BaseChatModel],
    *,
    cards: Iterable[LLMCard] = (),
    health: Health | None = None,
    telemetry: Telemetry | None = None,
    fallback_on: FallbackOn | None = None,
    name: str = "llm",
) -> Runnable[MoMAState, dict[str, Any]]:
    """Return a node for ``as_node(..., llm="llm")``: it asks whom ``state["moma"]`` names.

    When that LLM fails, the next best of the decision that is in ``llms`` is asked.

    Args:
        llms: Chat models by the names of the router's LLMs.
        cards: Prices, ``router.llms.cards``, where teams are to count their cost.
        health: Circuit breakers; share one between objects that ask the same LLMs.
        telemetry: Counts failures.
        fallback_on: As in `ChatMoMA`.
        name: Name of the node when it is added without one.

    Raises:
        InvalidInputError: At a call: no routing node came before, or it chose an agent.
        UnknownNameError: At a call: the chosen LLM is not in ``llms``.

    Example:
        >>> from langgraph.graph import START, StateGraph
        >>> from langchain_moma import as_node
        >>> from langchain_moma.testing import ScriptedChat
        >>> from moma_core import AgentCard, MoMARouter
        >>> router = MoMARouter.from_cards([AgentCard("clock", "Tell the time")])
        >>> llms = {card.name: ScriptedChat(name=card.name) for card in router.llms.cards}
        >>> builder = StateGraph(MoMAState).add_node(as_node(router, [], llm="llm"))
        >>> graph = builder.add_node(llm_node(llms)).add_edge(START, "router").compile()
        >>> graph.invoke({"messages": "why do cats purr?"})["messages"][-1].text
        '... heard: why do cats purr?'
    """
    check_fallback_on(fallback_on)
    asking = _LLMNode(
        llms, tuple(cards), health or Health(), telemetry or Telemetry(), fallback_on, name
    )

    def ask(state: MoMAState, config: RunnableConfig) -> dict[str, Any]:
        decision, messages = asking.decision(state), messages_in(state)
        if decision.team is not None:
            return {"messages": [asking.team(decision.team).invoke(messages, config)]}
        fallback = asking.fallback(decision, messages)
        for attempt in fallback:
            with attempt:
                llm, sent = asking.prepared(attempt.name, messages)
                return asking.answered(llm.invoke(sent, config), attempt.name)
            dispatch(fallback.failures[-1].to_dict(), config, FALLBACK_EVENT)
        raise fallback.error()

    async def aask(state: MoMAState, config: RunnableConfig) -> dict[str, Any]:
        decision, messages = asking.decision(state), messages_in(state)
        if decision.team is not None:
            return {"messages": [await asking.team(decision.team).ainvoke(messages, config)]}
        fallback = asking.fallback(decision, messages)
        for attempt in fallback:
            with attempt:
                llm, sent = asking.prepared(attempt.name, messages)
                return asking.answered(await llm.ainvoke(sent, config), attempt.name)
            await adispatch(fallback.failures[-1].to_dict(), config, FALLBACK_EVENT)
        raise fallback.error()

    return RunnableLambda(ask, afunc=aask, name=name)


@dataclass(frozen=True)
class _LLMNode:
    """What `llm_node` asks: the chat models, and what happens when one fails."""

    llms: Mapping[str, BaseChatModel]
    cards: tuple[LLMCard, ...]
    health: Health
    telemetry: Telemetry
    fallback_on: FallbackOn | None
    name: str

    def decision(self, state: Any) -> RoutingDecision:
        """Return the decision that a routing node left."""
        decision = decision_in(state.get(_KEY))
        if decision is not None and decision.parts:  # of several requests, the one for an LLM
            mine = [name for name in decision.targets if decision.kind_of(name) == "llm"]
            if mine:
                decision = replace(decision, kind="llm", targets=(mine[0],))
        if decision is None or decision.kind == "agent":
            what = "none" if decision is None else f"the agent {decision.target!r}"
            raise InvalidInputError(
                f"node {self.name!r} asks the LLM that a routing node chose, got {what}. Go to it "
                f"by as_node(router, [...], llm={self.name!r})."
            )
        if decision.team is None and decision.target not in self.llms:
            raise UnknownNameError(
                f"the router chose {decision.target!r}, but the chat models are "
                f"{sorted(self.llms)!r}. Add it to the llms of llm_node."
            )
        return decision

    def team(self, plan: TeamPlan) -> Runnable[Any, Any]:
        """Return the team that was chosen."""
        return team_answer(plan, self.llms, self.cards)

    def fallback(self, decision: RoutingDecision, messages: Sequence[BaseMessage]) -> Fallback:
        """Return whom to ask: the chosen LLM, then the others by how well they were ranked.

        Those whose window is known to be too small come last.
        """
        names = dict.fromkeys([decision.target, *(c.name for c in decision.candidates)])
        cards, tokens = {card.name: card for card in self.cards}, tokens_of(messages)
        windows = {name: window_of(llm, cards.get(name)) for name, llm in self.llms.items()}
        mine = [name for name in names if name in self.llms]
        return Fallback(
            by_room(mine, windows, tokens),
            self.health,
            windows=windows,
            fallback_on=self.fallback_on,
            passing=(GraphBubbleUp,),
            on_failure=self.telemetry.failure,
        )

    def prepared(
        self, name: str, messages: Sequence[BaseMessage]
    ) -> tuple[BaseChatModel, list[BaseMessage]]:
        """Return a chat model and what it may read."""
        return self.llms[name], portable_messages(messages, self.llms[name], name)

    def answered(self, answer: BaseMessage, name: str) -> dict[str, Any]:
        """Return the state's update."""
        return {"messages": [marked(answer, {LLM_KEY: name})]}
