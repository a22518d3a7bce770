"""Encoded prompt beginnings: key-value caches, kept within a bound of bytes (MoMA, A.2.4)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from moma_core.errors import InvalidInputError

__all__ = [
    "KvPrefix",
    "PrefixCache",
    "PrefixCounters",
    "causal_lm",
    "check_context",
    "context_of",
    "extend",
    "fresh_cache",
]

_CHUNK = 512  # tokens of one forward while encoding: bounds memory, and a waiting query's wait


@dataclass(frozen=True, slots=True, eq=False)
class KvPrefix:
    """Holds what one LLM computed for a prompt's first tokens, never written to again.

    Args:
        tokens: The p token ids.
        layers: Keys and values of each layer, shapes (1, heads, p, head size).
    """

    tokens: tuple[int, ...]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @classmethod
    def encode(cls, llm: Any, tokens: Sequence[int], after: KvPrefix | None = None) -> KvPrefix:
        """Run an LLM over tokens, a few hundred at a time.

        Args:
            llm: A causal LLM of transformers with full attention in every layer.
            tokens: At least one token id.
            after: What comes before them; the result holds it too.

        Raises:
            InvalidInputError: If there is no token, more than the LLM can read, or a layer has no
                full attention.
        """
        if not len(tokens):
            raise InvalidInputError("expected at least one token to encode as a prefix, got none")
        cache = after.cache(llm) if after else fresh_cache(llm)
        for at in range(0, len(tokens), _CHUNK):
            extend(llm, cache, tokens[at : at + _CHUNK])
        before = after.tokens if after else ()
        grown: list[Any] = cache.layers
        layers = tuple((layer.keys, layer.values) for layer in grown)
        return cls((*before, *(int(token) for token in tokens)), layers)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Memory of the keys and values, in bytes."""
        return sum(part.nbytes for layer in self.layers for part in layer)

    def cache(self, llm: Any) -> DynamicCache:
        """Return a cache that begins with this prefix; growing it leaves the prefix as it is.

        Nothing is copied here: a dynamic layer grows by joining into a new tensor.
        """
        cache = fresh_cache(llm)
        layers: list[Any] = cache.layers
        for layer, (keys, values) in zip(layers, self.layers, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
        return cache


@torch.no_grad()
def extend(llm: Any, cache: DynamicCache, tokens: Sequence[int]) -> None:
    """Feed tokens after those a cache of one row holds."""
    begin = cache.get_seq_length()
    check_context(llm, begin + len(tokens))
    ids = torch.tensor([list(tokens)], device=llm.device)
    places = torch.arange(begin, begin + ids.shape[1], device=llm.device)[None]
    causal_lm(llm).base_model(
        input_ids=ids, position_ids=places, past_key_values=cache, use_cache=True
    )


def fresh_cache(llm: Any) -> DynamicCache:
    """Return an empty cache.

    Raises:
        InvalidInputError: If a layer of the LLM attends in a window, or is recurrent.
    """
    cache = DynamicCache(config=llm.config)
    if not all(type(layer) is DynamicLayer for layer in cache.layers):
        raise InvalidInputError(
            f"{type(llm).__name__} has layers without full attention, so its names cannot be fed "
            "as a tree; use NameMask as a logits_processor of generate"
        )
    return cache


def causal_lm(llm: Any) -> Any:
    """Return the causal LLM itself, unwrapped from an adapter of peft."""
    return llm.get_base_model() if hasattr(llm, "get_base_model") else llm


def context_of(llm: Any) -> int:
    """Return how many tokens an LLM can read at once, very many where it does not say."""
    most = getattr(causal_lm(llm).config, "max_position_embeddings", None)
    return most if isinstance(most, int) else 1 << 30


def check_context(llm: Any, length: int) -> None:
    """Raise if so many tokens are more than an LLM can read at once.

    Raises:
        InvalidInputError: If so.
    """
    if length > context_of(llm):
        raise InvalidInputError(
            f"{length} tokens are more than the {context_of(llm)} that "
            f"{type(causal_lm(llm)).__name__} reads at once; shorten the query or descriptions, or "
            "show fewer agents"
        )


Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PrefixCounters:
    """Says what a cache holds and what it has saved.

    Args:
        hits: Prefixes asked for and found, or already being encoded.
        misses: Prefixes that had to be encoded while somebody waited.
        prefetched: Prefixes encoded in the background.
        dropped: Prefixes let go, for room or because their owner's text changed.
        entries: Prefixes held now.
        nbytes: Bytes held now.
        tokens_saved: Tokens that were not encoded again.
        bytes_saved: Bytes of keys and values that were not computed again.
    """

    hits: int = 0
    misses: int = 0
    prefetched: int = 0
    dropped: int = 0
    entries: int = 0
    nbytes: int = 0
    tokens_saved: int = 0
    bytes_saved: int = 0


class PrefixCache:
    """Keeps the most recently used prefixes of one LLM within a bound of bytes; thread-safe.

    Close it, or use it in a ``with`` statement, to end its background thread.

    Args:
        llm: A causal LLM of transformers.
        max_bytes: Most bytes to keep; a prefix that is larger is encoded and not kept.

    Raises:
        InvalidInputError: If ``max_bytes`` is negative.
    """

    def __init__(self, llm: Any, max_bytes: int) -> None:
        if max_bytes < 0:
            raise InvalidInputError(f"expected max_bytes from 0, got {max_bytes}")
        self._llm = llm
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._held: OrderedDict[Tokens, KvPrefix] = OrderedDict()  # least recently used first
        self._pending: dict[Tokens, Future[KvPrefix]] = {}
        self._nbytes = 0
        self._owners: dict[str, Tokens] = {}
        self._counters = PrefixCounters()
        self._worker: tuple[Thread, SimpleQueue[Tokens | None]] | None = None
        self._place = _place(llm)

    def __enter__(self) -> PrefixCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the background thread; what waits to be prefetched is given up."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            thread, wishes = worker
            while not wishes.empty():
                wishes.get()
            wishes.put(None)
            thread.join()

    @property
    def counters(self) -> PrefixCounters:
        """What is held and saved, as of now."""
        with self._lock:
            return replace(self._counters, entries=len(self._held), nbytes=self._nbytes)

    def get(self, tokens: Sequence[int], *, owner: str | None = None) -> KvPrefix:
        """Return a prefix, encoded now if it is not held.

        What is held of its beginning (e.g. instructions that all categories share) is not encoded
        again.

        Args:
            tokens: At least one token id.
            owner: Whose text it is, e.g. a category; the owner's earlier text is let go.

        Raises:
            InvalidInputError: If there is no token.
        """
        key = tuple(int(token) for token in tokens)
        self._own(key, owner)
        with self._lock:
            self._forget_moved()
            found = self._held.get(key)
            pending = self._pending.get(key)
            if found is not None:
                self._held.move_to_end(key)
                self._count_saved(found)
                return found
            if pending is None:
                mine: Future[KvPrefix] = Future()
                self._pending[key] = mine
                self._counters = replace(self._counters, misses=self._counters.misses + 1)
        if pending is None:
            return self._encode(key, mine)
        prefix = pending.result()
        with self._lock:
            self._count_saved(prefix)
        return prefix

    def longest(self, tokens: Sequence[int]) -> KvPrefix | None:
        """Return the longest held prefix of a prompt that leaves it a token of its own, or None."""
        prompt = tuple(int(token) for token in tokens)
        with self._lock:
            self._forget_moved()
            prefix = self._longest(prompt, len(prompt) - 1)
            if prefix is not None:
                self._held.move_to_end(prefix.tokens)
                self._count_saved(prefix)
            return prefix

    def prefetch(self, tokens: Sequence[int], *, owner: str | None = None) -> None:
        """Encode a prefix in the background, if it is neither held nor on its way.

        Args:
            tokens: At least one token id.
            owner: As for `get`.

        Raises:
            InvalidInputError: If there is no token.
        """
        key = tuple(int(token) for token in tokens)
        if not key:
            raise InvalidInputError("expected at least one token to prefetch, got none")
        self._own(key, owner)
        with self._lock:
            self._forget_moved()
            if key in self._held or key in self._pending:
                return
            if self._worker is None:
                wishes: SimpleQueue[Tokens | None] = SimpleQueue()
                thread = Thread(
                    target=self._serve, args=(wishes,), name="moma-prefetch", daemon=True
                )
                self._worker = thread, wishes
                thread.start()
            self._worker[1].put(key)

    def discard(self, owner: str) -> None:
        """Let an owner's prefix go, unless it is another's too."""
        with self._lock:
            key = self._owners.pop(owner, None)
            if key is not None and key not in self._owners.values():
                self._drop(key)

    def _serve(self, wishes: SimpleQueue[Tokens | None]) -> None:
        """Encode what is wished for, one after the other, until told to stop."""
        while (key := wishes.get()) is not None:
            with self._lock:
                if key in self._held or key in self._pending:
                    continue
                mine: Future[KvPrefix] = Future()
                self._pending[key] = mine
                self._counters = replace(self._counters, prefetched=self._counters.prefetched + 1)
            try:
                self._encode(key, mine)
            except Exception:  # noqa: BLE001, S112  # whoever asks by `get` meets it there
                continue

    def _encode(self, key: Tokens, promise: Future[KvPrefix]) -> KvPrefix:
        """Encode a prefix outside the lock, keep it and fulfil the promise."""
        try:
            with self._lock:
                begun = self._longest(key, len(key) - 1)
                if begun is not None:
                    self._count_saved(begun, hit=False)
            rest = key[len(begun) :] if begun else key
            prefix = KvPrefix.encode(self._llm, rest, after=begun)
        except BaseException as error:
            with self._lock:
                del self._pending[key]
            promise.set_exception(error)
            raise
        with self._lock:
            del self._pending[key]
            self._keep(key, prefix)
        promise.set_result(prefix)
        return prefix

    def _keep(self, key: Tokens, prefix: KvPrefix) -> None:
        if prefix.nbytes > self._max_bytes:
            return
        self._drop(key, counted=False)
        self._held[key] = prefix
        self._nbytes += prefix.nbytes
        while self._nbytes > self._max_bytes:
            self._drop(next(iter(self._held)))

    def _drop(self, key: Tokens, *, counted: bool = True) -> None:
        prefix = self._held.pop(key, None)
        if prefix is not None:
            self._nbytes -= prefix.nbytes
            self._counters = replace(self._counters, dropped=self._counters.dropped + counted)

    def _forget_moved(self) -> None:
        """Let all go that the LLM computed on another device or in another precision."""
        place = _place(self._llm)
        if place != self._place:
            self._place = place
            for key in list(self._held):
                self._drop(key)

    def _own(self, key: Tokens, owner: str | None) -> None:
        """Note whose text a key is, and let that owner's earlier text go unless others share it."""
        if owner is None:
            return
        with self._lock:
            before = self._owners.get(owner)
            self._owners[owner] = key
            if before is not None and before != key and before not in self._owners.values():
                self._drop(before)

    def _longest(self, prompt: Tokens, most: int) -> KvPrefix | None:
        lengths = {len(key) for key in self._held if len(key) <= most}
        for length in sorted(lengths, reverse=True):
            if (found := self._held.get(prompt[:length])) is not None:
                return found
        return None

    def _count_saved(self, prefix: KvPrefix, *, hit: bool = True) -> None:
        now = self._counters
        self._counters = replace(
            now,
            hits=now.hits + hit,
            tokens_saved=now.tokens_saved + len(prefix),
            bytes_saved=now.bytes_saved + prefix.nbytes,
        )


def _place(llm: Any) -> tuple[Any, Any]:
    return llm.device, llm.dtype
