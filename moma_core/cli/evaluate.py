"""``moma eval`` and ``moma plot``: how good routing is on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moma_core._checks import parse_json
from moma_core.cli.llms import Strategy
from moma_core.cli.terminal import (
    JsonOption,
    answer,
    llm_folder,
    new_folder,
    progress_bar,
    table,
    write_json,
)
from moma_core.errors import InvalidDataError

if TYPE_CHECKING:
    from moma_core.llms.data import LLMDataset
    from moma_core.llms.router import LLMRouter

__all__ = [
    "app",
    "plot_app",
]

app = typer.Typer(no_args_is_help=True, help="Measure agent or LLM routing on labelled data.")
_Out = Annotated[Path, typer.Option(help="Where the JSON report goes.", dir_okay=False)]


def _table(what: str) -> Any:
    return typer.Option(help=what, exists=True, dir_okay=False)


@app.command(
    epilog="Example: moma eval agents --agents agents.parquet --train train.parquet "
    "--test test.parquet --out report.json"
)
def agents(
    agents: Annotated[Path, _table("Agents: name, description, category.")],
    train: Annotated[Path, _table("Examples: query, agents; no agents = none fits; may be empty.")],
    test: Annotated[Path, _table("Queries to route: query, agents.")],
    out: _Out,
    shots: Annotated[
        int | None, typer.Option(min=1, help="Examples an agent; default all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of examples.")] = 0,
    diagram: Annotated[
        Path | None, typer.Option(help="Draw the gate's reliability there (PNG or SVG).")
    ] = None,
    max_wrong_agent_rate: Annotated[
        float | None, typer.Option(help="Promise, say 0.05: more queries go to LLMs instead.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit on --train alone, route --test, and write accuracy, abstention and times."""
    from moma_core.agents.data import read_agents, read_queries
    from moma_core.training.evaluate_agents import evaluate_agents

    cards, known, asked = read_agents(agents), read_queries(train), read_queries(test)
    with new_folder(out.parent, _never), progress_bar(out) as tell:
        report = evaluate_agents(
            cards,
            known,
            asked,
            shots=shots,
            seed=seed,
            progress=tell,
            diagram=diagram,
            max_wrong_agent_rate=max_wrong_agent_rate,
        )
        write_json(out, report)
    _show(report, report, out, as_json)


def _never(_: Path) -> bool:
    return False


