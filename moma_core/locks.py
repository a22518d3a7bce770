"""One at a time: a lock on a file for processes, and one for threads that copies can have.

A lock on a file ends with the process that holds it. A fork waits until nothing is being done under
one, so a child never inherits half a change.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moma_core.errors import RegistryError

__all__ = ["Lock", "locked"]

_jitter = random.Random()  # noqa: S311 - of its own: others may seed theirs

_PATIENCE = 30.0  # seconds
_GAP = 0.002  # seconds for which the lock is left to others
_guard = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_guard.release
    )


class Lock:
    """A lock between threads; a copy, a pickled one and a forked one are new locks.

    Example:
        >>> import copy
        >>> with copy.deepcopy(Lock()):
        ...     print("alone")
        alone
    """

    def __init__(self) -> None:
        self._lock, self._process = threading.Lock(), os.getpid()

    def __enter__(self) -> None:
        if self._process != os.getpid():  # another thread of the parent may have held it
            self._lock, self._process = threading.Lock(), os.getpid()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        return Lock, ()


@contextmanager
def locked(path: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold the lock on a file, made if absent, or on a directory, while the body runs.

    Args:
        path: The file, nothing is written to it; or a directory.
        patience: Seconds to wait for another process.

    Raises:
        RegistryError: Another process holds it all that time.
        OSError: The file cannot be opened.

    Example:
        >>> import tempfile
        >>> with locked(Path(tempfile.mkdtemp()) / "lock"):
        ...     print("alone")
        alone
    """
    deadline = time.monotonic() + patience
    handle = _held(path)
    while handle is None:
        if time.monotonic() > deadline:
            raise RegistryError(
                f"another process has been writing in {str(path.parent)!r} for {patience:.0f} s. "
                "Wait for it; where many write all the time, let them share a server: "
                "chroma run --path DIR, and path='http://localhost:8000'."
            )
        time.sleep(_jitter.uniform(0.3, 1.0) * _GAP)  # only spreads those that wait
        handle = _held(path)
    try:
        yield
    finally:
        os.close(handle)
        _guard.release()
        time.sleep(_GAP)  # else who writes on and on takes it again before anybody who waits


def _held(path: Path) -> int | None:
    """Return a descriptor that holds the lock, with `_guard` acquired; None where another does."""
    _guard.acquire()
    handle = None
    try:
        if path.is_dir() and os.name == "posix":
            handle = os.open(path, os.O_RDONLY)
        else:
            path = path / ".lock" if path.is_dir() else path
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if _lock(handle):
            return handle
    except BaseException:
        if handle is not None:
            os.close(handle)
        _guard.release()
        raise
    os.close(handle)
    _guard.release()
    return None


def _lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
