"""Agent cards from LangChain tools: name, description, argument schema, few-shot examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.tools import tool as as_tool
from pydantic import BaseModel

from moma_core import AgentCard, InvalidCardError
from moma_core.words import Words, check_names, joined

__all__ = ["agent_cards_from_tools", "input_schema_of"]


def agent_cards_from_tools(
    tools: Iterable[BaseTool | Callable[..., Any]],
    examples: Words | None = None,
    *,
    categories: Words | None = None,
) -> list[AgentCard]:
    """Describe tools to the router.

    Args:
        tools: Tools, or functions with a docstring.
        examples: Queries that each tool should take, by tool name. Added to those that a tool
            brings along in ``tool.metadata["examples"]``.
        categories: Categories of each tool, by tool name; also ``tool.metadata["categories"]``.

    Returns:
        One card a tool, in order.

    Raises:
        DuplicateNameError: Two tools share a name.
        UnknownNameError: ``examples`` or ``categories`` speak of a tool that is not there.
        InvalidCardError: A tool has no description.

    Example:
        >>> def shout(text: str) -> str:
        ...     "Put text in capitals."
        ...     return text.upper()
        >>> [card] = agent_cards_from_tools([shout], {"shout": ["make this LOUD: hello"]})
        >>> card.name, card.description, list(card.input_schema["properties"])
        ('shout', 'Put text in capitals.', ['text'])
    """
    built = [_as_tool(item) for item in tools]
    check_names("tool", [item.name for item in built], examples, categories)
    return [_card(item, examples or {}, categories or {}) for item in built]


def input_schema_of(tool: BaseTool) -> dict[str, Any]:
    """Return the JSON schema of the arguments that a caller gives; injected ones are left out."""
    schema = tool.tool_call_schema
    if isinstance(schema, dict):
        return dict(schema)
    if issubclass(schema, BaseModel):
        return schema.model_json_schema()
    return schema.schema()


def _as_tool(item: BaseTool | Callable[..., Any]) -> BaseTool:
    if isinstance(item, BaseTool):
        return item
    try:
        return as_tool(item)
    except (TypeError, ValueError) as error:
        raise InvalidCardError(
            f"cannot make a tool of {item!r}: {error} Give the function a docstring that says "
            "what it does."
        ) from error


def _card(tool: BaseTool, examples: Words, categories: Words) -> AgentCard:
    return AgentCard(
        name=tool.name,
        description=tool.description,
        input_schema=input_schema_of(tool),
        categories=_words(tool, "categories", categories),
        examples=_words(tool, "examples", examples),
    )


def _words(tool: BaseTool, key: str, given: Words) -> tuple[str, ...]:
    own: Sequence[str] = (tool.metadata or {}).get(key, ())
    return joined(key, tool.name, own, given.get(tool.name, ()))
