"""LlamaIndex's query engines over several engines, which go on when one of these fails."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from typing import Any, cast

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.llms import LLM
from llama_index.core.objects import ObjectRetriever, SimpleToolNodeMapping
from llama_index.core.query_engine import RouterQueryEngine, ToolRetrieverRouterQueryEngine
from llama_index.core.query_engine.router_query_engine import acombine_responses, combine_responses
from llama_index.core.response_synthesizers import TreeSummarize
from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType
from llama_index.core.tools import QueryEngineTool

from llamaindex_moma.events import MoMAEngineFailureEvent, send
from llamaindex_moma.selector import MoMASelector, ScoredSelection
from moma_core import InvalidInputError, NoTargetError

__all__ = [
    "MoMARouterQueryEngine",
    "MoMAToolRouterQueryEngine",
]


class MoMARouterQueryEngine(RouterQueryEngine):
    """LlamaIndex's `RouterQueryEngine` that asks the next best engine when one raises.

    Each failure is reported to the selector's ``health``: an engine that fails three times in a row
    is left alone for half a minute. With several selections, those that answer are joined.

    Args:
        selector: Selects.
        query_engine_tools: The engines.
        llm: Joins several answers; LlamaIndex's default otherwise.
        summarizer: Joins several answers in your own way.
        fallback_on: Errors after which the next engine is asked.

    Raises:
        InvalidInputError: ``selector`` is no `MoMASelector`.

    Example:
        >>> from llama_index.core.llms import MockLLM
        >>> from llama_index.core.query_engine import CustomQueryEngine
        >>> class Says(CustomQueryEngine):
        ...     words: str
        ...     def custom_query(self, query_str: str) -> str:
        ...         return self.words
        >>> tools = [
        ...     QueryEngineTool.from_defaults(Says(words=name), name=name, description=about)
        ...     for name, about in (("soup", "Cooking recipes"), ("rain", "Weather records"))
        ... ]
        >>> engine = MoMARouterQueryEngine.from_defaults(tools, llm=MockLLM())
        >>> str(engine.query("a recipe for lentil soup"))
        'soup'
    """

    def __init__(
        self,
        selector: MoMASelector,
        query_engine_tools: Sequence[QueryEngineTool],
        llm: LLM | None = None,
        *,
        summarizer: TreeSummarize | None = None,
        fallback_on: tuple[type[Exception], ...] = (Exception,),
    ) -> None:
        if not isinstance(selector, MoMASelector):
            raise InvalidInputError(
                f"the selector is a MoMASelector, got {type(selector).__name__}. With another one, "
                "take LlamaIndex's RouterQueryEngine."
            )
        self._moma = selector
        self._fallback_on = fallback_on
        super().__init__(selector, query_engine_tools, llm=llm, summarizer=summarizer)

    @classmethod
    def from_defaults(
        cls,
        query_engine_tools: Sequence[QueryEngineTool],
        llm: LLM | None = None,
        selector: BaseSelector | None = None,
        summarizer: TreeSummarize | None = None,
        select_multi: bool = False,
        **kwargs: Any,
    ) -> MoMARouterQueryEngine:
        """Return an engine whose selector, if none is given, goes by the tools' descriptions."""
        selector = selector or MoMASelector.from_defaults(query_engine_tools, several=select_multi)
        return cls(
            cast("MoMASelector", selector),
            query_engine_tools,
            llm=llm,
            summarizer=summarizer,
            **kwargs,
        )

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query_bundle.query_str}
        with self.callback_manager.event(CBEventType.QUERY, payload=payload) as event:
            answers, failed = _Answers(), _Failures()
            while not answers:
                for selection in self._next(query_bundle, failed):
                    try:
                        with self._moma.health.attempt(selection.name):
                            answer = self._query_engines[selection.index].query(query_bundle)
                    except self._fallback_on as error:
                        _note(failed, selection, error)
                    else:
                        answers.append((selection, answer))
            response = answers[0][1]
            if len(answers) > 1:
                each = [answer for _, answer in answers]
                response = combine_responses(self._summarizer, each, query_bundle)
            _describe(response, answers, failed)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query_bundle.query_str}
        with self.callback_manager.event(CBEventType.QUERY, payload=payload) as event:
            answers, failed = _Answers(), _Failures()
            while not answers:
                selections = await asyncio.to_thread(self._next, query_bundle, failed)
                tried = await asyncio.gather(*(self._atry(s, query_bundle) for s in selections))
                for selection, answer in zip(selections, tried, strict=True):
                    if isinstance(answer, Exception):
                        _note(failed, selection, answer)
                    else:
                        answers.append((selection, answer))
            response = answers[0][1]
            if len(answers) > 1:
                each = [answer for _, answer in answers]
                response = await acombine_responses(self._summarizer, each, query_bundle)
            _describe(response, answers, failed)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _atry(
        self, selection: ScoredSelection, query_bundle: QueryBundle
    ) -> RESPONSE_TYPE | Exception:
        try:
            with self._moma.health.attempt(selection.name):
                return await self._query_engines[selection.index].aquery(query_bundle)
        except self._fallback_on as error:
            return error

    def _next(self, query_bundle: QueryBundle, failed: _Failures) -> list[ScoredSelection]:
        """Select among the engines that have not failed; raise the last failure if none is left."""
        try:
            result = self._moma.choose(self._metadatas, query_bundle, exclude=failed.keys())
        except NoTargetError:
            if failed:
                raise list(failed.values())[-1] from None
            raise
        return [each for each in result.selections if isinstance(each, ScoredSelection)]


_Answers = list[tuple[ScoredSelection, RESPONSE_TYPE]]
_Failures = dict[str, Exception]


def _note(failed: _Failures, selection: ScoredSelection, error: Exception) -> None:
    failed[selection.name] = error
    send(MoMAEngineFailureEvent(engine=selection.name, error=repr(error)))


def _describe(response: RESPONSE_TYPE, answers: _Answers, failed: _Failures) -> None:
    """Say in the metadata who answered and who failed."""
    response.metadata = response.metadata or {}
    selections: list[SingleSelection] = [selection for selection, _ in answers]
    response.metadata["selector_result"] = SelectorResult(selections=selections)
    if failed:
        response.metadata["failed"] = {name: repr(error) for name, error in failed.items()}


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
