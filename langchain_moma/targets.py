"""Names that resolve to something that runs, and what each kind of target takes as its input.

Chat models take text or messages, graphs over messages take ``{"messages": [...]}``, tools take
arguments, and anything else takes the input as it came. Knows nothing of how a name was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase, coerce_to_runnable
from langchain_core.tools import BaseTool
from langgraph.pregel import Pregel

from langchain_moma.conversation import RouterInput, messages_in, query_of
from langchain_moma.tools import input_schema_of
from moma_core import InvalidInputError

__all__ = ["Arguments", "Targets", "ToolArgumentsError", "input_for", "is_graph"]

Arguments = Callable[[str], Mapping[str, Any]]
"""Reads a tool's arguments out of the user's words."""


class ToolArgumentsError(InvalidInputError):
    """A tool needs arguments that nobody reads out of the query.

    Example:
        >>> from langchain_core.tools import tool
        >>> @tool
        ... def add(left: int, right: int) -> int:
        ...     "Add two numbers."
        ...     return left + right
        >>> Targets({"add": add})
        Traceback (most recent call last):
        langchain_moma.targets.ToolArgumentsError: tool 'add' needs {'left': ..., 'right': ...}, ...
    """


class Targets(Mapping[str, Runnable[Any, Any]]):
    """Names and the Runnables behind them; immutable, checked once.

    Args:
        runnables: Runnables, tools, chat models, compiled graphs, or plain functions of one value.
        arguments: For tools with several arguments: how to read them out of the query's text.

    Raises:
        InvalidInputError: There is no target, or one cannot be run.
        ToolArgumentsError: A tool needs more than one text and has no entry in ``arguments``.
    """

    def __init__(
        self, runnables: Mapping[str, Any], arguments: Mapping[str, Arguments] | None = None
    ) -> None:
        if not runnables or not isinstance(runnables, Mapping):
            raise InvalidInputError(
                "targets are what runs under each name, at least one: "
                f"targets={{'weather': weather_tool}}; got {runnables!r:.60}."
            )
        self._runnables: dict[str, Runnable[Any, Any]] = {
            name: _runnable(name, item) for name, item in runnables.items()
        }
        self._arguments = dict(arguments or {})
        for name, runnable in self._runnables.items():
            bare = _bare(runnable)
            if isinstance(bare, BaseTool) and name not in self._arguments:
                _text_argument(bare, name)

    def __getitem__(self, name: str) -> Runnable[Any, Any]:
        return self._runnables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._runnables)

    def __len__(self) -> int:
        return len(self._runnables)

    def input_for(self, name: str, value: RouterInput) -> Any:
        """Return what the target ``name`` takes, made from what the router was given."""
        return input_for(self._runnables[name], value, self._arguments.get(name))


def input_for(
    runnable: Runnable[Any, Any], value: RouterInput, arguments: Arguments | None = None
) -> Any:
    """Return what ``runnable`` takes, made from what the router was given.

    Example:
        >>> from langchain_core.tools import tool
        >>> @tool
        ... def shout(text: str) -> str:
        ...     "Put text in capitals."
        ...     return text.upper()
        >>> input_for(shout, [("human", "hello")])
        {'text': 'hello'}
    """
    bare = _bare(runnable)
    if isinstance(bare, BaseTool):
        return _tool_arguments(bare, query_of(value).text, arguments)
    if isinstance(bare, BaseLanguageModel) and not isinstance(value, str | PromptValue):
        return messages_in(value)
    if isinstance(bare, Pregel) and "messages" in bare.channels and not _is_state(value):
        return {"messages": messages_in(value)}
    return value


def is_graph(runnable: Any) -> bool:
    """Say whether ``runnable`` is a compiled graph, also where options are bound to it."""
    return isinstance(_bare(runnable), Pregel)


def _is_state(value: RouterInput) -> bool:
    return isinstance(value, Mapping) and "messages" in value


def _runnable(name: str, item: Any) -> Runnable[Any, Any]:
    try:
        runnable: Runnable[Any, Any] = coerce_to_runnable(item)
    except TypeError as error:
        raise InvalidInputError(
            f"target {name!r} must be a Runnable, chat model, tool, compiled graph or function, "
            f"got {type(item).__name__}. Write targets={{{name!r}: lambda text: ...}}."
        ) from error
    return runnable


def _bare(runnable: Any) -> Any:
    """Look through bind(), with_config(), with_retry() and with_fallbacks()."""
    while True:
        if isinstance(runnable, RunnableBindingBase):
            runnable = runnable.bound
        elif isinstance(runnable, RunnableWithFallbacks):
            runnable = runnable.runnable
        else:
            return runnable


def _tool_arguments(tool: BaseTool, text: str, arguments: Arguments | None) -> dict[str, Any]:
    if arguments is None:
        return {_text_argument(tool, tool.name): text}
    found: object = arguments(text)
    if not isinstance(found, Mapping):
        raise ToolArgumentsError(
            f"the reader of arguments for tool {tool.name!r} must return a dict such as "
            f"{_shape(tool)}, got {type(found).__name__}."
        )
    return dict(found)


def _text_argument(tool: BaseTool, name: str) -> str:
    """Return the name of the one argument that can take the user's words."""
    schema = input_schema_of(tool)
    properties: Mapping[str, Any] = schema.get("properties", {})
    names = list(schema.get("required", ())) or list(properties)
    if len(names) == 1 and properties[names[0]].get("type", "string") == "string":
        return str(names[0])
    raise ToolArgumentsError(
        f"tool {name!r} needs {_shape(tool)}, which plain text cannot fill. Say how to read "
        f"it: arguments={{{name!r}: lambda text: {_shape(tool)}}}, or route to a small agent "
        "that fills in the arguments."
    )


def _shape(tool: BaseTool) -> str:
    properties: Mapping[str, Any] = input_schema_of(tool).get("properties", {})
    return "{" + ", ".join(f"{name!r}: ..." for name in properties) + "}"
