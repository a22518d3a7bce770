"""A LlamaIndex RouterQueryEngine that selects without an LLM call. Runs offline.

pip install "moma-router[llamaindex]" && python examples/llamaindex_selector.py
"""

from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.schema import TextNode
from llama_index.core.tools import QueryEngineTool

from llamaindex_moma import MoMASelector

EXAMPLES = {
    "papers": [
        "which paper proves the bound?",
        "who cites the attention article",
        "results of the ablation study",
        "what method do the authors propose",
    ],
    "policies": [
        "how many days of leave do I have?",
        "may I work from abroad",
        "who approves travel costs",
        "rules for company laptops",
    ],
}
DESCRIPTIONS = {"papers": "Research papers on routing", "policies": "Handbook for employees"}


def engine(text: str) -> BaseQueryEngine:
    # The mocks keep this example offline; take your own LLM and embeddings in their place.
    index = VectorStoreIndex([TextNode(text=text)], embed_model=MockEmbedding(embed_dim=8))
    return index.as_query_engine(llm=MockLLM())


def main() -> None:
    tools = [
        QueryEngineTool.from_defaults(engine(f"All our {name}."), name=name, description=words)
        for name, words in DESCRIPTIONS.items()
    ]
    selector = MoMASelector(EXAMPLES, fallback="policies")
    router = RouterQueryEngine(selector, tools, llm=MockLLM())
    for question in ("what do the authors of the paper propose?", "how do I ask for leave?"):
        response = router.query(question)
        [selection] = response.metadata["selector_result"].selections
        print(f"{question} -> {selection.name} ({selection.score:.2f}): {selection.reason}")


if __name__ == "__main__":
    main()
