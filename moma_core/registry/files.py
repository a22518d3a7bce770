"""Agent records in two files, JSON beside safetensors: what saving a router in memory writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from moma_core._checks import parse_json
from moma_core._store import read_pair, write_pair
from moma_core.errors import ArtifactError, MoMAError, RegistryError
from moma_core.locks import Lock, locked
from moma_core.protocols import AgentRecord, Switches, Version
from moma_core.registry.record_json import plain_card
from moma_core.registry.versions import written
from moma_core.types import AgentCard

__all__ = ["FileRegistry"]

_CARDS, _LOCK = "agents.json", ".lock"
_VECTORS = "agents.safetensors", "agents-2.safetensors"  # written by turns, so one is always whole
_DAMAGED = KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError, MoMAError
_REMEDY = "Restore it from a backup, or register the agents in a new directory."


class FileRegistry:
    """Keeps agent records in memory and, with each change, writes all of them to a folder.

    Several processes may share the folder: each change is made under a lock to what is there. For
    many thousands of agents there is `moma_core.registry.chroma.ChromaRegistry`.

    Args:
        folder: Where ``agents.json`` and its vectors are, or will be.
        fingerprint: The encoder of the records' vectors.

    Raises:
        RegistryError: The files are damaged, or of another encoder.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> card, vectors = AgentCard("weather", "Forecast"), np.ones((1, 2), np.float32)
        >>> record = AgentRecord(card, vectors[0], vectors[:0])
        >>> [stored] = FileRegistry(folder, "mine").put([record])
        >>> [record.card.name for record in FileRegistry(folder, "mine").load()]
        ['weather']
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        self.location = Path(folder)
        self._fingerprint = fingerprint
        self._lock = Lock()
        self._seen = ""
        self.last_change: tuple[str, str] | None = None
        self._vectors = _VECTORS[1]
        self._records: dict[str, AgentRecord] = {}
        self._numbers: dict[str, int] = {}
        if self.is_at(folder):
            self._read()

    @staticmethod
    def is_at(folder: str | Path) -> bool:
        """Say whether a folder holds such a registry."""
        return any((Path(folder) / name).exists() for name in (_CARDS, *_VECTORS))

    def put(self, records: Sequence[AgentRecord]) -> Sequence[AgentRecord]:
        """Store records over the versions they were read from, and return them as stored.

        Raises:
            ConflictError: Another process wrote a name since.
            RegistryError: The folder cannot be written; what was there before is intact.
        """
        with self._changing() as (kept, numbers):
            rows = written(kept, numbers, records)
            kept.update(rows)
            numbers.update((name, r.version.number) for name, r in rows.items() if r.version)
        return list(rows.values())

    def delete(self, names: Sequence[str]) -> None:
        """Forget these names; unknown ones are ignored.

        Raises:
            RegistryError: The folder cannot be written; what was there before is intact.
        """
        with self._changing() as (kept, numbers):
            for name in names:
                if kept.pop(name, None) is not None:
                    numbers[name] = numbers.get(name, 0) + 1

    def switch(self, names: Sequence[str], *, enabled: bool) -> None:
        """Set whether these may be chosen; unknown ones are ignored.

        Raises:
            RegistryError: The folder cannot be written; what was there before is intact.
        """
        with self._changing() as (kept, _):
            for record in [kept[name] for name in names if name in kept]:
                card = dataclasses.replace(record.card, enabled=enabled)
                kept[card.name] = dataclasses.replace(record, card=card)

    def load(self) -> Sequence[AgentRecord]:
        """Return every record in the order in which its name was first stored.

        Raises:
            RegistryError: The files are damaged.
        """
        with self._lock:
            if self.stamp() != self._seen:
                with self._held():
                    self._read()
            return list(self._records.values())

    def switches(self) -> Switches:
        """Return who is on or off, by name and birth, without waiting for other processes.

        Raises:
            RegistryError: The file is damaged.
        """
        try:
            document = parse_json((self.location / _CARDS).read_bytes(), any_number=True)
            rows = zip(document["agents"], document["versions"], strict=True)
            return {(card["name"], int(told[1])): bool(card["enabled"]) for card, told in rows}
        except FileNotFoundError:
            return {}
        except (OSError, *_DAMAGED) as error:
            raise self._unreadable(error) from error

    def stamp(self) -> str:
        """Return a text that is another after every change."""
        try:
            found = (self.location / _CARDS).stat()
        except OSError:
            return self._seen  # gone: there is nothing new to read
        return f"{found.st_ino} {found.st_mtime_ns} {found.st_size}"

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            self.location.mkdir(parents=True, exist_ok=True)
            with locked(self.location / _LOCK):
                yield
        except RegistryError:
            raise
        except OSError as error:
            raise RegistryError(
                f"cannot write the agents in {str(self.location)!r} ({error}). Make the directory "
                "writable, or save the router elsewhere; what was saved before is intact."
            ) from error

    @contextmanager
    def _changing(self) -> Iterator[tuple[dict[str, AgentRecord], dict[str, int]]]:
        with self._lock, self._held():
            if self.stamp() != self._seen:
                self._read()
            kept, numbers = dict(self._records), dict(self._numbers)
            yield kept, numbers
            if kept != self._records or not self._seen:
                self._write(list(kept.values()), numbers)
            self._records, self._numbers = kept, numbers

    def _write(self, kept: list[AgentRecord], numbers: dict[str, int]) -> None:
        arrays = {
            "descriptions": _stacked([record.description_vector[None] for record in kept]),
            "examples": _stacked([record.example_vectors for record in kept]),
        }
        document = {
            "encoder": self._fingerprint,
            "agents": [plain_card(record.card) for record in kept],
            "versions": [dataclasses.astuple(record.version or Version()) for record in kept],
            "numbers": numbers,
        }
        other = _VECTORS[self._vectors == _VECTORS[0]]
        try:
            write_pair(self.location, (_CARDS, other), document, arrays)
        except ArtifactError as error:
            raise RegistryError(str(error)) from error
        before, self._seen, self._vectors = self._seen, self.stamp(), other
        self.last_change = before, self._seen
        with suppress(OSError):
            (self.location / _VECTORS[other == _VECTORS[0]]).unlink(missing_ok=True)

    def _read(self) -> None:
        seen = self.stamp()
        try:
            document, arrays = read_pair(
                self.location, (_CARDS, _VECTORS[0]), _REMEDY, any_number=True
            )
            if document["encoder"] != self._fingerprint:
                raise ValueError(f"vectors of {document['encoder']!r}, not {self._fingerprint!r}")
            cards = [AgentCard(**card) for card in document["agents"]]
            records = _joined(cards, document.get("versions"), arrays)
            numbers = {str(name): int(n) for name, n in document.get("numbers", {}).items()}
            vectors = str(document["weights"].get("file"))
        except _DAMAGED as error:
            raise self._unreadable(error) from error
        self._records, self._numbers = {r.card.name: r for r in records}, numbers
        self._seen, self._vectors = seen, vectors

    def _unreadable(self, error: Exception) -> RegistryError:
        return RegistryError(
            f"the agents in {str(self.location)!r} cannot be read: {error}. {_REMEDY}"
        )


def _joined(cards: list[AgentCard], versions: Any, arrays: Any) -> list[AgentRecord]:
    descriptions, examples = arrays["descriptions"], arrays["examples"]
    if len(descriptions) != len(cards) or len(examples) != sum(len(c.examples) for c in cards):
        raise ValueError("cards and vectors do not belong together")
    told = versions or [(1, i, "", 0.0) for i in range(len(cards))]
    ends = np.cumsum([len(card.examples) for card in cards])
    own = np.split(examples, ends[:-1]) if cards else []
    rows = zip(cards, descriptions, own, told, strict=True)
    return [
        AgentRecord(card, vector, vectors, Version(int(number), int(born), str(by), float(at)))
        for card, vector, vectors, (number, born, by, at) in rows
    ]


def _stacked(parts: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
