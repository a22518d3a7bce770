"""What a call really cost: the usage that chat models report, beside what was expected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata, add_usage

from langchain_moma.messages import marked
from moma_core.llms.router import LLMRouter

__all__ = [
    "COST_KEY",
    "ametered",
    "cost_facts",
    "metered",
    "usage_in",
    "usd_paid",
]

COST_KEY = "moma_cost"
"""Key in an answer's ``response_metadata`` with USD: ``{"expected": ..., "real": ...}``."""


def usage_in(answer: Any, before: UsageMetadata | None = None) -> UsageMetadata | None:
    """Return the usage that an answer reports, added to ``before``; None where it does not say.

    Args:
        answer: A message, a chunk, or what ``with_structured_output(..., include_raw=True)`` gives.
        before: Usage so far.

    Example:
        >>> used = {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4}
        >>> usage_in(AIMessage("hi", usage_metadata=used), used)["total_tokens"]
        8
    """
    message = answer.get("raw") if isinstance(answer, Mapping) else answer
    usage = message.usage_metadata if isinstance(message, AIMessage) else None
    if usage is None or "total_cost" in usage:  # of LangChain's cache: nobody was paid
        return before
    return add_usage(before, usage)


def usd_paid(
    llms: LLMRouter, name: str, usage: UsageMetadata, expected: float | None
) -> float | None:
    """Return USD of a call; the pool learns from it."""
    cached = (usage.get("input_token_details") or {}).get("cache_read") or 0
    read, written = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    return llms.paid(name, read, written, min(cached, read), expected=expected)


def cost_facts(
    llms: LLMRouter | None, name: str, usage: UsageMetadata | None, expected: float | None
) -> dict[str, Any]:
    """Return what an answer's metadata say of its cost, nothing where no usage was reported."""
    if llms is None or usage is None:
        return {}
    real = usd_paid(llms, name, usage, expected)
    return {} if real is None else {COST_KEY: {"expected": expected, "real": real}}


Cost = Callable[[UsageMetadata | None], Mapping[str, Any]]
"""From the usage of a whole answer to what its metadata say of its cost."""


def metered(chunks: Iterator[Any], cost: Cost) -> Iterator[Any]:
    """Yield the chunks of an answer, the last one with its cost."""
    used: UsageMetadata | None = None
    for chunk in chunks:
        used = usage_in(chunk, used)
        yield marked(chunk, cost(used)) if _is_last(chunk) else chunk


async def ametered(chunks: AsyncIterator[Any], cost: Cost) -> AsyncIterator[Any]:
    """Yield the same."""
    used: UsageMetadata | None = None
    async for chunk in chunks:
        used = usage_in(chunk, used)
        yield marked(chunk, cost(used)) if _is_last(chunk) else chunk


def _is_last(chunk: Any) -> bool:
    return isinstance(chunk, AIMessageChunk) and chunk.chunk_position == "last"
