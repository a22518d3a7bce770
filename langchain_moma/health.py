"""Which LLMs have been failing lately: a circuit breaker an LLM, closing by itself.

Knows names and a clock; neither what an LLM is nor why a call failed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from moma_core import InvalidInputError

__all__ = ["LLMHealth"]


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    opened: float | None = None
    probing: bool = False


class LLMHealth:
    """Opens after failures in a row, lets one call probe after a while, closes when it succeeds.

    An LLM whose circuit is open is not forbidden, it is asked last: when all others fail as well,
    it is still better than nothing. Safe to share between threads.

    Args:
        failures: Calls that must fail in a row to open the circuit.
        cooldown: Seconds until an open circuit lets one call through.
        clock: Seconds that never run backwards.

    Example:
        >>> health = LLMHealth(failures=1)
        >>> try:
        ...     with health.attempt("large"):
        ...         raise TimeoutError
        ... except TimeoutError:
        ...     health.is_open("large"), health.is_open("small")
        (True, False)
    """

    def __init__(
        self,
        failures: int = 3,
        cooldown: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if failures < 1 or not cooldown >= 0:
            raise InvalidInputError(
                f"a circuit opens after 1 failure or more and cools down for 0 seconds or more, "
                f"got failures={failures!r}, cooldown={cooldown!r}."
            )
        self._limit = failures
        self._cooldown = cooldown
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}
        self._lock = threading.Lock()

    def is_open(self, name: str) -> bool:
        """Whether calls should go elsewhere now."""
        with self._lock:
            return self._is_open(name)

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Count what the body does: an `Exception` fails, a cancellation counts as nothing."""
        with self._lock:
            circuit = self._circuits.setdefault(name, _Circuit())
            circuit.probing = circuit.opened is not None
        try:
            yield
        except Exception:
            self._failed(name)
            raise
        except BaseException:
            self._circuits[name].probing = False
            raise
        with self._lock:
            self._circuits[name] = _Circuit()

    def _failed(self, name: str) -> None:
        with self._lock:
            circuit = self._circuits[name]
            circuit.failures += 1
            circuit.probing = False
            if circuit.failures >= self._limit:
                circuit.opened = self._clock()

    def _is_open(self, name: str) -> bool:
        circuit = self._circuits.get(name)
        if circuit is None or circuit.opened is None:
            return False
        return circuit.probing or self._clock() - circuit.opened < self._cooldown
