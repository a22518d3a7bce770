"""The picture of a team router's SIMULATED quality over cost, legible in black and white."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moma_core.errors import ArtifactError, InvalidDataError

__all__ = ["draw_teams"]

_MARKS = ("^", "s", "v", "o", "D", "P", "X", "*")


def draw_teams(report: Mapping[str, Any], path: str | Path) -> None:
    """Draw the curve over rates, the preferences and the baselines.

    Args:
        report: From `evaluate_teams`; ``curves`` may hold further ones by name.
        path: Where to, ``.png`` or ``.svg``.

    Raises:
        ArtifactError: The file cannot be written.
        InvalidDataError: The report lacks a key.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = Path(path)
    if target.suffix not in (".png", ".svg"):
        raise ArtifactError(f"a picture is .png or .svg, got {target.name!r}.")
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
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
        axes.plot(*zip(*ordered, strict=True), style, color="black", lw=width, label=name)
    for number, (name, each) in enumerate(points.items()):
        mark = _MARKS[number % len(_MARKS)]
        axes.plot(each["cost"], each["quality"], mark, mfc="white", mec="black", label=name)
    axes.set(xlabel="USD a query (simulated)", ylabel="quality (simulated)", xscale="log",
             title="Simulated outcomes: no team was run")  # fmt: skip
    axes.legend(fontsize=7, loc="lower right")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=150)
    except OSError as error:
        raise ArtifactError(f"cannot write {target} ({error}). Choose another --out.") from error
