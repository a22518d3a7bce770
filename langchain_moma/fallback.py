"""Asks the LLMs of a pool one after the other until one answers.

What fails before the first chunk falls to the next LLM; what fails later is the caller's to see.
Knows neither messages nor how a chat model is called.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp

from langchain_moma.decisions import FALLBACK_EVENT, adispatch, dispatch
from langchain_moma.failures import Failures
from langchain_moma.pool import Ask, ChatPool, Try

__all__ = ["Fallback"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Fallback:
    """One call that goes from LLM to LLM; circuit breakers and counters hear how each did.

    Args:
        pool: Who can be asked.
        ask: What is asked.
        config: Of the run whose trace hears decisions and failures; None tells no trace.
    """

    pool: ChatPool
    ask: Ask
    config: RunnableConfig | None = None

    def call(self, run: Callable[[Try], _T]) -> _T:
        """Return what ``run`` gives for the first LLM that answers."""
        failures = Failures(self.pool.telemetry)
        for chosen in self.pool.tries(self.ask):
            self._decided(chosen)
            try:
                with self.pool.attempt(chosen.name):
                    return run(chosen)
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001  # any provider's error
                self._failed(failures, chosen, error)
        raise failures.final()

    async def acall(self, run: Callable[[Try], Awaitable[_T]]) -> _T:
        """Await the same; routes in a thread."""
        failures = Failures(self.pool.telemetry)
        tries = self.pool.tries(self.ask)
        while chosen := await asyncio.to_thread(next, tries, None):
            await self._adecided(chosen)
            try:
                with self.pool.attempt(chosen.name):
                    return await run(chosen)
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001  # any provider's error
                await self._afailed(failures, chosen, error)
        raise failures.final()

    def stream(
        self, run: Callable[[Try], Iterator[_T]], mark: Callable[[_T, str], _T]
    ) -> Iterator[_T]:
        """Yield the chunks of the first LLM that begins to answer, the first one marked."""
        failures = Failures(self.pool.telemetry)
        for chosen in self.pool.tries(self.ask):
            self._decided(chosen)
            begun = False
            try:
                with self.pool.attempt(chosen.name):
                    for chunk in run(chosen):
                        yield chunk if begun else mark(chunk, chosen.name)
                        begun = True
                return
            except GraphBubbleUp:
                raise
            except Exception as error:
                self._failed(failures, chosen, error, told=not begun)
                if begun:
                    raise
        raise failures.final()

    async def astream(
        self, run: Callable[[Try], AsyncIterator[_T]], mark: Callable[[_T, str], _T]
    ) -> AsyncIterator[_T]:
        """Yield the same; routes in a thread."""
        failures = Failures(self.pool.telemetry)
        tries = self.pool.tries(self.ask)
        while chosen := await asyncio.to_thread(next, tries, None):
            await self._adecided(chosen)
            begun = False
            try:
                with self.pool.attempt(chosen.name):
                    async for chunk in run(chosen):
                        yield chunk if begun else mark(chunk, chosen.name)
                        begun = True
                return
            except GraphBubbleUp:
                raise
            except Exception as error:
                await self._afailed(failures, chosen, error, told=not begun)
                if begun:
                    raise
        raise failures.final()

    def _decided(self, chosen: Try) -> None:
        if self.config is not None and chosen.decision is not None:
            dispatch(chosen.decision.to_dict(), self.config)

    async def _adecided(self, chosen: Try) -> None:
        if self.config is not None and chosen.decision is not None:
            await adispatch(chosen.decision.to_dict(), self.config)

    def _failed(
        self, failures: Failures, chosen: Try, error: Exception, *, told: bool = True
    ) -> None:
        plain = failures.add(chosen.name, error)
        if self.config is not None and told:
            dispatch(plain, self.config, FALLBACK_EVENT)

    async def _afailed(
        self, failures: Failures, chosen: Try, error: Exception, *, told: bool = True
    ) -> None:
        plain = failures.add(chosen.name, error)
        if self.config is not None and told:
            await adispatch(plain, self.config, FALLBACK_EVENT)
