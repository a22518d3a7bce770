"""LLMs for the roles of a multi-agent graph that somebody has already (MasRouter as a plug-in)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from langchain_core.language_models import BaseChatModel
from pydantic import Field, SkipValidation

from langchain_moma.calls import ChatCalls, ChatRequest
from langchain_moma.chat import ChatMoMA
from langchain_moma.decision import check_wish, names_of
from langchain_moma.messages import some_query_of
from langchain_moma.telemetry import Telemetry
from moma_core import (
    Candidate,
    Encoder,
    InvalidInputError,
    LLMRouter,
    MoMARouter,
    Preference,
    RoutingDecision,
    RoutingEncoder,
)
from moma_core.health import Health
from moma_core.types import Cost

__all__ = [
    "HasLLMs",
    "RoleChat",
    "RoleLLMs",
    "RoleShare",
    "assign",
    "role_llms",
]


class RoleShare(NamedTuple):
    """How much a role matters.

    Args:
        weight: Of its LLM's quality.
        calls: How often it is asked for one query.
    """

    weight: float = 1.0
    calls: float = 1.0


class _Raise(NamedTuple):
    """One step up for one role."""

    gain: float
    role: str
    rung: int
    added: float


def assign(
    candidates: Sequence[Candidate], roles: Mapping[str, RoleShare], budget: float
) -> dict[str, Candidate]:
    """Return an LLM for each role.

    Args:
        candidates: The LLMs with predicted quality and USD of one call.
        roles: At least one.
        budget: USD for all calls together. Below the cheapest of all it buys the cheapest.

    Example:
        >>> llms = [Candidate("small", 0.6, 0.001), Candidate("large", 0.9, 0.01)]
        >>> roles = {"coder": RoleShare(2.0), "reviewer": RoleShare(0.5)}
        >>> {role: llm.name for role, llm in assign(llms, roles, 0.012).items()}
        {'coder': 'large', 'reviewer': 'small'}
    """
    rungs = _hull(candidates)
    at = dict.fromkeys(roles, 0)
    left = budget - sum(share.calls for share in roles.values()) * (rungs[0].cost or 0.0)
    # Gains fall along a hull, so sorting keeps each role's steps in order.
    for step in sorted(_raises(rungs, roles), key=lambda step: step.gain, reverse=True):
        if step.added <= left * (1 + 1e-9) and at[step.role] == step.rung - 1:
            at[step.role], left = step.rung, left - step.added
    return {role: rungs[rung] for role, rung in at.items()}


def _hull(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the upper convex hull of quality over cost, the cheapest LLM first."""
    hull: list[Candidate] = []
    for llm in sorted(candidates, key=lambda one: (one.cost or 0.0, -one.score)):
        if hull and llm.score <= hull[-1].score:
            continue
        while len(hull) > 1 and _gain_per_usd(hull[-2], hull[-1]) <= _gain_per_usd(hull[-1], llm):
            hull.pop()
        hull.append(llm)
    return hull


def _gain_per_usd(low: Candidate, high: Candidate) -> float:
    added = (high.cost or 0.0) - (low.cost or 0.0)
    return float("inf") if added <= 0 else (high.score - low.score) / added


def _raises(rungs: Sequence[Candidate], roles: Mapping[str, RoleShare]) -> list[_Raise]:
    return [
        _Raise(
            _gain_per_usd(rungs[i - 1], rungs[i]) * share.weight / share.calls,
            role,
            i,
            ((rungs[i].cost or 0.0) - (rungs[i - 1].cost or 0.0)) * share.calls,
        )
        for role, share in roles.items()
        for i in range(1, len(rungs))
    ]


class HasLLMs(Protocol):
    """A router with an encoder and LLMs: `MoMARouter`, `TeamRouter`."""

    @property
    def encoder(self) -> Encoder:
        """What turns queries into vectors."""

    @property
    def llms(self) -> Any:
        """An `LLMRouter`."""


