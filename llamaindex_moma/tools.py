"""Tools by retrieval: the few of hundreds of tools that a query needs, in LlamaIndex's own type.

For `FunctionAgent`, `AgentWorkflow` and `ToolRetrieverRouterQueryEngine`. Knows nothing of what the
tools do.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.objects import ObjectRetriever, SimpleToolNodeMapping
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import ToolRetrieverRouterQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType, TextNode
from llama_index.core.tools import BaseTool, QueryEngineTool

from llamaindex_moma.cards import (
    add_example,
    agent_cards_from_function_tools,
    nearest,
    register_cards,
)
from llamaindex_moma.events import MoMARouteEvent, scores_of, tell
from llamaindex_moma.ranking import check_least, judge, packaged_encoder
from moma_core import (
    Candidate,
    Encoder,
    InvalidInputError,
    MoMARouter,
    NoTargetError,
    UnknownNameError,
)

__all__ = [
    "MoMAToolRetriever",
    "MoMAToolRouterQueryEngine",
]


class MoMAToolRetriever(ObjectRetriever[BaseTool]):
    """Retrieves the tools that fit a query best, by the agent ranker; one embedding, no LLM call.

    Args:
        tools: The tools; each needs a name of its own.
        router: Receives a card for each tool, and keeps those it has; its other agents are never
            retrieved. None makes one.
        top_k: Most tools for a query.
        examples: Queries that each tool should take, by tool name.
        always: Names of tools that are offered whatever the query, beside the ``top_k``.
        min_probability: Retrieve nothing but ``always`` when the best tool is less probable than
            this; 0 always retrieves, None takes the router's own threshold.
        node_postprocessors: LlamaIndex's own, applied to the ranked tools.
        encoder: For the router made here; the packaged one by default.

    Raises:
        InvalidInputError: A number is out of bounds.
        DuplicateNameError: Two tools share a name.
        UnknownNameError: ``examples`` or ``always`` speak of a tool that is not there.

    Example:
        >>> def add(a: int, b: int) -> int:
        ...     "Add two numbers."
        ...     return a + b
        >>> def forecast(town: str) -> str:
        ...     "Weather forecast: rain, wind and sun in a town."
        ...     return "sun"
        >>> from llama_index.core.tools import FunctionTool
        >>> tools = [FunctionTool.from_defaults(f) for f in (add, forecast)]
        >>> [tool.metadata.name for tool in MoMAToolRetriever(tools, top_k=1).retrieve("rain?")]
        ['forecast']
    """

    def __init__(
        self,
        tools: Iterable[BaseTool],
        router: MoMARouter | None = None,
        *,
        top_k: int = 5,
        examples: Mapping[str, Sequence[str]] | None = None,
        always: Sequence[str] = (),
        min_probability: float | None = 0.0,
        node_postprocessors: Sequence[BaseNodePostprocessor] = (),
        encoder: Encoder | None = None,
    ) -> None:
        if top_k < 1:
            raise InvalidInputError(f"top_k is 1 or more, got {top_k!r}.")
        check_least(min_probability)
        own = list(tools)
        cards = agent_cards_from_function_tools(own, examples)
        names = [card.name for card in cards]
        for name in always:
            if name not in names:
                raise UnknownNameError(f"no tool is called {name!r}. {nearest(name, names)}")
        self._router = router or MoMARouter.from_cards(
            llms=None, encoder=encoder or packaged_encoder()
        )
        register_cards(self._router, cards)
        self._ranked = _RankedTools(self._router, names, top_k, tuple(always), min_probability)
        super().__init__(self._ranked, SimpleToolNodeMapping(own), list(node_postprocessors))

    @property
    def router(self) -> MoMARouter:
        """Ranks; enable and disable tools by ``router.agents``."""
        return self._router

    def add_tools(
        self, *tools: BaseTool, examples: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Add tools, or replace those of the same name; the next retrieval knows them.

        Raises:
            DuplicateNameError: Two of them share a name.
        """
        cards = agent_cards_from_function_tools(tools, examples)
        register_cards(self._router, cards)
        for tool, card in zip(tools, cards, strict=True):
            self._object_node_mapping.add_object(tool)
            self._ranked.names[card.name] = None

    def remove_tools(self, *names: str) -> None:
        """Retrieve these no more; a shared router keeps their cards.

        Raises:
            UnknownNameError: There is no such tool.
        """
        for name in names:
            if name not in self._ranked.names:
                known = self._ranked.names
                raise UnknownNameError(f"no tool is called {name!r}. {nearest(name, known)}")
        for name in names:
            del self._ranked.names[name]

    def learn(self, query: str, name: str) -> None:
        """Remember that a tool should take queries like this one; the next retrieval knows it.

        Raises:
            UnknownNameError: There is no such tool.
        """
        add_example(self._router, name, query)


