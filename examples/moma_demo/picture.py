"""The picture: predicted score against cost of every LLM, the Pareto front, the three choices."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moma_core import Candidate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "front_of"]

# Shapes, not colours, tell the preferences apart: the picture must survive a black-and-white print.
_MARKS = {"performance": "^", "auto": "s", "cost": "o"}
_SIZES = {"performance": 420, "auto": 300, "cost": 180}


def front_of(llms: Sequence[Candidate]) -> list[Candidate]:
    """Return the LLMs that no other beats in both score and cost, cheapest first.

    Example:
        >>> pool = [Candidate("a", 0.5, 1.0), Candidate("b", 0.4, 2.0), Candidate("c", 0.9, 3.0)]
        >>> [candidate.name for candidate in front_of(pool)]
        ['a', 'c']
    """
    front: list[Candidate] = []
    for candidate in _ordered(llms):
        if not front or candidate.score > front[-1].score:
            front.append(candidate)
    return front


def draw(llms: Sequence[Candidate], choices: Mapping[str, str], question: str, path: Path) -> Path:
    """Draw the LLMs of one question.

    Args:
        llms: With predicted score and expected cost.
        choices: Preference -> name of the LLM chosen.
        question: Goes into the title.
        path: PNG to write; its folder is made.

    Returns:
        ``path``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _points(axes, llms)
    _choices(axes, llms, choices)
    _words(axes, llms, question)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _points(axes: Axes, llms: Sequence[Candidate]) -> None:
    front, ordered = front_of(llms), _ordered(llms)
    costs, scores = [_cents(item) for item in front], [item.score for item in front]
    axes.step(costs, scores, where="post", color="0.4", linestyle="--", label="Pareto front")
    costs, scores = [_cents(item) for item in ordered], [item.score for item in ordered]
    axes.scatter(costs, scores, s=22, color="black", zorder=3)
    for number, at in enumerate(zip(costs, scores, strict=True), start=1):
        axes.annotate(str(number), at, xytext=(9, 6), textcoords="offset points", fontsize=9)


def _choices(axes: Axes, llms: Sequence[Candidate], choices: Mapping[str, str]) -> None:
    by_name = {item.name: item for item in llms}
    for preference, name in choices.items():
        axes.scatter(
            [_cents(by_name[name])],
            [by_name[name].score],
            s=_SIZES[preference],
            marker=_MARKS[preference],
            facecolors="none",
            edgecolors="black",
            linewidths=1.6,
            label=f"{preference}: {name}",
        )


def _words(axes: Axes, llms: Sequence[Candidate], question: str) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    if all(item.cost for item in llms):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("expected cost of the answer, US cents")
    axes.set_ylabel("predicted score")
    axes.set_title(textwrap.fill(question, 80), fontsize=10)
    ordered = _ordered(llms)
    names = "\n".join(f"{number:>2} {item.name}" for number, item in enumerate(ordered, start=1))
    axes.text(1.02, 1.0, names, transform=axes.transAxes, va="top", fontsize=8, family="monospace")
    axes.legend(
        loc="lower left", bbox_to_anchor=(1.0, 0.0), fontsize=8, frameon=False, markerscale=0.5
    )


def _ordered(llms: Sequence[Candidate]) -> list[Candidate]:
    """Cheapest first: the order of the numbers in the picture."""
    return sorted(llms, key=lambda item: (item.cost or 0.0, -item.score))


def _cents(item: Candidate) -> float:
    return 100 * (item.cost or 0.0)