@dataclass(frozen=True)
class _Roles:
    """Which LLM each role gets for a query; shared by the chat models of all roles."""

    router: MoMARouter
    shares: Mapping[str, RoleShare]

    def assigned(
        self, text: str, preference: str | Preference | None, names: Sequence[str]
    ) -> tuple[dict[str, Candidate], tuple[Candidate, ...]]:
        """Return each role's LLM among ``names``, and the candidates."""
        candidates = self.router.choose_llm(text, names, preference).candidates
        budget = self._budget(preference, candidates[0])
        return assign(candidates, self.shares, budget), candidates

    def _budget(self, preference: str | Preference | None, single: Candidate) -> float:
        """Return the USD for all roles: as given, else what one LLM in all of them would cost."""
        wanted = check_wish(preference)
        if isinstance(wanted, Cost) and wanted.budget is not None:
            return wanted.budget
        return (single.cost or 0.0) * sum(share.calls for share in self.shares.values())


@dataclass(frozen=True)
class _RoleCalls(ChatCalls):
    """Chooses the LLM of one role; fallbacks stay within what that LLM would have cost."""

    role: str = ""
    roles: _Roles = field(kw_only=True)

    def _choose(self, request: ChatRequest, names: Sequence[str]) -> RoutingDecision:
        """Give the role its LLM, or the next best where that one cannot take this call."""
        query = some_query_of(request.messages)
        everyone, candidates = self.roles.assigned(query.text, request.preference, list(self.llms))
        wanted = everyone[self.role]
        ranked = sorted(
            (one for one in candidates if one.name in names), key=lambda one: _after(one, wanted)
        )
        best = ranked[0]
        reason = f"{self.role} gets {best.name!r}: score {best.score:.2f} at ${best.cost or 0:.6f}"
        made = self.router.choose_llm(query, best.name, request.preference)  # what feedback needs
        return replace(made, candidates=tuple(ranked), reason=reason)


def _after(one: Candidate, wanted: Candidate) -> tuple[bool, bool, float]:
    """Order by: the assigned LLM, the best that cost no more, the cheapest of the rest."""
    within = (one.cost or 0.0) <= (wanted.cost or 0.0)
    return one.name != wanted.name, not within, -one.score if within else one.cost or 0.0


class RoleChat(ChatMoMA):
    """The chat model of one role: as `ChatMoMA`, with the LLM that `RoleLLMs` gives this role.

    Args:
        role: Name of the role.
        roles: What the roles share.
    """

    role: str
    roles: SkipValidation[_Roles] = Field(exclude=True, repr=False)

    @property
    def _calls(self) -> ChatCalls:
        return _RoleCalls(
            self.router,
            self.llms,
            self.health,
            self.telemetry,
            surface=self.role,
            fallback_on=self.fallback_on,
            role=self.role,
            roles=self.roles,
        )


class RoleLLMs(Mapping[str, RoleChat]):
    """Chat models by role; see `role_llms`.

    Args:
        chats: By role.
        roles: What they share.
    """

    def __init__(self, chats: Mapping[str, RoleChat], roles: _Roles) -> None:
        self._chats, self._roles = dict(chats), roles

    def __getitem__(self, role: str) -> RoleChat:
        return self._chats[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._chats)

    def __len__(self) -> int:
        return len(self._chats)

    def plan(self, query: str, preference: str | Preference | None = None) -> dict[str, Candidate]:
        """Return the LLM of each role for a query, with predicted quality and USD of one call.

        Args:
            query: The user's words.
            preference: Instead of the one given to `role_llms`.

        Raises:
            InvalidPreferenceError: No such preference.
        """
        chat = next(iter(self._chats.values()))
        wanted = chat.preference if preference is None else preference
        return self._roles.assigned(query, wanted, list(chat.llms))[0]


