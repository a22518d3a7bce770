"""Measure on public sets from files that you fetched, beside figures that their authors published.

    python benchmarks/public.py clinc150 data_full.json
    python benchmarks/public.py metatool all_clean_data.csv plugin_des.json
    python benchmarks/public.py routerbench --train mbpp_train.csv ... --test mbpp_test.csv ...
    python benchmarks/public.py routerdc --train gsm8k-train.json ... --test gsm8k-test.json ...
    python benchmarks/public.py coderouterbench ood176_results_long.csv ood176_tasks.jsonl

Where the files are: clinc/oos-eval (data/), HowieHwong/MetaTool (dataset/ and dataset/data/),
shuhao02/RouterDC (datasets/routerbench_zs/ has RouterBench's columns as CSV, since the original is
a pickle, which is not read; datasets/split2_model7*/). CLINC150 has a test split; MetaTool has
none, so a fifth is held out by a digest of the query, and no published figure is of those rows.
RouterDC's LLMs have no prices: each call counts alike, and only `performance` says anything.
CodeRouterBench is Lance1573/CodeRouterBench on the hub: its 176 tasks out of distribution come with
their prompts and no split, so each of five folds is asked of a router that learnt from the others;
its 9,999 others have no prompt in the published files: give them one (`prompt`, by `task_id`).
Any other pool of LLMs in the schema of docs/data.md: `moma train llms`, then `moma eval llms`.
Prints, and writes benchmarks/results/public.json.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moma_core import AgentCard, LLMDataset, RoutingEncoder
from moma_core.agents.data import LabelledQueries
from moma_core.llms.training import train
from moma_core.training.evaluate_agents import evaluate_agents
from moma_core.training.evaluate_llms import evaluate_llms

OUT = Path("benchmarks/results/public.json")
PUBLISHED = {
    "routerdc": "RouterDC over the best single LLM: +2.76 % in distribution, +1.90 % out of it "
    "(Chen et al. 2024, arXiv 2409.19886, abstract)",
    "coderouterbench": "ACRouter on the 176 tasks out of distribution: .733 solved for 68.29 USD "
    "in all, learnt on the 9,999 others (arXiv 2606.22902, the authors' README)",
}
FOLDS = 5
KEPT = ("in_scope_top1", "top5", "oos_auroc", "kept_in_scope_top1", "oos_recall", "n_test")


def labelled(rows: Sequence[tuple[str, str | None]]) -> LabelledQueries:
    texts = tuple(query for query, _ in rows)
    return LabelledQueries(texts, tuple((name,) if name else () for _, name in rows))


def clinc150(path: Path) -> dict[str, Any]:
    """Train on train and oos_train, ask test and oos_test."""
    data = json.loads(path.read_text(encoding="utf-8"))

    def rows(split: str) -> LabelledQueries:
        inside = [(query, intent) for query, intent in data[split]]
        return labelled(inside + [(query, None) for query, _ in data[f"oos_{split}"]])

    names = dict.fromkeys(intent for _, intent in data["train"])
    cards = [AgentCard(name, name.replace("_", " ")) for name in names]
    return evaluate_agents(cards, rows("train"), rows("test"))


def fold(query: str) -> int:
    """Return which of five parts a query is of, whatever the order of the file."""
    return hashlib.sha256(query.encode()).digest()[0] * FOLDS // 256


def held_out(query: str) -> bool:
    """Whether a query is of the fifth that is asked."""
    return fold(query) == 0


def metatool(queries: Path, descriptions: Path) -> dict[str, Any]:
    known = json.loads(descriptions.read_text(encoding="utf-8"))
    with queries.open(encoding="utf-8", newline="") as file:
        rows = [(row["Query"].strip(), row["Tool"]) for row in csv.DictReader(file)]
    rows = [(query, tool) for query, tool in dict(rows).items() if query]
    names = dict.fromkeys(tool for _, tool in rows)
    cards = [AgentCard(name, known.get(name, "").strip() or name) for name in names]
    train_rows = [row for row in rows if not held_out(row[0])]
    return evaluate_agents(
        cards, labelled(train_rows), labelled([r for r in rows if held_out(r[0])])
    )


def pool(rows: Sequence[tuple[str, Mapping[str, float], Mapping[str, float], str]]) -> LLMDataset:
    """Put rows of query, scores, costs and task together; LLMs are those of the first row."""
    llms = tuple(rows[0][1])
    return LLMDataset(
        queries=tuple(query for query, *_ in rows),
        llms=llms,
        scores=np.array([[scores[llm] for llm in llms] for _, scores, _, _ in rows]),
        costs=np.array([[costs[llm] for llm in llms] for _, _, costs, _ in rows]),
        tasks=tuple(task for *_, task in rows),
    )


def routerbench(paths: Sequence[Path]) -> LLMDataset:
    """Read RouterBench's wide CSV: ``prompt``, ``eval_name``, LLM, ``LLM|total_cost``."""
    csv.field_size_limit(sys.maxsize)
    rows = []
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                llms = sorted(name for name in row if f"{name}|total_cost" in row)
                prompt = "\n".join(
                    ast.literal_eval(row["prompt"])
                )  # a list of texts, as Python has it
                costs = {llm: float(row[f"{llm}|total_cost"]) for llm in llms}
                rows.append((prompt, {m: float(row[m]) for m in llms}, costs, row["eval_name"]))
    return pool(rows)


