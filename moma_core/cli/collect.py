"""``moma collect``: ask LLMs a user's queries and have their answers judged or scored."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from moma_core.cli.llms import PricesOption, read_prices
from moma_core.cli.terminal import console, escape, progress_bar
from moma_core.errors import (
    DuplicateNameError,
    InvalidCardError,
    InvalidInputError,
    MissingExtraError,
)

if TYPE_CHECKING:
    from moma_core.training.collect import Collected
    from moma_core.types import LLMCard

__all__ = [
    "Sampling",
    "collect",
    "open_llm",
]

_PYTHON = "python:"


class Sampling(StrEnum):
    """How representative queries are chosen."""

    K_MEANS = "k-means"
    K_CENTRE = "k-centre"


def collect(
    queries: Annotated[
        Path,
        typer.Argument(
            help="Text with a query a line, or .jsonl or .parquet with query, task, reference.",
            exists=True,
            dir_okay=False,
        ),
    ],
    llm: Annotated[
        list[str],
        typer.Option(help="NAME=PROVIDER:MODEL (LangChain), or NAME=python:MODULE:FUNCTION."),
    ],
    out: Annotated[
        Path, typer.Option(help="Directory of the journal and the tables.", file_okay=False)
    ],
    prices: PricesOption = None,
    judge: Annotated[
        str | None, typer.Option(help="NAME=PROVIDER:MODEL that compares answers in both orders.")
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(help="exact (needs reference answers) or python:MODULE:FUNCTION."),
    ] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="USD; no call starts beyond.")] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="So many representative queries only.")
    ] = None,
    method: Annotated[Sampling, typer.Option(help="How --sample chooses them.")] = Sampling.K_MEANS,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Judged pairs a query; default one an LLM.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls at the same time.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one call.")] = 120.0,
    max_output_tokens: Annotated[
        int, typer.Option(min=1, help="What the budget holds back for a running call.")
    ] = 1024,
    prompt: Annotated[
        str, typer.Option(help="What an LLM is sent; {query} stands for the query.")
    ] = "{query}",
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
) -> None:
    """Ask LLMs, judge or score their answers; run it again to go on after a crash."""
    from moma_core.encoder import RoutingEncoder
    from moma_core.training.calls import CallRules
    from moma_core.training.collect import CollectConfig, Questions
    from moma_core.training.collect import collect as run

    listed = read_prices(prices) or {}
    asked = dict(_named(each) for each in llm)
    if len(asked) < len(llm):
        raise DuplicateNameError(f"an LLM is named twice among {llm}. Give each its own name.")
    judged = None if judge is None else _named(judge)
    priced = {name: _card(name, spec, listed) for name, spec in asked.items()}
    config = CollectConfig(
        sample=sample,
        method=method.value,
        pairs=pairs,
        budget=budget,
        prompt=prompt,
        rules=CallRules(
            concurrency=concurrency, timeout=timeout, max_output_tokens=max_output_tokens
        ),
        seed=seed,
    )
    with progress_bar() as tell:
        done = run(
            Questions.read(queries),
            {name: open_llm(spec) for name, spec in asked.items()},
            priced,
            out,
            judge=None if judged is None else _judge(*judged, listed),
            scorer=None if scorer is None else _scorer(scorer),
            encoder=None if sample is None else RoutingEncoder(),
            config=config,
            progress=tell,
        )
    _tell(done, out)


def open_llm(spec: str) -> Any:
    """Return a callable for ``python:MODULE:FUNCTION``, or a chat model for ``PROVIDER:MODEL``.

    Raises:
        InvalidInputError: There is no such function.
        MissingExtraError: LangChain is not installed.
    """
    if spec.startswith(_PYTHON):
        return _function(spec)
    try:
        connect = next(iter(entry_points(group="moma.llms"))).load()
    except (StopIteration, ImportError) as error:
        raise MissingExtraError(
            f'{spec!r} is a chat model of LangChain. Type: pip install "moma-router[langchain]" '
            "and the provider's package, or give a function of yours: NAME=python:MODULE:FUNCTION"
        ) from error
    return connect(spec)


def _function(spec: str) -> Any:
    module, _, name = spec.removeprefix(_PYTHON).partition(":")
    if str(Path.cwd()) not in sys.path:  # as python -m does: one's own module lies here
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInputError(
            f"cannot load {spec!r} ({error}). Write python:MODULE:FUNCTION, with MODULE.py in this "
            "directory or installed."
        ) from error
    if not callable(found):
        raise InvalidInputError(f"{spec!r} is no function, got {type(found).__name__}.")
    return found


def _named(given: str) -> tuple[str, str]:
    name, separator, spec = given.partition("=")
    if not separator or not name or not spec:
        raise InvalidInputError(f"expected NAME=PROVIDER:MODEL, got {given!r}.")
    return name, spec


def _card(name: str, spec: str, prices: Mapping[str, Any]) -> LLMCard:
    from moma_core.types import LLMCard

    if name not in prices and not spec.startswith(_PYTHON):
        raise InvalidCardError(
            f"the price of LLM {name!r} is not given. Write a file and name it with --prices: "
            f'{{"{name}": [0.15, 0.6]}} (USD per million tokens; a local LLM costs 0).'
        )
    given = prices.get(name, 0.0)
    both = given if isinstance(given, list) and len(given) == 2 else [given, given]
    return LLMCard(name, *both)


def _judge(name: str, spec: str, prices: Mapping[str, Any]) -> Any:
    from moma_core.training.judge import Judge

    return Judge(open_llm(spec), _card(name, spec, prices))


def _scorer(spec: str) -> Any:
    from moma_core.training.judge import exact_match

    if spec == "exact":
        return exact_match
    if not spec.startswith(_PYTHON):
        raise InvalidInputError(f"a scorer is exact or python:MODULE:FUNCTION, got {spec!r}.")
    return _function(spec)


def _tell(done: Collected, out: Path) -> None:
    ratings = {rating.name: rating for rating in done.ratings}
    table = Table("LLM", "mean score", "Elo (95 %)", "failed calls", title=f"In {escape(str(out))}")
    names = [*done.mean_scores, *(name for name in done.failed if name not in done.mean_scores)]
    for name in names:
        score, rated = done.mean_scores.get(name), ratings.get(name)
        shown = "" if rated is None else f"{rated.elo:.0f} ({rated.low:.0f} to {rated.high:.0f})"
        mean = "" if score is None else f"{score:.3f}"
        table.add_row(escape(name), mean, shown, str(done.failed.get(name, "")))
    console.print(table)
    said = f"{done.queries} queries, {done.answers} answers, ${done.spent:.4f} spent"
    if done.consistent is not None:
        said += f", {done.judged} judged pairs, {done.consistent:.0%} the same in both orders"
    console.print(said, highlight=False)
    if done.over_budget:
        console.print(f"{done.over_budget} calls did not fit the budget: raise --budget and rerun.")
    if done.given_up:
        given_up = escape(", ".join(done.given_up))
        console.print(f"Given up after failures in a row: {given_up}. See the warnings.")
    if done.failed:
        console.print("Some calls failed: the same command asks them again, and only them.")
    console.print(
        f"Train on it: moma train llms --data {escape(str(done.scored))} --out pool",
        highlight=False,
    )
