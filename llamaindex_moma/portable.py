"""What another LLM may read: a conversation without what only its author's provider takes.

LlamaIndex's integrations read each other's words and tool calls where they are blocks of a message.
They stumble over another provider's thoughts and signatures, raw calls in ``additional_kwargs``,
arguments as text, cache points, and some ids.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    MessageRole,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM

from moma_core.call_ids import CallIds
from moma_core.locks import Lock

__all__ = ["Authors", "portable_messages"]

_CACHES = ("anthropic", "bedrock")  # who takes a cache point
_SIGNED = {  # what a thought carries, and who takes it back from an author who is not known
    "signature": ("anthropic", "bedrock"),
    "encrypted_content": ("openai",),
    "thought_signature": ("gemini", "google"),
}
_ANSWER = "tool_call_id"
_REMEMBERED = 10_000


class Authors:
    """Remembers which LLM made which tool call and which thought, the latest 10,000 of them.

    LlamaIndex's messages do not say who wrote them, and a key of ours in one would be sent to its
    provider by an LLM that is asked past us.

    Example:
        >>> authors = Authors()
        >>> thought = ChatMessage([ThinkingBlock(content="hm")], role="assistant")
        >>> authors.wrote("small", thought)
        >>> authors.of(thought), authors.of(ChatMessage("hi"))
        ('small', None)
    """

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()
        self._lock = Lock()

    def wrote(self, name: str, message: ChatMessage) -> None:
        """Remember who wrote a message."""
        with self._lock:
            for mark in _marks(message):
                self._names[mark] = name
                self._names.move_to_end(mark)
            while len(self._names) > _REMEMBERED:
                self._names.popitem(last=False)

    def of(self, message: ChatMessage) -> str | None:
        """Return who wrote a message; None where it is not known."""
        return next((self._names[m] for m in _marks(message) if m in self._names), None)


def _marks(message: ChatMessage) -> Iterator[str]:
    for block in message.blocks:
        if isinstance(block, ToolCallBlock) and block.tool_call_id:
            yield f"call {block.tool_call_id}"
        elif isinstance(block, ThinkingBlock):
            plain = json.dumps([block.content, block.additional_information], default=str)
            yield hashlib.sha256(plain.encode()).hexdigest()
    raw = message.additional_kwargs.get("tool_calls")
    for call in raw if isinstance(raw, list) else ():
        known = call.get("id") if isinstance(call, Mapping) else getattr(call, "id", None)
        if isinstance(known, str):
            yield f"call {known}"


def portable_messages(
    messages: Sequence[ChatMessage], llms: Mapping[str, LLM], name: str, authors: Authors
) -> list[ChatMessage]:
    """Return the messages without what LLM ``name`` does not take; untouched ones as they are.

    What it wrote itself stays. Of others' answers, thoughts go, raw tool calls become blocks,
    arguments become dicts, and ids that it would refuse get others, in calls and answers alike.

    Args:
        messages: A conversation.
        llms: By name.
        name: Who is to read it.
        authors: Who wrote what.

    Example:
        >>> from llama_index.core.base.llms.types import TextBlock
        >>> from llama_index.core.llms import MockLLM
        >>> said = ChatMessage([ThinkingBlock(content="hm"), TextBlock(text="hi")])
        >>> portable_messages([said], {"a": MockLLM()}, "a", Authors())[0].content
        'hi'
    """
    reader = llms[name].class_name().lower()
    ids = CallIds(reader)
    sent = []
    for message in messages:
        author = authors.of(message)
        own = None if author is None else author == name
        read = message
        if message.role == MessageRole.ASSISTANT:
            read = message if own else _plain_answer(message, llms.get(author or ""), reader)
            read = _with_ids(read, ids, own)
        elif _ANSWER in message.additional_kwargs:
            read = _answering(message, ids)
        sent.append(_without_cache_points(read, reader))
    return sent


def _plain_answer(message: ChatMessage, author: LLM | None, reader: str) -> ChatMessage:
    """Return another's answer as its words and calls, all in blocks."""
    kept = [block for block in message.blocks if not _is_foreign(block, author, reader)]
    blocks = [_with_dict(block) if isinstance(block, ToolCallBlock) else block for block in kept]
    extra = dict(message.additional_kwargs)
    in_blocks = any(isinstance(block, ToolCallBlock) for block in blocks)
    if extra.get("tool_calls") and not in_blocks and isinstance(author, FunctionCallingLLM):
        blocks += _calls_read_by(author, message)
        in_blocks = True
    if in_blocks or not extra.get("tool_calls"):  # nobody else can read the raw ones
        extra = {}
    if blocks == message.blocks and extra == message.additional_kwargs:
        return message
    return message.model_copy(update={"blocks": blocks, "additional_kwargs": extra})


def _is_foreign(block: object, author: LLM | None, reader: str) -> bool:
    """Say whether a block is a thought that the reader would refuse."""
    if not isinstance(block, ThinkingBlock):
        return False
    if author is not None:
        return True
    takers = (who for key, who in _SIGNED.items() if block.additional_information.get(key))
    return not any(each in reader for who in takers for each in who)


def _with_dict(block: ToolCallBlock) -> ToolCallBlock:
    """Return a call with its arguments as a dict, which every integration can write as text."""
    if not isinstance(block.tool_kwargs, str):
        return block
    try:
        found = json.loads(block.tool_kwargs or "{}")
    except (ValueError, RecursionError):
        return block
    return block.model_copy(update={"tool_kwargs": found}) if isinstance(found, dict) else block


def _calls_read_by(author: FunctionCallingLLM, message: ChatMessage) -> list[ToolCallBlock]:
    found = author.get_tool_calls_from_response(
        ChatResponse(message=message), error_on_no_tool_call=False
    )
    return [
        ToolCallBlock(tool_call_id=c.tool_id, tool_name=c.tool_name, tool_kwargs=c.tool_kwargs)
        for c in found
    ]


def _with_ids(message: ChatMessage, ids: CallIds, own: bool | None) -> ChatMessage:
    blocks = [
        block.model_copy(update={"tool_call_id": ids.of_call(block.tool_call_id, own=own)})
        if isinstance(block, ToolCallBlock)
        else block
        for block in message.blocks
    ]
    return message if blocks == message.blocks else message.model_copy(update={"blocks": blocks})


def _answering(message: ChatMessage, ids: CallIds) -> ChatMessage:
    known = message.additional_kwargs[_ANSWER]
    sent = ids.of_answer(known)
    if sent == known:
        return message
    extra = {**message.additional_kwargs, _ANSWER: sent}
    return message.model_copy(update={"additional_kwargs": extra})


def _without_cache_points(message: ChatMessage, reader: str) -> ChatMessage:
    if any(each in reader for each in _CACHES):
        return message
    blocks = [block for block in message.blocks if not isinstance(block, CachePoint)]
    if len(blocks) == len(message.blocks):
        return message
    return message.model_copy(update={"blocks": blocks})
