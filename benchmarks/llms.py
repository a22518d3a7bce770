"""LLM routing on six public pools: our head, the baselines, the best single LLM, the oracle.

    python benchmarks/llms.py [--seeds 3] [--pools ulab zeroeval ...] [--out FILE.json]

Data from MOMA_DATA (default ../shared/data). zeroeval and mmlu_pro train on the train split and
test on val (the seed changes training only), the others hold out three tenths by seed. The "plain"
baselines see the sentence vector only, as in the literature; costs are predicted alike for all.
Score ties go to the cheaper LLM. At a quarter, half and seven tenths of the best single LLM's cost,
"cells" counts where ours scores at least as much as the best baseline, means over seeds.
MOMA_VECTORS may name a folder of vectors that were encoded before (POOL.npz with q_mean).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from moma_core import LLMDataset, LLMRouter, RoutingEncoder
from moma_core.llms.features import QueryFeatures
from moma_core.llms.heads import fit_head
from moma_core.llms.heads.clusters import ClustersConfig
from moma_core.llms.heads.linear import LinearConfig
from moma_core.llms.heads.moe import MoEConfig
from moma_core.llms.heads.neighbours import NeighboursConfig
from moma_core.llms.training import train
from moma_core.training.evaluate_llms import evaluate_llms

POOLS = ("ulab", "zeroeval", "mmlu_pro", "alpaca_eval2", "livecodebench", "bfcl_v1")
OURS = "ours (auto)"
BASELINES: dict[str, tuple[str, Any]] = {
    "plain neighbours 100": ("neighbours", NeighboursConfig(k=100, near=0)),
    "plain clusters 32": ("clusters", ClustersConfig(prior=0.0)),
    "plain linear": ("linear", LinearConfig()),
    "plain mlp 64": ("moe", MoEConfig(experts=1, top=1, width=64)),
}


def split(data: LLMDataset, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and those held out."""
    held = np.zeros(len(data), bool)
    held[np.random.default_rng(seed).permutation(len(data))[: round(0.3 * len(data))]] = True
    if "val" in data.splits:
        held = np.array(data.splits) == "val"
    return np.flatnonzero(~held), np.flatnonzero(held)


def vectors_of(pool: str, data: LLMDataset, encoder: RoutingEncoder) -> np.ndarray:
    cache = os.environ.get("MOMA_VECTORS")
    if not cache:
        return encoder.encode(data.queries)
    vectors = np.load(Path(cache) / f"{pool}.npz")["q_mean"]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def baseline(
    ours: LLMRouter, data: LLMDataset, vectors: np.ndarray, seed: int, name: str
) -> LLMRouter:
    """Our router with its head, but not its costs, replaced by one on sentence vectors alone."""
    kind, config = BASELINES[name]
    data = data.pool(ours.names)
    blind = QueryFeatures(ours.features.mean, ours.features.scale, weight=0.0)
    head = fit_head(kind, blind.join(data.queries, vectors), data.scores, ours.cards, seed, config)
    return LLMRouter(_Blind(head), ours.costs, ours.features, ours.encoder_fingerprint,
                     ours.dimension, ours.best_single)  # fmt: skip


class _Blind:
    """A head that does not see the text features (the last columns of its input)."""

    def __init__(self, head: Any) -> None:
        self._head, self.llms, self.kind = head, head.llms, head.kind
        self.config, self.arrays = head.config, head.arrays

    def predict(self, embeddings: np.ndarray) -> np.ndarray:
        inputs = embeddings.copy()
        inputs[:, 384:] = 0.0
        return self._head.predict(inputs)


def run(pool: str, folder: Path, seeds: int, encoder: RoutingEncoder) -> list[dict[str, Any]]:
    data = LLMDataset.read(folder / f"{pool}.parquet")
    vectors, results = vectors_of(pool, data, encoder), []
    for seed in range(seeds):
        rows, held = split(data, seed)
        test = data.take(held)
        start = time.perf_counter()
        ours = train(data.take(rows), encoder, seed=seed, vectors=vectors[rows])
        seconds = time.perf_counter() - start
        routers = {OURS: ours}
        for name in BASELINES:
            routers[name] = baseline(ours, data.take(rows), vectors[rows], seed, name)
        for name, router in routers.items():
            report = evaluate_llms(router, test, encoder, vectors=vectors[held])
            results.append({"pool": pool, "seed": seed, "head": name, **report})
        results[-len(routers)]["train_seconds"] = round(seconds, 1)
        results[-len(routers)]["metadata"] = dict(ours.metadata)
        print(f"{pool} seed {seed}: trained in {seconds:.0f} s", flush=True)
    return results


def summarise(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for pool, head in dict.fromkeys((r["pool"], r["head"]) for r in results):
        group = [r for r in results if (r["pool"], r["head"]) == (pool, head)]
        values = [
            {
                "performance": r["preferences"]["performance"]["score"] - r["best_single_score"],
                "performance cost": r["preferences"]["performance"]["cost"] / r["best_single_cost"],
                "auto": r["preferences"]["auto"]["score"] - r["best_single_score"],
                "auto saves": 1
                - r["preferences"]["auto"]["cost"] / r["preferences"]["performance"]["cost"],
                **{f"@{s}": v - r["best_single_score"] for s, v in r["score_at_cost"].items()},
                "match": r["cost_to_match_best_single"],
            }
            for r in group
        ]
        mean = {
            key: (
                None if any(v[key] is None for v in values)
                else [round(float(np.mean([v[key] for v in values])), 4),
                      round(float(np.std([v[key] for v in values])), 4)]
            )
            for key in values[0]
        }  # fmt: skip
        single = float(np.mean([r["best_single_score"] for r in group]))
        oracle = float(np.mean([r["oracle_score"] for r in group]))
        known = {"single": round(single, 4), "oracle": round(oracle, 4)}
        rows.append({"pool": pool, "head": head, **known, **mean})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    keys = [key for key in rows[0] if key not in ("pool", "head", "single", "oracle")]
    print("\nscores: difference from the best single LLM; costs: share of its cost; mean of seeds")
    print(f"{'pool':9}{'head':22}{'single':>8}{'oracle':>8}" + "".join(f"{k:>17}" for k in keys))
    for row in rows:
        cells = "".join(f"{'never' if row[k] is None else f'{row[k][0]:+.4f}':>17}" for k in keys)
        print(f"{row['pool']:9}{row['head']:22}{row['single']:8.4f}{row['oracle']:8.4f}{cells}")


def cells(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Return at how many shares of the cost, of how many, ours is at least the best baseline."""
    won = []
    for pool in dict.fromkeys(row["pool"] for row in rows):
        own = {row["head"]: row for row in rows if row["pool"] == pool}
        for key in (key for key in own[OURS] if key.startswith("@")):
            values = {head: row[key][0] for head, row in own.items() if row[key] is not None}
            won.append(OURS in values and values[OURS] >= max(values.values()))
    return sum(won), len(won)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pools", nargs="+", default=list(POOLS), choices=POOLS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/llms.json"))
    options = parser.parse_args()
    folder = Path(os.environ.get("MOMA_DATA", "../shared/data"))
    encoder = RoutingEncoder()
    results = [r for pool in options.pools for r in run(pool, folder, options.seeds, encoder)]
    rows = summarise(results)
    show(rows)
    won, of = cells(rows)
    print(f"at or above the best baseline in {won} of {of} cells")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for result in results:
        result["curve"] = [[round(c, 8), round(s, 5)] for c, s in result["curve"]]
        if result["head"] in BASELINES:
            del result["curve"], result["usage"]
    report = {"summary": rows, "cells": [won, of], "runs": results}
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
