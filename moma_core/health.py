"""Who has been failing lately: a circuit breaker a name, opened by failures, closed by a success.

Knows names and a clock; neither what a name stands for nor why it failed. No thread of its own: the
cool-down is over when somebody looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from moma_core.errors import InvalidInputError
from moma_core.locks import Lock
from moma_core.telemetry import Counts

__all__ = [
    "Circuit",
    "Health",
]

Circuit = Literal["closed", "open", "half-open"]


@dataclass(slots=True)
class _Record:
    failures: list[float] = field(default_factory=list)  # in a row, with their times
    opened: float | None = None
    probing: float | None = None  # since when an attempt is under way in a half-open circuit


class Health:
    """Opens a name's circuit after failures in a row, and half-opens it after a while.

    Closed -> ``failures`` failures in a row within ``window`` seconds -> open -> ``cooldown``
    seconds -> half-open -> a success closes it, a failure opens it again. A success closes it at
    any time. Safe to share between threads.

    Args:
        failures: Failures in a row that open a circuit.
        cooldown: Seconds that a circuit stays open.
        window: Seconds within which those failures fall.
        clock: Seconds that never run backwards.

    Raises:
        InvalidInputError: A number is out of bounds.

    Example:
        >>> health = Health(failures=2, cooldown=30)
        >>> health.report_failure("booker")
        >>> health.report_failure("booker")
        >>> health.circuit("booker"), health.circuit("weather")
        ('open', 'closed')
        >>> health.report_success("booker")
        >>> health.is_open("booker")
        False
    """

    def __init__(
        self,
        failures: int = 3,
        cooldown: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        window: float = 60.0,
    ) -> None:
        if failures < 1 or not cooldown >= 0 or not window > 0:
            raise InvalidInputError(
                "a circuit opens after 1 failure or more within a window of more than 0 seconds, "
                f"and cools down for 0 seconds or more, got failures={failures!r}, "
                f"window={window!r}, cooldown={cooldown!r}."
            )
        self._limit, self._window, self._cooldown = failures, window, cooldown
        self._clock = clock
        self._records: dict[str, _Record] = {}  # only of names whose last report was a failure
        self._waits: dict[str, float] = {}  # until when a name asked to be left alone
        self._lock = Lock()
        self.counts = Counts("health")

    def leave_alone(self, name: str, seconds: float) -> None:
        """Wait so long before the next call to ``name``, as a rate limit's ``retry-after`` asks.

        It is no failure: the circuit stays as it is, and a success ends the wait.

        Example:
            >>> health = Health()
            >>> health.leave_alone("large", 20)
            >>> health.may_be_asked("large"), health.is_open("large")
            (False, False)
        """
        with self._lock:
            if seconds > 0:
                self._waits[name] = self._clock() + seconds
            else:
                self._waits.pop(name, None)

    def may_be_asked(self, name: str) -> bool:
        """Say whether calls may go to ``name`` now: no open circuit, and no wait."""
        with self._lock:
            if name in self._waits and self._clock() >= self._waits[name]:
                del self._waits[name]
            record = self._records.get(name)
            waits = name in self._waits
            return not waits and not (record and self._closed_to_calls(record, self._clock()))

    def report_failure(self, name: str) -> None:
        """Tell that a call to ``name`` failed."""
        with self._lock:
            now = self._clock()
            record = self._records.setdefault(name, _Record())
            half_open = self._circuit(record, now) == "half-open" or record.probing is not None
            record.probing = None
            recent = [when for when in record.failures if now - when < self._window]
            record.failures = [*recent, now][-self._limit :]
            if half_open or (record.opened is None and len(record.failures) >= self._limit):
                record.opened = now
                self.counts.add("circuit opened")
        self.counts.add("failure")

    def report_success(self, name: str) -> None:
        """Tell that a call to ``name`` succeeded."""
        with self._lock:
            self._records.pop(name, None)
            self._waits.pop(name, None)

    @contextmanager
    def attempt(
        self, name: str, *, passing: tuple[type[BaseException], ...] = ()
    ) -> Iterator[None]:
        """Report what the body does: an `Exception` fails, a cancellation counts as nothing.

        Of a half-open circuit, only one attempt at a time is let through by `is_open`.

        Args:
            name: Who is tried.
            passing: Exceptions that count as nothing either, such as a framework's interrupts.

        Example:
            >>> health = Health(failures=1)
            >>> try:
            ...     with health.attempt("large"):
            ...         raise TimeoutError
            ... except TimeoutError:
            ...     health.is_open("large")
            True
        """
        with self._lock:
            record = self._records.get(name)
            if record is not None and record.opened is not None:
                record.probing = self._clock()
        try:
            yield
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, passing):
                self.report_failure(name)
            else:
                with self._lock:
                    if name in self._records:
                        self._records[name].probing = None
            raise
        self.report_success(name)

    def circuit(self, name: str) -> Circuit:
        """Return how the circuit of ``name`` stands now."""
        with self._lock:
            record = self._records.get(name)
            return "closed" if record is None else self._circuit(record, self._clock())

    def is_open(self, name: str) -> bool:
        """Say whether calls should go elsewhere now."""
        with self._lock:
            record = self._records.get(name)
            return record is not None and self._closed_to_calls(record, self._clock())

    def unhealthy(self) -> frozenset[str]:
        """Return every name whose calls should go elsewhere now."""
        if not self._records:
            return frozenset()
        with self._lock:
            now = self._clock()
            return frozenset(n for n, r in self._records.items() if self._closed_to_calls(r, now))

    def _circuit(self, record: _Record, now: float) -> Circuit:
        if record.opened is None:
            return "closed"
        return "open" if now - record.opened < self._cooldown else "half-open"

    def _closed_to_calls(self, record: _Record, now: float) -> bool:
        circuit = self._circuit(record, now)
        if circuit == "half-open" and record.probing is not None:
            return now - record.probing < self._cooldown  # a probe that hangs does not count
        return circuit == "open"
