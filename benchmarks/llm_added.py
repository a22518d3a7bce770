"""A new LLM from 100 scored queries, against retraining: each LLM of each pool held out in turn.

    python benchmarks/llm_added.py [--pools ulab zeroeval mmlu_pro] [--queries 100] [--draws 3]

The value of a router is the mean measured score along its score-cost curve, at 0.1, 0.2 ... 1.0 of
the best single LLM's cost (below the curve's first corner, that corner's score). The gain of an
LLM is the value with it minus the value of a router trained without it. Queries are drawn at
random from the train split, with the other LLMs' scores on them; ``share`` is the summed gain of
adding over the summed gain of retraining. LLMs that matter are those that bring 0.003 or more.
Splits, data and MOMA_VECTORS as in benchmarks/llms.py.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from llms import POOLS, split

from moma_core.encoders import MiniLMEncoder
from moma_core.evaluation.llms import trade_off_curve
from moma_core.evaluation.metrics import upper_hull
from moma_core.llm_routing import LLMDataset, LLMRouter, train
from moma_core.llm_routing.pool import add_llm

SHARES = np.linspace(0.1, 1.0, 10)
MATTERS = 0.003


def value(router: LLMRouter, test: LLMDataset, vectors: np.ndarray, unit: float) -> float:
    """Return the mean score along the curve; ``unit`` is USD of the best single LLM."""
    scores, costs = router.predict(test.queries, vectors)
    data = test.pool(router.names)
    single = router.names.index(router.best_single)
    hull = upper_hull(trade_off_curve(scores, costs, data.scores, data.costs, single))
    return float(np.interp(SHARES * unit, hull[:, 0], hull[:, 1]).mean())


def vectors_of(pool: str, data: LLMDataset, encoder: MiniLMEncoder) -> np.ndarray:
    cache = os.environ.get("MOMA_VECTORS")
    if not cache:
        return encoder.encode(data.queries)
    vectors = np.load(Path(cache) / f"{pool}.npz")["q_mean"]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def run(pool: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    data, encoder = LLMDataset.read(folder / f"{pool}.parquet"), MiniLMEncoder()
    vectors = vectors_of(pool, data, encoder)
    rows, held = split(data, 0)
    known, test = data.take(rows), data.take(held)
    full = train(known, encoder, head=options.head, vectors=vectors[rows])
    unit = float(test.costs[:, test.llms.index(full.best_single)].mean())
    top = value(full, test, vectors[held], unit)
    gains, added = [], []
    for llm in data.llms:
        rest = known.pool([name for name in data.llms if name != llm])
        without = train(rest, encoder, head=options.head, vectors=vectors[rows])
        base = value(without, test, vectors[held], unit)
        gains.append(top - base)
        added.append([])
        for draw in range(options.draws):
            picked = np.random.default_rng(draw).permutation(len(known))[: options.queries]
            grown = add_llm(
                without, full.card(llm), known.take(picked), vectors=vectors[rows][picked]
            )
            added[-1].append(value(grown, test, vectors[held], unit) - base)
        print(f"{pool:9}{llm:34} retrained {gains[-1]:+.4f}  added "
              f"{np.mean(added[-1]):+.4f} +- {np.std(added[-1]):.4f}", flush=True)  # fmt: skip
    gain, each = np.array(gains), np.array(added)
    matters = gain >= MATTERS
    shares = {
        name: [round(float(x), 3) for x in each[which].sum(axis=0) / gain[which].sum()]
        for name, which in (("all", gain == gain), ("matter", matters))
        if which.any()
    }
    for name, draws in shares.items():
        print(f"{pool}: share of the gain, LLMs {name}: {np.mean(draws):.2f} "
              f"+- {np.std(draws):.2f} over draws", flush=True)  # fmt: skip
    return {"pool": pool, "head": options.head, "value": top, "llms": list(data.llms),
            "retrained": gains, "added": added, "share": shares}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pools", nargs="+", default=list(POOLS), choices=POOLS)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--head", default="kernel", help="what is trained with and without")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/llm_added.json"))
    options = parser.parse_args()
    folder = Path(os.environ.get("MOMA_DATA", "../shared/data"))
    results = [run(pool, folder, options) for pool in options.pools]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
