"""Which processes train on judged pairs: those of ``accelerate launch``, or some started here.

Both ways share the store on disk and end with the same net; imports torch and accelerate only when
they are used.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from moma_core.errors import InvalidInputError, MissingExtraError
from moma_core.llms.heads.moe import MoEHead
from moma_core.protocols import Progress
from moma_core.training.pair_store import PairStore
from moma_core.types import LLMCard

if TYPE_CHECKING:
    from moma_core.training.pairs import PairTask

__all__ = ["Launched", "Processes", "Started", "is_main", "launched", "processes"]

_WANTED = 'devices is "auto", "cpu", "cpu:N" or a number of devices'
_FORM = re.compile(r"auto|(?P<cpu>cpu)(:(?P<n>[1-9][0-9]*))?|(?P<gpus>[1-9][0-9]*)")
_WEIGHTS = "net.safetensors"


class Processes(Protocol):
    """Trains one net in some processes."""

    def store(self, build: Callable[[], PairStore], folder: Path) -> PairStore:
        """Build the store once, in ``folder``, and give it to every process."""

    def train(
        self, task: PairTask, folder: Path, llms: tuple[LLMCard, ...], tell: Progress | None
    ) -> MoEHead:
        """Train on the store in ``folder``."""


@dataclass(frozen=True, slots=True)
class Launched:
    """The processes that ``accelerate launch`` or ``torchrun`` started, this one among them."""

    def store(self, build: Callable[[], PairStore], folder: Path) -> PairStore:
        """The main process builds; the others wait, then map what it wrote."""
        accelerator = _accelerated().join()
        if accelerator.is_main_process:
            build().save(folder)
        accelerator.wait_for_everyone()
        return PairStore.open(folder)

    def train(
        self, task: PairTask, folder: Path, llms: tuple[LLMCard, ...], tell: Progress | None
    ) -> MoEHead:
        """Train here; every process returns the same net."""
        module = _accelerated()
        accelerator = module.join()
        shown = tell if accelerator.is_main_process else None
        weights = module.train_shard(accelerator, PairStore.open(folder), task, shown)
        return MoEHead(llms, weights, min(task.config.net.top, task.config.net.experts))


@dataclass(frozen=True, slots=True)
class Started:
    """Processes started here, one a device, that end when the net is trained.

    As everywhere in Python, a script that does so must hold ``if __name__ == "__main__":``.

    Args:
        count: How many.
        cpu: Whether they leave accelerators alone.
    """

    count: int
    cpu: bool

    def store(self, build: Callable[[], PairStore], folder: Path) -> PairStore:
        """Build it here, before any process starts, so that what fails fails here."""
        store = build()
        store.save(folder)
        return store

    def train(
        self, task: PairTask, folder: Path, llms: tuple[LLMCard, ...], tell: Progress | None
    ) -> MoEHead:
        """Train there, tell here."""
        from safetensors.numpy import load_file

        news = get_context("spawn").SimpleQueue()
        with tempfile.TemporaryDirectory(prefix="moma-net-") as out:
            target = Path(out) / _WEIGHTS
            given = (self.count, self.cpu, _free_port(), task, folder, target, news)
            running = _accelerated().start(_work, given, self.count)
            try:
                while not running.join(timeout=0.1):
                    _pass_on(news, tell)
                _pass_on(news, tell)
            finally:  # after an interrupt here, nobody waits for them
                for process in running.processes:
                    process.terminate()
            weights = load_file(target)
        return MoEHead(llms, weights, min(task.config.net.top, task.config.net.experts))


def processes(devices: str | int) -> Processes:
    """Return who trains.

    Args:
        devices: ``"auto"``: the processes of ``accelerate launch`` where it started this one, else
            one a GPU, else one on the CPU. ``"cpu"`` or ``"cpu:N"``: one or N processes on the
            CPU. A number: so many GPUs, or CPU processes where there is no GPU.

    Raises:
        InvalidInputError: It is nothing of these, or there are fewer devices.
        MissingExtraError: torch or accelerate is not installed.

    Example:
        >>> processes("cpu:2")
        Started(count=2, cpu=True)
    """
    found = _FORM.fullmatch(str(devices))
    if found is None or isinstance(devices, bool):
        raise InvalidInputError(f"{_WANTED}, got {devices!r}.")
    on_cpu, number = found["cpu"] is not None, found["n"] or found["gpus"]
    module = _accelerated()
    if launched():
        if devices != "auto":
            raise InvalidInputError(
                f"accelerate launch has chosen the devices, got {devices!r}. Write 'auto', or "
                "start without accelerate launch."
            )
        return Launched()
    present = module.present()
    if found["gpus"] and 0 < present < int(number):
        raise InvalidInputError(
            f"there are {present} devices, got {devices!r}. Write {present}, or 'cpu:{number}'."
        )
    count = int(number) if number else 1 if on_cpu else max(1, present)
    return Started(count, cpu=on_cpu or present == 0)


def launched() -> bool:
    """Say whether ``accelerate launch`` or ``torchrun`` started this process."""
    return "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


def is_main() -> bool:
    """Say whether this is the one process that shows progress and saves."""
    return os.environ.get("RANK", "0") == "0"


def _accelerated() -> Any:
    """Import what needs the extra.

    Raises:
        MissingExtraError: torch or accelerate is not installed.
    """
    try:
        return import_module("moma_core.training.accelerated")
    except ImportError as error:
        raise MissingExtraError(
            f'training on devices needs {error.name}. Type: pip install "moma-router[llm]"'
        ) from error


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _pass_on(news: Any, tell: Progress | None) -> None:
    while not news.empty():
        what, done, total = news.get()
        if tell is not None:
            tell(what, done, total)


def _work(
    rank: int,
    count: int,
    cpu: bool,
    port: int,
    task: PairTask,
    folder: Path,
    target: Path,
    news: Any,
) -> None:
    """What a started process does."""
    from safetensors.numpy import save_file

    threads = max(1, (os.cpu_count() or 1) // count)
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(threads)
    if count > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in {**place, **where}.items()})
    module = _accelerated()
    accelerator = module.join(cpu)

    def tell(what: str, done: int, total: int) -> None:
        news.put((what, done, total))

    shown = tell if accelerator.is_main_process else None
    weights = module.train_shard(accelerator, PairStore.open(folder), task, shown)
    if accelerator.is_main_process:
        save_file(weights, target)
    accelerator.end_training()
