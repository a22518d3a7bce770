"""``moma collect``: ask LLMs a user's queries and have their answers judged or scored."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Mapping
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moma_core.cli.llms import PricesOption, read_prices
from moma_core.cli.terminal import JsonOption, answer, new_folder, progress_bar, table
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
    "Ending",
    "Sampling",
    "collect",
    "open_llm",
]

_PYTHON = "python:"


class Sampling(StrEnum):
    """How representative queries are chosen."""

    K_MEANS = "k-means"
    K_CENTRE = "k-centre"


class Ending(StrEnum):
    """How the tables are written."""

    PARQUET = "parquet"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"


def collect(
    queries: Annotated[
        Path,
        typer.Argument(
            help="Text with a query a line, or a table with query, task, reference.",
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
    method: Annotated[
        Sampling | None, typer.Option(help="How --sample chooses them; default k-means.")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Judged pairs a query; default one an LLM.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls at the same time.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one call.")] = 120.0,
    max_output_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="What --budget holds back for a running call; default 1024."),
    ] = None,
    prompt: Annotated[
        str, typer.Option(help="What an LLM is sent; {query} stands for the query.")
    ] = "{query}",
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    ending: Annotated[
        Ending, typer.Option("--format", help="Of the tables that are written.")
    ] = Ending.PARQUET,
    as_json: JsonOption = False,
) -> None:
    """Ask LLMs, judge or score their answers; run it again to go on after a crash."""
    from moma_core.encoder import RoutingEncoder
    from moma_core.training.calls import CallRules
    from moma_core.training.collect import JOURNAL_FILE, CollectConfig, Questions
    from moma_core.training.collect import collect as run

    _check_goes_with(method, sample, "--method goes with --sample.")
    _check_goes_with(pairs, judge, "--pairs goes with --judge.")
    _check_goes_with(max_output_tokens, budget, _NO_BUDGET)
    listed = read_prices(prices) or {}
    asked = _all_named(llm)
    judged = None if judge is None else _named(judge)
    priced = {name: _card(name, spec, listed) for name, spec in asked.items()}
    config = CollectConfig(
        sample=sample,
        method=(method or Sampling.K_MEANS).value,
        pairs=pairs,
        budget=budget,
        prompt=prompt,
        rules=CallRules(
            concurrency=concurrency, timeout=timeout, max_output_tokens=max_output_tokens or 1024
        ),
        seed=seed,
        ending=f".{ending.value}",
    )
    journal = out / JOURNAL_FILE
    kept = f"Every answer is kept in {journal}: the same command asks only what is missing."
    with new_folder(out, lambda _: has_content(journal)), progress_bar(out, kept) as tell:
        tell("reading and choosing queries", 0, 0)
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
    _tell(done, out, as_json)


_NO_BUDGET = "--max-output-tokens goes with --budget; set it in your LLMs."


def _check_goes_with(option: object, other: object, said: str) -> None:
    """Refuse an option that would be ignored, as the one it goes with is not given."""
    if option is not None and other is None:
        raise typer.BadParameter(said)


def has_content(path: Path) -> bool:
    """Say whether a file is there and not empty."""
    return path.exists() and path.stat().st_size > 0


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


def _all_named(llms: list[str]) -> dict[str, str]:
    found = dict(_named(each) for each in llms)
    if len(found) < len(llms):
        raise DuplicateNameError(f"an LLM is named twice among {llms}. Give each its own name.")
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


def _tell(done: Collected, out: Path, as_json: bool) -> None:
    ratings = {rating.name: rating for rating in done.ratings}
    names = [*done.mean_scores, *(name for name in done.failed if name not in done.mean_scores)]
    rows = []
    for name in names:
        score, rated = done.mean_scores.get(name), ratings.get(name)
        shown = "" if rated is None else f"{rated.elo:.0f} ({rated.low:.0f} to {rated.high:.0f})"
        mean = "" if score is None else f"{score:.3f}"
        rows.append((name, mean, shown, done.failed.get(name, "")))
    head = ("LLM", "mean score", "Elo (95 %)", "failed calls")
    plain = dataclasses.asdict(done)
    paths = {"scored": str(done.scored), "pairs": None if done.pairs is None else str(done.pairs)}
    answer(as_json, {**plain, **paths}, table(head, rows, f"In {out}"), *_notes(done))


def _notes(done: Collected) -> list[str]:
    said = f"{done.queries} queries, {done.answers} answers, ${done.spent:.4f} spent"
    if done.consistent is not None:
        said += f", {done.judged} judged pairs, {done.consistent:.0%} the same in both orders"
    notes = [said]
    if done.over_budget:
        notes.append(f"{done.over_budget} calls did not fit the budget: raise --budget and rerun.")
    if done.given_up:
        given_up = ", ".join(done.given_up)
        notes.append(f"Given up after failures in a row: {given_up}. See the warnings.")
    if done.failed:
        notes.append("Some calls failed: the same command asks them again, and only them.")
    return [*notes, f"Train on it: moma train llms --data {done.scored} --out pool"]
