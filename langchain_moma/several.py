"""Runs the targets of one decision one after the other, or all at once, and names their outputs.

Knows nothing of how they were chosen. A stream gives the same outputs in parts: a dict a chunk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from langchain_core.messages import AnyMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableParallel
from langchain_core.runnables.utils import AddableDict

from langchain_moma.conversation import TEXT_KEYS, RouterInput, last_turn, messages_in
from langchain_moma.targets import Targets, is_graph
from moma_core import InvalidInputError

__all__ = ["InOrder", "Several", "at_once", "check_several", "with_answers"]

Several = Literal["first", "parallel", "in_order"]
"""What to do with a decision for several agents."""


def check_several(several: str, allowed: Sequence[str] = get_args(Several)) -> None:
    """Refuse a word that says nothing here.

    Raises:
        InvalidInputError: It is none of ``allowed``.
    """
    if several not in allowed:
        raise InvalidInputError(
            f"several is one of {', '.join(map(repr, allowed))}, got {several!r}. "
            f"Write several={allowed[-1]!r}."
        )


class InOrder(Runnable[RouterInput, dict[str, Any]]):
    r"""Runs targets in order, each with the answers of those before it below the user's words.

    Args:
        targets: What runs under each name.
        names: Which to run; their order is that of the output.

    Example:
        >>> steps = InOrder(Targets({"count": len, "say": str.upper}), ["count", "say"])
        >>> steps.invoke("how long is this?")
        {'count': 17, 'say': 'HOW LONG IS THIS?\n\nCOUNT: 17'}
    """

    def __init__(self, targets: Targets, names: Sequence[str]) -> None:
        self._targets = targets
        self._names = tuple(names)

    def invoke(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the outputs by name."""
        answers: dict[str, Any] = {}
        for name in self._names:
            target = self._given(name, input, answers, kwargs)
            answers[name] = target.invoke(None, config)
        return answers

    async def ainvoke(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Await the outputs by name."""
        answers: dict[str, Any] = {}
        for name in self._names:
            target = self._given(name, input, answers, kwargs)
            answers[name] = await target.ainvoke(None, config)
        return answers

    def stream(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[dict[str, Any]]:
        """Yield each target's chunks as ``{name: chunk}``."""
        answers = AddableDict()
        for name in self._names:
            for chunk in self._given(name, input, answers, kwargs).stream(None, config):
                part = AddableDict({name: chunk})
                answers = _added(answers, part)
                yield part

    async def astream(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield each target's chunks as ``{name: chunk}``."""
        answers = AddableDict()
        for name in self._names:
            async for chunk in self._given(name, input, answers, kwargs).astream(None, config):
                part = AddableDict({name: chunk})
                answers = _added(answers, part)
                yield part

    def _given(
        self, name: str, value: RouterInput, answers: Mapping[str, Any], options: Mapping[str, Any]
    ) -> _Given:
        told = with_answers(value, answers)
        return _Given(self._targets[name], self._targets.input_for(name, told), options)


def at_once(
    targets: Targets, names: Sequence[str], value: RouterInput, options: Mapping[str, Any]
) -> RunnableParallel[Any]:
    """Return what runs the named targets at the same time, each with its form of ``value``."""
    given = {name: _Given(targets[name], targets.input_for(name, value), options) for name in names}
    return RunnableParallel(given)


class _Given(Runnable[Any, Any]):
    """Runs a target with the input it was made for, and opens no run of its own."""

    def __init__(self, target: Runnable[Any, Any], value: Any, options: Mapping[str, Any]) -> None:
        self._target, self._value, self._options = target, value, dict(options)

    def invoke(
        self,
        input: object,  # noqa: A002, ARG002  # LangChain's signature
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        return self._target.invoke(self._value, config, **self._options, **kwargs)

    async def ainvoke(
        self,
        input: object,  # noqa: A002, ARG002  # LangChain's signature
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        return await self._target.ainvoke(self._value, config, **self._options, **kwargs)

    def stream(
        self,
        input: object,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        if is_graph(self._target):  # its parts do not add up to its end
            yield self.invoke(input, config, **kwargs)
            return
        yield from self._target.stream(self._value, config, **self._options, **kwargs)

    async def astream(
        self,
        input: object,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        if is_graph(self._target):
            yield await self.ainvoke(input, config, **kwargs)
            return
        async for chunk in self._target.astream(self._value, config, **self._options, **kwargs):
            yield chunk


def _added(answers: AddableDict, part: AddableDict) -> AddableDict:
    try:
        return answers + part
    except TypeError:  # chunks that do not add up: the last one counts, as in LangChain's own runs
        return AddableDict({**answers, **part})


def with_answers(value: RouterInput, answers: Mapping[str, Any]) -> RouterInput:
    r"""Return the input in its own form, with answers below the user's last words.

    They do not become AI messages: some providers refuse a conversation that ends with one.

    Example:
        >>> with_answers({"input": "how far in km?"}, {"miles": 5})
        {'input': 'how far in km?\n\nmiles: 5'}
    """
    if not answers:
        return value
    below = "".join(f"\n\n{name}: {_words(answer)}" for name, answer in answers.items())
    if isinstance(value, str):
        return value + below
    if isinstance(value, Mapping):
        key = next(key for key in ("messages", *TEXT_KEYS) if value.get(key))
        return {**value, key: with_answers(value[key], answers)}
    messages = messages_in(value)
    at = len(messages) - len(last_turn(messages))
    return [*messages[:at], _longer(messages[at], below), *messages[at + 1 :]]


def _longer(message: AnyMessage, below: str) -> AnyMessage:
    content = message.content
    longer = (
        content + below
        if isinstance(content, str)
        else [*content, {"type": "text", "text": below.strip()}]
    )
    return message.model_copy(update={"content": longer})


def _words(answer: Any) -> str:
    if isinstance(answer, Mapping) and answer.get("messages"):
        answer = answer["messages"][-1]
    return str(answer.text) if isinstance(answer, BaseMessage) else str(answer)
