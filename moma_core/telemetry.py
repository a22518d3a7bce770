"""What happened so far, counted: the gate, the cache, the registry, and what had to do without.

The same numbers go to OpenTelemetry as ``moma.events`` where a program has set up its metrics;
nothing is exported from here, and no words of a query are in any of them.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

from moma_core.locks import Lock

__all__ = ["Counts"]


class Counts(Counter[str]):
    """Counts the events of one part of a router; safe to share between threads.

    A copy and a pickled one count anew.

    Args:
        part: Whose events they are.

    Example:
        >>> counts = Counts("gate")
        >>> counts.add("taken")
        >>> counts["taken"], counts["deferred"]
        (1, 0)
    """

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part, self._lock = part, Lock()

    def add(self, event: str, times: int = 1) -> None:
        """Count an event."""
        with self._lock:
            self[event] += times
        counter = _events()
        if counter is not None:
            counter.add(times, {"part": self._part, "event": event})

    def __reduce__(self) -> tuple[type[Counts], tuple[str]]:
        return Counts, (self._part,)

    def copy(self) -> Counts:
        """Return counts of the same part that begin at zero."""
        return Counts(self._part)


@cache
def _events() -> Any:
    try:
        from opentelemetry import metrics
    except ImportError:
        return None
    meter = metrics.get_meter("moma")
    return meter.create_counter("moma.events", description="What routers did, by part and event.")
