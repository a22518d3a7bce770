"""The tools of a turn: which ones the router picks, and which stay bound in a conversation."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NotRequired, get_args

from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.tools import BaseTool
from typing_extensions import TypedDict

from langchain_moma.bind_cost import CACHED, Bind
from langchain_moma.calls import tokens_of
from langchain_moma.decision import plain_state, state_in
from langchain_moma.deferred_tools import Reveal
from langchain_moma.messages import goes_on, last_turn, some_query_of
from langchain_moma.waiting import asks, with_waiting
from moma_core import (
    InvalidInputError,
    MoMARouter,
    Query,
    RoutingDecision,
    RoutingState,
)
from moma_core.decision import Ranking
from moma_core.places import rank_requests, shared

__all__ = [
    "Shortlist",
    "TurnRecord",
]

# Shares of the picks' probability: what is bound will do; what is bound when it had to grow; what
# is revealed to begin with. A list in front of the messages grows rarely and then by more: where
# more than a tenth of the prompt would be written anew at each call, by as many as cost in fifteen
# calls, from the cache, what was written anew. By simulated conversations over MetaTool's val rows
# (benchmarks/LOG.md).
_WILL_DO, _SAFE = 0.6, 0.98
_SHOWN_DO, _SHOWN, _SHOWN_FIRST = 0.8, 0.95, 0.98
_ANEW, _CALLS = 0.1, 15


class TurnRecord(TypedDict):
    """What the middleware keeps of a turn in the agent's state: plain data."""

    turn: str
    """Which turn this is about."""

    tools: list[str]
    """Tools known to the router that were picked for this turn, best first."""

    bound: NotRequired[list[str]]
    """Tools known to the router that may be bound and executed in this turn, in that order."""

    bind: NotRequired[Bind]
    """With ``bind="auto"``: the way that was chosen for this conversation."""

    costs: NotRequired[dict[Bind, float]]
    """Likewise: what a turn of each way was expected to cost, in tokens at the uncached price."""

    grown: NotRequired[list[int]]
    """With ``bind="stable"``: in how many turns the list grew, of how many after the first."""

    revealed: NotRequired[list[Reveal]]
    """With ``bind="deferred"``: which human turn revealed which tools, in that order."""

    decision: dict[str, Any] | None
    """`RoutingDecision.to_dict`; None when no tool is enabled and eligible."""

    state: dict[str, Any]
    """Conversation state for the next turn."""

    ms: float
    """Milliseconds that choosing took."""


