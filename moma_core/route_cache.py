"""The route cache (A.2.4): equal queries, and those that mean the same, are decided once.

First by the words, normalised; then by meaning, where a known query's vector is near enough. Keys
hold all that a decision depends on, so what changed is not served: it is asked for by another key.
`moma_core.router` imports this file only where a cache was asked for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
import unicodedata
import uuid
from collections import OrderedDict
from collections.abc import Callable, Container, Hashable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from moma_core._checks import is_finite
from moma_core.agents.conversation import EncodedTurns, Reading
from moma_core.agents.router import AgentRouter
from moma_core.decision import RoutingDecision, Trace, TraceStep
from moma_core.errors import InvalidInputError, MoMAError, needs_extra
from moma_core.health import Health
from moma_core.llms.router import LLMRouter
from moma_core.locks import Lock
from moma_core.telemetry import Counts
from moma_core.types import FloatArray, Query, RoutingState

__all__ = [
    "NEAR",
    "Asked",
    "RouteCache",
    "Store",
    "normalised",
    "open_cache",
    "pool_fingerprint",
]

NEAR = 0.95
"""Cosine from which two queries mean the same (benchmarks/route_cache.py)."""

_KEPT, _BYTES, _TTL = 10_000, 64 * 2**20, 3_600.0
_COMPARED = 2_048  # known queries that a new one is compared with: more cost more than they save
_SURE = 0.8  # probability of an agent below which other words may tip the decision
_MAX_WORDS = 40  # longer texts are ranked by their sentences, which one vector does not tell
_HEAD = 300  # characters of a topic

_SHORT = {
    "what's": "what is", "whats": "what is", "where's": "where is", "who's": "who is",
    "when's": "when is", "how's": "how is", "it's": "it is", "i'm": "i am", "i'd": "i would",
    "i'll": "i will", "don't": "do not", "can't": "cannot", "pls": "please", "plz": "please",
    "thx": "thanks", "tmrw": "tomorrow", "tmr": "tomorrow",
}  # fmt: skip


def normalised(text: str) -> str:
    """Return a text in one Unicode form, case and spacing, with usual abbreviations written out.

    Example:
        >>> normalised("  What’s the  WEATHER tmrw? pls")
        'what is the weather tmrw? please'
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    return " ".join([_SHORT.get(word, word) for word in text.casefold().split()])


class Asked(NamedTuple):
    """One call of `MoMARouter.route`, and the router's parts at that moment.

    Args:
        query: The query.
        state: Where the conversation stands.
        wish: All else that the caller said, hashable.
        several: Whether the query may be divided.
        agents: Routes to agents.
        llms: Routes to LLMs.
        others: Teams and what learns; None where there are none.
        decide: Decides, with what `read` gave.
    """

    query: Query
    state: RoutingState
    wish: Hashable
    several: bool
    agents: AgentRouter
    llms: LLMRouter | None
    others: tuple[object, object]
    decide: Callable[[EncodedTurns, Trace], RoutingDecision]

    def parts(self) -> tuple[object, ...]:
        """Return all that agents' decisions depend on but health: each is another once changed."""
        return self.agents.parts

    def version(self) -> str:
        """Return a digest of the parts, a new one where some cannot say what they are."""
        return f"{version('moma-router')} {self.agents.fingerprint()}"

    def pool_parts(self) -> tuple[object, ...]:
        """Return what else LLMs' decisions depend on, and no agent's alone."""
        observed = self.llms.usage.observed if self.llms else 0
        return self.llms, observed, *self.others

    def pool_version(self) -> str:
        """Return a digest of these, a new one where some cannot say what they are."""
        pool = "none" if self.llms is None else pool_fingerprint(self.llms)
        return pool if self.others == (None, None) else f"{pool} {uuid.uuid4().hex}"

    def key(self) -> tuple[Hashable, ...]:
        """Return what the caller asked, less capitals and the like where those do not matter."""
        query = self.query
        verbatim = self.several or self.agents.states.states  # parts, patterns: the very letters
        text = query.text if verbatim else normalised(query.text)
        rest = query.history, query.events, query.tokens, self.state, self.wish, self.several
        return text, rest, tuple(sorted(self.agents.health.unhealthy()))

    def read(self, trace: Trace) -> EncodedTurns:
        """Read and encode the query."""
        encoder = self.agents.catalog.encoder
        with trace.timed("encode"):
            return self.agents.states.encode([self.query], encoder, self.state)

    def reading(self) -> Reading:
        """Read the query."""
        return self.agents.states.read(self.query, self.state)

    def knows(self, decision: RoutingDecision) -> bool:
        """Say whether a decision's targets are registered here and may be chosen."""
        llms, catalog = self.llms.names if self.llms else (), self.agents.catalog
        return all(
            name in llms
            if decision.kind_of(name) == "llm"
            else name in catalog and catalog.get(name).enabled
            for name in decision.targets
        )


