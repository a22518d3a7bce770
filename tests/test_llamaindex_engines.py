"""MoMARouterQueryEngine: the next best engine when one raises, and a breaker for those that do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import CustomQueryEngine
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.tools import QueryEngineTool

from llamaindex_moma import (
    MoMAEngineFailureEvent,
    MoMARouterQueryEngine,
    MoMASelector,
    agent_cards_from_query_engine_tools,
    register_cards,
)
from moma_core import InvalidInputError, MoMARouter, RoutingEncoder, UnknownNameError

ENCODER = RoutingEncoder()
ABOUT = {
    "recipes": "Cooking recipes with their ingredients",
    "baking": "Baking bread and cakes, with recipes for dough",
    "trains": "Train timetables and tickets",
}
ASK = "a cooking recipe with lentils as ingredients"
BOTH = "tickets for the train, and recipes for baking bread"


class Engine(CustomQueryEngine):
    """Answers by its name, or fails."""

    name: str
    error: Exception | None = None
    asked: int = 0

    def custom_query(self, query_str: str) -> str:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return f"from {self.name}"


def tools_of(*names: str) -> list[QueryEngineTool]:
    return [
        QueryEngineTool.from_defaults(Engine(name=name), name=name, description=ABOUT[name])
        for name in names or ABOUT
    ]


def engines(tools: Sequence[QueryEngineTool]) -> dict[str, Any]:
    return {tool.metadata.get_name(): tool.query_engine for tool in tools}


def built(tools: Sequence[QueryEngineTool], **options: Any) -> MoMARouterQueryEngine:
    selector = MoMASelector.from_defaults(tools, encoder=ENCODER, **options)
    return MoMARouterQueryEngine(selector, tools, llm=MockLLM())


class Heard(BaseEventHandler):
    """Keeps who failed."""

    failed: list[Any] = []  # noqa: RUF012 - pydantic copies it

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, MoMAEngineFailureEvent):
            self.failed.append((event.engine, event.error))


@pytest.mark.parametrize("wait", [False, True])
async def test_the_next_best_engine_takes_over(wait: bool) -> None:
    tools = tools_of()
    engine, heard = built(tools), Heard()
    engines(tools)["recipes"].error = ConnectionError("index is down")
    get_dispatcher().add_event_handler(heard)
    try:
        response = await engine.aquery(ASK) if wait else engine.query(ASK)
    finally:
        get_dispatcher().event_handlers.remove(heard)
    assert str(response) == "from baking"
    assert response.metadata is not None
    [selection] = response.metadata["selector_result"].selections
    assert selection.name == "baking"
    assert response.metadata["failed"] == {"recipes": "ConnectionError('index is down')"}
    assert heard.failed == [("recipes", "ConnectionError('index is down')")]


@pytest.mark.parametrize("wait", [False, True])
async def test_an_engine_that_keeps_failing_is_left_alone(wait: bool) -> None:
    tools = tools_of()
    engine, made = built(tools), engines(tools)
    made["recipes"].error = ConnectionError("index is down")
    for _ in range(5):
        response = await engine.aquery(ASK) if wait else engine.query(ASK)
        assert str(response) == "from baking"
    assert made["recipes"].asked == 3  # the breaker's limit
    # All of them failing: the one left alone is given an honest try as well.
    made["baking"].error = made["trains"].error = TimeoutError("slow")
    for i in range(4):
        with pytest.raises(OSError, match=r"down|slow"):
            await engine.aquery(ASK) if wait else engine.query(ASK)
        assert made["recipes"].asked == 4 + i
    made["recipes"].error = None
    made["recipes"].asked = 0
    assert str(engine.query(ASK)) == "from recipes"


def test_strict_asks_no_engine_that_does_not_fit() -> None:
    tools = tools_of("recipes", "trains")
    engine = built(tools, strict=True)
    engines(tools)["recipes"].error = ConnectionError("index is down")
    with pytest.raises(ConnectionError, match="down"):
        engine.query(ASK)
    assert engines(tools)["trains"].asked == 0
    # An explicit fallback is asked; one that failed itself is not asked again.
    falls_back = built(tools, fallback="trains", strict=True)
    assert str(falls_back.query(ASK)) == "from trains"
    engines(tools)["trains"].error = TimeoutError("slow")
    with pytest.raises(TimeoutError):
        falls_back.query(ASK)
    assert engines(tools)["trains"].asked == 2


def test_other_errors_are_the_callers() -> None:
    tools = tools_of()
    selector = MoMASelector.from_defaults(tools, encoder=ENCODER)
    engine = MoMARouterQueryEngine(selector, tools, llm=MockLLM(), fallback_on=(ConnectionError,))
    engines(tools)["recipes"].error = KeyError("a slip in the engine")
    with pytest.raises(KeyError, match="slip"):
        engine.query(ASK)
    assert engines(tools)["baking"].asked == 0


@pytest.mark.parametrize("wait", [False, True])
async def test_of_several_those_that_answer_are_joined(wait: bool) -> None:
    tools = tools_of("baking", "trains")
    engine = built(tools, several=True, min_share=0.0, min_probability=0.0)
    response = await engine.aquery(BOTH) if wait else engine.query(BOTH)
    assert {each.name for each in response.metadata["selector_result"].selections} == {
        "baking",
        "trains",
    }
    engines(tools)["baking"].error = ConnectionError("index is down")
    response = await engine.aquery(BOTH) if wait else engine.query(BOTH)
    assert str(response) == "from trains"
    assert list(response.metadata["failed"]) == ["baking"]
    [selection] = response.metadata["selector_result"].selections
    assert selection.name == "trains"


def test_a_shared_router_shares_its_breaker() -> None:
    tools = tools_of()
    router = MoMARouter.from_cards(llms=None, encoder=ENCODER)
    selector = MoMASelector.from_defaults(tools, {"recipes": [ASK]}, router=router)
    assert router.agents.get("recipes").examples == (ASK,)
    assert selector.health is router.health
    for _ in range(3):
        router.health.report_failure("recipes")  # told by another program's adapter
    assert str(MoMARouterQueryEngine(selector, tools, llm=MockLLM()).query(ASK)) == "from baking"
    register_cards(router, agent_cards_from_query_engine_tools(tools))
    assert router.agents.get("recipes").examples == (ASK,)


def test_exclude_is_one_name_where_it_is_a_text() -> None:
    tools = tools_of()
    metadata = [tool.metadata for tool in tools]
    selector = MoMASelector.from_defaults(tools, encoder=ENCODER)
    assert selector.choose(metadata, ASK).ind == 0
    assert selector.choose(metadata, ASK, exclude="recipes").ind == 1
    assert selector.choose(metadata, ASK, exclude=["recipes", "baking"]).ind == 2
    # Part of a name leaves nobody out.
    assert selector.choose(metadata, ASK, exclude="recipes and more").ind == 0
    with pytest.warns(UserWarning, match="Did you mean 'recipes'"):
        assert selector.choose(metadata, ASK, exclude="recipe").ind == 0


def test_from_defaults_shows_slips_at_once() -> None:
    tools = tools_of()
    with pytest.raises(UnknownNameError, match="'recepies'"):
        MoMASelector.from_defaults(
            tools, {"recepies": ["lentils"], "trains": ["tickets"]}, encoder=ENCODER
        )
    with pytest.raises(UnknownNameError, match="fallback"):
        MoMASelector.from_defaults(tools, encoder=ENCODER, fallback="nobody")
    with pytest.raises(InvalidInputError, match="list of LlamaIndex tools"):
        MoMASelector.from_defaults({"recipes": tools[0]})  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="MoMASelector, got LLMSingleSelector"):
        MoMARouterQueryEngine.from_defaults(
            tools, llm=MockLLM(), selector=LLMSingleSelector.from_defaults(llm=MockLLM())
        )


def test_by_default_a_first_run_is_no_exception() -> None:
    tools = tools_of()
    response = MoMARouterQueryEngine.from_defaults(tools, llm=MockLLM()).query(
        "who won the chess final?"
    )
    assert response.metadata is not None
    [selection] = response.metadata["selector_result"].selections
    assert selection.fallback
    assert "none of the 3 choices fits surely" in selection.reason
