"""``moma llms``: the LLMs of a trained pool; add, remove and reprice without retraining."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from moma_core.cli.terminal import console, llm_folder

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List, add, remove and reprice LLMs of a pool.")
_Router = Annotated[
    Path,
    typer.Option(
        "--router",
        help="What moma train llms wrote, or a router's directory.",
        exists=True,
        file_okay=False,
    ),
]
Name = Annotated[str, typer.Argument(help="The LLM's name.")]


@app.command("list", epilog="Example: moma llms list --router pool")
def list_llms(router: _Router) -> None:
    """List the LLMs of the pool with their prices."""
    pool = _load(router)
    table = Table("LLM", "USD per million in", "out", "")
    for card in pool.cards:
        note = "best single" if card.name == pool.best_single else ""
        table.add_row(escape(card.name), f"{card.input_price:g}", f"{card.output_price:g}", note)
    console.print(table)


@app.command(
    epilog="Example: moma llms add new-llm --input 0.2 --output 0.8 --data scored.parquet "
    "--router pool"
)
def add(
    name: Name,
    router: _Router,
    input_price: Annotated[float, typer.Option("--input", help="USD per million tokens read.")],
    output_price: Annotated[
        float, typer.Option("--output", help="USD per million tokens written.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="50-200 queries with score|NAME, cost|NAME; best with the other LLMs' scores.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Without --data: a published mean score in [0, 1]."),
    ] = None,
) -> None:
    """Add an LLM; only its own column is fitted."""
    from moma_core.encoders import MiniLMEncoder
    from moma_core.llm_routing import LLMDataset
    from moma_core.llm_routing.pool import add_llm
    from moma_core.types import LLMCard

    known = {} if quality is None else {"quality": quality}
    card = LLMCard(name, input_price, output_price, metadata=known)
    scored = None if data is None else LLMDataset.read(data)
    encoder = None if data is None else MiniLMEncoder()
    _save(add_llm(_load(router), card, scored, encoder), router, f"Added {name!r}")


@app.command(epilog="Example: moma llms remove old-llm --router pool")
def remove(name: Name, router: _Router) -> None:
    """Remove an LLM; the next route does not know it."""
    from moma_core.llm_routing.pool import remove_llm

    _save(remove_llm(_load(router), name), router, f"Removed {name!r}")


@app.command(epilog="Example: moma llms price some-llm --input 0.1 --output 0.4 --router pool")
def price(
    name: Name,
    router: _Router,
    input_price: Annotated[float, typer.Option("--input", help="USD per million tokens read.")],
    output_price: Annotated[
        float, typer.Option("--output", help="USD per million tokens written.")
    ],
) -> None:
    """Change an LLM's prices from the next route on."""
    from moma_core.llm_routing.pool import reprice_llm

    changed = reprice_llm(_load(router), name, input_price, output_price)
    _save(changed, router, f"Repriced {name!r}")


def _load(router: Path) -> Any:
    from moma_core.llm_routing import LLMRouter

    return LLMRouter.load(llm_folder(router))


def _save(pool: Any, router: Path, what: str) -> None:
    pool.save(llm_folder(router))
    console.print(f"{escape(what)}: {len(pool.cards)} LLMs now.", highlight=False)
