"""The steps of one route, named and timed as they happen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from moma_core.types import Step

__all__ = ["Steps"]


class Steps:
    """Collects the steps of one route with their times."""

    def __init__(self) -> None:
        self._steps: list[Step] = []

    @contextmanager
    def timed(self, name: str) -> Iterator[list[str]]:
        """Time a step; what the body appends becomes its detail."""
        detail: list[str] = []
        start = time.perf_counter()
        yield detail
        self._steps.append(Step(name, (time.perf_counter() - start) * 1e3, " ".join(detail)))

    def done(self) -> tuple[Step, ...]:
        """Return the steps so far."""
        return tuple(self._steps)
