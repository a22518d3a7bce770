"""What a team's graph keeps: who said what, with its tokens and USD, and how much it may spend."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

from langchain_core.messages import AIMessage
from langgraph.graph import MessagesState
from typing_extensions import TypedDict

from moma_core import InvalidInputError
from moma_core.types import is_number

__all__ = [
    "Escalation",
    "Limits",
    "TeamOutput",
    "TeamRecord",
    "TeamState",
    "Turn",
    "Usage",
    "answer_message",
    "called",
    "dropped",
    "message_of",
    "said",
    "total",
]


class Turn(TypedDict):
    """What came of one seat's turn to speak."""

    stage: int
    """Place of the stage in the mode, from 0."""

    seat: int
    """Place of the member in the plan, from 0."""

    role: str
    """Name of the member's node."""

    llm: str
    """The LLM that spoke; "" when none of those that were asked did."""

    kind: str
    """``"answer"`` or ``"critique"``."""

    text: str
    """What was said; "" when nobody spoke."""

    message: dict[str, Any]
    """Fields of the `AIMessage`; empty when nobody spoke."""

    input_tokens: int
    output_tokens: int

    estimated: bool
    """Whether the tokens are characters / 4, since the LLM reported none."""

    cost: float | None
    """USD by the LLM's card; None without a card."""

    failures: list[dict[str, str]]
    """LLMs that failed in this turn: ``{"llm": ..., "error": ...}``."""


class Usage(TypedDict):
    """Calls, tokens and USD of one member, or of a whole team."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    """None when a call's LLM has no card."""


class Escalation(TypedDict):
    """What a repair did: why, with which plan, and how that went."""

    doubt: str
    plan: dict[str, Any]
    transcript: list[Turn]
    stopped: str
    answer: int | None
    """Place of its answer in its transcript; None: it gave none, so the first team's stands."""

    error: str
    """Why it gave none; ""."""


class TeamRecord(TypedDict):
    """How a team came to its answer; both teams' calls are counted when there was a repair."""

    plan: dict[str, Any]
    """`TeamPlan.to_dict`."""

    role: str
    """Node of the member whose answer it is."""

    llm: str
    """The LLM that gave it."""

    transcript: list[Turn]
    """Every turn of the first team."""

    answer: int
    """Place of its answer in the transcript."""

    stopped: str
    """Why before the end: "agreement", "approved", "one member left", "limit: ..."; else ""."""

    signal: dict[str, Any] | None
    """What the first team tells of its answer: the fields of `moma_core.teams.Signal`."""

    doubt: str
    """What spoke against that answer, in words; "" when nothing did or nobody asked."""

    escalation: Escalation | None
    """What a repair did, if there was one."""

    usage: dict[str, Usage]
    """By the members' nodes; those of a second team are named ``"repair/..."``."""

    total: Usage
    """All of them together."""


class TeamState(MessagesState):
    """State of a team's graph."""

    transcript: Annotated[list[Turn], operator.add]
    signal: NotRequired[dict[str, Any] | None]
    escalation: NotRequired[Escalation | None]
    team: NotRequired[TeamRecord]


class TeamOutput(MessagesState):
    """What a team's graph gives: the conversation with the answer, and how it came about."""

    team: TeamRecord


def called(transcript: Iterable[Turn]) -> list[Turn]:
    """Return the turns in which somebody spoke."""
    return [turn for turn in transcript if turn["llm"]]


def dropped(transcript: Iterable[Turn]) -> frozenset[int]:
    """Return the seats of which no LLM could speak; they are not asked again."""
    return frozenset(turn["seat"] for turn in transcript if not turn["llm"])


def total(turns: Sequence[Turn]) -> Usage:
    """Add up calls, tokens and USD.

    Example:
        >>> total([])
        {'calls': 0, 'input_tokens': 0, 'output_tokens': 0, 'cost': 0.0}
    """
    spoken = called(turns)
    costs = [turn["cost"] for turn in spoken]
    return {
        "calls": len(spoken),
        "input_tokens": sum(turn["input_tokens"] for turn in spoken),
        "output_tokens": sum(turn["output_tokens"] for turn in spoken),
        "cost": None if None in costs else sum((cost or 0.0 for cost in costs), 0.0),
    }


def message_of(message: AIMessage) -> dict[str, Any]:
    """Return what `answer_message` needs to rebuild an answer, as plain data."""
    kept = ("id", "content", "additional_kwargs", "response_metadata", "usage_metadata")
    return {key: value for key in kept if (value := getattr(message, key)) is not None}


def answer_message(turn: Turn) -> AIMessage:
    """Rebuild the message of a turn; its id is the same, so that nobody streams it twice."""
    return AIMessage(**turn["message"])


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
