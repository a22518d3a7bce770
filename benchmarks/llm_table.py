"""The paper's table 3 on our pools: single LLMs, heads at three preferences, score and cost.

    python benchmarks/llm_table.py [--seeds 3] [--pools ulab zeroeval mmlu_pro] [--out FILE.json]

Each pool's score is the mean measured score on its test rows; cost is a share of what the pool's
best single LLM costs. The average is over pools, mean and spread (standard deviation) over seeds.
Single LLMs differ by pool: listed are the best one and the cheapest one of each pool, the oracle,
and every LLM by pool. The three heads of the paper are preference (MoE), classifier (A.3) and
contrastive (A.4); auto is what moma train llms makes. All heads share the predicted costs.
Splits, data and MOMA_VECTORS as in benchmarks/llms.py.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from llms import POOLS, split, vectors_of

from moma_core import LLMDataset, RoutingEncoder
from moma_core.llms.heads import HEADS, fit_head
from moma_core.llms.training import fill_scores, train
from moma_core.training.evaluate_llms import evaluate_llms

PAPER = ("preference", "classifier", "contrastive")
OTHERS = tuple(sorted(set(HEADS) - set(PAPER)))
PREFERENCES = ("performance", "auto", "cost")
_Row = dict[str, Any]


def run(pool: str, folder: Path, seed: int) -> list[_Row]:
    """Return a row for each single LLM, and for each head at each preference."""
    data, encoder = LLMDataset.read(folder / f"{pool}.parquet"), RoutingEncoder()
    vectors = vectors_of(pool, data, encoder)
    kept, held = split(data, seed)
    test = data.take(held)
    auto = train(data.take(kept), encoder, seed=seed, vectors=vectors[kept])
    known = data.take(kept).pool(auto.names)
    inputs = auto.features.join(known.queries, vectors[kept])
    scores = fill_scores(known.scores, inputs, seed)
    rows = []
    for kind in ("auto", *PAPER, *OTHERS):
        start = time.perf_counter()
        head = auto.head if kind == "auto" else fit_head(kind, inputs, scores, auto.cards, seed)
        seconds = time.perf_counter() - start
        min_gain = auto.min_gain_per_usd if kind == "auto" else 0.0  # fitted to its head's noise
        margin = auto.margin if kind == "auto" else 0.0
        router = replace(auto, head=head, min_gain_per_usd=min_gain, margin=margin)
        report = evaluate_llms(router, test, encoder, vectors[held])
        unit = report["best_single_cost"]
        for preference in PREFERENCES:
            got = report["preferences"][preference]
            rows.append({"pool": pool, "seed": seed, "name": kind, "preference": preference,
                         "score": got["score"], "cost": got["cost"] / unit,
                         "score_at_cost": report["score_at_cost"],
                         "fit_seconds": round(seconds, 1)})  # fmt: skip
    unit = report["best_single_cost"]
    rows += [
        {"pool": pool, "seed": seed, "name": name, "preference": "",
         "score": float(test.scores[picks].mean()), "cost": float(test.costs[picks].mean()) / unit}
        for name, picks in _singles(test, auto.best_single).items()
    ]  # fmt: skip
    print(f"{pool} seed {seed} done", flush=True)
    return rows


def _singles(test: LLMDataset, best: str) -> dict[str, Any]:
    """Return which cells of the test table each fixed choice asks; the oracle's ties go cheaper."""
    every = np.arange(len(test))
    oracle = np.lexsort((test.costs, -test.scores), axis=1)[:, 0]
    cheapest = int(test.costs.mean(axis=0).argmin())
    fixed = {"oracle": oracle, "best single LLM": test.llms.index(best), "cheapest LLM": cheapest}
    by_name = {name: column for column, name in enumerate(test.llms)}
    return {name: (every, column) for name, column in {**fixed, **by_name}.items()}


def summarise(rows: list[_Row], pools: list[str]) -> list[_Row]:
    """Return mean and spread over seeds by pool and on average over pools."""
    table = []
    for name, preference in dict.fromkeys((r["name"], r["preference"]) for r in rows):
        line: _Row = {"name": name, "preference": preference}
        mine = [r for r in rows if (r["name"], r["preference"]) == (name, preference)]
        for key in ("score", "cost"):
            by_pool = {p: [r[key] for r in mine if r["pool"] == p] for p in pools}
            for pool, values in by_pool.items():
                if values:
                    line[f"{pool} {key}"] = [float(np.mean(values)), float(np.std(values))]
            if all(by_pool.values()):
                average = np.mean(list(by_pool.values()), axis=0)
                line[f"average {key}"] = [float(average.mean()), float(average.std())]
        table.append(line)
    return table


def show(table: list[_Row], pools: list[str]) -> None:
    columns = [*pools, "average"]
    print(f"\n{'':32}{'preference':13}" + "".join(f"{c:>22}" for c in columns))
    for line in table:
        cells = []
        for column in columns:
            score, cost = line.get(f"{column} score"), line.get(f"{column} cost")
            shown = score and f"{100 * score[0]:.1f}+-{100 * score[1]:.1f} at {cost[0]:.2f}"
            cells.append(shown or "")
        print(f"{line['name']:32}{line['preference']:13}" + "".join(f"{c:>22}" for c in cells))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--pools", nargs="+", default=["ulab", "zeroeval", "mmlu_pro"], choices=POOLS
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/llm_table.json"))
    options = parser.parse_args()
    folder = Path(os.environ.get("MOMA_DATA", "../shared/data"))
    rows = [r for pool in options.pools for seed in range(options.seeds)
            for r in run(pool, folder, seed)]  # fmt: skip
    table = summarise(rows, options.pools)
    show(table, options.pools)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rounded = json.loads(
        json.dumps({"table": table, "runs": rows}), parse_float=lambda x: round(float(x), 6)
    )
    options.out.write_text(json.dumps(rounded, indent=1) + "\n")


if __name__ == "__main__":
    main()
