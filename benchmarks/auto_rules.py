"""What `auto` chooses on six pools: its rule, TOPSIS, the best single LLM, the best possible.

    python benchmarks/auto_rules.py [--seeds 3] [--pools ulab zeroeval ...] [--out FILE.json]

Data from MOMA_DATA (default ../shared/data). zeroeval and mmlu_pro are measured on their val split
(the seed changes training only), the others on three tenths of the rows by seed. Each rule chooses
from the same predictions. Scores are differences from the best single LLM of the training rows,
costs are shares of its cost, both real ones; "possible" is the best score that any choice reaches
at the same real cost, knowing the answers.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from llms import POOLS, split, vectors_of

from moma_core import Auto, Cost, LLMDataset, LLMRouter, Performance, Preference, RoutingEncoder
from moma_core.llms.selection import choose, choose_at_rate
from moma_core.llms.training import train
from moma_core.training.evaluate_llms import score_at_cost, upper_hull
from moma_core.types import Topsis

AFFORDABLE = ("ulab", "zeroeval", "mmlu_pro", "bfcl_v1")
RULES: dict[str, Preference] = {
    "performance": Performance(),
    "auto": Auto(),
    "auto:0.01": Auto(0.01),
    "auto:0.02": Auto(0.02),
    "auto:0.04": Auto(0.04),
    "topsis": Topsis(),
    "cost": Cost(),
}


def possible(scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Return the hull of (cost, score) that choices in hindsight reach, cheapest first."""
    unit, rows = costs.mean(), np.arange(len(scores))
    rates = (0.0, *np.logspace(-4, 3, 141), 1e6)
    picks = [choose_at_rate(costs, scores, rate / unit) for rate in rates]
    return upper_hull(np.array([[costs[rows, p].mean(), scores[rows, p].mean()] for p in picks]))


def measure(router: LLMRouter, test: LLMDataset, vectors: np.ndarray) -> dict[str, Any]:
    predicted, expected = router.predict(test.queries, vectors)
    single, rows = router.names.index(router.best_single), np.arange(len(test))
    best_score, best_cost = test.scores[:, single].mean(), test.costs[:, single].mean()
    hull, found = possible(test.scores, test.costs), {}
    for name, rule in RULES.items():
        picks = choose(
            expected, predicted, rule, single,
            min_gain_per_usd=router.min_gain_per_usd, points=router.points, margin=router.margin,
        )  # fmt: skip
        lead, cost = test.scores[rows, picks] - test.scores[:, single], test.costs[rows, picks]
        ideal = score_at_cost(hull, float(cost.mean()))
        found[name] = {
            "score": float(lead.mean()),
            "error": float(lead.std() / np.sqrt(len(test))),
            "cost": float(cost.mean() / best_cost),
            "possible": None if ideal is None else float(ideal - best_score),
        }
    return {"points": router.points, "best_single": router.best_single, "rules": found}


def run(pool: str, folder: Path, seeds: int, encoder: RoutingEncoder) -> list[dict[str, Any]]:
    data = LLMDataset.read(folder / f"{pool}.parquet")
    vectors, results = vectors_of(pool, data, encoder), []
    for seed in range(seeds):
        (kept, held), start = split(data, seed), time.perf_counter()
        router = train(data.take(kept), encoder, seed=seed, vectors=vectors[kept])
        seconds = round(time.perf_counter() - start, 1)
        test = data.take(held).pool(router.names)
        report = measure(router, test, vectors[held])
        results.append({"pool": pool, "seed": seed, "train_seconds": seconds, **report})
        print(f"{pool} seed {seed}: {seconds} s, halving is worth {router.points}", flush=True)
    return results


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over seeds by rule and pool, and each rule's mean cost and worst pool."""
    summary: dict[str, Any] = {}
    for name in RULES:
        pools = {}
        for pool in dict.fromkeys(each["pool"] for each in results):
            runs = [each["rules"][name] for each in results if each["pool"] == pool]
            ideal = [run["possible"] for run in runs if run["possible"] is not None]
            pools[pool] = {key: round(float(np.mean([r[key] for r in runs])), 4)
                           for key in ("score", "error", "cost")}  # fmt: skip
            pools[pool]["possible"] = round(float(np.mean(ideal)), 4) if ideal else None
        cost = [pools[pool]["cost"] for pool in AFFORDABLE if pool in pools]
        worst = min(each["score"] for each in pools.values())
        summary[name] = {"mean_cost": round(float(np.mean(cost or [0])), 3), "worst": worst,
                         "pools": pools}  # fmt: skip
    return summary


def show(summary: dict[str, Any]) -> None:
    names = list(next(iter(summary.values()))["pools"])
    print(f"\n{'rule':12}{'cost of 4':>10}{'worst':>8}" + "".join(f"{n:>24}" for n in names))
    for rule, row in summary.items():
        cells = [row["pools"][name] for name in names]
        texts = [f"{c['score']:+.3f} @{c['cost']:.2f} ({c['possible'] or 0:+.3f})" for c in cells]
        print(f"{rule:12}{row['mean_cost']:>10.2f}{row['worst']:>+8.3f}"
              + "".join(f"{text:>24}" for text in texts))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pools", nargs="+", default=list(POOLS), choices=POOLS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/auto_rules.json"))
    options = parser.parse_args()
    folder, encoder = Path(os.environ.get("MOMA_DATA", "../shared/data")), RoutingEncoder()
    results = [r for pool in options.pools for r in run(pool, folder, options.seeds, encoder)]
    summary = summarise(results)
    show(summary)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"summary": summary, "runs": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
