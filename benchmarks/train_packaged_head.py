"""Train the LLM router that ships in moma_core/packaged/llms.

    python benchmarks/train_packaged_head.py [--check]

Data from MOMA_DATA (default ../shared/data): the train rows of ZeroEval and MMLU-Pro, both
Apache-2.0. Nine LLMs of ZeroEval; four of them answered MMLU-Pro too, for the other five those
scores are filled in (see moma_core/llms/training.py). No row of the data is written
anywhere. --check trains nothing: it hides the MMLU-Pro column of each LLM that has one, fills it
in, and compares.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from moma_core.encoder import RoutingEncoder
from moma_core.llms.data import LLMDataset
from moma_core.llms.features import QueryFeatures
from moma_core.llms.router import LLMRouter
from moma_core.llms.training import fill_costs, fill_scores, train
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
    print("LLM hidden on MMLU-Pro            mean  filled   corr over subjects   cost ratio")
    for column, (name, other) in enumerate(POOL.items()):
        if other is None:
            continue
        scores, costs = data.scores.copy(), data.costs.copy()
        scores[rows, column] = costs[rows, column] = np.nan
        filled, spent = fill_scores(scores, inputs)[rows, column], fill_costs(costs)[rows, column]
        true = data.scores[rows, column]
        subjects = sorted(set(tasks[rows]))
        pairs = [[a[tasks[rows] == s].mean() for s in subjects] for a in (true, filled)]
        ratio = spent.mean() / data.costs[rows, column].mean()
        alike = np.corrcoef(pairs)[0, 1]
        print(f"{name:32}{true.mean():6.3f}{filled.mean():8.3f}{alike:15.3f}{ratio:18.2f}")


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
        "completed": "scores and costs that were not measured follow ability and difficulty",
        "command": "python benchmarks/train_packaged_head.py",
    }
    router = train(
        pool, encoder, prices=prices["zeroeval"], vectors=vectors, notes=notes,
        progress=lambda what, done, total: print(f"  {done}/{total} {what}"),
    )  # fmt: skip
    figures = evaluate(router, tables, encoder)
    print(json.dumps(figures, indent=1))
    router = replace(router, metadata={**router.metadata, "evaluation": figures})
    router.save(PACKAGED)
    print({file.name: file.stat().st_size for file in PACKAGED.iterdir()})


if __name__ == "__main__":
    main()
