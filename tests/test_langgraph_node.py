"""as_node and as_edge in real LangGraph graphs with a real router."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph, add_messages
from pydantic import BaseModel

from langchain_moma import MoMAState, Telemetry, as_edge, as_node, decision_in, llm_node
from langchain_moma.testing import ScriptedChat
from moma_core import (
    AgentCard,
    InvalidInputError,
    MoMARouter,
    NoTargetError,
    RoutingDecision,
    UnknownNameError,
)
from moma_core.health import Health

CARDS = (
    AgentCard(
        "weather",
        "Weather forecast for a place",
        examples=(
            "will it rain tomorrow?",
            "weather in Paris",
            "how hot will it be on Sunday",
            "forecast for the weekend",
            "is there snow in Oslo this week",
        ),
    ),
    AgentCard(
        "calculator",
        "Work out an arithmetic expression",
        examples=(
            "what is 12 times 7?",
            "compute 3 + 4 * 2",
            "144 divided by 12",
            "square root of 81",
            "add 17 and 25",
        ),
    ),
)
ASK_WEATHER = "will it rain in Paris tomorrow?"
ASK_SUM = "compute 5 + 4 * 3"
ASK_ELSE = "why do cats purr?"


class Recorder:
    def __init__(self, router: MoMARouter) -> None:
        self.agents, self.llms, self.calls = router.agents, router.llms, []
        self._route = router.route

    def route(self, query, preference=None, state=None, **options) -> RoutingDecision:
        self.calls.append((query, preference, state))
        return self._route(query, preference, state, **options)


class Rogue:
    def __init__(self, router: MoMARouter) -> None:
        self.agents, self.llms = router.agents, router.llms

    def route(self, *args: Any, **kwargs: Any) -> RoutingDecision:
        return RoutingDecision("agent", ("ghost",), 1.0)


@pytest.fixture(scope="module")
def built() -> tuple[MoMARouter, MoMARouter]:
    """With the packaged LLMs, and without: fitted once."""
    return MoMARouter.from_cards(CARDS), MoMARouter.from_cards(CARDS, llms=None)


@pytest.fixture
def router(built: tuple[MoMARouter, MoMARouter]) -> Iterator[MoMARouter]:
    yield built[0]
    enable_all(built[0])


@pytest.fixture
def agents_only(built: tuple[MoMARouter, MoMARouter]) -> Iterator[MoMARouter]:
    yield built[1]
    enable_all(built[1])


def enable_all(router: MoMARouter) -> None:
    for name in router.agents.names:
        router.agents.enable(name)


def says(words: str) -> Any:
    return lambda state: {"messages": [("ai", words)]}


def build(router: Any, nodes: tuple[str, ...] = ("weather", "calculator", "llm"), **kwargs: Any):
    builder = StateGraph(MoMAState)
    builder.add_node(as_node(router, ["weather", "calculator"], **kwargs))
    for name in nodes:
        builder.add_node(name, says(f"{name} speaks"))
    return builder.add_edge(START, "router")


def ask(graph: Any, text: str, config: Any = None) -> dict[str, Any]:
    return graph.invoke({"messages": [("human", text)]}, config)


def test_goes_to_the_agent_or_to_the_llm_node(router: MoMARouter) -> None:
    graph = build(router, llm="llm").compile()
    end = ask(graph, ASK_WEATHER)
    assert end["messages"][-1].text == "weather speaks"
    assert decision_in(end["moma"]).target == "weather"
    end = ask(graph, ASK_ELSE)
    assert end["messages"][-1].text == "llm speaks"
    assert decision_in(end["moma"]).target in {card.name for card in router.llms.cards}
    assert json.loads(json.dumps(end["moma"])) == end["moma"]
    assert end["moma"]["ms"] > 0


async def test_async_and_many_at_once(router: MoMARouter) -> None:
    graph = build(router, llm="llm").compile()
    texts = [ASK_WEATHER, ASK_SUM] * 10
    ends = await asyncio.gather(*(graph.ainvoke({"messages": [("human", t)]}) for t in texts))
    assert [end["messages"][-1].text for end in ends] == [
        "weather speaks",
        "calculator speaks",
    ] * 10


def test_a_restart_keeps_the_conversation(agents_only: MoMARouter) -> None:
    saver = InMemorySaver()
    config = {"configurable": {"thread_id": "1"}}
    first = ask(build(agents_only, ("weather", "calculator")).compile(saver), ASK_WEATHER, config)
    recorder = Recorder(agents_only)
    again = build(recorder, ("weather", "calculator")).compile(saver)
    assert again.get_state(config).values["moma"] == first["moma"]
    ask(again, ASK_SUM, config)
    [(query, _, state)] = recorder.calls
    assert state == decision_in(first["moma"]).state
    assert query.history == (ASK_WEATHER,)


def test_each_thread_has_its_own_conversation(agents_only: MoMARouter) -> None:
    recorder = Recorder(agents_only)
    graph = build(recorder, ("weather", "calculator")).compile(InMemorySaver())
    for thread in ("a", "b"):
        ask(graph, ASK_WEATHER, {"configurable": {"thread_id": thread}})
    assert [state for _, _, state in recorder.calls] == [None, None]


def test_default_node_or_typed_error_when_nothing_fits(agents_only: MoMARouter) -> None:
    agents_only.agents.disable("weather")
    agents_only.agents.disable("calculator")
    graph = build(agents_only, ("weather", "calculator", "sorry"), default="sorry").compile()
    end = ask(graph, ASK_WEATHER)
    assert end["messages"][-1].text == "sorry speaks"
    assert end["moma"]["decision"] is None
    assert end["moma"]["reason"]
    assert decision_in(end["moma"]) is None
    with pytest.raises(NoTargetError):
        ask(build(agents_only, ("weather", "calculator")).compile(), ASK_WEATHER)


def test_a_disabled_agent_is_avoided_at_once(router: MoMARouter) -> None:
    graph = build(router, llm="llm").compile()
    assert ask(graph, ASK_WEATHER)["messages"][-1].text == "weather speaks"
    router.agents.disable("weather")
    assert decision_in(ask(graph, ASK_WEATHER)["moma"]).target != "weather"


def test_an_agent_without_a_node_is_never_chosen(router: MoMARouter) -> None:
    builder = StateGraph(MoMAState)
    builder.add_node("router", as_node(router, {"calculator": "sums"}, llm="llm"))
    builder.add_node("sums", says("sums"))
    builder.add_node("llm", says("llm"))
    graph = builder.add_edge(START, "router").compile()
    assert ask(graph, ASK_SUM)["messages"][-1].text == "sums"
    assert decision_in(ask(graph, ASK_WEATHER)["moma"]).target != "weather"


def test_compile_refuses_a_destination_without_a_node(router: MoMARouter) -> None:
    with pytest.raises(ValueError, match="llm"):
        build(router, ("weather", "calculator"), llm="llm").compile()
    builder = StateGraph(MoMAState).add_node("weather", says("weather"))
    builder.add_conditional_edges(START, as_edge(router, ["weather", "calculator"]))
    with pytest.raises(ValueError, match="calculator"):
        builder.compile()


def test_unknown_names_never_end_a_graph_silently(agents_only: MoMARouter) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'weather'"):
        as_node(agents_only, ["whether"])
    with pytest.raises(InvalidInputError, match="no destination"):
        as_node(agents_only, [])
    assert as_edge(agents_only, "weather")({"query": ASK_WEATHER}, {}) == "weather"
    with pytest.raises(InvalidInputError, match="no destination"):
        as_node(agents_only, None)
    for nobody in ([None], {"weather": None}):
        with pytest.raises(InvalidInputError, match="names of agents and nodes"):
            as_node(agents_only, nobody)
    with pytest.raises(InvalidInputError, match="must be a MoMARouter"):
        as_node(None, ["weather"])
    with pytest.raises(UnknownNameError, match="ghost"):
        ask(build(Rogue(agents_only), ("weather", "calculator")).compile(), ASK_WEATHER)
    builder = StateGraph(MoMAState).add_node("weather", says("weather"))
    builder.add_conditional_edges(START, as_edge(Rogue(agents_only), ["weather"]))
    with pytest.raises(UnknownNameError, match="ghost"):
        ask(builder.compile(), ASK_WEATHER)


def test_edge_routes_and_draws_its_map(router: MoMARouter) -> None:
    builder = StateGraph(MoMAState)
    builder.add_conditional_edges(START, as_edge(router, {"weather": "sky"}, llm="llm"))
    builder.add_node("sky", says("sky")).add_node("llm", says("llm"))
    graph = builder.compile()
    assert ask(graph, ASK_WEATHER)["messages"][-1].text == "sky"
    assert ask(graph, ASK_ELSE)["messages"][-1].text == "llm"
    drawn = {(e.source, e.target) for e in graph.get_graph().edges if e.conditional}
    assert drawn == {("__start__", "sky"), ("__start__", "llm")}


def test_node_draws_its_destinations(router: MoMARouter) -> None:
    drawn = {(e.source, e.target) for e in build(router, llm="llm").compile().get_graph().edges}
    assert {("router", "weather"), ("router", "calculator"), ("router", "llm")} <= drawn


def test_one_event_a_turn(agents_only: MoMARouter) -> None:
    class Events(BaseCallbackHandler):
        seen: list[tuple[str, Any]] = []  # noqa: RUF012  # one handler in one test

        def on_custom_event(self, name, data, **kwargs) -> None:
            self.seen.append((name, data["targets"]))

    handler = Events()
    graph = build(agents_only, ("weather", "calculator")).compile()
    ask(graph, ASK_WEATHER, {"callbacks": [handler]})
    assert handler.seen == [("moma.route", ["weather"])]


def test_preference_for_one_call(router: MoMARouter) -> None:
    recorder = Recorder(router)
    graph = build(recorder, llm="llm", preference="performance").compile()
    ask(graph, ASK_ELSE)
    end = ask(graph, ASK_ELSE, {"configurable": {"moma_preference": "cost"}})
    assert [call[1] for call in recorder.calls] == ["performance", "cost"]
    assert decision_in(end["moma"]).preference == "cost"


class Both:
    """Names two agents for every query."""

    def __init__(self, router: MoMARouter) -> None:
        self.agents, self.llms = router.agents, router.llms

    def route(self, *args: Any, **kwargs: Any) -> RoutingDecision:
        return RoutingDecision("agent", ("weather", "calculator"), 0.9)


def sees_itself(name: str) -> Any:
    def node(state: dict[str, Any]) -> dict[str, Any]:
        targets = decision_in(state["moma"]).targets
        return {"messages": [("ai", f"{name} for {' and '.join(targets)}")]}

    return node


def test_several_agents_at_once(agents_only: MoMARouter) -> None:
    builder = StateGraph(MoMAState)
    builder.add_node(as_node(Both(agents_only), ["weather", "calculator"], several="parallel"))
    for name in ("weather", "calculator"):
        builder.add_node(name, sees_itself(name))
    end = ask(builder.add_edge(START, "router").compile(), ASK_WEATHER)
    said = {message.text for message in end["messages"][1:]}
    assert said == {"weather for weather", "calculator for calculator"}
    assert decision_in(end["moma"]).targets == ("weather", "calculator")


def test_several_agents_by_an_edge(agents_only: MoMARouter) -> None:
    builder = StateGraph(MoMAState)
    path = as_edge(Both(agents_only), ["weather", "calculator"], several="parallel")
    builder.add_conditional_edges(START, path)
    for name in ("weather", "calculator"):
        builder.add_node(name, says(name))
    end = ask(builder.compile(), ASK_WEATHER)
    assert {message.text for message in end["messages"][1:]} == {"weather", "calculator"}


def test_several_agents_in_order_also_after_a_restart(agents_only: MoMARouter) -> None:
    def graph(saver: InMemorySaver) -> Any:
        builder = StateGraph(MoMAState)
        builder.add_node(as_node(Both(agents_only), ["weather", "calculator"], several="in_order"))
        for name in ("weather", "calculator"):
            builder.add_node(name, says(name)).add_edge(name, "router")
        return builder.add_edge(START, "router").compile(saver, interrupt_before=["calculator"])

    saver, config = InMemorySaver(), {"configurable": {"thread_id": "1"}}
    half = ask(graph(saver), ASK_WEATHER, config)
    assert [message.text for message in half["messages"]] == [ASK_WEATHER, "weather"]
    end = graph(saver).invoke(None, config)
    assert [message.text for message in end["messages"][1:]] == ["weather", "calculator"]
    ask(graph(saver), ASK_WEATHER, config)
    again = graph(saver).invoke(None, config)
    assert len(again["messages"]) == 6


def test_the_swarms_active_agent(agents_only: MoMARouter) -> None:
    class Swarm(MoMAState):
        active_agent: str

    builder = StateGraph(Swarm)
    node = as_node(agents_only, ["weather", "calculator"], active_agent="active_agent")
    builder.add_node(node)
    for name in ("weather", "calculator"):
        builder.add_node(name, says(name))
    end = ask(builder.add_edge(START, "router").compile(), ASK_SUM)
    assert end["active_agent"] == "calculator"


def test_names_excluded_for_one_call_and_counters(router: MoMARouter) -> None:
    telemetry = Telemetry()
    graph = build(router, llm="llm", telemetry=telemetry).compile()
    end = ask(graph, ASK_WEATHER, {"configurable": {"moma_exclude": ["weather"]}})
    assert decision_in(end["moma"]).target != "weather"
    ask(graph, ASK_WEATHER)
    counts = telemetry.counts()
    assert (counts["routes"], counts["by_target"]["weather"]) == (2, 1)


def test_text_under_the_key_query(agents_only: MoMARouter) -> None:
    class Plain(TypedDict, total=False):
        query: str
        moma: dict[str, Any]
        answer: str

    builder = StateGraph(Plain)
    builder.add_node("router", as_node(agents_only, ["weather"]))
    builder.add_node("weather", lambda state: {"answer": "sunny"})
    graph = builder.add_edge(START, "router").compile()
    assert graph.invoke({"query": ASK_WEATHER})["answer"] == "sunny"


def test_state_as_a_pydantic_class(agents_only: MoMARouter) -> None:
    class State(BaseModel):
        messages: Annotated[list[Any], add_messages]
        moma: dict[str, Any] = {}

    builder = StateGraph(State)
    builder.add_node("router", as_node(agents_only, ["weather"]))
    builder.add_node("weather", says("sunny"))
    graph = builder.add_edge(START, "router").compile()
    assert ask(graph, ASK_WEATHER)["messages"][-1].text == "sunny"


def test_a_node_called_by_hand(agents_only: MoMARouter) -> None:
    command = as_node(agents_only, ["weather"])({"messages": [("human", ASK_WEATHER)]}, {})
    assert command.goto == "weather"
    assert command.update["moma"]["decision"]["targets"] == ["weather"]


@pytest.mark.parametrize("left", [5, {"state": 5}, {"state": {"turns": "many"}}])
def test_something_else_under_the_routers_key(agents_only: MoMARouter, left: Any) -> None:
    node = as_node(agents_only, ["weather"])
    with pytest.raises(InvalidInputError):
        node({"messages": [("human", ASK_WEATHER)], "moma": left}, {})


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_the_llm_node_goes_on_to_the_next_best(mode: str) -> None:
    router = MoMARouter.from_cards()
    llms = {name: ScriptedChat(name=name) for name in router.llms.names}
    chosen, following = (c.name for c in router.choose_llm("hi").candidates[:2])
    llms[chosen].failures = 2
    health = Health(failures=2)
    builder = StateGraph(MoMAState).add_node(as_node(router, [], llm="llm"))
    builder.add_node(llm_node(llms, cards=router.llms.cards, health=health))
    graph = builder.add_edge(START, "router").compile()
    value = {"messages": [("human", "hi")]}
    for _ in range(3):
        end = graph.invoke(value) if mode == "sync" else await graph.ainvoke(value)
        assert end["messages"][-1].response_metadata["moma_llm"] == following
    assert len(llms[chosen].calls) == 2
    assert health.unhealthy() == {chosen}
    with pytest.raises(InvalidInputError, match="fallback_on"):
        llm_node(llms, fallback_on="TimeoutError")


def test_the_llm_node_respects_windows() -> None:
    router = MoMARouter.from_cards()
    llms = {name: ScriptedChat(name=name) for name in router.llms.names}
    chosen = router.choose_llm("hi").target
    llms[chosen].profile = {"max_input_tokens": 500}
    builder = StateGraph(MoMAState).add_node(as_node(router, [], llm="llm"))
    graph = builder.add_node(llm_node(llms)).add_edge(START, "router").compile()
    before = [("human", "word " * 4_000), ("ai", "yes?"), ("human", "hi")]
    who = [graph.invoke({"messages": m})["messages"][-1] for m in (before[2:], before)]
    short, long = (m.response_metadata["moma_llm"] for m in who)
    assert short == chosen != long
