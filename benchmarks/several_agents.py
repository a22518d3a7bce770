"""Several things in one query: are their agents found, and are queries for one left whole?

    MOMA_DATA=../shared/data python benchmarks/several_agents.py

Two in one: benchmarks/two_in_one.toml, 66 + 66 queries written before any was routed, 24 agents by
descriptions alone. MetaTool: "multi" rows want two tools, val rows one; Seal-Tools test_in rows;
150 rows of each at most, drawn with a seed. Beside ours, each query cut at every clause, and the
old way: cut before a list of verbs. Reports how often all wanted agents take a part, how often two
agents or more take one where one is wanted (false cuts), and where the whole query alone goes.
Writes benchmarks/results/several_agents.json.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from moma_core import AgentCard, MoMARouter, NoTargetError
from moma_core.agents.compound import pieces
from moma_core.agents.data import read_agents

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path("benchmarks/results/several_agents.json")
MOST, SEED = 150, 0
VERBS = (
    "please|can|could|would|will|what|when|where|who|which|how|is|are|do|does|also|tell|give|show"
    "|find|get|set|send|book|add|create|make|write|check|calculate|convert|compute|translate|list"
    "|remind|search|look|provide|recommend|suggest|plan|play|turn|order|buy"
)
BY_VERBS = re.compile(rf"(?<=[.?!;])\s+|,?\s+and\s+(?:also\s+)?(?=(?:{VERBS})\b)", re.IGNORECASE)


def rows(table: str, split: str) -> list[tuple[str, set[str]]]:
    found = pq.read_table(DATA / f"{table}_queries.parquet").to_pylist()
    found = [r for r in found if r["split"] == split and r["agents"] and r["query"].strip()]
    picked = np.sort(np.random.default_rng(SEED).permutation(len(found))[:MOST])
    return [(found[i]["query"], set(found[i]["agents"])) for i in picked]


def takers(router: MoMARouter, text: str) -> set[str]:
    """Return who takes a query, asked as a user would."""
    try:
        return set(router.route(text, several=True).targets)
    except NoTargetError:
        return set()


def each(router: MoMARouter, parts: tuple[str, ...]) -> set[str]:
    """Return who takes parts that are ranked one by one."""
    return {ranking.names[0] for ranking in router.rank(list(parts), 1) if ranking.fits}


def measure(router: MoMARouter, asked: list[tuple[str, set[str]]]) -> dict[str, object]:
    ways = {
        "ours": lambda text: takers(router, text),
        "whole": lambda text: each(router, (text,)),
        "every clause": lambda text: each(router, pieces(text)),
        "verbs": lambda text: each(router, tuple(p for p in BY_VERBS.split(text) if p.strip())),
    }
    report: dict[str, object] = {}
    for name, way in ways.items():
        found = [(way(text), wanted) for text, wanted in asked]
        many = [f >= w for f, w in found if len(w) > 1]
        one = [len(f) > 1 for f, w in found if len(w) == 1]
        right = [f == w for f, w in found if len(w) == 1]
        report[name] = {
            "all found": float(np.mean(many)) if many else None,
            "false cuts": float(np.mean(one)) if one else None,
            "the one alone": float(np.mean(right)) if right else None,
            "n": [len(many), len(one)],
        }
    return report


def main() -> None:
    told = tomllib.loads(Path(__file__).with_name("two_in_one.toml").read_text(encoding="utf-8"))
    asked = [(row["query"], set(row["agents"])) for row in told["several"] + told["single"]]
    cards = [AgentCard(name, text) for name, text in told["agents"].items()]
    report = {"two in one": measure(MoMARouter.from_cards(cards, llms=None), asked)}
    router = MoMARouter.from_cards(read_agents(DATA / "metatool_agents.parquet"), llms=None)
    report["metatool"] = measure(router, rows("metatool", "multi") + rows("metatool", "val"))
    router = MoMARouter.from_cards(read_agents(DATA / "sealtools_agents.parquet"), llms=None)
    report["sealtools"] = measure(router, rows("sealtools", "test_in"))
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
