"""Runs a chosen LLM inside a chat model run that LangChain has opened already.

``generate`` and version 3 of ``stream_events`` call ``_generate`` and ``_stream`` of a chat model;
a second run below theirs would count tokens twice, so the chosen LLM's own ones are called.
"""

# ruff: noqa: SLF001  # these underscored methods are LangChain's contract between chat models
from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables.base import RunnableBindingBase
from langgraph.errors import GraphBubbleUp

from langchain_moma.delegation import Failures, How, marked
from langchain_moma.pool import Ask, ChatPool, Try
from langchain_moma.portable import portable_messages

__all__ = ["Direct"]

_TRACE_ONLY = ("ls_structured_output_format", "structured_output_format")


class _Bare(NamedTuple):
    llm: BaseChatModel
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Direct:
    """One call answered inside the caller's run.

    Args:
        pool: Who can be asked.
        ask: What is asked.
        how: Prepares a chat model for the call.
    """

    pool: ChatPool
    ask: Ask
    how: How

    def generate(
        self, messages: list[BaseMessage], run_manager: CallbackManagerForLLMRun | None
    ) -> ChatResult:
        """Return the first result."""
        failures = Failures(self.pool)
        for chosen in self._tries():
            try:
                with self.pool.attempt(chosen.name):
                    llm, options = self._bare(chosen)
                    result = llm._generate(
                        portable_messages(messages, llm), run_manager=run_manager, **options
                    )
                    return _marked(result, chosen.name)
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001  # any provider's error
                failures.add(chosen.name, error)
        raise failures.final()

    async def agenerate(
        self, messages: list[BaseMessage], run_manager: AsyncCallbackManagerForLLMRun | None
    ) -> ChatResult:
        """Await the first result."""
        failures = Failures(self.pool)
        tries = self._tries()
        while chosen := await asyncio.to_thread(next, tries, None):
            try:
                with self.pool.attempt(chosen.name):
                    llm, options = self._bare(chosen)
                    result = await llm._agenerate(
                        portable_messages(messages, llm), run_manager=run_manager, **options
                    )
                    return _marked(result, chosen.name)
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001  # any provider's error
                failures.add(chosen.name, error)
        raise failures.final()

    def stream(
        self, messages: list[BaseMessage], run_manager: CallbackManagerForLLMRun | None
    ) -> Iterator[ChatGenerationChunk]:
        """Yield the chunks of the first LLM that begins to answer."""
        failures = Failures(self.pool)
        for chosen in self._tries():
            begun = False
            try:
                with self.pool.attempt(chosen.name):
                    llm, options = self._bare(chosen)
                    if type(llm)._stream is BaseChatModel._stream:
                        result = llm._generate(
                            portable_messages(messages, llm), run_manager=run_manager, **options
                        )
                        yield _as_chunk(_marked(result, chosen.name))
                        return
                    for chunk in llm._stream(
                        portable_messages(messages, llm), run_manager=run_manager, **options
                    ):
                        yield chunk if begun else _first(chunk, chosen.name)
                        begun = True
                return
            except GraphBubbleUp:
                raise
            except Exception as error:
                failures.add(chosen.name, error)
                if begun:
                    raise
        raise failures.final()

    async def astream(
        self, messages: list[BaseMessage], run_manager: AsyncCallbackManagerForLLMRun | None
    ) -> AsyncIterator[ChatGenerationChunk]:
        """Yield the chunks of the first LLM that begins to answer."""
        failures = Failures(self.pool)
        tries = self._tries()
        while chosen := await asyncio.to_thread(next, tries, None):
            begun = False
            try:
                with self.pool.attempt(chosen.name):
                    llm, options = self._bare(chosen)
                    if not _streams(llm):
                        result = await llm._agenerate(
                            portable_messages(messages, llm), run_manager=run_manager, **options
                        )
                        yield _as_chunk(_marked(result, chosen.name))
                        return
                    async for chunk in llm._astream(
                        portable_messages(messages, llm), run_manager=run_manager, **options
                    ):
                        yield chunk if begun else _first(chunk, chosen.name)
                        begun = True
                return
            except GraphBubbleUp:
                raise
            except Exception as error:
                failures.add(chosen.name, error)
                if begun:
                    raise
        raise failures.final()

    def _tries(self) -> Iterator[Try]:
        return self.pool.tries(self.ask)

    def _bare(self, chosen: Try) -> _Bare:
        bound: Any = self.how(chosen.llm)
        options: dict[str, Any] = {}
        while isinstance(bound, RunnableBindingBase):
            options = {**bound.kwargs, **options}
            bound = bound.bound
        return _Bare(bound, {k: v for k, v in options.items() if k not in _TRACE_ONLY})


def _streams(llm: BaseChatModel) -> bool:
    own = type(llm)
    return not (own._stream is BaseChatModel._stream and own._astream is BaseChatModel._astream)


def _marked(result: ChatResult, name: str) -> ChatResult:
    for generation in result.generations:
        generation.message = marked(generation.message, name)
    return result


def _first(chunk: ChatGenerationChunk, name: str) -> ChatGenerationChunk:
    return chunk.model_copy(update={"message": marked(chunk.message, name)})


def _as_chunk(result: ChatResult) -> ChatGenerationChunk:
    message = result.generations[0].message
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    chunks = [
        tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=i)
        for i, call in enumerate(calls)
    ]
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content=message.content,
            tool_call_chunks=chunks,
            additional_kwargs=message.additional_kwargs,
            response_metadata=message.response_metadata,
            usage_metadata=getattr(message, "usage_metadata", None),
            id=message.id,
            chunk_position="last",
        )
    )
