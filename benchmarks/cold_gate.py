"""Fit the gate's curve for agents known by their descriptions alone, and judge its threshold.

    MOMA_DATA=../shared/data python benchmarks/cold_gate.py

Draws catalogs of 1 to 200 agents from five data sets with queries of theirs (train rows; Seal-Tools
val rows; all of lobe). Beside those stand queries that no agent of the drawn catalog fits: the same
ones with their agent taken away ("removed"), those of the data set's other agents ("near"), of the
other data sets ("far"), and CLINC150's out-of-scope train rows ("oos").

A curve's inputs are what `moma_core.agents.router` gives it. Every data set is judged by a
curve fitted on the others, at the threshold of `moma_core.agents.training.cold_threshold`,
beside the curve of two signals that was there before; benchmarks/llamaindex_corpus.toml is judged
only. Cost: 1 for an abstention, 2 for a wrong agent, `FOREIGN` of the traffic being foreign.
"shipped" is the curve fitted on all five, `moma_core.agents.gate.DESCRIPTIONS_CURVE`.

Writes benchmarks/results/cold_gate.json.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from moma_core import AgentCard, RoutingEncoder
from moma_core.agents.catalog import AgentCatalog, Snapshot
from moma_core.agents.data import read_agents
from moma_core.agents.gate import Curve, Gate, Negatives, Signals
from moma_core.agents.reranker import cold_start_features, shortlist
from moma_core.agents.training import Trained, cold_threshold, train
from moma_core.registry.memory import MemoryRegistry

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
CORPUS = Path(__file__).with_name("llamaindex_corpus.toml")
OUT = Path("benchmarks/results/cold_gate.json")
SOURCES = {
    "metatool": "train",
    "clinc150": "train",
    "sealtools": "val",
    "banking50": "train",
    "lobe": "weak",
}
JUDGED_ONLY = "llamaindex"
KINDS = ("own", "removed", "near", "far", "oos")
CATALOGS, QUERIES, MOST, SEED = 30, 40, 1_500, 0
FOREIGN, SHARE = 0.1, 0.15  # of the traffic; weight of each foreign kind in a fit, own ones 1


@dataclass(frozen=True)
class Source:
    """One data set: its agents, and queries that want one of them or, out of scope, none."""

    snapshot: Snapshot
    texts: list[str]
    vectors: np.ndarray
    wanted: np.ndarray  # row of the agent, -1 for none


@dataclass(frozen=True)
class Drawn:
    """What the gate sees of one catalog's queries, and of the background."""

    seen: Signals
    right: np.ndarray
    kind: np.ndarray  # index of KINDS
    background: Signals

    @property
    def weights(self) -> np.ndarray:
        """Of a fit, shape (n,): own queries sum to 1, those of each other kind to `SHARE`."""
        counts = np.bincount(self.kind, minlength=len(KINDS))
        return np.where(self.kind == 0, 1.0, SHARE) / counts[self.kind]


def sourced(cards: Sequence[AgentCard], pairs: Sequence[tuple], encoder: RoutingEncoder) -> Source:
    catalog = AgentCatalog(encoder, MemoryRegistry())
    catalog.add(*cards)
    place = catalog.snapshot.position
    texts = [query for query, _ in pairs]
    wanted = np.array([place[agents[0]] if agents else -1 for _, agents in pairs])
    return Source(catalog.snapshot, texts, encoder.encode(texts), wanted)


def load(name: str, split: str, encoder: RoutingEncoder) -> Source:
    table = pq.read_table(DATA / f"{name}_queries.parquet")
    table = table.filter(pc.equal(table["split"], split)).to_pydict()
    pairs = [(q, a) for q, a in zip(table["query"], table["agents"], strict=True) if len(a) < 2]
    pairs = [pairs[i] for i in np.random.default_rng(SEED).permutation(len(pairs))[:MOST]]
    cards = [replace(card, categories=()) for card in read_agents(DATA / f"{name}_agents.parquet")]
    return sourced(cards, pairs, encoder)


