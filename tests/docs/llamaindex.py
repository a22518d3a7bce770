"""The reader's own engines, tools, agents and LLMs; mocks keep them offline."""

from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.schema import TextNode
from llama_index.core.tools import FunctionTool, QueryEngineTool

from llamaindex_moma import (
    MoMALLM,
    MoMARouterQueryEngine,
    MoMASelector,
    MoMAToolRetriever,
    MoMAWorkflowRouter,
    agent_cards_from_query_engine_tools,
    register_cards,
)
from moma_core import MoMARouter


def engine(text):
    index = VectorStoreIndex([TextNode(text=text)], embed_model=MockEmbedding(embed_dim=8))
    return index.as_query_engine(llm=MockLLM())


engines = [
    QueryEngineTool.from_defaults(engine("a text"), name=name, description=description)
    for name, description in (("papers", "Research papers"), ("policies", "Handbook"))
]
functions = [
    FunctionTool.from_defaults(lambda: "switched", name=name, description=f"Switch the {name}.")
    for name in ("heater", "lamp", "camera")
]
llm = MockFunctionCallingLLM(
    response_generator=lambda _, **__: ChatMessage("done", role="assistant")
)
host = FunctionAgent(name="host", description="Greets guests", llm=llm, streaming=False)
messages = [ChatMessage("what is the capital of Norway?")]


def OpenAI(_):  # noqa: N802
    return MockLLM()


Anthropic = OpenAI
