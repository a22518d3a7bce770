"""Fit the gate's defaults: agents known by their descriptions alone.

    MOMA_DATA=../shared/data python benchmarks/cold_gate.py

Draws catalogs of 3 to 200 agents from four data sets with queries of theirs (train rows; Seal-Tools
val rows), takes the wanted agent away from the same queries ("removed"), and adds queries of the
other data sets and CLINC150's out-of-scope train rows ("foreign"). Prints the curve for
`moma_core.agent_routing.gate`, fitted on all four, and what each data set gets from a curve fitted
on the other three: at a threshold of one half, and at the threshold that
`moma_core.agent_routing.crossfit.cold_gate` takes from the background's 95 % quantile.

Writes benchmarks/results/cold_gate.json.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from moma_core.agent_routing.catalog import AgentCatalog, Snapshot
from moma_core.agent_routing.crossfit import cold_threshold
from moma_core.agent_routing.dataset import read_agents
from moma_core.agent_routing.gate import Curve, signals
from moma_core.agent_routing.lexical import document_frequencies, inverse_frequencies
from moma_core.agent_routing.negatives import Negatives
from moma_core.agent_routing.ranker import Features, LinearRanker, description_columns
from moma_core.agent_routing.wording import card_text
from moma_core.encoders import MiniLMEncoder
from moma_core.registry import MemoryRegistry

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path("benchmarks/results/cold_gate.json")
SOURCES = {"metatool": "train", "clinc150": "train", "sealtools": "val", "banking50": "train"}
CATALOGS, QUERIES, MOST, SEED = 30, 40, 3_000, 0


@dataclass(frozen=True)
class Source:
    """One data set: its agents, and queries that want one of them or, out of scope, none."""

    snapshot: Snapshot
    texts: list[str]
    vectors: np.ndarray
    wanted: np.ndarray  # row of the agent, -1 for none


@dataclass(frozen=True)
class Drawn:
    """What the gate sees of one catalog: signals, whether right, weights, kinds, background."""

    seen: np.ndarray
    right: np.ndarray
    weights: np.ndarray
    kind: np.ndarray  # 0 the catalog's own queries, 1 their agent removed, 2 foreign
    background: np.ndarray


def load(name: str, split: str, encoder: MiniLMEncoder) -> Source:
    table = pq.read_table(DATA / f"{name}_queries.parquet")
    table = table.filter(pc.equal(table["split"], split)).to_pydict()
    pairs = [(q, a) for q, a in zip(table["query"], table["agents"], strict=True) if len(a) < 2]
    pairs = [pairs[i] for i in np.random.default_rng(SEED).permutation(len(pairs))[:MOST]]
    cards = [replace(card, categories=()) for card in read_agents(DATA / f"{name}_agents.parquet")]
    catalog = AgentCatalog(encoder, MemoryRegistry())
    catalog.add(*cards)
    place = catalog.snapshot.position
    wanted = np.array([place[a[0]] if a else -1 for _, a in pairs])
    texts = [q for q, _ in pairs]
    return Source(catalog.snapshot, texts, encoder.encode(texts), wanted)


def draw(source: Source, others: list[Source], negatives: Negatives, rng) -> Drawn:
    snapshot, size = source.snapshot, int(np.exp(rng.uniform(np.log(3), np.log(200))))
    inside = np.flatnonzero(source.wanted >= 0)
    queries = inside[rng.permutation(inside.size)[:QUERIES]]
    # Some agents that the queries want, the rest at random.
    first = source.wanted[queries][: max(size // 2, 1)]
    fill = rng.permutation(len(snapshot.records))
    chosen = np.array(list(dict.fromkeys([*first, *fill]))[:size])
    cards = [card_text(snapshot.records[i].card) for i in chosen]
    idf = inverse_frequencies(document_frequencies(cards), len(cards))
    described = Features.of(cards, snapshot.descriptions[chosen], idf)
    ranker = LinearRanker([str(i) for i in chosen], description_columns(described), idf)
    place = {agent: i for i, agent in enumerate(chosen)}
    queries = np.array([i for i in queries if source.wanted[i] in place])
    owners = np.array([place[source.wanted[i]] for i in queries])
    logits = ranker.logits([source.texts[i] for i in queries], source.vectors[queries])
    n = len(queries)
    seen, right = [signals(logits).rows()], [logits.argmax(axis=1) == owners]
    logits[np.arange(n), owners] = -1e6
    seen.append(signals(logits).rows())
    texts, vectors = [], []
    for other in others:
        picked = rng.permutation(len(other.texts))[: n // len(others) + 1]
        texts += [other.texts[i] for i in picked]
        vectors.append(other.vectors[picked])
    seen.append(signals(ranker.logits(texts, np.concatenate(vectors))).rows())
    far = negatives.foreign_to(snapshot.descriptions[chosen])
    background = signals(ranker.logits(far.texts, far.vectors)).rows()
    kind = np.repeat([0, 1, 2], [n, n, len(texts)])
    weights = np.concatenate(
        [np.ones(n), np.full(n, 0.4), np.full(len(texts), 0.4 * n / len(texts))]
    )
    right.append(np.zeros(n + len(texts), dtype=bool))
    return Drawn(np.concatenate(seen), np.concatenate(right), weights, kind, background)


def fit(drawn: list[list[Drawn]]) -> Curve:
    """Return the curve of several data sets, each counting the same."""
    parts = [part for parts in drawn for part in parts]
    shares = [
        part.weights / sum(p.weights.sum() for p in parts) for parts in drawn for part in parts
    ]
    weights = np.concatenate(shares) * sum(part.weights.size for part in parts)
    rows = np.concatenate([part.seen for part in parts])[:, :2]
    fitted = LogisticRegression(C=1e3).fit(
        rows, np.concatenate([part.right for part in parts]), sample_weight=weights
    )
    return Curve(*map(float, fitted.coef_[0]), float(fitted.intercept_[0]))


def chances(curve: Curve, rows: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-(rows[:, :2] @ [curve.top, curve.log_share] + curve.intercept)))


def measure(curve: Curve, drawn: list[Drawn]) -> dict[str, float]:
    """Return AUROC, and for both thresholds the mean over catalogs of what is kept and caught."""
    every = [chances(curve, part.seen) for part in drawn]
    right = np.concatenate([part.right for part in drawn])
    weights = np.concatenate([part.weights for part in drawn])
    report = {"auroc": float(roc_auc_score(right, np.concatenate(every), sample_weight=weights))}
    for label in ("half", "background"):
        rows = []
        for part, chance in zip(drawn, every, strict=True):
            least = 0.5 if label == "half" else cold_threshold(chances(curve, part.background))
            taken, own = chance >= least, part.kind == 0
            rows.append(
                (
                    taken[part.right].mean() if part.right.any() else np.nan,
                    (taken & ~part.right)[own].mean(),
                    1 - taken[part.kind == 1].mean(),
                    1 - taken[part.kind == 2].mean(),
                )
            )
        names = ("right kept", "wrong taken", "removed caught", "foreign caught")
        means = np.nanmean(rows, axis=0)
        report |= {f"{name} at {label}": float(v) for name, v in zip(names, means, strict=True)}
    return report


def main() -> None:
    encoder, rng = MiniLMEncoder(), np.random.default_rng(SEED)
    negatives = Negatives.of((), encoder)
    sources = {name: load(name, split, encoder) for name, split in SOURCES.items()}
    drawn = {
        name: [
            draw(source, [s for n, s in sources.items() if n != name], negatives, rng)
            for _ in range(CATALOGS)
        ]
        for name, source in sources.items()
    }
    curve = fit(list(drawn.values()))
    report: dict[str, object] = {
        "curve": {k: getattr(curve, k) for k in ("top", "log_share", "intercept")}
    }
    for name in SOURCES:
        left = fit([parts for other, parts in drawn.items() if other != name])
        report[f"{name}, by the others' curve"] = measure(left, drawn[name])
    for name, row in report.items():
        print(name, json.dumps(row), flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
