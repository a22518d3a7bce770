"""``moma agents`` and ``moma states``: the registered agents and the conversation's states."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moma_core._checks import did_you_mean, parse_json
from moma_core.cli.terminal import (
    HERE,
    JsonOption,
    RouterOption,
    answer,
    new_folder,
    open_agents,
    open_router,
    progress_bar,
    router_exists,
    router_given,
    table,
)
from moma_core.errors import (
    DuplicateNameError,
    InvalidDataError,
    InvalidStatesError,
    MoMAError,
    UnknownNameError,
)

if TYPE_CHECKING:
    from moma_core.agents.catalog import AgentCatalog
    from moma_core.router import MoMARouter
    from moma_core.types import AgentCard

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
    router: RouterOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Print the states as a Mermaid diagram: what leads into each and what ends it."""
    from moma_core.agents.states import check_states, mermaid

    if file is not None and router_given(router):
        raise typer.BadParameter("give either FILE or --router, not both.")
    path = file or router / _FILE
    if not path.exists():
        raise InvalidStatesError(
            f"there is no states file {path}. Name one: moma states show states.toml, or a router "
            "that was saved with states: --router DIR."
        )
    states = check_states(path)
    if not check and not as_json:
        sys.stdout.write(mermaid(states) + "\n")
        return
    composite = sum(bool(state.all_of) for state in states)
    plain = {"states": len(states), "composite": composite, "mermaid": mermaid(states)}
    said = f"{path}: {len(states)} states, {composite} of them composite; they hold together."
    answer(as_json, plain, said)


app = typer.Typer(no_args_is_help=True, help="List, add, change, remove and switch agents.")


def _known_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete agent names on the tab key."""
    try:
        known = open_agents(Path(ctx.params.get("router") or HERE)).names
    except MoMAError:
        return []
    return [name for name in known if name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(help="The agent's name.", autocompletion=_known_names)]
_SHOWN = 80  # characters of a description on a terminal


@app.command("list", epilog="Example: moma agents list --router .moma")
def list_agents(
    out: Annotated[
        Path | None,
        typer.Option(help="Write them there too, as moma agents add --from reads them."),
    ] = None,
    router: RouterOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """List the registered agents."""
    cards = list(open_agents(router))
    if out is not None:
        from moma_core.agents.data import write_agents

        write_agents(cards, out)
    cut = _SHOWN if sys.stdout.isatty() else None
    rows = (
        (card.name, "yes" if card.enabled else "no", ", ".join(card.categories),
         len(card.examples), card.description[:cut])
        for card in cards
    )  # fmt: skip
    head = ("agent", "enabled", "categories", "examples", "description")
    answer(as_json, {"agents": [dataclasses.asdict(card) for card in cards]}, table(head, rows))


@app.command(epilog="Example: moma agents show weather")
def show(name: Name, router: RouterOption = HERE, as_json: JsonOption = False) -> None:
    """Show all that is known of one agent, as JSON; with --json on one line."""
    plain = dataclasses.asdict(_agents_with(router, name)[name])
    answer(as_json, plain, json.dumps(plain, indent=1))


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
        typer.Option("--from", help="Add all agents of a table (name, description).", exists=True),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(help="With --from: a table of examples (query, agents).", exists=True),
    ] = None,
    router: RouterOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Register one agent, or all agents of a table; the next route knows them."""
    from moma_core.types import AgentCard

    if source is not None and (name or description or example or category):
        raise typer.BadParameter("--from FILE holds the agents: leave NAME, DESCRIPTION, -e, -c.")
    if source is None and not (name and description):
        raise typer.BadParameter("give NAME and DESCRIPTION, or --from FILE.")
    if source is None and queries is not None:
        raise typer.BadParameter("--queries goes with --from FILE; give examples with -e.")
    negatives: tuple[str, ...] = ()
    if source is not None:
        cards, negatives = _from_files(source, queries)
    else:
        words, about = tuple(example or ()), tuple(category or ())
        cards = [AgentCard(str(name), str(description), examples=words, categories=about)]
    with new_folder(router), progress_bar(router) as tell:
        tell(f"encoding {len(cards)} agents", 0, 0)
        opened = _register(cards, negatives, router)
        if 2 * len(cards) > len(opened.agents):  # else single columns are fitted
            opened.fit(tell)
        opened.save(router)
    plain = {"added": [card.name for card in cards], "agents": len(opened.agents)}
    said = f"Added {len(cards)} to {router}: {len(opened.agents)} agents now."
    answer(as_json, {**plain, "router": str(router)}, said)


