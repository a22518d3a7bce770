"""Ours beside semantic-router and LlamaIndex's EmbeddingSingleSelector, on the same vectors.

    pip install semantic-router==1.1.1 "llama-index-core>=0.14,<0.15"
    MOMA_DATA=../shared/data python benchmarks/agents_vs_peers.py

CLINC150, 20 train examples an agent and the train queries that no agent takes; figures are of val.
Every threshold is fitted on train rows: ours by `fit`, a peer's on held-out shots (every fifth) and
the same negatives, as the largest sum of right ones kept and negatives caught. A peer that is not
installed is skipped. Writes benchmarks/results/agents_vs_peers.json.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score

from moma_core import AgentCard, MoMARouter, RoutingEncoder
from moma_core.agents.data import LabelledQueries, read_agents, read_queries, with_examples
from moma_core.agents.reranker import Reranker

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path("benchmarks/results/agents_vs_peers.json")
SEED, SHOTS, HELD_OUT = 0, 20, 5
TIMED, SLOW = 200, 10  # queries timed; of LlamaIndex, which encodes every choice, each tenth

Choice = tuple[str, float]  # the agent picked, and how sure
Chooser = Callable[[str], Choice]


class Remembered:
    """The packaged encoder; texts seen before are looked up while ``looking_up``."""

    def __init__(self) -> None:
        self.inner = RoutingEncoder(threads=1)
        self.fingerprint, self.dimension = self.inner.fingerprint, self.inner.dimension
        self.looking_up = True
        self.seen: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:  # noqa: D102
        if not self.looking_up:
            return self.inner.encode(texts)
        new = [text for text in dict.fromkeys(texts) if text not in self.seen]
        self.seen |= dict(zip(new, self.inner.encode(new), strict=True))
        rows = np.array([self.seen[text] for text in texts], dtype=np.float32)
        return rows.reshape(len(texts), self.dimension)


def read(split: str) -> LabelledQueries:
    whole = pq.read_table(DATA / "clinc150_queries.parquet")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        pq.write_table(whole.filter(pc.equal(whole["split"], split)), path)
        return read_queries(path)


def semantic_router(cards: Sequence[AgentCard], encoder: Remembered, how: str) -> Chooser:
    from semantic_router import Route
    from semantic_router.encoders import DenseEncoder
    from semantic_router.routers import IndexedRouter

    class Ours(DenseEncoder):
        name: str = "minilm"

        def __call__(self, docs: list[str]) -> list[list[float]]:
            return encoder.encode(docs).tolist()

    routes = [Route(name=c.name, utterances=list(c.examples)) for c in cards]
    router = IndexedRouter(Ours(), routes, aggregation=how)

    def choose(text: str) -> Choice:
        found = router(text)
        return found.name, found.confidence

    return choose


def llama_index(cards: Sequence[AgentCard], encoder: Remembered) -> Chooser:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.selectors import EmbeddingSingleSelector
    from llama_index.core.tools import ToolMetadata

    class Ours(BaseEmbedding):
        def _get_text_embedding(self, text: str) -> list[float]:
            return encoder.encode([text])[0].tolist()

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    choices = [ToolMetadata(name=c.name, description=c.description) for c in cards]
    vectors = encoder.encode([c.description for c in cards])
    selector = EmbeddingSingleSelector.from_defaults(embed_model=Ours())

    def choose(text: str) -> Choice:
        index = selector.select(choices, text).selections[0].index
        sure = float(vectors[index] @ encoder.encode([text])[0]) if encoder.looking_up else 0.0
        return cards[index].name, sure

    return choose


def threshold(sure: np.ndarray, right: np.ndarray, negatives: np.ndarray) -> float:
    """Return the cut with the largest sum of right ones kept and negatives caught."""
    cuts = np.unique(np.concatenate([sure, negatives]))
    kept = [(right & (sure >= cut)).mean() for cut in cuts]
    caught = [(negatives < cut).mean() for cut in cuts]
    return float(cuts[int(np.argmax(np.add(kept, caught)))])


def scored(choose: Chooser, asked: LabelledQueries) -> tuple[np.ndarray, np.ndarray]:
    """Return how sure each choice is, and whether it is right."""
    choices = [choose(text) for text in asked.texts]
    right = [name in wanted for (name, _), wanted in zip(choices, asked.agents, strict=True)]
    return np.array([sure for _, sure in choices]), np.array(right)


def peer(
    build: Callable[[Sequence[AgentCard]], Chooser],
    cards: Sequence[AgentCard],
    negatives: Sequence[str],
    asked: LabelledQueries,
) -> dict[str, float]:
    shown = [AgentCard(c.name, c.description, examples=_shots(c, held=False)) for c in cards]
    held = [(text, (c.name,)) for c in cards for text in _shots(c, held=True)]
    held_out = LabelledQueries(tuple(t for t, _ in held), tuple(w for _, w in held))
    choose = build(shown)
    sure, right = scored(choose, held_out)
    cut = threshold(sure, right, np.array([choose(text)[1] for text in negatives]))
    sure, right = scored(build(cards), asked)
    return figures(sure, right, sure >= cut, asked)


def _shots(card: AgentCard, *, held: bool) -> tuple[str, ...]:
    return tuple(t for i, t in enumerate(card.examples) if (i % HELD_OUT == 0) is held)


def figures(sure, right, accepted, asked: LabelledQueries) -> dict[str, float]:
    inside = np.array([bool(wanted) for wanted in asked.agents])
    return {
        "in_scope_top1": float(right[inside].mean()),
        "oos_auroc": float(roc_auc_score(inside, sure)),
        "kept_in_scope_top1": float((right & accepted)[inside].mean()),
        "oos_recall": float((~accepted[~inside]).mean()),
    }


def ours(
    cards: Sequence[AgentCard], negatives: Sequence[str], asked, encoder: Remembered
) -> tuple[dict[str, float], Chooser]:
    router = MoMARouter.from_cards(  # the reranker goes with the packaged encoder; this wraps it
        cards, llms=None, encoder=encoder, negatives=negatives, reranker=Reranker()
    )
    router.fit()
    rankings = router.rank(asked.texts)
    sure = np.array([ranking.best_probability for ranking in rankings])
    best = [ranking[0].name for ranking in rankings]
    right = np.array([name in wanted for name, wanted in zip(best, asked.agents, strict=True)])
    accepted = np.array([ranking.fits for ranking in rankings])

    def choose(text: str) -> Choice:
        ranking = router.rank(text)
        return ranking[0].name, ranking.best_probability

    return figures(sure, right, accepted, asked), choose


def milliseconds(
    choosers: dict[str, Chooser], encoder: Remembered, texts: Sequence[str]
) -> dict[str, float]:
    """Return the median of each, encoding included, taken in turn so that noise hits all alike."""
    encoder.looking_up = False
    times: dict[str, list[float]] = {name: [] for name in choosers}
    for i, text in enumerate(texts[:: len(texts) // TIMED][:TIMED]):
        for name, choose in choosers.items():
            if name.startswith("llama") and i % SLOW:
                continue
            start = time.perf_counter()
            choose(text)
            times[name].append(time.perf_counter() - start)
    encoder.looking_up = True
    return {name: float(np.median(taken) * 1e3) for name, taken in times.items()}


def main() -> None:
    encoder, train, asked = Remembered(), read("train"), read("val")
    cards = with_examples(read_agents(DATA / "clinc150_agents.parquet"), train, SHOTS, SEED)
    negatives = train.negatives()
    report: dict[str, object] = {
        "data": "clinc150 train -> val",
        "seed": SEED,
        "shots": SHOTS,
        "negatives": len(negatives),
        "queries": len(asked),
        "rows": (rows := {}),
    }
    choosers: dict[str, Chooser] = {}
    rows["moma-router"], choosers["moma-router"] = ours(cards, negatives, asked, encoder)
    peers = {
        "semantic-router mean": lambda some: semantic_router(some, encoder, "mean"),
        "semantic-router max": lambda some: semantic_router(some, encoder, "max"),
        "llama-index embedding": lambda some: llama_index(some, encoder),
    }
    for name, build in peers.items():
        try:
            choosers[name] = build(cards)
        except ImportError as error:
            print(f"{name}: skipped, {error}. See the docstring for what to install.")
            continue
        rows[name] = peer(build, cards, negatives, asked)
    for name, taken in milliseconds(choosers, encoder, asked.texts).items():
        rows[name]["ms"] = taken
    for package in ("semantic-router", "llama-index-core"):
        try:
            report[package] = version(package)
        except ImportError:
            report[package] = None
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    show(report)


def show(report) -> None:
    print(f"{report['data']}, {report['shots']} shots, seed {report['seed']}")
    print(f"{'':24}{'top-1':>8}{'AUROC':>8}{'kept':>8}{'caught':>8}{'ms':>10}")
    for name, row in report["rows"].items():
        print(f"{name:24}" + "".join(f"{v:8.3f}" for v in list(row.values())[:4]), end="")
        print(f"{row['ms']:10.1f}")


if __name__ == "__main__":
    main()
