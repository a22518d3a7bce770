"""Several agents in one query: does the ordered list hold the wanted agents, and only those?

    MOMA_DATA=../shared/data python benchmarks/several_agents.py

MetaTool: fitted on 10 train rows a tool; "multi" rows want two tools, val rows one. Seal-Tools:
descriptions alone, test_in rows. 300 rows of each at most, drawn with a seed. Reports the share of
wanted agents listed, the share listed that was wanted, and how often a query that wants one agent
is given several. Writes benchmarks/results/several_agents.json.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moma_core import MoMARouter, Query
from moma_core.agents.compound import join, split
from moma_core.agents.data import LabelledQueries, read_agents, with_examples
from moma_core.types import Handled

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path("benchmarks/results/several_agents.json")
SHOTS, MOST, SEED = 10, 300, 0


def rows(table: str, name: str) -> LabelledQueries:
    data = pq.read_table(DATA / f"{table}_queries.parquet")
    data = data.filter(pc.equal(data["split"], name)).to_pydict()
    return LabelledQueries(tuple(data["query"]), tuple(map(tuple, data["agents"])))


def some(queries: LabelledQueries) -> LabelledQueries:
    """Return at most so many of the queries, drawn at random."""
    picked = np.sort(np.random.default_rng(SEED).permutation(len(queries))[:MOST])
    return LabelledQueries(
        tuple(queries.texts[i] for i in picked), tuple(queries.agents[i] for i in picked)
    )


def measure(router: MoMARouter, asked: LabelledQueries) -> dict[str, float]:
    found, wanted_all = [], [set(a) for a in asked.agents]
    for text in asked.texts:
        parts = split(text)
        texts = [text, *parts] if len(parts) > 1 else [text]
        queries, agents = [Query(each) for each in texts], router.agent_router
        whole, *rest = agents.route_batch(queries, agents.states.encode(queries, router.encoder))
        outcome = join(whole, rest)
        # What the gate would refuse still has a best candidate: abstention is measured elsewhere.
        found.append(
            set(outcome.agents) if isinstance(outcome, Handled) else {outcome.candidates[0].name}
        )
    several = np.array([len(w) > 1 for w in wanted_all])
    pairs = list(zip(found, wanted_all, strict=True))
    recall = np.array([len(f & w) / len(w) for f, w in pairs])
    precision = np.array([len(f & w) / len(f) for f, w in pairs])
    listed = np.array([len(f) > 1 for f in found])
    report = {"n": len(asked), "recall": recall.mean(), "precision": precision.mean()}
    if several.any():
        report["recall_of_several"] = recall[several].mean()
        report["several_listed_when_wanted"] = listed[several].mean()
    if (~several).any():
        report["several_listed_when_one_wanted"] = listed[~several].mean()
    return {key: float(value) for key, value in report.items()}


def main() -> None:
    tools = with_examples(
        read_agents(DATA / "metatool_agents.parquet"), rows("metatool", "train"), SHOTS, SEED
    )
    router = MoMARouter.from_cards(tools, llms=None)
    report = {"metatool multi": measure(router, some(rows("metatool", "multi")))}
    report["metatool val"] = measure(router, some(rows("metatool", "val")))
    router = MoMARouter.from_cards(read_agents(DATA / "sealtools_agents.parquet"), llms=None)
    report["sealtools test_in"] = measure(router, some(rows("sealtools", "test_in")))
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
