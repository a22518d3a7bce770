"""MoMAMiddleware: binds the few tools that matter to a turn, and picks the chat model."""

# ruff: noqa: ARG002  # LangChain passes what its callbacks get by name, needed or not

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextvars import Token
from dataclasses import dataclass, replace
from typing import Annotated, Any, NotRequired
from uuid import UUID

from langchain.agents import create_agent
from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    OmitFromInput,
    ToolCallRequest,
)
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import (
    ensure_config,
    merge_configs,
    var_child_runnable_config,
)
from langchain_core.tools import BaseTool
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

from langchain_moma.calls import ChatCalls, ChatRequest, Needs, marked
from langchain_moma.cards import agent_cards_from_tools
from langchain_moma.decision import (
    adispatch,
    check_router,
    check_wish,
    decision_in,
    dispatch,
    excluded_in,
    names_of,
    plain_state,
    preference_in,
    state_in,
)
from langchain_moma.messages import (
    goes_on,
    last_turn,
    some_query_of,
)
from langchain_moma.portable import portable_messages, portable_options, portable_tools
from langchain_moma.telemetry import Telemetry
from moma_core import (
    InvalidInputError,
    MoMARouter,
    Preference,
    Query,
    RoutingDecision,
    RoutingState,
)
from moma_core.fallback import FallbackOn
from moma_core.health import Health
from moma_core.types import Words