def _from_files(source: Path, queries: Path | None) -> tuple[list[AgentCard], tuple[str, ...]]:
    """Return the cards of a table, and the queries that no agent should take."""
    from moma_core.agents.data import read_agents, read_queries, with_examples

    cards = read_agents(source)
    if queries is None:
        return cards, ()
    known = read_queries(queries)
    more = with_examples(cards, known)
    joined = [
        dataclasses.replace(card, examples=(*card.examples, *each.examples))
        for card, each in zip(cards, more, strict=True)
    ]
    return joined, known.negatives()


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


def _agents_with(directory: Path, name: str) -> AgentCatalog:
    """Open the agents of the router in a directory that knows this one."""
    agents = open_agents(directory)
    _check_known(name, agents.names, directory)
    return agents


def _check_known(name: str, known: Sequence[str], directory: Path) -> None:
    if name not in known:
        raise UnknownNameError(
            f"no agent is named {name!r} in {directory}. {did_you_mean(name, known)}All names: "
            f"moma agents list --router {shlex.quote(str(directory))}"
        )


@app.command(epilog="Example: moma agents categories --router .moma")
def categories(router: RouterOption = HERE, as_json: JsonOption = False) -> None:
    """List the categories: what cards and the user name, and groups found in large catalogs."""
    opened = open_router(router)
    known, names = opened.agent_router.categories, opened.agents.names
    members = {name: [names[row] for row in known.members(name)] for name in known.names}
    rows = (
        (name, len(own), ", ".join(own[:5]) + (", ..." if len(own) > 5 else ""))
        for name, own in members.items()
    )
    shown = table(("category", "agents", "among them"), rows)
    answer(as_json, {"categories": members}, shown)


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
    router: RouterOption = HERE,
    as_json: JsonOption = False,
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
    with progress_bar(router) as tell:
        tell("opening and fitting", 0, 0)
        opened = open_router(router)
        _check_known(name, opened.agents.names, router)
        opened.agents.update(dataclasses.replace(opened.agents[name], **changed))
        opened.save(router)
    said = f"Updated {', '.join(changed)} of {name!r}."
    answer(as_json, {"updated": name, "fields": list(changed)}, said)


def _read_schema(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"), any_number=True)
    except (OSError, ValueError) as error:
        raise InvalidDataError(f"{path} is not JSON ({error}).") from error


@app.command(epilog="Example: moma agents remove weather")
def remove(name: Name, router: RouterOption = HERE, as_json: JsonOption = False) -> None:
    """Forget an agent."""
    with progress_bar(router) as tell:
        tell("opening and fitting", 0, 0)
        opened = open_router(router)
        _check_known(name, opened.agents.names, router)
        opened.agents.remove(name)
        opened.save(router)
    count = len(opened.agents)
    answer(as_json, {"removed": name, "agents": count}, f"Removed {name!r}: {count} agents left.")


@app.command(epilog="Example: moma agents enable weather")
def enable(name: Name, router: RouterOption = HERE, as_json: JsonOption = False) -> None:
    """Let an agent be chosen again."""
    _agents_with(router, name).enable(name)
    answer(as_json, {"agent": name, "enabled": True}, f"{name!r} is enabled.")


@app.command(epilog="Example: moma agents disable weather")
def disable(name: Name, router: RouterOption = HERE, as_json: JsonOption = False) -> None:
    """Keep an agent registered, but never choose it."""
    _agents_with(router, name).disable(name)
    said = f"{name!r} is disabled: no query goes to it until it is enabled."
    answer(as_json, {"agent": name, "enabled": False}, said)


@app.command(epilog="Example: moma agents repair --router .moma")
def repair(router: RouterOption = HERE, as_json: JsonOption = False) -> None:
    """Forget agents whose records are damaged, and make Chroma's index anew."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # names what is set aside: so does this
        opened = open_router(router)
        mend = getattr(opened.agents.registry, "repair", None)
        gone = [] if mend is None else [str(key) for key in mend()]
    plain = {"forgotten": gone, "agents": len(opened.agents)}
    said = f"{len(gone)} damaged, {len(opened.agents)} agents are whole."
    answer(as_json, plain, *(f"Forgot {key}" for key in gone), said)
