"""MoMAMiddleware: binds the few tools that matter to a turn, and picks the chat model.

The choice is one route of a few milliseconds instead of an LLM call, and it holds: a masked tool
is not executed even when an LLM names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    OmitFromInput,
    ToolCallRequest,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import ToolMessage
from langchain_core.runnables.config import ensure_config
from langgraph.types import Command

from langchain_moma.decisions import (
    adispatch,
    decision_in,
    dispatch,
    excluded_in,
    preference_in,
)
from langchain_moma.delegation import marked
from langchain_moma.fallback import Fallback
from langchain_moma.needs import Needs
from langchain_moma.pool import Ask, ChatPool, Try
from langchain_moma.portable import portable_messages, portable_options, portable_tools
from langchain_moma.registered import check_router
from langchain_moma.shortlist import Shortlist, TurnRecord
from langchain_moma.telemetry import Telemetry
from langchain_moma.vectors import Vectors
from moma_core import Health, InvalidInputError, MoMARouter, Preference, parse_preference

__all__ = ["MoMAAgentState", "MoMAMiddleware"]

_KEY = "moma_turn"


class MoMAAgentState(AgentState[Any]):
    """An agent's state with what was chosen for its current turn.

    ``create_agent`` adds the key by itself; a state schema of one's own extends this class.

    Example:
        >>> class Support(MoMAAgentState):
        ...     ticket: str
        >>> {"messages", "moma_turn", "ticket"} <= set(Support.__annotations__)
        True
    """

    moma_turn: NotRequired[Annotated[TurnRecord, OmitFromInput]]


class MoMAMiddleware(AgentMiddleware[MoMAAgentState, Any, Any]):
    """Chooses tools, and chat model if several are given, for each turn of ``create_agent``.

    Tools that the router knows as agents are masked unless chosen; tools it does not know, and
    provider tools (dicts), are always bound. Tools that answered in the turn before stay. The
    choice lies in the agent's state under ``moma_turn`` as plain data.

    Args:
        router: Knows the tools as agents (`agent_cards_from_tools`), and the LLMs.
        max_tools: Most tools of the router to bind for a turn.
        llms: Chat models by the names of the router's LLMs; None leaves the agent's own.
        preference: As in `ChatMoMA`.
        always: Names of tools that are bound in every turn.
        health: Circuit breakers of ``llms``.
        telemetry: Counters.

    Raises:
        InvalidInputError: ``max_tools`` is less than 1, ``llms`` holds no chat models, or
            ``always`` is one text.
        InvalidPreferenceError: There is no such preference.
        UnknownNameError: A name in ``llms`` is not among the router's LLMs.

    Example:
        >>> from langchain.agents import create_agent
        >>> from langchain_moma import agent_cards_from_tools
        >>> from langchain_moma.testing import ScriptedChat
        >>> def clock(place: str) -> str:
        ...     "Tell the time in a place."
        ...     return "noon"
        >>> def weather(place: str) -> str:
        ...     "Tell the weather in a place."
        ...     return "sunny"
        >>> router = MoMARouter.from_cards(agent_cards_from_tools([clock, weather]), llms=None)
        >>> moma = MoMAMiddleware(router, max_tools=1)
        >>> agent = create_agent(ScriptedChat(), [clock, weather], middleware=[moma])
        >>> end = agent.invoke({"messages": "what is the weather in Oslo?"})
        >>> end["moma_turn"]["tools"], end["messages"][-1].text
        (['weather'], 'scripted heard: sunny')
    """

    state_schema = MoMAAgentState

    def __init__(
        self,
        router: MoMARouter,
        *,
        max_tools: int = 8,
        llms: Mapping[str, BaseChatModel] | None = None,
        preference: str | Preference | None = None,
        always: Collection[str] = (),
        health: Health | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        super().__init__()
        self.router = router
        self.telemetry = telemetry or Telemetry()
        check_router(router)
        vectors = Vectors(router.encoder)
        self._shortlist = Shortlist(router, vectors, max_tools)
        parse_preference(preference)  # a slip shows now, not in the first turn
        self._preference = preference
        if isinstance(always, str):
            raise InvalidInputError(f"always is a list of names, got one text. Write [{always!r}].")
        self._always = frozenset(always)
        self._pool: ChatPool | None = None
        if llms is not None:
            self._pool = ChatPool(
                router, llms, health or Health(), self.telemetry, "agent", vectors
            )
            self._pool.check()

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """Bind the turn's tools, then ask the LLM that is worth its price."""
        turn = self._turn(request)
        if self._is_new(turn, request):
            self._count(turn)
            dispatch(_event(turn), ensure_config())
        request = self._bound(request, turn)
        if self._pool is None:
            return _kept(handler(request), turn)

        def run(chosen: Try) -> ModelResponse[Any]:
            return _marked(handler(_for_llm(request, chosen.llm)), chosen.name)

        asked = Fallback(self._pool, self._ask(request), ensure_config())
        return _kept(asked.call(run), turn)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ExtendedModelResponse[Any]:
        """Do the same without blocking the loop."""
        known = self._shortlist.known(request.messages, _record(request.state))
        turn = await asyncio.to_thread(self._turn, request) if known is None else known
        if self._is_new(turn, request):
            self._count(turn)
            await adispatch(_event(turn), ensure_config())
        request = self._bound(request, turn)
        if self._pool is None:
            return _kept(await handler(request), turn)

        async def run(chosen: Try) -> ModelResponse[Any]:
            return _marked(await handler(_for_llm(request, chosen.llm)), chosen.name)

        asked = Fallback(self._pool, self._ask(request), ensure_config())
        return _kept(await asked.acall(run), turn)

    def wrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]],
    ) -> ToolMessage | Command[Any]:
        """Execute a tool of this turn; answer in place of a masked one."""
        return handler(request) if self._may_run(request) else self._refusal(request)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """Do the same without blocking the loop."""
        return await handler(request) if self._may_run(request) else self._refusal(request)

    def _turn(self, request: ModelRequest[Any]) -> TurnRecord:
        names = {tool.name for tool in request.tools if not isinstance(tool, dict)}
        return self._shortlist.turn(request.messages, names - self._always, _record(request.state))

    def _is_new(self, turn: TurnRecord, request: ModelRequest[Any]) -> bool:
        return turn is not _record(request.state)

    def _count(self, turn: TurnRecord) -> None:
        decision = decision_in(turn)
        if decision is None:
            self.telemetry.unrouted("no tool is enabled and eligible", turn["ms"], "tools")
        else:
            self.telemetry.decided(decision, turn["ms"], "tools")

    def _bound(self, request: ModelRequest[Any], turn: TurnRecord) -> ModelRequest[Any]:
        masked = frozenset(self.router.agents.names).difference(self._always, self._open(turn))
        kept = [tool for tool in request.tools if isinstance(tool, dict) or tool.name not in masked]
        return request.override(tools=kept)

    def _open(self, turn: TurnRecord) -> set[str]:
        agents = self.router.agents
        return {name for name in turn["tools"] if name in agents and agents.get(name).enabled}

    def _is_open(self, name: str, turn: TurnRecord | None) -> bool:
        if name in self._always or name not in self.router.agents:
            return True
        return turn is not None and name in self._open(turn)

    def _ask(self, request: ModelRequest[Any]) -> Ask:
        config = ensure_config()
        options = {
            "tools": request.tools,
            "tool_choice": request.tool_choice,
            "response_format": request.model_settings.get("response_format"),
        }
        structured = request.response_format is not None
        needs = Needs.of(request.messages, options, structured=structured)
        preference = preference_in(config, self._preference)
        return Ask(request.messages, needs, preference, excluded_in(config))

    def _may_run(self, request: ToolCallRequest) -> bool:
        return self._is_open(request.tool_call["name"], _record(request.state))

    def _refusal(self, request: ToolCallRequest) -> ToolMessage:
        name, turn = request.tool_call["name"], _record(request.state)
        self.telemetry.refused(name)
        others = ", ".join(turn["tools"]) if turn is not None else ""
        return ToolMessage(
            content=f"Error: {name} is not available in this turn; available: {others or 'none'}.",
            name=name,
            tool_call_id=request.tool_call["id"],
            status="error",
        )


def _record(state: Any) -> TurnRecord | None:
    found: TurnRecord | None = (
        state.get(_KEY) if isinstance(state, Mapping) else getattr(state, _KEY, None)
    )
    return found


def _event(turn: TurnRecord) -> dict[str, Any]:
    return turn["decision"] or {"kind": "agent", "targets": [], "reason": "no tool fits"}


def _kept(response: ModelResponse[Any], turn: TurnRecord) -> ExtendedModelResponse[Any]:
    return ExtendedModelResponse(response, Command(update={_KEY: turn}))


def _marked(response: ModelResponse[Any], name: str) -> ModelResponse[Any]:
    result = [marked(message, name) for message in response.result]
    return ModelResponse(result=result, structured_response=response.structured_response)


def _for_llm(request: ModelRequest[Any], llm: BaseChatModel) -> ModelRequest[Any]:
    system = request.system_message
    return request.override(
        model=llm,
        messages=portable_messages(request.messages, llm),
        system_message=None if system is None else portable_messages([system], llm)[0],
        tools=portable_tools(request.tools, llm),
        model_settings=portable_options(request.model_settings, llm),
    )
