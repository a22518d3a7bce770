"""A question for two engines: a sub-question each, without an LLM call. Runs offline.

pip install "moma-router[llamaindex]" && python examples/llamaindex_subquestions.py
"""

import asyncio
from collections.abc import Sequence

from llama_index.core import MockEmbedding, VectorStoreIndex, get_response_synthesizer
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import SubQuestionQueryEngine
from llama_index.core.question_gen.types import BaseQuestionGenerator, SubQuestion
from llama_index.core.schema import QueryBundle, TextNode
from llama_index.core.tools import QueryEngineTool, ToolMetadata

from llamaindex_moma import MoMASelector

ABOUT = {
    "weather": "Weather records: rain, snow and temperature by town and month",
    "trains": "Train timetables, tickets and delays",
    "recipes": "Cooking recipes",
}


class RoutedQuestions(BaseQuestionGenerator):
    """Asks the whole question of every engine that it needs, the surest one first."""

    def __init__(self, selector: MoMASelector) -> None:
        self._selector = selector

    def _get_prompts(self) -> dict:
        return {}

    def _update_prompts(self, prompts: dict) -> None: ...

    def generate(self, tools: Sequence[ToolMetadata], query: QueryBundle) -> list[SubQuestion]:
        """Return one question an engine."""
        found, asked = self._selector.select(tools, query).selections, query.query_str
        return [SubQuestion(sub_question=asked, tool_name=each.name) for each in found]

    async def agenerate(self, tools: Sequence[ToolMetadata], query: QueryBundle) -> list:
        """Do it off the event loop."""
        return await asyncio.to_thread(self.generate, tools, query)


def main() -> None:
    tools = []
    for name, words in ABOUT.items():
        node = TextNode(text=words, metadata={"engine": name})
        engine = VectorStoreIndex([node], embed_model=MockEmbedding(8)).as_query_engine(MockLLM())
        tools.append(QueryEngineTool(engine, ToolMetadata(words, name)))
    asks = RoutedQuestions(MoMASelector(several=True, max_selections=2, min_share=0.25))
    both = SubQuestionQueryEngine(asks, get_response_synthesizer(MockLLM()), tools, verbose=False)
    for query in ("do snow and low temperature delay the train?", "a cooking recipe for soup"):
        sources = [node.metadata.get("engine") for node in both.query(query).source_nodes]
        print(query, "->", *filter(None, sources))


if __name__ == "__main__":
    main()
