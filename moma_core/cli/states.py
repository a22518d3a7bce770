"""``moma states``: a router's conversation states, drawn and checked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from moma_core.cli.terminal import RouterOption, console
from moma_core.errors import InvalidStatesError

__all__ = ["states_app"]

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
    from moma_core.agent_routing.states import check_states
    from moma_core.agent_routing.states_diagram import mermaid

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
