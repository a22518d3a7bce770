"""RunnableRouter, nodes and edges with a query that asks for several things."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph

from langchain_moma import MoMAState, RunnableRouter, as_edge, as_node, decision_in
from langchain_moma.runnable import InOrder, Targets, with_answers
from moma_core import AgentCard, InvalidInputError, MoMARouter

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
BOTH = "compute 5 + 4 * 3 and then tell me the weather in Paris tomorrow"
ONE = "will it rain in Paris tomorrow?"


@pytest.fixture(scope="module")
def router() -> MoMARouter:
    return MoMARouter.from_cards(CARDS, llms=None)


def test_one_after_the_other_with_the_answers_so_far(router: MoMARouter) -> None:
    told: list[str] = []

    def forecast(text: str) -> str:
        told.append(text)
        return "sunny"

    chain = RunnableRouter(
        router=router,
        targets={"calculator": lambda text: 17, "weather": forecast},
        several="in_order",
    )
    assert list(chain.invoke(BOTH).items()) == [("calculator", 17), ("weather", "sunny")]
    assert told == [f"{BOTH}\n\ncalculator: 17"]
    assert chain.invoke(ONE) == {"weather": "sunny"}
    assert told[1:] == [ONE]


async def test_streams_and_async_give_the_same_dict(router: MoMARouter) -> None:
    for several in ("in_order", "parallel"):
        chain = RunnableRouter(
            router=router,
            targets={"weather": chat("sun all day long"), "calculator": lambda text: "17"},
            several=several,
        )
        wanted = {"calculator": "17", "weather": "sun all day long"}
        assert plain(chain.invoke(BOTH)) == wanted
        assert plain(await chain.ainvoke(BOTH)) == wanted
        chunks = list(chain.stream(BOTH))
        assert len(chunks) > 4
        assert plain(added(chunks)) == wanted
        assert plain(added([chunk async for chunk in chain.astream(BOTH)])) == wanted
        assert [plain(end) for end in chain.batch([BOTH, ONE])] == [
            wanted,
            {"weather": wanted["weather"]},
        ]


def chat(words: str) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage(words)] * 50))


def plain(answers: dict[str, Any]) -> dict[str, Any]:
    return {
        name: str(answer.text) if isinstance(answer, AIMessage | AIMessageChunk) else answer
        for name, answer in sorted(answers.items())
    }


def added(chunks: list[Any]) -> Any:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


def test_at_once_runs_at_once(router: MoMARouter) -> None:
    both_here = threading.Barrier(2, timeout=20)

    def wait(text: str) -> str:
        both_here.wait()  # breaks unless the other target runs now
        return text

    chain = RunnableRouter(
        router=router, targets={"weather": wait, "calculator": wait}, several="parallel"
    )
    assert chain.invoke(BOTH) == {"calculator": BOTH, "weather": BOTH}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (BOTH, f"{BOTH}\n\nsum: 17"),
        ({"input": BOTH, "user": "ann"}, f"{BOTH}\n\nsum: 17"),
        ({"messages": [("human", "hi"), ("ai", "yes?"), ("human", BOTH)]}, f"{BOTH}\n\nsum: 17"),
        ([HumanMessage([{"type": "text", "text": BOTH}])], f"{BOTH}sum: 17"),
        (ChatPromptTemplate.from_messages([("human", BOTH)]).invoke({}), f"{BOTH}\n\nsum: 17"),
    ],
)
def test_answers_stand_below_the_last_words(value: Any, words: str) -> None:
    @tool
    def echo(text: str) -> str:
        """Say it again."""
        return text

    steps = InOrder(Targets({"sum": lambda _: 17, "echo": echo}), ["sum", "echo"])
    assert steps.invoke(value) == {"sum": 17, "echo": words}
    again = with_answers(value, {})
    assert again is value


def test_graphs_among_the_targets(router: MoMARouter) -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("echo", lambda state: {"messages": [("ai", state["messages"][-1].text)]})
    graph = builder.add_edge(START, "echo").compile()
    chain = RunnableRouter(
        router=router, targets={"calculator": graph, "weather": str.upper}, several="in_order"
    )
    end = chain.invoke(BOTH)
    assert end["weather"] == f"{BOTH}\n\ncalculator: {BOTH}".upper()
    whole = added(list(chain.stream(BOTH)))
    assert whole["calculator"]["messages"][-1].text == BOTH
    assert whole["weather"] == end["weather"]


def test_config_options_trace_and_default(router: MoMARouter) -> None:
    class Trace(BaseCallbackHandler):
        runs: list[str]
        events: list[Any]

        def __init__(self) -> None:
            self.runs, self.events = [], []

        def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
            self.runs.append(kwargs["name"])

        def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
            self.events.append(data["targets"])

    def target(value: str, config: RunnableConfig, **kwargs: Any) -> str:
        return f"{config['metadata']['user']} {kwargs['style']}"

    for several, runs in (("in_order", 3), ("parallel", 4)):
        trace = Trace()
        chain = RunnableRouter(
            router=router,
            targets={"weather": RunnableLambda(target), "calculator": RunnableLambda(target)},
            default=lambda value: "nobody",
            several=several,
        )
        config = {"metadata": {"user": "ann"}, "callbacks": [trace]}
        assert set(chain.invoke(BOTH, config, style="short").values()) == {"ann short"}
        assert trace.events == [["calculator", "weather"]]
        assert len(trace.runs) == runs
        nobody = {"configurable": {"moma_exclude": ["weather", "calculator"]}}
        assert chain.invoke(BOTH, nobody) == {"default": "nobody"}


def test_a_failing_target_is_the_callers_to_see(router: MoMARouter) -> None:
    def broken(text: str) -> str:
        raise ConnectionError("down")

    for several in ("in_order", "parallel"):
        chain = RunnableRouter(
            router=router, targets={"weather": broken, "calculator": len}, several=several
        )
        with pytest.raises(ConnectionError):
            chain.invoke(BOTH)
        first, second = chain.batch([BOTH, "what is 12 times 7?"], return_exceptions=True)
        assert isinstance(first, ConnectionError)
        assert second == {"calculator": len("what is 12 times 7?")}


async def test_leaving_a_stream_stops_it(router: MoMARouter) -> None:
    ran: list[str] = []

    def count(text: str) -> Iterator[str]:
        for i in range(5):
            ran.append(str(i))
            yield f"{i} "

    chain = RunnableRouter(
        router=router,
        targets={"calculator": RunnableLambda(count), "weather": lambda text: ran.append("late")},
        several="in_order",
    )
    stream = chain.stream(BOTH)
    assert next(stream) == {"calculator": "0 "}
    stream.close()
    assert "late" not in ran


def test_the_output_type_says_so(router: MoMARouter) -> None:
    chain = RunnableRouter(router=router, targets={"weather": len}, several="parallel")
    assert chain.OutputType == dict[str, Any]
    assert chain.get_output_jsonschema()["type"] == "object"
    with pytest.raises(InvalidInputError, match="several='in_order'"):
        RunnableRouter(router=router, targets={"weather": len}, several="sequence")
    with pytest.raises(InvalidInputError, match="several"):
        as_node(router, ["weather"], several="all")
    with pytest.raises(InvalidInputError, match="got 'in_order'"):
        as_edge(router, ["weather"], several="in_order")


def says(words: str) -> Any:
    return lambda state: {"messages": [("ai", words)]}


@pytest.mark.parametrize("several", ["parallel", "in_order"])
def test_a_real_router_sends_a_graph_to_both(router: MoMARouter, several: Any) -> None:
    builder = StateGraph(MoMAState)
    builder.add_node(as_node(router, ["weather", "calculator"], several=several))
    for name in ("weather", "calculator"):
        builder.add_node(name, says(name))
        if several == "in_order":
            builder.add_edge(name, "router")
    graph = builder.add_edge(START, "router").compile()
    end = graph.invoke({"messages": [("human", BOTH)]})
    assert sorted(message.text for message in end["messages"][1:]) == ["calculator", "weather"]
    assert decision_in(end["moma"]).targets == ("calculator", "weather")
    alone = graph.invoke({"messages": [("human", ONE)]})
    assert [message.text for message in alone["messages"][1:]] == ["weather"]


def test_a_real_router_sends_an_edge_to_both(router: MoMARouter) -> None:
    builder = StateGraph(MoMAState)
    path = as_edge(router, ["weather", "calculator"], several="parallel")
    builder.add_conditional_edges(START, path)
    for name in ("weather", "calculator"):
        builder.add_node(name, says(name))
    end = builder.compile().invoke({"messages": [("human", BOTH)]})
    assert {message.text for message in end["messages"][1:]} == {"calculator", "weather"}
