"""What a call costs LlamaIndex's LLMs: tokens that will be read, and those that were reported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ImageBlock,
)
from llama_index.core.callbacks.token_counting import get_tokens_from_response
from llama_index.core.tools import BaseTool

from moma_core.llms.tokens import count_tokens

__all__ = [
    "COST",
    "tokens_of",
    "usage_in",
]

COST = "moma_cost"
"""Key of an answer's ``additional_kwargs`` with USD: ``{"expected": ..., "real": ...}``."""

_TURN = 4  # tokens that say whose turn it is
_IMAGE = 85  # as LangChain counts one whose size is not known


def tokens_of(messages: Sequence[ChatMessage] | str, tools: Sequence[BaseTool] = ()) -> int:
    """Return about how many tokens an LLM will read: messages, images, definitions of tools.

    Example:
        >>> tokens_of([ChatMessage("word " * 100)]) > tokens_of("word " * 100) > 90
        True
    """
    schemas = (json.dumps(tool.metadata.to_openai_tool(skip_length_check=True)) for tool in tools)
    read = sum(map(count_tokens, schemas))
    if isinstance(messages, str):
        return read + count_tokens(messages)
    for message in messages:
        images = sum(isinstance(block, ImageBlock) for block in message.blocks)
        read += count_tokens(message.content or "") + _TURN + _IMAGE * images
    return read


def usage_in(response: Any) -> tuple[int, int, int] | None:
    """Return the tokens read, written and of those read the cached ones; None where it says none.

    Example:
        >>> raw = {"usage": {"prompt_tokens": 9, "completion_tokens": 2}}
        >>> usage_in(CompletionResponse(text="hi", raw=raw)), usage_in(CompletionResponse(text=""))
        ((9, 2, 0), None)
    """
    if not isinstance(response, ChatResponse | CompletionResponse):
        return None
    try:
        read, written = get_tokens_from_response(response)
    except (AttributeError, TypeError, ValueError):  # `raw` is whatever its provider's package has
        read = written = 0
    own = response.additional_kwargs or {}
    read = read or int(own.get("prompt_tokens") or 0)
    written = written or int(own.get("completion_tokens") or 0)
    if not read and not written:
        return None
    usage = _plain(_plain(response.raw).get("usage"))
    beside = int(usage.get("cache_read_input_tokens") or 0)  # Anthropic counts these apart
    beside += int(usage.get("cache_creation_input_tokens") or 0)
    cached = usage.get("cache_read_input_tokens")
    if cached is None:
        cached = _plain(usage.get("prompt_tokens_details")).get("cached_tokens")
    return read + beside, written, min(int(cached or 0), read + beside)


def _plain(value: Any) -> Mapping[str, Any]:
    """Return a provider's object as a mapping, an empty one where it is neither."""
    if isinstance(value, Mapping):
        return value
    found = getattr(value, "__dict__", None)
    return found if isinstance(found, dict) else {}
