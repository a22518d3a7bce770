"""Agent cards from LlamaIndex choices, position by position.

A choice may have no name, the name of another choice, or no description; its card always has a
name of its own that leads back to its position. Knows nothing of routing.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from llama_index.core.tools import ToolMetadata

from llamaindex_moma.cards import words_of
from moma_core import (
    AgentCard,
    DuplicateNameError,
    InvalidInputError,
    MoMARouter,
    UnknownNameError,
)
from moma_core.types import is_text, is_visible
from moma_core.words import joined

__all__ = [
    "Choice",
    "KnownChoices",
    "add_example",
    "cards_of",
    "examples_by_name",
    "fingerprint",
    "nearest",
    "positions_in",
]

# The core's own bounds are wider; these leave room for what is added here.
_MAX_NAME = 100
_MAX_DESCRIPTION = 8_000
# Likeness (difflib) from which an unknown key is taken for a slip: one wrong letter in five.
_NEAR = 0.8


@dataclass(frozen=True, slots=True)
class Choice:
    """What a card depends on.

    Args:
        name: As given; may be missing.
        description: As given.
        examples: What the choice's own metadata brings along.
    """

    name: str | None
    description: str
    examples: tuple[str, ...] = ()

    @property
    def called(self) -> str:
        """Name by which users speak of it: its name, else its description."""
        return self.name or self.description


def fingerprint(choices: Sequence[ToolMetadata]) -> tuple[Choice, ...]:
    """Return what the cards depend on: equal for equal choices in the same order.

    Example:
        >>> fingerprint([ToolMetadata("Papers on physics", "papers")])
        (Choice(name='papers', description='Papers on physics', examples=()),)
    """
    return tuple(
        Choice(choice.name, choice.description or "", words_of(choice, "examples"))
        for choice in choices
    )


def cards_of(
    choices: Sequence[Choice], examples: Mapping[str, Sequence[str]] | None = None
) -> tuple[AgentCard, ...]:
    """Return one card a choice, in order, all with different names.

    Args:
        choices: From `fingerprint`.
        examples: Queries that a choice should take, by its name or, where it has none, by its
            description.

    Raises:
        DuplicateNameError: Two choices are meant by one key of ``examples``.
        InvalidCardError: A choice's examples are one text, not a list.
        UnknownNameError: There are examples, but for none of these choices, or a key is nearly the
            name of a choice that has none.

    Example:
        >>> choices = [Choice("papers", "a"), Choice("papers", "b"), Choice(None, "c")]
        >>> [card.name for card in cards_of(choices)]
        ['papers (1)', 'papers (2)', 'choice 3']
    """
    given = examples_by_name(examples)
    if given and choices and not any(choice.called in given for choice in choices):
        raise UnknownNameError(
            f"there are examples for {list(given)!r:.300}, but the choices are "
            f"{[choice.called for choice in choices]!r:.300}. Use the choices' names as keys."
        )
    _check_spelling(given, [choice.called for choice in choices])
    for key in given:
        _only([choice for choice in choices if choice.called == key], key)
    counts = Counter(_printable(choice.name) for choice in choices)
    cards: dict[str, AgentCard] = {}
    for position, choice in enumerate(choices, start=1):
        name = _free_name(_printable(choice.name), position, counts, cards)
        said = choice.description.strip()[:_MAX_DESCRIPTION]
        text = said if is_text(said) else name
        texts = dict.fromkeys((*choice.examples, *given.get(choice.called, ())))
        cards[name] = AgentCard(name, text, examples=tuple(texts))
    return tuple(cards.values())


def examples_by_name(examples: Mapping[str, Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
    """Return the examples of each choice.

    Raises:
        InvalidCardError: A choice's examples are one text, whose letters would become examples.
        InvalidInputError: They are not by name.

    Example:
        >>> examples_by_name({"papers": ["who proved it?"]})
        {'papers': ('who proved it?',)}
    """
    if not isinstance(examples, Mapping | None):
        raise InvalidInputError(
            f"examples are lists of queries by a choice's name, got {type(examples).__name__}. "
            "Write {'papers': ['which paper proves it?']}."
        )
    return {key: joined("examples", key, texts) for key, texts in (examples or {}).items()}


@dataclass(frozen=True)
class KnownChoices:
    """A list of choices and the router that tells them apart.

    Args:
        router: Knows a card for each choice.
        choices: As given, in order.
        positions: Position of each card's choice, by card name, in order.
    """

    router: MoMARouter
    choices: tuple[Choice, ...]
    positions: Mapping[str, int]

    @property
    def names(self) -> list[str]:
        """Card names, in order."""
        return list(self.positions)

    def find(self, called: str | Choice) -> int | None:
        """Return the position that a name or description speaks of; None when nothing does.

        Raises:
            DuplicateNameError: Several choices are called so.
        """
        if isinstance(called, str) and called in self.positions:
            return self.positions[called]
        found = [
            position
            for position, choice in enumerate(self.choices)
            if (choice.called == called if isinstance(called, str) else choice == called)
        ]
        if isinstance(called, str):
            _only([self.choices[position] for position in found], called)
        return found[0] if found else None

    def learn(self, query: str, position: int) -> None:
        """Add an example to the choice at ``position``; the next route knows it."""
        add_example(self.router, self.names[position], query)


def add_example(router: MoMARouter, name: str, query: str) -> None:
    """Give a registered agent one more example.

    Raises:
        UnknownNameError: Nobody registered it.
    """
    card = router.agents.get(name)
    if query not in card.examples:
        router.agents.update(dataclasses.replace(card, examples=(*card.examples, query)))


def positions_in(router: MoMARouter, choices: Sequence[Choice]) -> dict[str, int]:
    """Return the position of each choice whose card a shared router holds already.

    Raises:
        DuplicateNameError: Two choices share a name.
        UnknownNameError: A choice is not registered.
    """
    positions: dict[str, int] = {}
    for position, choice in enumerate(choices):
        if choice.name is None or choice.name not in router.agents:
            raise UnknownNameError(
                f"the router knows no agent {choice.name!r}. Register the choices first: "
                "register_cards(router, agent_cards_from_query_engine_tools(tools))."
            )
        if choice.name in positions:
            _only([choice, choice], choice.name)
        positions[choice.name] = position
    return positions


def nearest(name: str, known: Iterable[str]) -> str:
    """Return words that say which known name was perhaps meant."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"There are {names!r:.300}."


