"""The question decides which LLM answers, whatever text was retrieved around it."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow, ReActAgent
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.prompts.chat_prompts import (
    CHAT_CONTENT_QA_PROMPT,
    CHAT_CONTENT_REFINE_PROMPT,
    CHAT_REFINE_PROMPT,
    CHAT_TEXT_QA_PROMPT,
)
from llama_index.core.prompts.default_prompts import (
    DEFAULT_CHOICE_SELECT_PROMPT,
    DEFAULT_REFINE_PROMPT,
    DEFAULT_TEXT_QA_PROMPT,
    DEFAULT_TEXT_TO_SQL_PROMPT,
)
from llama_index.core.schema import TextNode
from llama_index.core.tools import FunctionTool

from llamaindex_moma import MoMALLM, MoMARouteEvent
from moma_core import MoMARouter

LLMS = (
    "gemini-1.5-flash",
    "claude-3-5-sonnet-20241022",
    "gpt-4o-2024-08-06",
    "gpt-4o-mini-2024-07-18",
)
EASY, HARD = "What is the capital of Norway?", "Prove that there are infinitely many primes."
RETRIEVED = (
    "The capital of Norway is Oslo.",
    "Theorem 4. Let $G$ be a finite group; prove that the order of each element divides |G|. "
    "def solve(n): return sum(i * i for i in range(n))  # implement this in C++ " * 20,
    "Query: tell me a joke\nAnswer: no\n---------------------\nOriginal Answer: none\n" * 9,
)


class Town(BaseModel):
    """A town."""

    name: str


class Routed(BaseEventHandler):
    """Keeps what was routed, and where to."""

    seen: list[Any] = []  # noqa: RUF012 - pydantic copies it

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, MoMARouteEvent):
            self.seen.append((event.query, event.targets[0]))


@pytest.fixture(scope="module")
def router() -> MoMARouter:
    return MoMARouter.from_cards()


@pytest.fixture
def routed() -> Any:
    handler, root = Routed(), get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


@pytest.fixture(scope="module")
def llm(router: MoMARouter) -> MoMALLM:
    return MoMALLM({name: MockLLM(max_tokens=8) for name in LLMS}, router)


@pytest.mark.parametrize("question", [EASY, HARD])
@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "mode", ["compact", "refine", "tree_summarize", "simple_summarize", "accumulate", "generation"]
)
async def test_rag_routes_the_question(
    llm: MoMALLM, routed: Routed, mode: str, streaming: bool, wait: bool, question: str
) -> None:
    if streaming and mode == "accumulate":
        return  # LlamaIndex refuses it
    for text in RETRIEVED:
        nodes = [TextNode(text=text), TextNode(text=f"and {text}")]
        index = VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=4))
        engine = index.as_query_engine(llm=llm, response_mode=mode, streaming=streaming)
        response = await engine.aquery(question) if wait else engine.query(question)
        if streaming:
            await response.get_response() if wait else response.get_response()
    assert routed.seen
    assert {query for query, _ in routed.seen} == {question}
    assert len({target for _, target in routed.seen}) == 1


async def test_structured_answers_route_the_question(router: MoMARouter, routed: Routed) -> None:
    def answer(messages: Any, **kwargs: Any) -> ChatMessage:
        call = ToolCallBlock(tool_call_id="1", tool_name="Town", tool_kwargs={"name": "Oslo"})
        return ChatMessage(role="assistant", blocks=[call])

    async def aanswer(messages: Any, **kwargs: Any) -> Any:
        yield answer(messages, **kwargs)

    able = MockFunctionCallingLLM(response_generator=answer)
    waits = MockFunctionCallingLLM(response_generator=aanswer)
    template = PromptTemplate("Context: {context_str}\nAsked: {query_str}")
    for text in RETRIEVED:
        filled = {"context_str": text, "query_str": HARD}
        llm = MoMALLM(dict.fromkeys(LLMS, able), router)
        assert llm.structured_predict(Town, template, **filled).name == "Oslo"
        list(llm.stream_structured_predict(Town, template, **filled))
        llm = MoMALLM(dict.fromkeys(LLMS, waits), router)
        [piece async for piece in await llm.astream_structured_predict(Town, template, **filled)]
    assert {query for query, _ in routed.seen} == {HARD}
    assert len(routed.seen) == 3 * len(RETRIEVED)


@pytest.mark.parametrize("text", RETRIEVED)
def test_a_template_that_was_filled_before(llm: MoMALLM, routed: Routed, text: str) -> None:
    known = {"query_str": HARD, "context_str": text, "context_msg": text, "existing_answer": "no"}
    sql = {"query_str": HARD, "schema": text, "dialect": "sqlite"}
    rich = {"query_str": HARD, "context_messages": [ChatMessage(text)], "existing_answer": "no"}
    for template in (DEFAULT_TEXT_QA_PROMPT, DEFAULT_REFINE_PROMPT, DEFAULT_CHOICE_SELECT_PROMPT):
        llm.complete(template.format(**known))
        llm.chat(template.format_messages(**known))
    llm.complete(DEFAULT_TEXT_TO_SQL_PROMPT.format(**sql))
    for chat_template in (CHAT_TEXT_QA_PROMPT, CHAT_REFINE_PROMPT):
        llm.chat(chat_template.format_messages(**known))
    for rich_template in (CHAT_CONTENT_QA_PROMPT, CHAT_CONTENT_REFINE_PROMPT):
        llm.chat(rich_template.format_messages(**rich))
    assert {query for query, _ in routed.seen} == {HARD}


def test_a_users_own_template_is_known_by_its_variables(llm: MoMALLM, routed: Routed) -> None:
    own = PromptTemplate("{question} -- answer from: {facts}")
    asked = own.partial_format(question=HARD)
    for text in RETRIEVED:
        llm.predict(asked, facts=text)
        list(llm.stream(own, question=HARD, facts=text))
    # What holds no question is routed as it is, and after a template nothing of it is left.
    llm.predict(PromptTemplate("Say {word}"), word="hello")
    llm.complete(EASY)
    assert [query for query, _ in routed.seen] == [HARD] * 6 + ["Say hello", EASY]


def test_one_question_inside_another(llm: MoMALLM, routed: Routed) -> None:
    class Outer(MockLLM):
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            return llm.complete(prompt)

    outer = MoMALLM({LLMS[0]: Outer()}, llm.router)
    outer.predict(DEFAULT_TEXT_QA_PROMPT, query_str=HARD, context_str=RETRIEVED[0])
    assert [query for query, _ in routed.seen] == [HARD, HARD]


def test_a_very_long_prompt_is_read_at_its_ends(llm: MoMALLM, routed: Routed) -> None:
    filled = DEFAULT_TEXT_QA_PROMPT.format(context_str=RETRIEVED[2] * 500, query_str=EASY)
    llm.complete(filled)
    assert [query for query, _ in routed.seen] == [EASY]


@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")
@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")
@pytest.mark.filterwarnings("ignore:is_running called from within a step")  # by LlamaIndex
async def test_what_a_react_agent_observed_is_no_question(
    router: MoMARouter, routed: Routed
) -> None:
    class Thinks(MockLLM):
        def chat(self, messages: Any, **kwargs: Any) -> Any:
            seen = any("Observation:" in (m.content or "") for m in messages[1:])
            said = (
                "Thought: I know it.\nAnswer: Oslo"
                if seen
                else 'Thought: I look.\nAction: look\nAction Input: {"value": "x"}'
            )
            return ChatResponse(message=ChatMessage(said, role=MessageRole.ASSISTANT))

        async def achat(self, messages: Any, **kwargs: Any) -> Any:
            return self.chat(messages)

    def look(value: str) -> str:
        """Look something up."""
        return RETRIEVED[1]

    llm = MoMALLM({name: Thinks() for name in LLMS}, router)
    agent = ReActAgent(tools=[FunctionTool.from_defaults(look)], llm=llm, streaming=False)
    result = await AgentWorkflow([agent]).run(user_msg=EASY)
    assert str(result) == "Oslo"
    assert [query for query, _ in routed.seen] == [EASY, EASY]
