"""The ``moma`` program: its commands, and errors without tracebacks."""

from __future__ import annotations

import io
import os
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from moma_core._checks import printable
from moma_core.cli import advice, agents, collect, config, doctor, evaluate, llms, teams
from moma_core.cli.terminal import (
    HERE,
    JsonOption,
    PreferenceOption,
    RouterOption,
    answer,
    open_router,
    router_exists,
    table,
)
from moma_core.errors import MissingExtraError, MoMAError

if TYPE_CHECKING:
    from rich.table import Table

    from moma_core.decision import RoutingDecision

__all__ = [
    "main",
]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Routes each query to the right agent or, when none fits, to the LLM worth its price.",
    epilog="Start with: moma demo. Tab completion: moma --install-completion. Exit status: 0 done, "
    "1 an error (one line on standard error), 2 wrong usage, 130 stopped with Ctrl-C.",
)
app.add_typer(agents.app, name="agents")
app.command(
    epilog="Example: moma collect queries.txt --llm small=openai:gpt-4o-mini --llm "
    "big=openai:gpt-4o --judge judge=openai:gpt-4.1 --prices prices.json --budget 5 --out collected"
)(collect.collect)
app.add_typer(config.app, name="config")
app.command(epilog="Example: moma doctor --router .moma")(doctor.doctor)
app.add_typer(evaluate.app, name="eval")
app.add_typer(llms.feedback_app, name="feedback")
app.add_typer(llms.local_llm_app, name="local-llm")
app.add_typer(llms.app, name="llms")
app.add_typer(evaluate.plot_app, name="plot")
app.add_typer(agents.states_app, name="states")
app.add_typer(teams.app, name="teams")
app.add_typer(llms.train_app, name="train")
app.command(epilog="Example: moma report queries.jsonl -o report.html")(advice.report)
agents.app.command(epilog="Example: moma agents lint --from agents.csv")(advice.lint)
agents.app.command(epilog="Example: moma agents tune labelled.csv --picture tune.png")(advice.tune)
evaluate.app.command(
    "teams", epilog="Example: moma eval teams --router out --data test.parquet --out report.json"
)(teams.evaluate)
llms.train_app.command("teams", epilog="Example: moma train teams --data scored.parquet --out out")(
    teams.train
)


def main() -> None:
    """Run the program; a MoMAError becomes one line on standard error and exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name the terminal cannot show is no error
    try:
        app()
    except MoMAError as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(_lines(error))}", highlight=False)
        sys.exit(1)


def _lines(error: MoMAError) -> str:
    return "\n".join(map(printable, str(error).split("\n")))


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        sys.stdout.write(version("moma-router") + "\n")
        raise typer.Exit
    config.use(context)


@app.command(epilog="Example: moma demo --out moma-demo")
def demo(
    out: Annotated[
        Path, typer.Option(help="Where the agents and the picture are kept.", file_okay=False)
    ] = Path("moma-demo"),
    as_json: JsonOption = False,
) -> None:
    """Route and run offline agents through a LangGraph in under a minute; no API key."""
    found = entry_points(group="moma.demo")
    try:
        run = next(iter(found)).load()
    except (StopIteration, ImportError) as error:
        raise MissingExtraError(
            'the demo needs LangGraph. Type: pip install "moma-router[langchain]"'
        ) from error
    run(out, Console(stderr=True) if as_json else None)
    answer(as_json, {"router": str(out)})


@app.command(
    epilog="Example: moma route 'how many feet are 12 metres?' --explain, or "
    "moma route --batch queries.parquet --out decided.parquet",
)
def route(
    query: Annotated[str | None, typer.Argument(help="The words to route.")] = None,
    preference: PreferenceOption = "auto",
    as_json: JsonOption = False,
    explain: Annotated[bool, typer.Option(help="Show candidates and every step's time.")] = False,
    router: RouterOption = HERE,
    batch: Annotated[
        Path | None, typer.Option(help="Route a table with a column query.", dir_okay=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where --batch writes.", dir_okay=False)] = None,
    workers: Annotated[
        int,
        typer.Option(envvar="MOMA_WORKERS", help="Processes of --batch; 0: all cores.", min=0),
    ] = 0,
) -> None:
    """Decide where one query goes, or every query of a file; nothing is invoked."""
    if (batch is None) == (query is None) or (batch is None) != (out is None):
        raise typer.BadParameter("write moma route 'words', or --batch in.csv --out out.csv")
    if batch is not None and out is not None:
        from moma_core.cli.batch import route_file

        rows = route_file(batch, out, router, preference, workers or os.cpu_count() or 1)
        answer(as_json, {"rows": rows, "out": str(out)}, f"{rows:,} queries routed to {out}")
        return
    from moma_core.router import MoMARouter

    known = router != HERE or router_exists(router)
    decision = (open_router(router) if known else MoMARouter.from_cards()).route(
        str(query), preference
    )
    price = f", about ${decision.cost:.6f}" if decision.cost is not None else ""
    shown: list[Table | str] = [
        f"{decision.kind} {decision.target} ({decision.probability:.2f}{price})",
        f"because {decision.reason}",
    ]
    shown += _explained(decision) if explain else []
    shown += [] if known else ["No agents yet: moma agents add NAME DESCRIPTION -e EXAMPLE"]
    answer(as_json, decision.to_dict(), *shown)


def _explained(decision: RoutingDecision) -> list[Table]:
    candidates = (
        (each.name, f"{each.score:.3f}", "" if each.cost is None else f"{each.cost:.6f}")
        for each in decision.candidates
    )
    steps = ((step.name, f"{step.ms:.2f}", step.detail) for step in decision.trace)
    return [
        table(("candidate", "score", "expected USD"), candidates, "Considered"),
        table(("step", "ms", "what came out"), steps, "Steps"),
    ]
