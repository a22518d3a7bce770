"""Agent cards from LlamaIndex choices, position by position.

A choice may have no name, the name of another choice, or no description; its card always has a
name of its own that leads back to its position. Knows nothing of routing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llama_index.core.tools import ToolMetadata

from moma_core import AgentCard

__all__ = ["cards_of", "fingerprint"]

Fingerprint = tuple[tuple[str | None, str], ...]

# The core's own bounds are wider; these leave room for what is added here.
_MAX_NAME = 100
_MAX_DESCRIPTION = 8_000


def fingerprint(choices: Sequence[ToolMetadata]) -> Fingerprint:
    """Return what the cards depend on: equal for equal choices in the same order.

    Example:
        >>> fingerprint([ToolMetadata("Papers on physics", "papers")])
        (('papers', 'Papers on physics'),)
    """
    return tuple((choice.name, choice.description or "") for choice in choices)


def cards_of(key: Fingerprint, examples: Mapping[str, Sequence[str]]) -> tuple[AgentCard, ...]:
    """Return one card a choice, in order, all with different names.

    Args:
        key: Names and descriptions, from `fingerprint`.
        examples: Queries that a choice should take, by its name.

    Example:
        >>> [card.name for card in cards_of((("papers", "a"), ("papers", "b"), (None, "c")), {})]
        ['papers', 'papers (2)', 'choice 3']
    """
    cards: dict[str, AgentCard] = {}
    for position, (given, description) in enumerate(key, start=1):
        name = _free_name(_printable(given or "")[:_MAX_NAME].strip(), position, cards)
        text = description.strip()[:_MAX_DESCRIPTION] or name
        cards[name] = AgentCard(name, text, examples=tuple(examples.get(given or "", ())))
    return tuple(cards.values())


def _free_name(name: str, position: int, taken: Mapping[str, AgentCard]) -> str:
    name = name or f"choice {position}"
    if name not in taken:
        return name
    # No card before this one can end in this position unless the user named it so.
    name = f"{name} ({position})"
    while name in taken:
        name += "'"
    return name


def _printable(name: str) -> str:
    return "".join(character if character.isprintable() else " " for character in name)
