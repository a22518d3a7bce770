"""What the commands share: the console, what they answer, progress, the router's directory."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moma_core._checks import printable
from moma_core.errors import ArtifactError

if TYPE_CHECKING:
    from moma_core.agents.catalog import AgentCatalog
    from moma_core.protocols import Progress
    from moma_core.router import MoMARouter

__all__ = [
    "HERE",
    "JsonOption",
    "PreferenceOption",
    "RouterOption",
    "answer",
    "console",
    "llm_folder",
    "new_folder",
    "open_agents",
    "open_router",
    "progress_bar",
    "router_exists",
    "router_given",
    "table",
    "write_json",
]

_WIDE = 10_000  # columns where nobody looks: a program that reads names wants them whole
_narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
console = Console() if _narrow else Console(width=_WIDE)
_errors = Console(stderr=True)

HERE = Path(".moma")
RouterOption = Annotated[
    Path,
    typer.Option(
        "--router",
        envvar="MOMA_ROUTER",
        help="Directory of the router: its agents, ranker and LLMs.",
        file_okay=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
_PREFERENCES = (
    "performance", "auto", "auto:0.02", "cost", "cost:0.002", "topsis", "topsis:0.7,0.3",
)  # fmt: skip


def _preferences(incomplete: str) -> list[str]:
    return [name for name in _PREFERENCES if name.startswith(incomplete)]


PreferenceOption = Annotated[
    str,
    typer.Option(
        envvar="MOMA_PREFERENCE",
        help="performance, auto, auto:POINTS, cost, cost:USD, or topsis:SCORE,COST.",
        autocompletion=_preferences,
    ),
]


def table(head: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> Table:
    """Return a table whose cells are shown as they are, whole, and act on no terminal."""
    made = Table(title=Text(printable(title)) if title else None)
    for name in head:
        made.add_column(Text(printable(name)), overflow="fold")
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def answer(as_json: bool, plain: Mapping[str, Any], *shown: Table | str) -> None:
    """Print what a command found: for programs one line of JSON, for people tables and texts."""
    if as_json:
        sys.stdout.write(json.dumps(plain) + "\n")
        return
    for each in shown:
        text = each if isinstance(each, Table) else "\n".join(map(printable, each.split("\n")))
        console.print(text, markup=False, highlight=False, soft_wrap=isinstance(each, str))


def router_exists(directory: Path) -> bool:
    """Say whether a router was saved in ``directory``."""
    return (directory / "router.json").exists()


def router_given(router: Path) -> bool:
    """Say whether --router was typed, rather than left out or taken from the settings."""
    from moma_core.cli.config import read

    unsaid = HERE, os.environ.get("MOMA_ROUTER"), read().get("router")
    return str(router) not in map(str, unsaid)


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
    _check_exists(directory)
    return MoMARouter.load(directory)


def open_agents(directory: Path) -> AgentCatalog:
    """Open the agents of the router in ``directory`` alone: quick, and no card can be added.

    Raises:
        ArtifactError: There is no router yet.
    """
    if not router_exists(directory) and (directory / "registry").is_dir():
        return open_router(directory).agents
    _check_exists(directory)
    from moma_core._directory import saved_agents

    return saved_agents(directory.expanduser().absolute())


def _check_exists(directory: Path) -> None:
    if not router_exists(directory):
        raise ArtifactError(
            f"there is no router in {directory} yet. Register a first agent with\n"
            "  moma agents add weather 'Weather forecast for a place' -e 'will it rain?'\n"
            "fit a pool of your own LLMs with\n"
            f"  moma train llms --data scored.parquet --out {directory}\n"
            "or name another directory with --router."
        )


@contextmanager
def progress_bar(place: Path | str = "", kept: str = "Nothing was written.") -> Iterator[Progress]:
    """Show the step, how far it is, the time left and where the output goes, on standard error.

    On a terminal a bar; else a line every ten seconds, from the third second on. Ctrl-C ends the
    command with status 130 and says what is kept.

    Args:
        place: Where the output goes.
        kept: What is kept when the work is stopped, and how to go on.
    """
    where = f"→ {place}" if str(place) else ""
    shown = _bar(where) if _errors.is_terminal else _lines(where)
    try:
        with shown as tell:
            yield tell
    except KeyboardInterrupt:
        _errors.print(f"Stopped. {kept}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None


@contextmanager
def _bar(where: str) -> Iterator[Progress]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        TextColumn(where, markup=False),
    )  # fmt: skip
    with Progress(*columns, console=_errors, transient=True) as bar:
        task, now = bar.add_task("starting", total=None), "starting"

        def tell(label: str, done: int, total: int) -> None:
            nonlocal now
            if label != now:  # the time left is of this step alone
                now = label
                bar.reset(task, description=label)
            bar.update(task, description=label, completed=done, total=total or None)

        yield tell


_FIRST, _EVERY = 3.0, 10.0  # seconds


@contextmanager
def _lines(where: str) -> Iterator[Progress]:
    step = _Step("starting", 0, 0, time.monotonic())
    ended = threading.Event()

    def write() -> None:
        wait = _FIRST
        while not ended.wait(wait):
            _errors.print(f"{step} {where}".rstrip(), markup=False, highlight=False, soft_wrap=True)
            wait = _EVERY

    writer = threading.Thread(target=write, name="moma-progress", daemon=True)
    writer.start()
    try:
        yield step.tell
    finally:
        ended.set()
        writer.join()


class _Step:
    """What is being done, and when it began."""

    def __init__(self, label: str, done: int, total: int, begun: float) -> None:
        self._label, self._done, self._total, self._begun = label, done, total, begun
        self._from = done

    def tell(self, label: str, done: int, total: int) -> None:
        if label != self._label:
            self._begun, self._from = time.monotonic(), done
        self._label, self._done, self._total = label, done, total

    def __str__(self) -> str:
        spent, made = time.monotonic() - self._begun, self._done - self._from
        left = f", {spent / made * (self._total - self._done):.0f} s left" if made > 0 else ""
        count = f" {self._done}/{self._total}" if self._total else ""
        return f"{self._label}{count}, {spent:.0f} s so far{left if self._total else ''}"


@contextmanager
def new_folder(directory: Path, keeps: Callable[[Path], bool] = router_exists) -> Iterator[None]:
    """Make the directory of an ``--out`` before long work, and take it away if that fails.

    Args:
        directory: Left as it is where it was there before.
        keeps: Says whether a directory that was made holds something worth keeping.

    Raises:
        ArtifactError: Nothing can be written there.
    """
    absent = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    probe = directory / f".{uuid.uuid4().hex}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ArtifactError(f"cannot write {directory} ({error}). Choose another --out.") from error
    try:
        yield
    except BaseException:
        if directory in absent and not keeps(directory):
            shutil.rmtree(directory, ignore_errors=True)
            for folder in absent[1:]:
                if not any(folder.iterdir()):
                    folder.rmdir()
        raise


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report, made for people and machines.

    Raises:
        ArtifactError: The file cannot be written.
    """
    from moma_core._store import write_whole

    write_whole(path, (json.dumps(report, indent=1) + "\n").encode())
