"""Tools by retrieval, cards from tools, and a registry that two frameworks share."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.llms import MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.schema import TextNode
from llama_index.core.tools import FunctionTool, QueryEngineTool

from llamaindex_moma import (
    MoMASelector,
    MoMAToolMetadata,
    MoMAToolRetriever,
    MoMAToolRouterQueryEngine,
    agent_cards_from_function_tools,
    agent_cards_from_query_engine_tools,
    register_cards,
)
from moma_core import AgentCard, InvalidInputError, MoMARouter, RoutingEncoder, UnknownNameError
from moma_core.errors import DuplicateNameError, InvalidCardError

pytestmark = [  # LlamaIndex looks at deprecated attributes of its own agents
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211"),
]

ENCODER = RoutingEncoder()
PLACES = ("garage", "kitchen", "garden", "cellar", "attic", "office", "bathroom", "hall")
DEVICES = {
    "lamp": "Switch the lamp on or off",
    "heater": "Set the temperature of the heater",
    "camera": "Take a picture with the camera",
    "door": "Lock or unlock the door",
    "blinds": "Move the blinds up and down",
}
VERBS = ("control", "schedule", "report", "reset", "share")


def two_hundred_tools() -> list[FunctionTool]:
    tools = []
    for place in PLACES:
        for device, words in DEVICES.items():
            for verb in VERBS:
                name = f"{verb}_{place}_{device}"
                text = f"{verb.title()}: {words} in the {place}."
                tools.append(FunctionTool.from_defaults(_reporting(name), name, text))
    return tools


def _reporting(name: str) -> Any:
    def run(value: str = "") -> str:
        return f"{name} done"

    return run


@pytest.fixture(scope="module")
def tools() -> list[FunctionTool]:
    return two_hundred_tools()


@pytest.fixture(scope="module")
def retriever(tools: list[FunctionTool]) -> MoMAToolRetriever:
    return MoMAToolRetriever(tools, top_k=5, encoder=ENCODER)


def names(found: list[Any]) -> list[str]:
    return [tool.metadata.name for tool in found]


def test_the_few_of_two_hundred(retriever: MoMAToolRetriever, tools: list[FunctionTool]) -> None:
    assert len(tools) == 200
    found = retriever.retrieve("schedule the heater in the kitchen")
    assert len(found) == 5
    assert names(found)[0] == "schedule_kitchen_heater"
    assert retriever.retrieve(" ") == []
    # AgentWorkflow asks again by the name that the LLM called.
    assert names(retriever.retrieve("reset_attic_door")) == ["reset_attic_door"]


def test_more_than_the_core_shows(tools: list[FunctionTool]) -> None:
    wide = MoMAToolRetriever(tools[:40], top_k=25, encoder=ENCODER)
    assert len(set(names(wide.retrieve("the lamp in the garage")))) == 25


async def test_fifty_at_once(retriever: MoMAToolRetriever) -> None:
    asked = [(f"{verb}_{p}_lamp", f"{verb} the lamp in the {p}") for verb in VERBS for p in PLACES]
    asked = (asked * 2)[:50]
    found = await asyncio.gather(*(retriever.aretrieve(query) for _, query in asked))
    right = [name in names(few) for (name, _), few in zip(asked, found, strict=True)]
    assert sum(right) >= 48


def test_tools_come_go_and_are_switched_off(tools: list[FunctionTool]) -> None:
    retriever = MoMAToolRetriever(tools[:10], top_k=2, always=[tools[9].metadata.get_name()])
    chess = FunctionTool.from_defaults(_reporting("chess"), "chess", "Play a game of chess")
    retriever.add_tools(chess, examples={"chess": ["my queen takes your rook"]})
    assert names(retriever.retrieve("my queen takes your rook"))[0] == "chess"
    assert names(retriever.retrieve("play chess"))[-1] == tools[9].metadata.name
    retriever.router.agents.disable("chess")
    assert "chess" not in names(retriever.retrieve("play chess"))
    assert retriever.retrieve("chess") != [chess]
    retriever.router.agents.enable("chess")
    retriever.learn("sicilian defence", "chess")
    assert names(retriever.retrieve("sicilian defence"))[0] == "chess"
    retriever.remove_tools("chess")
    assert "chess" not in names(retriever.retrieve("play chess"))
    with pytest.raises(UnknownNameError, match="chess"):
        retriever.remove_tools("chess")
    with pytest.raises(UnknownNameError, match="no tool"):
        MoMAToolRetriever(tools[:2], always=["nobody"])
    with pytest.raises(InvalidInputError, match="top_k"):
        MoMAToolRetriever(tools[:2], top_k=0)


def caller(messages: Any, **kwargs: Any) -> ChatMessage:
    """Call the first tool offered, then say what it said."""
    if messages[-1].role == "tool":
        return ChatMessage(role="assistant", content=f"so: {messages[-1].content}")
    first = kwargs["tools"][0].metadata.name
    OFFERED.append(len(kwargs["tools"]))
    call = ToolCallBlock(tool_call_id="1", tool_name=first, tool_kwargs={"value": "x"})
    return ChatMessage(role="assistant", blocks=[call])


async def acaller(messages: Any, **kwargs: Any) -> Any:
    yield caller(messages, **kwargs)


OFFERED: list[int] = []


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_agent_workflow_with_two_hundred_tools(
    retriever: MoMAToolRetriever, streaming: bool
) -> None:
    OFFERED.clear()
    llm = MockFunctionCallingLLM(response_generator=acaller if streaming else caller)
    home = FunctionAgent(
        name="home",
        description="Runs the house",
        tool_retriever=retriever,
        llm=llm,
        streaming=streaming,
    )
    handler = AgentWorkflow([home]).run(user_msg="lock the door of the garage: control it")
    called = [e async for e in handler.stream_events() if isinstance(e, ToolCallResult)]
    assert str(await handler) == "so: control_garage_door done"
    assert [event.tool_name for event in called] == ["control_garage_door"]
    assert OFFERED == [5]  # not 200


def engine_tool(name: str, text: str, **more: Any) -> QueryEngineTool:
    index = VectorStoreIndex([TextNode(text=text)], embed_model=MockEmbedding(embed_dim=4))
    metadata = MoMAToolMetadata(text, name, **more)
    return QueryEngineTool(index.as_query_engine(llm=MockLLM()), metadata)


ENGINES = [
    engine_tool("recipes", "Cooking recipes and baking", examples=("how do I make soup",)),
    engine_tool("trains", "Train timetables and tickets", categories=("travel",)),
]


async def test_tool_retriever_router_query_engine() -> None:
    retriever = MoMAToolRetriever(ENGINES, top_k=1, encoder=ENCODER)
    engine = MoMAToolRouterQueryEngine(retriever, llm=MockLLM())
    response = engine.query("when does the train leave")
    assert "Train timetables" in str(response)
    assert names(response.metadata["retrieved_tools"]) == ["trains"]
    assert "Cooking recipes" in str(await engine.aquery("recipes with lentils"))


def test_cards_say_what_tools_say() -> None:
    recipes, trains = agent_cards_from_query_engine_tools(
        ENGINES, {"recipes": ["bake bread"]}, categories={"recipes": ["home"]}
    )
    assert recipes.examples == ("how do I make soup", "bake bread")
    assert (recipes.categories, trains.categories) == (("home",), ("travel",))
    assert "input" in trains.input_schema["properties"]

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    [card] = agent_cards_from_function_tools([add])
    assert (card.name, card.description) == ("add", "Add two numbers.")
    with pytest.raises(DuplicateNameError, match="2 tools are called 'add'"):
        agent_cards_from_function_tools([add, add])
    with pytest.raises(UnknownNameError, match="words for a tool 'sum'"):
        agent_cards_from_function_tools([add], {"sum": ["1 + 1"]})
    with pytest.raises(InvalidCardError, match="list of texts"):
        agent_cards_from_function_tools([add], {"add": "1 + 1"})


def test_a_description_longer_than_a_card_is_cut_in_the_card_alone() -> None:
    # as an MCP server's tool for metrics has: 8,879 characters
    about = "Fetch the metrics of a machine. " + "Each metric has a name and a unit. " * 260
    metrics = FunctionTool.from_defaults(_reporting("metrics"), "metrics", about)
    notes = FunctionTool.from_defaults(_reporting("notes"), "notes", "Write a note")
    [card] = agent_cards_from_function_tools([metrics])
    assert about.startswith(card.description)
    assert 8_000 < len(card.description) < len(about)
    [found] = MoMAToolRetriever([metrics, notes], top_k=1, encoder=ENCODER).retrieve("show metrics")
    assert found.metadata.description == about


def test_what_is_not_by_name_or_no_tool_is_a_typed_error(tools: list[FunctionTool]) -> None:
    given: Any = ["bake bread"]
    with pytest.raises(InvalidInputError, match="examples are lists by name, got list"):
        agent_cards_from_query_engine_tools(ENGINES, given)
    with pytest.raises(InvalidInputError, match="categories are lists by name, got list"):
        agent_cards_from_query_engine_tools(ENGINES, categories=given)
    with pytest.raises(InvalidInputError, match="examples are lists by name, got list"):
        MoMAToolRetriever(tools[:3], examples=given)
    by_name: Any = {tool.metadata.name: tool for tool in tools[:3]}
    with pytest.raises(InvalidInputError, match="a list of LlamaIndex tools is expected"):
        MoMAToolRetriever(by_name)
    with pytest.raises(InvalidInputError, match="a list of LlamaIndex tools is expected"):
        agent_cards_from_function_tools(given)


@pytest.mark.parametrize("top_k", [1, 10, 11, 30, 200])
def test_scores_are_probabilities_whatever_the_number(
    tools: list[FunctionTool], retriever: MoMAToolRetriever, top_k: int
) -> None:
    same = MoMAToolRetriever(tools, retriever.router, top_k=top_k)
    nodes = same.retriever.retrieve("lock the door of the garage")
    scores = [node.score or 0.0 for node in nodes]
    assert len(scores) == top_k
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) <= 1.0 + 1e-6
    few = [node.score for node in retriever.retriever.retrieve("lock the door of the garage")]
    assert scores[:5] == pytest.approx(few[:top_k], abs=1e-6)


def test_always_takes_one_name_as_a_text(tools: list[FunctionTool]) -> None:
    name = tools[9].metadata.get_name()
    retriever = MoMAToolRetriever(tools[:10], top_k=1, always=name, encoder=ENCODER)
    assert name in names(retriever.retrieve("the heater in the kitchen"))


def test_registering_again_keeps_what_was_learnt() -> None:
    router = MoMARouter.from_cards(llms=None, encoder=ENCODER)
    card = AgentCard("weather", "Forecast", examples=("will it rain",))
    register_cards(router, [card])
    router.agents.update(AgentCard("weather", "Forecast", examples=("will it rain", "snow?")))
    router.agents.disable("weather")
    snapshot = router.agents.snapshot
    register_cards(router, [card])
    assert router.agents.snapshot is snapshot  # nothing to write
    register_cards(router, [AgentCard("weather", "Forecast for a town")])
    kept = router.agents.get("weather")
    assert (kept.description, kept.enabled) == ("Forecast for a town", False)
    assert kept.examples == ("will it rain", "snow?")


async def test_one_chroma_directory_for_two_frameworks(tmp_path: Path) -> None:
    from langchain_core.messages import HumanMessage
    from langgraph.graph import END, START, StateGraph

    from langchain_moma import MoMAState, as_node

    router = MoMARouter.from_cards(path=tmp_path, llms=None, encoder=ENCODER)
    register_cards(router, agent_cards_from_query_engine_tools(ENGINES))
    register_cards(router, [AgentCard("chess", "Plays chess with you")])
    # Another program on the same directory.
    other = MoMARouter.from_cards(path=tmp_path, encoder=ENCODER)
    assert set(other.agents.names) == {"recipes", "trains", "chess"}
    graph = StateGraph(MoMAState)
    graph.add_node("router", as_node(other, ["trains", "recipes"]))
    for name in ("trains", "recipes"):
        graph.add_node(name, lambda state, name=name: {"messages": [("ai", f"{name} here")]})
        graph.add_edge(name, END)
    graph.add_edge(START, "router")
    app = graph.compile()
    said = await app.ainvoke({"messages": [HumanMessage("how do I make soup")]})
    assert said["messages"][-1].content == "recipes here"
    # The tools of this program are retrieved, and nothing else of the registry.
    retriever = MoMAToolRetriever(ENGINES, router, top_k=5)
    assert set(names(retriever.retrieve("play chess with me"))) == {"recipes", "trains"}
    selector = MoMASelector(router=router, min_probability=0.0)
    choices = [tool.metadata for tool in ENGINES]
    assert selector.select(choices, "when does the train leave").ind == 1
    selector.learn("the 8:15 to Bergen", "trains")
    assert "the 8:15 to Bergen" in router.agents.get("trains").examples
    with pytest.raises(UnknownNameError, match="register_cards"):
        selector.select([*choices, MoMAToolMetadata("News", "news")], "what is new")
    with pytest.raises(InvalidInputError, match="brings its own"):
        MoMASelector({"trains": ["x"]}, router=router)


async def test_fifty_concurrent_selections_leave_the_loop_free() -> None:
    selector = MoMASelector(encoder=ENCODER, min_probability=0.0)
    choices = [tool.metadata for tool in ENGINES]
    asked = ["baking bread", "train tickets"] * 25
    selector.select(choices, asked[0])
    waits: list[float] = []

    async def beat() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            waits.append(time.perf_counter() - start)

    heart = asyncio.create_task(beat())
    results = await asyncio.gather(*(selector.aselect(choices, query) for query in asked))
    heart.cancel()
    assert [result.ind for result in results] == [0, 1] * 25
    assert len(waits) > 3


def test_the_requests_of_a_query_share_the_places() -> None:
    about = {
        "weather": "Weather forecast for a place",
        "climate": "Average weather and climate of a place over the year",
        "rain": "Says whether it will rain in a place, as a weather forecast does",
        "flights": "Find flights between two airports",
    }
    tools = [FunctionTool.from_defaults(_reporting(n), n, text) for n, text in about.items()]
    both = "What is the weather forecast for Rome? Then find flights from Rome to Oslo."
    found = MoMAToolRetriever(tools, top_k=2, encoder=ENCODER, always="rain").retrieve(both)
    names = [tool.metadata.name for tool in found]
    assert names[0] in {"weather", "climate", "rain"}
    assert "flights" in names[:2]
    assert names[-1] == "rain"
