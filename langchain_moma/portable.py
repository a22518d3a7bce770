"""What another LLM may read: a conversation without what only its author's provider takes.

Providers refuse each other's thinking blocks, signatures, cache marks and tool-call ids. What is
dropped or renamed is a function of the conversation alone, so that a prompt begins with the same
bytes at each call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import BaseTool

from langchain_moma.messages import LLM_KEY
from moma_core.call_ids import CallIds

__all__ = [
    "portable_messages",
    "portable_options",
    "portable_tools",
]

_MARK = "cache_control"
_OWNERS = {_MARK: ("anthropic",), "prompt_cache_key": ("openai",)}
_THOUGHTS = {  # the providers that take such a block back from an author who is not named
    "thinking": ("anthropic", "bedrock"),
    "redacted_thinking": ("anthropic", "bedrock"),
    "reasoning": ("openai",),
    "reasoning_content": ("bedrock",),
}
_CALLS = frozenset({"tool_use", "tool_call", "function_call", "tool_call_chunk"})
_KEPT = frozenset({"text", "image", "image_url", "audio", "file", "video", "refusal"})
_OF_TEXT = ("type", "text")  # not its id, signature or index
Message = TypeVar("Message", bound=BaseMessage)


def portable_messages(
    messages: Sequence[Message], llm: BaseChatModel, name: str = ""
) -> list[Message]:
    """Return the messages without what ``llm`` does not take; untouched ones as they are.

    Marks of another provider's cache go. Of another LLM's answers, thinking blocks and signatures
    go, and tool-call ids that ``llm`` would refuse get others, in calls and answers alike.

    Args:
        messages: A conversation.
        llm: Who is to read it.
        name: Its name: what it wrote itself stays.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> from langchain_moma.testing import ScriptedChat
        >>> block = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
        >>> portable_messages([HumanMessage([block])], ScriptedChat())[0].content
        [{'type': 'text', 'text': 'hi'}]
    """
    own = _owns(llm, _MARK)
    ids = CallIds(_kind(llm))
    sent: list[Any] = []
    for message in messages:
        read: BaseMessage = message
        if isinstance(read, AIMessage):
            written = _is_by(read, llm, name)
            if written is None:
                read = _without_thoughts(read, llm)
            elif not written:
                read = _plain_answer(read)
            read = _with_ids(read, ids, own=written)
        elif isinstance(read, ToolMessage):
            read = _answering(read, ids)
        sent.append(read if own else _without_mark(read))
    return sent


def portable_tools(tools: Sequence[Any], llm: BaseChatModel) -> list[Any]:
    """Return the tools without marks that ``llm`` does not take."""
    if _owns(llm, _MARK):
        return list(tools)
    return [_tool_without_mark(tool) for tool in tools]


def portable_options(options: Mapping[str, Any], llm: BaseChatModel) -> dict[str, Any]:
    """Return the keyword arguments without those that steer another provider's cache."""
    return {k: v for k, v in options.items() if k not in _OWNERS or _owns(llm, k)}


def _kind(llm: BaseChatModel) -> str:
    return llm._llm_type  # noqa: SLF001  # LangChain's id of a provider


def _owns(llm: BaseChatModel, mark: str) -> bool:
    return any(owner in _kind(llm) for owner in _OWNERS[mark])


def _is_by(message: AIMessage, llm: BaseChatModel, name: str) -> bool | None:
    """Say whether ``llm``, or its provider, wrote an answer; None where the answer does not say."""
    author = message.response_metadata.get(LLM_KEY)
    if author is not None:
        return bool(author == name)
    provider = message.response_metadata.get("model_provider")
    if not provider:
        return None
    return any(part in _kind(llm) for part in str(provider).split("_"))


def _plain_answer(message: AIMessage) -> AIMessage:
    """Return another LLM's answer as its words and calls, without what only its provider reads."""
    content: Any = message.content
    if not isinstance(content, str):
        content = [_plain_block(b) for b in content if _is_kept(b)]
        content = message.content if content == message.content else content or ""
    bare = {"name", "refusal"}.intersection(message.additional_kwargs)
    extra = {key: message.additional_kwargs[key] for key in sorted(bare)}
    if content == message.content and extra == message.additional_kwargs:
        return message
    return message.model_copy(update={"content": content, "additional_kwargs": extra})


def _is_kept(block: str | dict[str, Any]) -> bool:
    return isinstance(block, str) or block.get("type") in _KEPT


def _plain_block(block: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(block, str) or block["type"] != "text":
        return block
    return {key: block[key] for key in (*_OF_TEXT, _MARK) if key in block}


def _without_thoughts(message: AIMessage, llm: BaseChatModel) -> AIMessage:
    """Drop the thoughts of nobody knows whom, unless their form is that of ``llm``'s provider."""
    content: Any = message.content
    if isinstance(content, str):
        return message
    kept = [
        block
        for block in content
        if isinstance(block, str)
        or any(owner in _kind(llm) for owner in _THOUGHTS.get(block.get("type"), ("",)))
    ]
    if len(kept) == len(content):
        return message
    return message.model_copy(update={"content": kept or ""})


def _with_ids(message: AIMessage, ids: CallIds, *, own: bool | None) -> AIMessage:
    """Return an answer with the ids that are sent; its own author's stay."""
    if not message.tool_calls:
        return message
    calls = [{**call, "id": ids.of_call(call["id"], own=own)} for call in message.tool_calls]
    if calls == message.tool_calls:
        return message
    content: Any = message.content
    if not isinstance(content, str):  # the calls stand in `tool_calls`, as everybody reads them
        content = [b for b in content if isinstance(b, str) or b.get("type") not in _CALLS]
    raw = {k: v for k, v in message.additional_kwargs.items() if k != "tool_calls"}
    return message.model_copy(
        update={"tool_calls": calls, "content": content or "", "additional_kwargs": raw}
    )


def _answering(message: ToolMessage, ids: CallIds) -> ToolMessage:
    """Return a tool's answer to the call as it was sent."""
    sent = ids.of_answer(message.tool_call_id)
    if sent == message.tool_call_id:
        return message
    return message.model_copy(update={"tool_call_id": sent})


def _without_mark(message: BaseMessage) -> BaseMessage:
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
