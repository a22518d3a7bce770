"""Train the LLM router that ships in moma_core/packaged/llms.

    python benchmarks/train_packaged_head.py [--check]

Data from MOMA_DATA (default ../shared/data): the train rows of ZeroEval and MMLU-Pro, both
Apache-2.0. Nine LLMs of ZeroEval; four of them answered MMLU-Pro too, for the other five those
scores are filled in (see moma_core/llms/training.py) and moved to the mean that is published of
them. No row of the data is written anywhere. --check trains nothing: it hides the MMLU-Pro column
of each LLM that has one, fills it in with and without its mean, and compares. MOMA_VECTORS as in
benchmarks/llms.py.

What halving the cost is worth stays the default, 0.02: held-out rows would say 0.0075 to 0.02 by
the fit, and only ZeroEval's have all nine scores: mathematics and code, not all that is asked.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

from moma_core import LLMDataset, LLMRouter, RoutingEncoder
from moma_core._numerics import sigmoid
from moma_core.llms.features import QueryFeatures
from moma_core.llms.selection import POINTS
from moma_core.llms.training import fill_scores, train
from moma_core.training.evaluate_llms import evaluate_llms

POOL = {
    "claude-3-5-sonnet-20241022": None,
    "claude-3-haiku-20240307": None,
    "deepseek-v2.5-0908": None,
    "gemini-1.5-flash": "gemini-1.5-flash-002",
    "gemini-1.5-pro": "gemini-1.5-pro-002",
    "gpt-4o-2024-08-06": None,
    "gpt-4o-mini-2024-07-18": None,
    "Meta-Llama-3.1-70B-Instruct": "Meta-Llama-3_1-70B-Instruct",
    "Meta-Llama-3.1-8B-Instruct": "Meta-Llama-3_1-8B-Instruct",
}
"""LLM of ZeroEval -> the same LLM (or its nearest release) among MMLU-Pro's columns."""

PUBLISHED = {
    "claude-3-5-sonnet-20241022": 0.780,
    "deepseek-v2.5-0908": 0.662,
    "gpt-4o-2024-08-06": 0.726,
    "gpt-4o-mini-2024-07-18": 0.628,
}
"""MMLU-Pro as published: DeepSeek-V3's README (GPT-4o: release of May 2024) and, of GPT-4o mini,
the card of Phi-3.5-MoE in Azure's azureml-assets."""

PACKAGED = Path("moma_core/packaged/llms")


def joined(maths: LLMDataset, subjects: LLMDataset) -> LLMDataset:
    """One pool over both tables; what an LLM was not asked is NaN."""
    maths = maths.pool(list(POOL))
    blank = np.full((len(subjects), len(POOL)), np.nan)
    scores, costs = blank.copy(), blank.copy()
    for column, name in enumerate(POOL.values()):
        if name:
            scores[:, column] = subjects.scores[:, subjects.llms.index(name)]
            costs[:, column] = subjects.costs[:, subjects.llms.index(name)]
    return LLMDataset(
        queries=maths.queries + subjects.queries,
        llms=tuple(POOL),
        scores=np.vstack([maths.scores, scores]),
        costs=np.vstack([maths.costs, costs]),
        tasks=maths.tasks + subjects.tasks,
    )


def completed(pool: LLMDataset, inputs: np.ndarray, means: dict[str, float]) -> np.ndarray:
    """Return the pool's scores without gaps.

    ZeroEval alone, all mathematics and code, places the LLMs that were asked nothing else too high
    on other subjects, so what is filled in is moved, in logits, to their published means; an LLM
    of which none is published is moved as they are in the mean.
    """
    filled, shifts = fill_scores(pool.scores, inputs), {}
    held = np.clip(filled, 0.02, 0.98)
    logits = np.log(held / (1.0 - held))
    gaps = np.isnan(pool.scores)
    for name, mean in means.items():
        own = logits[gaps[:, column := pool.llms.index(name)], column]
        shifts[name] = brentq(lambda by, own=own, mean=mean: sigmoid(own + by).mean() - mean, -9, 9)
    usual = float(np.mean([*shifts.values()]))
    moved = sigmoid(logits + np.array([shifts.get(name, usual) for name in pool.llms]))
    return np.where(gaps, moved, filled)