__all__ = [
    "MoMAAgentState",
    "MoMAMiddleware",
    "Shortlist",
    "TurnRecord",
    "create_moma_agent",
]


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
        max_tools: Most names to pick.

    Raises:
        InvalidInputError: ``max_tools`` is less than 1.
    """

    router: MoMARouter
    max_tools: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.max_tools, int) or self.max_tools < 1:
            raise InvalidInputError(
                f"max_tools must be a whole number, 1 or more, got {self.max_tools!r}. Write "
                "max_tools=8."
            )

    def turn(
        self,
        messages: Sequence[BaseMessage],
        among: Collection[str],
        last: TurnRecord | None,
        exclude: Collection[str] = (),
    ) -> TurnRecord:
        """Return what may be used in the turn that ``messages`` end with.

        Args:
            messages: The conversation.
            among: Names of the tools at hand; those that are disabled are never picked.
            last: What this returned before; within one turn it stays as it is.
            exclude: Names that may not be picked this time.
        """
        if last is not None and self.is_about(messages, last):
            return last
        start = time.perf_counter()
        known = frozenset(self.router.agents.names).intersection(among).difference(exclude)
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

    def is_about(self, messages: Sequence[BaseMessage], last: TurnRecord) -> bool:
        """Say whether ``last`` was made in the turn that ``messages`` end with."""
        return goes_on(messages) or last.get("turn") == _turn_id(messages)

    def _is_enabled(self, name: str, known: Collection[str]) -> bool:
        return name in known and self.router.agents.get(name).enabled

    def _ranked(
        self, query: Query, before: RoutingState, known: Collection[str]
    ) -> RoutingDecision | None:
        if not known:
            return None
        ranking = self.router.rank(query, self.max_tools, known, state=before)
        if not ranking:
            return None
        names, probability = ranking.names, ranking.best_probability
        fits = "the first fits" if ranking.fits else "perhaps none fits"
        reading = self.router.states.read(query, before)
        topic = reading.next_topic(same_target=before.last_target in (None, names[0]))
        return RoutingDecision(
            kind="agent",
            targets=names,
            probability=probability,
            candidates=ranking.candidates,
            preference="",
            reason=f"{len(names)} of {len(known)} tools; {fits} ({probability:.2f})",
            state=replace(ranking.state, last_target=names[0], topic=topic),
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


_KEY = "moma_turn"
_GIVEN_UP = 32  # failed calls that are remembered, for an outer fallback to ask again


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
        max_latency: As in `ChatMoMA`.
        always: Names of tools that are bound in every turn; a text is one name.
        health: Circuit breakers of ``llms``.
        telemetry: Counters.
        fallback_on: As in `ChatMoMA`.

    Raises:
        InvalidInputError: ``max_tools`` is less than 1, or ``llms`` holds no chat models.
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
        max_latency: float | None = None,
        always: Collection[str] | str = (),
        health: Health | None = None,
        telemetry: Telemetry | None = None,
        fallback_on: FallbackOn | None = None,
    ) -> None:
        super().__init__()
        self.router = router
        self.telemetry = telemetry or Telemetry()
        check_router(router)
        self._shortlist = Shortlist(router, max_tools)
        check_wish(preference, max_latency)
        self._preference, self._max_latency = preference, max_latency
        self._always = frozenset(names_of(always, "always"))
        self._seen = set(router.agents.names)
        self._given_up: deque[tuple[Any, BaseChatModel]] = deque(maxlen=_GIVEN_UP)
        self._calls: ChatCalls | None = None
        if llms is not None:
            self._calls = ChatCalls(
                router, llms, health or Health(), self.telemetry, "agent", fallback_on
            )
            self._calls.check()

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """Bind the turn's tools, then ask the LLM that is worth its price."""
        turn = self._turn(request)
        if self._is_new(turn, request):
            self._count(turn)
            dispatch(_event(turn), ensure_config())
        request = self._bound(request, turn)
        calls = self._calls
        if calls is None or self._is_anothers(request, calls):
            return _kept(handler(request), turn)
        witness = Witness()

        def ask(name: str) -> ModelResponse[Any]:
            with witness:
                return handler(_for_llm(request, calls.llms[name], name))

        try:
            response = calls.call(self._request(request), ask, ensure_config(), witness.marked)
        except Exception:
            self._given_up.append((request.state, request.model))
            raise
        return _kept(response, turn)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ExtendedModelResponse[Any]:
        """Do the same without blocking the loop."""
        last = _record(request.state)
        if last is not None and self._shortlist.is_about(request.messages, last):
            turn = last
        else:
            turn = await asyncio.to_thread(self._turn, request)
        if self._is_new(turn, request):
            self._count(turn)
            await adispatch(_event(turn), ensure_config())
        request = self._bound(request, turn)
        calls = self._calls
        if calls is None or self._is_anothers(request, calls):
            return _kept(await handler(request), turn)
        witness = Witness()

        async def ask(name: str) -> ModelResponse[Any]:
            with witness:
                return await handler(_for_llm(request, calls.llms[name], name))

        asked = self._request(request)
        try:
            response = await calls.acall(asked, ask, ensure_config(), witness.marked)
        except Exception:
            self._given_up.append((request.state, request.model))
            raise
        return _kept(response, turn)

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
        names = {tool.name for tool in request.tools if not isinstance(tool, dict)} - self._always
        out = excluded_in(ensure_config())
        return self._shortlist.turn(request.messages, names, _record(request.state), out)

    def _is_new(self, turn: TurnRecord, request: ModelRequest[Any]) -> bool:
        return turn is not _record(request.state)

    def _count(self, turn: TurnRecord) -> None:
        decision = decision_in(turn)
        if decision is None:
            self.telemetry.unrouted("no tool is enabled and eligible", turn["ms"], "tools")
        else:
            self.telemetry.decided(decision, turn["ms"], "tools")

    def _bound(self, request: ModelRequest[Any], turn: TurnRecord) -> ModelRequest[Any]:
        masked = self._routed().difference(self._always, self._open(turn))
        kept = [tool for tool in request.tools if isinstance(tool, dict) or tool.name not in masked]
        return request.override(tools=kept)

    def _routed(self) -> set[str]:
        """Return the tools that the router decides about; one that it lost stays masked."""
        self._seen.update(self.router.agents.names)
        return self._seen

    def _is_anothers(self, request: ModelRequest[Any], calls: ChatCalls) -> bool:
        """Say whether an outer middleware, once all our LLMs failed, asks one of its own."""
        ours = any(request.model is llm for llm in calls.llms.values())
        return any(
            state is request.state and (model is not request.model or not ours)
            for state, model in list(self._given_up)
        )

    def _open(self, turn: TurnRecord) -> set[str]:
        agents = self.router.agents
        return {name for name in turn["tools"] if name in agents and agents.get(name).enabled}

    def _is_open(self, name: str, turn: TurnRecord | None) -> bool:
        if name in self._always or name not in self._routed():
            return True
        return turn is not None and name in self._open(turn)

    def _request(self, request: ModelRequest[Any]) -> ChatRequest:
        config = ensure_config()
        options = {
            "tools": request.tools,
            "tool_choice": request.tool_choice,
            "response_format": request.model_settings.get("response_format"),
        }
        structured = request.response_format is not None
        system = [] if request.system_message is None else [request.system_message]
        return ChatRequest(
            request.messages,
            Needs.of([*system, *request.messages], options, structured=structured),
            preference_in(config, self._preference),
            excluded_in(config),
            self._max_latency,
        )

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


