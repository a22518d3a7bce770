"""``moma teams``: plan a team for a query; with it ``moma train teams``, ``moma eval teams``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from moma_core.cli.terminal import (
    console,
    escape,
    llm_folder,
    output_folder,
    progress_bar,
    write_json,
)
from moma_core.errors import InvalidDataError
from moma_core.protocols import Encoder
from moma_core.teams.router import TeamRouter

__all__ = [
    "app",
    "evaluate",
    "train",
]

app = typer.Typer(no_args_is_help=True, help="Plan teams of LLMs: mode, roles, an LLM for each.")

_Scored = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Scored queries: query, score|LLM in [0, 1], cost|LLM in USD.",
        exists=True,
        dir_okay=False,
    ),
]
_Domains = Annotated[
    Path | None,
    typer.Option(help="JSON of task domains: {task: domain}; by default guessed.", exists=True),
]
_Trained = Annotated[
    Path | None,
    typer.Option(
        "--router",
        help="What moma train teams wrote; by default the packaged one.",
        exists=True,
        file_okay=False,
    ),
]
_FOLDER = "teams"


@app.callback()
def _group() -> None:
    """Plan teams of LLMs."""


@app.command(epilog="Example: moma teams plan 'Prove that 17 is prime.' --preference performance")
def plan(
    query: Annotated[str, typer.Argument(help="The words to plan for.")],
    preference: Annotated[
        str,
        typer.Option(help="performance, auto, auto:POINTS, cost, cost:USD, or topsis:SCORE,COST."),
    ] = "auto",
    router: _Trained = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Plan who answers one query together; no LLM is asked."""
    planned = _open(router).plan(query, preference)
    if as_json:
        sys.stdout.write(json.dumps(planned.to_dict()) + "\n")
        return
    rounds = f", {planned.rounds} rounds" if planned.rounds > 1 else ""
    table = Table("role", "LLM", title=f"{escape(planned.mode)}{rounds}")
    for member in planned.members:
        table.add_row(escape(member.role), escape(member.llm))
    console.print(table)
    console.print(f"because of {escape(planned.reason)}", highlight=False)


@app.command(epilog="Example: moma teams roles")
def roles(router: _Trained = None) -> None:
    """List the roles that a team can be made of."""
    table = Table("domain", "role", "what it does")
    for role in _open(router).parts.options.roles:
        table.add_row(role.domain, role.name, escape(role.description))
    console.print(table)


def train(
    data: _Scored,
    out: Annotated[Path, typer.Option(help="Directory of the routers.", file_okay=False)],
    domains: _Domains = None,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
) -> None:
    """Train an LLM router and a team router on --data; teams' outcomes are SIMULATED."""
    from moma_core.encoder import RoutingEncoder
    from moma_core.llms.data import LLMDataset
    from moma_core.teams.training import TrainConfig
    from moma_core.training.evaluate_teams import train_teams

    with progress_bar() as tell:
        tell("reading and encoding", 0, 1)
        scored, known = LLMDataset.read(data), _read_domains(domains)
        output_folder(out)
        router, llms = train_teams(
            scored,
            RoutingEncoder(),
            known,
            config=TrainConfig(steps=steps),
            seed=seed,
            progress=tell,
        )
    llms.save(out / "llms")
    router.save(out / _FOLDER)
    console.print(
        "Trained in the simulator: no team was run.\n"
        f"Use it: moma teams plan QUERY --router {escape(str(out))}, or measure it: "
        f"moma eval teams --router {escape(str(out))} --data TEST.parquet --out report.json",
        highlight=False,
    )


def evaluate(
    router: Annotated[
        Path, typer.Option(help="What moma train teams wrote.", exists=True, file_okay=False)
    ],
    data: _Scored,
    out: Annotated[Path, typer.Option(help="Where the JSON report goes.", dir_okay=False)],
    domains: _Domains = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw quality over cost there (PNG or SVG).")
    ] = None,
) -> None:
    """Plan teams for scored queries and write SIMULATED quality and cost beside baselines."""
    from moma_core.encoder import RoutingEncoder
    from moma_core.llms.data import LLMDataset
    from moma_core.llms.router import LLMRouter
    from moma_core.training.evaluate_agents import ToldEncoder
    from moma_core.training.evaluate_teams import evaluate_teams
    from moma_core.training.plots import draw_teams

    with progress_bar() as tell:
        tell("reading", 0, 1)
        report = evaluate_teams(
            _open(router, ToldEncoder(RoutingEncoder(), tell)),
            LLMRouter.load(llm_folder(router)),
            LLMDataset.read(data),
            _read_domains(domains),
            progress=tell,
        )
    write_json(out, report)
    if figure is not None:
        draw_teams(report, figure)
    table = Table("strategy", "quality", "USD a query", "calls", title="Simulated outcomes")
    for name, each in {**report["preferences"], **report["baselines"]}.items():
        calls = f"{each['calls']:.2f}"
        table.add_row(name, f"{each['quality']:.4f}", f"{each['cost']:.6f}", calls)
    console.print(table)


def _open(folder: Path | None, encoder: Encoder | None = None) -> TeamRouter:
    from moma_core.encoder import RoutingEncoder
    from moma_core.llms.router import LLMRouter

    encoder = encoder or RoutingEncoder()
    if folder is None:
        return TeamRouter.packaged(encoder, LLMRouter.packaged())
    return TeamRouter.load(folder / _FOLDER, encoder, LLMRouter.load(llm_folder(folder)))


def _read_domains(path: Path | None) -> dict[str, str] | None:
    if path is None:
        return None
    try:
        table: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidDataError(f"{path} is not JSON ({error}).") from error
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise InvalidDataError(f'{path} must hold an object, {{"task": "domain"}}.')
    return table