def role_llms(
    router: LLMRouter | HasLLMs,
    llms: Mapping[str, BaseChatModel],
    roles: Sequence[str] | Mapping[str, float | RoleShare],
    *,
    preference: str | Preference | None = None,
    encoder: Encoder | None = None,
    health: Health | None = None,
    telemetry: Telemetry | None = None,
) -> RoleLLMs:
    """Return a chat model for each role of your own multi-agent graph.

    Each is to be used where the graph used its one LLM: ``create_agent(chats["coder"], tools)``,
    ``chats["reviewer"].invoke(messages)``. It chooses by the last human text; tools, structured
    output, streaming, fallback and circuit breakers are as in `ChatMoMA`.

    Args:
        router: `MoMARouter`, `TeamRouter`, or an `LLMRouter` alone.
        llms: Chat models by the names of the router's LLMs.
        roles: Names; or with a weight each, of how much the role's quality matters; or with a
            `RoleShare`, which also says how often the role is asked.
        preference: With a budget (``"cost:0.01"``), USD a query for all roles together; below the
            cheapest LLM in every role that is what is taken. Otherwise the roles together cost no
            more than the one LLM of this preference would in every role. For one call:
            ``config={"configurable": {"moma_preference": "cost:0.01"}}``.
        encoder: Of a bare `LLMRouter`; by default the packaged one.
        health: Circuit breakers, shared by all roles.
        telemetry: Counters, shared by all roles.

    Raises:
        InvalidInputError: There is no role, a weight is not more than zero, or the router has no
            LLMs.
        UnknownNameError: A chat model's name is not among the router's LLMs.

    Example:
        >>> from langchain_moma.testing import ScriptedChat
        >>> names = ("gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06")
        >>> llms = {name: ScriptedChat(name=name) for name in names}
        >>> weights = {"coder": 4.0, "reviewer": 1.0}
        >>> chats = role_llms(MoMARouter.from_cards(), llms, weights, preference="cost:0.0007")
        >>> {role: llm.name for role, llm in chats.plan("Prove that 17 is prime.").items()}
        {'coder': 'gpt-4o-2024-08-06', 'reviewer': 'gpt-4o-mini-2024-07-18'}
    """
    shares = _shares(roles)
    moma = _moma(router, encoder)
    if moma.llms is None:
        raise InvalidInputError(
            "this router has no LLMs to choose from. Give some: MoMARouter.from_cards(agents, "
            "llms='packaged')."
        )
    shared = _Roles(moma, shares)
    common: dict[str, Any] = {
        "router": moma,
        "llms": llms,
        "preference": preference,
        "health": health or Health(),
        "telemetry": telemetry or Telemetry(),
        "roles": shared,
    }
    return RoleLLMs({role: RoleChat(role=role, **common) for role in shares}, shared)


def _moma(router: LLMRouter | HasLLMs, encoder: Encoder | None) -> MoMARouter:
    if isinstance(router, MoMARouter):
        return router
    if isinstance(router, LLMRouter):
        return MoMARouter.from_cards(llms=router, encoder=encoder or RoutingEncoder())
    return MoMARouter.from_cards(llms=router.llms, encoder=router.encoder)


def _shares(roles: Sequence[str] | Mapping[str, float | RoleShare]) -> dict[str, RoleShare]:
    if isinstance(roles, Mapping):
        named: Mapping[str, Any] = roles
    else:
        named = dict.fromkeys(names_of(roles, "roles"), 1.0)
    shares = {
        role: share if isinstance(share, RoleShare) else RoleShare(share)
        for role, share in named.items()
    }
    if not shares:
        raise InvalidInputError(f"name the roles, got {roles!r}. Write roles=['coder', 'tester'].")
    for role, share in shares.items():
        if not (share.weight > 0 and share.calls > 0):
            raise InvalidInputError(
                f"role {role!r} needs a weight and calls of more than zero, got {share!r}. Leave "
                "out a role that is never asked."
            )
    return shares
