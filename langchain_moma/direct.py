"""Runs a chosen LLM inside a chat model run that LangChain has opened already.

``generate`` and version 3 of ``stream_events`` call ``_generate`` and ``_stream`` of a chat model;
a second run below theirs would count tokens twice, so the chosen LLM's own ones are called.
"""

# ruff: noqa: SLF001  # these underscored methods are LangChain's contract between chat models
from __future__ import annotations

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

from langchain_moma.delegation import How, marked
from langchain_moma.fallback import Fallback
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

        def run(chosen: Try) -> ChatResult:
            llm, options = self._bare(chosen)
            sent = portable_messages(messages, llm)
            return _marked(llm._generate(sent, run_manager=run_manager, **options), chosen.name)

        return Fallback(self.pool, self.ask).call(run)

    async def agenerate(
        self, messages: list[BaseMessage], run_manager: AsyncCallbackManagerForLLMRun | None
    ) -> ChatResult:
        """Await the first result."""

        async def run(chosen: Try) -> ChatResult:
            llm, options = self._bare(chosen)
            sent = portable_messages(messages, llm)
            result = await llm._agenerate(sent, run_manager=run_manager, **options)
            return _marked(result, chosen.name)

        return await Fallback(self.pool, self.ask).acall(run)

    def stream(
        self, messages: list[BaseMessage], run_manager: CallbackManagerForLLMRun | None
    ) -> Iterator[ChatGenerationChunk]:
        """Yield the chunks of the first LLM that begins to answer."""

        def run(chosen: Try) -> Iterator[ChatGenerationChunk]:
            llm, options = self._bare(chosen)
            sent = portable_messages(messages, llm)
            if type(llm)._stream is BaseChatModel._stream:
                yield _as_chunk(llm._generate(sent, run_manager=run_manager, **options))
            else:
                yield from llm._stream(sent, run_manager=run_manager, **options)

        return Fallback(self.pool, self.ask).stream(run, _first)

    def astream(
        self, messages: list[BaseMessage], run_manager: AsyncCallbackManagerForLLMRun | None
    ) -> AsyncIterator[ChatGenerationChunk]:
        """Yield the chunks of the first LLM that begins to answer."""

        async def run(chosen: Try) -> AsyncIterator[ChatGenerationChunk]:
            llm, options = self._bare(chosen)
            sent = portable_messages(messages, llm)
            if not _streams(llm):
                result = await llm._agenerate(sent, run_manager=run_manager, **options)
                yield _as_chunk(result)
                return
            async for chunk in llm._astream(sent, run_manager=run_manager, **options):
                yield chunk

        return Fallback(self.pool, self.ask).astream(run, _first)

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