class Store(Protocol):
    """Keeps bytes for other processes; `RouteCache` handles what its methods raise."""

    def get(self, key: str) -> bytes | None:
        """Return what was set, None where there is nothing (any more)."""

    def set(self, key: str, value: bytes, seconds: float) -> None:
        """Keep a value for so long."""


class _Redis:
    """A Redis server, by its URL."""

    def __init__(self, url: str) -> None:
        self._url, self._process = url, 0
        self._client: Any = None
        self._connected()

    def _connected(self) -> Any:
        if self._process != os.getpid():  # a fork must not share its parent's connection
            with needs_extra("redis"):
                import redis
            try:
                self._client = redis.Redis.from_url(
                    self._url, socket_timeout=0.25, socket_connect_timeout=0.25
                )
            except ValueError as error:
                raise InvalidInputError(_what_caches_are("a URL that Redis cannot read")) from error
            self._process = os.getpid()
        return self._client

    def get(self, key: str) -> bytes | None:
        return cast("bytes | None", self._connected().get(key))

    def set(self, key: str, value: bytes, seconds: float) -> None:
        self._connected().set(key, value, px=max(int(seconds * 1e3), 1))

    def __reduce__(self) -> tuple[type[_Redis], tuple[str]]:
        return _Redis, (self._url,)


_Key = tuple[Hashable, ...]


class _Entry(NamedTuple):
    decision: RoutingDecision  # without its steps
    text: str  # the words that it was made for
    own_topic: bool  # whether its state's topic is these words
    at: float
    size: int
    pool: str | None  # the LLMs that it depends on; None: on none


@dataclass(slots=True)
class _Flight:
    """A decision that a thread is making and others wait for."""

    thread: int = field(default_factory=threading.get_ident)
    done: threading.Event = field(default_factory=threading.Event)
    decision: RoutingDecision | None = None


