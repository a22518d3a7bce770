"""Shares right with intervals, from the rows that decoding_quality.py has scored."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from decoding_lists import LENGTHS, REGIMES, SEED, TABLES, Row, rows_of, scored

from moma_core.decoding.decider import DEFAULT_WEIGHTS, Case, FusionWeights, fit_weights

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Scores = dict[str, Any]

EVIDENCE = {"choice": "PMI", "channel": "noisy channel", "adapted": "adapted noisy channel"}


def report(adapted: str, out: Path) -> None:
    """Write every cell from the rows that are there, with 95 % intervals.

    Args:
        adapted: The stage of the adapter to report on.
        out: File to write.
    """
    found = {name: scored(name) for name in ("channel", "choice", "masked")}
    found["adapted"] = scored(adapted)
    cells = {
        f"{table}, {regime}, {length}": cell(table, regime, length, found)
        for table, regime, length in itertools.product(TABLES, REGIMES, LENGTHS)
    }
    out.write_text(json.dumps({"adapter": adapted, "cells": cells}, indent=1) + "\n")
    print(json.dumps(cells, indent=1))


def cell(table: str, regime: str, length: int, found: dict[str, Scores]) -> dict[str, Any]:
    """Return the share right by each method, and what fusing gains on the same rows."""
    rows = rows_of(table, regime)
    wanted = np.array([row["wanted"] for row in rows])
    ranker = wanted == [row["names"][0] for row in rows]
    listed = np.array([row["wanted"] in row["names"][:length] for row in rows])
    result: dict[str, Any] = {"on the list": share(listed), "ranker": share(ranker)}
    masked = [greedy_choice(table, row, length, found["masked"]) for row in rows]
    said = np.array([name is not None for name in masked])
    result["masked greedy"] = share((wanted == np.array(masked, dtype=object))[said])
    for stage, name in EVIDENCE.items():
        heard = [evidence(table, row, length, found[stage]) for row in rows]
        asked = np.array([scores is not None for scores in heard])
        result[name] = share((wanted == picks(rows, heard, length, None))[asked])
        if stage == "choice" or not asked.any():
            continue
        weights = weights_for(table, regime, length, found[stage])
        fused = wanted == picks(rows, heard, length, weights)
        result[f"fused, {name}"] = share(fused[asked]) | {
            "weight": weights.noisy_channel,
            "fitted on": weights.n_cases,
            "gain on the ranker": paired(fused[asked], ranker[asked]),
        }
    return result


def picks(
    rows: list[Row],
    heard: list[np.ndarray[Any, Any] | None],
    length: int,
    weights: FusionWeights | None,
) -> np.ndarray[Any, Any]:
    """Return the agent chosen for each row by evidence, or with weights by both; None unheard."""
    chosen: list[str | None] = []
    for row, scores in zip(rows, heard, strict=True):
        if scores is None:
            chosen.append(None)
            continue
        prior = np.array(row["prior"][:length])
        total = scores if weights is None else prior + weights.noisy_channel * scores
        chosen.append(row["names"][int(total.argmax())])
    return np.array(chosen, dtype=object)


def evidence(table: str, row: Row, length: int, found: Scores) -> np.ndarray[Any, Any] | None:
    """Return the scores of a row's agents, None where one is missing."""
    have = found.get(f"{table}|{row['query']}", {})
    names = row["names"][:length]
    return np.array([have[name] for name in names]) if have.keys() >= set(names) else None


def greedy_choice(table: str, row: Row, length: int, found: Scores) -> str | None:
    names = "|".join(sorted(row["names"][:length]))
    chosen: str | None = found.get(f"{table}|{row['query']}|{names}")
    return chosen


def weights_for(table: str, regime: str, length: int, found: Scores) -> FusionWeights:
    """Return the weights that `FusedDecider` would use."""
    if regime == "descriptions":
        return DEFAULT_WEIGHTS
    cases = []
    for row in rows_of(table, "held-out"):
        scores = evidence(table, row, length, found)
        if scores is not None:
            names = row["names"][:length]
            wanted = names.index(row["wanted"]) if row["wanted"] in names else None
            prior = np.array(row["prior"][:length])
            cases.append(Case(prior, scores, np.zeros(len(names)), wanted))
    return fit_weights(cases)


def share(right: Bools) -> dict[str, Any]:
    """Return a share with its Wilson interval at 95 %."""
    if not right.size:
        return {"of": 0}
    n, p, z = right.size, float(right.mean()), 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {
        "right": round(p, 3),
        "of": n,
        "95 %": [round(middle - half, 3), round(middle + half, 3)],
    }


def paired(first: Bools, second: Bools) -> dict[str, Any]:
    """Return the mean difference on the same queries with its bootstrap interval at 95 %."""
    gained = first.astype(float) - second
    draws = np.random.default_rng(SEED).integers(gained.size, size=(4000, gained.size))
    low, high = np.quantile(gained[draws].mean(axis=1), [0.025, 0.975])
    return {"mean": round(float(gained.mean()), 3), "95 %": [round(low, 3), round(high, 3)]}
