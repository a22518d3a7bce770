"""The shortlists that decoding_quality.py asks about, and the rows it has scored, on disk.

MetaTool and CLINC150 val, and MetaTool once more among the tools alone whose names and queries were
held out of the adapter's training ("metatool-unseen"). Rows in ``MOMA_SCRATCH`` outlive a run.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from train_choice_adapter import held_out_names

from moma_core import AgentCard, RoutingEncoder
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.data import read_agents
from moma_core.agents.training import RankedList, held_out_lists, ranked_lists
from moma_core.registry.memory import MemoryRegistry

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
SCRATCH = Path(os.environ.get("MOMA_SCRATCH", Path(tempfile.gettempdir()) / "decoding_quality"))
TABLES = ("metatool", "clinc150", "metatool-unseen")
QUERIES, HELD_OUT, SHOTS, SEED = 500, 200, 10, 0
LENGTHS = (8, 16)
REGIMES = ("descriptions", "examples")
PARTS = (*REGIMES, "held-out")
Row = dict[str, Any]


def cards_of(table: str, *, examples: bool) -> list[AgentCard]:
    """Return a table's agents, with 10 train rows each as examples or with none."""
    cards = read_agents(DATA / f"{source(table)}_agents.parquet")
    if table.endswith("-unseen"):
        unseen = held_out_names(cards)
        cards = [card for card in cards if card.name in unseen]
    if not examples:
        return cards
    rng, shown = np.random.default_rng(SEED), {}
    for text, wanted in single(table, "train"):
        shown.setdefault(wanted, set()).add(text)
    return [
        replace(card, examples=tuple(rng.permutation(sorted(shown.get(card.name, ())))[:SHOTS]))
        for card in cards
    ]


def source(table: str) -> str:
    """Return the name of the files that a table is read from."""
    return table.removesuffix("-unseen")


def single(table: str, split: str) -> list[tuple[str, str]]:
    """Return queries that one agent of the table should take, with its name."""
    names = {card.name for card in cards_of(table, examples=False)}
    whole = pq.read_table(DATA / f"{source(table)}_queries.parquet")
    rows = whole.filter(pc.equal(whole["split"], split)).to_pylist()
    asked = [(row["query"], row["agents"][0]) for row in rows if len(row["agents"]) == 1]
    return [(query, wanted) for query, wanted in asked if wanted in names]


def make_lists() -> None:
    """Write the shortlists of val rows and of held-out examples that are not there yet."""
    encoder = RoutingEncoder(threads=1)
    for table in TABLES:
        val = single(table, "val")
        picks = np.random.default_rng(SEED).permutation(len(val))[:QUERIES]
        texts, wanted = zip(*[val[i] for i in picks], strict=True)
        for regime in REGIMES:
            if rows_of(table, "held-out" if regime == "examples" else regime):
                continue
            catalog = AgentCatalog(encoder, MemoryRegistry())
            catalog.put(*cards_of(table, examples=regime == "examples"))
            found = ranked_lists(catalog.snapshot, texts, encoder.encode(list(texts)))
            known = [replace(row, wanted=name) for row, name in zip(found, wanted, strict=True)]
            write(table, regime, known)
            if regime == "examples":
                held = held_out_lists(catalog.snapshot, most=HELD_OUT, seed=SEED)
                write(table, "held-out", held)


def write(table: str, part: str, rows: list[RankedList]) -> None:
    SCRATCH.mkdir(parents=True, exist_ok=True)
    plain = [
        {"query": r.query, "wanted": r.wanted, "names": r.names, "prior": r.log_prior} for r in rows
    ]
    (SCRATCH / f"{table}-{part}.json").write_text(json.dumps(plain))
    print(table, part, len(rows), flush=True)


def rows_of(table: str, part: str, most: int | None = None) -> list[Row]:
    """Return the rows of one part: query, wanted, names and prior."""
    path = SCRATCH / f"{table}-{part}.json"
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    return rows[:most]


def asked_names(table: str, parts: Sequence[str], most: int | None) -> dict[str, list[str]]:
    """Return for each query of some parts the agents of all its shortlists there."""
    names: dict[str, list[str]] = {}
    for part in parts:
        for row in rows_of(table, part, most):
            kept = names.setdefault(row["query"], [])
            kept += [name for name in row["names"] if name not in kept]
    return names


def scored(stage: str) -> dict[str, Any]:
    """Return what a stage has found, by its keys."""
    path = SCRATCH / f"{stage}.jsonl"
    found: dict[str, Any] = {}
    for line in map(json.loads, path.read_text().splitlines() if path.exists() else ()):
        key, value = line["key"], line["value"]
        found[key] = {**found.get(key, {}), **value} if isinstance(value, dict) else value
    return found


def keep(stage: str, work: Iterator[tuple[str, Any]]) -> None:
    """Write down what a stage finds as it finds it."""
    with (SCRATCH / f"{stage}.jsonl").open("a") as file:
        for i, (key, value) in enumerate(work):
            file.write(json.dumps({"key": key, "value": value}) + "\n")
            file.flush()
            if i % 25 == 0:
                print(stage, i, flush=True)
