"""The values that go in: cards, queries, states, preferences. What comes out: `decision`.

Frozen dataclasses, checked when they are made; each has a plain-dict form where it is saved.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._checks import (
    MAX_NAME_CHARS,
    Words,
    check_name,
    check_names,
    did_you_mean,
    half_character,
    is_finite,
    is_json_object,
    is_number,
    is_text,
    is_visible,
    joined,
    nearest,
    printable,
)
from moma_core.errors import (
    InvalidCardError,
    InvalidInputError,
    InvalidPreferenceError,
    InvalidQueryError,
)

__all__ = [
    "MAX_DESCRIPTION_CHARS",
    "MAX_EXAMPLE_CHARS",
    "MAX_NAME_CHARS",
    "AgentCard",
    "Auto",
    "Cost",
    "FloatArray",
    "LLMCard",
    "Performance",
    "Preference",
    "Query",
    "RoutingState",
    "Topsis",
    "Words",
    "check_names",
    "did_you_mean",
    "is_number",
    "is_text",
    "is_visible",
    "joined",
    "nearest",
    "parse_preference",
    "preference_name",
    "preference_text",
    "printable",
]


FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Performance:
    """Prefer the best score; cost only breaks ties (5.2.3).

    Tied are scores whose difference per USD is noise on queries the head did not see
    (`llms.training.fit_min_gain`; where that was not measured, equal scores).
    """


@dataclass(frozen=True, slots=True)
class Auto:
    """Balance score and cost: halving the cost is worth ``points`` of score.

    The choice has the largest ``score - points * log2(cost)``, so an LLM that is not chosen changes
    nothing, and no unit or range of costs matters.

    Args:
        points: Score, in [0, 1], that halving the cost is worth; None: what held-out queries of
            the pool said, or 0.02.
    """

    points: float | None = None

    def __post_init__(self) -> None:
        if self.points is not None and not (is_number(self.points) and 0.0 <= self.points <= 1.0):
            raise InvalidPreferenceError(
                f"points of score for half the cost lie in [0, 1], got {self.points!r}. Write "
                "'auto:0.02', or 'auto'."
            )


@dataclass(frozen=True, slots=True)
class Topsis:
    """Balance score and cost by TOPSIS on the Pareto front, as the paper does (eq. 8-11).

    Its min-max over the front lets an LLM that is never chosen change who is (docs/llms.md).

    Args:
        w_score: Weight of the score, in [0, 1]; the cost weighs ``1 - w_score``.
    """

    w_score: float = 0.5

    def __post_init__(self) -> None:
        if not is_number(self.w_score) or not 0.0 <= self.w_score <= 1.0:
            raise InvalidPreferenceError(f"w_score must lie in [0, 1], got {self.w_score!r}.")


@dataclass(frozen=True, slots=True)
class Cost:
    """Prefer the best score within a budget (5.2.3).

    Args:
        budget: USD that one query may cost; None means the router's default share of what its
            strongest LLM would cost on this query.
    """

    budget: float | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and not (is_number(self.budget) and self.budget >= 0.0):
            raise InvalidPreferenceError(
                f"a budget is USD per query, zero or more, got {self.budget!r}."
            )


Preference = Performance | Auto | Cost | Topsis

_CHOICES = (
    "Choose 'performance', 'auto', 'auto:0.03' (halving the cost is worth 0.03 of score), 'cost', "
    "'cost:0.002' (a budget in USD per query), or 'topsis:0.7,0.3' (weights of score and cost)."
)


def parse_preference(preference: str | Preference | None) -> Preference:
    """Return a `Preference` from what a user typed; None means auto.

    Args:
        preference: ``"performance"``, ``"auto"``, ``"auto:0.03"`` (score that halving the cost is
            worth), ``"cost"``, ``"cost:0.002"`` (USD per query), ``"topsis"``,
            ``"topsis:0.7,0.3"`` (weights of score and cost), a `Preference`, or None.

    Raises:
        InvalidPreferenceError: Anything else; the message lists the choices.

    Example:
        >>> parse_preference("cost:0.002"), parse_preference("auto:0.03")
        (Cost(budget=0.002), Auto(points=0.03))
    """
    if preference is None:
        return Auto()
    if isinstance(preference, Performance | Auto | Cost | Topsis):
        return preference
    if not isinstance(preference, str):
        raise InvalidPreferenceError(f"unknown preference {preference!r:.60}. {_CHOICES}")
    name, separator, amount = preference.strip().lower().partition(":")
    match name, separator:
        case "performance", "":
            return Performance()
        case "auto", _:
            return Auto(_number(amount, preference) if separator else None)
        case "cost", _:
            return Cost(
                _number(amount.strip().removeprefix("$"), preference) if separator else None
            )
        case "topsis", _:
            return Topsis(_weight(amount, preference) if separator else 0.5)
    meant = did_you_mean(name, ("performance", "auto", "cost", "topsis"))
    raise InvalidPreferenceError(f"unknown preference {preference!r:.60}. {meant}{_CHOICES}")


def _number(text: str, preference: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise InvalidPreferenceError(
            f"expected a number of zero or more after the colon, got {preference!r:.60}. {_CHOICES}"
        )
    return number


def _weight(text: str, preference: str) -> float:
    """Return the weight of the score from ``"0.7,0.3"``."""
    numbers = [_number(part, preference) for part in text.split(",")]
    if len(numbers) != 2 or sum(numbers) <= 0:
        raise InvalidPreferenceError(
            f"topsis takes the weights of score and cost, got {preference!r:.60}. {_CHOICES}"
        )
    return numbers[0] / sum(numbers)


def preference_name(preference: Preference) -> str:
    """Return ``"performance"``, ``"auto"``, ``"cost"`` or ``"topsis"``."""
    return type(preference).__name__.lower()


def preference_text(preference: Preference) -> str:
    """Return a preference as text that `parse_preference` reads back.

    Example:
        >>> preference_text(Auto(0.03)), preference_text(Cost())
        ('auto:0.03', 'cost')
    """
    match preference:
        case Auto(points=float() | int() as amount) | Cost(budget=float() | int() as amount):
            return f"{preference_name(preference)}:{amount!r}"
        case Topsis(w_score=weight):
            return f"topsis:{weight!r},{1.0 - weight!r}"
    return preference_name(preference)


@dataclass(frozen=True, slots=True)
class Query:
    """What a user asked, with what came before it.

    Args:
        text: The words to route. Only the first few thousand characters are looked at.
        history: Earlier turns of the conversation, oldest first.
        events: System events since the last turn, such as ``"file_uploaded:pdf"``.
        tokens: Tokens of all that an LLM would read (system prompt, history, tools, images), where
            the caller counted them; None: ``text`` and ``history`` are counted.

    Raises:
        InvalidQueryError: ``text`` is empty, blank, not a string, or holds half a character.

    Example:
        >>> Query("will it rain tomorrow?").text
        'will it rain tomorrow?'
    """

    text: str
    history: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    tokens: int | None = None

    def __post_init__(self) -> None:
        half = half_character(self.text) if isinstance(self.text, str) else None
        if half is not None:
            raise InvalidQueryError(
                f"a query holds half a character, {self.text[half]!r} at position {half} (a lone "
                "surrogate, as cutting a text in the middle of an emoji leaves). Repair it: "
                "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
            )
        if not is_text(self.text):
            raise InvalidQueryError(
                f"a query must be text with at least one visible character, got {self.text!r:.40}. "
                "Pass the user's words, for example router.route('will it rain tomorrow?')."
            )
        for field_name in ("history", "events"):
            values = getattr(self, field_name)
            if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
                raise InvalidQueryError(
                    f"{field_name} of a query is a list of texts, got {values!r:.40}. "
                    f"Write {field_name}=['...']."
                )
            object.__setattr__(self, field_name, tuple(values))
        tokens = self.tokens
        if tokens is not None and not (is_finite(tokens) and tokens >= 0):
            raise InvalidQueryError(
                f"tokens of a query is a number of zero or more, got {tokens!r:.40}. Leave it out "
                "to have text and history counted."
            )

    @classmethod
    def of(cls, query: str | Query) -> Query:
        """Return ``query`` itself, or a `Query` around a plain string."""
        return query if isinstance(query, Query) else cls(query)


@dataclass(frozen=True, slots=True)
class RoutingState:
    """Where a conversation stands: the active states and how long they have held.

    Args:
        active: Names of the active states; several make a composite state (sect. 4.2).
        turns: Turns for which ``active`` has stayed without a rule or its meaning confirming it.
        last_target: Name that took the previous turn, if any.
        topic: The last query that stood by itself; follow-ups are read after it.
        ages: Turns since each of ``active`` was entered; empty means ``turns`` for all.
        waiting_for: The agent that asked something and waits for the answer, if one does: the next
            turn is its, unless it is a request of another kind. Whoever runs the agents says so.

    Example:
        >>> state = RoutingState(last_target="book_hotel", topic="a room in Rome")
        >>> state.asks("book_hotel").waiting_for  # it said: "For which nights?"
        'book_hotel'
    """

    active: tuple[str, ...] = ()
    turns: int = 0
    last_target: str | None = None
    topic: str = ""
    ages: tuple[int, ...] = ()
    waiting_for: str | None = None

    def asks(self, agent: str) -> RoutingState:
        """Return this state after an agent has asked the user something."""
        return replace(self, last_target=agent, waiting_for=agent)

    @classmethod
    def of(cls, state: RoutingState | Mapping[str, Any] | None) -> RoutingState:
        """Return a state itself, one rebuilt from its plain dict, or for None a fresh one.

        Raises:
            InvalidInputError: It is neither.
        """
        if isinstance(state, RoutingState):
            return state
        try:
            plain = dict(state or {})
            return cls(
                active=tuple(plain.get("active", ())),
                turns=int(plain.get("turns", 0)),
                last_target=plain.get("last_target"),
                topic=str(plain.get("topic", "")),
                ages=tuple(plain.get("ages", ())),
                waiting_for=plain.get("waiting_for"),
            )
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"state is the previous decision's state or its plain dict, got {state!r:.60}. "
                "Write router.route(text, state=decision.state)."
            ) from error


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
                    f"{reprlib.repr(getattr(self, field_name)):.60}."
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
        quality: Published scores in [0, 1] by benchmark or subject, such as
            ``{"mmlu_pro": 0.78, "math": 0.9}``, or one number for everything; see docs/llms.md.
        like: An LLM that it resembles: one of the pool, or a well-known one.
        cached_input_price: USD per million input tokens read from the provider's cache.
        reasoning_tokens: Tokens that it thinks, beside the answer, on a typical query.

    Raises:
        InvalidCardError: The name is empty, a price is negative or not finite, or a score is not in
            [0, 1].

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
    quality: float | Mapping[str, float] | None = None
    like: str | None = None
    cached_input_price: float | None = None
    reasoning_tokens: float = 0.0

    def __post_init__(self) -> None:
        check_name(self.name, "LLM")
        cached = 0.0 if self.cached_input_price is None else self.cached_input_price
        for label, value in (
            ("input_price", self.input_price),
            ("output_price", self.output_price),
            ("cached_input_price", cached),
        ):
            if not is_finite(value) or value < 0:
                raise InvalidCardError(
                    f"{label} of LLM {self.name!r} must be USD per million tokens, zero or more, "
                    f"got {value!r:.40}. A local LLM costs 0."
                )
        if not (is_finite(self.reasoning_tokens) and self.reasoning_tokens >= 0):
            raise InvalidCardError(
                f"reasoning_tokens of LLM {self.name!r} is a number of zero or more, got "
                f"{self.reasoning_tokens!r:.40}."
            )
        window = self.context_window
        if window is not None and not (is_finite(window) and window > 0):
            raise InvalidCardError(
                f"context_window of LLM {self.name!r} is tokens, 1 or more, got {window!r:.40}. "
                "Leave it out where it is not known."
            )
        latency = self.latency
        if latency is not None and not (is_finite(latency) and latency >= 0):
            raise InvalidCardError(
                f"latency of LLM {self.name!r} is seconds, zero or more, got {latency!r:.40}. "
                "Leave it out where it is not known."
            )
        if not isinstance(self.metadata, Mapping):
            raise InvalidCardError(
                f"metadata of LLM {self.name!r} is a dict, got {self.metadata!r:.40}. Write "
                "metadata={'family': 'small'}."
            )
        self._check_quality()

    def _check_quality(self) -> None:
        if self.like is not None and not is_text(self.like):
            raise InvalidCardError(
                f"like of LLM {self.name!r} is the name of an LLM, got {self.like!r:.40}."
            )
        if self.quality is None:
            return
        by_name = self.quality if isinstance(self.quality, Mapping) else {"": self.quality}
        fits = all(is_number(score) and 0.0 <= score <= 1.0 for score in by_name.values())
        if not by_name or not fits or not all(isinstance(name, str) for name in by_name):
            raise InvalidCardError(
                f"quality of LLM {self.name!r} is a score in [0, 1] or several by benchmark, got "
                f"{self.quality!r:.60}. Write quality={{'mmlu_pro': 0.78}}, or leave it out."
            )

    def usd(self, input_tokens: float, output_tokens: float, cached_tokens: float = 0.0) -> float:
        """Return USD of a call with so many tokens.

        Args:
            input_tokens: Tokens read, those from the cache among them.
            output_tokens: Tokens written, thoughts among them.
            cached_tokens: Tokens read from the provider's cache.

        Example:
            >>> LLMCard("small", input_price=0.15, output_price=0.6).usd(2_000, 500)
            0.0006
        """
        cached = self.input_price if self.cached_input_price is None else self.cached_input_price
        read = self.input_price * (input_tokens - cached_tokens) + cached * cached_tokens
        return (read + self.output_price * output_tokens) / 1e6
