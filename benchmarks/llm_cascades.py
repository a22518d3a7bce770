"""Cascades on the two pools with answers: every call of a plan is paid for.

    python benchmarks/llm_cascades.py [--seeds 3] [--pools zeroeval mmlu_pro] [--out FILE.json]

Data from MOMA_DATA (default ../shared/data); trained on the train split, tested on val. The seed
changes training only. MOMA_VECTORS as in benchmarks/llms.py. Between two corners of the curve two
rates are mixed. Gains are relative to the score of the LLM that was best in training.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from llms import vectors_of

from moma_core import LLMDataset, RoutingEncoder
from moma_core.llms.training import train_cascade
from moma_core.training.evaluate_llms import evaluate_cascade, score_at_cost, upper_hull

POOLS = ("zeroeval", "mmlu_pro")
SHARES = (0.25, 0.4, 0.6, 0.685)
TARGETS = {"zeroeval": 0.40, "mmlu_pro": 0.60}


def run(pool: str, folder: Path, seeds: int, encoder: RoutingEncoder) -> list[dict[str, Any]]:
    data = LLMDataset.read(folder / f"{pool}.parquet")
    vectors = vectors_of(pool, data, encoder)
    held = np.array(data.splits) == "val"
    results = []
    for seed in range(seeds):
        start = time.perf_counter()
        router = train_cascade(data.take(~held), encoder, seed=seed, vectors=vectors[~held])
        seconds = time.perf_counter() - start
        report = evaluate_cascade(router, data.take(held), encoder, vectors=vectors[held])
        hull = upper_hull(np.array(report["curve"]))
        best, cost = report["best_single_score"], report["best_single_cost"]
        scores = {str(share): score_at_cost(hull, share * cost) for share in SHARES}
        gains = {s: None if v is None else 100 * (v / best - 1) for s, v in scores.items()}
        match = report["cost_to_match_best_single"]
        results.append({"pool": pool, "seed": seed, "train_seconds": round(seconds, 1),
                        "gain_percent_at_cost": gains, **report})  # fmt: skip
        shown = {share: None if g is None else round(g, 2) for share, g in gains.items()}
        print(f"{pool} seed {seed} ({seconds:.0f} s): matches the best single LLM at "
              f"{'no cost' if match is None else f'{match:.3f}'} of its cost "
              f"(target {TARGETS[pool]}); gain in % at a share of its cost: {shown}",
              flush=True)  # fmt: skip
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pools", nargs="+", default=list(POOLS), choices=POOLS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/llm_cascades.json"))
    options = parser.parse_args()
    folder = Path(os.environ.get("MOMA_DATA", "../shared/data"))
    encoder = RoutingEncoder()
    results = [r for pool in options.pools for r in run(pool, folder, options.seeds, encoder)]
    for pool in options.pools:
        group = [r for r in results if r["pool"] == pool]
        matches = [r["cost_to_match_best_single"] or np.nan for r in group]
        gains = [r["gain_percent_at_cost"]["0.685"] for r in group]
        print(f"{pool}: match {np.mean(matches):.3f} +- {np.std(matches):.3f}, "
              f"gain at 0.685 {np.mean(gains):+.2f} % +- {np.std(gains):.2f}")  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
