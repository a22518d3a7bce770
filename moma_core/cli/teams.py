"""``moma teams``: plan a team for a query; with it ``moma train teams``, ``moma eval teams``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moma_core._checks import parse_json
from moma_core.cli.terminal import (
    JsonOption,
    PreferenceOption,
    answer,
    llm_folder,
    new_folder,
    progress_bar,
    table,
    write_json,
)
from moma_core.errors import InvalidDataError

if TYPE_CHECKING:
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
    preference: PreferenceOption = "auto",
    router: _Trained = None,
    as_json: JsonOption = False,
) -> None:
    """Plan who answers one query together; no LLM is asked."""
    planned = _open(router).plan(query, preference)
    rounds = f", {planned.rounds} rounds" if planned.rounds > 1 else ""
    rows = ((member.role, member.llm) for member in planned.members)
    shown = table(("role", "LLM"), rows, f"{planned.mode}{rounds}")
    answer(as_json, planned.to_dict(), shown, f"because of {planned.reason}")


@app.command(epilog="Example: moma teams roles")
def roles(router: _Trained = None, as_json: JsonOption = False) -> None:
    """List the roles that a team can be made of."""
    known = _open(router).parts.options.roles
    plain = {
        "roles": [
            {"domain": role.domain, "name": role.name, "description": role.description}
            for role in known
        ]
    }
    rows = ((role.domain, role.name, role.description) for role in known)
    answer(as_json, plain, table(("domain", "role", "what it does"), rows))


def train(
    data: _Scored,
    out: Annotated[Path, typer.Option(help="Directory of the routers.", file_okay=False)],
    domains: _Domains = None,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train an LLM router and a team router on --data; teams' outcomes are SIMULATED."""
    from moma_core.encoder import RoutingEncoder
    from moma_core.llms.data import LLMDataset
    from moma_core.teams.training import TrainConfig
    from moma_core.training.evaluate_teams import train_teams

    with new_folder(out, _has_teams), progress_bar(out) as tell:
        tell("reading and encoding", 0, 0)
        scored, known = LLMDataset.read(data), _read_domains(domains)
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
    said = (
        "Trained in the simulator: no team was run.\n"
        f"Use it: moma teams plan QUERY --router {out}, or measure it: "
        f"moma eval teams --router {out} --data TEST.parquet --out report.json"
    )
    answer(as_json, {"out": str(out), "llms": list(llms.names), "simulated": True}, said)


def _has_teams(folder: Path) -> bool:
    return (folder / _FOLDER).exists()


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
    as_json: JsonOption = False,
) -> None:
    """Plan teams for scored queries and write SIMULATED quality and cost beside baselines."""
    from moma_core.encoder import RoutingEncoder
    from moma_core.llms.data import LLMDataset
    from moma_core.llms.router import LLMRouter
    from moma_core.training.evaluate_agents import ToldEncoder
    from moma_core.training.evaluate_teams import evaluate_teams
    from moma_core.training.plots import draw_teams

    with new_folder(out.parent, lambda _: False), progress_bar(out) as tell:
        tell("reading", 0, 0)
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
    rows = (
        (name, f"{each['quality']:.4f}", f"{each['cost']:.6f}", f"{each['calls']:.2f}")
        for name, each in {**report["preferences"], **report["baselines"]}.items()
    )
    head = ("strategy", "quality", "USD a query", "calls")
    answer(as_json, report, table(head, rows, "Simulated outcomes"))


def _open(folder: Path | None, encoder: Encoder | None = None) -> TeamRouter:
    from moma_core.encoder import RoutingEncoder
    from moma_core.llms.router import LLMRouter
    from moma_core.teams.router import TeamRouter

    encoder = encoder or RoutingEncoder()
    if folder is None:
        return TeamRouter.packaged(encoder, LLMRouter.packaged())
    return TeamRouter.load(folder / _FOLDER, encoder, LLMRouter.load(llm_folder(folder)))


def _read_domains(path: Path | None) -> dict[str, str] | None:
    if path is None:
        return None
    try:
        table: Any = parse_json(path.read_text(encoding="utf-8"), any_number=True)
    except (OSError, ValueError) as error:
        raise InvalidDataError(f"{path} is not JSON ({error}).") from error
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise InvalidDataError(f'{path} must hold an object, {{"task": "domain"}}.')
    return table