def corpus(encoder: RoutingEncoder) -> Source:
    told = tomllib.loads(CORPUS.read_text(encoding="utf-8"))
    cards = [AgentCard(engine["name"], engine["description"]) for engine in told["engine"]]
    pairs = [(q, [e["name"]]) for e in told["engine"] for q in e["questions"]]
    return sourced(cards, [*pairs, *((q, []) for q in told["out_of_scope"]["questions"])], encoder)


def look(
    trained: Trained, snapshot: Snapshot, texts: list[str], vectors: np.ndarray, owners=None
) -> tuple[Signals, np.ndarray]:
    """Return what the gate sees, and the best agents; ``owners`` are not eligible."""
    best = shortlist(trained.ranker.logits(texts, vectors), vectors, None)
    best = best if owners is None else best.without(owners)
    rows = np.arange(len(snapshot.records))
    cold = cold_start_features(best, 0.0, vectors, rows, snapshot)
    return replace(best.signals(0.0), cold=cold), best.best(0.0)


def joined(parts: Sequence[Signals]) -> Signals:
    return Signals(
        np.concatenate([part.top for part in parts]),
        np.concatenate([part.log_share for part in parts]),
        cold=np.concatenate([part.cold for part in parts]),
    )


def draw(name: str, sources: dict[str, Source], negatives: Negatives, rng) -> Drawn:
    source = sources[name]
    inside = np.flatnonzero(source.wanted >= 0)
    most, total = (inside.size, 12) if name == JUDGED_ONLY else (QUERIES, 200)
    size = min(int(np.exp(rng.uniform(np.log(1), np.log(total)))), len(source.snapshot.records))
    size = len(source.snapshot.records) if name == JUDGED_ONLY else size
    asked = rng.permutation(inside)
    # Some agents that the queries want, the rest at random.
    first = source.wanted[asked[:most]][: max(size // 2, 1)]
    fill = rng.permutation(len(source.snapshot.records))
    chosen = np.array(list(dict.fromkeys([*first, *fill]))[:size])
    records = tuple(source.snapshot.records[i] for i in chosen)
    snapshot = Snapshot(records, source.snapshot.dimension)
    trained = train(snapshot, Negatives((), negatives.vectors[:0], 0))
    known = np.isin(source.wanted[asked], chosen)
    own, near = asked[known][:most], asked[~known][: QUERIES // 2]
    place = {agent: i for i, agent in enumerate(chosen)}
    owners = np.array([place[agent] for agent in source.wanted[own]])
    texts, vectors = [source.texts[i] for i in own], source.vectors[own]
    shown, best = look(trained, snapshot, texts, vectors)
    groups, kinds = [shown], [0] * own.size
    if size > 1:
        groups.append(look(trained, snapshot, texts, vectors, owners)[0])
        kinds += [1] * own.size
    for kind, pools in enumerate(foreign(name, near, sources, rng), start=2):
        for other, picked in pools:
            if picked.size:
                texts = [other.texts[i] for i in picked]
                groups.append(look(trained, snapshot, texts, other.vectors[picked])[0])
                kinds += [kind] * picked.size
    far = negatives.foreign_to(snapshot.descriptions)
    background, _ = look(trained, snapshot, list(far.texts), far.vectors)
    right = np.zeros(len(kinds), dtype=bool)
    right[: own.size] = best == owners
    return Drawn(joined(groups), right, np.array(kinds), background)


def foreign(name: str, near: np.ndarray, sources: dict[str, Source], rng) -> list[list[tuple]]:
    """Return queries of the kinds near, far and oos: data sets with rows of theirs."""
    others = [s for other, s in sources.items() if other not in (name, JUDGED_ONLY)]
    far = [(s, rng.permutation(np.flatnonzero(s.wanted >= 0))[: QUERIES // 8]) for s in others]
    clinc = sources["clinc150"]
    oos = [(clinc, rng.permutation(np.flatnonzero(clinc.wanted < 0))[: QUERIES // 2])]
    if name == JUDGED_ONLY:  # it brings its own
        oos = [(sources[name], np.flatnonzero(sources[name].wanted < 0))]
    return [[(sources[name], near)], far, oos]


def fit(drawn: list[list[Drawn]]) -> Curve:
    """Return the curve of several data sets, each counting the same."""
    parts = [part for parts in drawn for part in parts]
    seen = joined([part.seen for part in parts])
    rows = np.column_stack([seen.top, seen.log_share, seen.cold])
    middle, spread = rows.mean(axis=0), rows.std(axis=0)
    weights = np.concatenate([part.weights for part in parts])
    fitted = LogisticRegression(C=1.0, max_iter=500).fit(
        (rows - middle) / spread,
        np.concatenate([part.right for part in parts]),
        sample_weight=weights * len(weights) / weights.sum(),
    )
    slopes = fitted.coef_[0] / spread
    top, log_share, lead, cosine = (round(float(s), 3) for s in slopes)
    intercept = round(float(fitted.intercept_[0] - slopes @ middle), 3)
    return Curve(top, log_share, intercept, lead=lead, cosine=cosine)


def threshold_before(chances: np.ndarray) -> float:
    return float(np.clip(np.quantile(chances, 0.95), 0.15, 0.5))


def measure(curve: Curve, threshold: Callable, drawn: list[Drawn]) -> dict[str, float]:
    """Return AUROC of being right, and means over catalogs of what the threshold does."""
    every = [curve.probabilities(part.seen) for part in drawn]
    right = np.concatenate([part.right for part in drawn])
    weights = np.concatenate([part.weights for part in drawn])
    auroc = float(roc_auc_score(right, np.concatenate(every), sample_weight=weights))
    rows = []
    for part, chances in zip(drawn, every, strict=True):
        least, own = threshold(curve.probabilities(part.background)), part.kind == 0
        taken = chances >= least
        row = [least, (taken & part.right)[own].mean(), (taken & ~part.right)[own].mean()]
        kinds = [
            1 - taken[part.kind == k].mean() if k in part.kind else np.nan for k in range(1, 5)
        ]
        away = 1 - row[1] - row[2]
        cost = (1 - FOREIGN) * (2 * row[2] + away) + FOREIGN * 2 * (1 - np.nanmean(kinds[1:]))
        rows.append([*row, away, *kinds, cost, part.right[own].mean()])
    labels = ["threshold", "right", "wrong", "abstained"]
    labels += [f"{kind} caught" for kind in KINDS[1:]] + ["cost", "top1"]
    columns = np.array(rows).T
    means = [column[~np.isnan(column)] for column in columns]
    report = {n: round(float(m.mean()), 4) for n, m in zip(labels, means, strict=True) if m.size}
    return {"auroc": round(auroc, 4), **report}


def main() -> None:
    encoder, rng = RoutingEncoder(), np.random.default_rng(SEED)
    negatives = Negatives.of((), encoder)
    sources = {name: load(name, split, encoder) for name, split in SOURCES.items()}
    sources[JUDGED_ONLY] = corpus(encoder)
    drawn = {
        name: [
            draw(name, sources, negatives, rng)
            for _ in range(1 if name == JUDGED_ONLY else CATALOGS)
        ]
        for name in sources
    }
    shipped = fit([drawn[name] for name in SOURCES])
    report: dict[str, object] = {"shipped": {k: v for k, v in vars_of(shipped).items() if v}}
    for name in sources:
        left = fit([drawn[other] for other in SOURCES if other != name])
        report[name] = {
            "before": measure(Gate().fits, threshold_before, drawn[name]),
            "by the others' curve": measure(left, cold_threshold, drawn[name]),
            "shipped": measure(shipped, cold_threshold, drawn[name]),
        }
    for name, row in report.items():
        print(name, json.dumps(row, indent=1), flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")


def vars_of(curve: Curve) -> dict[str, float]:
    return {name: getattr(curve, name) for name in Curve.__slots__}


if __name__ == "__main__":
    main()
