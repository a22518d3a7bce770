"""The pictures of README and docs, from benchmarks/results; page.py draws them.

Each SVG's description holds a digest of the numbers it shows, so a test can tell a stale one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
WAYS = {
    "BM25": ("BM25", "0.85"),
    "cosine, MiniLM": ("cosine, MiniLM", "0.65"),
    "moma": ("moma-router", "#1f5fa8"),
}
PEERS = {
    "llama-index embedding": ("LlamaIndex,\ndescriptions", "0.85"),
    "semantic-router mean": ("semantic-\nrouter, mean", "0.75"),
    "semantic-router max": ("semantic-\nrouter, max", "0.65"),
    "moma-router": ("moma-router", "#1f5fa8"),
}
SETS = {
    "metatool-0": "MetaTool\n199 tools",
    "clinc150-0": "CLINC150\n150",
    "banking50-0": "banking50\n50",
}
CATALOGS = {
    "metatool": ("MetaTool", "o"),
    "clinc150": ("CLINC150", "s"),
    "banking50": ("banking50", "^"),
    "sealtools": ("Seal-Tools", "v"),
    "lobe": ("lobe", "D"),
    "engines": ("12 engines", "x"),
}
MARKS = {"performance": "^", "auto": "s", "cost": "v"}


def numbers() -> dict[str, Any]:
    """Return what the pictures show, by the picture's name."""
    cold = json.loads((RESULTS / "day_one.json").read_text())
    peers = json.loads((RESULTS / "agents_vs_peers.json").read_text())["rows"]
    [run] = [
        run
        for run in json.loads((RESULTS / "llms.json").read_text())["runs"]
        if (run["pool"], run["seed"], run["head"]) == ("zeroeval", 0, "ours (auto)")
    ]
    left_out = json.loads((RESULTS / "fit_cold_gate.json").read_text())["reliability"]
    shots = json.loads((RESULTS / "shots.json").read_text())
    kept = ("curve", "preferences", "best_single", "best_single_score", "best_single_cost")
    return {
        "found": {
            "cold": {way: [cold[name][way]["right_first"] for name in SETS] for way in WAYS},
            "peers": {name: peers[name]["in_scope_top1"] for name in PEERS},
        },
        "front": {key: run[key] for key in (*kept, "oracle_score")},
        "trust": {
            "Descriptions alone, catalog left out": left_out,
            "5 examples an agent": {
                name: rows["5 moma"]["reliability"] for name, rows in shots.items()
            },
        },
    }


def digest(shown: Any) -> str:
    """Return what an SVG's description holds."""
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]


def parted() -> list[str]:
    """Return the pictures that do not show the numbers of the result files."""
    stale = []
    for name, shown in numbers().items():
        path = IMAGES / f"{name}.svg"
        held = re.search(r"digest ([0-9a-f]{16})", path.read_text()) if path.exists() else None
        if held is None or held[1] != digest(shown):
            stale.append(str(path.relative_to(ROOT)))
    return stale


def _found(figure: Any, shown: Any) -> None:
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for place, (way, (label, colour)) in enumerate(WAYS.items()):
        at = np.arange(len(SETS)) + 0.27 * (place - 1)
        bars = left.bar(at, shown["cold"][way], 0.25, color=colour, edgecolor="black", label=label)
        left.bar_label(bars, fmt="%.2f", fontsize=7)
    left.set_xticks(range(len(SETS)), list(SETS.values()), fontsize=8)
    left.set(title="Descriptions alone", ylabel="right agent first", ylim=(0, 1.05))
    left.legend(fontsize=7, loc="upper left")
    for place, (name, (_, colour)) in enumerate(PEERS.items()):
        bars = right.bar(place, shown["peers"][name], 0.7, color=colour, edgecolor="black")
        right.bar_label(bars, fmt="%.2f", fontsize=7)
    right.set(title="20 examples an agent (CLINC150)")
    right.set_xticks(range(len(PEERS)), [label for label, _ in PEERS.values()], fontsize=7)


def _front(figure: Any, shown: Any) -> None:
    axes = figure.subplots()
    axes.plot(*zip(*sorted(shown["curve"]), strict=True), "k-", label="router, by price of quality")
    for name, mark in MARKS.items():
        point = shown["preferences"][name]
        axes.plot(point["cost"], point["score"], mark, color="#1f5fa8", ms=9, label=name)
    at = (shown["best_single_cost"], shown["best_single_score"])
    axes.plot(
        *at, "o", mfc="white", mec="black", ms=9, label=f"best single: {shown['best_single']}"
    )
    axes.axhline(shown["oracle_score"], color="0.5", ls=":", label="the best LLM of each query")
    axes.set(xlabel="USD a query", ylabel="mean score", xscale="log")
    axes.set_title("ZeroEval, 16 LLMs, validation rows", fontsize=10)
    axes.legend(fontsize=7, loc="lower right")


def _trust(figure: Any, shown: Any) -> None:
    for axes, (title, tables) in zip(
        figure.subplots(1, 2, sharey=True), shown.items(), strict=True
    ):
        axes.plot([0, 1], [0, 1], ":", color="0.5")
        for name, table in tables.items():
            label, mark = CATALOGS[name]
            said, right, weight = np.array(table).T
            sizes = 160 * weight / weight.sum() + 6
            axes.plot(said, right, "-", color="0.6", lw=0.8)
            axes.scatter(said, right, sizes, marker=mark, label=label)
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="probability said", xlim=(0, 1), ylim=(0, 1))
        axes.legend(fontsize=7, loc="upper left")
    figure.axes[0].set_ylabel("share right")


def draw() -> None:
    """Draw those pictures whose numbers changed."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    stale = parted()
    painters = {"found": _found, "front": _front, "trust": _trust}
    for name, shown in numbers().items():
        path = IMAGES / f"{name}.svg"
        if str(path.relative_to(ROOT)) not in stale:
            continue
        with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
            figure = Figure(figsize=(8.4, 3.4), layout="constrained")
            painters[name](figure, shown)
            figure.savefig(path, metadata={"Description": f"digest {digest(shown)}", "Date": None})
