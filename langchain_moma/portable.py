"""Makes a conversation fit for another provider: one's cache marks are another's bad request.

Only marks that steer a provider's prompt cache are taken out; no words change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.tools import BaseTool

__all__ = ["portable_messages", "portable_options", "portable_tools"]

_MARK = "cache_control"
_OWNERS = {_MARK: ("anthropic",), "prompt_cache_key": ("openai",)}

Message = TypeVar("Message", bound=BaseMessage)


def portable_messages(messages: Sequence[Message], llm: BaseChatModel) -> list[Message]:
    """Return the messages without marks that ``llm`` does not take; untouched ones as they are.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> from langchain_moma.testing import ScriptedChat
        >>> block = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
        >>> portable_messages([HumanMessage([block])], ScriptedChat())[0].content
        [{'type': 'text', 'text': 'hi'}]
    """
    if _owns(llm, _MARK):
        return list(messages)
    return [_without_mark(message) for message in messages]


def portable_tools(tools: Sequence[Any], llm: BaseChatModel) -> list[Any]:
    """Return the tools without marks that ``llm`` does not take."""
    if _owns(llm, _MARK):
        return list(tools)
    return [_tool_without_mark(tool) for tool in tools]


def portable_options(options: Mapping[str, Any], llm: BaseChatModel) -> dict[str, Any]:
    """Return the keyword arguments without those that steer another provider's cache."""
    return {k: v for k, v in options.items() if k not in _OWNERS or _owns(llm, k)}


def _owns(llm: BaseChatModel, mark: str) -> bool:
    return any(owner in llm._llm_type for owner in _OWNERS[mark])  # noqa: SLF001  # LangChain's id


def _without_mark(message: Message) -> Message:
    content = message.content
    if isinstance(content, str) or not any(isinstance(b, dict) and _MARK in b for b in content):
        return message
    kept = [_plain(block) if isinstance(block, dict) else block for block in content]
    return message.model_copy(update={"content": kept})


def _tool_without_mark(tool: Any) -> Any:
    if isinstance(tool, dict):
        return _plain(tool)
    if isinstance(tool, BaseTool) and tool.extras and _MARK in tool.extras:
        return tool.model_copy(update={"extras": _plain(tool.extras) or None})
    return tool


def _plain(block: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key != _MARK}
