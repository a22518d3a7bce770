"""``moma llms``: the LLMs of a trained pool; add, remove and reprice without retraining."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from moma_core.cli.terminal import RouterOption, console, llm_folder

if TYPE_CHECKING:
    from moma_core.llm_routing import LLMRouter

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List, add, remove and reprice LLMs of a pool.")
_HERE = Path(".moma")
Name = Annotated[str, typer.Argument(help="The LLM's name.")]
Latency = Annotated[float | None, typer.Option(help="Typical seconds to an answer.")]


@app.command("list", epilog="Example: moma llms list --router pool")
def list_llms(router: RouterOption = _HERE) -> None:
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
    latency: Latency = None,
    router: RouterOption = _HERE,
) -> None:
    """Add an LLM; only its own column is fitted."""
    from moma_core.encoders import MiniLMEncoder
    from moma_core.llm_routing import LLMDataset
    from moma_core.llm_routing.pool import add_llm
    from moma_core.types import LLMCard

    known = {} if quality is None else {"quality": quality}
    card = LLMCard(name, input_price, output_price, latency, metadata=known)
    scored = None if data is None else LLMDataset.read(data, llm=name)
    encoder = None if data is None else MiniLMEncoder()
    _change(router, lambda pool: add_llm(pool, card, scored, encoder), f"Added {name!r}")


@app.command(epilog="Example: moma llms remove old-llm --router pool")
def remove(name: Name, router: RouterOption = _HERE) -> None:
    """Remove an LLM; the next route does not know it."""
    from moma_core.llm_routing.pool import remove_llm

    _change(router, lambda pool: remove_llm(pool, name), f"Removed {name!r}")


@app.command(epilog="Example: moma llms price some-llm --input 0.1 --output 0.4 --router pool")
def price(
    name: Name,
    input_price: Annotated[float, typer.Option("--input", help="USD per million tokens read.")],
    output_price: Annotated[
        float, typer.Option("--output", help="USD per million tokens written.")
    ],
    latency: Latency = None,
    router: RouterOption = _HERE,
) -> None:
    """Change an LLM's prices, and its latency, from the next route on."""
    from moma_core.llm_routing.pool import reprice_llm

    _change(
        router,
        lambda pool: reprice_llm(pool, name, input_price, output_price, latency),
        f"Repriced {name!r}",
    )


def _load(router: Path) -> LLMRouter:
    from moma_core.llm_routing import LLMRouter

    return LLMRouter.load(llm_folder(router))


def _change(router: Path, change: Callable[[LLMRouter], LLMRouter], what: str) -> None:
    """Change the pool of a folder, and the cascade over it where there is one."""
    from moma_core.llm_routing import CascadeRouter
    from moma_core.llm_routing.cascades.checkpoint import CASCADE_FILES

    folder = llm_folder(router)
    if not (folder / CASCADE_FILES[0]).exists():
        pool = change(_load(router))
        pool.save(folder)
        console.print(f"{escape(what)}: {len(pool.cards)} LLMs now.", highlight=False)
        return
    before = CascadeRouter.load(folder)
    after = before.over(change(before.base))
    after.save(folder)
    console.print(
        f"{escape(what)}: {len(after.base.cards)} LLMs now; its cascades ask "
        f"{escape(', '.join(after.shortlist))}.",
        highlight=False,
    )
    if set(after.base.names) - set(before.base.names):
        console.print(
            "The new LLM is on no cascade yet; moma train llms --strategy cascade learns whom "
            "it agrees with.",
            highlight=False,
        )