@dataclass(frozen=True)
class Shortlist:
    """Picks at most ``max_tools`` names for a turn, and says which to bind.

    A turn that leans on an earlier one ("and for two people?") is read after it, as in
    `MoMARouter.route`. A query that asks for several things shares the places among its parts.
    Tools that answered in the turn before stay on top of these.

    Args:
        router: Knows the tools as agents.
        max_tools: Most names to pick.
        bind: As in `MoMAMiddleware`.
        max_bound: As in `MoMAMiddleware`.
        cached: Price of a token read from the provider's cache, of one that is not.

    Raises:
        InvalidInputError: ``max_tools`` is less than 1, ``max_bound`` less than it, or there is no
            such ``bind``.
    """

    router: MoMARouter
    max_tools: int = 8
    bind: Bind = "turn"
    max_bound: int = 128
    cached: float = CACHED

    def __post_init__(self) -> None:
        if not isinstance(self.max_tools, int) or self.max_tools < 1:
            raise InvalidInputError(
                f"max_tools must be a whole number, 1 or more, got {self.max_tools!r}. Write "
                "max_tools=8."
            )
        if self.bind not in get_args(Bind):
            raise InvalidInputError(
                f"bind is one of {', '.join(map(repr, get_args(Bind)))}, got {self.bind!r:.40}. "
                "Write bind='stable'."
            )
        if not isinstance(self.max_bound, int) or self.max_bound < self.max_tools:
            raise InvalidInputError(
                f"max_bound must be a whole number, {self.max_tools} (max_tools) or more, got "
                f"{self.max_bound!r}. Write max_bound=128."
            )

    def turn(
        self,
        messages: Sequence[BaseMessage],
        among: Mapping[str, BaseTool],
        last: TurnRecord | None,
        exclude: Collection[str] = (),
    ) -> TurnRecord:
        """Return what may be used in the turn that ``messages`` end with.

        Args:
            messages: The conversation.
            among: The tools at hand by name; those that are disabled are never picked.
            last: What this returned before; within one turn it stays as it is.
            exclude: Names that may not be picked this time.
        """
        if last is not None and self.is_about(messages, last):
            return last
        start = time.perf_counter()
        out = {*exclude, *self.router.health.unhealthy()}
        known = [name for name in among if self._is_enabled(name) and name not in out]
        recent = [name for name in _answered(_turn_before(messages)) if name in known]
        before = _before(last, recent)
        waiting = before.last_target if asks(messages) and before.last_target in known else None
        query, state = some_query_of(messages), with_waiting(before, waiting)
        rankings = self._rankings(query, state, known)
        decision = self._decision(rankings, len(known))
        tools = list(dict.fromkeys([*(decision.targets if decision else ()), *recent]))
        bound = self._bound(tools, rankings, last, known, messages)
        grown = _grown(bound, last)
        listed = [among[name] for name in bound]
        if spare := self._spare(listed, messages, last, grown):
            more = self.router.rank(query, len(bound) + spare, known, state=state).names
            bound += [name for name in more if name not in bound][:spare]
        record: TurnRecord = {
            "turn": _turn_id(messages),
            "tools": tools,
            "bound": bound,
            "decision": _told(decision, bound, last) if decision is not None else None,
            "state": plain_state(decision.state if decision is not None else before),
            "ms": (time.perf_counter() - start) * 1e3,
        }
        if self.bind == "deferred":
            record["revealed"] = _revealed(record, last)
        if self.bind == "stable":
            record["grown"] = grown
        return record

    def _spare(
        self,
        bound: Sequence[BaseTool],
        messages: Sequence[BaseMessage],
        last: TurnRecord | None,
        grown: Sequence[int],
    ) -> int:
        """Return how many tools more to bind now, so that a list grows less often.

        Args:
            bound: What is bound.
            messages: Written anew each time the list grows.
            last: The turn before.
            grown: In how many turns it grew, of how many; a turn has two calls.
        """
        earlier = last.get("bound", []) if last else []
        if self.bind != "stable" or not earlier or {t.name for t in bound} <= {*earlier}:
            return 0
        said, listed = tokens_of(messages), tokens_of([], bound)
        if grown[0] / grown[1] / 2 * said / (said + listed) <= _ANEW:
            return 0
        many = (1 - self.cached) * said / (max(self.cached, 0.01) * _CALLS * listed / len(bound))
        return max(min(int(many), self.max_bound - self.max_tools - len(bound)), 0)

    def found(
        self, query: str, state: Mapping[str, Any] | None, among: Collection[str]
    ) -> list[str]:
        """Return the tools that a search of the LLM's own finds, best first."""
        well = [n for n in among if self._is_enabled(n)]
        out = self.router.health.unhealthy()
        ranking = self.router.rank(query, self.max_tools, well, state=state, exclude=out)
        return list(ranking.names)

    def is_about(self, messages: Sequence[BaseMessage], last: TurnRecord) -> bool:
        """Say whether ``last`` was made in the turn that ``messages`` end with."""
        return goes_on(messages) or last.get("turn") == _turn_id(messages)

    def _is_enabled(self, name: str) -> bool:
        agents = self.router.agents
        return name in agents and agents.get(name).enabled

    def _rankings(
        self,
        query: Query,
        state: RoutingState | Mapping[str, Any] | None,
        known: Sequence[str],
    ) -> list[Ranking]:
        """Return the ranking of the whole query and, of several requests, of each; or nothing."""
        if not known:
            return []
        rankings = rank_requests(self.router, query, self.max_tools, known, state)
        return rankings if rankings[0] else []

    def _decision(self, rankings: Sequence[Ranking], n: int) -> RoutingDecision | None:
        """Return the picks as a decision."""
        if not rankings or (self.bind == "fitting" and not rankings[0].fits):
            return None
        whole, requests = rankings[0], len(rankings) - 1
        candidates = shared(rankings, self.max_tools)
        names = tuple(candidate.name for candidate in candidates)
        fits = "the first fits" if whole.fits else "perhaps none fits"
        several = f"{requests} requests; " if requests else ""
        return RoutingDecision(
            kind="agent",
            targets=names,
            probability=whole.best_probability,
            candidates=candidates,
            preference="",
            reason=f"{several}{len(names)} of {n} tools; {fits} ({whole.best_probability:.2f})",
            state=replace(whole.state, last_target=names[0]),
        )

    def _bound(
        self,
        tools: Sequence[str],
        rankings: Sequence[Ranking],
        last: TurnRecord | None,
        known: Sequence[str],
        messages: Sequence[BaseMessage],
    ) -> list[str]:
        """Return what to bind; a list that grows does so at its end alone."""
        if self.bind == "all":
            return list(known)
        if self.bind not in ("stable", "deferred", "allowed"):
            return [name for name in known if name in tools]
        allowed = set(known)
        bound = [n for n in (last.get("bound", last["tools"]) if last else ()) if n in allowed]
        reveals = self.bind == "deferred"
        if not bound and not reveals:
            return [name for name in known if name in tools]
        will_do, safe = (_SHOWN_DO, _SHOWN) if reveals else (_WILL_DO, _SAFE)
        if bound and all(_share(bound, each) >= will_do for each in rankings):
            return bound
        longer = list(bound)
        for name in tools:
            for each in rankings:
                missing = name in each.names and name not in longer
                if missing and _share(longer, each) < (safe if bound else _SHOWN_FIRST):
                    longer.append(name)
        if self.bind == "deferred" or len(longer) <= self.max_bound:
            return longer
        used = list(dict.fromkeys(reversed([*_answered(messages)])))[: self.max_tools]
        return [name for name in longer if name in used or name in tools]


