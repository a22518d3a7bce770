"""What examples are worth: 0, 1, 2, 3, 5, 8, 10 an agent; half of the agents with ten; a newcomer.

    MOMA_DATA=../shared/data python benchmarks/shots.py [set ...] [--count 250] [--shots 0 1 ...]

MetaTool, CLINC150 (150 names) and banking50, val rows for questions and train rows for examples
(nested: the first m of one shuffle); out of scope is the set's own (CLINC150's rows, MetaTool's
awareness rows; banking50: CLINC150's). For each number of examples, with and without the reranker:
right first, and at the default gate kept, wrong, caught, AUROC beside the cosine's (nearest
description or example), calibration error over own and foreign queries, milliseconds a query beside
the encoder's own, how often the reranker was asked. "half": ten examples for every second agent,
right first of the queries of those with and without, beside descriptions alone. "newcomer": one
agent in eight has none and is added beside the others, which have ten. Writes
benchmarks/results/shots.json with reliability bins.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score

from moma_core import AgentCard, MoMARouter, RoutingEncoder
from moma_core.agents.data import read_agents
from moma_core.agents.reranker import Reranker
from moma_core.training.evaluate_agents import calibration_error, reliability

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path(__file__).parent / "results" / "shots.json"
SETS = ("metatool", "clinc150", "banking50")
SHOTS = (0, 1, 2, 3, 5, 8, 10)
FOREIGN, SEED, EVERY = 150, 0, 8


class Remembered(RoutingEncoder):
    """The packaged encoder; each text is encoded once."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self.seen: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:  # noqa: D102 - the protocol says it
        new = [text for text in dict.fromkeys(texts) if text not in self.seen]
        self.seen |= dict(zip(new, super().encode(new), strict=True))
        rows = np.array([self.seen[text] for text in texts], dtype=np.float32)
        return rows.reshape(len(texts), self.dimension)


class Counted(Reranker):
    """The packaged reranker, counting its calls."""

    asked = 0

    def logits(self, query: str, cards: Sequence[AgentCard], *more: object) -> np.ndarray:
        """Count, and read."""
        self.asked += 1
        return super().logits(query, cards, *more)


class Data:
    """Cards, questions with what they want, examples by agent, questions out of scope."""

    def __init__(self, name: str, count: int) -> None:
        rng = np.random.default_rng(SEED)
        rows = pq.read_table(DATA / f"{name}_queries.parquet").to_pylist()
        rows = [rows[i] for i in rng.permutation(len(rows)) if rows[i]["query"].strip()]
        cards = read_agents(DATA / f"{name}_agents.parquet")
        self.cards = [replace(card, categories=(), examples=()) for card in cards]
        asked = [r for r in rows if r["split"] == "val" and r["agents"]][:count]
        self.asked = [(r["query"], frozenset(r["agents"])) for r in asked]
        self.examples: dict[str, list[str]] = defaultdict(list)
        for r in rows:
            if r["split"] == "train" and len(r["agents"]) == 1:
                self.examples[r["agents"][0]].append(r["query"])
        if name == "metatool":
            table = pq.read_table(DATA / "metatool_awareness.parquet").to_pylist()
            foreign = [r["query"] for r in table if not r["needs_tool"]]
        else:
            table = pq.read_table(DATA / "clinc150_queries.parquet").to_pylist()
            foreign = [r["query"] for r in table if r["split"] != "train" and not r["agents"]]
        self.foreign = [foreign[i] for i in rng.permutation(len(foreign))[:FOREIGN]]

    def known(self, shots: dict[str, int]) -> list[AgentCard]:
        """Return the cards with so many examples each."""
        return [
            replace(card, examples=tuple(self.examples[card.name][: shots[card.name]]))
            for card in self.cards
        ]


def right_first(rankings: Sequence, asked: Sequence[tuple[str, frozenset[str]]]) -> np.ndarray:
    return np.array([bool(r) and r[0].name in w for r, (_, w) in zip(rankings, asked, strict=True)])


