"""What an LLM is to collection: a callable from a prompt to a reply with its token usage.

Knows no provider; a framework's adapter turns its chat models into such callables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moma_core.errors import InvalidDataError
from moma_core.types import LLMCard

__all__ = ["AskLLM", "Reply", "as_reply", "estimated_tokens", "reply_cost", "worst_cost"]

_CHARS_PER_TOKEN = 4.0
_CAUTIOUS_CHARS_PER_TOKEN = 2.5


@dataclass(frozen=True, slots=True)
class Reply:
    """What an LLM answered and what it used.

    Args:
        text: The answer; may be empty.
        input_tokens: Tokens read, where the provider told.
        output_tokens: Tokens written, where the provider told.
        cost: USD, where the provider told; else it follows from tokens and the card's prices.

    Example:
        >>> reply_cost(Reply("4", 1_000_000, 0), "2+2?", LLMCard("small", 0.15, 0.6))
        0.15
    """

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None


AskLLM = Callable[[str], Reply | str]
"""Sends a prompt to an LLM; raises whatever its provider raises."""


def as_reply(value: Any) -> Reply:
    """Return a reply from what a callable gave: a `Reply`, or plain text without usage.

    Raises:
        InvalidDataError: It gave something else, or a usage or cost that is negative.
    """
    reply = Reply(value) if isinstance(value, str) else value
    if not isinstance(reply, Reply) or not isinstance(reply.text, str):
        raise InvalidDataError(
            f"an LLM must answer with text or Reply(text, input_tokens, output_tokens), got "
            f"{type(value).__name__}."
        )
    for name in ("input_tokens", "output_tokens", "cost"):
        number = getattr(reply, name)
        if number is not None and not (math.isfinite(number) and number >= 0):
            raise InvalidDataError(f"{name} of a reply is zero or more, got {number!r}.")
    clean = reply.text.encode("utf-8", "replace").decode()  # lone surrogates fit no parquet file
    return Reply(clean, reply.input_tokens, reply.output_tokens, reply.cost)


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text has: characters / 4."""
    return math.ceil(len(text) / _CHARS_PER_TOKEN)


def reply_cost(reply: Reply, prompt: str, card: LLMCard) -> float:
    """Return USD of a call: as told, or tokens at the card's prices, estimated where not told."""
    if reply.cost is not None:
        return float(reply.cost)
    read, wrote = reply.input_tokens, reply.output_tokens
    read = estimated_tokens(prompt) if read is None else read
    wrote = estimated_tokens(reply.text) if wrote is None else wrote
    return card.usd(read, wrote)


def worst_cost(prompt: str, card: LLMCard, max_output_tokens: int) -> float:
    """Return USD that a call costs at most when it writes at most ``max_output_tokens``."""
    read = math.ceil(len(prompt) / _CAUTIOUS_CHARS_PER_TOKEN)
    return card.usd(read, max_output_tokens)