def _share(bound: Collection[str], ranking: Ranking) -> float:
    """Return how much of the picks' probability is bound."""
    total = sum(candidate.score for candidate in ranking)
    held = sum(each.score for each in ranking if each.name in bound)
    return held / total if total > 0 else float(ranking.names[0] in bound)


def _before(last: TurnRecord | None, recent: Sequence[str]) -> RoutingState:
    """Return the state before a turn; a follow-up leans on who answered, not on who was first."""
    before = state_in(last) or RoutingState()
    return replace(before, last_target=recent[-1]) if recent else before


def _grown(bound: list[str], last: TurnRecord | None) -> list[int]:
    """Return in how many turns the list grew, of how many after the first, with this one."""
    if last is None:
        return [0, 0]
    times, turns = last.get("grown", (0, 0))
    return [times + (bound != last.get("bound")), turns + 1]


def _revealed(record: TurnRecord, last: TurnRecord | None) -> list[Reveal]:
    """Return what was revealed so far, with what this turn adds."""
    before = list(last.get("revealed", [])) if last else []
    known = {name for _, names in before for name in names}
    new = [name for name in record["bound"] if name not in known]
    return [*before, (record["turn"], new)] if new else before


def _told(
    decision: RoutingDecision, bound: Sequence[str], last: TurnRecord | None
) -> dict[str, Any]:
    """Return the decision as plain data, with what became of the list of bound tools."""
    before = last.get("bound", []) if last else []
    kept = list(bound[: len(before)]) == before
    new = len(set(bound).difference(before))
    how = "begins anew" if not kept else f"{new} more" if new else "as before"
    return replace(decision, reason=f"{decision.reason}; {len(bound)} bound, {how}").to_dict()


def _turn_id(messages: Sequence[BaseMessage]) -> str:
    """Return what tells this human turn from others in the conversation."""
    turn = last_turn(messages)
    return "" if not turn else str(turn[0].id or turn[0].text)


def _turn_before(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    earlier = messages[: len(messages) - len(last_turn(messages))]
    return last_turn(earlier) if earlier else ()


def _answered(messages: Iterable[BaseMessage]) -> Iterator[str]:
    """Yield the tools that answered, in order."""
    for message in messages:
        if isinstance(message, ToolMessage) and message.status == "success" and message.name:
            yield message.name
