"""``moma train``: fit the LLM router to a pool of one's own."""

from __future__ import annotations

from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from moma_core.cli.prices import PricesOption, read_prices
from moma_core.cli.terminal import console, output_folder, progress_bar
from moma_core.errors import InvalidDataError

if TYPE_CHECKING:
    from moma_core.llm_routing import LLMRouter

__all__ = ["Strategy", "train_app"]

train_app = typer.Typer(no_args_is_help=True, help="Fit routers to your own data.")


class Strategy(StrEnum):
    """How many LLMs one query may cost."""

    SINGLE = "single"
    CASCADE = "cascade"


@train_app.callback()
def _group() -> None:
    """Fit routers to your own data."""


@train_app.command(epilog="Example: moma train llms --data scored.parquet --out pool")
def llms(
    data: Annotated[
        Path,
        typer.Option(
            help="Scored queries (query, score|LLM in [0, 1], cost|LLM in USD) or judged pairs "
            "(query, llm_a, llm_b, outcome 0-4; also .jsonl).",
            exists=True,
            dir_okay=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Directory of the trained router.", file_okay=False)],
    head: Annotated[str, typer.Option(help="A head's name, or auto.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    prices: PricesOption = None,
    strategy: Annotated[
        Strategy,
        typer.Option(help="One LLM a query, or a cascade (needs answer|LLM columns)."),
    ] = Strategy.SINGLE,
    devices: Annotated[
        str | None,
        typer.Option(
            help="Train on judged pairs with torch and accelerate: auto (every GPU), cpu, cpu:N or "
            "a number of GPUs. Without it: numpy."
        ),
    ] = None,
) -> None:
    """Train on every row of --data and write a router that moma eval llms can measure."""
    from moma_core.llm_routing.pairs import holds_pairs
    from moma_core.llm_routing.pairs.devices import launched

    if devices is None and launched():
        devices = "auto"
    if holds_pairs(data):
        _train_on_pairs(data, out, head, seed, prices, strategy, devices)
        return
    if devices is not None:
        raise InvalidDataError(
            f"{data} holds scored queries, which numpy trains in memory; several devices train on "
            "judged pairs: query, llm_a, llm_b, outcome. Leave out --devices and accelerate launch."
        )
    _train_on_scores(data, out, head, seed, prices, strategy)


def _train_on_scores(
    data: Path, out: Path, head: str, seed: int, prices: Path | None, strategy: Strategy
) -> None:
    from moma_core.encoders import MiniLMEncoder
    from moma_core.llm_routing import CascadeRouter, LLMDataset, LLMRouter, train, train_cascade
    from moma_core.llm_routing.cascades.checkpoint import forget_cascade

    fit = train_cascade if strategy is Strategy.CASCADE else train
    with progress_bar() as tell:
        tell("reading and encoding", 0, 1)
        scored = LLMDataset.read(data)
        output_folder(out)
        router = fit(
            scored,
            MiniLMEncoder(),
            head,
            seed,
            prices=read_prices(prices),
            progress=tell,
        )
    router.save(out)
    if not isinstance(router, CascadeRouter):
        forget_cascade(out)
        _tell(router, LLMRouter, strategy, out)
        return
    _tell(router.base, CascadeRouter, strategy, out)
    if router.depth == 1:
        console.print(
            "On held-out queries, looking at answers earned no more than asking once: every plan "
            "is one call.",
            highlight=False,
        )


def _train_on_pairs(
    data: Path,
    out: Path,
    head: str,
    seed: int,
    prices: Path | None,
    strategy: Strategy,
    devices: str | None,
) -> None:
    from moma_core.encoders import MiniLMEncoder
    from moma_core.llm_routing import LLMRouter
    from moma_core.llm_routing.cascades.checkpoint import forget_cascade
    from moma_core.llm_routing.pairs import train_pairs
    from moma_core.llm_routing.pairs.devices import is_main

    if strategy is Strategy.CASCADE:
        raise InvalidDataError(
            f"{data} holds judged pairs; a cascade needs scored queries with answers: score|LLM, "
            "cost|LLM, answer|LLM. Leave --strategy out."
        )
    listed, kept = read_prices(prices), out / "vectors"
    with progress_bar() if is_main() else nullcontext() as tell:
        router = train_pairs(data, MiniLMEncoder(), head, seed, listed, tell, kept, devices=devices)
    if not is_main():
        return
    router.save(out)
    forget_cascade(out)
    _tell(router, LLMRouter, strategy, out)
    console.print(f"{escape(str(kept))} was kept for another training and may be deleted.")


def _tell(pool: LLMRouter, kind: type, strategy: Strategy, out: Path) -> None:
    best, where = escape(repr(pool.best_single)), escape(str(out))
    count = len(pool.cards)
    console.print(
        f"Trained on {count} {'LLM' if count == 1 else 'LLMs'}; the best single one is {best}.\n"
        f"Use it: {kind.__name__}.load({where!r}), or measure it: moma eval llms "
        f"--strategy {strategy} --router {where} --data TEST.parquet --out report.json",
        highlight=False,
    )