def cosine(cards: Sequence[AgentCard], texts: Sequence[str], encoder: Remembered) -> np.ndarray:
    """Return each text's largest cosine with a description or example."""
    known = [f"{c.name.replace('_', ' ')}: {c.description}" for c in cards]
    known += [example for card in cards for example in card.examples]
    return (encoder.encode(texts) @ encoder.encode(known).T).max(axis=1)


def one(data: Data, shots: int, encoder: Remembered, reranker: Counted | None) -> dict:
    cards = data.known(defaultdict(lambda: shots))
    router = MoMARouter.from_cards(cards, llms=None, encoder=encoder, reranker=reranker)
    router.fit()
    texts = [text for text, _ in data.asked] + data.foreign
    inside = np.arange(len(texts)) < len(data.asked)
    near = cosine(cards, texts, encoder)
    asked = reranker.asked if reranker else 0
    times = []
    rankings = []
    for text in texts:
        start = time.perf_counter()
        rankings.append(router.rank(text, 5))
        times.append(time.perf_counter() - start)
    right = np.zeros(len(texts), dtype=bool)
    right[inside] = right_first(rankings[: len(data.asked)], data.asked)
    taken = np.array([r.fits for r in rankings])
    sure = np.array([r.best_probability for r in rankings])
    bins = reliability(sure, right)
    return {
        "right_first": float(right[inside].mean()),
        "kept": float((right & taken)[inside].mean()),
        "wrong": float((~right & taken)[inside].mean()),
        "caught": float((~taken[~inside]).mean()),
        "auroc": float(roc_auc_score(inside, [r.probability for r in rankings])),
        "auroc_cosine": float(roc_auc_score(inside, near)),
        "calibration_error": calibration_error(bins),
        "reliability": bins.tolist(),
        "reranker_asked": (reranker.asked - asked) / len(texts) if reranker else 0.0,
        "ms_beyond_the_encoder": float(np.median(times) * 1e3),
    }


def of_some(
    data: Data, shots: dict[str, int], names: set[str], encoder: Remembered, reranker: Counted
) -> dict[str, float]:
    """Return right first of the queries of some agents and of the others."""
    router = MoMARouter.from_cards(data.known(shots), llms=None, encoder=encoder, reranker=reranker)
    right = right_first(router.rank([text for text, _ in data.asked], 1), data.asked)
    theirs = np.array([bool(wanted & names) for _, wanted in data.asked])
    return {"those": float(right[theirs].mean()), "others": float(right[~theirs].mean())}


def uneven(data: Data, encoder: Remembered, reranker: Counted) -> dict[str, dict[str, float]]:
    names = [card.name for card in data.cards]
    half, few = set(names[::2]), set(names[::EVERY])
    none = dict.fromkeys(names, 0)
    return {
        "half without, descriptions alone": of_some(data, none, half, encoder, reranker),
        "half without, others ten": of_some(
            data, none | dict.fromkeys(set(names) - half, 10), half, encoder, reranker
        ),
        "newcomers, descriptions alone": of_some(data, none, few, encoder, reranker),
        "newcomers, others ten": of_some(
            data, none | dict.fromkeys(set(names) - few, 10), few, encoder, reranker
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--count", type=int, default=250)
    parser.add_argument("--shots", type=int, nargs="*", default=list(SHOTS))
    options = parser.parse_args()
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    encoder, reranker = Remembered(), Counted(threads=1)
    for name in options.sets:
        data = Data(name, options.count)
        rows = found.setdefault(name, {})
        for shots in options.shots:
            for label, reader in (("moma", reranker), ("no reranker", None)):
                rows[f"{shots} {label}"] = row = one(data, shots, encoder, reader)
                print(
                    name,
                    shots,
                    label,
                    {k: round(v, 3) for k, v in row.items() if k != "reliability"},
                    flush=True,
                )
        rows["uneven"] = uneven(data, encoder, reranker)
        print(name, rows["uneven"], flush=True)
        OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
