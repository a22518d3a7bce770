"""``moma agents`` and ``moma states``: the registered agents and the conversation's states."""

from __future__ import annotations

import dataclasses
import difflib
import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from moma_core.cli.terminal import (
    RouterOption,
    console,
    escape,
    open_router,
    progress_bar,
    router_exists,
)
from moma_core.errors import (
    DuplicateNameError,
    InvalidDataError,
    InvalidStatesError,
    UnknownNameError,
)
from moma_core.types import AgentCard

if TYPE_CHECKING:
    from moma_core.router import MoMARouter

__all__ = [
    "app",
    "states_app",
]

states_app = typer.Typer(
    no_args_is_help=True,
    help="Draw and check conversation states.",
    epilog="Example: moma states show states.toml",
)
_FILE = "states.toml"  # what MoMARouter.save writes


@states_app.callback()
def _states() -> None:
    """Keep ``show`` a command of its own while it is the only one."""


@states_app.command("show", epilog="Example: moma states show states.toml > states.mmd")
def show_states(
    file: Annotated[
        Path | None, typer.Argument(help="A states file; by default that of --router.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether the states hold together.")
    ] = False,
    router: RouterOption = Path(".moma"),
) -> None:
    """Print the states as a Mermaid diagram: what leads into each and what ends it."""
    from moma_core.agents.states import check_states, mermaid

    path = file or router / _FILE
    if not path.exists():
        raise InvalidStatesError(
            f"there is no states file {path}. Name one: moma states show states.toml, or a router "
            "that was saved with states: --router DIR."
        )
    states = check_states(path)
    if check:
        composite = sum(bool(state.all_of) for state in states)
        console.print(
            f"{escape(str(path))}: {len(states)} states, {composite} of them composite; "
            "they hold together.",
            highlight=False,
            soft_wrap=True,
        )
        return
    sys.stdout.write(mermaid(states) + "\n")


app = typer.Typer(no_args_is_help=True, help="List, add, change, remove and switch agents.")
_HERE = Path(".moma")


