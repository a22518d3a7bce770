"""Sixteen queries one by one and in shared forwards, the prefix cached for both.

Imported by `decoding_peers.py`. CPU time a query; ratios are medians of pairs timed side by side.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from decoding_ways import World

from moma_core.decoding.generate import top_k, top_k_packed
from moma_core.decoding.local_llm import LocalLLM
from moma_core.decoding.prefix import KvPrefix
from moma_core.decoding.trie import NameTrie

PACKED = 16


def packing(source: str, dtype: str, n: int, times: int) -> dict[str, Any]:
    """Compare on drawn queries and on the shortest ones, for one LLM in one precision.

    Args:
        source: What `LocalLLM.load` takes.
        dtype: Of the weights.
        n: Names.
        times: Pairs of readings.
    """
    loaded = LocalLLM.load(source, dtype=dtype)
    world = World(n, loaded.tokenizer, loaded.model.config.vocab_size)
    trie = NameTrie(world.tokens, world.end, world.names)
    first, second = (world.prompt(query) for query in world.queries[:2])
    shared = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    prefix = KvPrefix.encode(loaded.model, first[:shared])
    top_k(loaded.model, trie, first[shared:], prefix=prefix)  # an LLM's first use probes it
    short = sorted(world.queries, key=len)[:PACKED]
    result: dict[str, Any] = {"prefix tokens": shared}
    for kind, queries in (("drawn", world.queries[20 : 20 + PACKED]), ("short", short)):
        rests = [world.prompt(query)[shared:] for query in queries]

        def alone_all(rests: list[list[int]] = rests) -> None:
            for rest in rests:
                top_k(loaded.model, trie, rest, prefix=prefix)

        def packed(rests: list[list[int]] = rests) -> None:
            top_k_packed(loaded.model, trie, rests, prefix=prefix)

        pairs = [(cpu_ms(alone_all), cpu_ms(packed)) for _ in range(times)]
        alone, together = np.array(pairs).T / PACKED
        result[kind] = {
            "tokens a query": float(np.mean([len(rest) for rest in rests])),
            "alone cpu_ms": float(np.median(alone)),
            "together cpu_ms": float(np.median(together)),
            "ratio": float(np.median(alone / together)),
        }
    return result


def cpu_ms(run: Callable[[], object]) -> float:
    """Return the CPU milliseconds of this process."""
    began = time.process_time()
    run()
    return 1e3 * (time.process_time() - began)
