"""``moma plot``: the pictures of LLM routing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from moma_core.cli.terminal import console
from moma_core.errors import InvalidDataError

__all__ = ["plot_app"]

plot_app = typer.Typer(no_args_is_help=True, help="Draw LLM routing as PNG or SVG.")
_Out = Annotated[Path, typer.Option(help="The picture, .png or .svg.", dir_okay=False)]
_Data = typer.Option(help="Scored queries.", exists=True, dir_okay=False)
_Report = Annotated[
    Path, typer.Option(help="What moma eval llms wrote.", exists=True, dir_okay=False)
]


@plot_app.command(epilog="Example: moma plot front --report report.json --out front.svg")
def front(
    report: _Report,
    out: _Out,
    data: Annotated[Path | None, _Data] = None,
) -> None:
    """Draw score over cost: router, preferences, single LLMs (with --data), oracle."""
    from moma_core.evaluation.plots import draw_front
    from moma_core.llm_routing import LLMDataset

    draw_front(_read(report), None if data is None else LLMDataset.read(data), out)
    console.print(f"Drew {out}.", highlight=False, markup=False)


@plot_app.command(epilog="Example: moma plot usage --report report.json --out usage.png")
def usage(report: _Report, out: _Out) -> None:
    """Draw which LLMs each preference asks."""
    from moma_core.evaluation.plots import draw_usage

    draw_usage(_read(report), out)
    console.print(f"Drew {out}.", highlight=False, markup=False)


@plot_app.command(epilog="Example: moma plot capability --data scored.parquet --out heat.png")
def capability(
    data: Annotated[Path, _Data],
    out: _Out,
    difficulty: Annotated[
        bool, typer.Option(help="A panel each for easy, middling and hard queries.")
    ] = True,
) -> None:
    """Draw each LLM's mean score by task and difficulty."""
    from moma_core.evaluation.plots import draw_capability
    from moma_core.llm_routing import LLMDataset

    draw_capability(LLMDataset.read(data), out, difficulty)
    console.print(f"Drew {out}.", highlight=False, markup=False)


def _read(path: Path) -> dict[str, object]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidDataError(f"{path} is not JSON ({error}).") from error
    if not isinstance(report, dict):
        raise InvalidDataError(f"{path} is no report. Write one with moma eval llms.")
    return report
