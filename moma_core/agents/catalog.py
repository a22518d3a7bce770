"""The catalog: the agents a user registered, validated and encoded once, on disk and in memory."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core._checks import readable
from moma_core.errors import (
    DuplicateNameError,
    InvalidCardError,
    InvalidInputError,
    ScoreError,
    UnknownNameError,
)
from moma_core.protocols import AgentRecord, Encoder, Registry
from moma_core.types import AgentCard, FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "AgentCatalog",
    "Snapshot",
    "card_text",
    "sentence",
    "views",
]

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
    probabilities = {sentence(card): _WHOLE}
    for text in (readable(card.name), card.description):
        if text:
            probabilities[text] = probabilities.get(text, 0.0) + _PART
    return probabilities


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All agents at one moment, with their vectors as matrices; never changes.

    Args:
        records: In the order of registration.
        dimension: Length d of a vector.
    """

    records: tuple[AgentRecord, ...] = ()
    dimension: int = 0

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all agents, enabled or not."""
        return tuple(record.card.name for record in self.records)

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Row of each name."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def enabled(self) -> npt.NDArray[np.bool_]:
        """Whether each agent may be chosen, shape (n,)."""
        return np.array([record.card.enabled for record in self.records], dtype=bool)

    @cached_property
    def descriptions(self) -> FloatArray:
        """Description vectors, shape (n, d)."""
        rows = [record.description_vector for record in self.records]
        return np.array(rows, dtype=np.float32).reshape(len(rows), self.dimension)

    @cached_property
    def n_examples(self) -> npt.NDArray[np.intp]:
        """How many examples each agent has, shape (n,)."""
        return np.array([len(record.card.examples) for record in self.records], dtype=np.intp)

    @cached_property
    def names_only(self) -> bool:
        """Whether no card says more than its name: its description is the name, no examples."""
        cards = (record.card for record in self.records)
        return all(not c.examples and c.description in (c.name, readable(c.name)) for c in cards)

    def members(self, categories: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Return which agents belong to any of these categories, shape (n,)."""
        wanted = set(categories)
        return np.array([bool(wanted.intersection(r.card.categories)) for r in self.records], bool)