def _for_llm(request: ModelRequest[Any], llm: BaseChatModel, name: str) -> ModelRequest[Any]:
    system = request.system_message
    return request.override(
        model=llm,
        messages=portable_messages(request.messages, llm, name),
        system_message=None if system is None else portable_messages([system], llm)[0],
        tools=portable_tools(request.tools, llm),
        model_settings=portable_options(request.model_settings, llm),
    )


class Witness(BaseCallbackHandler):
    """Sees whether the LLM that was chosen answers, or one that an inner middleware puts first.

    Example:
        >>> from langchain_moma.testing import ScriptedChat
        >>> with Witness() as witness:
        ...     answer = ScriptedChat().invoke("hi")
        >>> witness.marked(ModelResponse([answer]), {"moma_llm": "a"}).result[0].response_metadata
        {'model_name': 'scripted', 'moma_llm': 'a'}
    """

    run_inline = True

    def __init__(self) -> None:
        self._models: dict[UUID, str] = {}
        self._chosen = self._answered = ""
        self._token: Token[RunnableConfig | None] | None = None

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: Any, *, run_id: UUID, **kwargs: Any
    ) -> None:
        """Note who is asked; the first one is the LLM that was chosen."""
        self._models[run_id] = repr(serialized)
        self._chosen = self._chosen or self._models[run_id]

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Note who answered."""
        self._answered = self._models.get(run_id, "")

    def marked(self, response: ModelResponse[Any], facts: Mapping[str, Any]) -> ModelResponse[Any]:
        """Return the response with ``facts`` on its answers, if the chosen LLM gave them."""
        if self._answered != self._chosen:
            return response
        result = [marked(message, facts) for message in response.result]
        return ModelResponse(result=result, structured_response=response.structured_response)

    def __enter__(self) -> Witness:
        self._chosen = self._answered = ""
        config = merge_configs(ensure_config(), {"callbacks": [self]})
        self._token = var_child_runnable_config.set(config)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            var_child_runnable_config.reset(self._token)


def create_moma_agent(
    llms: BaseChatModel | Mapping[str, BaseChatModel],
    tools: Sequence[BaseTool | Callable[..., Any] | dict[str, Any]],
    *,
    router: MoMARouter | None = None,
    max_tools: int = 8,
    examples: Words | None = None,
    preference: str | Preference | None = None,
    middleware: Sequence[AgentMiddleware[Any, Any, Any]] = (),
    **options: Any,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return an agent that binds, for each turn, only the tools that matter.

    Args:
        llms: One chat model, or several by the names of the router's LLMs.
        tools: Any number of tools, functions, or provider tools (dicts).
        router: Decides; by default one is built from the tools, with the packaged LLMs when
            several chat models are given.
        max_tools: Most tools to bind for a turn.
        examples: Queries that each tool should take, by tool name, for the router built here.
        preference: As in `ChatMoMA`.
        middleware: Further middleware, inside ours.
        **options: As in LangChain's ``create_agent``: ``system_prompt``, ``checkpointer``, ...

    Raises:
        InvalidInputError: ``examples`` are given beside a router.
        InvalidCardError: A tool has no description.
        UnknownNameError: A name in ``llms`` is not among the router's LLMs.

    Example:
        >>> from langchain_moma.testing import ScriptedChat
        >>> def clock(place: str) -> str:
        ...     "Tell the time in a place."
        ...     return "noon"
        >>> def weather(place: str) -> str:
        ...     "Tell the weather in a place."
        ...     return "sunny"
        >>> agent = create_moma_agent(ScriptedChat(), [clock, weather], max_tools=1)
        >>> agent.invoke({"messages": "weather in Oslo?"})["messages"][-1].text
        'scripted heard: sunny'
    """
    several = isinstance(llms, Mapping)
    if router is not None and examples is not None:
        raise InvalidInputError(
            "examples belong to the router that is built here, but one was given. Put them into "
            "its cards: agent_cards_from_tools(tools, examples)."
        )
    if router is None:
        own = [tool for tool in tools if not isinstance(tool, dict)]
        cards = agent_cards_from_tools(own, examples)
        router = MoMARouter.from_cards(cards, llms="packaged" if several else None)
    moma = MoMAMiddleware(
        router,
        max_tools=max_tools,
        llms=llms if isinstance(llms, Mapping) else None,
        preference=preference,
    )
    first = next(iter(llms.values())) if isinstance(llms, Mapping) else llms
    return create_agent(first, tools, middleware=[moma, *middleware], **options)
