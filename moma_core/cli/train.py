"""``moma train``: fit the LLM router to a pool of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from moma_core.cli.terminal import console, progress_bar
from moma_core.errors import InvalidDataError

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Fit routers to your own data.")


@app.callback()
def _group() -> None:
    """Fit routers to your own data."""


@app.command(epilog="Example: moma train llms --data scored.parquet --out pool")
def llms(
    data: Annotated[
        Path,
        typer.Option(
            help="Scored queries: query, score|LLM in [0, 1], cost|LLM in USD.",
            exists=True,
            dir_okay=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Directory of the trained router.", file_okay=False)],
    head: Annotated[str, typer.Option(help="A head's name, or auto.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    prices: Annotated[
        Path | None,
        typer.Option(help="JSON of USD per million tokens: {LLM: [input, output]}.", exists=True),
    ] = None,
) -> None:
    """Train on every row of --data and write a router that moma eval llms can measure."""
    from moma_core.encoders import MiniLMEncoder
    from moma_core.llm_routing import LLMDataset, train

    with progress_bar() as tell:
        tell("reading and encoding", 0, 1)
        router = train(
            LLMDataset.read(data),
            MiniLMEncoder(),
            head,
            seed,
            prices=_prices(prices),
            progress=tell,
        )
    router.save(out)
    console.print(
        f"Trained on {len(router.cards)} LLMs; the best single one is "
        f"{escape(repr(router.best_single))}.\n"
        f"Use it: LLMRouter.load({escape(repr(str(out)))}), or measure it: "
        f"moma eval llms --router {escape(str(out))} --data TEST.parquet --out report.json",
        highlight=False,
    )


def _prices(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidDataError(f"{path} is not JSON ({error}).") from error
    return table
