"""What MoMA tells LlamaIndex's dispatcher: one event a decision.

Attach any event handler to LlamaIndex's root dispatcher, or to the one named ``llamaindex_moma``.
Knows nothing of how a decision was made.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from llama_index.core.bridge.pydantic import Field
from llama_index.core.instrumentation.events import BaseEvent
from llama_index_instrumentation import get_dispatcher

from moma_core import Candidate

__all__ = [
    "MoMALLMFailureEvent",
    "MoMARouteEvent",
]

Kind = Literal["selection", "tools", "agent", "llm"]

_dispatcher = get_dispatcher(__name__)


class MoMARouteEvent(BaseEvent):
    """A query was routed.

    Example:
        >>> MoMARouteEvent(kind="llm", query="hi", targets=["small"], reason="cheap").class_name()
        'MoMARouteEvent'
    """

    kind: Kind
    """What was chosen: choices of a selector, tools, an agent of a workflow, or an LLM."""

    query: str
    """The words that were routed."""

    targets: list[str]
    """Chosen names, best first; empty when nothing fitted."""

    reason: str
    """Why, in words."""

    scores: dict[str, float] = Field(default_factory=dict)
    """Scores of the candidates that were considered."""

    probability: float | None = None
    """Calibrated probability that the best agent or tool is right."""

    cost: float | None = None
    """Expected USD, for LLMs."""

    preference: str | None = None
    """The preference, for LLMs."""

    fallback: bool = False
    """Whether nothing fitted and the fallback took it."""

    ms: float = 0.0
    """Milliseconds that the decision took."""

    decision: dict[str, Any] | None = None
    """For LLMs: `RoutingDecision.to_dict`, which ``router.feedback`` takes when rebuilt."""

    @classmethod
    def class_name(cls) -> str:
        """Return the event's name."""
        return "MoMARouteEvent"


class MoMALLMFailureEvent(BaseEvent):
    """An LLM failed before its first token, and the next one was asked."""

    llm: str
    """Name of the LLM that failed."""

    error: str
    """What it said."""

    following: str | None
    """Name of the LLM that is asked next; None when none is left."""

    @classmethod
    def class_name(cls) -> str:
        """Return the event's name."""
        return "MoMALLMFailureEvent"


def tell(event: BaseEvent) -> None:
    """Hand an event to LlamaIndex's dispatcher."""
    _dispatcher.event(event)


def scores_of(candidates: Iterable[Candidate]) -> dict[str, float]:
    """Return the candidates' scores by name, in their order."""
    return {candidate.name: candidate.score for candidate in candidates}
