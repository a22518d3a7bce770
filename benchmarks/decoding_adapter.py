"""Does the packaged adapter help to choose among agents that it has never seen?

    MOMA_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/decoding_adapter.py

Shortlists by our ranker from descriptions alone: MetaTool val and Seal-Tools test_in among the
tools held out of training, CLINC150 val, of which nothing was seen. Ranker alone, noisy channel
alone, and both fused, with SmolLM2 as it is and adapted; bootstrap intervals of the paired gain.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train_choice_adapter import Row, shortlists

from moma_core import LocalLLM
from moma_core.decoding import NoisyChannel
from moma_core.decoding.adapter import PACKAGED_ADAPTERS, merge_adapter
from moma_core.decoding.fusion import DEFAULT_WEIGHTS

OUT = Path("benchmarks/results/decoding_adapter.json")
TABLES = (("clinc150", "val", "all"), ("metatool", "val", "held"), ("sealtools", "test_in", "held"))


def cell(channel: NoisyChannel, rows: list[Row], weight: float) -> dict[str, Any]:
    """Return the shares right, and the gain of fusing with its 95 % interval."""
    right = []
    for row in rows:
        heard = channel.scores(row.query, row.cards)
        names = [card.name for card in row.cards]
        picks = (row.log_prior, heard, row.log_prior + weight * heard)
        right.append([names[int(scores.argmax())] == row.wanted for scores in picks])
    ranker, noisy, fused = np.array(right, dtype=float).T
    draws = np.random.default_rng(0).integers(len(rows), size=(4000, len(rows)))
    low, high = np.quantile((fused - ranker)[draws].mean(axis=1), [0.025, 0.975])
    return {
        "n": len(rows),
        "ranker": round(float(ranker.mean()), 3),
        "noisy channel": round(float(noisy.mean()), 3),
        "fused": round(float(fused.mean()), 3),
        "gain": round(float((fused - ranker).mean()), 3),
        "95 %": [round(float(low), 3), round(float(high), 3)],
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--queries", type=int, default=500)
    options.add_argument("--lengths", type=int, nargs="*", default=[8, 16])
    options.add_argument("--out", type=Path, default=OUT)
    options.add_argument("--only", choices=["plain", "adapted"])
    chosen = options.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"load": os.getloadavg(), "cells": {}}
    for kind in [chosen.only] if chosen.only else ["adapted", "plain"]:
        llm = LocalLLM.load("smollm2")
        if kind == "adapted":
            merge_adapter(llm.model, PACKAGED_ADAPTERS["smollm2"])
        channel = NoisyChannel(llm)
        for length in chosen.lengths:
            for table, split, side in TABLES:
                rows = shortlists(table, split, side, chosen.queries, length, seed=1)
                name = f"{kind}, {table}, {length}"
                result["cells"][name] = cell(channel, rows, DEFAULT_WEIGHTS.noisy_channel)
                print(name, result["cells"][name], flush=True)
                chosen.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
