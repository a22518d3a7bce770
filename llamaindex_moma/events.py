"""What LlamaIndex's dispatcher hears: one event a decision, and one a failure.

Attach an event handler to LlamaIndex's root dispatcher, or to the one named ``llamaindex_moma``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from llama_index.core.bridge.pydantic import Field
from llama_index.core.instrumentation.events import BaseEvent
from llama_index_instrumentation import get_dispatcher

from moma_core.decision import Ranking, RoutingDecision

__all__ = [
    "Kind",
    "MoMAEngineFailureEvent",
    "MoMALLMFailureEvent",
    "MoMARouteEvent",
    "send",
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
    """For LLMs: the `RoutingDecision` as a dict; `MoMALLM.feedback` takes it."""

    @classmethod
    def class_name(cls) -> str:
        """Return the event's name."""
        return "MoMARouteEvent"

    @classmethod
    def of_ranking(
        cls, kind: Kind, query: str, ranking: Ranking, targets: Sequence[str], **more: Any
    ) -> MoMARouteEvent:
        """Return the event for a ranking and those of it that were taken.

        Args:
            kind: What was chosen.
            query: The words that were routed.
            ranking: All that was considered.
            targets: Chosen names.
            more: Other fields; ``reason`` is the ranking's by default.
        """
        fields = {"reason": ranking.reason, **more}
        return cls(
            kind=kind,
            query=query,
            targets=list(targets),
            scores={each.name: each.score for each in ranking},
            probability=ranking.best_probability,
            **fields,
        )

    @classmethod
    def of_decision(cls, query: str, decision: RoutingDecision, ms: float) -> MoMARouteEvent:
        """Return the event for the choice of an LLM."""
        return cls(
            kind="llm",
            query=query,
            targets=list(decision.targets),
            reason=decision.reason,
            scores={each.name: each.score for each in decision.candidates},
            cost=decision.cost,
            preference=decision.preference,
            ms=ms,
            decision=decision.to_dict(),
        )


class MoMALLMFailureEvent(BaseEvent):
    """An LLM failed before its first token."""

    llm: str
    """Name of the LLM that failed."""

    error: str
    """What it said."""

    following: str | None
    """Name of the LLM that is asked next; None when none is left, or none would fare better."""

    @classmethod
    def class_name(cls) -> str:
        """Return the event's name."""
        return "MoMALLMFailureEvent"


class MoMAEngineFailureEvent(BaseEvent):
    """A query engine failed."""

    engine: str
    """Name of the choice that failed."""

    error: str
    """What it said."""

    @classmethod
    def class_name(cls) -> str:
        """Return the event's name."""
        return "MoMAEngineFailureEvent"


def send(event: BaseEvent) -> None:
    """Hand an event to LlamaIndex's dispatcher."""
    _dispatcher.event(event)
