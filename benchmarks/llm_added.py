"""A new LLM from 100 scored queries, against retraining: each LLM of each pool held out in turn.

    python benchmarks/llm_added.py [--pools ulab zeroeval mmlu_pro] [--queries 100] [--draws 3]

The value of a router is the mean measured score along its score-cost curve, at 0.25, 0.3 ... 1.0 of
the best single LLM's cost (below the curve's first corner, that corner's score). The gain of an
LLM is the value with it minus the value of a router trained without it. Queries are drawn at
random from the training rows, with the other LLMs' scores on them.

A single gain is smaller than its noise, so ``share`` is a ratio of sums: the gain of adding over
the gain of retraining, both summed over LLMs and over the folds of a cross-validation of all rows.
LLMs that matter bring 0.003 or more *on the other folds*: choosing them where they are measured
would pick lucky ones and count their luck against adding. ``joined`` is what the fully trained
column brings beside the old columns: what retraining does to the others is not in it. Errors are
jackknifed over folds. Heads are fitted as `train` does for one kind; data and MOMA_VECTORS as in
benchmarks/llms.py.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from llms import POOLS, vectors_of

from moma_core import LLMCard, LLMDataset, LLMRouter, RoutingEncoder
from moma_core.llms.costs import FittedCosts
from moma_core.llms.features import QueryFeatures
from moma_core.llms.heads import HEADS, fit_head
from moma_core.training.evaluate_llms import trade_off_curve, upper_hull

SHARES = np.linspace(0.25, 1.0, 16)
MATTERS = 0.003
_Array = np.ndarray[Any, np.dtype[np.float64]]


def fit(data: LLMDataset, vectors: _Array, head: str) -> LLMRouter:
    """Return a router of one head over complete data."""
    features = QueryFeatures.fit(data.queries)
    inputs = features.join(data.queries, vectors)
    cards = tuple(LLMCard(name, 1.0, 1.0) for name in data.llms)
    best = int(np.lexsort((data.costs.mean(axis=0), -data.scores.mean(axis=0)))[0])
    return LLMRouter(
        fit_head(head, inputs, data.scores, cards), FittedCosts.fit(inputs, data.costs), features,
        "", vectors.shape[1], data.llms[best],
    )  # fmt: skip


def value(scores: _Array, costs: _Array, data: LLMDataset, single: str, unit: float) -> float:
    """Return the mean score along the curve; ``unit`` is USD of the best single LLM."""
    curve = trade_off_curve(scores, costs, data.scores, data.costs, data.llms.index(single))
    hull = upper_hull(curve)
    return float(np.interp(SHARES * unit, hull[:, 0], hull[:, 1]).mean())


def run_fold(
    known: LLMDataset, vectors: _Array, test: LLMDataset, asked: _Array, options: Any
) -> tuple[_Array, _Array, _Array]:
    """Return each LLM's gain when retrained (m,), joined (m,) and added (m, draws)."""
    full = fit(known, vectors, options.head)
    unit = float(test.costs[:, test.llms.index(full.best_single)].mean())
    with_all = full.predict(test.queries, asked)
    top = value(*with_all, test, full.best_single, unit)
    retrained, joined, added = [], [], []
    for place, llm in enumerate(known.llms):
        others = [name for name in known.llms if name != llm]
        without = fit(known.pool(others), vectors, options.head)
        single, grown = without.best_single, test.pool([*others, llm])
        alone = without.predict(test.queries, asked)
        base = value(*alone, test.pool(others), single, unit)
        both = [np.column_stack([a, b[:, place]]) for a, b in zip(alone, with_all, strict=True)]
        retrained.append(top - base)
        joined.append(value(*both, grown, single, unit) - base)
        gains = []
        for draw in range(options.draws):
            rows = np.random.default_rng(draw).permutation(len(known))[: options.queries]
            router = without.add(full.card(llm), known.take(rows), vectors=vectors[rows])
            gains.append(value(*router.predict(test.queries, asked), grown, single, unit) - base)
        added.append(gains)
    return np.array(retrained), np.array(joined), np.array(added)


def run(pool: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    data = LLMDataset.read(folder / f"{pool}.parquet")
    vectors = vectors_of(pool, data, RoutingEncoder())
    fold_of = np.random.default_rng(0).permutation(len(data)) % options.folds
    parts = [
        run_fold(data.take(seen), vectors[seen], data.take(~seen), vectors[~seen], options)
        for seen in (fold_of != fold for fold in range(options.folds))
    ]
    retrained, joined, added = (np.array(each) for each in zip(*parts, strict=True))  # (F, m, ...)
    for place, llm in enumerate(data.llms):
        print(f"{pool:9}{llm:34} retrained {retrained[:, place].mean():+.4f} joined "
              f"{joined[:, place].mean():+.4f} added {added[:, place].mean():+.4f}")  # fmt: skip
    elsewhere = (retrained.sum(axis=0) - retrained) / (options.folds - 1)
    shares = {}
    for name, counts in (("all", elsewhere == elsewhere), ("matter", elsewhere >= MATTERS)):
        sums = [(each * counts).sum(axis=1) for each in (retrained, joined, added.mean(axis=2))]
        share, error = jackknife(sums[2], sums[0])
        shares[name] = {
            "share": [round(share, 3), round(error, 3)],
            "joined": round(float(sums[1].sum() / sums[0].sum()), 3),
            "gain": round(float(sums[0].mean()), 4),
        }
        print(f"{pool}: LLMs {name}: retraining brings {sums[0].mean():+.4f} (sum), adding "
              f"{share:.2f} +- {error:.2f} of it, joining {shares[name]['joined']:.2f}",
              flush=True)  # fmt: skip
    return {"pool": pool, "head": options.head, "queries": options.queries, "llms": data.llms,
            "share": shares, **{name: each.round(5).tolist() for name, each in
            (("retrained", retrained), ("joined", joined), ("added", added))}}  # fmt: skip


def jackknife(above: _Array, below: _Array) -> tuple[float, float]:
    """Return a ratio of sums over folds and its standard error."""
    n = len(above)
    left = (above.sum() - above) / (below.sum() - below)
    error = np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())
    return float(above.sum() / below.sum()), float(error)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--pools", nargs="+", default=["ulab", "zeroeval", "mmlu_pro"], choices=POOLS
    )
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--head", default="kernel", choices=sorted(HEADS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/llm_added.json"))
    options = parser.parse_args()
    folder = Path(os.environ.get("MOMA_DATA", "../shared/data"))
    results = [run(pool, folder, options) for pool in options.pools]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
