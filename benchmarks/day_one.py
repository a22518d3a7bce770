"""Right on day one: agents known by descriptions alone, on catalogs that nothing was trained on.

    python benchmarks/day_one.py [set ...] [--count 400] [--shots 0]

Data from MOMA_DATA. For each set's validation queries: the right agent first, and at the default
gate what is kept, wrong and turned away; of queries that no agent should take (the set's own where
it has some, else other sets'), the share caught, and how well in and out are told apart (AUROC).
Beside us, on the same cards: cosine of one vector (ours and the plain MiniLM's: what
langgraph-bigtool's store does), BM25, and both fused by reciprocal rank. Writes
benchmarks/results/day_one.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score

from moma_core import AgentCard, MiniLMEncoder, MoMARouter, RoutingEncoder
from moma_core.agents.data import LabelledQueries, read_agents, with_examples
from moma_core.training.evaluate_agents import calibration_error, reliability

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path(__file__).parent / "results" / "day_one.json"
SETS = {
    "metatool": "val",
    "clinc150": "val",
    "banking50": "val",
    "sealtools": "test_in",
    "lobe": "weak",
}
SEED = 0


def queries(name: str, split: str) -> list[tuple[str, tuple[str, ...]]]:
    rows = pq.read_table(DATA / f"{name}_queries.parquet").to_pylist()
    kept = [r for r in rows if r["split"] == split and r["query"].strip()]
    return [(r["query"], tuple(r["agents"])) for r in kept]


def sampled(name: str, count: int) -> tuple[list[tuple[str, tuple[str, ...]]], list[str], str]:
    """Return in-scope queries, out-of-scope ones, and where those are from."""
    rng = np.random.default_rng(SEED)
    rows = queries(name, SETS[name])
    inside = [row for row in rows if row[1]]
    outside = [text for text, wanted in rows if not wanted]
    source = "own"
    if not outside:
        source = "other sets"
        others = [t for n, s in SETS.items() if n != name for t, w in queries(n, s)[:2000] if w]
        outside = [others[i] for i in rng.permutation(len(others))[:count]]
    picked = rng.permutation(len(inside))[:count]
    return [inside[i] for i in picked], outside[:count], source


def bm25(cards: list[AgentCard], texts: list[str]) -> np.ndarray:
    """Return BM25 scores (k1 1.5, b 0.75) of cards for texts, shape (n, m)."""
    words = [f"{c.name.replace('_', ' ')} {c.description}".lower().split() for c in cards]
    counts = [Counter(each) for each in words]
    df = Counter(word for each in counts for word in each)
    mean = np.mean([len(each) for each in words])
    out = np.zeros((len(texts), len(cards)))
    for i, text in enumerate(texts):
        for word in set(text.lower().split()):
            if not df[word]:
                continue
            idf = np.log(1 + (len(cards) - df[word] + 0.5) / (df[word] + 0.5))
            for j, each in enumerate(counts):
                if tf := each[word]:
                    size = 1.5 * (0.25 + 0.75 * len(words[j]) / mean)
                    out[i, j] += idf * tf * 2.5 / (tf + size)
    return out


def first_and_auroc(
    scores: np.ndarray, cards: list[AgentCard], wanted: list[tuple[str, ...]], inside: np.ndarray
) -> dict[str, float]:
    best = [cards[j].name for j in scores.argmax(axis=1)]
    right = [name in names for name, names in zip(best, wanted, strict=True)]
    return {
        "right_first": float(np.mean(np.array(right)[inside])),
        "auroc": float(roc_auc_score(inside, scores.max(axis=1))),
    }


def fused(*tables: np.ndarray) -> np.ndarray:
    ranks = [(-table).argsort(axis=1).argsort(axis=1) for table in tables]
    return np.sum([1.0 / (60.0 + rank) for rank in ranks], axis=0)


def plain(cards: list[AgentCard], texts: list[str]) -> dict[str, np.ndarray]:
    """Return what one would take instead: each one's scores of cards for texts, shape (n, m)."""
    tables = {}
    encoders = {"cosine, tuned": RoutingEncoder(), "cosine, MiniLM": MiniLMEncoder()}
    for label, encoder in encoders.items():
        vectors = encoder.encode([f"{c.name.replace('_', ' ')}: {c.description}" for c in cards])
        tables[label] = encoder.encode(texts) @ vectors.T
    tables["BM25"] = bm25(cards, texts)
    tables["cosine, MiniLM + BM25"] = fused(tables["cosine, MiniLM"], tables["BM25"])
    return tables


def ours(
    router: MoMARouter, texts: list[str], wanted: list[tuple[str, ...]], inside: np.ndarray
) -> dict[str, float]:
    start = time.perf_counter()
    rankings = router.rank(texts, 5)
    seconds = time.perf_counter() - start
    pairs = list(zip(rankings, wanted, strict=True))
    right = np.array([bool(r) and r[0].name in w for r, w in pairs])
    taken = np.array([r.fits for r in rankings])
    sure = np.array([r.best_probability for r in rankings])
    recall = [len(set(r.names) & set(w)) / len(w) for r, w in pairs if w]
    return {
        "right_first": float(right[inside].mean()),
        "recall_at_5": float(np.mean(recall)),
        "kept": float((right & taken)[inside].mean()),
        "wrong": float((~right & taken)[inside].mean()),
        "turned_away": float((~taken)[inside].mean()),
        "caught": float((~taken[~inside]).mean()),
        "auroc": float(roc_auc_score(inside, [r.probability for r in rankings])),
        "calibration_error": calibration_error(reliability(sure, right & inside)),
        "ms_a_query": seconds / len(texts) * 1e3,
    }


def one_set(name: str, count: int, shots: int) -> dict[str, object]:
    asked, outside, source = sampled(name, count)
    texts = [text for text, _ in asked] + outside
    wanted = [names for _, names in asked] + [()] * len(outside)
    inside = np.arange(len(texts)) < len(asked)
    cards = [replace(card, categories=()) for card in read_agents(DATA / f"{name}_agents.parquet")]
    bare = cards
    if shots:
        known = [row for row in queries(name, "train") if row[1]]
        labelled = LabelledQueries(*map(tuple, zip(*known, strict=True)))
        cards = with_examples(cards, labelled, shots, SEED)
    report: dict[str, object] = {
        "agents": len(cards),
        "inside": len(asked),
        "outside": len(outside),
        "outside_from": source,
        "shots": shots,
    }
    beside = plain(bare, texts)
    report |= {label: first_and_auroc(t, bare, wanted, inside) for label, t in beside.items()}
    for label, reranker in (("moma", "packaged"), ("moma, no reranker", None)):
        router = MoMARouter.from_cards(cards, llms=None, reranker=reranker)
        router.fit()
        report[label] = ours(router, texts, wanted, inside)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--shots", type=int, default=0)
    options = parser.parse_args()
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    for name in options.sets:
        key = f"{name}-{options.shots}"
        found[key] = one_set(name, options.count, options.shots)
        print(key, json.dumps(found[key], indent=1), flush=True)
        OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
