"""A team that answers as one chat model does: a conversation in, one message out, in tokens."""

# ruff: noqa: ARG002  # every `_prepare` gets a config, needed or not

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_moma.calls import CallRunnable
from langchain_moma.messages import RouterInput, marked, messages_in
from langchain_moma.teams.graph import Team, build, with_options
from moma_core import InvalidInputError, LLMCard, TeamPlan

__all__ = [
    "TEAM_KEY",
    "Answering",
    "team_answer",
]

TEAM_KEY = "moma_team"
"""Key in an answer's ``response_metadata`` with the team's `TeamRecord`; not in a stream."""

_REFUSED = frozenset({"functions", "response_format", "tool_choice", "tools"})


class Answering(CallRunnable, Runnable[RouterInput, AIMessage]):
    """Asks a team and gives its answer alone, as a chat model would.

    Options of a call, such as ``stop``, reach each member's LLM.

    Args:
        team: From `build`.

    Raises:
        InvalidInputError: At a call: it brings tools or a format, which a team does not answer in.

    Example:
        >>> from langchain_moma.teams import build
        >>> from langchain_moma.testing import ScriptedChat
        >>> from moma_core.decision import TeamMember, TeamPlan
        >>> plan = TeamPlan("chain", (TeamMember("planner", "a"), TeamMember("writer", "b")))
        >>> llms = {n: ScriptedChat(name=n, reply=lambda m, t, c: "done") for n in ("a", "b")}
        >>> answer = Answering(build(plan, llms)).invoke("write a poem")
        >>> answer.text, answer.response_metadata["moma_team"]["total"]["calls"]
        ('b heard: done', 2)
    """

    def __init__(self, team: Team) -> None:
        self.team = team
        self.name = team.name

    def _prepare(
        self, value: RouterInput, config: RunnableConfig, options: dict[str, Any]
    ) -> _TeamCall:
        return _TeamCall(self.team, {"messages": messages_in(value)}, _allowed(options))


@dataclass(frozen=True)
class _TeamCall:
    """Asks the team; its stream passes on the tokens of the last word."""

    team: Team
    asked: Any
    options: Mapping[str, Any]

    def invoke(self, config: RunnableConfig) -> AIMessage:
        return _answer(self.team.invoke(self.asked, with_options(config, self.options)))

    async def ainvoke(self, config: RunnableConfig) -> AIMessage:
        return _answer(await self.team.ainvoke(self.asked, with_options(config, self.options)))

    def stream(self, config: RunnableConfig) -> Iterator[AIMessage]:
        config = with_options(config, self.options)
        for part in self.team.stream(self.asked, config, stream_mode="messages"):
            yield _chunk(part)

    async def astream(self, config: RunnableConfig) -> AsyncIterator[AIMessage]:
        config = with_options(config, self.options)
        async for part in self.team.astream(self.asked, config, stream_mode="messages"):
            yield _chunk(part)


def _answer(end: Any) -> AIMessage:
    answer: AIMessage = end["messages"][-1]
    return marked(answer, {TEAM_KEY: end["team"]})


def _chunk(part: Any) -> AIMessageChunk:
    message: AIMessage = part[0]
    if isinstance(message, AIMessageChunk):
        return message
    return AIMessageChunk(**message.model_dump(exclude={"type"}))


def _allowed(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of a call that each member can be called with.

    Raises:
        InvalidInputError: One makes of an answer what no other member could read.
    """
    for name in _REFUSED.intersection(options):
        if options[name]:
            raise InvalidInputError(
                f"a team answers in words, so it takes no {name!r}. Leave it out, or exclude "
                "teams: MoMARouter(..., teams=None). Options such as stop reach every member."
            )
    return {name: value for name, value in options.items() if name not in _REFUSED}


def team_answer(
    plan: TeamPlan, llms: Mapping[str, Any], cards: Iterable[LLMCard] = ()
) -> Answering:
    """Return what takes text or messages and gives the team's answer, as one LLM would.

    Args:
        plan: Who plays which role.
        llms: Chat models by name; others than the plan's may be among them.
        cards: Prices.

    Raises:
        InvalidInputError: An LLM of the plan is no chat model here.

    Example:
        >>> from langchain_moma.testing import ScriptedChat
        >>> from moma_core.decision import TeamMember
        >>> plan = TeamPlan("chain", (TeamMember("planner", "a"), TeamMember("writer", "b")))
        >>> llms = {name: ScriptedChat(name=name, reply=lambda *_: "done") for name in ("a", "b")}
        >>> team_answer(plan, llms).invoke("write a poem").text
        'b heard: done'
    """
    for name in plan.llms:
        if not isinstance(llms.get(name), BaseChatModel):
            raise InvalidInputError(
                f"LLM {name!r} is in a team, so it must be a chat model itself, got "
                f"{type(llms.get(name)).__name__}. Write {{{name!r}: ChatOpenAI(...)}}."
            )
    own = {name: llms[name] for name in plan.llms}
    return Answering(build(plan, own, cards=[card for card in cards if card.name in own]))
