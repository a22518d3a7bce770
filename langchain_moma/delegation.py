"""Asks the LLMs of a pool one after the other until one answers.

The chosen chat model runs as it would alone: its callbacks, its stream, its usage, its cache. What
fails before the first chunk falls to the next LLM; what fails later is the caller's to see.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.errors import GraphBubbleUp

from langchain_moma.decisions import FALLBACK_EVENT, adispatch, dispatch
from langchain_moma.pool import LLM_KEY, Ask, ChatPool, Try
from langchain_moma.portable import portable_messages

__all__ = ["Delegation", "Failures", "How", "marked"]

How = Callable[[BaseChatModel], Runnable[Any, Any]]
"""Turns a chat model into what is to be run: with tools bound, with a schema, with options."""


class Failures:
    """Errors of one call, and what to raise when nobody answered."""

    def __init__(self, pool: ChatPool) -> None:
        self._pool = pool
        self._errors: list[tuple[str, Exception]] = []

    def add(self, name: str, error: Exception) -> dict[str, Any]:
        """Keep an error; return it as plain data for an event."""
        self._errors.append((name, error))
        self._pool.telemetry.failed(name, error)
        return {"llm": name, "error": repr(error)}

    def final(self) -> Exception:
        """Return the first error, with notes on the others."""
        (first, error), *others = self._errors
        error.add_note(f"This is the error of LLM {first!r}; nobody else could answer either.")
        for name, other in others:
            error.add_note(f"  {name!r} failed with {other!r}")
        return error


@dataclass(frozen=True)
class Delegation:
    """One call handed to the LLMs of a pool.

    Args:
        pool: Who can be asked.
        ask: What is asked.
        how: Prepares a chat model for the call.
    """

    pool: ChatPool
    ask: Ask
    how: How

    def invoke(self, messages: list[BaseMessage], config: RunnableConfig) -> Any:
        """Return the first answer."""
        failures = Failures(self.pool)
        for chosen in self._tries():
            if chosen.decision is not None:
                dispatch(chosen.decision.to_dict(), config)
            try:
                with self.pool.attempt(chosen.name):
                    return marked(
                        self.how(chosen.llm).invoke(
                            portable_messages(messages, chosen.llm), config
                        ),
                        chosen.name,
                    )
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001  # any provider's error
                dispatch(failures.add(chosen.name, error), config, FALLBACK_EVENT)
        raise failures.final()

    async def ainvoke(self, messages: list[BaseMessage], config: RunnableConfig) -> Any:
        """Await the first answer; routes in a thread."""
        failures = Failures(self.pool)
        tries = self._tries()
        while chosen := await asyncio.to_thread(next, tries, None):
            if chosen.decision is not None:
                await adispatch(chosen.decision.to_dict(), config)
            try:
                with self.pool.attempt(chosen.name):
                    answer = await self.how(chosen.llm).ainvoke(
                        portable_messages(messages, chosen.llm), config
                    )
                    return marked(answer, chosen.name)
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001  # any provider's error
                await adispatch(failures.add(chosen.name, error), config, FALLBACK_EVENT)
        raise failures.final()

    def stream(self, messages: list[BaseMessage], config: RunnableConfig) -> Iterator[Any]:
        """Yield the chunks of the first LLM that begins to answer."""
        failures = Failures(self.pool)
        for chosen in self._tries():
            if chosen.decision is not None:
                dispatch(chosen.decision.to_dict(), config)
            begun = False
            try:
                with self.pool.attempt(chosen.name):
                    for chunk in self.how(chosen.llm).stream(
                        portable_messages(messages, chosen.llm), config
                    ):
                        yield chunk if begun else marked(chunk, chosen.name)
                        begun = True
                return
            except GraphBubbleUp:
                raise
            except Exception as error:
                plain = failures.add(chosen.name, error)
                if begun:
                    raise
                dispatch(plain, config, FALLBACK_EVENT)
        raise failures.final()

    async def astream(
        self, messages: list[BaseMessage], config: RunnableConfig
    ) -> AsyncIterator[Any]:
        """Yield the chunks of the first LLM that begins to answer; routes in a thread."""
        failures = Failures(self.pool)
        tries = self._tries()
        while chosen := await asyncio.to_thread(next, tries, None):
            if chosen.decision is not None:
                await adispatch(chosen.decision.to_dict(), config)
            begun = False
            try:
                with self.pool.attempt(chosen.name):
                    async for chunk in self.how(chosen.llm).astream(
                        portable_messages(messages, chosen.llm), config
                    ):
                        yield chunk if begun else marked(chunk, chosen.name)
                        begun = True
                return
            except GraphBubbleUp:
                raise
            except Exception as error:
                plain = failures.add(chosen.name, error)
                if begun:
                    raise
                await adispatch(plain, config, FALLBACK_EVENT)
        raise failures.final()

    def _tries(self) -> Iterator[Try]:
        return self.pool.tries(self.ask)


def marked(answer: Any, name: str) -> Any:
    """Return an AI message that says which LLM gave it; anything else as it is."""
    if not isinstance(answer, AIMessage):
        return answer
    return answer.model_copy(
        update={"response_metadata": {**answer.response_metadata, LLM_KEY: name}}
    )
