"""Agent routing on the development data: accuracy, abstention, times.

    MOMA_DATA=../shared/data python benchmarks/agents.py [NAME ...]

Fits on train rows, measures on val rows (Seal-Tools: descriptions alone, test_in rows; lobe:
descriptions alone, its weakly labelled rows) and writes benchmarks/results/agents.json. ``top10``
is measured here, on the router's ten candidates; the rest is what `moma eval agents` writes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moma_core import AgentCard, MoMARouter
from moma_core.agents.data import LabelledQueries, read_agents, read_queries, with_examples
from moma_core.training.evaluate_agents import evaluate_agents

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path("benchmarks/results/agents.json")

# name: (table, train split or none, test split, shots)
RUNS = {
    "clinc150": ("clinc150", "train", "val", None),
    "clinc150-10-shot": ("clinc150", "train", "val", 10),
    "banking50": ("banking50", "train", "val", None),
    "metatool": ("metatool", "train", "val", None),
    "metatool-descriptions": ("metatool", "none", "val", None),
    "sealtools-descriptions": ("sealtools", "none", "test_in", None),
    "lobe-descriptions": ("lobe", "none", "weak", None),
}


def rows(table: str, split: str, folder: Path) -> Path:
    """Write one split of a table to a file of its own."""
    whole = pq.read_table(DATA / f"{table}_queries.parquet")
    path = folder / f"{table}-{split}.parquet"
    pq.write_table(whole.filter(pc.equal(whole["split"], split)), path)
    return path


def top10(
    cards: Sequence[AgentCard], known: LabelledQueries, asked: LabelledQueries, shots: int | None
) -> float:
    """Return the share of in-scope queries with a wanted agent among the first ten."""
    cards = with_examples(cards, known, shots, 0)
    router = MoMARouter.from_cards(cards, llms=None, negatives=known.negatives())
    rankings = router.rank(asked.texts, 10)
    found = [
        bool(set(ranking.names).intersection(wanted))
        for ranking, wanted in zip(rankings, asked.agents, strict=True)
        if wanted
    ]
    return float(np.mean(found))


def main() -> None:
    wanted = sys.argv[1:] or list(RUNS)
    report = json.loads(OUT.read_text()) if OUT.exists() else {}
    for name in wanted:
        table, train, test, shots = RUNS[name]
        with tempfile.TemporaryDirectory() as folder:
            known = read_queries(rows(table, train, Path(folder)))
            asked = read_queries(rows(table, test, Path(folder)))
        start = time.perf_counter()
        cards = read_agents(DATA / f"{table}_agents.parquet")
        report[name] = evaluate_agents(cards, known, asked, shots=shots)
        report[name]["top10"] = top10(cards, known, asked, shots)
        report[name]["seconds"] = time.perf_counter() - start
        print(name, json.dumps(report[name]), flush=True)
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(json.dumps(report, indent=1) + "\n")  # now: a run cut short keeps these


if __name__ == "__main__":
    main()