class MoMAToolRouterQueryEngine(ToolRetrieverRouterQueryEngine):
    """LlamaIndex's engine over retrieved engines, without its two traps.

    Its ``aquery`` retrieves on the event loop, and either query ends in an IndexError when nothing
    is retrieved. Here the loop goes on, and nothing to ask is an error that says what to do.

    Args:
        retriever: Such as `MoMAToolRetriever` over query engine tools.
        llm: Joins several answers; LlamaIndex's default otherwise.
        summarizer: Joins several answers in your own way.
    """

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        found = self._retriever.retrieve(query_bundle)
        return super(MoMAToolRouterQueryEngine, self._over(found))._query(query_bundle)

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        found = await self._retriever.aretrieve(query_bundle)
        return await super(MoMAToolRouterQueryEngine, self._over(found))._aquery(query_bundle)

    def _over(self, found: list[QueryEngineTool]) -> MoMAToolRouterQueryEngine:
        """Return this engine with the retrieval already done."""
        if not found:
            raise NoTargetError(
                "no query engine was retrieved for this query. Add an engine that takes such "
                "queries, name it in always=, or lower min_probability."
            )
        engine = copy.copy(self)
        engine._retriever = _Found(found)  # noqa: SLF001 - its own class
        return engine


class _RankedTools(BaseRetriever):
    """Ranked tools as nodes, as `ObjectRetriever` wants them.

    Args:
        router: Ranks.
        names: Of the tools that may be retrieved.
        top_k: Most tools for a query.
        always: Names that come with every query.
        least: Probability from which on the best tool fits; None asks the gate.
    """

    def __init__(
        self,
        router: MoMARouter,
        names: Iterable[str],
        top_k: int,
        always: tuple[str, ...],
        least: float | None,
    ) -> None:
        super().__init__()
        self.names: dict[str, None] = dict.fromkeys(names)
        self._router = router
        self._top_k = top_k
        self._always = always
        self._least = least

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        text = query_bundle.query_str
        scores: dict[str, float] = {}
        if text in self.names:
            # AgentWorkflow asks again by the name of the tool that the LLM called.
            scores[text] = 1.0
        elif text.strip():
            scores = {c.name: c.score for c in self._candidates(text)}
        scores = {**dict.fromkeys(self._always, 0.0), **scores}
        best_first = sorted(scores.items(), key=lambda item: -item[1])
        return [
            NodeWithScore(node=TextNode(text=name, metadata={"name": name}), score=score)
            for name, score in best_first
            if name in self.names and self._router.agents.get(name).enabled
        ]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _candidates(self, text: str) -> Sequence[Candidate]:
        judged = judge(self._router, text, tuple(self.names), self._top_k, least=self._least)
        found = judged.candidates[: self._top_k] if judged.fits else ()
        tell(
            MoMARouteEvent(
                kind="tools",
                query=text,
                targets=[candidate.name for candidate in found],
                reason=f"the {len(found)} best of {len(self.names)} tools"
                if found
                else judged.reason,
                scores=scores_of(judged.candidates),
                probability=judged.probability,
                ms=judged.ms,
            )
        )
        return found


class _Found(ObjectRetriever[Any]):
    """Retrieves what was retrieved already."""

    def __init__(self, found: list[Any]) -> None:
        super().__init__(_Nothing(), SimpleToolNodeMapping([]))
        self._found = found

    def retrieve(self, str_or_query_bundle: QueryType) -> list[Any]:  # noqa: ARG002
        return self._found


class _Nothing(BaseRetriever):
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:  # noqa: ARG002
        return []
