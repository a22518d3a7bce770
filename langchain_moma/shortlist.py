"""The few tools that matter to a turn, out of many: one route, no LLM call.

Knows tool names and messages; neither tools nor chat models.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from langchain_core.messages import BaseMessage, ToolMessage
from typing_extensions import TypedDict  # typing's own gives no schema before Python 3.12

from langchain_moma.conversation import goes_on, last_turn, some_query_of
from langchain_moma.decisions import plain_state, state_in
from langchain_moma.vectors import Vectors
from moma_core import (
    Handled,
    InvalidInputError,
    MoMARouter,
    Query,
    RoutingDecision,
    RoutingState,
)

__all__ = ["Shortlist", "TurnRecord"]


class TurnRecord(TypedDict):
    """What the middleware keeps of a turn in the agent's state: plain data."""

    turn: str
    """Which turn this is about."""

    tools: list[str]
    """Tools known to the router that may be bound and executed in this turn."""

    decision: dict[str, Any] | None
    """`RoutingDecision.to_dict`; None when no tool is enabled and eligible."""

    state: dict[str, Any]
    """Conversation state for the next turn."""

    ms: float
    """Milliseconds that choosing took."""


@dataclass(frozen=True)
class Shortlist:
    """Picks at most ``max_tools`` names for a turn.

    A turn that leans on an earlier one ("and for two people?") is read after it, as in
    `MoMARouter.route`. Tools that answered in the turn before stay on top of these.

    Args:
        router: Knows the tools as agents.
        vectors: Encodes queries.
        max_tools: Most names to pick.

    Raises:
        InvalidInputError: ``max_tools`` is less than 1.
    """

    router: MoMARouter
    vectors: Vectors
    max_tools: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.max_tools, int) or self.max_tools < 1:
            raise InvalidInputError(
                f"max_tools must be a whole number, 1 or more, got {self.max_tools!r}. Write "
                "max_tools=8."
            )

    def turn(
        self, messages: Sequence[BaseMessage], among: Collection[str], last: TurnRecord | None
    ) -> TurnRecord:
        """Return what may be used in the turn that ``messages`` end with.

        Args:
            messages: The conversation.
            among: Names of the tools at hand; those that are disabled are never picked.
            last: What this returned before; within one turn it stays as it is.
        """
        known = self.known(messages, last)
        return self._chosen(messages, among, last) if known is None else known

    def known(self, messages: Sequence[BaseMessage], last: TurnRecord | None) -> TurnRecord | None:
        """Return ``last`` within the turn that it is about, else None."""
        if last is None or not (goes_on(messages) or last.get("turn") == _turn_id(messages)):
            return None
        return last

    def _chosen(
        self, messages: Sequence[BaseMessage], among: Collection[str], last: TurnRecord | None
    ) -> TurnRecord:
        start = time.perf_counter()
        known = frozenset(self.router.agents.names).intersection(among)
        before = state_in(last) or RoutingState()
        recent = [name for name in _answered_before(messages) if self._is_enabled(name, known)]
        if recent:  # whoever answered is what a follow-up leans on, not whoever was ranked first
            before = replace(before, last_target=recent[-1])
        decision = self._ranked(some_query_of(messages), before, known)
        return {
            "turn": _turn_id(messages),
            "tools": list(dict.fromkeys([*(decision.targets if decision else ()), *recent])),
            "decision": decision.to_dict() if decision is not None else None,
            "state": plain_state(decision.state if decision is not None else before),
            "ms": (time.perf_counter() - start) * 1e3,
        }

    def _is_enabled(self, name: str, known: Collection[str]) -> bool:
        return name in known and self.router.agents.get(name).enabled

    def _ranked(
        self, query: Query, before: RoutingState, known: Collection[str]
    ) -> RoutingDecision | None:
        if not known:
            return None
        reading = self.router.states.read(query, before)
        texts = [reading.text] if reading.joined is None else [reading.text, reading.joined]
        vectors = self.vectors.all(texts)
        out = set(self.router.agents.names).difference(known)
        asked = partial(
            self.router.agent_router.route, query, vectors[0], before, joined=vectors[1:]
        )
        outcome, following = asked(out)
        first, candidates = outcome, list(outcome.candidates)
        while outcome.candidates and len(candidates) < self.max_tools:
            out.update(candidate.name for candidate in outcome.candidates)
            outcome, _ = asked(out)  # a route names its best ten
            candidates += outcome.candidates
        if not candidates:
            return None
        names = tuple(candidate.name for candidate in candidates[: self.max_tools])
        fits = "the first fits" if isinstance(first, Handled) else "perhaps none fits"
        topic = reading.next_topic(same_target=before.last_target in (None, names[0]))
        return RoutingDecision(
            kind="agent",
            targets=names,
            probability=first.probability,
            candidates=tuple(candidates[: self.max_tools]),
            preference="",
            reason=f"{len(names)} of {len(known)} tools; {fits} ({first.probability:.2f})",
            state=replace(following, last_target=names[0], topic=topic),
        )


def _turn_id(messages: Sequence[BaseMessage]) -> str:
    """Return what tells this human turn from others in the conversation."""
    turn = last_turn(messages)
    return "" if not turn else str(turn[0].id or turn[0].text)


def _answered_before(messages: Sequence[BaseMessage]) -> Iterator[str]:
    """Yield the tools that answered in the turn before the last human message."""
    earlier = messages[: len(messages) - len(last_turn(messages))]
    for message in last_turn(earlier) if earlier else ():
        if isinstance(message, ToolMessage) and message.status == "success" and message.name:
            yield message.name
