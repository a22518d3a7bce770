"""What each thing a user can add is worth: descriptions, examples, negatives.

    MOMA_DATA=../shared/data python benchmarks/knobs.py [ROW ...]

MetaTool, 199 tools that overlap; shots.py has more numbers of examples. Each row is one router;
examples are the first of a shuffle of train rows, negatives train rows of CLINC150 that fit no
agent. Asked are `INSIDE` val rows for one tool, and the val rows of CLINC150 that fit no agent.
Writes benchmarks/results/knobs.json.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moma_core import AgentCard, MoMARouter
from moma_core.agents.data import read_agents

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path("benchmarks/results/knobs.json")
SEED, INSIDE = 0, 300


class Rung(NamedTuple):
    """What a router is given: descriptions or names alone, examples a tool, negatives."""

    described: bool
    examples: int
    negatives: int


RUNGS = {
    "names alone": Rung(False, 0, 0),
    "a description each": Rung(True, 0, 0),
    "and 10 examples each": Rung(True, 10, 0),
    "10 examples, 10 negatives": Rung(True, 10, 10),
    "10 examples, 30 negatives": Rung(True, 10, 30),
    "10 examples, 100 negatives": Rung(True, 10, 100),
}


def rows(table: str, split: str, wanted: int) -> list[tuple[str, str]]:
    """Shuffled queries that want ``wanted`` agents, each with the first of them."""
    whole = pq.read_table(DATA / f"{table}_queries.parquet")
    found = whole.filter(pc.equal(whole["split"], split)).to_pylist()
    found = [row for row in found if len(row["agents"]) == wanted]
    np.random.default_rng(SEED).shuffle(found)
    return [(row["query"], "".join(row["agents"])) for row in found]


def router_of(rung: Rung) -> MoMARouter:
    examples: dict[str, list[str]] = {}
    for query, agent in rows("metatool", "train", 1):
        examples.setdefault(agent, []).append(query)
    cards = [
        replace(
            card if rung.described else AgentCard(card.name, card.name.replace("_", " ")),
            examples=tuple(examples.get(card.name, [])[: rung.examples]),
        )
        for card in read_agents(DATA / "metatool_agents.parquet")
    ]
    negatives = [query for query, _ in rows("clinc150", "train", 0)[: rung.negatives]]
    return MoMARouter.from_cards(cards, negatives=negatives)


def measured(rung: Rung) -> dict[str, float]:
    router = router_of(rung)
    inside, outside = rows("metatool", "val", 1)[:INSIDE], rows("clinc150", "val", 0)
    decided = router.route_batch([query for query, _ in inside])
    taken = np.array([decision.kind == "agent" for decision in decided])
    right = np.array([d.target == agent for d, (_, agent) in zip(decided, inside, strict=True)])
    foreign = router.route_batch([query for query, _ in outside])
    return {
        "right": float(right.mean()),
        "wrong": float((taken & ~right).mean()),
        "turned_away": float((~taken).mean()),
        "caught": float(np.mean([decision.kind == "llm" for decision in foreign])),
        "inside": len(inside),
        "outside": len(outside),
    }


def main() -> None:
    found = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    for name in sys.argv[1:] or RUNGS:
        found[name] = measured(RUNGS[name])
        print(name, json.dumps(found[name]), flush=True)
        kept = {each: found[each] for each in RUNGS if each in found}
        OUT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
