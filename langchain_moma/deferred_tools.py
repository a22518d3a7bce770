"""Tools revealed behind the messages, so that a new one leaves what the provider cached as it is.

What the router picks for a turn is revealed right after the user's words, at no call of an LLM; the
LLM may search for more itself, by `MoMARouter.rank`. A conversation keeps such a search as a call
of `SEARCH` and a result of ``tool_reference`` blocks; each provider is told of it in its own form.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_function

__all__ = [
    "SEARCH",
    "Form",
    "Reveal",
    "declared_tools",
    "form_of",
    "found_message",
    "in_words",
    "referenced",
    "search_tool",
    "searching",
    "with_reveals",
]

Form = Literal["tool_reference", "tool_addition", "tool_search", "additional_tools"]
"""How a provider is told of a tool behind the messages.

Anthropic's tools are all declared with ``defer_loading`` and shown by a ``tool_reference`` in the
result of a search, or by a ``tool_addition`` in a system message. OpenAI's Responses API gets their
definitions there and then, by its own ``tool_search`` that the client executes, or by
``additional_tools``.
"""

SEARCH = "find_tools"
"""Name of the tool by which the LLM looks for more tools."""

Reveal = tuple[str, list[str]]
"""The human turn after which tools are revealed, and their names."""

_REFERENCE = "tool_reference"
_CALL, _OUTPUT = "tool_search_call", "tool_search_output"
_OURS = "moma_"  # how the ids of searches begin that stand for ours
_QUERY = 200  # characters of the user's words in a search that stands for ours
_SEARCHES = (5, 4)  # the first of OpenAI's models that knows tool_search, by its documents
_ABOUT = "Find more tools, by what they should do. Tools that are found can be called."


def form_of(llm: BaseChatModel) -> Form | None:
    """Return how an LLM is told of tools behind the messages; None: its provider has no way.

    Where Anthropic's LLM thinks aloud, an answer of its own that calls a tool must begin with a
    thought, which a search in its name has not: it needs the system message, which newer ones know.
    """
    added = (llm.profile or {}).get("mid_conversation_tools")
    if llm._llm_type == "anthropic-chat":  # noqa: SLF001
        thinking = getattr(llm, "thinking", None) or {}
        if thinking.get("type") in (None, "disabled"):
            return "tool_reference"
        return "tool_addition" if added else None
    if llm._llm_type != "openai-chat" or not added:  # noqa: SLF001
        return None
    version = re.match(r"gpt-(\d+)(?:\.(\d+))?", str(getattr(llm, "model_name", "")))
    found = tuple(int(part or 0) for part in version.groups()) if version else (0, 0)
    return "tool_search" if found >= _SEARCHES else "additional_tools"


def search_tool() -> BaseTool:
    """Return the tool by which the LLM looks for tools; the middleware answers its calls."""

    def find(query: str) -> str:
        return f"No tool was found for {query!r}."

    return StructuredTool.from_function(find, name=SEARCH, description=_ABOUT)


def declared_tools(
    fixed: Sequence[BaseTool | dict[str, Any]], tools: Iterable[BaseTool], form: Form
) -> list[BaseTool | dict[str, Any]]:
    """Return what stands in front of the prompt, the same at each call.

    Args:
        fixed: What is bound in every turn.
        tools: What may be revealed; declared, out of the prompt, where the provider wants it so.
        form: The provider's.
    """
    if form == "additional_tools":
        return list(fixed)
    if form == "tool_search":
        others = [tool for tool in fixed if isinstance(tool, dict) or tool.name != SEARCH]
        schema = convert_to_openai_function(search_tool())["parameters"]
        search = {"type": form, "execution": "client", "description": _ABOUT, "parameters": schema}
        return [*others, search]
    # LangChain's caching middleware marks the last tool, which may not be a deferred one.
    return [*(_deferred(tool) for tool in tools), *fixed]


def _deferred(tool: BaseTool) -> BaseTool:
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


def searching(message: BaseMessage) -> BaseMessage:
    """Return an answer of OpenAI's that searches for tools as one that calls `SEARCH`.

    Example:
        >>> search = {"type": "tool_search_call", "execution": "client", "call_id": "1"}
        >>> searching(AIMessage([{**search, "arguments": {"query": "time"}}])).tool_calls
        [{'name': 'find_tools', 'args': {'query': 'time'}, 'id': '1', 'type': 'tool_call'}]
    """
    asked = [block for block in _native(message) if block.get("execution") == "client"]
    if not isinstance(message, AIMessage) or not asked:
        return message
    calls = [
        ToolCall(name=SEARCH, args=block["arguments"], id=block["call_id"], type="tool_call")
        for block in asked
    ]
    return message.model_copy(update={"tool_calls": [*message.tool_calls, *calls]})


def with_reveals(
    messages: Sequence[BaseMessage],
    reveals: Sequence[Reveal],
    tools: Mapping[str, BaseTool],
    form: Form = "tool_reference",
) -> list[Any]:
    """Return the conversation with what was revealed after each turn's words, in a provider's form.

    A turn that is no longer in it (trimmed, summarised) reveals with the first one that is. Tools
    that are not among ``tools`` any more are left out, here and in the LLM's own searches.
    """
    shown = [_still(message, tools) for message in messages]
    places = {_turn_of(m): i for i, m in enumerate(shown) if isinstance(m, HumanMessage)}
    first = min(places.values(), default=0)
    known = referenced(messages)
    due: dict[int, list[str]] = {}
    for turn, names in reveals:
        left = [name for name in names if name in tools and name not in known]
        due.setdefault(places.get(turn, first), []).extend(left)
    sent: list[BaseMessage] = []
    for place, message in enumerate(shown):
        sent.append(message)
        if due.get(place):
            sent.extend(_search(message, due[place]))
    if form == "tool_reference":
        return sent
    return _searched(sent, tools) if form == "tool_search" else _added(sent, tools, form)


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
    words, call_id = str(asked.text)[:_QUERY], f"{_OURS}{digest[:16]}"
    call = ToolCall(name=SEARCH, args={"query": words}, id=call_id)
    return AIMessage("", tool_calls=[call]), found_message(names, call_id)


def _is_ours(message: BaseMessage) -> bool:
    if isinstance(message, ToolMessage):
        return message.name == SEARCH and message.tool_call_id.startswith(_OURS)
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    return any(c["name"] == SEARCH and str(c["id"]).startswith(_OURS) for c in calls)


def _native(message: BaseMessage) -> list[dict[str, Any]]:
    """Return the searches in an answer as OpenAI wrote them, whichever form LangChain keeps."""
    blocks = message.content if isinstance(message.content, list) else []
    plain = [b.get("value", b) for b in blocks if isinstance(b, dict)]
    return [b for b in plain if isinstance(b, dict) and b.get("type") == _CALL]


def _definition(tool: BaseTool) -> dict[str, Any]:
    return {"type": "function", **convert_to_openai_function(tool)}


def _searched(messages: Sequence[BaseMessage], tools: Mapping[str, BaseTool]) -> list[BaseMessage]:
    """Return the conversation with each search as OpenAI's own, call and output beside each other.

    They stand in a message of their own, which names no author: only their form matters.
    """
    results = {m.tool_call_id: m for m in messages if isinstance(m, ToolMessage)}
    searches: set[str | None] = set()
    sent: list[BaseMessage] = []
    for message in messages:
        if isinstance(message, ToolMessage) and message.tool_call_id in searches:
            continue
        calls = message.tool_calls if isinstance(message, AIMessage) else []
        asked = [c for c in calls if c["name"] == SEARCH and c["id"] in results]
        searches.update(call["id"] for call in asked)
        rest = _without(message, asked) if asked else message
        if not asked or rest.content or rest.tool_calls:  # type: ignore[attr-defined]
            sent.append(rest)
        theirs = {block["call_id"]: block for block in _native(message)}
        for call in asked:
            found = [_definition(tools[name]) for name in _names_in(results[str(call["id"])])]
            both = {"call_id": call["id"], "execution": "client", "status": "completed"}
            made = {"type": _CALL, **both, "arguments": call["args"]}
            loaded = [{**each, "strict": False, "defer_loading": True} for each in found]
            output = {"type": _OUTPUT, **both, "tools": loaded}
            sent.append(AIMessage([theirs.get(str(call["id"]), made), output]))
    return sent


def _without(message: BaseMessage, asked: Sequence[ToolCall]) -> AIMessage:
    """Return an answer without its searches."""
    content: Any = message.content
    if isinstance(content, list):
        native = _native(message)
        content = [b for b in content if not (isinstance(b, dict) and b.get("value", b) in native)]
    calls = [call for call in message.tool_calls if call not in asked]  # type: ignore[attr-defined]
    return message.model_copy(update={"content": content, "tool_calls": calls})  # type: ignore[return-value]


def _added(
    messages: Sequence[BaseMessage], tools: Mapping[str, BaseTool], form: Form
) -> list[BaseMessage]:
    """Return the conversation with system messages that add tools, in place of searches of ours.

    They stand after the user's words or the tools' results, as providers want them.
    """
    sent: list[BaseMessage] = []
    new: list[str] = []
    for message, after in zip(messages, [*messages[1:], None], strict=True):
        names = list(_names_in(message))
        if _is_ours(message):
            new += names
        elif names and form == "additional_tools":
            sent += in_words([message])
            new += names
        else:
            sent.append(message)
        if new and not isinstance(after, HumanMessage | ToolMessage):
            sent.append(SystemMessage(_additions([tools[name] for name in new], form)))
            new = []
    return sent


def _additions(tools: Sequence[BaseTool], form: Form) -> list[str | dict[Any, Any]]:
    if form == "additional_tools":
        return [{"type": form, "role": "developer", "tools": [*map(_definition, tools)]}]
    return [{"type": form, "tool": {"type": _REFERENCE, "name": tool.name}} for tool in tools]