def routerdc(paths: Sequence[Path]) -> LLMDataset:
    """Read RouterDC's JSON: a list of ``question`` and ``scores`` by LLM."""
    rows = []
    for path in paths:
        for row in json.loads(path.read_text(encoding="utf-8")):
            scores = {llm: float(np.mean(score)) for llm, score in sorted(row["scores"].items())}
            rows.append((row["question"], scores, dict.fromkeys(scores, 1e-4), path.stem))
    return pool(rows)


def coderouterbench(results: Path, tasks: Path) -> LLMDataset:
    """Read a row for each task and LLM (``score`` or ``resolved``), and the tasks' prompts."""
    lines = tasks.read_text(encoding="utf-8").splitlines()
    known = {row["task_id"]: row for row in map(json.loads, filter(None, lines))}
    cells: dict[str, dict[str, tuple[float, float]]] = {}
    with results.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            score = row.get("score") or row["resolved"]
            cells.setdefault(row["task_id"], {})[row["model"]] = (
                float(score),
                float(row["cost_usd"] or "nan"),
            )
    bare = [name for name in cells if not known[name].get("prompt")]
    if bare:
        raise SystemExit(f"{len(bare)} tasks have no prompt in {tasks}, such as {bare[0]!r}.")
    return pool(
        [
            (
                known[name]["prompt"],
                {llm: score for llm, (score, _) in sorted(row.items())},
                {llm: cost for llm, (_, cost) in row.items()},
                known[name]["dimension"],
            )
            for name, row in cells.items()
        ]
    )


def folded(data: LLMDataset) -> dict[str, Any]:
    """Ask each fold of a router that learnt from the others; return means over all queries."""
    folds = np.array([fold(query) for query in data.queries])
    reports = [
        routed(data.take(folds != number), data.take(folds == number))
        for number in np.unique(folds)
    ]
    weights = [report["n_test"] for report in reports]

    def mean(key: str, *within: str) -> float:
        values = []
        for report in reports:
            for name in within:
                report = report[name]
            values.append(report[key])
        return float(np.average(values, weights=weights))

    single = ("best_single_score", "best_single_cost", "oracle_score")
    return {
        "n_test": sum(weights),
        **{key: mean(key) for key in single},
        "preferences": {
            name: {key: mean(key, "preferences", name) for key in ("score", "cost")}
            for name in reports[0]["preferences"]
        },
    }


def routed(known: LLMDataset, asked: LLMDataset) -> dict[str, Any]:
    encoder = RoutingEncoder()
    report = evaluate_llms(train(known, encoder), asked, encoder)
    best = ("best_single", "best_single_score", "best_single_cost", "oracle_score", "n_test")
    tasks = np.array(asked.tasks)
    return {
        **{key: report[key] for key in best},
        "preferences": report["preferences"],
        "queries_by_task": {str(task): int((tasks == task).sum()) for task in np.unique(tasks)},
    }


def kept(report: dict[str, Any]) -> dict[str, Any]:
    return {key: report[key] for key in KEPT}


FILES: dict[str, tuple[Callable[..., dict[str, Any]], int]] = {
    "clinc150": (lambda *paths: kept(clinc150(*paths)), 1),
    "metatool": (lambda *paths: kept(metatool(*paths)), 2),
    "coderouterbench": (lambda *paths: folded(coderouterbench(*paths)), 2),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("set", choices=(*FILES, "routerbench", "routerdc"))
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--train", nargs="+", type=Path)
    parser.add_argument("--test", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    if asked.set in ("routerbench", "routerdc"):
        if not (asked.train and asked.test):
            parser.error(f"{asked.set} needs --train FILE ... and --test FILE ...")
        read = routerbench if asked.set == "routerbench" else routerdc
        found = routed(read(asked.train), read(asked.test))
    else:
        reader, wanted = FILES[asked.set]
        if len(asked.files) != wanted:
            parser.error(f"{asked.set} needs {wanted} file(s), got {len(asked.files)}")
        found = reader(*asked.files)
    found["published"] = PUBLISHED.get(asked.set)
    known = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.exists() else {}
    asked.out.write_text(json.dumps({**known, asked.set: found}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
