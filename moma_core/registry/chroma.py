"""Agent records in Chroma: embedded in this process, or on a server that many processes share.

Two collections: cards (one record an agent, vector of its description) and examples (one record a
few-shot query). Vectors always come from our encoder; Chroma's own is never loaded. A card's
``revision`` says which examples belong to it, and the card is written after them, so a crash
between the two leaves the old card with its old examples. The only file that imports chromadb.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import chromadb
import numpy as np
from chromadb.api import ClientAPI
from chromadb.config import Settings

from moma_core.errors import ArtifactError, RegistryError
from moma_core.protocols import AgentRecord
from moma_core.types import AgentCard, FloatArray

__all__ = [
    "ChromaRegistry",
]

_AGAIN = 2
_PAGE = 1_000
_READING = threading.Lock()


class ChromaRegistry:
    """Keeps agent records in two Chroma collections.

    ``location`` is the directory or URL it was opened at, if by `open`.

    Args:
        client: A Chroma client; `open` makes one from a path or URL.
        fingerprint: The encoder's; vectors of another encoder are refused.
        dimension: Length d of a vector.
        prefix: First part of the collections' names.

    Raises:
        RegistryError: The store does not answer or cannot be read.
        ArtifactError: The store was written with another encoder.
    """

    def __init__(
        self, client: ClientAPI, fingerprint: str, dimension: int, prefix: str = "moma"
    ) -> None:
        self.location = ""
        self._directory: Path | None = None
        self._dimension = dimension
        self._names = tuple(f"{prefix}_{kind}" for kind in ("agents", "examples"))
        with _as_registry_errors("open"):
            self._batch = client.get_max_batch_size()
            self._cards: Any
            self._examples: Any
            self._cards, self._examples = (
                client.get_or_create_collection(
                    name,
                    configuration={"hnsw": {"space": "cosine"}},
                    metadata={"encoder": fingerprint},
                    embedding_function=None,
                )
                for name in self._names
            )
        written_by = (self._cards.metadata or {}).get("encoder")
        if written_by != fingerprint:
            raise ArtifactError(
                f"these agents were stored with encoder {written_by!r}, this router has "
                f"{fingerprint!r}. Open them with the first, or register the agents in a new place."
            )

    @classmethod
    def open(cls, location: str | Path, fingerprint: str, dimension: int) -> ChromaRegistry:
        """Open a directory (embedded) or a server's URL such as ``http://localhost:8000``.

        Raises:
            RegistryError: The directory cannot be written or the server does not answer.
        """
        settings = _settings()
        url, place, path = urlsplit(str(location)), str(location), None
        with _as_registry_errors("open"):
            if url.scheme in ("http", "https"):
                host, port = url.hostname or "localhost", url.port or 8000
                # Made anew: what is remembered of a URL must hold no user and no password.
                place = f"{url.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
                client = chromadb.HttpClient(
                    host=host,
                    port=port,
                    ssl=url.scheme == "https",
                    settings=settings,
                )
            else:
                # Absolute: Chroma keeps one client a path for the life of the process, and a
                # relative path means another directory after os.chdir.
                path = Path(location).absolute()
                path.mkdir(parents=True, exist_ok=True)
                client = chromadb.PersistentClient(path=str(path), settings=settings)
        registry = cls(client, fingerprint, dimension)
        registry.location = place
        registry._directory = path
        return registry

    def put(self, records: Sequence[AgentRecord]) -> None:
        """Store records, replacing those of the same name; all of a card or nothing of it."""
        if not records:
            return
        revision = uuid.uuid4().hex
        with _as_registry_errors("write"):
            orders = self._orders([record.card.name for record in records])
            examples = [row for record in records for row in _example_rows(record, revision)]
            cards = [_card_row(record, revision, orders[record.card.name]) for record in records]
            self._upsert(self._examples, examples)
            self._upsert(self._cards, cards)
            self._examples.delete(
                where={
                    "$and": [
                        {"agent": {"$in": [record.card.name for record in records]}},
                        {"revision": {"$ne": revision}},
                    ]
                }
            )

    def delete(self, names: Sequence[str]) -> None:
        """Forget these names; unknown ones are ignored."""
        if names:
            with _as_registry_errors("write"):
                self._cards.delete(ids=list(names))
                self._examples.delete(where={"agent": {"$in": list(names)}})

    def load(self) -> Sequence[AgentRecord]:
        """Return every record in the order in which its name was first stored."""
        for _ in range(0 if self._directory is None else _AGAIN):
            with suppress(RegistryError):  # caught in the midst of another process's write
                return self._load()
        return self._load()

    def _load(self) -> list[AgentRecord]:
        with _as_registry_errors("read"), self._as_on_disk() as (stored_cards, stored_examples):
            examples: dict[tuple[str, str], dict[int, FloatArray]] = {}
            for _, _, vector, meta in _pages(stored_examples):
                key = (meta["agent"], meta["revision"])
                examples.setdefault(key, {})[meta["position"]] = vector
            rows = sorted(_pages(stored_cards), key=lambda row: (row[3]["order"], row[0]))
            return [self._record(row, examples) for row in rows]

    @contextmanager
    def _as_on_disk(self) -> Iterator[tuple[Any, Any]]:
        """Cards and examples with what other processes wrote.

        An embedded client keeps vectors in memory: of a record that another process wrote it finds
        none. Chroma holds one client a path, for all that use it, so another spelling of the path
        gives one of our own, to be read from and closed (30 ms).
        """
        if self._directory is None:
            yield self._cards, self._examples
            return
        with _READING:
            afresh = f"{self._directory}{os.sep}{os.curdir}"
            client: Any = chromadb.PersistentClient(path=afresh, settings=_settings())
            try:
                cards, examples = (
                    client.get_collection(name, embedding_function=None) for name in self._names
                )
                yield cards, examples
            finally:
                client.close()

    def _record(
        self,
        row: tuple[str, str, FloatArray, Mapping[str, Any]],
        examples: Mapping[tuple[str, str], Mapping[int, FloatArray]],
    ) -> AgentRecord:
        name, description, vector, meta = row
        fields = json.loads(meta["card"])
        card = AgentCard(name=name, description=description, **fields)
        own = examples.get((name, meta["revision"]), {})
        vectors = [own[position] for position in range(len(card.examples))]
        matrix = np.array(vectors, dtype=np.float32).reshape(len(vectors), self._dimension)
        return AgentRecord(card, vector, matrix)

    def _orders(self, names: Sequence[str]) -> dict[str, int]:
        """Return each name's place: the one it has, or the next free ones."""
        known = self._cards.get(ids=list(names), include=["metadatas"])
        orders = {
            name: int(meta["order"])
            for name, meta in zip(known["ids"], known["metadatas"] or [], strict=True)
        }
        fresh = [name for name in names if name not in orders]
        if fresh:
            taken = [meta["order"] for _, _, _, meta in _pages(self._cards, vectors=False)]
            first = max(taken, default=-1) + 1
            orders.update((name, first + i) for i, name in enumerate(fresh))
        return orders

    def _upsert(self, collection: Any, rows: Sequence[tuple[str, str, FloatArray, Any]]) -> None:
        for start in range(0, len(rows), self._batch):
            ids, documents, vectors, metadatas = zip(
                *rows[start : start + self._batch], strict=True
            )
            collection.upsert(
                ids=list(ids),
                documents=list(documents),
                embeddings=np.stack(vectors),
                metadatas=list(metadatas),
            )


