"""MoMAMiddleware: binds the few tools that matter to a turn, and picks the chat model."""

# ruff: noqa: ARG002  # LangChain passes what its callbacks get by name, needed or not

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import Token
from dataclasses import replace
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
from langchain_core.messages.ai import UsageMetadata
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import (
    ensure_config,
    merge_configs,
    var_child_runnable_config,
)
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.errors import GraphBubbleUp
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from langchain_moma.allowed_tools import allowed_choice
from langchain_moma.bind_cost import Bind, Prompt, cached_share, tool_tokens
from langchain_moma.calls import ChatCalls, ChatRequest, Needs, router_over
from langchain_moma.cards import Synced, agent_cards_from_tools, sync_agents
from langchain_moma.decision import (
    adispatch,
    check_router,
    check_wish,
    decision_in,
    dispatch,
    excluded_in,
    names_of,
    preference_in,
)
from langchain_moma.deferred_tools import (
    SEARCH,
    declared_tools,
    form_of,
    found_message,
    in_words,
    referenced,
    search_tool,
    searching,
    with_reveals,
)
from langchain_moma.messages import count_tokens, marked
from langchain_moma.portable import portable_messages, portable_options, portable_tools
from langchain_moma.shortlist import Shortlist, TurnRecord
from langchain_moma.telemetry import Telemetry
from langchain_moma.usage import usage_in
from moma_core import (
    InvalidInputError,
    LLMCard,
    MoMARouter,
    Preference,
)
from moma_core.fallback import FallbackOn
from moma_core.health import Health
from moma_core.types import Words, is_text

logger = logging.getLogger("langchain_moma")

__all__ = [
    "MoMAAgentState",
    "MoMAMiddleware",
    "check_is_sync",
    "create_moma_agent",
]


