"""The catalog: the agents a user registered, validated and encoded once, on disk and in memory."""

from __future__ import annotations

import dataclasses
import logging
import math
import operator
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core._checks import did_you_mean, is_finite, readable
from moma_core._html import html_table
from moma_core.agents.watch import Watch
from moma_core.errors import (
    ConflictError,
    DuplicateNameError,
    InvalidCardError,
    InvalidInputError,
    ScoreError,
    UnknownNameError,
)
from moma_core.locks import Lock
from moma_core.protocols import AgentRecord, Encoder, Registry, Switches, Version
from moma_core.registry.versions import conflict
from moma_core.telemetry import Counts
from moma_core.types import AgentCard, FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "AgentCatalog",
    "Changes",
    "Snapshot",
    "card_text",
    "says_only_its_name",
    "sentence",
    "views",
]

# Shares of a card's vector; by MetaTool's and Seal-Tools' train and val rows (benchmarks/LOG.md).
_WHOLE, _PART = 1.0, 0.5


def says_only_its_name(card: AgentCard) -> bool:
    """Say whether a card's description is its name, and no examples tell more."""
    return not card.examples and card.description in (card.name, readable(card.name))


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
    def everybody(self) -> npt.NDArray[np.intp]:
        """The rows of all agents, shape (n,)."""
        return np.arange(len(self.records))

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
        return all(says_only_its_name(record.card) for record in self.records)

    def members(self, categories: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Return which agents belong to any of these categories, shape (n,)."""
        wanted = set(categories)
        return np.array([bool(wanted.intersection(r.card.categories)) for r in self.records], bool)

    def switched(self, switches: Switches) -> Snapshot:
        """Return the snapshot with these agents on or off: this very one, where they are so."""
        records = list(self.records)
        for (name, born), enabled in switches.items():
            record = records[self.position[name]] if name in self.position else None
            if record is not None and _born(record) == born and record.card.enabled != enabled:
                card = dataclasses.replace(record.card, enabled=enabled)
                records[self.position[name]] = dataclasses.replace(record, card=card)
        return self.with_records(records)

    def with_records(self, records: Iterable[AgentRecord]) -> Snapshot:
        """Return the snapshot of these records: this very one, where none is different."""
        known = {record.card.name: record for record in self.records}
        fresh = []
        for record in records:
            old = known.get(record.card.name)
            fresh.append(old if old is not None and _same(old, record) else record)
        if len(fresh) == len(self.records) and all(map(operator.is_, fresh, self.records)):
            return self
        return Snapshot(tuple(fresh), self.dimension)


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of agents that are new, gone, or changed; false where there are none.

    Example:
        >>> bool(Changes()), bool(Changes(added=("weather",)))
        (False, True)
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    @classmethod
    def between(cls, before: Sequence[AgentRecord], after: Sequence[AgentRecord]) -> Changes:
        """Return what is different after."""
        old = {record.card.name: record for record in before}
        new = {record.card.name: record for record in after}
        return cls(
            tuple(name for name in new if name not in old),
            tuple(name for name in old if name not in new),
            tuple(name for name in new if name in old and not _same(new[name], old[name])),
        )


def _same(one: AgentRecord, other: AgentRecord) -> bool:
    return one.version == other.version and one.card == other.card


logger = logging.getLogger(__name__)

_TRIES = 8
_SHOWN = 100  # agents in a notebook's table


class AgentCatalog:
    """Registers agents; every change takes effect on the next route and survives a restart.

    What other processes change is seen by itself: a thread asks the registry every second whether
    anything is new, from the first route on. A route waits for it only where the last answer is
    older than twice that: then it asks itself who is on or off, and waits `refresh_every` at most.

    Args:
        encoder: Encodes descriptions and examples, once each.
        registry: Where records are kept; what it holds already is loaded.
        refresh_every: Mean seconds between looks for changes of other processes; what another
            process disabled more than twice that before is not chosen, as long as the registry
            answers. None: only `refresh` looks.

    Example:
        >>> from moma_core.testing import HashEncoder
        >>> from moma_core.registry.memory import MemoryRegistry
        >>> catalog = AgentCatalog(HashEncoder(), MemoryRegistry())
        >>> catalog.add(AgentCard("weather", "Forecast for a place"))
        >>> catalog.names, "weather" in catalog, catalog["weather"].description
        (('weather',), True, 'Forecast for a place')
    """

    def __init__(
        self, encoder: Encoder, registry: Registry, refresh_every: float | None = 1.0
    ) -> None:
        if refresh_every is not None and not (is_finite(refresh_every) and refresh_every > 0):
            raise InvalidInputError(
                f"refresh_every is seconds, more than 0, or None, got {refresh_every!r:.40}."
            )
        self._encoder = encoder
        self._registry = registry
        self._refresh_every = refresh_every
        self._lock = Lock()  # of the snapshot; never held while the registry is asked
        self._changes = 0
        self._answers, self._failing = True, False  # who is on or off; what else there is
        self.counts = Counts("registry")
        self._told: tuple[Callable[[Changes], None], ...] = ()
        self._reserved: frozenset[str] = frozenset()
        began, self._stamp = time.monotonic(), self._stamp_now()
        self._switched: str | None = self._stamp  # when it was last read who is on or off
        self._known = Snapshot(tuple(registry.load()), encoder.dimension), began
        self._watch = self._new_watch()

    def _new_watch(self) -> Watch | None:
        if self._refresh_every is None or not hasattr(self._registry, "stamp"):
            return None
        return Watch(self, AgentCatalog._look, self._refresh_every)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_watch": None, "_told": ()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._known = self._snapshot, -math.inf  # another machine has another clock
        self._watch = self._new_watch()

    @property
    def snapshot(self) -> Snapshot:
        """The agents as they are now, on or off as the registry said within `refresh_every` * 2."""
        snapshot, asked = self._known
        watch, every = self._watch, self._refresh_every
        if watch is None or every is None:
            return snapshot
        watch.ensure()
        while time.monotonic() - asked > 2 * every and self._answers and not watch.stopped:
            self._look_in_time(every)
            snapshot, asked = self._known
        return snapshot

    def _look_in_time(self, patience: float) -> None:
        """Ask who is on or off; a store that says nothing in so many seconds does not answer."""
        look = partial(self._look, only_switches=True)
        thread = threading.Thread(target=look, name="moma-look", daemon=True)
        thread.start()
        thread.join(patience)
        if thread.is_alive():
            self._answers = False

    @property
    def _snapshot(self) -> Snapshot:
        return self._known[0]

    @property
    def encoder(self) -> Encoder:
        """What encodes descriptions and examples."""
        return self._encoder

    @property
    def registry(self) -> Registry:
        """Where the records are kept."""
        return self._registry

    def refresh(self) -> Changes:
        """Read the registry again, and return what other processes changed.

        Raises:
            RegistryError: It cannot be read; the agents stay as they were.
        """
        for left in reversed(range(_TRIES)):
            began, changes, stamp = time.monotonic(), self._changes, self._stamp_now()
            loaded = self._registry.load()
            with self._lock:
                quiet = changes == self._changes  # else this process changed something
                if not quiet and left:
                    continue
                before, after = self._snapshot, self._snapshot.with_records(loaded)
                self._stamp, self._switched = (stamp, stamp) if quiet else ("", None)
                self._known = after, began if quiet else -math.inf
                break
        return self._tell(before, after)

    def _tell(self, before: Snapshot, after: Snapshot) -> Changes:
        """Say what others changed to whoever asked to be told, and return it."""
        found = Changes.between(before.records, after.records)
        if found:
            self.counts.add("changed by others")
        for tell in self._told if found else ():
            try:
                tell(found)
            except Exception:
                logger.exception("%r failed on %s", tell, found)
        return found

    def on_change(self, tell: Callable[[Changes], None]) -> None:
        """Call a function with what other processes changed, whenever it has been read.

        Copies and pickled catalogs call nobody.

        Raises:
            InvalidInputError: It is no function.
        """
        if not callable(tell):
            raise InvalidInputError(
                f"on_change takes a function of the changes, got {tell!r:.40}. Write "
                "agents.on_change(lambda changes: print(changes.removed))."
            )
        self._told = (*self._told, tell)

    def close(self) -> None:
        """Look for changes no more, and let go of what the registry holds open."""
        if self._watch is not None:
            self._watch.stop(patience=1.0)
        close = getattr(self._registry, "close", None)
        if close is not None:
            close()

    def _stamp_now(self) -> str:
        stamp = getattr(self._registry, "stamp", None)
        return "" if stamp is None else str(stamp())

    def _look(self, *, only_switches: bool = False) -> None:
        """Read the registry if it has another stamp; a store that fails is told of once."""
        answers = False
        try:
            stamp = self._ask_who_is_on()
            answers = self._answers = True
            if only_switches:
                return
            if stamp != self._stamp:
                self.refresh()
            self._failing = False
        except Exception as error:  # noqa: BLE001 - the agents stay; the next look may do better
            self._answers = answers
            self.counts.add("unreadable")
            if not self._failing:
                logger.warning("the agents cannot be read again, those known stay: %s", error)
            self._failing = True

    def _ask_who_is_on(self) -> str:
        """Ask the registry who is on or off, if it has another stamp, and return the stamp.

        Nothing is taken where this process or another thread was quicker: the time of the last
        answer tells. ``_known`` is never older than the time beside it, nor than ``_switched``.
        """
        began, changes, known = time.monotonic(), self._changes, self._switched
        stamp = self._stamp_now()
        switches: Switches = {}
        if stamp != known:
            if not hasattr(self._registry, "switches"):
                self.refresh()
                return stamp
            switches = self._registry.switches()
        with self._lock:
            if changes != self._changes or known != self._switched:
                return stamp
            before = self._snapshot
            self._switched, self._known = stamp, (before.switched(switches), began)
            after = self._snapshot
        if after is not before:
            self._tell(before, after)
        return stamp

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

    def __getitem__(self, name: str) -> AgentCard:
        return self._record(name).card

    def __repr__(self) -> str:
        return f"<AgentCatalog of {len(self)} agents: {_some(self.names)}>"

    def _repr_html_(self) -> str:
        rows = [
            (card.name, "yes" if card.enabled else "no", len(card.examples), card.description[:200])
            for card in list(self)[:_SHOWN]
        ]
        left = f", the first {_SHOWN}" if len(self) > _SHOWN else ""
        head = ["agent", "enabled", "examples", "description"]
        return html_table(f"{len(self)} agents{left}", head, rows)

    def get(self, name: str) -> AgentCard:
        """Return the card of ``name``, as ``agents[name]`` does.

        Raises:
            InvalidInputError: The name is no text.
            UnknownNameError: Nobody registered it.
        """
        return self._record(name).card

    def add(self, *cards: AgentCard) -> None:
        """Register new agents, all of them or none.

        Raises:
            DuplicateNameError: A name is taken, or given twice.
            ConflictError: Another process registered another agent of that name meanwhile.
            RegistryError: The store cannot write; nothing changed.
        """
        seen = set(self.names)
        for card in _checked(cards):
            if card.name in seen:
                raise _taken(card.name)
            seen.add(card.name)
        self._store(cards, {})

    def update(self, *cards: AgentCard) -> None:
        """Replace agents by new cards of the same names.

        What another process changed meanwhile is kept where these cards say nothing new.

        Raises:
            UnknownNameError: A name is not registered.
            ConflictError: Another process changed the same field of an agent first.
            RegistryError: The store cannot write; nothing changed.
        """
        based = {card.name: self._record(card.name) for card in _checked(cards)}
        self._store(cards, based)
        for enabled in (True, False):
            turned = [c.name for c in cards if c.enabled == enabled != based[c.name].card.enabled]
            self._switch(turned, enabled=enabled)

    def put(self, *cards: AgentCard) -> None:
        """Register new agents and bring known ones up to date; equal cards are left alone.

        Whether a known agent is enabled stays as `enable` and `disable` left it.

        Raises:
            DuplicateNameError: Two cards share a name.
            ConflictError: Another process changed the same field of an agent first.
            RegistryError: The store cannot write; nothing changed.
        """
        names = [card.name for card in _checked(cards)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DuplicateNameError(f"two cards are named {twice!r}; give one another name.")
        snapshot = self._snapshot
        based = {n: snapshot.records[snapshot.position[n]] for n in names if n in snapshot.position}
        self._store(
            [c for c in cards if c.name not in based or not _alike(c, based[c.name].card)], based
        )

    def remove(self, *names: str) -> None:
        """Forget agents.

        Raises:
            InvalidInputError: A name is no text, but a list, say.
            UnknownNameError: A name is not registered.
            RegistryError: The store cannot write; nothing changed.
        """
        known = {name: self._record(name) for name in names}
        self._registry.delete(list(known))
        self.counts.add("removed", len(known))
        with self._lock:
            kept = tuple(
                record
                for record in self._snapshot.records
                if record.card.name not in known
                or _born(record) != _born(known[record.card.name])  # registered anew meanwhile
            )
            self._take(kept)

    def enable(self, *names: str) -> None:
        """Let agents be chosen again. Raises UnknownNameError for a name not registered."""
        self._switch(names, enabled=True)

    def disable(self, *names: str) -> None:
        """Keep agents registered, but never choose them. Raises UnknownNameError likewise."""
        self._switch(names, enabled=False)

    def _switch(self, names: Sequence[str], *, enabled: bool) -> None:
        for name in names:
            self._record(name)
        if not names:
            return
        # Written whatever memory says: another process may have switched it meanwhile.
        self._registry.switch(list(dict.fromkeys(names)), enabled=enabled)
        self.counts.add("enabled" if enabled else "disabled", len(set(names)))
        with self._lock:
            wanted = set(names)
            records = tuple(
                dataclasses.replace(r, card=dataclasses.replace(r.card, enabled=enabled))
                if r.card.name in wanted and r.card.enabled != enabled
                else r
                for r in self._snapshot.records
            )
            self._take(records)

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
                f"{did_you_mean(name, self.names)}Add it with agents.add(AgentCard(...))."
            )
        return self._snapshot.records[position]

    def _store(self, cards: Sequence[AgentCard], based: Mapping[str, AgentRecord]) -> None:
        """Write cards over the records that they are based on, or over none."""
        cards = list({card.name: card for card in cards}.values())
        self._refuse_reserved(card.name for card in cards)
        records = [
            dataclasses.replace(
                record,
                version=based[name].version if (name := record.card.name) in based else Version(),
            )
            for record in self._encoded(cards)
        ] if cards else []  # fmt: skip
        for left in reversed(range(_TRIES)):
            if not records:
                return
            try:
                self._keep(self._registry.put(records) or records)
                self.counts.add("written", len(records))
                return
            except ConflictError:
                self.counts.add("conflict")
                self.refresh()
                if not left:
                    raise
                records = self._rebased(records, based)

    def _rebased(
        self, records: Sequence[AgentRecord], based: Mapping[str, AgentRecord]
    ) -> list[AgentRecord]:
        """Return what is left to write over what other processes wrote meanwhile.

        Raises:
            ConflictError: They changed the same field, removed the agent, or registered another
                of that name.
        """
        now = self._snapshot
        left = []
        for record in records:
            name = record.card.name
            theirs = now.records[now.position[name]] if name in now.position else None
            version = Version() if theirs is None or theirs.version is None else theirs.version
            if record.version == version:
                left.append(record)
                continue
            if theirs is None:
                raise conflict(name, version)
            base = based[name].card if name in based else None
            merged = _merged(base, record.card, theirs.card)
            if merged is None:
                raise conflict(name, version)
            if not _alike(merged, theirs.card):
                [again] = self._encoded([merged])
                left.append(dataclasses.replace(again, version=version))
        return left

    def _keep(self, stored: Sequence[AgentRecord]) -> None:
        """Take what was stored into the snapshot, unless something newer is there already."""
        fresh = {record.card.name: record for record in stored}
        with self._lock:
            kept = [_newer(fresh.pop(r.card.name, r), r) for r in self._snapshot.records]
            self._take((*kept, *fresh.values()))

    def _take(self, records: tuple[AgentRecord, ...]) -> None:
        """Have these records from now on, after a change of our own; under the lock."""
        self._changes += 1
        before, after = getattr(self._registry, "last_change", None) or ("?", "")
        if before == self._stamp:  # nobody else changed anything since: no need to read it again
            self._stamp = after
        asked = self._known[1] if before == self._switched else -math.inf
        self._switched = after if before == self._switched else None
        self._known = Snapshot(records, self._encoder.dimension), asked

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


def _born(record: AgentRecord) -> int:
    return record.version.born if record.version else 0


def _newer(one: AgentRecord, other: AgentRecord) -> AgentRecord:
    if one.version is None or other.version is None:
        return one
    return one if one.version.number >= other.version.number else other


def _alike(one: AgentCard, other: AgentCard) -> bool:
    """Say whether two cards say the same; whether they are enabled belongs to the store."""
    return one == other or dataclasses.replace(one, enabled=other.enabled) == other


def _merged(base: AgentCard | None, mine: AgentCard, theirs: AgentCard) -> AgentCard | None:
    """Return the card with what either side changed, None where both changed the same field."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(AgentCard):
        ours, other = getattr(mine, field.name), getattr(theirs, field.name)
        if field.name == "enabled" or ours == other:
            values[field.name] = other
        elif base is None:
            return None
        elif ours == getattr(base, field.name):
            values[field.name] = other
        elif other == getattr(base, field.name):
            values[field.name] = ours
        else:
            return None
    return AgentCard(**values)


def _taken(name: str) -> DuplicateNameError:
    return DuplicateNameError(
        f"an agent named {name!r} exists already. Choose another name, or change it with "
        "agents.update(card)."
    )


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
