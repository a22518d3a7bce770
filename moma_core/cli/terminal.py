"""What the commands share: the console, the router's directory, progress bars, JSON files."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import markup
from rich.console import Console

from moma_core._checks import harmless
from moma_core._store import write_whole
from moma_core.errors import ArtifactError

if TYPE_CHECKING:
    from moma_core.protocols import Progress
    from moma_core.router import MoMARouter

__all__ = [
    "RouterOption",
    "console",
    "escape",
    "llm_folder",
    "open_router",
    "output_folder",
    "progress_bar",
    "router_exists",
    "write_json",
]

console = Console()
_errors = Console(stderr=True)

RouterOption = Annotated[
    Path,
    typer.Option(
        "--router",
        envvar="MOMA_ROUTER",
        help="Directory of the router: its agents, ranker and LLMs.",
        file_okay=False,
    ),
]


def escape(text: str) -> str:
    r"""Return what shows a text as it is: neither markup nor escapes do anything to the terminal.

    Example:
        >>> print(escape("[red]rain" + chr(27)))
        \[red]rain\x1b
    """
    return markup.escape(harmless(text))


def router_exists(directory: Path) -> bool:
    """Say whether a router was saved in ``directory``."""
    return (directory / "router.json").exists()


def llm_folder(directory: Path) -> Path:
    """Return where the LLMs of a router's directory are, or the directory of a pool itself."""
    inner = directory / "llms"
    return inner if inner.is_dir() else directory


def open_router(directory: Path) -> MoMARouter:
    """Load the router in ``directory``.

    Raises:
        ArtifactError: There is none yet.
    """
    from moma_core.llms.router import LLMRouter
    from moma_core.router import MoMARouter

    pool = directory / "head.json"
    if not router_exists(directory) and pool.exists():  # what moma train llms wrote: no agents
        return MoMARouter.from_cards(llms=LLMRouter.load(directory))
    if not router_exists(directory) and (directory / "registry").is_dir():
        return MoMARouter.from_cards(path=directory)
    if not router_exists(directory):
        raise ArtifactError(
            f"there is no router in {directory} yet. Register a first agent with\n"
            "  moma agents add weather 'Weather forecast for a place' -e 'will it rain?'\n"
            "or name another directory with --router."
        )
    return MoMARouter.load(directory)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show what is being done, how far it is, and the time left, on standard error."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_errors, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def tell(label: str, done: int, total: int) -> None:
            bar.update(task, description=label, completed=done, total=total or None)

        yield tell


def output_folder(directory: Path) -> Path:
    """Make the directory of an ``--out`` and return it; called before work that takes minutes.

    Raises:
        ArtifactError: Nothing can be written there.
    """
    probe = directory / f".{uuid.uuid4().hex}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ArtifactError(f"cannot write {directory} ({error}). Choose another --out.") from error
    return directory


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report, made for people and machines.

    Raises:
        ArtifactError: The file cannot be written.
    """
    write_whole(path, (json.dumps(report, indent=1) + "\n").encode())
