"""Agent records in two files, JSON beside safetensors: what saving a router in memory writes."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moma_core._store import read_pair, write_pair
from moma_core.errors import ArtifactError, MoMAError, RegistryError
from moma_core.protocols import AgentRecord
from moma_core.types import AgentCard

__all__ = ["FileRegistry"]

_FILES = "agents.json", "agents.safetensors"
_REMEDY = "Restore it from a backup, or register the agents in a new directory."


class FileRegistry:
    """Keeps agent records in memory and, after each change, writes all of them to a folder.

    One process at a time may write: for several, and for many thousands of agents, there is
    `moma_core.registry.chroma.ChromaRegistry`.

    Args:
        folder: Where ``agents.json`` and ``agents.safetensors`` are, or will be.
        fingerprint: The encoder of the records' vectors.

    Raises:
        RegistryError: The files are damaged, or of another encoder.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> card, vectors = AgentCard("weather", "Forecast"), np.ones((1, 2), np.float32)
        >>> record = AgentRecord(card, vectors[0], vectors[:0])
        >>> FileRegistry(folder, "mine").put([record])
        >>> [record.card.name for record in FileRegistry(folder, "mine").load()]
        ['weather']
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        self.location = Path(folder)
        self._fingerprint = fingerprint
        self._lock = threading.Lock()
        self._records: dict[str, AgentRecord] = {}
        if self.is_at(folder):
            self._records = {record.card.name: record for record in self._read()}

    @staticmethod
    def is_at(folder: str | Path) -> bool:
        """Say whether a folder holds such a registry."""
        return any((Path(folder) / name).exists() for name in _FILES)

    def put(self, records: Sequence[AgentRecord]) -> None:
        """Store records, replacing those of the same name.

        Raises:
            RegistryError: The folder cannot be written; what was there before is intact.
        """
        self._change({**self._records, **{record.card.name: record for record in records}})

    def delete(self, names: Sequence[str]) -> None:
        """Forget these names; unknown ones are ignored.

        Raises:
            RegistryError: The folder cannot be written; what was there before is intact.
        """
        gone = set(names)
        self._change({name: r for name, r in self._records.items() if name not in gone})

    def load(self) -> Sequence[AgentRecord]:
        """Return every record in the order in which its name was first stored."""
        return list(self._records.values())

    def _change(self, records: dict[str, AgentRecord]) -> None:
        kept = list(records.values())
        cards = [_plain(record.card) for record in kept]
        arrays = {
            "descriptions": _stacked([record.description_vector[None] for record in kept]),
            "examples": _stacked([record.example_vectors for record in kept]),
        }
        document = {"encoder": self._fingerprint, "agents": cards}
        with self._lock:
            try:
                write_pair(self.location, _FILES, document, arrays)
            except ArtifactError as error:
                raise RegistryError(str(error)) from error
            self._records = records

    def _read(self) -> list[AgentRecord]:
        try:
            document, arrays = read_pair(self.location, _FILES, _REMEDY)
            if document["encoder"] != self._fingerprint:
                raise ValueError(f"vectors of {document['encoder']!r}, not {self._fingerprint!r}")
            cards = [AgentCard(**card) for card in document["agents"]]
            descriptions, examples = arrays["descriptions"], arrays["examples"]
            if len(descriptions) != len(cards) or len(examples) != sum(
                len(card.examples) for card in cards
            ):
                raise ValueError("cards and vectors do not belong together")
        except (KeyError, TypeError, ValueError, MoMAError) as error:
            raise RegistryError(
                f"the agents in {str(self.location)!r} cannot be read: {error}. {_REMEDY}"
            ) from error
        ends = np.cumsum([len(card.examples) for card in cards])
        own = np.split(examples, ends[:-1]) if cards else []
        return [AgentRecord(*row) for row in zip(cards, descriptions, own, strict=True)]


def _plain(card: AgentCard) -> dict[str, Any]:
    fields = dataclasses.fields(card)
    return {field.name: getattr(card, field.name) for field in fields}


def _stacked(parts: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
