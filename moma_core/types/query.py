"""What a user asked, and where the conversation stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moma_core.errors import InvalidInputError, InvalidQueryError
from moma_core.types.checks import half_character, is_text

__all__ = ["Query", "RoutingState"]


@dataclass(frozen=True, slots=True)
class Query:
    """What a user asked, with what came before it.

    Args:
        text: The words to route. Only the first few thousand characters are looked at.
        history: Earlier turns of the conversation, oldest first.
        events: System events since the last turn, such as ``"file_uploaded:pdf"``.

    Raises:
        InvalidQueryError: ``text`` is empty, blank, not a string, or holds half a character.

    Example:
        >>> Query("will it rain tomorrow?").text
        'will it rain tomorrow?'
    """

    text: str
    history: tuple[str, ...] = ()
    events: tuple[str, ...] = ()

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
    """

    active: tuple[str, ...] = ()
    turns: int = 0
    last_target: str | None = None
    topic: str = ""
    ages: tuple[int, ...] = ()

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
            )
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"state is the previous decision's state or its plain dict, got {state!r:.60}. "
                "Write router.route(text, state=decision.state)."
            ) from error
