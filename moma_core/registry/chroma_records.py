"""How agents are laid out in Chroma's records, and what is asked of two collections."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import numpy as np

from moma_core.protocols import AgentRecord, Version
from moma_core.registry.record_json import to_plain
from moma_core.registry.versions import numbered
from moma_core.types import FloatArray

__all__ = ["TRIES", "Head", "Row", "Store", "digest", "next_rows"]

Result = TypeVar("Result")

TRIES = 8
"""How often something is tried that another process may be quicker with."""
_PAGE = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """The newest record of a name, without its content, and the ids of the older ones."""

    name: str
    version: Version
    token: str
    line: str
    gone: bool
    ids: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A record to add.

    Args:
        name: Of the agent.
        version: What it becomes.
        token: By which its writer knows it again.
        line: Tokens of the versions it builds on, newest first.
        vector: For Chroma's index, shape (d,).
        payload: Card and vectors as JSON; empty where the name is forgotten.
        enabled: Of the card.
    """

    name: str
    version: Version
    token: str
    line: str
    vector: FloatArray
    payload: str = ""
    enabled: bool = True

    @staticmethod
    def gone_after(head: Head, dimension: int) -> Row:
        """Return the record that says that a name is forgotten."""
        version = numbered(head.version.number + 1, head.version.born)
        vector = np.full(dimension, dimension**-0.5, dtype=np.float32)
        return Row(head.name, version, uuid.uuid4().hex, _line(head), vector)

    @property
    def id(self) -> str:
        """What two writers of the same version both call it: of them Chroma keeps the first."""
        return f"{self.version.number}#{self.name}"

    def chroma(self) -> dict[str, Any]:
        """Return what Chroma is given."""
        meta = {
            "agent": self.name,
            **dataclasses.asdict(self.version),
            "token": self.token,
            "line": self.line,
            "gone": not self.payload,
            "digest": digest(self.payload),
        }
        return {"id": self.id, "embedding": self.vector, "metadata": meta, "uri": self.payload}


def next_rows(records: Sequence[AgentRecord], heads: Mapping[str, Head]) -> list[Row]:
    """Return the records that follow the newest ones of their names.

    Args:
        records: What is to be written; of a name given twice, the last counts.
        heads: The newest record of each name that is there.
    """
    rows, start = {}, time.time_ns()
    for i, record in enumerate(records):
        head, card = heads.get(record.card.name), record.card
        number = head.version.number if head else 0
        born = head.version.born if head and not head.gone else start + i
        rows[card.name] = Row(
            card.name,
            numbered(number + 1, born),
            uuid.uuid4().hex,
            _line(head) if head else "",
            record.description_vector,
            json.dumps({**to_plain(record), "version": None}),
            card.enabled,
        )
    return list(rows.values())


def _line(head: Head) -> str:
    return " ".join([head.token, *head.line.split()][:TRIES])


