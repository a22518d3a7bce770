"""100,000 agents: registered in bulk, started from disk, routed; and batches in bounded memory.

    MOMA_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/scale.py [SIZE ...] [KIND ...]

Cards are those of benchmarks/growth.py (Seal-Tools and variants) with given vectors, so that rates
say what registering costs and not what the encoder does. Per size, each step in a process of its
own: register in memory and save (two files); register in a Chroma directory; load either and route.
Routes are timed in turn with the encoder alone, on one thread, with Seal-Tools' long queries and
CLINC150's short ones, first without the packaged reranker, then with it; by the clock and by the
thread's own time, which other programs disturb less. Of long queries those are counted apart whose
sentences are encoded and ranked one by one as well. Also: for how many queries the best ten agents
are those, in that order, that a comparison with every agent finds. Writes
benchmarks/results/scale.json.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from growth import KnownVectors, queries, rss_mb, synthetic

from moma_core import MoMARouter, RoutingEncoder
from moma_core.agents.conversation import asking
from moma_core.agents.reranker import Reranker

OUT = Path("benchmarks/results/scale.json")
SIZES = (1_000, 100_000)
KINDS = ("files", "chroma")
AT_ONCE = 10_000  # cards in one call of put


def registered(size: int, folder: str, kind: str) -> dict[str, float]:
    """Register cards in a new store in ``folder``; return seconds and agents a second."""
    encoder = KnownVectors()
    cards = synthetic(size, encoder)
    before = rss_mb()
    path = folder if kind == "chroma" else None
    router = MoMARouter.from_cards(encoder=encoder, llms=None, path=path, refresh_every=None)
    start = time.perf_counter()
    for first in range(0, size, AT_ONCE):
        router.agents.put(*cards[first : first + AT_ONCE])
        print(f"  {kind}: {first + AT_ONCE} of {size}", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    router.save(folder)
    saved = time.perf_counter() - start
    router.close()
    return {
        "register_seconds": seconds,
        "agents_per_second": size / seconds,
        "fit_and_save_seconds": saved,
        "rss_mb_before": before,
        "rss_mb": rss_mb(),
    }


def started(folder: str) -> dict[str, object]:
    """Load a router and route; return times and memory."""
    before, start = rss_mb(), time.perf_counter()
    router = MoMARouter.load(folder, encoder=RoutingEncoder(threads=1), refresh_every=None)
    loaded = time.perf_counter()
    router.rank("warm up")
    first = time.perf_counter()
    report: dict[str, object] = {
        "load_seconds": loaded - start,
        "load_and_first_route_seconds": first - start,
    }
    router.agent_router.reranker = None
    report["without_reranker"] = routed(router)
    report["batch"] = batch(router)
    report["best_ten_as_compared_with_all"] = {
        table: agreement(router, table) for table in ("sealtools", "clinc150")
    }
    router.agent_router.reranker = Reranker(threads=1)
    report["with_reranker"] = routed(router)
    report |= {"rss_mb_before": before, "rss_mb": rss_mb(), "bytes_on_disk": size_of(folder)}
    router.close()
    return report


def routed(router: MoMARouter) -> dict[str, dict[str, float]]:
    """Return medians of the encoder alone and of a whole ranking, in turn."""
    report = {}
    for table in ("sealtools", "clinc150"):
        texts = queries(table)
        report[table] = medians(router, texts)
        for name, twice in (("read_once", False), ("by_sentences_too", True)):
            some = [text for text in texts if bool(asking(text)) == twice]
            if 0 < len(some) < len(texts):
                report[table] |= {f"{name}_{k}": v for k, v in medians(router, some).items()}
    return report


def medians(router: MoMARouter, texts: list[str]) -> dict[str, float]:
    report: dict[str, float] = {"queries": len(texts)}
    encode, route = [], []
    for text in texts:
        encode.append(both(router.encoder.encode, [text]))
        route.append(both(router.rank, text))
    for i, clock in enumerate(("", "cpu_")):
        e = float(np.median([times[i] for times in encode])) * 1e3
        r = float(np.median([times[i] for times in route])) * 1e3
        report |= {f"{clock}encode_ms_p50": e, f"{clock}route_ms_p50": r,
                   f"{clock}route_over_encode": r / e}  # fmt: skip
    return report


def both(call: Callable[..., object], argument: object) -> tuple[float, float]:
    start, own = time.perf_counter(), time.thread_time()
    call(argument)
    return time.perf_counter() - start, time.thread_time() - own


def agreement(router: MoMARouter, table: str) -> float:
    """Return the share of queries whose best ten are those of a comparison with every agent."""
    ranker, same = router.agent_router.trained.ranker, []
    texts, everybody = queries(table), np.arange(len(ranker.names))
    for text, vector in zip(texts, router.encoder.encode(texts), strict=True):
        seen = ranker.features([text], vector[None])
        rows, _ = ranker.near(seen, everybody, 64)
        found = ranker.scores(seen, rows)[0]
        best = [
            np.argsort(-logits, kind="stable")[:10] for logits in (found, ranker.scores(seen)[0])
        ]
        same.append(np.array_equal(*best))
    return float(np.mean(same))


def batch(router: MoMARouter) -> dict[str, float]:
    """Return the rate of a batch and the memory before and after."""
    texts = [text for table in ("sealtools", "clinc150") for text in queries(table)]
    before, seconds = rss_mb(), timed(router.rank, texts)
    return {"queries": len(texts), "per_second": len(texts) / seconds,
            "rss_mb_before": before, "rss_mb": rss_mb()}  # fmt: skip


def timed(call: Callable[..., object], argument: object) -> float:
    start = time.perf_counter()
    call(argument)
    return time.perf_counter() - start


def size_of(folder: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def step(*args: str) -> dict[str, object]:
    """Run a step in a process of its own."""
    command = [sys.executable, __file__, "--step", *args]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--step"]:
        what, folder, *rest = sys.argv[2:]
        found = started(folder) if what == "start" else registered(int(rest[0]), folder, what)
        print(json.dumps(found))
        return
    report = json.loads(OUT.read_text()) if OUT.exists() else {}
    sizes = [int(arg) for arg in sys.argv[1:] if arg.isdigit()] or SIZES
    kinds = [arg for arg in sys.argv[1:] if not arg.isdigit()] or KINDS
    for size, kind in itertools.product(sizes, kinds):
        with tempfile.TemporaryDirectory() as folder:
            found = {"register": step(kind, folder, str(size)), "start": step("start", folder)}
        report.setdefault(str(size), {})[kind] = {**found, "load": os.getloadavg()[0]}
        print(size, kind, json.dumps(found), flush=True)
        OUT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
