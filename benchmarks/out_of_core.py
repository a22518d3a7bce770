"""2.25 million judged pairs (the paper's corpus) trained out of core: memory and rows a second.

    python benchmarks/out_of_core.py [--pairs 2250000] [--corpus pool unique]
        [--devices numpy cpu cpu:2] [--out FILE.json]

pool: the real queries and scores of mmlu_pro's train split; pairs of LLMs drawn at random, the
outcome from their scores, 10 % of the outcomes replaced by a random one (a judge's noise). unique:
as many distinct queries as pairs, random unit vectors of 384 numbers, LLM skills linear in them:
the worst case for disk and memory. Vectors come from a stand-in encoder (a table, or noise seeded
by the text), so reading, hashing and training are timed, not MiniLM. Each run is a fresh process;
peak memory is read from /proc: VmHWM counts mapped file pages too (the kernel takes them back when
it needs them), anonymous memory is what the program holds. With --devices other than numpy, torch
and accelerate train in processes of their own, whose memory is not counted; starting them is
start_s, and OMP_NUM_THREADS=1 gives each as much of a core as numpy gets.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moma_core import LLMDataset
from moma_core.llms.heads.judged import outcomes_of_scores
from moma_core.training.pair_store import PairStore
from moma_core.training.pairs import train_pairs

NOISE = 0.1
PART = 100_000
LLMS = 12


class TableEncoder:
    """Gives back vectors that were encoded before."""

    fingerprint, dimension = "table", 384

    def __init__(self, texts: tuple[str, ...], vectors: np.ndarray) -> None:
        self._rows = {text: row for row, text in enumerate(texts)}
        self._vectors = vectors.astype(np.float32)

    def encode(self, texts: Any) -> np.ndarray:  # noqa: D102
        return self._vectors[[self._rows[text] for text in texts]]


class NoiseEncoder:
    """Random unit vectors, the text ``query N`` being the seed."""

    fingerprint, dimension = "noise", 384

    def encode(self, texts: Any) -> np.ndarray:  # noqa: D102
        numbers = [int(text.rsplit(" ", 1)[1]) for text in texts]
        rows = np.stack([np.random.default_rng(n).normal(size=384) for n in numbers])
        unit: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit


def pool_corpus(folder: Path) -> tuple[LLMDataset, np.ndarray]:
    data = LLMDataset.read(folder / "mmlu_pro.parquet")
    rows = np.flatnonzero(np.array(data.splits) == "train")
    vectors = np.load(Path(os.environ["MOMA_VECTORS"]) / "mmlu_pro.npz")["q_mean"][rows]
    return data.take(rows), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_pairs(path: Path, corpus: str, pairs: int, folder: Path) -> None:
    rng = np.random.default_rng(0)
    data = pool_corpus(folder)[0] if corpus == "pool" else None
    names = list(data.llms) if data is not None else [f"llm {n}" for n in range(LLMS)]
    skill = rng.normal(size=(384, LLMS)) * 0.5
    texts = ("query", "llm_a", "llm_b")
    schema = pa.schema([*((t, pa.string()) for t in texts), ("outcome", pa.int8())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, pairs, PART):
            n = min(PART, pairs - start)
            a = rng.integers(0, len(names), n)
            b = (a + rng.integers(1, len(names), n)) % len(names)
            if data is not None:
                query = rng.integers(0, len(data), n)
                scores = data.scores[query[:, None], np.stack([a, b], axis=1)]
                words = [data.queries[row] for row in query.tolist()]
            else:
                words = [f"query {row}" for row in range(start, start + n)]
                level = NoiseEncoder().encode(words) @ skill + rng.normal(size=(n, LLMS)) * 0.3
                scores = np.take_along_axis(level, np.stack([a, b], axis=1), axis=1)
            code = outcomes_of_scores(scores[:, 0], scores[:, 1])
            code = np.where(rng.random(n) < NOISE, rng.integers(0, 5, n), code).astype(np.int8)
            columns = [words, [names[i] for i in a.tolist()], [names[i] for i in b.tolist()], code]
            writer.write_table(pa.table(columns, schema=schema))


class Peak(threading.Thread):
    """Watches this process's anonymous memory."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous = 0

    def run(self) -> None:  # noqa: D102
        while True:
            self.anonymous = max(self.anonymous, memory()["RssAnon"])
            time.sleep(0.02)


def memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {key: int(fields[key].split()[0]) // 1024 for key in ("VmHWM", "RssAnon")}


def train_one(
    path: Path, corpus: str, devices: str | None, folder: Path, work: Path
) -> dict[str, Any]:
    encoder: Any = NoiseEncoder()
    if corpus == "pool":
        data, vectors = pool_corpus(folder)
        encoder = TableEncoder(data.queries, vectors)
        del data
    prices = dict.fromkeys([*encoder_names(path)], 1.0)
    peak = Peak()
    before = memory()["RssAnon"]
    peak.start()
    start = time.perf_counter()
    store = PairStore.build(path, work, encoder)
    read = time.perf_counter() - start
    start = time.perf_counter()
    again = PairStore.build(path, work, encoder)
    reread = time.perf_counter() - start
    del store, again
    marks: list[tuple[int, float]] = []
    start = time.perf_counter()
    router = train_pairs(
        path, encoder, head="preference", prices=prices, folder=work, devices=devices,
        progress=lambda what, done, _: marks.append((done, time.perf_counter()))
        if what.startswith("train") else None,
    )  # fmt: skip
    pairs, queries = router.metadata["pairs"], router.metadata["queries"]
    seconds = marks[-1][1] - marks[0][1]
    epochs = marks[-1][0] / queries
    return {
        "corpus": corpus,
        "devices": devices or "numpy",
        "pairs": pairs,
        "queries": queries,
        "epochs": round(epochs, 2),
        "read_and_encode_s": round(read, 1),
        "read_again_s": round(reread, 1),
        "start_s": round(marks[0][1] - start - reread, 1),
        "train_s": round(seconds, 1),
        "pairs_per_s": int(pairs * epochs / seconds),
        "peak_anonymous_mib": peak.anonymous,
        "before_mib": before,
        "peak_resident_with_file_pages_mib": memory()["VmHWM"],
        "vectors_on_disk_mib": sum(f.stat().st_size for f in work.iterdir()) >> 20,
    }


def encoder_names(path: Path) -> set[str]:
    head = next(pq.ParquetFile(path).iter_batches(batch_size=5_000, columns=["llm_a", "llm_b"]))
    return set(head["llm_a"].to_pylist()) | set(head["llm_b"].to_pylist())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=2_250_000)
    parser.add_argument("--corpus", nargs="+", default=["pool", "unique"])
    parser.add_argument("--devices", nargs="+", default=["numpy"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/out_of_core.json"))
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = Path(os.environ.get("MOMA_DATA", "../shared/data"))
    if options.one:
        devices = None if options.devices[0] == "numpy" else options.devices[0]
        path, work = options.one
        print(json.dumps(train_one(path, options.corpus[0], devices, folder, work)))
        return
    results = []
    sizes = (
        [options.pairs] if options.devices != ["numpy"] else [options.pairs // 10, options.pairs]
    )
    for corpus in options.corpus:
        for pairs in sizes:
            with tempfile.TemporaryDirectory(prefix="moma-out-of-core-") as work:
                path = Path(work) / "pairs.parquet"
                write_pairs(path, corpus, pairs, folder)
                for devices in options.devices:
                    vectors = Path(work) / f"vectors-{devices}"
                    done = subprocess.run(  # noqa: S603
                        [sys.executable, __file__, "--corpus", corpus, "--devices", devices,
                         "--one", path, vectors],
                        check=True, stdout=subprocess.PIPE, text=True,
                    )  # fmt: skip
                    results.append({**json.loads(done.stdout), "load": os.getloadavg()[0]})
                    print(json.dumps(results[-1]), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
