"""Fit the gate's defaults: agents known by their descriptions alone.

    MOMA_DATA=../shared/data python benchmarks/cold_gate.py

Draws catalogs of 3 to 200 agents from MetaTool and Seal-Tools with queries of theirs (MetaTool
train rows, Seal-Tools val rows), takes the wanted agent away from half of them, adds queries of the
other data set, and prints the logistic curve for `moma_core.agent_routing.gate.Gate`.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moma_core.agent_routing.catalog import AgentCatalog
from moma_core.agent_routing.dataset import read_agents
from moma_core.agent_routing.gate import Gate, signals
from moma_core.agent_routing.lexical import document_frequencies, inverse_frequencies
from moma_core.agent_routing.ranker import Features, LinearRanker, description_columns
from moma_core.agent_routing.wording import card_text
from moma_core.encoders import MiniLMEncoder
from moma_core.registry import MemoryRegistry

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path("benchmarks/results/cold_gate.json")
CATALOGS, QUERIES, SEED = 150, 40, 0


def load(name: str, split: str) -> tuple:
    table = pq.read_table(DATA / f"{name}_queries.parquet")
    table = table.filter(pc.equal(table["split"], split)).to_pydict()
    pairs = [(q, a[0]) for q, a in zip(table["query"], table["agents"], strict=True) if len(a) == 1]
    generator = np.random.default_rng(SEED)
    pairs = [pairs[i] for i in generator.permutation(len(pairs))[:3000]]
    encoder = MiniLMEncoder()
    cards = [replace(card, categories=()) for card in read_agents(DATA / f"{name}_agents.parquet")]
    catalog = AgentCatalog(encoder, MemoryRegistry())
    catalog.add(*cards)
    return catalog.snapshot, pairs, encoder.encode([q for q, _ in pairs])


def rows_of(source: tuple, foreign: tuple, generator: np.random.Generator) -> tuple:
    snapshot, pairs, vectors = source
    size = int(np.exp(generator.uniform(np.log(3), np.log(200))))
    queries = generator.permutation(len(pairs))[:QUERIES]
    # Some agents that the queries want, the rest at random.
    wanted = [snapshot.position[pairs[i][1]] for i in queries]
    fill = generator.permutation(len(snapshot.records))
    chosen = np.array(list(dict.fromkeys([*wanted[: max(size // 2, 1)], *fill]))[:size])
    texts = [card_text(snapshot.records[i].card) for i in chosen]
    idf = inverse_frequencies(document_frequencies(texts), len(texts))
    described = Features.of(texts, snapshot.descriptions[chosen], idf)
    ranker = LinearRanker([str(i) for i in chosen], description_columns(described), idf)
    place = {agent: i for i, agent in enumerate(chosen)}
    inside = [i for i, w in zip(queries, wanted, strict=True) if w in place]
    owners = np.array([place[snapshot.position[pairs[i][1]]] for i in inside])
    logits = ranker.logits([pairs[i][0] for i in inside], vectors[inside])
    right = logits.argmax(axis=1) == owners
    seen = [(signals(logits).rows(), right)]
    logits[np.arange(len(inside)), owners] = -np.inf
    seen.append((signals(logits).rows(), np.zeros(len(inside), dtype=bool)))
    far = generator.permutation(len(foreign[1]))[: len(inside)]
    others = ranker.logits([foreign[1][i][0] for i in far], foreign[2][far])
    seen.append((signals(others).rows(), np.zeros(len(far), dtype=bool)))
    weights = np.concatenate([np.ones(len(inside)), np.full(len(inside) + len(far), 0.5)])
    return (*map(np.concatenate, zip(*seen, strict=True)), weights)


def main() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    tools, seal = load("metatool", "train"), load("sealtools", "val")
    generator = np.random.default_rng(SEED)
    parts = [
        rows_of(*((tools, seal) if i % 2 else (seal, tools)), generator) for i in range(CATALOGS)
    ]
    rows, right, weights = map(np.concatenate, zip(*parts, strict=True))
    fitted = LogisticRegression(C=1e3).fit(rows, right, sample_weight=weights)
    gate = Gate(*map(float, fitted.coef_[0]), float(fitted.intercept_[0]))
    chance = fitted.predict_proba(rows)[:, 1]
    report = {
        "top": gate.top,
        "log_share": gate.log_share,
        "intercept": gate.intercept,
        "auroc": float(roc_auc_score(right, chance, sample_weight=weights)),
        "kept_at_half": float((chance[right] >= 0.5).mean()),
        "caught_at_half": float((chance[~right] < 0.5).mean()),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
