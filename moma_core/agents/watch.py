"""Looks again every so often, in a thread that lives no longer than what it looks after."""

from __future__ import annotations

import atexit
import os
import random
import threading
import weakref
from collections.abc import Callable
from typing import Any

from moma_core.locks import Lock

__all__ = ["Watch"]

_jitter = random.Random()  # noqa: S311 - of its own: others may seed theirs

_running: weakref.WeakSet[Watch] = weakref.WeakSet()


class Watch:
    """Calls a function with an object again and again, as long as somebody else holds the object.

    Nothing starts before `ensure`; after a fork the child's next `ensure` starts its own thread.

    Args:
        owner: The object; only a weak reference is kept.
        look: Called with it; what it raises is its own affair and must be handled there.
        every: Mean seconds between calls; each wait is 0.8 to 1.2 of it.
    """

    def __init__(self, owner: object, look: Callable[[Any], None], every: float) -> None:
        self._owner, self._look, self._every = weakref.ref(owner), look, every
        self._lock = Lock()
        self._stop = threading.Event()
        self.stopped = False
        self._process = 0
        self._thread: threading.Thread | None = None
        weakref.finalize(owner, self.stop)

    def ensure(self) -> None:
        """Start the thread unless this process has it already."""
        if self._process == os.getpid() or self.stopped:
            return
        with self._lock:
            if self._process != os.getpid():
                self._process = os.getpid()
                self._stop = threading.Event()  # a parent's may have been held in the fork
                self._thread = threading.Thread(
                    target=_run,
                    args=(self._owner, self._look, self._every, self._stop),
                    name="moma-watch",
                    daemon=True,
                )
                _running.add(self)
                self._thread.start()

    def stop(self, patience: float = 0.0) -> None:
        """End the thread, and wait for it that many seconds."""
        self.stopped = True
        if self._process != os.getpid():
            return
        self._stop.set()
        thread = self._thread
        if patience and thread is not None and thread is not threading.current_thread():
            thread.join(patience)


def _run(
    owner: weakref.ref[object], look: Callable[[Any], None], every: float, stop: threading.Event
) -> None:
    while not stop.wait(every * _jitter.uniform(0.8, 1.2)):  # spreads the processes
        held = owner()
        if held is None:
            return
        look(held)
        del held


@atexit.register
def _stop_all() -> None:
    """End the threads before the interpreter, lest one is in the midst of a call then."""
    for watch in list(_running):
        watch.stop()
    for watch in list(_running):
        watch.stop(patience=1.0)