def digest(payload: str) -> str:
    """Return a short hash, by which damage is found."""
    return hashlib.blake2b(payload.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class Store:
    """The two collections of one session, and what is read from and written to them."""

    def __init__(self, client: Any, names: tuple[str, str], place: Any) -> None:
        self._client, self._names, self._place = client, names, place
        self._cards: Any = None
        self._switches: Any = None

    def open(self, fingerprint: str, *, make: bool) -> str:
        """Return the encoder that the cards were written with; make the collections if absent."""

        def found(name: str) -> Any:
            try:
                return self._client.get_collection(name, embedding_function=None)
            except Exception as error:
                if type(error).__name__ != "NotFoundError":  # Chroma is known to another file
                    raise
                if not make:
                    raise self._place.gone() from None
            return self._client.get_or_create_collection(
                name,
                configuration={"hnsw": {"space": "cosine"}},
                metadata={"encoder": fingerprint},
                embedding_function=None,
            )

        self._cards, self._switches = (
            self._read(functools.partial(found, name)) for name in self._names
        )
        return str((self._cards.metadata or {}).get("encoder"))

    @functools.cached_property
    def _rows(self) -> int:
        """How many records go into one request."""
        return max(1, min(_PAGE, int(self._read(self._client.get_max_batch_size))))

    @property
    def stamp(self) -> str:
        """What the collection says of its last change."""
        return str((self._cards.metadata or {}).get("changed", ""))

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Let other processes see that the body changes something."""
        if self._place.restamp():
            yield
            return
        yield
        metadata = {**(self._cards.metadata or {}), "changed": uuid.uuid4().hex}
        self._read(lambda: self._cards.modify(metadata=metadata))

    def heads(self, names: Sequence[str]) -> dict[str, Head]:
        """Return the newest record of each of these names that is there."""
        by_name: dict[str, list[tuple[int, str, Mapping[str, Any]]]] = {}
        for start in range(0, len(names), _PAGE):
            where = {"agent": {"$in": list(names[start : start + _PAGE])}}
            page = self._get(self._cards, where=where)
            for key, meta in zip(page["ids"], page["metadatas"], strict=True):
                with suppress(ValueError):  # a damaged id: load tells of it
                    entry = (int(key.partition("#")[0]), key, meta)
                    by_name.setdefault(str(meta["agent"]), []).append(entry)
        heads = {}
        for name, entries in by_name.items():
            entries.sort(key=lambda entry: entry[0])
            number, _, meta = entries[-1]
            heads[name] = Head(
                name,
                Version(
                    number,
                    int(meta.get("born", 0)),
                    str(meta.get("by", "?")),
                    float(meta.get("at", 0.0)),
                ),
                str(meta.get("token", "")),
                str(meta.get("line", "")),
                bool(meta.get("gone", False)),
                tuple(key for _, key, _ in entries),
            )
        return heads

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add records; of one whose id is there already, Chroma keeps the older."""
        for chunk in _chunks(rows, self._rows):
            self._read(
                functools.partial(
                    self._cards.add,
                    ids=[row["id"] for row in chunk],
                    embeddings=np.stack([row["embedding"] for row in chunk]),
                    metadatas=[row["metadata"] for row in chunk],
                    uris=[row["uri"] for row in chunk],
                )
            )

    def lost(self, rows: Sequence[Row]) -> dict[str, Head]:
        """Return the names of which another process wrote the version, with what it wrote."""
        if self._place.exclusive:
            return {}
        heads = self.heads([row.name for row in rows])
        lost = {}
        for row in rows:
            head = heads.get(row.name)
            if head is None or row.token not in (head.token, *head.line.split()):
                lost[row.name] = head or Head(row.name, Version(), "", "", gone=True, ids=())
        return lost

    def forget_older(self, rows: Sequence[Row], heads: Mapping[str, Head]) -> None:
        """Delete the records that these rows replaced; if this fails, the next change does it."""
        older = [key for row in rows if row.name in heads for key in heads[row.name].ids]
        with suppress(Exception):
            self.delete(older)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the records of these ids."""
        for start in range(0, len(keys), self._rows):
            self._cards.delete(ids=list(keys[start : start + self._rows]))

    def forget_tombstones(self, before: float) -> None:
        """Delete the records of names that were forgotten long ago."""
        with suppress(Exception):
            self._cards.delete(where={"$and": [{"gone": True}, {"at": {"$lt": before}}]})

    def announce(self, heads: Sequence[Head], *, enabled: bool) -> None:
        """Tell those who do not wait for a directory's lock; its stamp is to change afterwards."""
        if self._place.exclusive:
            known = self._place.switches()
            fresh = {(head.name, head.version.born): enabled for head in heads}
            self._place.announce({**(self.switches() if known is None else known), **fresh})

    def switch(self, heads: Sequence[Head], *, enabled: bool) -> None:
        """Write whether these agents are enabled."""
        for chunk in _chunks(heads, self._rows):
            self._read(
                functools.partial(
                    self._switches.upsert,
                    ids=[f"{head.version.born}#{head.name}" for head in chunk],
                    embeddings=np.ones((len(chunk), 1), np.float32),
                    metadatas=[
                        {"agent": head.name, "born": head.version.born, "enabled": enabled}
                        for head in chunk
                    ],
                )
            )

    def forget_switches(self, rows: Sequence[Row]) -> None:
        """Delete the switches of agents that are forgotten."""
        keys = [f"{row.version.born}#{row.name}" for row in rows]
        with suppress(Exception):
            for start in range(0, len(keys), self._rows):
                self._switches.delete(ids=keys[start : start + self._rows])
            known = self._place.switches()
            if known:
                gone = {(row.name, row.version.born) for row in rows}
                self._place.announce({key: on for key, on in known.items() if key not in gone})

    def switches(self, names: Sequence[str] | None = None) -> dict[tuple[str, int], bool]:
        """Return what was switched, of these names or of all, by name and birth."""
        announced = self._place.switches() or {}
        pages = [self._get(self._switches)] if names is None else [
            self._get(self._switches, where={"agent": {"$in": list(names[i : i + _PAGE])}})
            for i in range(0, len(names), _PAGE)
        ]  # fmt: skip
        return {
            (meta["agent"], int(meta["born"])): bool(meta["enabled"])
            for page in pages
            for meta in page["metadatas"]
        } | announced

    def newest(self) -> list[dict[str, Any]]:
        """Return the newest record of every name with its content, of none that is forgotten."""
        newest: dict[str, tuple[int, str]] = {}
        for key in self._read(lambda: self._cards.get(include=[])["ids"]):
            number, mark, name = key.partition("#")
            if not (mark and number.isdecimal()):
                name, number = key, "0"  # damaged: kept, so that load tells of it
            newest[name] = max(newest.get(name, (-1, "")), (int(number), key))
        rows, moved = self.rows_of([key for _, key in newest.values()])
        for _ in range(TRIES):
            if not moved:
                break
            keys = [
                head.ids[-1] for head in self.heads([k.partition("#")[2] for k in moved]).values()
            ]
            again, moved = self.rows_of(keys)
            rows += again
        return [row for row in rows if not row["meta"].get("gone")]

    def rows_of(self, keys: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the records of these ids, and the ids that are there no longer."""
        rows = []
        for start in range(0, len(keys), _PAGE):
            page = self._get(
                self._cards, ids=list(keys[start : start + _PAGE]), include=["metadatas", "uris"]
            )
            rows += [
                {"id": key, "meta": meta or {}, "payload": uri or ""}
                for key, meta, uri in zip(page["ids"], page["metadatas"], page["uris"], strict=True)
            ]
        found = {row["id"] for row in rows}
        return rows, [key for key in keys if key not in found]

    def _get(self, collection: Any, **asked: Any) -> Any:
        return self._read(lambda: collection.get(**{"include": ["metadatas"], **asked}))

    def _read(self, ask: Callable[[], Result]) -> Result:
        """Ask, and again where the connection broke; what is asked here may be asked twice."""
        answer: Result = self._place.again(ask)
        return answer


def _chunks(rows: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    """Cut rows into requests of at most ``most`` rows and some megabytes."""
    chunk: list[Any] = []
    size = 0
    for row in rows:
        length = len(row["uri"]) if isinstance(row, Mapping) else 0
        if chunk and (len(chunk) == most or size + length > _MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += length
    if chunk:
        yield chunk


_MAX_BYTES = 8_000_000
