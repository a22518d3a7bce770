"""The pictures of LLM and team routing, legible in black and white; PNG or SVG by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moma_core._checks import printable
from moma_core.errors import ArtifactError, InvalidDataError, needs_extra
from moma_core.llms.data import LLMDataset
from moma_core.training.evaluate_llms import upper_hull

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "canvas",
    "draw_capability",
    "draw_front",
    "draw_teams",
    "draw_usage",
    "write_picture",
]

_HATCHES = ("", "//", "..", "xx", "\\\\", "--", "++", "oo", "**")
_LEAST_SHARE = 0.01
_DARK = 0.55
"""Shade of a cell from which its number is white."""
_Array = npt.NDArray[np.float64]
_MODE_MARKS = ("^", "s", "v", "o", "D", "P", "X", "*")
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
    figure, (axes,) = canvas(7.0, 4.5)
    try:
        hull = upper_hull(np.array(report["curve"]))
        axes.plot(hull[:, 0], hull[:, 1], "k-", label="router", zorder=3)
        for name, mark in _MARKS.items():
            point = report["preferences"][name]
            axes.plot(point["cost"], point["score"], mark, color="black", ms=8, label=name)
        best_label = f"best single: {_drawn(report['best_single'])}"
        best = (report["best_single_cost"], report["best_single_score"])
        axes.axhline(report["oracle_score"], color="0.5", ls=":", label="oracle")
        axes.axhline(best[1], color="0.7", ls="--", label=best_label)
    except KeyError as error:
        raise InvalidDataError(
            f"the report lacks {error}. Write one with moma eval llms."
        ) from None
    if dataset is not None:
        _draw_singles(axes, dataset)
    axes.set(xlabel="USD a query", ylabel="mean score", xscale="log")
    axes.legend(fontsize=7, loc="lower right")
    write_picture(figure, path)


def _draw_singles(axes: Axes, dataset: LLMDataset) -> None:
    costs, scores = np.nanmean(dataset.costs, axis=0), np.nanmean(dataset.scores, axis=0)
    axes.plot(costs, scores, "o", mfc="white", mec="black")
    middle = np.exp(np.log(np.maximum(costs, 1e-9)).mean())
    for name, cost, score in zip(dataset.llms, costs, scores, strict=True):
        side, shift = ("right", -4) if cost > middle else ("left", 4)
        axes.annotate(_drawn(name), (cost, score), fontsize=6, ha=side, xytext=(shift, -6),
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
    figure, (axes,) = canvas(7.0, 3.5)
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
                  label=_drawn(name))  # fmt: skip
        left += shares
    axes.set(xlabel="calls a query")
    axes.legend(fontsize=6, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    write_picture(figure, path)


def draw_capability(dataset: LLMDataset, path: str | Path, by_difficulty: bool = True) -> None:
    """Draw each LLM's mean score by subject and difficulty, numbers in the cells (fig. 5).

    A query is hard for an LLM where at most a third of what the *others* scored is left, easy where
    two thirds are: so an LLM's own score does not sort its own queries. LLMs stand by mean score.

    Args:
        dataset: Scored queries with tasks.
        path: Where to, ``.png`` or ``.svg``.
        by_difficulty: One panel a difficulty, over each other; else one for all queries.

    Raises:
        ArtifactError: The file cannot be written.
        InvalidDataError: The dataset has no tasks.
    """
    if not dataset.tasks:
        raise InvalidDataError("the table has no column 'task'; the heat map needs one.")
    tasks = sorted(set(dataset.tasks))
    order = np.argsort(-np.nanmean(dataset.scores, axis=0), kind="stable")
    everything = {"": np.ones(dataset.scores.shape, bool)}
    panels = _difficulties(dataset.scores) if by_difficulty else everything
    figure, axes = canvas(1.5 + 0.6 * len(order), 2.0 + 0.3 * len(tasks) * len(panels), len(panels))
    for panel, (name, cells) in zip(axes, panels.items(), strict=True):
        scores = np.where(cells, dataset.scores, np.nan)
        _draw_cells(panel, _means(scores, np.array(dataset.tasks), tasks)[:, order], tasks)
        panel.set_title(_drawn(name), fontsize=8, loc="left")
        panel.set_xticks(range(len(order)))
    axes[-1].set_xticklabels([_drawn(dataset.llms[i]) for i in order], rotation=60, ha="right")
    for panel in axes[:-1]:
        panel.set_xticklabels([])
    write_picture(figure, path)


def _difficulties(scores: _Array) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which cells (n, m) are easy, middling and hard by the mean of the other LLMs."""
    known = ~np.isnan(scores)
    others = np.maximum(known.sum(axis=1, keepdims=True) - known, 1)
    ease = (np.nansum(scores, axis=1, keepdims=True) - np.nan_to_num(scores)) / others
    easy, hard = ease >= 2 / 3, ease <= 1 / 3
    return {"easy": easy & ~hard, "middling": ~easy & ~hard, "hard": hard}


