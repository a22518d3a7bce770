"""A card in words: what of it is encoded, and what its n-grams are taken from."""

from __future__ import annotations

from collections.abc import Mapping

from moma_core.types import AgentCard
from moma_core.words import readable

__all__ = ["card_text", "sentence", "views"]

# Shares of a card's vector; by MetaTool's and Seal-Tools' train and val rows (benchmarks/LOG.md).
_WHOLE, _PART = 1.0, 0.5


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
    """Return the name in words and the description."""
    return f"{readable(card.name)}: {card.description}"


def views(card: AgentCard) -> dict[str, float]:
    """Return the texts whose vectors make up an agent's, each with its share.

    The whole sentence, and beside it the name and the description alone: in a long sentence the
    mean over tokens buries a telling name.

    Example:
        >>> views(AgentCard("dice_roller", "Rolls dice"))
        {'dice roller: Rolls dice': 1.0, 'dice roller': 0.5, 'Rolls dice': 0.5}
    """
    shares = {sentence(card): _WHOLE}
    for text in (readable(card.name), card.description):
        if text:
            shares[text] = shares.get(text, 0.0) + _PART
    return shares