def _known_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete agent names on the tab key."""
    directory = Path(ctx.params.get("router") or _HERE)
    if not router_exists(directory):
        return []
    return [name for name in open_router(directory).agents.names if name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(help="The agent's name.", autocompletion=_known_names)]


@app.command("list", epilog="Example: moma agents list --router .moma")
def list_agents(router: RouterOption = _HERE) -> None:
    """List the registered agents."""
    table = Table("agent", "enabled", "categories", "examples", "description")
    for card in open_router(router).agents:
        table.add_row(
            escape(card.name),
            "yes" if card.enabled else "no",
            escape(", ".join(card.categories)),
            str(len(card.examples)),
            escape(card.description[:80]),
        )
    console.print(table)


@app.command(epilog="Example: moma agents show weather")
def show(name: Name, router: RouterOption = _HERE) -> None:
    """Show all that is known of one agent, as JSON."""
    card = _open_with(router, name).agents.get(name)
    console.print_json(
        json.dumps({field: getattr(card, field) for field in AgentCard.__dataclass_fields__})
    )


@app.command(
    epilog="Example: moma agents add weather 'Weather forecast for a place' -e 'will it rain?'"
)
def add(
    name: Annotated[str | None, typer.Argument(help="A new, short name.")] = None,
    description: Annotated[str | None, typer.Argument(help="What it does.")] = None,
    example: Annotated[
        list[str] | None, typer.Option("-e", "--example", help="A query it should take; repeat.")
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option("-c", "--category", help="What it is about; repeat.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Add all agents of a parquet file (name, description).", exists=True
        ),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(help="With --from: a parquet file of examples (query, agents).", exists=True),
    ] = None,
    router: RouterOption = _HERE,
) -> None:
    """Register one agent, or all agents of a file; the next route knows them."""
    if source is not None and (name or description):
        raise typer.BadParameter("give either NAME and DESCRIPTION or --from FILE, not both.")
    if source is not None:
        cards, negatives = _from_files(source, queries)
    elif name and description:
        words, about = tuple(example or ()), tuple(category or ())
        cards, negatives = [AgentCard(name, description, examples=words, categories=about)], ()
    else:
        raise typer.BadParameter("give NAME and DESCRIPTION, or --from FILE.")
    with progress_bar() as tell:
        tell("registering", 0, len(cards))
        opened = _register(cards, negatives, router)
        tell("fitting", len(cards), len(cards))
        opened.save(router)
    console.print(
        f"Added {len(cards)} to {escape(str(router))}: {len(opened.agents)} agents now.",
        highlight=False,
    )


def _from_files(source: Path, queries: Path | None) -> tuple[list[AgentCard], tuple[str, ...]]:
    """Return the cards of a parquet file, and the queries that no agent should take."""
    from moma_core.agents.data import read_agents, read_queries, with_examples

    cards = read_agents(source)
    if queries is None:
        return cards, ()
    known = read_queries(queries)
    return with_examples(cards, known), known.negatives()


def _register(cards: list[AgentCard], negatives: tuple[str, ...], directory: Path) -> MoMARouter:
    """Add agents and negatives to the router in a directory, or open the first one there."""
    from moma_core.llms.router import LLMRouter
    from moma_core.router import MoMARouter

    if router_exists(directory):
        opened = open_router(directory)
        for card in cards:
            if card.name in opened.agents:
                raise DuplicateNameError(
                    f"an agent named {card.name!r} exists already in {directory}. Choose another "
                    f"name, or change it: moma agents update {shlex.quote(card.name)} --router "
                    f"{shlex.quote(str(directory))}"
                )
        opened.agents.add(*cards)
        if negatives:
            agents = opened.agent_router
            agents.set_negatives(agents.negatives.also(negatives, opened.encoder))
        return opened
    own = (directory / "head.json").exists()  # what moma train llms wrote
    pool = LLMRouter.load(directory) if own else LLMRouter.packaged()
    return MoMARouter.from_cards(cards, path=directory, llms=pool, negatives=negatives)


def _open_with(directory: Path, name: str) -> MoMARouter:
    """Open the router in a directory that knows this agent."""
    opened = open_router(directory)
    if name not in opened.agents:
        close = difflib.get_close_matches(name, opened.agents.names, 3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise UnknownNameError(
            f"no agent is named {name!r} in {directory}.{hint} All names: moma agents list "
            f"--router {shlex.quote(str(directory))}"
        )
    return opened


@app.command(epilog="Example: moma agents categories --router .moma")
def categories(router: RouterOption = _HERE) -> None:
    """List the categories: what cards and the user name, and groups found in large catalogs."""
    opened = open_router(router)
    known, names = opened.agent_router.categories, opened.agents.names
    table = Table("category", "agents", "among them")
    for category in known.names:
        rows = known.members(category)
        some = ", ".join(names[row] for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
        table.add_row(escape(category), str(len(rows)), escape(some))
    console.print(table)


@app.command(epilog="Example: moma agents update weather -e 'will it rain?' -e 'how warm is it?'")
def update(
    name: Name,
    description: Annotated[str | None, typer.Option(help="What it does, instead.")] = None,
    example: Annotated[
        list[str] | None, typer.Option("-e", "--example", help="All its queries, anew; repeat.")
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option("-c", "--category", help="All its categories; repeat.")
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(help="JSON schema of its arguments, a file.", exists=True, dir_okay=False),
    ] = None,
    router: RouterOption = _HERE,
) -> None:
    """Change what is given of an agent; the rest stays, and no other agent is encoded again."""
    given: dict[str, Any] = {
        "description": description,
        "examples": tuple(example) if example else None,
        "categories": tuple(category) if category else None,
        "input_schema": None if schema is None else _read_schema(schema),
    }
    changed = {field: value for field, value in given.items() if value is not None}
    if not changed:
        raise typer.BadParameter("give --description, -e, -c or --schema.")
    opened = _open_with(router, name)
    opened.agents.update(dataclasses.replace(opened.agents.get(name), **changed))
    opened.save(router)
    console.print(f"Updated {', '.join(changed)} of {escape(repr(name))}.", highlight=False)


def _read_schema(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidDataError(f"{path} is not JSON ({error}).") from error


@app.command(epilog="Example: moma agents remove weather")
def remove(name: Name, router: RouterOption = _HERE) -> None:
    """Forget an agent."""
    opened = _open_with(router, name)
    opened.agents.remove(name)
    opened.save(router)
    console.print(
        f"Removed {escape(repr(name))}: {len(opened.agents)} agents left.", highlight=False
    )


@app.command(epilog="Example: moma agents enable weather")
def enable(name: Name, router: RouterOption = _HERE) -> None:
    """Let an agent be chosen again."""
    _open_with(router, name).agents.enable(name)
    console.print(f"{escape(repr(name))} is enabled.", highlight=False)


@app.command(epilog="Example: moma agents disable weather")
def disable(name: Name, router: RouterOption = _HERE) -> None:
    """Keep an agent registered, but never choose it."""
    _open_with(router, name).agents.disable(name)
    console.print(
        f"{escape(repr(name))} is disabled: no query goes to it until it is enabled.",
        highlight=False,
    )


@app.command(epilog="Example: moma agents repair --router .moma")
def repair(router: RouterOption = _HERE) -> None:
    """Forget agents whose records are damaged, and make Chroma's index anew."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # names what is set aside: so does this
        opened = open_router(router)
        mend = getattr(opened.agents.registry, "repair", None)
        gone = [] if mend is None else mend()
    for key in gone:
        console.print(f"Forgot {key}", markup=False, highlight=False)
    console.print(f"{len(gone)} damaged, {len(opened.agents)} agents are whole.", highlight=False)
