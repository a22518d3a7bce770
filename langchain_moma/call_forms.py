"""The four ways to call a Runnable, each of which opens one chain run and hands the call on.

Shared by `ChatMoMA` and by what its ``with_structured_output`` returns.
"""

# ruff: noqa: ARG002  # LangChain passes `run_manager` by its name, needed or not
from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig

from langchain_moma.delegation import Delegation

__all__ = ["CallForms", "Handed", "alone"]

_Value = TypeVar("_Value")


class Handed(NamedTuple):
    """A call on its way: to whom it goes, and with what."""

    delegation: Delegation
    messages: list[BaseMessage]


class CallForms:
    """Gives a Runnable that implements `_hand_on` its invoke, stream and async forms.

    The callbacks of the `config` that `_hand_on` gets hang below the Runnable's own run.
    """

    def _hand_on(
        self, value: LanguageModelInput, config: RunnableConfig, options: Mapping[str, Any]
    ) -> Handed:
        raise NotImplementedError

    def invoke(
        self: Any,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Choose, then invoke the chosen LLM."""
        options = _with_stop(stop, kwargs)
        return self._call_with_config(self._invoke, input, config, options=options)

    async def ainvoke(
        self: Any,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Choose in a thread, then await the chosen LLM."""
        options = _with_stop(stop, kwargs)
        return await self._acall_with_config(self._ainvoke, input, config, options=options)

    def stream(
        self: Any,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Choose, then pass on the chosen LLM's chunks as they come."""
        options = _with_stop(stop, kwargs)
        yield from self._transform_stream_with_config(
            iter([input]), self._chunks, config, options=options
        )

    async def astream(
        self: Any,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Choose in a thread, then pass on the chosen LLM's chunks as they come."""
        options = _with_stop(stop, kwargs)
        async for chunk in self._atransform_stream_with_config(
            alone(input), self._achunks, config, options=options
        ):
            yield chunk

    def _invoke(
        self, value: Any, run_manager: object, config: RunnableConfig, *, options: dict[str, Any]
    ) -> Any:
        handed = self._hand_on(value, config, options)
        return handed.delegation.invoke(handed.messages, config)

    async def _ainvoke(
        self, value: Any, run_manager: object, config: RunnableConfig, *, options: dict[str, Any]
    ) -> Any:
        handed = self._hand_on(value, config, options)
        return await handed.delegation.ainvoke(handed.messages, config)

    def _chunks(
        self,
        values: Iterator[Any],
        run_manager: object,
        config: RunnableConfig,
        *,
        options: dict[str, Any],
    ) -> Iterator[Any]:
        handed = self._hand_on(next(values), config, options)
        yield from handed.delegation.stream(handed.messages, config)

    async def _achunks(
        self,
        values: AsyncIterator[Any],
        run_manager: object,
        config: RunnableConfig,
        *,
        options: dict[str, Any],
    ) -> AsyncIterator[Any]:
        handed = self._hand_on(await anext(values), config, options)
        async for chunk in handed.delegation.astream(handed.messages, config):
            yield chunk


def _with_stop(stop: list[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    return options if stop is None else {**options, "stop": stop}


async def alone(value: _Value) -> AsyncIterator[_Value]:
    """Yield one value: what LangChain's streaming takes its input from."""
    yield value
