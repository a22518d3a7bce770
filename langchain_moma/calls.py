"""Chat models under the names of a router's LLMs: which to try for a call, in which order.

One decision gives the whole order, so a fallback costs no second route. Calls nobody.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langgraph.errors import GraphBubbleUp

from langchain_moma.conversation import last_turn, some_query_of
from langchain_moma.needs import Needs
from langchain_moma.registered import check_registered, check_router, llm_names
from langchain_moma.telemetry import Telemetry
from langchain_moma.vectors import Vectors
from moma_core import (
    Health,
    InvalidInputError,
    MoMARouter,
    NoTargetError,
    Preference,
    RoutingDecision,
    RoutingState,
    parse_preference,
    preference_name,
)

__all__ = ["LLM_KEY", "Ask", "ChatPool", "Try"]

LLM_KEY = "moma_llm"
"""Key in an answer's ``response_metadata`` with the name of the LLM that gave it."""


@dataclass(frozen=True)
class Ask:
    """One call: what is asked, and what the answer needs.

    Args:
        messages: The conversation.
        needs: What whoever answers must be able to do.
        preference: As in `MoMARouter.route`.
        exclude: Names that may not be chosen this time.
    """

    messages: Sequence[BaseMessage]
    needs: Needs = field(default_factory=Needs)
    preference: str | Preference | None = None
    exclude: frozenset[str] = frozenset()


class Try(NamedTuple):
    """One LLM to ask, and the decision when it is a fresh one."""

    name: str
    llm: BaseChatModel
    decision: RoutingDecision | None


@dataclass(frozen=True)
class ChatPool:
    """Chat models that a router chooses among.

    Args:
        router: Decides; its agents are left out.
        llms: Chat models by the names of the router's LLMs.
        health: Which of them have been failing.
        telemetry: Receives decisions and failures.
        surface: Who asks, for the log.
        vectors: Encodes queries; None lets the router do so.

    Raises:
        InvalidInputError: There is no chat model, or something else in its place.
        UnknownNameError: A name is not among the router's LLMs.
    """

    router: MoMARouter
    llms: Mapping[str, BaseChatModel]
    health: Health = field(default_factory=Health)
    telemetry: Telemetry = field(default_factory=Telemetry)
    surface: str = "chat"
    vectors: Vectors | None = None

    def check(self) -> None:
        """Refuse names and objects that could never answer."""
        check_router(self.router)
        if not self.llms or not isinstance(self.llms, Mapping):
            raise InvalidInputError(
                "llms are chat models by name, at least one: llms={'name': ChatOpenAI(...)}; got "
                f"{self.llms!r:.60}."
            )
        for name, llm in self.llms.items():
            if not isinstance(llm, BaseChatModel):
                raise InvalidInputError(
                    f"LLM {name!r} must be a chat model, got {type(llm).__name__}. Give the chat "
                    "model itself; options go to its constructor, retries and fallbacks are ours."
                )
        check_registered(self.router, self.llms, agents=False)

    def attempt(self, name: str) -> AbstractContextManager[None]:
        """Tell the circuit breaker of ``name`` how the body ends; an interrupt counts as nothing.

        LangGraph's interrupts and commands pass as exceptions, but no LLM failed by them.
        """
        return self.health.attempt(name, passing=(GraphBubbleUp,))

    def tries(self, ask: Ask) -> Iterator[Try]:
        """Yield the LLMs to ask, best first; the one that began a tool-calling turn leads.

        Raises:
            NoTargetError: No LLM can do what the call needs.
        """
        lead = self._lead(ask)
        if lead is not None:
            yield Try(lead, self.llms[lead], None)
        passed = ask if lead is None else replace(ask, exclude=ask.exclude | {lead})
        if lead is not None and not self.eligible(passed):
            return
        decision = self.decide(passed)
        yield Try(decision.target, self.llms[decision.target], decision)
        names = [c.name for c in decision.candidates if c.name != decision.target]
        last = [name for name in self.eligible(passed) if name not in (decision.target, *names)]
        for name in (*names, *last):
            yield Try(name, self.llms[name], None)

    def decide(self, ask: Ask) -> RoutingDecision:
        """Route among the LLMs that can do what the call needs, failing ones left out if possible.

        Raises:
            NoTargetError: There is none.
        """
        eligible = self.eligible(ask)
        if not eligible:
            raise NoTargetError(self._why_nobody(ask))
        well = [name for name in eligible if not self.health.is_open(name)] or eligible
        out = {*self.router.agents.names, *llm_names(self.router)}.difference(well)
        start = time.perf_counter()
        query = some_query_of(ask.messages)
        if self.vectors is None:
            decision = _alone(self.router.route(query, ask.preference, exclude=out))
        else:
            text = self.router.states.read(query, RoutingState()).whole
            decision = self._among_llms(text, ask.preference, out)
        self.telemetry.decided(decision, (time.perf_counter() - start) * 1e3, self.surface)
        return decision

    def _among_llms(
        self, text: str, preference: str | Preference | None, out: Collection[str]
    ) -> RoutingDecision:
        """Choose as the router does once no agent fits, without encoding the query again."""
        llms, vectors = self.router.llms, self.vectors
        if llms is None or vectors is None:
            raise NoTargetError("this router has no LLMs. Give some: from_cards(llms='packaged').")
        table = llms.score(text, vectors.of(text))
        name, candidates = llms.select(table, preference, out)
        best = candidates[0]
        label = preference_name(parse_preference(preference))
        reason = f"{label} picks {name!r}: score {best.score:.2f} at ${best.cost or 0:.6f}"
        return RoutingDecision(
            "llm", (name,), best.score, candidates, label, reason, cost=best.cost
        )

    def eligible(self, ask: Ask) -> list[str]:
        """Return the names that can do what the call needs and may be chosen."""
        left = (name for name in self.llms if name not in ask.exclude)
        return [name for name in left if self._lacking(name, ask.needs) is None]

    def _lacking(self, name: str, needs: Needs) -> str | None:
        known = self.router.llms.cards if self.router.llms is not None else ()
        card = next((card for card in known if card.name == name), None)
        return needs.lacking(self.llms[name], card)

    def _lead(self, ask: Ask) -> str | None:
        """Return who began the tool calls of this turn, if it may and can go on."""
        name = turn_llm(ask.messages, self.llms)
        if name is None or self.health.is_open(name) or name not in self.eligible(ask):
            return None
        return name

    def _why_nobody(self, ask: Ask) -> str:
        reasons = (
            f"{name!r} "
            + ("is excluded" if name in ask.exclude else f"lacks {self._lacking(name, ask.needs)}")
            for name in self.llms
        )
        return (
            f"no LLM can take this call: {'; '.join(reasons)}. Add one that can, or correct its "
            "profile or LLMCard."
        )


def _alone(decision: RoutingDecision) -> RoutingDecision:
    """Return the decision for one LLM that a router with teams would otherwise have made."""
    if decision.team is None:
        return decision
    best = decision.candidates[0]
    return replace(
        decision,
        kind="llm",
        targets=(best.name,),
        probability=best.score,
        cost=best.cost,
        team=None,
        reason=f"{best.name!r} is the best LLM for a call that one LLM answers",
    )


def turn_llm(messages: Sequence[BaseMessage], names: Collection[str]) -> str | None:
    """Return the LLM whose tool calls are being worked on at the end of ``messages``."""
    for message in reversed(last_turn(messages)):
        if isinstance(message, AIMessage) and message.tool_calls:
            name: Any = message.response_metadata.get(LLM_KEY)
            return name if name in names else None
    return None
