"""Is the promised wrong-agent rate kept on real queries, and what does it cost?

    MOMA_DATA=../shared/data python benchmarks/conformal.py

CLINC150: fitted on 20 train examples an agent; the val rows are split 200 times at random into a
calibration half and a fresh half. For each rate, promised with 90 % confidence and on average
alone: mean realised rate, the share of splits that exceed it, and exceed it by more than its
standard error, and the share of in-scope queries still kept.
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moma_core import MoMARouter
from moma_core.agents.data import LabelledQueries, read_agents, with_examples
from moma_core.agents.gate import CONFIDENCE, conformal_threshold

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path("benchmarks/results/conformal.json")
SPLITS, SEED = 200, 0


def rows(name: str) -> LabelledQueries:
    data = pq.read_table(DATA / "clinc150_queries.parquet")
    data = data.filter(pc.equal(data["split"], name)).to_pydict()
    return LabelledQueries(tuple(data["query"]), tuple(map(tuple, data["agents"])))


def main() -> None:
    train, val = rows("train"), rows("val")
    cards = with_examples(read_agents(DATA / "clinc150_agents.parquet"), train, 20, SEED)
    router = MoMARouter.from_cards(cards, llms=None, negatives=train.negatives())
    rankings = router.rank(val.texts)
    chances = np.array([ranking.best_probability for ranking in rankings])
    right = np.array([r[0].name in wanted for r, wanted in zip(rankings, val.agents, strict=True)])
    inside = np.array([bool(wanted) for wanted in val.agents])
    generator = np.random.default_rng(SEED)
    halves = [np.array_split(generator.permutation(len(val)), 2) for _ in range(SPLITS)]
    report = {}
    for rate, confidence in itertools.product((0.01, 0.02, 0.03, 0.05), (CONFIDENCE, None)):
        realised, kept = [], []
        for calibration, fresh in halves:
            threshold = conformal_threshold(
                chances[calibration], right[calibration], rate, confidence
            )
            taken = chances[fresh] >= threshold
            realised.append((taken & ~right[fresh]).mean())
            kept.append((taken & right[fresh])[inside[fresh]].mean())
        error = np.sqrt(rate * (1 - rate) / len(halves[0][1]))
        promised = "on average" if confidence is None else f"{confidence:.0%} confidence"
        report[f"{rate}, {promised}"] = {
            "mean_realised": float(np.mean(realised)),
            "splits_over": float((np.array(realised) > rate).mean()),
            "splits_over_by_a_standard_error": float((np.array(realised) > rate + error).mean()),
            "in_scope_kept_and_right": float(np.mean(kept)),
        }
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