class RouteCache:
    """Keeps a router's decisions; none is served once anything that it depends on changed.

    An agent's decision depends on agents alone and outlives a change of prices or LLMs; whatever
    changes of the agents, even one that no decision names, may tip any of them.

    Exact hits are of queries with the same words but for case, spaces, Unicode form and usual
    abbreviations; an LLM's expected cost is of the very text, so LLMs' decisions want that. Near
    hits are of first turns that mean the same and that an agent took.

    Args:
        entries: Decisions kept in memory, the least recently used leave first.
        max_bytes: Of memory, about.
        ttl: Seconds that a decision is kept.
        near: Least cosine of queries that mean the same; None: only the words count.
        store: Shares exact hits among processes: a Redis URL, or a `Store`.
        clock: Seconds that never run backwards.

    Raises:
        InvalidInputError: A number is out of bounds.
        MissingExtraError: Redis is wanted and its client is not installed.

    Example:
        >>> from moma_core import AgentCard, MoMARouter
        >>> router = MoMARouter.from_cards(
        ...     [AgentCard("weather", "Weather forecast for a place")], cache=RouteCache(ttl=60)
        ... )
        >>> router.route("will it rain in Oslo?").trace[0].detail
        'not known'
        >>> router.route("Will it  rain in OSLO?").trace[0].detail
        'same words, 0 s old'
    """

    def __init__(
        self,
        entries: int = _KEPT,
        *,
        max_bytes: int = _BYTES,
        ttl: float = _TTL,
        near: float | None = NEAR,
        store: Store | str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("entries", entries), ("max_bytes", max_bytes), ("ttl", ttl)):
            if not is_finite(value) or value <= 0:
                raise InvalidInputError(
                    f"{name} of a route cache is more than 0, got {value!r:.40}."
                )
        if near is not None and not (is_finite(near) and 0.0 < near <= 1.0):
            raise InvalidInputError(
                f"near is a cosine in (0, 1], or None for the words alone, got {near!r:.40}."
            )
        self._settings = {"entries": entries, "max_bytes": max_bytes, "ttl": ttl, "near": near}
        self._entries, self._max_bytes, self._ttl, self._near = entries, max_bytes, ttl, near
        self._store: Store | None = _open_store(store)
        self._store_health = Health(failures=1, cooldown=5.0)
        self._clock, self._lock, self._naming = clock, Lock(), Lock()
        self.counts = Counts("cache")
        self.clear()

    def clear(self) -> None:
        """Forget all decisions in memory, and all counts."""
        with self._lock:
            self._kept: OrderedDict[Hashable, _Entry] = OrderedDict()
            self._bytes = 0
            self._known = _Known(min(self._entries, _COMPARED))
            self._flying: dict[Hashable, _Flight] = {}
            self._versions: dict[str, tuple[tuple[object, ...], str]] = {}
            self.counts.clear()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def used_bytes(self) -> int:
        """How much memory its decisions take, about."""
        return self._bytes

    def __reduce__(self) -> tuple[Any, ...]:  # a copy starts empty
        return _again, ({**self._settings, "store": self._store, "clock": self._clock},)

    def decide(self, asked: Asked) -> RoutingDecision:
        """Return the decision that is kept, or make it: once for all who ask for it at a time."""
        start, before = time.perf_counter(), (asked.parts(), asked.pool_parts())
        key = self._version_of("agents", before[0], asked.version), *asked.key()
        entry = self._get(key, asked)
        if entry is not None:
            return self._served(entry, asked, start)
        pool = self._version_of("pool", before[1], asked.pool_version)
        flown = os.getpid(), key, pool, asked.query.text
        with self._lock:
            flight = self._flying.get(flown)
            leads = flight is None
            if flight is None:
                flight = self._flying[flown] = _Flight()
        if not leads and flight.thread != threading.get_ident():  # else a decider asks its router
            flight.done.wait()
            if flight.decision is not None and asked.others[1] is None:
                self.counts.add("waited")
                return replace(flight.decision, trace=(_step(start, "just made"),))
        try:
            flight.decision = self._made(key, asked, before, pool)
            return flight.decision
        finally:
            if leads:
                with self._lock:
                    self._flying.pop(flown, None)
                flight.done.set()

    def _version_of(self, what: str, parts: tuple[object, ...], version: Callable[[], str]) -> str:
        known = self._versions.get(what)
        if known is None or not _same(known[0], parts):
            with self._naming:
                known = self._versions.get(what)
                if known is None or not _same(known[0], parts):
                    known = self._versions[what] = parts, version()
        return known[1]

    def _made(
        self, key: _Key, asked: Asked, before: tuple[tuple[object, ...], ...], pool: str
    ) -> RoutingDecision:
        """Return a near decision or one made now; keep it unless something changed meanwhile."""
        trace, scope = Trace(), None
        with trace.timed("cache") as detail:
            detail.append("not known")
        turns = asked.read(trace)
        [reading], [vector] = turns.readings, turns.alone
        if self._near is not None and _comparable(asked, reading):
            after = asked.agents.states.next(asked.state, asked.query, vector, reading)
            scope = key[0], key[2:], after.active, after.turns, after.ages
            near = self._near_decision(scope, key, vector, (asked, reading))
            if near is not None:
                return replace(near, trace=(*trace.done()[1:], *near.trace))
        decision = asked.decide(turns, trace)
        self.counts.add("made")
        by_llms = decision.kind != "agent" or bool(decision.parts)
        after_all = asked.parts(), asked.pool_parts() if by_llms else before[1]
        if all(map(_same, before, after_all)) and key[1:] == asked.key():
            self._keep(key, asked, reading, decision, pool if by_llms else None)
            if scope is not None and decision.kind == "agent" and decision.probability >= _SURE:
                with self._lock:
                    self._known.add(scope, key, vector)
        return decision

    def _near_decision(
        self, scope: Hashable, key: _Key, vector: FloatArray, asked: tuple[Asked, Reading]
    ) -> RoutingDecision | None:
        """Return the decision for a query that means the same, and keep it for these words."""
        start = time.perf_counter()
        with self._lock:
            found = self._known.nearest(scope, vector, self._near or 0.0, self._kept)
        entry = None if found is None else self._fresh(found[0])
        if found is None or entry is None:
            return None
        decision = _for_words(entry, asked[1])
        self._put(key, entry._replace(decision=decision, text=asked[0].query.text))
        self.counts.add("near")
        age = f"{self._clock() - entry.at:.0f} s old"
        step = _step(start, f"means {entry.text[:80]!r} ({found[1]:.3f}), {age}")
        return replace(decision, trace=(step,))

    def _keep(
        self,
        key: _Key,
        asked: Asked,
        reading: Reading,
        decision: RoutingDecision,
        pool: str | None,
    ) -> None:
        learns = asked.others[1] is not None  # then LLMs are tried, and chosen otherwise tomorrow
        if learns and any(decision.kind_of(name) != "agent" for name in decision.targets):
            return
        topic = decision.state.topic
        own = bool(topic) and topic == reading.words[:_HEAD]
        plain, text = replace(decision, trace=()), asked.query.text
        entry = _Entry(plain, text, own, self._clock(), _size(plain, text), pool)
        self._put(key, entry)
        if self._store is None:
            return
        kept = {"decision": plain.to_dict(), "text": text, "own": own, "pool": pool}
        document = {**kept, "at": time.time()}
        self._in_store(
            lambda store: store.set(_digest(key), json.dumps(document).encode(), self._ttl)
        )

    def _get(self, key: _Key, asked: Asked) -> _Entry | None:
        """Return an entry for these words, from memory or from the store."""
        entry = self._fresh(key)
        if entry is None and self._store is not None:
            entry = self._shared(key, asked)
        if entry is None or (entry.text != asked.query.text and entry.decision.kind != "agent"):
            return None
        if entry.pool is None:  # no LLM had a say
            return entry
        pool = self._version_of("pool", asked.pool_parts(), asked.pool_version)
        return entry if entry.pool == pool else None

    def _fresh(self, key: Hashable) -> _Entry | None:
        with self._lock:
            entry = self._kept.get(key)
            if entry is None:
                return None
            if self._clock() - entry.at < self._ttl:
                self._kept.move_to_end(key)
                return entry
            self._drop(key)
        return None

    def _put(self, key: Hashable, entry: _Entry) -> None:
        with self._lock:
            if key in self._kept:
                self._drop(key)
            if entry.size > self._max_bytes:
                return
            self._kept[key] = entry
            self._bytes += entry.size
            while len(self._kept) > self._entries or self._bytes > self._max_bytes:
                self._drop(next(iter(self._kept)))

    def _drop(self, key: Hashable) -> None:
        self._bytes -= self._kept.pop(key).size

    def _served(self, entry: _Entry, asked: Asked, start: float) -> RoutingDecision:
        self.counts.add("same words")
        decision = entry.decision
        if entry.own_topic and entry.text != asked.query.text:
            decision = _for_words(entry, asked.reading())
        step = _step(start, f"same words, {self._clock() - entry.at:.0f} s old")
        return replace(decision, trace=(step,))

    def _shared(self, key: _Key, asked: Asked) -> _Entry | None:
        """Return what another process kept, if it can be read and names what is registered here."""
        found = self._in_store(lambda store: store.get(_digest(key)))
        if not found:
            return None
        try:
            document = json.loads(found)
            decision = RoutingDecision.from_dict(document["decision"])
            text, own, pool = str(document["text"]), bool(document["own"]), document["pool"]
            if pool is not None and not isinstance(pool, str):
                raise TypeError(pool)
            age = max(time.time() - float(document["at"]), 0.0)
            if not age < self._ttl or not asked.knows(decision):
                return None
        except (MoMAError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.counts.add("unreadable")
            return None
        entry = _Entry(decision, text, own, self._clock() - age, _size(decision, text), pool)
        self._put(key, entry)
        return entry

    def _in_store(self, ask: Callable[[Store], bytes | None]) -> bytes | None:
        """Ask the store; one that fails is told of once and left alone for a while."""
        if self._store is None or not self._store_health.may_be_asked("store"):
            return None
        try:
            found = ask(self._store)
        except Exception as error:  # noqa: BLE001 - no route fails for want of a cache
            if not self.counts["store failed"]:
                logger.warning(
                    "the route cache's store does not answer (%s); routes are decided without it",
                    type(error).__name__,
                )
            self.counts.add("store failed")
            self._store_health.report_failure("store")
            return None
        self._store_health.report_success("store")
        return found


logger = logging.getLogger(__name__)


class _Known:
    """The vectors of queries that were decided lately, each in the scope in which it was asked."""

    def __init__(self, most: int) -> None:
        self._most, self._next = most, 0
        self._vectors: FloatArray | None = None
        self._scopes = np.zeros(most, dtype=np.int64)
        self._keys: list[tuple[Hashable, Hashable]] = []

    def add(self, scope: Hashable, key: Hashable, vector: FloatArray) -> None:
        if self._vectors is None:
            self._vectors = np.zeros((self._most, vector.size), dtype=np.float32)
        row, self._next = self._next, (self._next + 1) % self._most
        self._vectors[row], self._scopes[row] = vector, hash(scope)
        self._keys[row : row + 1] = [(scope, key)]

    def nearest(
        self, scope: Hashable, vector: FloatArray, least: float, kept: Container[Hashable]
    ) -> tuple[Hashable, float] | None:
        """Return the key of the nearest query asked in this scope and still kept, and its cosine.

        Args:
            scope: What it shares with the query besides the words.
            vector: Of the query, shape (d,).
            least: Least cosine.
            kept: The keys that are kept.
        """
        n = len(self._keys)
        if self._vectors is None or not n:
            return None
        cosines = np.where(self._scopes[:n] == hash(scope), self._vectors[:n] @ vector, -1.0)
        while cosines[row := int(cosines.argmax())] >= least:
            known, key = self._keys[row]
            if known == scope and key in kept:
                return key, float(cosines[row])
            cosines[row] = -1.0
        return None


def open_cache(cache: object) -> RouteCache | None:
    """Return a cache itself, a fresh one for True, a number of entries or a URL; None for none.

    Raises:
        InvalidInputError: It is something else.

    Example:
        >>> open_cache(False), len(open_cache(500))
        (None, 0)
    """
    if cache is None or cache is False:
        return None
    if isinstance(cache, RouteCache):
        return cache
    if cache is True:
        return RouteCache()
    if isinstance(cache, int):
        return RouteCache(cache)
    if isinstance(cache, str):
        return RouteCache(store=cache)
    raise InvalidInputError(_what_caches_are(type(cache).__name__))


_PROBES = ("What is 17 * 23?", "Prove that there are infinitely many primes.", "def f(x): return")


def pool_fingerprint(pool: LLMRouter) -> str:
    """Return a digest of a pool's cards and settings and of what it predicts for made-up queries.

    Example:
        >>> pool = LLMRouter.packaged()
        >>> dearer = pool.reprice(pool.names[0], 90.0, 90.0)
        >>> pool_fingerprint(pool) == pool_fingerprint(LLMRouter.packaged()), (
        ...     pool_fingerprint(pool) == pool_fingerprint(dearer))
        (True, False)
    """
    vectors = np.random.default_rng(0).standard_normal((len(_PROBES), pool.dimension))
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    said = [values.tobytes() for values in pool.predict(_PROBES, unit)]
    settings = pool.best_single, pool.min_gain_per_usd, pool.points, pool.margin
    everything = repr((pool.cards, settings, pool.usage.to_dict(), said))
    return hashlib.blake2b(everything.encode(), digest_size=16).hexdigest()


def _what_caches_are(got: str) -> str:
    return (
        "cache is True, how many decisions to keep, a Redis URL or a RouteCache, got "
        f"{got}. Write cache=True, cache=10_000 or cache='redis://localhost:6379/0'."
    )


def _open_store(store: Store | str | None) -> Store | None:
    if not isinstance(store, str):
        return store
    if not store.startswith(("redis://", "rediss://", "unix://")):
        raise InvalidInputError(_what_caches_are("another text"))  # it may hold a password
    return _Redis(store)


def _again(settings: dict[str, Any]) -> RouteCache:
    return RouteCache(**settings)


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    return len(one) == len(other) and all(
        a is b or (isinstance(a, int) and a == b) for a, b in zip(one, other, strict=True)
    )


def _comparable(asked: Asked, reading: Reading) -> bool:
    """Say whether a turn may be served what was decided for another that means the same."""
    first = asked.state.last_target is None and asked.state.waiting_for is None
    alone = not (reading.follows or reading.cancels or asked.several)
    return first and alone and len(reading.text.split()) < _MAX_WORDS


def _for_words(entry: _Entry, reading: Reading) -> RoutingDecision:
    """Return a kept decision as one for other words: follow-ups lean on these."""
    state = entry.decision.state
    topic = reading.words[:_HEAD] if entry.own_topic else state.topic
    return replace(entry.decision, state=replace(state, topic=topic))


def _step(start: float, detail: str) -> TraceStep:
    return TraceStep("cache", (time.perf_counter() - start) * 1e3, detail)


def _digest(key: Hashable) -> str:
    return f"moma:route:{hashlib.blake2b(repr(key).encode(), digest_size=20).hexdigest()}"


def _size(decision: RoutingDecision, text: str) -> int:
    """Return about how many bytes an entry takes."""
    listed = len(decision.candidates) + len(decision.nearest) + len(decision.parts)
    return 2_400 + 150 * listed + 3 * len(text.encode()) + len(decision.reason)
