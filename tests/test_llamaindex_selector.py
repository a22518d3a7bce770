"""MoMASelector in real LlamaIndex query engines and retrievers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core import MockEmbedding, SummaryIndex, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.retrievers import RouterRetriever
from llama_index.core.schema import TextNode
from llama_index.core.tools import QueryEngineTool, RetrieverTool, ToolMetadata

import llamaindex_moma
from llamaindex_moma import MoMASelector, ScoredSelection
from moma_core import InvalidInputError, NoTargetError, UnknownNameError
from moma_core.errors import InvalidQueryError
from moma_core.testing import HashEncoder

EXAMPLES = {
    "weather": (
        "will it rain tomorrow?",
        "how hot was July in Paris",
        "storms of last winter",
        "average snowfall in Oslo",
        "which month has most sun",
    ),
    "recipes": (
        "how do I cook lentil soup?",
        "ingredients of a lemon tart",
        "bake bread without yeast",
        "what to do with leftover rice",
        "sauce for grilled fish",
    ),
}
CHOICES = (
    ToolMetadata("Weather records by town and month", "weather"),
    ToolMetadata("Cooking recipes with their ingredients", "recipes"),
)
NEGATIVES = ("who won the chess final?", "explain quantum tunnelling", "write me a poem")
ASK_COOK = "how do I cook a soup with lemon?"
ASK_RAIN = "how much rain falls in Oslo?"
ASK_ELSE = "prove that there are infinitely many primes"


# Cards are embedded and fitted once for these choices, by whichever test comes first.
SELECTOR = MoMASelector(EXAMPLES, negatives=NEGATIVES)


def test_selects_with_a_score_and_a_reason() -> None:
    result = SELECTOR.select(CHOICES, ASK_COOK)
    assert result.ind == 1
    [selection] = result.selections
    assert isinstance(selection, ScoredSelection)
    assert 0.0 < selection.score <= 1.0
    assert selection.name == "recipes"
    assert "'recipes' fits" in result.reason


async def test_async_does_the_same_while_many_wait() -> None:
    selector = SELECTOR
    results = await asyncio.gather(
        *(selector.aselect(CHOICES, ASK_COOK if i % 2 else ASK_RAIN) for i in range(20))
    )
    assert [result.ind for result in results] == [0, 1] * 10


def test_nothing_fits_raises_or_falls_back() -> None:
    strict = MoMASelector(EXAMPLES, negatives=NEGATIVES, strict=True)
    with pytest.raises(NoTargetError, match="fallback"):
        strict.select(CHOICES, ASK_ELSE)
    for fallback in (1, "recipes"):
        selector = MoMASelector(EXAMPLES, negatives=NEGATIVES, fallback=fallback)
        [selection] = selector.select(CHOICES, ASK_ELSE).selections
        assert (selection.index, selection.fallback, selection.score) == (1, True, 0.0)
        assert "is the fallback" in selection.reason
    assert selector.select(CHOICES, ASK_RAIN).ind == 0


@pytest.mark.parametrize("fallback", [-1, 2, "nobody"])
def test_a_wrong_fallback_shows_at_the_first_query(fallback: int | str) -> None:
    with pytest.raises(UnknownNameError, match="none of the 2 choices"):
        MoMASelector(EXAMPLES, fallback=fallback).select(CHOICES, ASK_COOK)


def test_names_may_be_missing_or_doubled() -> None:
    choices = [
        ToolMetadata("Cooking recipes and baking", None),
        ToolMetadata("Weather of the north", "records"),
        ToolMetadata("", "records"),
        ToolMetadata("", None),
        ToolMetadata("Chess games", "x\ny" * 100),
    ]
    result = MoMASelector(fallback=0).select(choices, "cooking recipes and baking")
    assert result.ind == 0
    assert MoMASelector(fallback=4).select(choices, "weather of the north").ind in range(5)


def test_plain_texts_as_choices() -> None:
    result = MoMASelector(fallback=0).select(["Cooking recipes", "Weather records"], ASK_ELSE)
    assert result.ind in {0, 1}


def test_several_selections_best_first() -> None:
    selector = MoMASelector(EXAMPLES, several=True, max_selections=2, min_share=0.0)
    result = selector.select(CHOICES, ASK_COOK)
    assert result.inds == [1, 0]
    first, second = result.selections
    assert first.score >= second.score
    best = MoMASelector(EXAMPLES, several=True, min_share=1.0)
    assert best.select(CHOICES, ASK_COOK).inds == [1]


def test_bad_input_is_a_typed_error() -> None:
    with pytest.raises(InvalidInputError, match="no choices"):
        MoMASelector().select([], ASK_COOK)
    with pytest.raises(InvalidInputError, match="max_selections"):
        MoMASelector(max_selections=0)
    with pytest.raises(InvalidQueryError):
        SELECTOR.select(CHOICES, " ")


class Counting(HashEncoder):
    """Keeps what it was asked to encode."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> Any:
        self.texts.extend(texts)
        return super().encode(texts)


def test_cards_are_made_once_for_a_list_of_choices() -> None:
    encoder, example = Counting(), EXAMPLES["weather"][0]
    selector = MoMASelector(EXAMPLES, encoder=encoder)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: selector.select(CHOICES, ASK_COOK), range(16)))
    assert encoder.texts.count(example) == 1
    selector.select(CHOICES[::-1], ASK_COOK)
    assert encoder.texts.count(example) == 2


def engine(text: str) -> object:
    index = VectorStoreIndex([TextNode(text=text)], embed_model=MockEmbedding(embed_dim=4))
    return index.as_query_engine(llm=MockLLM())


async def test_router_query_engine_end_to_end() -> None:
    tools = [
        QueryEngineTool(engine(f"all about {choice.name}"), choice)  # type: ignore[arg-type]
        for choice in CHOICES
    ]
    router = RouterQueryEngine(SELECTOR, tools, llm=MockLLM())
    response = router.query(ASK_COOK)
    assert "all about recipes" in str(response)
    [selection] = response.metadata["selector_result"].selections
    assert selection.name == "recipes"
    assert "all about weather" in str(await router.aquery(ASK_RAIN))
    assert router.get_prompts()  # the selector adds none, and does not break the others


def test_router_retriever_end_to_end() -> None:
    tools = [
        RetrieverTool(SummaryIndex([TextNode(text=f"on {c.name}")]).as_retriever(), c)
        for c in CHOICES
    ]
    retriever = RouterRetriever(SELECTOR, tools, llm=MockLLM())
    [found] = retriever.retrieve(ASK_RAIN)
    assert found.node.text == "on weather"


def test_exported_names() -> None:
    assert llamaindex_moma.__all__ == sorted(llamaindex_moma.__all__)
    assert all(hasattr(llamaindex_moma, name) for name in llamaindex_moma.__all__)


def test_without_the_extra_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['llama_index'] = None; import llamaindex_moma"
    done = subprocess.run(  # noqa: S603  # our own words
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "MissingExtraError" in done.stderr
    assert 'pip install "moma-router[llamaindex]"' in done.stderr
