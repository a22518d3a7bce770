"""Is a tool needed at all? MetaTool's awareness queries, in five folds.

    MOMA_DATA=../shared/data python benchmarks/awareness.py

Agents are MetaTool's 199 tools with 10 train rows each; rows that repeat an awareness query (cosine
0.95 and more) are left out, since 180 of its 273 queries that need a tool are train rows. In each
fold the other folds' queries that need a tool join that tool's examples, and those that need none
are the negatives. Reports the AUROC of a decision's probability ("this agent is right") and of its
first factor ("some agent fits"), of both without the scope (`moma_core.agents.gate`), and
what the fitted gate keeps and catches. Writes benchmarks/results/awareness.json.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from moma_core import AgentCard, RoutingEncoder
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.data import LabelledQueries, read_agents, with_examples
from moma_core.agents.gate import Negatives
from moma_core.agents.reranker import exemplars, shortlist
from moma_core.agents.training import train
from moma_core.registry.memory import MemoryRegistry

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path("benchmarks/results/awareness.json")
SHOTS, FOLDS, SAME, SEED = 10, 5, 0.95, 0


class Remembering:
    """The packaged encoder, which encodes each text once for all folds."""

    def __init__(self) -> None:
        self._inner = RoutingEncoder()
        self._known: dict[str, np.ndarray] = {}
        self.fingerprint, self.dimension = self._inner.fingerprint, self._inner.dimension

    def encode(self, texts):  # noqa: D102 - the protocol says it
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known.update(zip(new, self._inner.encode(new), strict=True))
        known = [self._known[text] for text in texts]
        return np.array(known, dtype=np.float32).reshape(-1, self.dimension)


def tools(asked: list[str], encoder: Remembering) -> list[AgentCard]:
    """Return the tools with examples that repeat none of the queries asked."""
    table = pq.read_table(DATA / "metatool_queries.parquet")
    table = table.filter(pc.equal(table["split"], "train")).to_pydict()
    rows = LabelledQueries(tuple(table["query"]), tuple(map(tuple, table["agents"])))
    nearest = (encoder.encode(rows.texts) @ encoder.encode(asked).T).max(axis=1)
    fresh = np.flatnonzero(nearest < SAME)
    rows = LabelledQueries(
        tuple(rows.texts[i] for i in fresh), tuple(rows.agents[i] for i in fresh)
    )
    return with_examples(read_agents(DATA / "metatool_agents.parquet"), rows, SHOTS, SEED)


def chances(cards: list[AgentCard], negatives: list[str], asked: list[str], encoder) -> dict:
    """Return each kind of chance for the queries asked, shape (n,), and the threshold."""
    catalog = AgentCatalog(encoder, MemoryRegistry())
    catalog.add(*cards)
    trained = train(catalog.snapshot, Negatives.of(negatives, encoder))
    vectors = encoder.encode(asked)
    features = trained.ranker.features(asked, vectors)
    best = shortlist(
        trained.ranker.scores(features),
        vectors,
        lambda agent: exemplars(catalog.snapshot.records[agent]),
    )
    seen = best.signals(trained.exemplar_weight, trained.scope.logits(features))
    gate = trained.gate
    blind = replace(trained.gate, fits=replace(gate.fits, scope=0.0))
    return {
        "this agent is right": gate.probabilities(seen),
        "some agent fits": gate.fits.probabilities(seen),
        "some agent fits, less its scope": blind.fits.probabilities(seen),
        "scope alone": seen.scope,
        "threshold": gate.threshold,
    }


def main() -> None:
    table = pq.read_table(DATA / "metatool_awareness.parquet").to_pydict()
    asked, needed = table["query"], np.array(table["needs_tool"], dtype=bool)
    encoder = Remembering()
    cards = tools(asked, encoder)
    found: dict[str, list[float]] = {}
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    for number, (known, fresh) in enumerate(folds.split(needed, needed)):
        own: dict[str, list[str]] = {}
        for i in known[needed[known]]:
            own.setdefault(table["tool"][i], []).append(asked[i])
        shown = [replace(c, examples=(*c.examples, *own.get(c.name, ()))) for c in cards]
        negatives = [asked[i] for i in known[~needed[known]]]
        told = chances(shown, negatives, [asked[i] for i in fresh], encoder)
        taken = told["this agent is right"] >= told.pop("threshold")
        for kind, values in told.items():
            found.setdefault(f"auroc, {kind}", []).append(roc_auc_score(needed[fresh], values))
        found.setdefault("needing a tool, taken", []).append(taken[needed[fresh]].mean())
        found.setdefault("needing none, caught", []).append(1 - taken[~needed[fresh]].mean())
        print(number, {kind: round(values[-1], 4) for kind, values in found.items()}, flush=True)
    report = {kind: float(np.mean(values)) for kind, values in found.items()}
    report |= {"shots": SHOTS, "folds": FOLDS, "seed": SEED}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
