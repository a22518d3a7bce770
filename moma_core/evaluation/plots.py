"""The three pictures of LLM routing (figs. 5-7), legible in black and white; PNG or SVG by name.

Heat map of capability, score-cost front, share of each LLM per preference. Draws reports and
datasets; measures nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core.errors import ArtifactError, InvalidDataError
from moma_core.evaluation.metrics import upper_hull
from moma_core.llm_routing.dataset import LLMDataset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_capability", "draw_front", "draw_usage"]

_HATCHES = ("", "//", "..", "xx", "\\\\", "--", "++", "oo", "**")
_LEAST_SHARE = 0.01
_MARKS = {"performance": "^", "auto": "s", "cost": "v"}


def draw_front(report: Mapping[str, Any], dataset: LLMDataset | None, path: str | Path) -> None:
    """Draw score over cost: our curve, the preferences, every single LLM, the oracle (fig. 6).

    Args:
        report: From `evaluate_llms` or `evaluate_cascade`.
        dataset: The queries evaluated on, for the single LLMs; None leaves all but the best out.
        path: Where to, ``.png`` or ``.svg``.

    Raises:
        ArtifactError: The file cannot be written.
        InvalidDataError: The report lacks a key.
    """
    figure, axes = _canvas(7.0, 4.5)
    try:
        hull = upper_hull(np.array(report["curve"]))
        axes.plot(hull[:, 0], hull[:, 1], "k-", label="router", zorder=3)
        for name, mark in _MARKS.items():
            point = report["preferences"][name]
            axes.plot(point["cost"], point["score"], mark, color="black", ms=8, label=name)
        best = (report["best_single_cost"], report["best_single_score"])
        axes.axhline(report["oracle_score"], color="0.5", ls=":", label="oracle")
        axes.axhline(best[1], color="0.7", ls="--", label=f"best single: {report['best_single']}")
    except KeyError as error:
        raise InvalidDataError(
            f"the report lacks {error}. Write one with moma eval llms."
        ) from None
    if dataset is not None:
        _draw_singles(axes, dataset)
    axes.set(xlabel="USD a query", ylabel="mean score", xscale="log")
    axes.legend(fontsize=7, loc="lower right")
    _write(figure, path)


def _draw_singles(axes: Axes, dataset: LLMDataset) -> None:
    costs, scores = np.nanmean(dataset.costs, axis=0), np.nanmean(dataset.scores, axis=0)
    axes.plot(costs, scores, "o", mfc="white", mec="black")
    middle = np.exp(np.log(np.maximum(costs, 1e-9)).mean())
    for name, cost, score in zip(dataset.llms, costs, scores, strict=True):
        side, shift = ("right", -4) if cost > middle else ("left", 4)
        axes.annotate(name, (cost, score), fontsize=6, ha=side, xytext=(shift, -6),
                      textcoords="offset points")  # fmt: skip


def draw_usage(report: Mapping[str, Any], path: str | Path) -> None:
    """Draw which LLMs each preference asks, as hatched stacked bars (fig. 7).

    Raises:
        ArtifactError: The file cannot be written.
        InvalidDataError: The report has no usage.
    """
    usage: Mapping[str, Mapping[str, float]] = report.get("usage", {})
    if not usage:
        raise InvalidDataError("the report has no usage. Write one with moma eval llms.")
    figure, axes = _canvas(7.0, 3.5)
    names = [
        name
        for name in next(iter(usage.values()))
        if max(shares[name] for shares in usage.values()) >= _LEAST_SHARE
    ]
    left = np.zeros(len(usage))
    for place, name in enumerate(names):
        shares = np.array([each[name] for each in usage.values()])
        grey = str(0.95 - 0.6 * (place % 4) / 3)
        hatch = _HATCHES[place % len(_HATCHES)]
        axes.barh(list(usage), shares, left=left, color=grey, edgecolor="black", hatch=hatch,
                  label=name)  # fmt: skip
        left += shares
    axes.set(xlabel="calls a query")
    axes.legend(fontsize=6, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    _write(figure, path)


def draw_capability(dataset: LLMDataset, path: str | Path) -> None:
    """Draw each LLM's mean score on each task, numbers in the cells (fig. 5).

    Raises:
        ArtifactError: The file cannot be written.
        InvalidDataError: The dataset has no tasks.
    """
    if not dataset.tasks:
        raise InvalidDataError("the table has no column 'task'; the heat map needs one.")
    tasks = sorted(set(dataset.tasks))
    rows = np.array(dataset.tasks)
    cells = np.array([np.nanmean(dataset.scores[rows == task], axis=0) for task in tasks])
    order = np.argsort(-np.nanmean(dataset.scores, axis=0), kind="stable")
    figure, axes = _canvas(1.5 + 0.6 * len(order), 2.0 + 0.35 * len(tasks))
    axes.imshow(cells[:, order], cmap="Greys", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(range(len(order)), [dataset.llms[i] for i in order], rotation=60, ha="right")
    axes.set_yticks(range(len(tasks)), tasks)
    axes.tick_params(labelsize=7)
    for row, column in np.ndindex(len(tasks), len(order)):
        value = cells[row, order[column]]
        shade = "white" if value > 0.55 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade, fontsize=6)
    _write(figure, path)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of its own, without pyplot: no global state, no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _write(figure: Figure, path: str | Path) -> None:
    target = Path(path)
    if target.suffix not in (".png", ".svg"):
        raise ArtifactError(f"a picture is .png or .svg, got {target.name!r}.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=150)
    except OSError as error:
        raise ArtifactError(f"cannot write {target} ({error}). Choose another --out.") from error
