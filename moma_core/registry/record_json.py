"""An agent record as JSON values, and back."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from moma_core.protocols import AgentRecord, Version
from moma_core.types import AgentCard

__all__ = ["from_plain", "plain_card", "to_plain", "version_of"]


def plain_card(card: AgentCard) -> dict[str, Any]:
    """Return a card's fields by name."""
    return {field.name: getattr(card, field.name) for field in dataclasses.fields(card)}


def to_plain(record: AgentRecord) -> dict[str, Any]:
    """Return a record as JSON values: the card, and all vectors as one base64 text.

    Example:
        >>> vectors = np.eye(2, dtype=np.float32)
        >>> card = AgentCard("a", "adds", examples=("1 + 1",))
        >>> record = AgentRecord(card, vectors[0], vectors[1:])
        >>> back = from_plain(to_plain(record), 2)
        >>> back.card == record.card, back.example_vectors.tolist()
        (True, [[0.0, 1.0]])
    """
    vectors = np.concatenate([record.description_vector[None], record.example_vectors])
    return {
        "card": plain_card(record.card),
        "vectors": base64.b64encode(vectors.astype("<f4").tobytes()).decode(),
        "version": None if record.version is None else dataclasses.asdict(record.version),
    }


def from_plain(content: Mapping[str, Any], dimension: int) -> AgentRecord:
    """Return the record of such values.

    Raises:
        ValueError: The vectors are not finite or not one for each text.
        KeyError: Something is missing.
        TypeError: Something has another type.
        InvalidCardError: The card is unfit.
    """
    card = AgentCard(**content["card"])
    raw = base64.b64decode(content["vectors"], validate=True)
    vectors = np.frombuffer(raw, dtype="<f4").reshape(-1, dimension)
    if len(vectors) != 1 + len(card.examples) or not np.isfinite(vectors).all():
        raise ValueError("its card and its vectors do not belong together")
    version = None if content.get("version") is None else version_of(content["version"])
    return AgentRecord(card, vectors[0], vectors[1:], version)


def version_of(fields: Mapping[str, Any]) -> Version:
    """Return the version of a mapping that has its fields."""
    number, born = int(fields["number"]), int(fields["born"])
    return Version(number, born, str(fields["by"]), float(fields["at"]))