def _settings() -> Settings:
    return Settings(anonymized_telemetry=False)


def _card_row(
    record: AgentRecord, revision: str, order: int
) -> tuple[str, str, FloatArray, dict[str, Any]]:
    card = record.card
    fields = {
        "input_schema": dict(card.input_schema),
        "output_schema": dict(card.output_schema),
        "categories": card.categories,
        "examples": card.examples,
        "enabled": card.enabled,
        "metadata": dict(card.metadata),
    }
    meta = {"card": json.dumps(fields), "revision": revision, "order": order}
    return card.name, card.description, record.description_vector, meta


def _example_rows(
    record: AgentRecord, revision: str
) -> Iterator[tuple[str, str, FloatArray, dict[str, Any]]]:
    name = record.card.name
    for i, (text, vector) in enumerate(
        zip(record.card.examples, record.example_vectors, strict=True)
    ):
        meta = {"agent": name, "position": i, "revision": revision}
        yield f"{revision}:{name}:{i}", text, vector, meta


def _pages(
    collection: Any, *, vectors: bool = True
) -> Iterator[tuple[str, str, FloatArray, dict[str, Any]]]:
    include = ["documents", "metadatas", "embeddings"] if vectors else ["documents", "metadatas"]
    total = collection.count()
    for offset in range(0, total, _PAGE):
        page = collection.get(limit=_PAGE, offset=offset, include=include)
        found = page["embeddings"] if vectors else [np.empty(0, dtype=np.float32)] * _PAGE
        for i, name in enumerate(page["ids"]):
            vector = np.asarray(found[i], dtype=np.float32)
            yield name, page["documents"][i], vector, page["metadatas"][i]


@contextmanager
def _as_registry_errors(verb: str) -> Iterator[None]:
    """Turn whatever Chroma raises into a RegistryError that says what to do."""
    try:
        yield
    except (RegistryError, ArtifactError):
        raise
    except Exception as error:
        raise RegistryError(
            f"Chroma could not {verb} the agents: {type(error).__name__}: {str(error)[:300]}. "
            "Check that the directory is writable and undamaged or the server is running "
            "(chroma run --path DIR); nothing in memory was lost."
        ) from error
    except BaseException as error:
        # Chroma's Rust core raises PanicException, which is no Exception.
        if type(error).__name__ == "PanicException":
            raise RegistryError(
                f"Chroma could not {verb} the agents: {str(error)[:300]}. The directory is "
                "damaged; restore it from a backup or register the agents in a new one."
            ) from error
        raise
