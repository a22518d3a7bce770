"""Hands one call to a chat model, and to the next one when that fails.

The chosen chat model runs as it would alone: its callbacks, its stream, its usage, its cache.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_moma.fallback import Fallback
from langchain_moma.pool import LLM_KEY, Ask, ChatPool, Try
from langchain_moma.portable import portable_messages

__all__ = ["Delegation", "How", "marked"]

How = Callable[[BaseChatModel], Runnable[Any, Any]]
"""Turns a chat model into what is to be run: with tools bound, with a schema, with options."""


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

        def run(chosen: Try) -> Any:
            sent = portable_messages(messages, chosen.llm)
            return marked(self.how(chosen.llm).invoke(sent, config), chosen.name)

        return Fallback(self.pool, self.ask, config).call(run)

    async def ainvoke(self, messages: list[BaseMessage], config: RunnableConfig) -> Any:
        """Await the first answer; routes in a thread."""

        async def run(chosen: Try) -> Any:
            sent = portable_messages(messages, chosen.llm)
            return marked(await self.how(chosen.llm).ainvoke(sent, config), chosen.name)

        return await Fallback(self.pool, self.ask, config).acall(run)

    def stream(self, messages: list[BaseMessage], config: RunnableConfig) -> Iterator[Any]:
        """Yield the chunks of the first LLM that begins to answer."""

        def run(chosen: Try) -> Iterator[Any]:
            return self.how(chosen.llm).stream(portable_messages(messages, chosen.llm), config)

        return Fallback(self.pool, self.ask, config).stream(run, marked)

    def astream(self, messages: list[BaseMessage], config: RunnableConfig) -> AsyncIterator[Any]:
        """Yield the chunks of the first LLM that begins to answer; routes in a thread."""

        def run(chosen: Try) -> AsyncIterator[Any]:
            return self.how(chosen.llm).astream(portable_messages(messages, chosen.llm), config)

        return Fallback(self.pool, self.ask, config).astream(run, marked)


def marked(answer: Any, name: str) -> Any:
    """Return an AI message that says which LLM gave it; anything else as it is."""
    if not isinstance(answer, AIMessage):
        return answer
    return answer.model_copy(
        update={"response_metadata": {**answer.response_metadata, LLM_KEY: name}}
    )
