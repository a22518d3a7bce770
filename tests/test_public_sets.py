"""The readers of public sets, on files of the same form."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
CLASSES = {"rain": "will it rain in {}", "money": "how much money is in account {}"}


@pytest.fixture(scope="module")
def public():
    spec = importlib.util.spec_from_file_location("public", ROOT / "benchmarks" / "public.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_clinc150(public, tmp_path):
    def rows(start):
        return [
            [text.format(n), name]
            for name, text in CLASSES.items()
            for n in range(start, start + 5)
        ]

    data = {"train": rows(0), "test": rows(10), "val": []}
    data |= {f"oos_{split}": [["who are you", "oos"]] for split in ("train", "test", "val")}
    path = tmp_path / "data_full.json"
    path.write_text(json.dumps(data))
    report = public.clinc150(path)
    assert report["in_scope_top1"] == 1.0
    assert report["n_test"] == 11


def test_metatool_holds_out_the_same_queries_in_any_order(public, tmp_path):
    rows = [[text.format(n), name] for name, text in CLASSES.items() for n in range(40)]
    held = [query for query, _ in rows if public.held_out(query)]
    path, about = tmp_path / "all_clean_data.csv", tmp_path / "plugin_des.json"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["Query", "Tool"], *reversed(rows)])
    about.write_text(json.dumps({"rain": "Weather forecast"}))
    report = public.metatool(path, about)
    assert 0 < report["n_test"] == len(held) < len(rows)
    assert report["in_scope_top1"] == 1.0


def test_routerbench_and_routerdc(public, tmp_path):
    wide, long = tmp_path / "a_train.csv", tmp_path / "sums.json"
    head = [
        "sample_id",
        "prompt",
        "eval_name",
        "a",
        "b",
        "a|model_response",
        "a|total_cost",
        "b|total_cost",
    ]
    with wide.open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                head,
                *(
                    [n, f"['what is {n} plus 1?']", "sums", n % 2, 1.0, "x", 1e-4, 1e-2]
                    for n in range(20)
                ),
            ]
        )
    data = public.routerbench([wide])
    assert data.llms == ("a", "b")
    assert data.queries[3] == "what is 3 plus 1?"
    assert data.costs[0].tolist() == [1e-4, 1e-2]
    long.write_text(json.dumps([{"question": "1+1?", "scores": {"b": 0.5, "a": [1.0, 0.0]}}] * 3))
    assert public.routerdc([long]).scores.tolist() == [[0.5, 0.5]] * 3
    found = public.routed(data, data)
    assert found["best_single"] == "b"
    assert found["queries_by_task"] == {"sums": 20}


def test_coderouterbench(public, tmp_path):
    """Columns as its card lists them: one row for each task and LLM, prompts beside them."""
    results, tasks = tmp_path / "ood176_results_long.csv", tmp_path / "ood176_tasks.jsonl"
    head = ["task_id", "source_split", "bench", "dimension", "model", "resolved", "cost_usd"]
    rows = []
    for n in range(40):
        about = [f"t{n}", "new64", "longcli", "test" if n % 2 else "bugs"]
        rows += [[*about, "b", 1 - n % 2, 0.2], [*about, "a", n % 2, ""]]
    with results.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    prompts = ["Write a test for file {}" if n % 2 else "Mend bug {}" for n in range(40)]
    asked = [
        {"task_id": f"t{n}", "dimension": "test" if n % 2 else "bugs", "prompt": text.format(n)}
        for n, text in enumerate(prompts)
    ]
    tasks.write_text("\n".join(map(json.dumps, asked)))
    data = public.coderouterbench(results, tasks)
    assert (data.llms, data.queries[1]) == (("a", "b"), "Write a test for file 1")
    assert data.scores[:2].tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert data.costs[0, 1] == 0.2
    assert np.isnan(data.costs[:, 0]).all()
    known = dataclasses.replace(data, costs=np.full((40, 2), 0.1))
    found = public.folded(known)
    assert found["n_test"] == 40
    assert found["preferences"]["performance"]["score"] > 0.9 > found["best_single_score"]
    tasks.write_text(json.dumps({"task_id": "t0", "dimension": "bugs"}))
    results.write_text("task_id,model,score,cost_usd\nt0,a,1,0.1\n")
    with pytest.raises(SystemExit, match="'t0'"):
        public.coderouterbench(results, tasks)
