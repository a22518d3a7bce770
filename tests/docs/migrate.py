"""The reader's own tools, chat model and query engines."""

from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode
from llama_index.core.tools import QueryEngineTool

from langchain_moma.testing import ScriptedChat

chat_model, llm = ScriptedChat(name="llm"), MockLLM()


def square_root(number: float) -> float:
    """Take the square root of a number."""
    return number**0.5


def logarithm(number: float) -> float:
    """Take the logarithm of a number."""
    return number


def today() -> str:
    """Tell today's date."""
    return "Monday"


tools = [square_root, logarithm, today]
index = VectorStoreIndex([TextNode(text="a text")], embed_model=MockEmbedding(embed_dim=8))
engines = [
    QueryEngineTool.from_defaults(index.as_query_engine(llm=llm), name, description)
    for name, description in (("papers", "Research papers"), ("handbook", "Rules on leave"))
]
