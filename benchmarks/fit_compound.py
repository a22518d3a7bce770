"""Fits what tells a query that asks for several things from one that asks for one.

    MOMA_DATA=../shared/data python benchmarks/fit_compound.py [--count 250]

Agents by descriptions alone. Pairs are made up: queries of two agents of a catalog joined in one of
many ways. Single ones are the catalog's own that could be cut. Train rows of MetaTool, CLINC150,
banking50, and Seal-Tools; judged with one set left out, at the false cuts that the others allow.
Prints the weights for `moma_core.agents.compound`; benchmarks/several_agents.py judges them on
queries written for that.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression

from moma_core import MoMARouter
from moma_core.agents.compound import best_parts, evidence, pieces
from moma_core.agents.data import read_agents
from moma_core.agents.router import Choice

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
OUT = Path("benchmarks/results/fit_compound.json")
SETS = {"metatool": "train", "clinc150": "train", "banking50": "train", "sealtools": "test_in"}
JOINS = (
    " and ",
    ", and ",
    ". ",
    "? ",
    "; ",
    ", then ",
    ", ",
    " and also ",
    ". Also, ",
    " plus ",
    ", and then ",
)
FALSE_CUTS = 0.06  # of single queries that could be cut at all: half of them or fewer


def texts_of(name: str, count: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Return made-up pairs and single queries that could be cut."""
    rows = pq.read_table(DATA / f"{name}_queries.parquet").to_pylist()
    rows = [r for r in rows if r["split"] == SETS[name] and len(r["agents"]) == 1]
    rows = [r for r in rows if r["query"].strip()]
    pairs: list[str] = []
    short = [r for r in rows if len(r["query"].split()) <= 7] or rows
    while len(pairs) < count:
        drawn = short if len(pairs) % 2 else rows
        a, b = (drawn[i] for i in rng.integers(len(drawn), size=2))
        if a["agents"] == b["agents"] or len((a["query"] + b["query"]).split()) > 45:
            continue
        second = b["query"] if rng.random() < 0.3 else b["query"][:1].lower() + b["query"][1:]
        pairs.append(a["query"].rstrip(" .?!") + rng.choice(JOINS) + second)
    could = [
        rows[i]["query"] for i in rng.permutation(len(rows)) if len(pieces(rows[i]["query"])) > 1
    ]
    return pairs, could[:count]


def features(router: MoMARouter, texts: list[str]) -> np.ndarray:
    """Return the evidence of each text, shape (n, 5); NaN where nothing speaks for parts."""
    agents, found = router.agent_router, []
    for text in texts:
        parts = best_parts(text, agents, router.encoder, Choice())
        if len({part.agent for part in parts}) < 2:
            found.append([np.nan] * 5)
            continue
        found.append(evidence(parts, router.encoder.encode([text])[0], agents))
    return np.array(found)


def fitted(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return five weights and the intercept at which few single queries are cut."""
    known = np.isfinite(x).all(axis=1)
    model = LogisticRegression(class_weight="balanced", C=1.0).fit(x[known], y[known])
    score = np.where(known, np.nan_to_num(x) @ model.coef_[0], -np.inf)
    cut = max(np.quantile(score[~y], 1.0 - FALSE_CUTS), -model.intercept_[0])
    return np.append(model.coef_[0], -cut)


def main() -> None:
    """Fit, judge with one set left out, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=250)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    data = {}
    for name in SETS:
        router = MoMARouter.from_cards(read_agents(DATA / f"{name}_agents.parquet"), llms=None)
        pairs, single = texts_of(name, args.count, rng)
        x = features(router, pairs + single)
        data[name] = x, np.repeat([True, False], [len(pairs), len(single)])
        print(name, len(pairs), len(single), flush=True)
    report = {}
    for name, (x, y) in data.items():
        others = [data[other] for other in data if other != name]
        w = fitted(np.concatenate([o[0] for o in others]), np.concatenate([o[1] for o in others]))
        told = np.nan_to_num(x) @ w[:-1] + w[-1] > 0
        told &= np.isfinite(x).all(axis=1)
        report[name] = {"pairs cut": told[y].mean(), "single cut": told[~y].mean()}
        print(name, "left out:", {k: round(float(v), 3) for k, v in report[name].items()})
    w = fitted(
        np.concatenate([d[0] for d in data.values()]), np.concatenate([d[1] for d in data.values()])
    )
    report["weights"] = [round(float(v), 3) for v in w]
    print("weights", report["weights"])
    OUT.write_text(json.dumps(report, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