def _means(scores: _Array, rows: npt.NDArray[np.str_], tasks: list[str]) -> _Array:
    """Return mean scores by task, NaN where nothing was measured, shape (tasks, m)."""
    parts = [scores[rows == task] for task in tasks]
    counts = np.array([(~np.isnan(part)).sum(axis=0) for part in parts])
    sums = np.array([np.nansum(part, axis=0) for part in parts])
    means: _Array = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means


def _draw_cells(axes: Axes, cells: _Array, tasks: list[str]) -> None:
    axes.imshow(cells, cmap="Greys", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_yticks(range(len(tasks)), [_drawn(task) for task in tasks])
    axes.tick_params(labelsize=7)
    for (row, column), value in np.ndenumerate(cells):
        shade = "white" if value > _DARK else "black"
        text = "-" if np.isnan(value) else f"{value:.2f}".removeprefix("0")
        axes.text(column, row, text, ha="center", va="center", color=shade, fontsize=6)


def _drawn(name: str) -> str:
    """Return a name from outside as matplotlib draws it literally: no formula, no control."""
    return printable(name).replace("$", r"\$")


def canvas(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels over each other, made without pyplot: no global state.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with needs_extra("plots"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(panels, squeeze=False)[:, 0])


def write_picture(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG or SVG, by the path's ending.

    Raises:
        ArtifactError: Another ending, or the file cannot be written.
    """
    target = Path(path)
    if target.suffix not in (".png", ".svg"):
        raise ArtifactError(f"a picture is .png or .svg, got {target.name!r}.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=150)
    except OSError as error:
        raise ArtifactError(f"cannot write {target} ({error}). Choose another --out.") from error


def draw_teams(report: Mapping[str, Any], path: str | Path) -> None:
    """Draw the curve over rates, the preferences and the baselines.

    Args:
        report: From `evaluate_teams`; ``curves`` may hold further ones by name.
        path: Where to, ``.png`` or ``.svg``.

    Raises:
        ArtifactError: The file cannot be written.
        InvalidDataError: The report lacks a key.
    """
    figure, (axes,) = canvas(7.0, 4.5)
    try:
        curves = {"team router": report["curve"], **report.get("curves", {})}
        points = {**report["preferences"], **report["baselines"]}
    except KeyError as error:
        raise InvalidDataError(
            f"the report lacks {error}. Write one with moma eval teams."
        ) from None
    for number, (name, curve) in enumerate(curves.items()):
        ordered = sorted(map(tuple, curve))
        style = ("-", "--", ":", "-.")[number % 4]
        width = 2.0 if number == 0 else 1.0
        axes.plot(*zip(*ordered, strict=True), style, color="black", lw=width, label=_drawn(name))
    for number, (name, each) in enumerate(points.items()):
        mark = _MODE_MARKS[number % len(_MODE_MARKS)]
        axes.plot(each["cost"], each["quality"], mark, mfc="white", mec="black", label=_drawn(name))
    axes.set(xlabel="USD a query (simulated)", ylabel="quality (simulated)", xscale="log",
             title="Simulated outcomes: no team was run")  # fmt: skip
    axes.legend(fontsize=7, loc="lower right")
    write_picture(figure, path)
