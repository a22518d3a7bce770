"""What users of LlamaIndex's selectors reported, and what happens here instead.

Each test is named after the issue of run-llama/llama_index; where 0.14 still shows the fault, the
test shows that too, so that it tells when the comparison is out of date.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, CompletionResponse, ToolCallBlock
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.query_engine import RouterQueryEngine, ToolRetrieverRouterQueryEngine
from llama_index.core.schema import TextNode
from llama_index.core.selectors import LLMMultiSelector, LLMSingleSelector
from llama_index.core.tools import QueryEngineTool, ToolMetadata

from llamaindex_moma import (
    MoMASelector,
    MoMAToolRetriever,
    MoMAToolRouterQueryEngine,
    MoMAWorkflowRouter,
)
from moma_core import NoTargetError, RoutingEncoder

ENCODER = RoutingEncoder()
CHOICES = [
    ToolMetadata("Weather records by town and month", "weather"),
    ToolMetadata("Cooking recipes with their ingredients", "recipes"),
    ToolMetadata("Train timetables and tickets", "trains"),
]
ASK = "ingredients of cooking recipes for soup"
ELSE = "prove that there are infinitely many primes"


class Says(MockLLM):
    """Answers every prompt with the same words."""

    _words: str = PrivateAttr()

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=self._words)


def engine_tools() -> list[QueryEngineTool]:
    tools = []
    for choice in CHOICES:
        nodes = [TextNode(text=f"all about {choice.name}")]
        index = VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=4))
        tools.append(QueryEngineTool(index.as_query_engine(llm=MockLLM()), choice))
    return tools


@pytest.fixture(scope="module")
def tools() -> list[QueryEngineTool]:
    return engine_tools()


@pytest.fixture(scope="module")
def selector() -> MoMASelector:
    return MoMASelector(encoder=ENCODER, strict=True)


def ours(selector: MoMASelector, tools: list[QueryEngineTool], query: str) -> str:
    response = RouterQueryEngine(selector, tools, llm=MockLLM()).query(query)
    [selection] = response.metadata["selector_result"].selections
    assert f"all about {selection.name}" in str(response)
    return str(selection.name)


def theirs(words: str, tools: list[QueryEngineTool], multi: bool = False) -> str:
    kind = LLMMultiSelector if multi else LLMSingleSelector
    router = RouterQueryEngine(kind.from_defaults(llm=Says(words)), tools, llm=MockLLM())
    return str(router.query(ASK))


def test_issue_23072_an_index_out_of_range(
    selector: MoMASelector, tools: list[QueryEngineTool]
) -> None:
    assert "all about trains" in theirs('[{"choice": 0, "reason": "recipes"}]', tools)  # silently
    with pytest.raises(IndexError):
        theirs('[{"choice": 4, "reason": "recipes"}]', tools)
    assert ours(selector, tools, ASK) == "recipes"
    with pytest.raises(NoTargetError, match="fallback"):
        ours(selector, tools, ELSE)


def test_issue_17344_keyerror_choice(selector: MoMASelector, tools: list[QueryEngineTool]) -> None:
    with pytest.raises(KeyError, match="choice"):
        theirs('[{"answer": 2, "reason": "recipes"}]', tools, multi=True)
    several = MoMASelector(encoder=ENCODER, several=True)
    assert ours(several, tools, ASK) == "recipes"


def test_issue_17396_invalid_json(selector: MoMASelector, tools: list[QueryEngineTool]) -> None:
    with pytest.raises(Exception, match=r"JSON|parsing|mapping"):
        theirs('[{"choice": 2, "reason": "recipes" "soup"', tools)
    assert ours(selector, tools, ASK) == "recipes"


def test_issue_16480_one_choice_means_one(
    selector: MoMASelector, tools: list[QueryEngineTool]
) -> None:
    two = '[{"choice": 2, "reason": "a"}, {"choice": 1, "reason": "b"}]'
    result = LLMSingleSelector.from_defaults(llm=Says(two)).select(CHOICES, ASK)
    assert len(result.selections) == 2
    assert selector.select(CHOICES, ASK).ind == 1
    assert len(MoMASelector(encoder=ENCODER, fallback=0).select(CHOICES, ELSE).inds) == 1


def test_issue_15768_an_empty_list_in_a_fence(
    selector: MoMASelector, tools: list[QueryEngineTool]
) -> None:
    with pytest.raises(ValueError, match="Failed to select"):
        theirs("```json\n[]\n```", tools)
    with pytest.raises(NoTargetError, match="none of the 3 choices fits"):
        ours(selector, tools, ELSE)
    falls_back = MoMASelector(encoder=ENCODER, fallback="trains")
    assert ours(falls_back, tools, ELSE) == "trains"


def test_issue_6607_only_one_tool(tools: list[QueryEngineTool]) -> None:
    # An object instead of a list broke the parser; with nothing to parse, one tool is one choice.
    assert ours(MoMASelector(encoder=ENCODER), [tools[1]], ASK) == "recipes"


class Slow:
    """An encoder behind a slow line."""

    fingerprint = ENCODER.fingerprint
    dimension = ENCODER.dimension
    pause = 0.0

    def encode(self, texts: Sequence[str]) -> Any:
        time.sleep(self.pause)
        return ENCODER.encode(texts)


async def beats_during(work: Any) -> int:
    """Count how often the event loop comes by while ``work`` is awaited."""
    task, beats = asyncio.ensure_future(work), 0
    while not task.done():
        await asyncio.sleep(0.02)
        beats += 1
    await task
    return beats


async def test_issue_22369_aquery_leaves_the_loop_free(tools: list[QueryEngineTool]) -> None:
    slow = Slow()
    retriever = MoMAToolRetriever(tools, top_k=1, encoder=slow)
    selector = MoMASelector(encoder=slow)
    selector.select(CHOICES, ASK)
    slow.pause = 0.4
    theirs = ToolRetrieverRouterQueryEngine(retriever, llm=MockLLM())
    assert await beats_during(theirs.aquery(ASK)) < 5
    engine = MoMAToolRouterQueryEngine(retriever, llm=MockLLM())
    assert await beats_during(engine.aquery(ASK)) >= 8
    router = RouterQueryEngine(selector, tools, llm=MockLLM())
    assert await beats_during(router.aquery(ASK)) >= 8


def test_issue_22369_nothing_retrieved_says_so(tools: list[QueryEngineTool]) -> None:
    retriever = MoMAToolRetriever(tools, min_probability=0.9, encoder=ENCODER)
    with pytest.raises(IndexError):
        ToolRetrieverRouterQueryEngine(retriever, llm=MockLLM()).query(ELSE)
    with pytest.raises(NoTargetError, match="min_probability"):
        MoMAToolRouterQueryEngine(retriever, llm=MockLLM()).query(ELSE)


def parrot(messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
    """A weak LLM: hands off once, then repeats the last thing that it was told."""
    offered = [tool.metadata.name for tool in kwargs.get("tools") or ()]
    handed_off = any(message.role == "tool" for message in messages)
    if "handoff" in offered and not handed_off:
        asked = {"to_agent": "cook", "reason": "soup"}
        call = ToolCallBlock(tool_call_id="1", tool_name="handoff", tool_kwargs=asked)
        return ChatMessage(role="assistant", blocks=[call])
    said = messages[-1].content if handed_off else f"answer to: {messages[-1].content}"
    return ChatMessage(role="assistant", content=said)


@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")
@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")
async def test_issue_19906_the_answer_not_the_handoff() -> None:
    llm = MockFunctionCallingLLM(response_generator=parrot)
    about = {"host": "Greets guests and small talk", "cook": "Cooking recipes, soups and baking"}
    workflow = AgentWorkflow(
        [
            FunctionAgent(name=name, description=text, llm=llm, streaming=False)
            for name, text in about.items()
        ],
        root_agent="host",
    )
    router = MoMAWorkflowRouter(workflow, encoder=ENCODER)
    assert "is now handling" in str(await workflow.run(user_msg="a recipe for soup"))
    router.route_handoffs()
    handler = await router.start("a recipe for soup")
    result = await handler
    assert str(result) == "answer to: a recipe for soup"
    assert result.current_agent_name == "cook"