@app.command(epilog="Example: moma eval llms --router pool --data test.parquet --out report.json")
def llms(
    router: Annotated[
        Path, typer.Option(help="What moma train llms wrote.", exists=True, file_okay=False)
    ],
    data: Annotated[Path, _table("Scored queries (query, score|LLM, cost|LLM) or judged pairs.")],
    out: _Out,
    strategy: Annotated[
        Strategy | None,
        typer.Option(help="One LLM a query, or a cascade. Default: as --router was trained."),
    ] = None,
    train: Annotated[
        Path | None,
        typer.Option(
            help="What --router was trained on: plain baselines are fitted to it and compared.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Route scored queries to LLMs and write score and cost at each preference."""
    from moma_core.encoder import RoutingEncoder
    from moma_core.llms.cascade import CascadeRouter
    from moma_core.llms.data import LLMDataset
    from moma_core.llms.router import LLMRouter
    from moma_core.training.evaluate_agents import ToldEncoder
    from moma_core.training.evaluate_llms import evaluate_cascade, evaluate_llms
    from moma_core.training.judgements import holds_pairs

    if holds_pairs(data):
        if strategy is Strategy.CASCADE or train is not None:
            raise typer.BadParameter("judged pairs measure no cascade and no baselines of --train.")
        _evaluate_on_pairs(router, data, out, as_json)
        return
    folder = llm_folder(router)
    strategy = strategy or _trained_strategy(folder)
    if strategy is Strategy.CASCADE and train is not None:
        raise typer.BadParameter("a cascade has no plain baselines: leave out --train.")
    with new_folder(out.parent, _never), progress_bar(out) as tell:
        tell("reading", 0, 0)
        scored, encoder = LLMDataset.read(data), ToldEncoder(RoutingEncoder(), tell)
        if strategy is Strategy.CASCADE:
            report = evaluate_cascade(CascadeRouter.load(folder), scored, encoder)
            unscored: list[str] = []
        else:
            known = None if train is None else LLMDataset.read(train)
            pool, unscored = _scored_in(LLMRouter.load(folder), scored)
            report = evaluate_llms(pool, scored, encoder, trained_on=known)
        write_json(out, report)
    note = f"Left out, as {data} has no scores of them: {', '.join(unscored)}."
    _show(report, _in_words(report, strategy), out, as_json, *([note] if unscored else []))


def _scored_in(pool: LLMRouter, data: LLMDataset) -> tuple[LLMRouter, list[str]]:
    """Return the pool of the LLMs that a table scores, and the others, as llms add leaves them."""
    unscored = [name for name in pool.names if name not in data.llms]
    if len(unscored) == len(pool.names):
        return pool, []  # another table: the error says so
    for name in unscored:
        pool = pool.remove(name)
    return pool, unscored


def _in_words(report: dict[str, Any], strategy: Strategy) -> dict[str, Any]:
    """Return the figures of a report on scored queries as a table shows them."""
    shown: dict[str, Any] = {"strategy": str(strategy)}
    shown |= {key: value for key, value in report.items() if not isinstance(value, dict | list)}
    intervals, why = report.get("intervals", {}), report.get("why_null", {})
    for name, figures in report["preferences"].items():
        shown[name] = _scored(figures, intervals.get(name))
    for share, score in report["score_at_cost"].items():
        shown[f"score at {share} of the cost"] = why.get(f"score_at_cost {share}", score)
    for name, figures in report.get("baselines", {}).items():
        shown[f"baseline: {name}"] = _scored(figures, figures.get("interval"))
    return shown | {key: text for key, text in why.items() if key in shown}


def _scored(figures: dict[str, Any], interval: list[float] | None) -> str:
    """Return score and cost in words, with the interval of the lead over the best single LLM."""
    said = f"score {figures['score']:.4f} at ${figures['cost']:.6f}"
    if interval is None:
        return said
    return f"{said}, {interval[0]:+.4f} to {interval[1]:+.4f} over the best single LLM (95 %)"


def _trained_strategy(folder: Path) -> Strategy:
    from moma_core.llms.cascade import CASCADE_FILES

    return Strategy.CASCADE if (folder / CASCADE_FILES[0]).exists() else Strategy.SINGLE


def _evaluate_on_pairs(router: Path, data: Path, out: Path, as_json: bool) -> None:
    from moma_core.encoder import RoutingEncoder
    from moma_core.llms.router import LLMRouter
    from moma_core.training.evaluate_agents import ToldEncoder
    from moma_core.training.evaluate_llms import evaluate_pairs

    with new_folder(out.parent, _never), progress_bar(out) as tell:
        tell("reading", 0, 0)
        encoder = ToldEncoder(RoutingEncoder(), tell)
        report = evaluate_pairs(LLMRouter.load(llm_folder(router)), data, encoder)
        write_json(out, report)
    shown = {key: value for key, value in report.items() if not isinstance(value, dict)}
    chosen = {**report["preferences"], "best single": report["best_single"]}
    for name, found in chosen.items():
        points = "-" if found["points"] is None else f"{found['points']:.4f}"
        shown[f"points of {name}"] = f"{points} in {found['judged']} pairs"
    _show(report, shown, out, as_json)


def _show(
    report: dict[str, Any], figures: dict[str, Any], out: Path, as_json: bool, *notes: str
) -> None:
    rows = (
        (name, f"{value:.4f}" if isinstance(value, float) else value)
        for name, value in figures.items()
    )
    answer(as_json, report, table(("figure", "value"), rows, f"Report in {out}"), *notes)


plot_app = typer.Typer(no_args_is_help=True, help="Draw LLM routing as PNG or SVG.")
_Picture = Annotated[Path, typer.Option(help="The picture, .png or .svg.", dir_okay=False)]
_Data = typer.Option(help="Scored queries.", exists=True, dir_okay=False)
_Report = Annotated[
    Path, typer.Option(help="What moma eval llms wrote.", exists=True, dir_okay=False)
]


@plot_app.command(epilog="Example: moma plot front --report report.json --out front.svg")
def front(
    report: _Report,
    out: _Picture,
    data: Annotated[Path | None, _Data] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw score over cost: router, preferences, single LLMs (with --data), oracle."""
    from moma_core.llms.data import LLMDataset
    from moma_core.training.plots import draw_front

    draw_front(_read(report), None if data is None else LLMDataset.read(data), out)
    _drew(out, as_json)


@plot_app.command(epilog="Example: moma plot usage --report report.json --out usage.png")
def usage(report: _Report, out: _Picture, as_json: JsonOption = False) -> None:
    """Draw which LLMs each preference asks."""
    from moma_core.training.plots import draw_usage

    draw_usage(_read(report), out)
    _drew(out, as_json)


@plot_app.command(epilog="Example: moma plot capability --data scored.parquet --out heat.png")
def capability(
    data: Annotated[Path, _Data],
    out: _Picture,
    difficulty: Annotated[
        bool, typer.Option(help="A panel each for easy, middling and hard queries.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Draw each LLM's mean score by task and difficulty."""
    from moma_core.llms.data import LLMDataset
    from moma_core.training.plots import draw_capability

    draw_capability(LLMDataset.read(data), out, difficulty)
    _drew(out, as_json)


def _drew(out: Path, as_json: bool) -> None:
    answer(as_json, {"picture": str(out)}, f"Drew {out}.")


def _read(path: Path) -> dict[str, object]:
    try:
        report = parse_json(path.read_text(encoding="utf-8"), any_number=True)
    except (OSError, ValueError) as error:
        raise InvalidDataError(f"{path} is not JSON ({error}).") from error
    if not isinstance(report, dict):
        raise InvalidDataError(f"{path} is no report. Write one with moma eval llms.")
    return report
