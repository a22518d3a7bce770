"""What the router knows of an agent and of an LLM (A.2.5)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moma_core.errors import InvalidCardError
from moma_core.types.checks import check_name, is_json_object, is_number, is_text

__all__ = ["MAX_DESCRIPTION_CHARS", "MAX_EXAMPLE_CHARS", "AgentCard", "LLMCard"]

MAX_DESCRIPTION_CHARS = 8_192
MAX_EXAMPLE_CHARS = 4_096


@dataclass(frozen=True, slots=True)
class AgentCard:
    """What the router knows of one agent or tool (A.2.5: name, description, parameters, few-shots).

    Args:
        name: Unique; the adapter resolves it to something that runs.
        description: What the agent does, in a sentence or two.
        input_schema: JSON schema of its arguments.
        output_schema: JSON schema of its result.
        categories: Names of the categories it belongs to.
        examples: Queries that it should take; repeated ones count once.
        enabled: Whether it may be chosen now.
        metadata: Anything JSON-like that the caller wants back.

    Raises:
        InvalidCardError: A name, description or example is empty or too long.

    Example:
        >>> AgentCard("weather", "Forecast for a place", examples=("will it rain?",)).enabled
        True
    """

    name: str
    description: str
    input_schema: Mapping[str, Any] = field(default_factory=dict)
    output_schema: Mapping[str, Any] = field(default_factory=dict)
    categories: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    enabled: bool = True
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name, "agent")
        if not is_text(self.description):
            raise InvalidCardError(
                f"agent {self.name!r} needs a description, got {self.description!r}. Say in one "
                "sentence what it does: it is what the router compares queries with."
            )
        if len(self.description) > MAX_DESCRIPTION_CHARS:
            raise InvalidCardError(
                f"agent {self.name!r} has a description of {len(self.description):,} characters; "
                f"at most {MAX_DESCRIPTION_CHARS:,} fit. Keep what tells it from other agents."
            )
        for field_name in ("examples", "categories"):
            values = getattr(self, field_name)
            if not isinstance(values, list | tuple):
                raise InvalidCardError(
                    f"{field_name} of agent {self.name!r} is a list of texts, got {values!r:.40}. "
                    f"Write {field_name}=['...']."
                )
            object.__setattr__(self, field_name, tuple(values))
        self._check_values()
        for category in self.categories:
            check_name(category, f"category of agent {self.name!r}:")
        for example in self.examples:
            if not is_text(example):
                raise InvalidCardError(
                    f"agent {self.name!r} has an example that is empty or no text, got "
                    f"{example!r:.40}; leave it out."
                )
            if len(example) > MAX_EXAMPLE_CHARS:
                raise InvalidCardError(
                    f"an example of agent {self.name!r} has {len(example):,} characters, at most "
                    f"{MAX_EXAMPLE_CHARS:,} fit. Give the question without its attachments."
                )
        object.__setattr__(self, "examples", tuple(dict.fromkeys(self.examples)))

    def _check_values(self) -> None:
        for field_name in ("input_schema", "output_schema", "metadata"):
            if not is_json_object(getattr(self, field_name)):
                raise InvalidCardError(
                    f"{field_name} of agent {self.name!r} must be a dict of JSON values, got "
                    f"{getattr(self, field_name)!r:.60}."
                )
        if not isinstance(self.enabled, bool):
            raise InvalidCardError(
                f"enabled of agent {self.name!r} is True or False, got {self.enabled!r:.40}."
            )


@dataclass(frozen=True, slots=True)
class LLMCard:
    """What the router knows of one LLM.

    Args:
        name: Unique; the adapter resolves it to a client.
        input_price: USD per million input tokens.
        output_price: USD per million output tokens.
        latency: Typical seconds to an answer, when known.
        context_window: Most tokens it takes, when known.
        metadata: Anything JSON-like that the caller wants back.

    Raises:
        InvalidCardError: The name is empty, or a price is negative or not finite.

    Example:
        >>> LLMCard("small", input_price=0.15, output_price=0.6).output_price
        0.6
    """

    name: str
    input_price: float
    output_price: float
    latency: float | None = None
    context_window: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name, "LLM")
        for label, value in (
            ("input_price", self.input_price),
            ("output_price", self.output_price),
        ):
            if not is_number(value) or not math.isfinite(value) or value < 0:
                raise InvalidCardError(
                    f"{label} of LLM {self.name!r} must be USD per million tokens, zero or more, "
                    f"got {value!r}. A local LLM costs 0."
                )

    def usd(self, input_tokens: float, output_tokens: float) -> float:
        """Return USD of a call with so many tokens.

        Example:
            >>> LLMCard("small", input_price=0.15, output_price=0.6).usd(2_000, 500)
            0.0006
        """
        return (self.input_price * input_tokens + self.output_price * output_tokens) / 1e6