class AgentCatalog:
    """Registers agents; every change takes effect on the next route and survives a restart.

    Args:
        encoder: Encodes descriptions and examples, once each.
        registry: Where records are kept; what it holds already is loaded.

    Example:
        >>> from moma_core.testing import HashEncoder
        >>> from moma_core.registry.memory import MemoryRegistry
        >>> catalog = AgentCatalog(HashEncoder(), MemoryRegistry())
        >>> catalog.add(AgentCard("weather", "Forecast for a place"))
        >>> catalog.names
        ('weather',)
    """

    def __init__(self, encoder: Encoder, registry: Registry) -> None:
        self._encoder = encoder
        self._registry = registry
        self._lock = threading.RLock()
        self._reserved: frozenset[str] = frozenset()
        self._snapshot = Snapshot(tuple(registry.load()), encoder.dimension)

    @property
    def snapshot(self) -> Snapshot:
        """The agents as they are now."""
        return self._snapshot

    @property
    def encoder(self) -> Encoder:
        """What encodes descriptions and examples."""
        return self._encoder

    @property
    def registry(self) -> Registry:
        """Where the records are kept."""
        return self._registry

    def refresh(self) -> None:
        """Read the registry again, to see what other processes changed.

        Raises:
            RegistryError: It cannot be read; the agents stay as they were.
        """
        with self._lock:
            self._snapshot = Snapshot(tuple(self._registry.load()), self._encoder.dimension)

    def reserve(self, names: Iterable[str]) -> None:
        """Refuse these names to agents from now on; LLMs have them.

        Raises:
            DuplicateNameError: An agent has one of them already.
        """
        self._reserved = frozenset(names)
        self._refuse_reserved(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all agents, enabled or not, in the order of registration."""
        return self._snapshot.names

    def __len__(self) -> int:
        return len(self._snapshot.records)

    def __iter__(self) -> Iterator[AgentCard]:
        return iter([record.card for record in self._snapshot.records])

    def __contains__(self, name: object) -> bool:
        return name in self._snapshot.position

    def get(self, name: str) -> AgentCard:
        """Return the card of ``name``.

        Raises:
            InvalidInputError: The name is no text.
            UnknownNameError: Nobody registered it.
        """
        return self._record(name).card

    def add(self, *cards: AgentCard) -> None:
        """Register new agents, all of them or none.

        Raises:
            DuplicateNameError: A name is taken, or given twice.
            RegistryError: The store cannot write; nothing changed.
        """
        with self._lock:
            seen = set(self.names)
            for card in _checked(cards):
                if card.name in seen:
                    raise DuplicateNameError(
                        f"an agent named {card.name!r} exists already. Choose another name, or "
                        "change it with agents.update(card)."
                    )
                seen.add(card.name)
            self._store(self._encoded(cards))

    def update(self, *cards: AgentCard) -> None:
        """Replace agents by new cards of the same names.

        Raises:
            UnknownNameError: A name is not registered.
            RegistryError: The store cannot write; nothing changed.
        """
        with self._lock:
            for card in _checked(cards):
                self._record(card.name)
            self._store(self._encoded(cards))

    def put(self, *cards: AgentCard) -> None:
        """Register new agents and bring known ones up to date; equal cards are left alone.

        Raises:
            DuplicateNameError: Two cards share a name.
            RegistryError: The store cannot write; nothing changed.
        """
        with self._lock:
            names = [card.name for card in _checked(cards)]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise DuplicateNameError(f"two cards are named {twice!r}; give one another name.")
            known = self._snapshot.position
            changed = [c for c in cards if c.name not in known or self.get(c.name) != c]
            self._store(self._encoded(changed))

    def remove(self, *names: str) -> None:
        """Forget agents.

        Raises:
            InvalidInputError: A name is no text, but a list, say.
            UnknownNameError: A name is not registered.
            RegistryError: The store cannot write; nothing changed.
        """
        with self._lock:
            for name in names:
                self._record(name)
            self._registry.delete(names)
            kept = tuple(r for r in self._snapshot.records if r.card.name not in names)
            self._snapshot = Snapshot(kept, self._encoder.dimension)

    def enable(self, *names: str) -> None:
        """Let agents be chosen again. Raises UnknownNameError for a name not registered."""
        self._switch(names, enabled=True)

    def disable(self, *names: str) -> None:
        """Keep agents registered, but never choose them. Raises UnknownNameError likewise."""
        self._switch(names, enabled=False)

    def _switch(self, names: Sequence[str], *, enabled: bool) -> None:
        with self._lock:
            records = [self._record(name) for name in names]
            self._store(
                dataclasses.replace(r, card=dataclasses.replace(r.card, enabled=enabled))
                for r in records
                if r.card.enabled != enabled
            )

    def _record(self, name: str) -> AgentRecord:
        if not isinstance(name, str):
            raise InvalidInputError(
                f"agents go by their names, got {type(name).__name__} {str(name)[:40]!r}. "
                "Write agents.remove('weather', 'news'); unpack lists with *."
            )
        position = self._snapshot.position.get(name)
        if position is None:
            raise UnknownNameError(
                f"no agent is named {name!r}; registered are {_some(self.names)}. "
                "Add it with agents.add(AgentCard(...))."
            )
        return self._snapshot.records[position]

    def _store(self, records: Iterable[AgentRecord]) -> None:
        changed = {record.card.name: record for record in records}
        self._refuse_reserved(changed)
        if not changed:
            return
        self._registry.put(list(changed.values()))
        kept = [changed.pop(r.card.name, r) for r in self._snapshot.records]
        self._snapshot = Snapshot((*kept, *changed.values()), self._encoder.dimension)

    def _refuse_reserved(self, names: Iterable[str]) -> None:
        taken = sorted(self._reserved.intersection(names))
        if taken:
            raise DuplicateNameError(
                f"{taken[0]!r} is the name of an LLM, so a decision for it would be ambiguous. "
                "Choose another name for the agent."
            )

    def _encoded(self, cards: Sequence[AgentCard]) -> list[AgentRecord]:
        parts = [views(card) for card in cards]
        texts = [text for part in parts for text in part]
        start = len(texts)
        texts += [example for card in cards for example in card.examples]
        vectors = self._encoder.encode(texts)
        if vectors.shape != (len(texts), self._encoder.dimension) or not np.isfinite(vectors).all():
            raise ScoreError(
                f"the encoder gave vectors of shape {vectors.shape}, some perhaps not finite; "
                f"expected {(len(texts), self._encoder.dimension)}. Check the encoder."
            )
        records, row = [], 0
        for card, part in zip(cards, parts, strict=True):
            probabilities = np.array(list(part.values()), dtype=np.float32)
            total = probabilities @ vectors[row : row + probabilities.size]
            unit = total / max(float(np.linalg.norm(total)), 1e-12)
            end = start + len(card.examples)
            records.append(AgentRecord(card, unit, vectors[start:end]))
            row, start = row + probabilities.size, end
        return records


def _checked(cards: Sequence[Any]) -> Sequence[AgentCard]:
    for card in cards:
        if not isinstance(card, AgentCard):
            raise InvalidCardError(
                f"expected AgentCard objects, got {type(card).__name__}. "
                "Write agents.add(AgentCard(name, description)); unpack lists with *."
            )
    return cards


def _some(names: Sequence[str]) -> str:
    if not names:
        return "none yet"
    shown = ", ".join(repr(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
