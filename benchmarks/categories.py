"""What the first layer saves and costs at Seal-Tools' 4,076 tools (eq. 13-20).

    MOMA_DATA=../shared/data python benchmarks/categories.py

The ranker knows descriptions alone. k and threshold are fitted on val rows (or on made-up queries:
the mean of two tools' vectors), figures are of test_in rows. "Work" is categories compared plus
agents left to score, over all agents; the ranker makes use of it only below a tenth of them, since
picking rows out of a matrix costs more than multiplying it whole (rank_ms_p50).

Writes benchmarks/results/categories.json.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from moma_core import RoutingEncoder
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.categories import Retrieval, Taxonomy, collect, fit_categories, unit
from moma_core.agents.data import LabelledQueries, read_agents, with_examples
from moma_core.agents.gate import Negatives
from moma_core.agents.training import train
from moma_core.protocols import AgentRecord
from moma_core.registry.memory import MemoryRegistry

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path("benchmarks/results/categories.json")
SEED = 0


def queries(split: str) -> LabelledQueries:
    table = pq.read_table(DATA / "sealtools_queries.parquet").to_pylist()
    chosen = [row for row in table if row["split"] == split and row["agents"]]
    wanted = tuple(tuple(dict.fromkeys(row["agents"])) for row in chosen)
    return LabelledQueries(tuple(row["query"] for row in chosen), wanted)


def shown(snapshot, cards, encoder):
    """Return the snapshot with the cards' examples: for fitting how far to look, nothing else."""
    texts = list(dict.fromkeys(text for card in cards for text in card.examples))
    vectors = dict(zip(texts, encoder.encode(texts), strict=True))
    records = [
        AgentRecord(
            card,
            record.description_vector,
            np.array([vectors[t] for t in card.examples], np.float32).reshape(-1, 384),
        )
        for card, record in zip(cards, snapshot.records, strict=True)
    ]
    return replace(snapshot, records=tuple(records))


def made_up(snapshot):
    """Return the snapshot with one made-up query an agent: half about some other agent."""
    other = np.random.default_rng(SEED).permutation(len(snapshot.records))
    mixed = unit(snapshot.descriptions + snapshot.descriptions[other])
    records = [
        replace(r, card=replace(r.card, examples=(f"made up {i}",)), example_vectors=mixed[[i]])
        for i, r in enumerate(snapshot.records)
    ]
    return replace(snapshot, records=tuple(records))


def measure(ranker, categories, asked, vectors):
    """Return accuracy, share of agents scored, and the ranking's milliseconds."""
    everybody = np.arange(len(ranker.names))
    position = {name: i for i, name in enumerate(ranker.names)}
    first, recalls, found, scored, times = [], [], [], [], []
    for text, vector, names in zip(asked.texts, vectors, asked.agents, strict=True):
        wanted = {position[name] for name in names}
        start = time.perf_counter()
        rows = everybody if categories is None else categories.narrowed(vector, everybody)
        logits = ranker.logits([text], vector[None], rows)[0, rows]
        times.append(time.perf_counter() - start)
        best = rows[np.argsort(-logits, kind="stable")[:5]]
        first.append(best[0] in wanted)
        recalls.append(len(wanted.intersection(best.tolist())) / len(wanted))
        found.append(not wanted.isdisjoint(rows.tolist()))
        scored.append(rows.size / everybody.size)
    k = 0 if categories is None else len(categories.names)
    retrieval = None if categories is None else categories.retrieval
    return {
        "categories": k,
        "k": retrieval.k if isinstance(retrieval, Retrieval) else None,
        "threshold": retrieval.threshold if isinstance(retrieval, Retrieval) else None,
        "top1": float(np.mean(first)),
        "recall_at_5": float(np.mean(recalls)),
        "category_retrieved": float(np.mean(found)),
        "agents_scored": float(np.mean(scored)),
        "work": float(np.mean(scored) + k / everybody.size),
        "rank_ms_p50": float(np.median(times) * 1e3),
    }


def main() -> None:
    encoder = RoutingEncoder()
    cards = read_agents(DATA / "sealtools_agents.parquet")
    catalog = AgentCatalog(encoder, MemoryRegistry())
    catalog.add(*cards)
    snapshot = catalog.snapshot
    fitting, asked = queries("val"), queries("test_in")
    examples = shown(snapshot, with_examples(cards, fitting), encoder)
    vectors = encoder.encode(asked.texts)
    ranker = train(snapshot, Negatives.of((), encoder, background=False)).ranker
    unnamed = replace(
        snapshot,
        records=tuple(replace(r, card=replace(r.card, categories=())) for r in snapshot.records),
    )
    start = time.perf_counter()
    bottom_up = collect(unnamed, Taxonomy(discover_from=300), SEED)
    seconds = time.perf_counter() - start
    sets = {
        "bottom-up": bottom_up,
        "named on cards": collect(snapshot),
        "united": collect(snapshot, Taxonomy(discover_from=300), SEED),
    }
    report = {
        "agents": len(cards),
        "queries": len(asked),
        "seed": SEED,
        "grouping_seconds": seconds,
        "names": list(bottom_up.names[:10]),
        "no layer": measure(ranker, None, asked, vectors),
    }
    for name, categories in sets.items():
        fitted = fit_categories(categories, examples)
        report[f"{name}, fitted on val"] = measure(ranker, fitted, asked, vectors)
    fitted = fit_categories(bottom_up, made_up(snapshot))
    report["bottom-up, fitted on made-up queries"] = measure(ranker, fitted, asked, vectors)
    for name, row in report.items():
        print(name, json.dumps(row), flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
