"""Measure on public sets from files that you fetched, beside figures that their authors published.

    python benchmarks/public.py clinc150 data_full.json
    python benchmarks/public.py metatool all_clean_data.csv plugin_des.json
    python benchmarks/public.py routerbench --train mbpp_train.csv ... --test mbpp_test.csv ...
    python benchmarks/public.py routerdc --train gsm8k-train.json ... --test gsm8k-test.json ...

Where the files are: clinc/oos-eval (data/), HowieHwong/MetaTool (dataset/ and dataset/data/),
shuhao02/RouterDC (datasets/routerbench_zs/ has RouterBench's columns as CSV, since the original is
a pickle, which is not read; datasets/split2_model7*/). CLINC150 has a test split; MetaTool has
none, so a fifth is held out by a digest of the query, and no published figure is of those rows.
RouterDC's LLMs have no prices: each call counts alike, and only `performance` says anything.
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
from collections.abc import Mapping, Sequence
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
}
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


def held_out(query: str) -> bool:
    """Whether a query is of the fifth that is asked, whatever the order of the file."""
    return hashlib.sha256(query.encode()).digest()[0] < 256 // 5


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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("set", choices=("clinc150", "metatool", "routerbench", "routerdc"))
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
        wanted = {"clinc150": 1, "metatool": 2}[asked.set]
        if len(asked.files) != wanted:
            parser.error(f"{asked.set} needs {wanted} file(s), got {len(asked.files)}")
        report = clinc150(*asked.files) if wanted == 1 else metatool(*asked.files)
        found = {key: report[key] for key in KEPT}
    found["published"] = PUBLISHED.get(asked.set)
    known = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.exists() else {}
    asked.out.write_text(json.dumps({**known, asked.set: found}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
