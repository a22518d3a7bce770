"""Choose the gate's threshold for catalogs with few examples and no negatives of the user's.

    MOMA_DATA=../shared/data python benchmarks/few_examples.py

Draws catalogs of 12 to 40 agents with 3 to 6 examples each from CLINC150, MetaTool and banking50,
and catalogs of 12 with 0 and with 4 for the adapters' closed lists; train rows alone. Asks each for
held-out queries of its agents and for foreign ones: of the data set's other agents, CLINC150's
out-of-scope rows, and the other data sets, a third each. For every threshold, the mean over data
sets of what is right, wrong and abstained among a catalog's own queries, the share of foreign ones
caught, and the cost of traffic of which `FOREIGN` is foreign: 1 for an abstention, 2 for a wrong
agent. "chosen" is the cheapest threshold on the two other data sets.

Writes benchmarks/results/few_examples.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from shots import Remembered

from moma_core import AgentCard, Query
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.data import read_agents
from moma_core.agents.gate import Negatives
from moma_core.agents.reranker import Reranker
from moma_core.agents.router import AgentRouter
from moma_core.decision import Handled
from moma_core.registry.memory import MemoryRegistry

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path("benchmarks/results/few_examples.json")
NAMES = ("clinc150", "metatool", "banking50")
KINDS = {"open": (12, 40, 3, 6), "closed, 4 examples": (12, 12, 4, 4), "closed": (12, 12, 0, 0)}
THRESHOLDS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8)
CATALOGS, ASKED, FOREIGN, SEED = 20, 8, 0.1, 0
READER = Reranker()


@dataclass(frozen=True)
class Source:
    """One data set's cards, and its train queries by agent; "" has those that want none."""

    cards: dict[str, AgentCard]
    queries: dict[str, list[str]]


@dataclass(frozen=True)
class Asked:
    """Chances of a catalog's own queries and whether the gate took them, shape (n, 2) each.

    Whether the best agent was right, (n,); the same of foreign queries, by origin.
    """

    own: np.ndarray
    right: np.ndarray
    foreign: list[np.ndarray]

    def at(self, least: float | None) -> np.ndarray:
        """Return right, wrong, abstained, caught and the cost, (5,); None: as the gate did."""

        def took(asked: np.ndarray) -> np.ndarray:
            return asked[:, 1] > 0 if least is None else asked[:, 0] >= least

        taken = took(self.own)
        right, wrong = (taken & self.right).mean(), (taken & ~self.right).mean()
        away, caught = (~taken).mean(), np.mean([(~took(f)).mean() for f in self.foreign])
        cost = (1 - FOREIGN) * (2 * wrong + away) + FOREIGN * 2 * (1 - caught)
        return np.array([right, wrong, away, caught, cost])


def load(name: str) -> Source:
    table = pq.read_table(DATA / f"{name}_queries.parquet")
    table = table.filter(pc.equal(table["split"], "train")).to_pydict()
    queries: dict[str, dict[str, None]] = {}
    for text, agents in zip(table["query"], table["agents"], strict=True):
        if len(agents) < 2 and text.strip():
            queries.setdefault(agents[0] if agents else "", {})[text] = None
    cards = {card.name: card for card in read_agents(DATA / f"{name}_agents.parquet")}
    return Source(cards, {agent: list(texts) for agent, texts in queries.items()})


def some(texts: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    return [texts[i] for i in rng.permutation(len(texts))[:count]]


def ask(name: str, sources: dict[str, Source], kind: str, encoder: Remembered, rng) -> Asked:
    low, high, least, most = KINDS[kind]
    source = sources[name]
    known = [a for a, q in source.queries.items() if a and len(q) >= most + ASKED]
    size = min(int(np.exp(rng.uniform(np.log(low), np.log(high + 1)))), len(known) - 8)
    shots, order = int(rng.integers(least, most + 1)), rng.permutation(len(known))
    chosen, others = [known[i] for i in order[:size]], [known[i] for i in order[size:]]
    drawn = {agent: some(source.queries[agent], shots + ASKED, rng) for agent in chosen}
    catalog = AgentCatalog(encoder, MemoryRegistry())
    catalog.add(
        *(
            replace(source.cards[agent], examples=tuple(drawn[agent][:shots]), categories=())
            for agent in chosen
        )
    )
    router = AgentRouter(catalog, negatives=Negatives.of((), encoder), reranker=READER)
    own = [(text, agent) for agent in chosen for text in drawn[agent][shots:]]
    pools = (
        [text for agent in others for text in source.queries[agent]],
        sources["clinc150"].queries[""],
        [t for n, s in sources.items() if n != name for a, q in s.queries.items() if a for t in q],
    )
    foreign = [some(pool, len(own) // 3, rng) for pool in pools]

    def outcomes(texts: list[str]):
        queries = [Query(text) for text in texts]
        return router.route_batch(queries, router.states.encode(queries, encoder))

    def chances(found) -> np.ndarray:
        return np.array([(each.probability, isinstance(each, Handled)) for each in found])

    found = outcomes([text for text, _ in own])
    first = [o.candidates[0].name == w for o, (_, w) in zip(found, own, strict=True)]
    return Asked(chances(found), np.array(first), [chances(outcomes(texts)) for texts in foreign])


def table(asked: dict[str, list[Asked]]) -> dict[str, object]:
    """Return rows by threshold, the gate's own, and what the other data sets would choose."""
    labels = ("right", "wrong", "abstained", "caught", "cost")
    by_data = {
        name: {str(c): np.mean([a.at(c) for a in parts], axis=0) for c in THRESHOLDS}
        | {"the gate's": np.mean([a.at(None) for a in parts], axis=0)}
        for name, parts in asked.items()
    }
    means = {c: np.mean([rows[c] for rows in by_data.values()], axis=0) for c in by_data[NAMES[0]]}
    chosen = {}
    for left in by_data:
        costs = [np.mean([by_data[n][str(c)][4] for n in NAMES if n != left]) for c in THRESHOLDS]
        best = THRESHOLDS[int(np.argmin(costs))]
        chosen[left] = {"threshold": best, "cost": round(float(by_data[left][str(best)][4]), 4)}
    rows = {
        c: {k: round(float(v), 4) for k, v in zip(labels, m, strict=True)} for c, m in means.items()
    }
    return {"thresholds": rows, "chosen without": chosen}


def main() -> None:
    encoder, sources = Remembered(), {name: load(name) for name in NAMES}
    report: dict[str, object] = {"catalogs": CATALOGS, "seed": SEED, "foreign": FOREIGN}
    for i, kind in enumerate(KINDS):
        rng = np.random.default_rng([SEED, i])
        asked = {
            name: [ask(name, sources, kind, encoder, rng) for _ in range(CATALOGS)]
            for name in NAMES
        }
        report[kind] = table(asked)
        print(kind, json.dumps(report[kind], indent=1), flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
