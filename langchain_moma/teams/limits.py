"""How much a team may spend: rounds, calls, tokens, USD."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from langchain_moma.teams.transcript import Usage
from moma_core import InvalidInputError
from moma_core.types import is_number

__all__ = ["Limits", "said"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a team may spend on one query; what is None is not limited.

    Looked at before each stage: one that is expected to go past a limit (`Forecast`) is not begun.
    The first stage is always run, so there is an answer.

    Args:
        rounds: Rounds; takes the place of a plan's larger number.
        calls: LLM calls.
        tokens: Input and output tokens.
        usd: USD by the LLMs' cards.

    Raises:
        InvalidInputError: A limit is no number, or zero or less; ``rounds`` is not whole.

    Example:
        >>> used: Usage = {"calls": 2, "input_tokens": 90, "output_tokens": 9, "cost": 0.01}
        >>> Limits(calls=3).reached(used, used), Limits(tokens=300).reached(used, used)
        ('limit: 3 calls', None)
        >>> Limits(tokens=-1)
        Traceback (most recent call last):
        ...
        moma_core.errors.InvalidInputError: limit tokens must be more than zero, got -1. ...
    """

    rounds: int | None = None
    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not (is_number(value) and value > 0):
                raise InvalidInputError(
                    f"limit {field.name} must be more than zero, got {value!r}. Leave it out for "
                    "no limit."
                )
        if self.rounds is not None and not isinstance(self.rounds, int):
            raise InvalidInputError(f"rounds are whole, got {self.rounds!r}.")

    def reached(self, used: Usage, following: Usage) -> str | None:
        """Return the limit that ``following`` would pass after ``used``, in words."""
        tokens = _tokens(used) + _tokens(following)
        usd = (used["cost"] or 0.0) + (following["cost"] or 0.0)
        if self.calls is not None and used["calls"] + following["calls"] > self.calls:
            return said(self.calls, "call")
        if self.tokens is not None and tokens > self.tokens:
            return said(self.tokens, "token")
        if self.usd is not None and usd > self.usd:
            return f"limit: {self.usd:g} USD"
        return None

    def without(self, used: Usage) -> Limits | None:
        """Return what is left after ``used``; None when a limit leaves nothing."""
        left = {
            "calls": None if self.calls is None else self.calls - used["calls"],
            "tokens": None if self.tokens is None else self.tokens - _tokens(used),
            "usd": None if self.usd is None else self.usd - (used["cost"] or 0.0),
        }
        if any(value is not None and value <= 0 for value in left.values()):
            return None
        return dataclasses.replace(self, **left)  # type: ignore[arg-type]


def said(most: int, what: str) -> str:
    """Return a limit in words.

    Example:
        >>> said(1, "round"), said(5, "call")
        ('limit: 1 round', 'limit: 5 calls')
    """
    return f"limit: {most} {what}{'s' * (most != 1)}"


def _tokens(used: Usage) -> int:
    return used["input_tokens"] + used["output_tokens"]
