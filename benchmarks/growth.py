"""What a route, one more agent and memory cost at 100 to 100,000 agents.

    MOMA_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/growth.py [SIZE ...]

Cards are Seal-Tools' 4,076 and variants of them: the name numbered, the last word of another card
added, the description's vector moved by noise, so that nothing but the queries must be encoded.
Each size runs in a process of its own; the encoder alone and the whole route (encode, then all
steps of agent routing) are timed in turn, by the CPU of their one thread, with Seal-Tools' long
queries and CLINC150's short ones; no reranker. Writes benchmarks/results/growth.json.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from moma_core import AgentCard, Query, RoutingEncoder, RoutingState
from moma_core.agents.catalog import AgentCatalog, sentence, views
from moma_core.agents.data import read_agents
from moma_core.agents.router import AgentRouter
from moma_core.registry.memory import MemoryRegistry

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path("benchmarks/results/growth.json")
SIZES = (100, 1_000, 10_000, 100_000)
QUERIES = {"sealtools": "test_in", "clinc150": "val"}
TIMED = 150
ADDED = 7
SEED = 0


class KnownVectors:
    """The packaged encoder, with the vectors of the cards' texts given beforehand."""

    def __init__(self) -> None:
        self.inner = RoutingEncoder(threads=1)
        self.fingerprint, self.dimension = self.inner.fingerprint, self.inner.dimension
        self.known: dict[str, np.ndarray] = {}

    def encode(self, texts):  # noqa: D102 - the protocol says it
        if texts and all(text in self.known for text in texts):
            return np.array([self.known[text] for text in texts], dtype=np.float32)
        return self.inner.encode(texts)


def synthetic(size: int, encoder: KnownVectors) -> list[AgentCard]:
    """Return cards, and tell the encoder their vectors."""
    rng = np.random.default_rng(SEED)
    real = read_agents(DATA / "sealtools_agents.parquet")
    vectors = encoder.inner.encode([sentence(card) for card in real[:size]])
    cards = []
    for i in range(size):
        card, variant = real[i % len(real)], i // len(real)
        vector = vectors[i % len(real)]
        if variant:
            last = real[int(rng.integers(len(real)))].description.split()[-1]
            text = f"{card.description} {last}"
            card = AgentCard(f"{card.name}_{variant}", text, categories=card.categories)
            vector = vector + 0.04 * rng.standard_normal(vector.size).astype(np.float32)
        encoder.known |= dict.fromkeys(views(card), vector / np.linalg.norm(vector))
        cards.append(card)
    return cards


def queries(table: str) -> list[str]:
    rows = pq.read_table(DATA / f"{table}_queries.parquet").to_pylist()
    texts = [row["query"] for row in rows if row["split"] == QUERIES[table] and row["agents"]]
    return texts[:: max(len(texts) // TIMED, 1)][:TIMED]


def routed_once(router: AgentRouter, text: str, encoder: RoutingEncoder) -> None:
    query = Query(text)
    router.route(query, router.states.encode([query], encoder), RoutingState())


def timed(router: AgentRouter, encoder: RoutingEncoder, texts: list[str]) -> dict[str, float]:
    encoded, routed = [], []
    for text in texts:
        start = time.thread_time()
        encoder.encode([text])
        middle = time.thread_time()
        routed_once(router, text, encoder)
        routed.append(time.thread_time() - middle)
        encoded.append(middle - start)
    encode, route = float(np.median(encoded) * 1e3), float(np.median(routed) * 1e3)
    return {
        "encode_ms_p50": encode,
        "route_ms_p50": route,
        "route_over_encode": route / encode,
        "route_ms_p95": float(np.quantile(routed, 0.95) * 1e3),
    }


def adding(router: AgentRouter, text: str) -> list[float]:
    """Return milliseconds from adding an agent (its text encoded) to the end of the next route."""
    turns = router.states.encode([Query(text)], router.catalog._encoder)  # noqa: SLF001 - a benchmark
    times = []
    for i in range(ADDED):
        card = AgentCard(f"added {i}", f"Adds thing number {i}")
        start = time.perf_counter()
        router.catalog.add(card)
        router.route(Query(text), turns, RoutingState())
        times.append((time.perf_counter() - start) * 1e3)
    return times


def rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def one_size(size: int) -> dict[str, object]:
    encoder = KnownVectors()
    cards = synthetic(size, encoder)
    catalog = AgentCatalog(encoder, MemoryRegistry())
    before = rss_mb()
    catalog.add(*cards)
    router = AgentRouter(catalog)
    start = time.perf_counter()
    router.fit()
    seconds = time.perf_counter() - start
    report: dict[str, object] = {"fit_seconds": seconds}
    routed_once(router, "warm up", encoder)
    for table in QUERIES:
        report[table] = timed(router, encoder.inner, queries(table))
    gc.collect()
    report["rss_mb"] = rss_mb()
    report["rss_mb_without_agents"] = before
    times = adding(router, queries("clinc150")[0])
    report["load"] = os.getloadavg()[0]
    report["add_and_route_ms"] = {"p50": float(np.median(times)), "worst": max(times)}
    return report


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one_size(int(sys.argv[2]))))
        return
    report = json.loads(OUT.read_text()) if OUT.exists() else {}
    for size in [int(arg) for arg in sys.argv[1:]] or SIZES:
        command = [sys.executable, __file__, "--one", str(size)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(  # noqa: S603
            command, env=environment, capture_output=True, text=True, check=True
        )
        report[str(size)] = json.loads(done.stdout)
        print(size, done.stdout.strip(), flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