def _check_spelling(keys: Collection[str], called: Collection[str]) -> None:
    """Refuse slips of the pen; a key may well be for a choice of another list."""
    without = [name for name in called if name not in keys]
    for key in keys:
        close = [] if key in called else difflib.get_close_matches(key, without, n=1, cutoff=_NEAR)
        # Names that differ in a number, as sales_2023 and sales_2024, are two on purpose.
        if close and re.findall(r"\d+", key) == re.findall(r"\d+", close[0]):
            raise UnknownNameError(
                f"there are examples for {key!r}, which is no choice, and none for "
                f"{close[0]!r:.100}. Did you mean that? Use the choices' names as keys."
            )


def _only(found: Sequence[Choice], called: str) -> None:
    if len(found) > 1:
        raise DuplicateNameError(
            f"{len(found)} choices are called {called!r}, so it is not clear which one is meant. "
            "Give them different names."
        )


def _free_name(
    name: str, position: int, counts: Mapping[str, int], taken: Mapping[str, AgentCard]
) -> str:
    """Return a name that only one choice gave as it is, or make one of the position."""
    if name and counts[name] == 1:
        return name
    name = f"{name} ({position})" if name else f"choice {position}"
    while name in taken or name in counts:
        name += "'"
    return name


def _printable(name: str | None) -> str:
    seen = (c if c.isprintable() and is_visible(c) else " " for c in name or "")
    letters = "".join(seen)
    return letters[:_MAX_NAME].strip()
