"""FirstAnswer: a Runnable that asks LLM targets one after the other until one answers."""

# ruff: noqa: A002  # LangChain's names, and what it passes needed or not

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config
from langgraph.errors import GraphBubbleUp

from langchain_moma.calls import says_nothing
from langchain_moma.decision import FALLBACK_EVENT, adispatch, dispatch
from langchain_moma.messages import LLM_KEY, marked
from moma_core.fallback import Failure, Fallback, FallbackOn
from moma_core.health import Health

__all__ = ["FirstAnswer"]


class FirstAnswer(Runnable[Any, Any]):
    """Gives the answer of the first target that gives one, as `moma_core.fallback` says.

    An AI message says who gave it in ``response_metadata["moma_llm"]``.

    Args:
        targets: LLMs by name, best first.
        input_for: Makes what a target takes from the input.
        health: Circuit breakers.
        windows: Context windows, where known.
        fallback_on: As in `Fallback`.
        on_failure: Called with each failure.

    Example:
        >>> from langchain_core.runnables import RunnableLambda
        >>> targets = {"a": RunnableLambda(lambda text: 1 // 0), "b": RunnableLambda(len)}
        >>> FirstAnswer(targets, lambda name, value: value, Health()).invoke("four")
        4
    """

    def __init__(
        self,
        targets: Mapping[str, Runnable[Any, Any]],
        input_for: Callable[[str, Any], Any],
        health: Health,
        *,
        windows: Mapping[str, int | None] | None = None,
        fallback_on: FallbackOn | None = None,
        on_failure: Callable[[Failure], None] | None = None,
    ) -> None:
        self._targets, self._input_for, self._health = targets, input_for, health
        self._windows, self._fallback_on, self._on_failure = windows, fallback_on, on_failure

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Return the first answer."""
        fallback, config = self._fallback(), ensure_config(config)
        for attempt in fallback:
            with attempt:
                value = self._input_for(attempt.name, input)
                answer = self._targets[attempt.name].invoke(value, config, **kwargs)
                return marked(answer, {LLM_KEY: attempt.name})
            dispatch(fallback.failures[-1].to_dict(), config, FALLBACK_EVENT)
        raise fallback.error()

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Await the first answer."""
        fallback, config = self._fallback(), ensure_config(config)
        for attempt in fallback:
            with attempt:
                value = self._input_for(attempt.name, input)
                answer = await self._targets[attempt.name].ainvoke(value, config, **kwargs)
                return marked(answer, {LLM_KEY: attempt.name})
            await adispatch(fallback.failures[-1].to_dict(), config, FALLBACK_EVENT)
        raise fallback.error()

    def stream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """Yield the chunks of the first target that begins to say something."""
        fallback, config = self._fallback(), ensure_config(config)
        for attempt in fallback:
            with attempt:
                value, name = self._input_for(attempt.name, input), attempt.name
                mark = partial(marked, facts={LLM_KEY: name})
                for chunk in self._targets[name].stream(value, config, **kwargs):
                    yield from attempt.chunks(chunk, empty=says_nothing(chunk), mark=mark)
                yield from attempt.rest(mark)
                return
            dispatch(fallback.failures[-1].to_dict(), config, FALLBACK_EVENT)
        raise fallback.error()

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Yield the same."""
        fallback, config = self._fallback(), ensure_config(config)
        for attempt in fallback:
            with attempt:
                value, name = self._input_for(attempt.name, input), attempt.name
                mark = partial(marked, facts={LLM_KEY: name})
                async for chunk in self._targets[name].astream(value, config, **kwargs):
                    for ready in attempt.chunks(chunk, empty=says_nothing(chunk), mark=mark):
                        yield ready
                for ready in attempt.rest(mark):
                    yield ready
                return
            await adispatch(fallback.failures[-1].to_dict(), config, FALLBACK_EVENT)
        raise fallback.error()

    def _fallback(self) -> Fallback:
        return Fallback(
            list(self._targets),
            self._health,
            windows=self._windows,
            fallback_on=self._fallback_on,
            passing=(GraphBubbleUp,),
            on_failure=self._on_failure,
        )
