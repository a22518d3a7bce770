"""A team that answers as one chat model does: a conversation in, one message out, in tokens.

What `RunnableRouter` needs where a decision names a team in place of an LLM.
"""

# ruff: noqa: ARG002  # LangChain passes `run_manager` by its name, needed or not
from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_moma.conversation import RouterInput, messages_in
from langchain_moma.teams.graph import Team

__all__ = ["TEAM_KEY", "Answering"]

TEAM_KEY = "moma_team"
"""Key in an answer's ``response_metadata`` with the team's `TeamRecord`; not in a stream."""


class Answering(Runnable[RouterInput, AIMessage]):
    """Asks a team and gives its answer alone, as a chat model would.

    Args:
        team: From `build`.

    Example:
        >>> from langchain_moma.teams import build
        >>> from langchain_moma.testing import ScriptedChat
        >>> from moma_core import TeamMember, TeamPlan
        >>> plan = TeamPlan("chain", (TeamMember("planner", "a"), TeamMember("writer", "b")))
        >>> llms = {n: ScriptedChat(name=n, reply=lambda m, t, c: "done") for n in ("a", "b")}
        >>> answer = Answering(build(plan, llms)).invoke("write a poem")
        >>> answer.text, answer.response_metadata["moma_team"]["total"]["calls"]
        ('b heard: done', 2)
    """

    def __init__(self, team: Team) -> None:
        self.team = team
        self.name = team.name

    def invoke(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Ask the team."""
        return self._call_with_config(self._invoke, input, config)

    async def ainvoke(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Await the team's answer."""
        return await self._acall_with_config(self._ainvoke, input, config)

    def stream(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessage]:
        """Pass on the tokens of the last word; an answer found before it comes in one chunk."""
        yield from self._transform_stream_with_config(iter([input]), self._stream, config)

    async def astream(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessage]:
        """Pass on the tokens of the last word as they come."""
        chunks = self._atransform_stream_with_config(_one(input), self._astream, config)
        async for chunk in chunks:
            yield chunk

    # The callbacks of this `config` already hang below our own run.
    def _invoke(self, value: RouterInput, run_manager: object, config: RunnableConfig) -> AIMessage:
        return _answer(self.team.invoke({"messages": messages_in(value)}, config))

    async def _ainvoke(
        self, value: RouterInput, run_manager: object, config: RunnableConfig
    ) -> AIMessage:
        return _answer(await self.team.ainvoke({"messages": messages_in(value)}, config))

    def _stream(
        self, values: Iterator[RouterInput], run_manager: object, config: RunnableConfig
    ) -> Iterator[AIMessage]:
        asked: Any = {"messages": messages_in(next(values))}
        for part in self.team.stream(asked, config, stream_mode="messages"):
            yield _chunk(part)

    async def _astream(
        self, values: AsyncIterator[RouterInput], run_manager: object, config: RunnableConfig
    ) -> AsyncIterator[AIMessage]:
        asked: Any = {"messages": messages_in(await anext(values))}
        async for part in self.team.astream(asked, config, stream_mode="messages"):
            yield _chunk(part)


def _answer(end: Any) -> AIMessage:
    answer: AIMessage = end["messages"][-1]
    told = {**answer.response_metadata, TEAM_KEY: end["team"]}
    return answer.model_copy(update={"response_metadata": told})


def _chunk(part: Any) -> AIMessageChunk:
    message: AIMessage = part[0]
    if isinstance(message, AIMessageChunk):
        return message
    return AIMessageChunk(**message.model_dump(exclude={"type"}))


async def _one(value: RouterInput) -> AsyncIterator[RouterInput]:
    yield value
