"""A card in words: what of it is encoded, and what its n-grams are taken from."""

from __future__ import annotations

import re
from collections.abc import Mapping

from moma_core.types import AgentCard

__all__ = ["card_text", "readable", "sentence"]


def readable(name: str) -> str:
    """Return a name as words.

    Example:
        >>> readable("getHealthWorkforce_v2")
        'get health workforce v2'
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return " ".join(re.sub(r"[_\-/.:]+", " ", spaced).split()).lower()


def card_text(card: AgentCard) -> str:
    """Return all words of a card that say what it does: name, description, arguments."""
    words = [sentence(card)]
    properties = card.input_schema.get("properties", {})
    if isinstance(properties, Mapping):
        for argument, schema in properties.items():
            about = schema.get("description", "") if isinstance(schema, Mapping) else ""
            words.append(f"{readable(str(argument))} {about}")
    return " ".join(words)


def sentence(card: AgentCard) -> str:
    """Return the name in words and the description: what an agent's vector is made of."""
    return f"{readable(card.name)}: {card.description}"
