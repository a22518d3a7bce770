"""Tools revealed behind the messages, so that a new one leaves what the provider cached as it is.

Anthropic's API takes tools with ``defer_loading``: declared, but out of the prompt until a tool's
result holds a ``tool_reference`` to them. What the router picks for a turn is revealed by such a
result right after the user's words, at no call of an LLM; the LLM may search for more itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool

__all__ = [
    "SEARCH",
    "Reveal",
    "deferred",
    "defers",
    "found_message",
    "in_words",
    "referenced",
    "search_tool",
    "with_reveals",
]

SEARCH = "find_tools"
"""Name of the tool by which the LLM looks for more tools."""

Reveal = tuple[str, list[str]]
"""The human turn after which tools are revealed, and their names."""

_REFERENCE = "tool_reference"
_QUERY = 200  # characters of the user's words in a search that stands for ours


def defers(llm: BaseChatModel) -> bool:
    """Say whether an LLM's provider reveals tools so: Anthropic's, where it does not think aloud.

    With extended thinking an answer of its own that calls a tool must begin with a thought, which
    a search in its name has not.
    """
    thinking = getattr(llm, "thinking", None) or {}
    return llm._llm_type == "anthropic-chat" and thinking.get("type") in (None, "disabled")  # noqa: SLF001


def search_tool() -> BaseTool:
    """Return the tool by which the LLM looks for tools; the middleware answers its calls."""

    def find(query: str) -> str:
        return f"No tool was found for {query!r}."

    return StructuredTool.from_function(
        find,
        name=SEARCH,
        description="Find more tools, by what they should do. Tools that are found can be called.",
    )


def deferred(tool: BaseTool) -> BaseTool:
    """Return a tool that is declared, and out of the prompt until it is referred to."""
    return tool.model_copy(update={"extras": {**(tool.extras or {}), "defer_loading": True}})


def found_message(names: Iterable[str], call_id: str) -> ToolMessage:
    """Return the answer to a search.

    Example:
        >>> found_message(["clock"], "1").content
        [{'type': 'tool_reference', 'tool_name': 'clock'}]
    """
    content: list[str | dict[Any, Any]] = [
        {"type": _REFERENCE, "tool_name": name} for name in names
    ]
    return ToolMessage(content or "No tool fits.", name=SEARCH, tool_call_id=call_id)


def referenced(messages: Sequence[BaseMessage]) -> list[str]:
    """Return the tools that were found by searches in a conversation, each once, in order."""
    return list(dict.fromkeys(name for message in messages for name in _names_in(message)))


def with_reveals(
    messages: Sequence[BaseMessage], reveals: Sequence[Reveal], declared: Collection[str]
) -> list[Any]:
    """Return the conversation with what was revealed after each turn's words.

    A turn that is no longer in it (trimmed, summarised) reveals with the first one that is. Tools
    that are not declared any more are left out, here and in the LLM's own searches.
    """
    shown = [_still(message, declared) for message in messages]
    places = {_turn_of(m): i for i, m in enumerate(shown) if isinstance(m, HumanMessage)}
    first = min(places.values(), default=0)
    known = referenced(messages)
    due: dict[int, list[str]] = {}
    for turn, names in reveals:
        left = [name for name in names if name in declared and name not in known]
        due.setdefault(places.get(turn, first), []).extend(left)
    sent: list[BaseMessage] = []
    for place, message in enumerate(shown):
        sent.append(message)
        if due.get(place):
            sent.extend(_search(message, due[place]))
    return sent


def in_words(messages: Sequence[BaseMessage]) -> list[Any]:
    """Return the conversation with the results of searches as text, for other providers."""
    return [
        message.model_copy(update={"content": f"Found: {', '.join(names)}"})
        if (names := list(_names_in(message)))
        else message
        for message in messages
    ]


def _turn_of(message: BaseMessage) -> str:
    return str(message.id or message.text)


def _names_in(message: BaseMessage) -> Iterator[str]:
    if isinstance(message, ToolMessage) and isinstance(message.content, list):
        for block in message.content:
            if isinstance(block, dict) and block.get("type") == _REFERENCE:
                yield str(block["tool_name"])


def _still(message: BaseMessage, declared: Collection[str]) -> BaseMessage:
    names = list(_names_in(message))
    if not isinstance(message, ToolMessage) or set(names) <= set(declared):
        return message
    left = found_message([n for n in names if n in declared], message.tool_call_id)
    return message.model_copy(update={"content": left.content})


def _search(asked: BaseMessage, names: Sequence[str]) -> tuple[AIMessage, ToolMessage]:
    """Return a search in the LLM's name for the user's words, and its result."""
    digest = hashlib.sha256(f"{_turn_of(asked)} {' '.join(names)}".encode()).hexdigest()
    words, call_id = str(asked.text)[:_QUERY], f"moma_{digest[:16]}"
    call = ToolCall(name=SEARCH, args={"query": words}, id=call_id)
    return AIMessage("", tool_calls=[call]), found_message(names, call_id)
