"""Tools by retrieval: the few of hundreds of tools that a query needs, in LlamaIndex's own type.

For `FunctionAgent`, `AgentWorkflow` and `ToolRetrieverRouterQueryEngine`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.objects import ObjectRetriever, SimpleToolNodeMapping
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.tools import BaseTool

from llamaindex_moma.cards import (
    add_example,
    agent_cards_from_function_tools,
    register_cards,
    router_of,
    tools_in,
)
from llamaindex_moma.events import MoMARouteEvent, send
from llamaindex_moma.threshold import check_min_probability, judged
from moma_core import Candidate, Encoder, InvalidInputError, MoMARouter, UnknownNameError
from moma_core.places import rank_requests, shared
from moma_core.types import nearest

__all__ = ["MoMAToolRetriever"]


class MoMAToolRetriever(ObjectRetriever[BaseTool]):
    """Retrieves the tools that fit a query best; no LLM call.

    A query that asks for several things shares the places among its requests.

    Args:
        tools: The tools; each needs a name of its own.
        router: Receives a card for each tool, and keeps those it has; its other agents are never
            retrieved. None makes one.
        top_k: Most tools for a query.
        examples: Queries that each tool should take, by tool name.
        always: Names of tools that are offered whatever the query, beside the ``top_k``; a text is
            one name.
        min_probability: Retrieve nothing but ``always`` when the best tool is less probable than
            this; 0 always retrieves, None takes the router's own threshold.
        node_postprocessors: LlamaIndex's own, applied to the ranked tools.
        encoder: For the router made here; the packaged one by default.

    Raises:
        InvalidInputError: A number is out of bounds, ``examples`` are not by name, or ``tools``
            holds something else.
        DuplicateNameError: Two tools share a name.
        UnknownNameError: ``examples`` or ``always`` name a tool that is not there.

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
        always: Collection[str] | str = (),
        min_probability: float | None = 0.0,
        node_postprocessors: Sequence[BaseNodePostprocessor] = (),
        encoder: Encoder | None = None,
    ) -> None:
        if top_k < 1:
            raise InvalidInputError(f"top_k is 1 or more, got {top_k!r}.")
        check_min_probability(min_probability)
        own = tools_in(tools)
        cards = agent_cards_from_function_tools(own, examples)
        always = (always,) if isinstance(always, str) else tuple(always)
        _check_known(always, [card.name for card in cards])
        self._router = router or router_of([], encoder)
        register_cards(self._router, cards)
        self._ranked = _RankedTools(self._router, _Tools(own), top_k, always, min_probability)
        super().__init__(self._ranked, self._ranked.tools, list(node_postprocessors))

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
        register_cards(self._router, agent_cards_from_function_tools(tools, examples))
        for tool in tools_in(tools):
            self._ranked.tools.add_object(tool)

    def remove_tools(self, *names: str) -> None:
        """Retrieve these no more; a shared router keeps their cards.

        Raises:
            UnknownNameError: There is no such tool.
        """
        _check_known(names, self._ranked.tools.obj_node_mapping)
        for name in set(names):
            self._ranked.tools.remove(name)

    def learn(self, query: str, name: str) -> None:
        """Remember that a tool should take queries like this one; the next retrieval knows it.

        Raises:
            UnknownNameError: There is no such tool.
        """
        _check_known([name], self._ranked.tools.obj_node_mapping)
        add_example(self._router, name, query)


def _check_known(names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise UnknownNameError(f"no tool is called {name!r}. {nearest(name, known)}")


class _Tools(SimpleToolNodeMapping):
    """LlamaIndex's tools by name, which can also be listed and removed."""

    @property
    def obj_node_mapping(self) -> dict[Any, Any]:
        return self._tools

    def remove(self, name: str) -> None:
        del self._tools[name]


class _RankedTools(BaseRetriever):
    """Ranked tools as nodes, as `ObjectRetriever` wants them.

    Args:
        router: Ranks.
        tools: Those that may be retrieved.
        top_k: Most tools for a query.
        always: Names that come with every query.
        min_probability: Probability from which on the best tool fits; None asks the gate.
    """

    def __init__(
        self,
        router: MoMARouter,
        tools: _Tools,
        top_k: int,
        always: Sequence[str],
        min_probability: float | None,
    ) -> None:
        super().__init__()
        self.tools = tools
        self._router = router
        self._top_k, self._always = top_k, always
        self._min_probability = min_probability

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        text, names = query_bundle.query_str, self.tools.obj_node_mapping
        scores: dict[str, float] = {}
        if text in names:
            # AgentWorkflow asks again by the name of the tool that the LLM called.
            scores[text] = 1.0
        elif text.strip():
            scores = {each.name: each.score for each in self._candidates(text)}
        scores = {**scores, **{name: 0.0 for name in self._always if name not in scores}}
        return [
            NodeWithScore(node=TextNode(text=name, metadata={"name": name}), score=score)
            for name, score in scores.items()
            if name in names and self._router.agents.get(name).enabled
        ]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _candidates(self, text: str) -> Sequence[Candidate]:
        start, names = time.perf_counter(), tuple(self.tools.obj_node_mapping)
        rankings = rank_requests(self._router, text, max(self._top_k, 10), names)
        ranking = judged(rankings[0], self._min_probability)
        found = shared([ranking, *rankings[1:]], self._top_k) if ranking.fits else ()
        send(
            MoMARouteEvent.of_ranking(
                "tools",
                text,
                ranking,
                [candidate.name for candidate in found],
                reason=f"the {len(found)} best of {len(names)} tools" if found else ranking.reason,
                ms=(time.perf_counter() - start) * 1e3,
            )
        )
        return found
