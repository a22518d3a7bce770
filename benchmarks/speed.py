"""How much the router adds to its encoder, and the encoder to the bare network; ratios only.

    MOMA_DATA=../shared/data python benchmarks/speed.py

150 agents (CLINC150, 10 examples each). Timed in turn in one process, so that noise hits both
sides alike: bare onnxruntime call / encode / route, 300 short queries each; and 500 queries in one
batch against one by one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moma_core import MoMARouter, RoutingEncoder
from moma_core.agents.data import LabelledQueries, read_agents, with_examples
from moma_core.encoder import padded

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path("benchmarks/results/speed.json")


def rows(name: str) -> LabelledQueries:
    data = pq.read_table(DATA / "clinc150_queries.parquet")
    data = data.filter(pc.equal(data["split"], name)).to_pydict()
    return LabelledQueries(tuple(data["query"]), tuple(map(tuple, data["agents"])))


def feeds(encoder: RoutingEncoder, texts: list[str]) -> list[dict[str, np.ndarray]]:
    """Tokenise and look words up ahead of time: the bare call is timed without it."""
    found = []
    for row in encoder._pieces.rows(texts):  # noqa: SLF001
        tokens, mask = padded([row])
        found.append({"words": encoder._words.of(tokens), "mask": mask})  # noqa: SLF001
    return found


def timed(seconds: list[float], call: Callable[[], object]) -> None:
    start = time.perf_counter()
    call()
    seconds.append(time.perf_counter() - start)


def main() -> None:
    train, val = rows("train"), rows("val")
    cards = with_examples(read_agents(DATA / "clinc150_agents.parquet"), train, 10)
    router = MoMARouter.from_cards(cards, negatives=train.negatives())
    router.fit()
    texts = list(np.random.default_rng(0).permutation(val.texts)[:500])
    times: dict[str, list[float]] = {"encode": [], "route": [], "bare": [], "encode again": []}
    for text in texts[:300]:
        timed(times["encode"], lambda text=text: router.encoder.encode([text]))
        timed(times["route"], lambda text=text: router.route(text))
    # The same session, so that only tokenising and looking words up are added; a second session's
    # idle threads would spin beside the first.
    bare = router.encoder._session  # noqa: SLF001
    for text, feed in zip(texts[:300], feeds(router.encoder, texts[:300]), strict=True):
        timed(times["bare"], lambda feed=feed: bare.run(None, feed))
        timed(times["encode again"], lambda text=text: router.encoder.encode([text]))
    start = time.perf_counter()
    for text in texts:
        router.route(text)
    single = time.perf_counter() - start
    start = time.perf_counter()
    router.route_batch(texts)
    batch = time.perf_counter() - start
    p50 = {name: float(np.median(values) * 1e3) for name, values in times.items()}
    report = {
        "p50_ms": p50,
        "encode_over_bare": p50["encode again"] / p50["bare"],
        "route_over_encode": p50["route"] / p50["encode"],
        "single_over_batch": single / batch,
        "load_average": os.getloadavg()[0],
    }
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