_KEY = "moma_turn"
_NAMED = 5  # names in a warning
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
    provider tools (dicts), are always bound, the former with one warning. Tools that answered in
    the turn before stay. The choice lies in the agent's state under ``moma_turn`` as plain data.

    Definitions of tools stand in front of the prompt, so that a list that changes makes the
    provider write its cache anew. With ``bind="stable"`` the list only grows within a conversation,
    always at its end, and only when the tools that are bound are not likely to do; where it grows
    often and much was said, by more than is needed now. At ``max_bound`` it begins anew with those
    in use.

    Args:
        router: Knows the tools as agents (`agent_cards_from_tools`), and the LLMs.
        max_tools: Most tools of the router to pick for a turn.
        bind: ``"stable"``: what was picked stays bound for the conversation. ``"turn"``: what was
            picked for this turn alone. ``"deferred"``: where the provider can (Anthropic, OpenAI's
            Responses API), those picked are revealed behind the messages, so that nothing cached
            is written anew; elsewhere they are bound as with ``"stable"``. ``"allowed"``: OpenAI's
            LLMs have all tools declared and may call those picked; elsewhere as ``"stable"``.
            ``"fitting"``: what was picked for this turn, and nothing when none fits.
            ``"all"``: every tool that is enabled. ``"auto"``: of these ways the one that is
            expected to cost least (`Prompt`), chosen at a conversation's begin and told in
            ``state["moma_turn"]`` and the decision's reason.
        max_bound: With ``"stable"``: most tools of the router that are bound in a conversation;
            by default as many as OpenAI takes.
        llms: Chat models by the names of the router's LLMs; None leaves the agent's own.
        cards: As in `ChatMoMA`, where the router has agents alone.
        preference: As in `ChatMoMA`.
        max_latency: As in `ChatMoMA`.
        always: Names of tools that are bound in every turn; a text is one name.
        health: Circuit breakers of ``llms``.
        telemetry: Counters.
        fallback_on: As in `ChatMoMA`.

    Raises:
        InvalidInputError: ``max_tools`` is less than 1, there is no such ``bind``, or ``llms``
            holds no chat models.
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
        bind: Bind = "stable",
        max_bound: int = 128,
        llms: Mapping[str, BaseChatModel] | None = None,
        cards: Iterable[LLMCard] = (),
        preference: str | Preference | None = None,
        max_latency: float | None = None,
        always: Collection[str] | str = (),
        health: Health | None = None,
        telemetry: Telemetry | None = None,
        fallback_on: FallbackOn | None = None,
    ) -> None:
        super().__init__()
        check_router(router)
        self.router = router = router if llms is None else router_over(router, llms, cards)
        self.telemetry = telemetry or Telemetry()
        self._shortlist = Shortlist(router, max_tools, bind, max_bound)
        check_wish(preference, max_latency)
        self._preference, self._max_latency = preference, max_latency
        self._always = frozenset(names_of(always, "always"))
        self._declared: set[str] = set()
        if bind in ("deferred", "auto"):
            self.tools = [search_tool()]
            self._always |= {SEARCH}
        self._seen = set(router.agents.names)
        self._warned: set[str] = set()
        self._own: dict[str, dict[str, BaseTool]] = {}  # tools given to `sync`, by source
        self._given_up: deque[tuple[Any, BaseChatModel]] = deque(maxlen=_GIVEN_UP)
        self._calls: ChatCalls | None = None
        if llms is not None:
            self._calls = ChatCalls(
                router, llms, health or Health(), self.telemetry, "agent", fallback_on
            )
            self._calls.check()
        self._shortlist = replace(self._shortlist, cached=self._cached())

    def sync(self, tools: Sequence[BaseTool], *, source: str) -> Synced:
        """Follow a list of tools that changes, such as an MCP server's: bind and run what is new.

        From the next model call on, tools that are gone from the list are neither bound nor run,
        and those that are new need not have been given to ``create_agent``.

        Args:
            tools: The list as it is now.
            source: Where it comes from; tools of other sources are left alone.

        Returns:
            What changed.

        Raises:
            DuplicateNameError: A tool of another source has such a name.

        Example:
            >>> from langchain_core.tools import StructuredTool
            >>> clock = StructuredTool.from_function(lambda: 1, name="clock", description="Time")
            >>> moma = MoMAMiddleware(MoMARouter.from_cards(llms=None))
            >>> moma.sync([clock], source="home").added
            ('clock',)
        """
        done = sync_agents(self.router.agents, agent_cards_from_tools(tools), source=source)
        self._seen.update(done.removed)
        self._own = {**self._own, source: {tool.name: tool for tool in tools}}
        return done

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """Bind the turn's tools, then ask the LLM that is worth its price."""
        request = self._with_own(request)
        turn = self._turn(request)
        if self._is_new(turn, request):
            self._count(turn)
            dispatch(_event(turn), ensure_config())
        calls = self._calls
        if calls is None or self._is_anothers(request, calls):
            return _kept(handler(self._bound(request, turn, request.model)), turn)
        witness = Witness()

        def ask(name: str) -> ModelResponse[Any]:
            llm = calls.llms[name]
            with witness:
                return handler(_for_llm(self._bound(request, turn, llm), llm, name))

        try:
            asked = self._request(self._bound(request, turn))
            response = calls.call(asked, ask, ensure_config(), witness.marked, witness.usage)
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
        request, last = self._with_own(request), _record(request.state)
        if last is not None and self._shortlist.is_about(request.messages, last):
            turn = last
        else:
            turn = await asyncio.to_thread(self._turn, request)
        if self._is_new(turn, request):
            self._count(turn)
            await adispatch(_event(turn), ensure_config())
        calls = self._calls
        if calls is None or self._is_anothers(request, calls):
            return _kept(await handler(self._bound(request, turn, request.model)), turn)
        witness = Witness()

        async def ask(name: str) -> ModelResponse[Any]:
            llm = calls.llms[name]
            with witness:
                return await handler(_for_llm(self._bound(request, turn, llm), llm, name))

        asked = self._request(self._bound(request, turn))
        try:
            response = await calls.acall(asked, ask, ensure_config(), witness.marked, witness.usage)
        except Exception:
            self._given_up.append((request.state, request.model))
            raise
        return _kept(response, turn)

    def wrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]],
    ) -> ToolMessage | Command[Any]:
        """Execute a tool of this turn; answer in place of a masked one.

        Raises:
            InvalidInputError: It can only be awaited.
        """
        if not self._may_run(request):
            return self._refusal(request)
        if self._is_search(request):
            return self._found(request)
        request = self._own_tool(request)
        check_is_sync(request.tool)
        with self._watched(request):
            return handler(request)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """Do the same without blocking the loop."""
        if not self._may_run(request):
            return self._refusal(request)
        if self._is_search(request):
            return await asyncio.to_thread(self._found, request)
        with self._watched(request):
            return await handler(self._own_tool(request))

    def _is_search(self, request: ToolCallRequest) -> bool:
        turn = _record(request.state)
        way = self._shortlist.bind if turn is None else self._way(turn)
        return way in ("deferred", "auto") and request.tool_call["name"] == SEARCH

    def _found(self, request: ToolCallRequest) -> ToolMessage:
        """Answer the LLM's own search for tools."""
        turn, query = _record(request.state), request.tool_call["args"].get("query")
        among = self._declared.intersection(self.router.agents.names)
        state = None if turn is None else turn["state"]
        found = self._shortlist.found(query, state, sorted(among)) if is_text(query) else []
        return found_message(found, str(request.tool_call["id"]))

    def _watched(self, request: ToolCallRequest) -> AbstractContextManager[None]:
        """Tell the router's health whether a tool fails, as one of a dead server does."""
        name = request.tool_call["name"]
        if name not in self.router.agents:
            return nullcontext()
        return self.router.health.attempt(name, passing=(GraphBubbleUp,))

    def _with_own(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """Add the tools that `sync` was given, in place of those of the same names."""
        own = {name: tool for tools in self._own.values() for name, tool in tools.items()}
        if not own:
            return request
        here = [
            tool if isinstance(tool, dict) else own.pop(tool.name, tool) for tool in request.tools
        ]
        return request.override(tools=[*here, *own.values()])

    def _own_tool(self, request: ToolCallRequest) -> ToolCallRequest:
        name = request.tool_call["name"]
        mine = next((tools[name] for tools in self._own.values() if name in tools), None)
        return request if mine is None else request.override(tool=mine)

    def _turn(self, request: ModelRequest[Any]) -> TurnRecord:
        given = (tool for tool in request.tools if not isinstance(tool, dict))
        tools = {tool.name: tool for tool in given if tool.name not in self._always}
        out, last = excluded_in(ensure_config()), _record(request.state)
        if self._shortlist.bind != "auto":
            return self._shortlist.turn(request.messages, tools, last, out)
        if last is not None and "bind" in last:
            way, costs = last["bind"], last.get("costs", {})
        else:
            way, costs = self._cheapest(request, list(tools))
        turn = replace(self._shortlist, bind=way).turn(request.messages, tools, last, out)
        if turn is not last:
            turn["bind"], turn["costs"] = way, costs
            if turn["decision"] is not None:
                told = f"{turn['decision']['reason']}; {way} costs least"
                turn["decision"] = {**turn["decision"], "reason": told}
        return turn

    def _cheapest(
        self, request: ModelRequest[Any], names: Sequence[str]
    ) -> tuple[Bind, dict[Bind, float]]:
        """Return the way of binding that is expected to cost least, and what each costs."""
        agents, calls = self.router.agents, self._calls
        known = [name for name in names if self._is_on(name)]
        asked = [request.model] if calls is None else list(calls.llms.values())
        system = [] if request.system_message is None else [request.system_message]
        prompt = Prompt(
            tool_tokens(agents.get(name) for name in known),
            len(known),
            self._shortlist.max_tools,
            count_tokens([*system, *request.messages]),
            self._cached(),
        )
        restricts = all(allowed_choice(llm, request, request.tools) for llm in asked)
        ways: dict[Bind, Bind] = {"allowed" if restricts else "all": "all"}
        if all(form_of(llm) for llm in asked):
            ways["deferred"] = "deferred"
        return prompt.cheapest({**ways, "stable": "stable", "turn": "turn"})

    def _cached(self) -> float:
        """Return the price of a cached token, of one that is not, of the LLMs that are asked."""
        pool, llms = self.router.llms, self._calls.llms if self._calls else ()
        return cached_share(card for card in (pool.cards if pool else ()) if card.name in llms)

    def _way(self, turn: TurnRecord) -> Bind:
        return turn.get("bind", self._shortlist.bind)

    def _is_new(self, turn: TurnRecord, request: ModelRequest[Any]) -> bool:
        return turn is not _record(request.state)

    def _count(self, turn: TurnRecord) -> None:
        decision = decision_in(turn)
        if decision is None:
            self.telemetry.unrouted("no tool is enabled and eligible", turn["ms"], "tools")
        else:
            self.telemetry.decided(decision, turn["ms"], "tools")

    def _bound(
        self, request: ModelRequest[Any], turn: TurnRecord, reader: BaseChatModel | None = None
    ) -> ModelRequest[Any]:
        """Bind what nobody routes, then the router's tools in the order in which they came."""
        routed = self._routed() - self._always
        fixed: list[BaseTool | dict[str, Any]] = []
        mine: dict[str, BaseTool] = {}
        for tool in request.tools:
            if isinstance(tool, dict) or tool.name not in routed:
                fixed.append(tool)
            else:
                mine[tool.name] = tool
        self._warn({tool.name for tool in fixed if not isinstance(tool, dict)} - self._always)
        self._declared.update(mine)
        opened = [mine[n] for n in self._open(turn, request.messages) if n in mine]
        way = self._way(turn)
        if way != "deferred" and self._shortlist.bind == "auto":
            fixed = [t for t in fixed if isinstance(t, dict) or t.name != SEARCH]
        if way == "allowed" and reader is not None:
            choice = allowed_choice(reader, request, [*fixed, *opened])
            if choice is not None:
                declared = (tool for name, tool in mine.items() if self._is_on(name))
                return request.override(tools=[*fixed, *declared], tool_choice=choice)
        if way != "deferred":
            return request.override(tools=[*fixed, *opened])
        form = None if reader is None else form_of(reader)
        if form is None:
            return request.override(tools=[*fixed, *opened], messages=in_words(request.messages))
        enabled = {name: tool for name, tool in mine.items() if self._is_on(name)}
        shown = with_reveals(request.messages, turn.get("revealed", []), enabled, form)
        tools = declared_tools(fixed, enabled.values(), form)
        return request.override(tools=tools, messages=shown)

    def _warn(self, unknown: set[str]) -> None:
        """Say once which tools are bound in every turn because the router does not know them."""
        new = sorted(unknown - self._warned)
        self._warned.update(new)
        if new:
            logger.warning(
                "the router does not know %d tools, so they are bound in every turn: %s. Register "
                "them: router.agents.add(*agent_cards_from_tools(tools)), or say always=[names].",
                len(new),
                ", ".join(new[:_NAMED]) + (", ..." if len(new) > _NAMED else ""),
            )

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

    def _open(self, turn: TurnRecord, messages: Sequence[BaseMessage]) -> list[str]:
        """Return what may be run now, in the order in which it is bound."""
        bound = turn.get("bound", turn["tools"])
        revealed = [name for _, names in turn.get("revealed", []) for name in names]
        found = referenced(messages) if self._way(turn) == "deferred" else []
        picked = turn["tools"] if self._way(turn) == "allowed" else []
        names = dict.fromkeys([*bound, *revealed, *found, *picked])
        return [name for name in names if self._is_on(name)]

    def _is_on(self, name: str) -> bool:
        agents = self.router.agents
        return name in agents and agents.get(name).enabled

    def _is_open(self, request: ToolCallRequest, turn: TurnRecord | None) -> bool:
        name = request.tool_call["name"]
        if name in self._always or name not in self._routed():
            return True
        return turn is not None and name in self._open(turn, _messages(request))

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
        return self._is_open(request, _record(request.state))

    def _refusal(self, request: ToolCallRequest) -> ToolMessage:
        name, turn = request.tool_call["name"], _record(request.state)
        self.telemetry.refused(name)
        opened = self._open(turn, _messages(request)) if turn is not None else ()
        others = ", ".join(opened)
        return ToolMessage(
            content=f"Error: {name} is not available in this turn; available: {others or 'none'}.",
            name=name,
            tool_call_id=request.tool_call["id"],
            status="error",
        )


def _messages(request: ToolCallRequest) -> Sequence[BaseMessage]:
    state = request.state
    found: Sequence[BaseMessage] = (
        state.get("messages", ()) if isinstance(state, Mapping) else getattr(state, "messages", ())
    )
    return found


def _record(state: Any) -> TurnRecord | None:
    found: TurnRecord | None = (
        state.get(_KEY) if isinstance(state, Mapping) else getattr(state, _KEY, None)
    )
    return found


def _event(turn: TurnRecord) -> dict[str, Any]:
    return turn["decision"] or {"kind": "agent", "targets": [], "reason": "no tool fits"}


def _kept(response: ModelResponse[Any], turn: TurnRecord) -> ExtendedModelResponse[Any]:
    heard = replace(response, result=[searching(message) for message in response.result])
    return ExtendedModelResponse(heard, Command(update={_KEY: turn}))


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

    def usage(self, response: ModelResponse[Any]) -> UsageMetadata | None:
        """Return the tokens of the response, if the chosen LLM gave it."""
        used: UsageMetadata | None = None
        for message in response.result if self._answered == self._chosen else ():
            used = usage_in(message, used)
        return used

    def __enter__(self) -> Witness:
        self._chosen = self._answered = ""
        config = merge_configs(ensure_config(), {"callbacks": [self]})
        self._token = var_child_runnable_config.set(config)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            var_child_runnable_config.reset(self._token)


def check_is_sync(tool: BaseTool | None) -> None:
    """Refuse to run what can only be awaited, such as a tool of an MCP server.

    Raises:
        InvalidInputError: It has no sync form.
    """
    if isinstance(tool, StructuredTool) and tool.func is None and tool.coroutine is not None:
        raise InvalidInputError(
            f"tool {tool.name!r} can only be awaited, as tools of MCP servers can. Write await "
            "agent.ainvoke(...) or agent.astream(...), or asyncio.run(agent.ainvoke(...))."
        )


def create_moma_agent(
    llms: BaseChatModel | Mapping[str, BaseChatModel],
    tools: Sequence[BaseTool | Callable[..., Any] | dict[str, Any]],
    *,
    router: MoMARouter | None = None,
    max_tools: int = 8,
    bind: Bind = "stable",
    examples: Words | None = None,
    cards: Iterable[LLMCard] = (),
    preference: str | Preference | None = None,
    middleware: Sequence[AgentMiddleware[Any, Any, Any]] = (),
    **options: Any,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return an agent that binds, for each turn, only the tools that matter.

    Args:
        llms: One chat model, or several by the names of the router's LLMs.
        tools: Any number of tools, functions, or provider tools (dicts).
        router: Decides; by default one is built from the tools.
        cards: As in `MoMAMiddleware`.
        max_tools: Most tools to pick for a turn.
        bind: As in `MoMAMiddleware`.
        examples: Queries that each tool should take, by tool name, for the router built here.
        preference: As in `ChatMoMA`.
        middleware: Further middleware, inside ours.
        **options: As in LangChain's ``create_agent``: ``system_prompt``, ``checkpointer``, ...

    Raises:
        InvalidInputError: ``examples`` are given beside a router.
        InvalidCardError: A function has no docstring.
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
    if router is not None and examples is not None:
        raise InvalidInputError(
            "examples belong to the router that is built here, but one was given. Put them into "
            "its cards: agent_cards_from_tools(tools, examples)."
        )
    if router is None:
        own = [tool for tool in tools if not isinstance(tool, dict)]
        router = MoMARouter.from_cards(agent_cards_from_tools(own, examples), llms=None)
    moma = MoMAMiddleware(
        router,
        max_tools=max_tools,
        bind=bind,
        llms=llms if isinstance(llms, Mapping) else None,
        cards=cards,
        preference=preference,
    )
    first = next(iter(llms.values())) if isinstance(llms, Mapping) else llms
    return create_agent(first, tools, middleware=[moma, *middleware], **options)
