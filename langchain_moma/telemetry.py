"""What the adapters leave behind of each decision: a log line, counters, an OpenTelemetry span.

Spans appear when ``opentelemetry`` is installed and set up by the program; nothing is exported
from here, and no words of a query are written anywhere.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from functools import cache
from typing import Any, TypedDict

from moma_core import RoutingDecision
from moma_core.fallback import Failure
from moma_core.locks import Lock

__all__ = [
    "Counts",
    "Telemetry",
]

logger = logging.getLogger("langchain_moma")


class Counts(TypedDict):
    """What happened so far."""

    routes: int
    """Decisions made."""

    deferrals: int
    """Of these, for an LLM or a team because no agent fitted or none was asked for."""

    unrouted: int
    """Queries that nothing could take."""

    by_target: dict[str, int]
    """Decisions for each first target."""

    fallbacks: dict[str, int]
    """Failed calls of each LLM."""

    refused: dict[str, int]
    """Calls of masked tools that were not executed, by tool."""

    saved: float
    """Expected USD below what the LLM of the best expected quality would have cost."""

    ms: float
    """Milliseconds spent on deciding."""


class Telemetry:
    """Counts decisions; safe to share between threads.

    Example:
        >>> telemetry = Telemetry()
        >>> telemetry.decided(RoutingDecision("agent", ("weather",), 0.97), 3.1, "node")
        >>> telemetry.counts()["by_target"]
        {'weather': 1}
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._totals: Counter[str] = Counter()
        self._by: dict[str, Counter[str]] = {
            "by_target": Counter(),
            "fallbacks": Counter(),
            "refused": Counter(),
        }
        self._saved = self._ms = 0.0

    def decided(self, decision: RoutingDecision, ms: float, surface: str) -> None:
        """Keep a decision; ``surface`` says which adapter asked."""
        saved = _saved(decision)
        with self._lock:
            self._totals["routes"] += 1
            self._totals["deferrals"] += decision.kind != "agent"
            self._by["by_target"][decision.target] += 1
            self._saved += saved
            self._ms += ms
        logger.info(
            "%s: %s %r, probability %.2f, %.1f ms, preference %s",
            surface,
            decision.kind,
            decision.target,
            decision.probability,
            ms,
            decision.preference,
        )
        _span(ms, {"moma.surface": surface, "moma.saved": saved, **_attributes(decision)})

    def unrouted(self, reason: str, ms: float, surface: str) -> None:
        """Keep that nothing could take a query."""
        with self._lock:
            self._totals["unrouted"] += 1
            self._ms += ms
        logger.info("%s: nothing fits (%s), %.1f ms", surface, reason, ms)
        _span(ms, {"moma.surface": surface, "moma.kind": "none"})

    def failure(self, failure: Failure) -> None:
        """Keep that a call of an LLM failed, unless the caller was at fault."""
        if failure.fault == "caller":
            return
        with self._lock:
            self._by["fallbacks"][failure.llm] += 1
        logger.warning("LLM %r failed: %s", failure.llm, type(failure.error).__name__)

    def refused(self, tool: str) -> None:
        """Keep that a masked tool was asked for."""
        with self._lock:
            self._by["refused"][tool] += 1
        logger.info("tool %r is masked and was not executed", tool)

    def counts(self) -> Counts:
        """Return a copy of the counters."""
        with self._lock:
            return {
                "routes": self._totals["routes"],
                "deferrals": self._totals["deferrals"],
                "unrouted": self._totals["unrouted"],
                "by_target": dict(self._by["by_target"]),
                "fallbacks": dict(self._by["fallbacks"]),
                "refused": dict(self._by["refused"]),
                "saved": self._saved,
                "ms": self._ms,
            }


def _saved(decision: RoutingDecision) -> float:
    priced = [c for c in decision.candidates if c.cost is not None]
    if decision.kind != "llm" or decision.cost is None or not priced:
        return 0.0
    best = max(priced, key=lambda candidate: candidate.score)
    return (best.cost or 0.0) - decision.cost


def _attributes(decision: RoutingDecision) -> dict[str, Any]:
    return {
        "moma.kind": decision.kind,
        "moma.targets": list(decision.targets),
        "moma.probability": decision.probability,
        "moma.preference": decision.preference,
        "moma.cost": decision.cost or 0.0,
        "moma.reason": decision.reason,
    }


def _span(ms: float, attributes: dict[str, Any]) -> None:
    tracer = _tracer()
    if tracer is not None:
        start = time.time_ns() - int(ms * 1e6)
        tracer.start_span("moma.route", start_time=start, attributes=attributes).end()


@cache
def _tracer() -> Any:
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace.get_tracer("langchain_moma")