def vectors_of(name: str, data: LLMDataset, encoder: RoutingEncoder) -> np.ndarray:
    cache = os.environ.get("MOMA_VECTORS")
    if not cache:
        print(f"encoding {len(data):,} queries of {name} ...", flush=True)
        return encoder.encode(data.queries)
    vectors = np.load(Path(cache) / f"{name}.npz")["q_mean"]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def check(data: LLMDataset, vectors: np.ndarray, n_maths: int) -> None:
    """Hide each measured MMLU-Pro column in turn and see how well it is filled in."""
    inputs = QueryFeatures.fit(data.queries).join(data.queries, vectors)
    rows = np.arange(len(data)) >= n_maths
    tasks = np.array(data.tasks)
    print("LLM hidden on MMLU-Pro           mean  filled  squared error, with mean  over subjects")
    for column, (name, other) in enumerate(POOL.items()):
        if other is None:
            continue
        scores, true = data.scores.copy(), data.scores[rows, column]
        scores[rows, column] = np.nan
        hidden = replace(data, scores=scores)
        ways = (fill_scores(scores, inputs), completed(hidden, inputs, {name: true.mean()}))
        errors = [float(((way[rows, column] - true) ** 2).mean()) for way in ways]
        subjects = sorted(set(tasks[rows]))
        pairs = [
            [a[tasks[rows] == s].mean() for s in subjects] for a in (true, ways[1][rows, column])
        ]
        alike = np.corrcoef(pairs)[0, 1]
        mean = ways[0][rows, column].mean()
        print(
            f"{name:31}{true.mean():6.3f}{mean:8.3f}{errors[0]:15.4f}{errors[1]:11.4f}{alike:15.3f}"
        )


def evaluate(
    router: LLMRouter, tables: dict[str, tuple[LLMDataset, np.ndarray]], encoder: RoutingEncoder
) -> dict[str, dict[str, float]]:
    """Held-out figures on the val rows of both tables, MMLU-Pro over the LLMs measured there."""
    maths, vectors = tables["zeroeval"]
    held = np.array(maths.splits) == "val"
    report = evaluate_llms(router, maths.take(held), encoder, vectors=vectors[held])
    subjects, vectors = tables["mmlu_pro"]
    held = np.array(subjects.splits) == "val"
    predicted, _ = router.predict(subjects.take(held).queries, vectors[held])
    known = {n: o for n, o in POOL.items() if o}
    columns = [router.names.index(n) for n in known]
    true = subjects.scores[held][:, [subjects.llms.index(o) for o in known.values()]]
    picks = predicted[:, columns].argmax(axis=1)
    return {
        "zeroeval_val": {
            "best_single": report["best_single_score"],
            **{name: values["score"] for name, values in report["preferences"].items()},
            "performance_cost_share": report["preferences"]["performance"]["cost"]
            / report["best_single_cost"],
            "cost_to_match_best_single": report["cost_to_match_best_single"],
        },
        "mmlu_pro_val_four_llms": {
            "best_single": float(true.mean(axis=0).max()),
            "performance": float(true[np.arange(len(true)), picks].mean()),
            "squared_error": float(((predicted[:, columns] - true) ** 2).mean()),
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    folder = Path(os.environ.get("MOMA_DATA", "../shared/data"))
    encoder = RoutingEncoder()
    tables = {}
    for name in ("zeroeval", "mmlu_pro"):
        data = LLMDataset.read(folder / f"{name}.parquet")
        tables[name] = (data, vectors_of(name, data, encoder))
    parts = {}
    for name, (data, vectors) in tables.items():
        rows = np.array(data.splits) == "train"
        parts[name] = (data.take(rows), vectors[rows])
    pool = joined(parts["zeroeval"][0], parts["mmlu_pro"][0])
    vectors = np.vstack([parts["zeroeval"][1], parts["mmlu_pro"][1]])
    if options.check:
        check(pool, vectors, len(parts["zeroeval"][0]))
        return
    prices = json.loads((folder / "llm_prices.json").read_text())
    notes = {
        "sources": [
            {
                "name": name,
                "rows": "train",
                "licence": "Apache-2.0",
                "url": url,
                "queries": len(data),
            }
            for name, url, data in (
                (
                    "ZeroEval (GSM8K, CRUX, MATH level 5)",
                    "https://github.com/WildEval/ZeroEval",
                    parts["zeroeval"][0],
                ),
                (
                    "MMLU-Pro evaluation results",
                    "https://github.com/TIGER-AI-Lab/MMLU-Pro",
                    parts["mmlu_pro"][0],
                ),
            )
        ],
        "prices": "public list prices of late 2024, USD per million tokens, rounded",
        "completed": "scores that were not measured follow ability and difficulty, at the means "
        "published for MMLU-Pro; costs follow the query's and the LLM's",
        "command": "python benchmarks/train_packaged_head.py",
    }
    inputs = QueryFeatures.fit(pool.queries).join(pool.queries, vectors)
    router = train(
        pool, encoder, prices=prices["zeroeval"], vectors=vectors, notes=notes,
        completed=completed(pool, inputs, PUBLISHED),
        progress=lambda what, done, total: print(f"  {done}/{total} {what}"),
    )  # fmt: skip
    router = replace(router, points=POINTS)
    figures = evaluate(router, tables, encoder)
    print(json.dumps(figures, indent=1))
    router = replace(router, metadata={**router.metadata, "evaluation": figures})
    router.save(PACKAGED)
    print({file.name: file.stat().st_size for file in PACKAGED.iterdir()})


if __name__ == "__main__":
    main()
