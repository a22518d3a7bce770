"""A Runnable that first routes, then hands the call to what was chosen."""

# ruff: noqa: ARG002  # LangChain passes input and config by name, needed or not

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from langchain_core.language_models import BaseChatModel, BaseLanguageModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import (
    ConfigurableFieldSpec,
    Runnable,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import (
    RunnableBindingBase,
    RunnableSerializable,
    coerce_to_runnable,
)
from langchain_core.runnables.graph import Graph
from langchain_core.runnables.utils import AddableDict, get_unique_config_specs
from langchain_core.tools import BaseTool
from langgraph.pregel import Pregel
from pydantic import ConfigDict, Field, SkipValidation

from langchain_moma.calls import CallRunnable, by_room, tokens_of, window_of
from langchain_moma.cards import input_schema_of
from langchain_moma.decision import (
    EXCLUDE,
    PREFERENCE,
    adispatch,
    check_registered,
    check_wish,
    dispatch,
    excluded_in,
    preference_in,
    refuse_without_llms,
    unreachable,
)
from langchain_moma.first_answer import FirstAnswer
from langchain_moma.messages import (
    TEXT_KEYS,
    RouterInput,
    is_wordless,
    last_turn,
    messages_in,
    query_of,
    some_query_of,
)
from langchain_moma.portable import portable_messages
from langchain_moma.teams.answering import team_answer
from langchain_moma.telemetry import Telemetry
from moma_core import (
    InvalidInputError,
    LLMCard,
    MoMARouter,
    NoTargetError,
    Preference,
    RoutingDecision,
    UnknownNameError,
)
from moma_core.errors import InvalidQueryError
from moma_core.fallback import FallbackOn, check_fallback_on
from moma_core.health import Health

__all__ = [
    "Arguments",
    "InOrder",
    "RunnableRouter",
    "Several",
    "Targets",
    "ToolArgumentsError",
    "at_once",
    "check_several",
    "filled_by",
    "input_for",
    "is_graph",
    "with_answers",
]

Read = Callable[[str], Mapping[str, Any]]
Arguments = Read | BaseChatModel
"""Reads a tool's arguments out of the user's words: a function, or an LLM that calls the tool."""


class ToolArgumentsError(InvalidInputError):
    """A tool needs arguments that nobody reads out of the query.

    Example:
        >>> from langchain_core.tools import tool
        >>> @tool
        ... def add(left: int, right: int) -> int:
        ...     "Add two numbers."
        ...     return left + right
        >>> Targets({"add": add})
        Traceback (most recent call last):
        langchain_moma.runnable.ToolArgumentsError: tool 'add' needs {'left': ..., ...}, ...
    """


class Targets(Mapping[str, Runnable[Any, Any]]):
    """Names and the Runnables behind them; immutable, checked once.

    Args:
        runnables: Runnables, tools, chat models, compiled graphs, or plain functions of one value.
        arguments: For tools with several arguments: how to read them out of the query's text, by
            name; or one LLM that fills in those of all such tools.

    Raises:
        InvalidInputError: There is no target, one cannot be run, or an LLM cannot call tools.
        ToolArgumentsError: A tool needs more than one text and has no entry in ``arguments``.
    """

    def __init__(
        self,
        runnables: Mapping[str, Any],
        arguments: Mapping[str, Arguments] | BaseChatModel | None = None,
    ) -> None:
        if not runnables or not isinstance(runnables, Mapping):
            raise InvalidInputError(
                "targets are what runs under each name, at least one: "
                f"targets={{'weather': weather_tool}}; got {runnables!r:.60}."
            )
        self._runnables: dict[str, Runnable[Any, Any]] = {
            name: _runnable(name, item) for name, item in runnables.items()
        }
        given = {} if isinstance(arguments, BaseChatModel) else dict(arguments or {})
        self._arguments: dict[str, Read] = {
            n: each for n, each in given.items() if not isinstance(each, BaseChatModel)
        }
        for name, runnable in self._runnables.items():
            bare = _bare(runnable)
            if not isinstance(bare, BaseTool) or name in self._arguments:
                continue
            by = given.get(name, arguments)
            if isinstance(by, BaseChatModel) and (name in given or not _takes_text(bare, name)):
                self._runnables[name] = filled_by(by, runnable, bare)
            else:
                _text_argument(bare, name)

    def __getitem__(self, name: str) -> Runnable[Any, Any]:
        return self._runnables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._runnables)

    def __len__(self) -> int:
        return len(self._runnables)

    def input_for(self, name: str, value: RouterInput) -> Any:
        """Return what the target ``name`` takes, made from what the router was given."""
        made = input_for(self._runnables[name], value, self._arguments.get(name))
        llm = _bare(self._runnables[name])
        if isinstance(llm, BaseChatModel) and isinstance(made, list):
            return portable_messages(made, llm, name)
        return made

    def windows(self, cards: Iterable[LLMCard]) -> dict[str, int | None]:
        """Return the context windows of chat models, where known."""
        known = {card.name: card for card in cards}
        bare = {name: _bare(runnable) for name, runnable in self._runnables.items()}
        return {
            name: window_of(llm, known.get(name))
            for name, llm in bare.items()
            if isinstance(llm, BaseChatModel)
        }


def input_for(
    runnable: Runnable[Any, Any], value: RouterInput, arguments: Read | None = None
) -> Any:
    """Return what ``runnable`` takes, made from what the router was given.

    Example:
        >>> from langchain_core.tools import tool
        >>> @tool
        ... def shout(text: str) -> str:
        ...     "Put text in capitals."
        ...     return text.upper()
        >>> input_for(shout, [("human", "hello")])
        {'text': 'hello'}
    """
    bare = _bare(runnable)
    if isinstance(bare, BaseTool):
        return _tool_arguments(bare, query_of(value).text, arguments)
    if isinstance(bare, BaseLanguageModel) and not isinstance(value, str | PromptValue):
        return messages_in(value)
    if isinstance(bare, Pregel) and "messages" in bare.channels and not _is_state(value):
        return {"messages": messages_in(value)}
    return value


def filled_by(
    llm: BaseChatModel, runnable: Runnable[Any, Any], tool: BaseTool
) -> Runnable[Any, Any]:
    """Return what has an LLM call a tool on the conversation, and then runs it.

    Raises:
        InvalidInputError: The LLM cannot call tools.
    """
    try:
        asked = llm.bind_tools([tool], tool_choice=tool.name)
    except NotImplementedError as error:
        raise InvalidInputError(
            f"{type(llm).__name__} cannot call tools, so it cannot fill in arguments. Give "
            "arguments= a chat model that can, or a function."
        ) from error

    def read(answer: AIMessage) -> dict[str, Any]:
        for call in answer.tool_calls:
            if call["name"] == tool.name:
                return call["args"]
        raise ToolArgumentsError(
            f"the LLM that was to fill in {_shape(tool)} for tool {tool.name!r} did not call it; "
            f"it said {str(answer.text)!r:.80}. Give arguments= another LLM, or a function."
        )

    return RunnableLambda(messages_in) | asked | read | runnable


def is_graph(runnable: Any) -> bool:
    """Say whether ``runnable`` is a compiled graph, also where options are bound to it."""
    return isinstance(_bare(runnable), Pregel)


def _is_state(value: RouterInput) -> bool:
    return isinstance(value, Mapping) and "messages" in value


def _runnable(name: str, item: Any) -> Runnable[Any, Any]:
    try:
        runnable: Runnable[Any, Any] = coerce_to_runnable(item)
    except TypeError as error:
        raise InvalidInputError(
            f"target {name!r} must be a Runnable, chat model, tool, compiled graph or function, "
            f"got {type(item).__name__}. Write targets={{{name!r}: lambda text: ...}}."
        ) from error
    return runnable


def _bare(runnable: Any) -> Any:
    """Look through bind(), with_config(), with_retry() and with_fallbacks()."""
    while True:
        if isinstance(runnable, RunnableBindingBase):
            runnable = runnable.bound
        elif isinstance(runnable, RunnableWithFallbacks):
            runnable = runnable.runnable
        else:
            return runnable


def _tool_arguments(tool: BaseTool, text: str, arguments: Read | None) -> dict[str, Any]:
    if arguments is None:
        return {_text_argument(tool, tool.name): text}
    found: object = arguments(text)
    if not isinstance(found, Mapping):
        raise ToolArgumentsError(
            f"the reader of arguments for tool {tool.name!r} must return a dict such as "
            f"{_shape(tool)}, got {type(found).__name__}."
        )
    return dict(found)


def _text_argument(tool: BaseTool, name: str) -> str:
    """Return the name of the one argument that can take the user's words."""
    schema = input_schema_of(tool)
    properties: Mapping[str, Any] = schema.get("properties", {})
    names = list(schema.get("required", ())) or list(properties)
    if len(names) == 1 and properties[names[0]].get("type", "string") == "string":
        return str(names[0])
    raise ToolArgumentsError(
        f"tool {name!r} needs {_shape(tool)}, which plain text cannot fill. Give an LLM that "
        f"fills it in: arguments=chat_model, or say how to read it: arguments={{{name!r}: lambda "
        f"text: {_shape(tool)}}}."
    )


def _takes_text(tool: BaseTool, name: str) -> bool:
    try:
        return bool(_text_argument(tool, name))
    except ToolArgumentsError:
        return False


def _shape(tool: BaseTool) -> str:
    properties: Mapping[str, Any] = input_schema_of(tool).get("properties", {})
    return "{" + ", ".join(f"{name!r}: ..." for name in properties) + "}"


Several = Literal["first", "parallel", "in_order"]
"""What to do with a decision for several agents."""


def check_several(several: str, allowed: Sequence[str] = get_args(Several)) -> None:
    """Refuse a word that says nothing here.

    Raises:
        InvalidInputError: It is none of ``allowed``.
    """
    if several not in allowed:
        raise InvalidInputError(
            f"several is one of {', '.join(map(repr, allowed))}, got {several!r}. "
            f"Write several={allowed[-1]!r}."
        )


class InOrder(Runnable[RouterInput, dict[str, Any]]):
    r"""Runs targets in order, each with the answers of those before it below the user's words.

    Args:
        targets: What runs under each name.
        names: Which to run; their order is that of the output.

    Example:
        >>> steps = InOrder(Targets({"count": len, "say": str.upper}), ["count", "say"])
        >>> steps.invoke("how long is this?")
        {'count': 17, 'say': 'HOW LONG IS THIS?\n\nCOUNT: 17'}
    """

    def __init__(self, targets: Targets, names: Sequence[str]) -> None:
        self._targets = targets
        self._names = tuple(names)

    def invoke(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the outputs by name."""
        answers: dict[str, Any] = {}
        for name in self._names:
            target = self._given(name, input, answers, kwargs)
            answers[name] = target.invoke(None, config)
        return answers

    async def ainvoke(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Await the outputs by name."""
        answers: dict[str, Any] = {}
        for name in self._names:
            target = self._given(name, input, answers, kwargs)
            answers[name] = await target.ainvoke(None, config)
        return answers

    def stream(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[dict[str, Any]]:
        """Yield each target's chunks as ``{name: chunk}``."""
        answers = AddableDict()
        for name in self._names:
            for chunk in self._given(name, input, answers, kwargs).stream(None, config):
                part = AddableDict({name: chunk})
                answers = _added(answers, part)
                yield part

    async def astream(
        self,
        input: RouterInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield each target's chunks as ``{name: chunk}``."""
        answers = AddableDict()
        for name in self._names:
            async for chunk in self._given(name, input, answers, kwargs).astream(None, config):
                part = AddableDict({name: chunk})
                answers = _added(answers, part)
                yield part

    def _given(
        self, name: str, value: RouterInput, answers: Mapping[str, Any], options: Mapping[str, Any]
    ) -> _Given:
        longer = with_answers(value, answers)
        return _Given(self._targets[name], self._targets.input_for(name, longer), options)


def at_once(
    targets: Targets, names: Sequence[str], value: RouterInput, options: Mapping[str, Any]
) -> RunnableParallel[Any]:
    """Return what runs the named targets at the same time, each with its form of ``value``."""
    given = {name: _Given(targets[name], targets.input_for(name, value), options) for name in names}
    return RunnableParallel(given)


class _Given(Runnable[Any, Any]):
    """Runs a target with the input it was made for, and opens no run of its own."""

    def __init__(self, target: Runnable[Any, Any], value: Any, options: Mapping[str, Any]) -> None:
        self._target, self._value, self._options = target, value, dict(options)

    def invoke(
        self,
        input: object,  # noqa: A002  # LangChain's signature
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        return self._target.invoke(self._value, config, **self._options, **kwargs)

    async def ainvoke(
        self,
        input: object,  # noqa: A002  # LangChain's signature
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        return await self._target.ainvoke(self._value, config, **self._options, **kwargs)

    def stream(
        self,
        input: object,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        if is_graph(self._target):  # its parts do not add up to its end
            yield self.invoke(input, config, **kwargs)
            return
        yield from self._target.stream(self._value, config, **self._options, **kwargs)

    async def astream(
        self,
        input: object,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        if is_graph(self._target):
            yield await self.ainvoke(input, config, **kwargs)
            return
        async for chunk in self._target.astream(self._value, config, **self._options, **kwargs):
            yield chunk


def _added(answers: AddableDict, part: AddableDict) -> AddableDict:
    try:
        return answers + part
    except TypeError:  # chunks that do not add up: the last one counts, as in LangChain's own runs
        return AddableDict({**answers, **part})


def with_answers(value: RouterInput, answers: Mapping[str, Any]) -> RouterInput:
    r"""Return the input in its own form, with answers below the user's last words.

    They do not become AI messages: some providers refuse a conversation that ends with one.

    Example:
        >>> with_answers({"input": "how far in km?"}, {"miles": 5})
        {'input': 'how far in km?\n\nmiles: 5'}
    """
    if not answers:
        return value
    below = "".join(f"\n\n{name}: {_words(answer)}" for name, answer in answers.items())
    if isinstance(value, str):
        return value + below
    if isinstance(value, Mapping):
        key = next(key for key in ("messages", *TEXT_KEYS) if value.get(key))
        return {**value, key: with_answers(value[key], answers)}
    messages = messages_in(value)
    at = len(messages) - len(last_turn(messages))
    return [*messages[:at], _longer(messages[at], below), *messages[at + 1 :]]


def _longer(message: AnyMessage, below: str) -> AnyMessage:
    content = message.content
    longer = (
        content + below
        if isinstance(content, str)
        else [*content, {"type": "text", "text": below.strip()}]
    )
    return message.model_copy(update={"content": longer})


def _words(answer: Any) -> str:
    if isinstance(answer, Mapping) and answer.get("messages"):
        answer = answer["messages"][-1]
    return str(answer.text) if isinstance(answer, BaseMessage) else str(answer)


_NO_WORDS = (
    "the user's last message has no words to route by, and no LLM has a target. Give a chat model "
    "under an LLM's name, or what takes such turns: default=chat_model."
)
_NO_LLM = (
    "Give a chat model under an LLM's name, targets={{{llm!r}: chat_model}}, or what takes such "
    "queries: default=chat_model."
)


class _Chosen(NamedTuple):
    """What to invoke, with what, and the decision as plain data."""

    target: Runnable[Any, Any]
    value: Any
    options: dict[str, Any]
    event: dict[str, Any]


class RunnableRouter(CallRunnable, RunnableSerializable[RouterInput, Any]):
    """Sends each input to the agent, tool or chat model that the router chooses.

    Routes by the last human text; earlier human turns are its history. Registered names without a
    target here are never chosen. A chat model gets text or messages, a graph over messages
    ``{"messages": [...]}``, a tool its arguments, anything else the input as it came.

    With ``several``, a query that asks for several things may go to several agents, and the output
    is always a dict from each target's name to its output, in the order of the decision; streaming
    gives such dicts with one chunk each, which add up (a graph comes as one chunk). A decision for
    a team of LLMs gives the team's answer, as one LLM would, under the name ``team``.

    Args:
        router: Decides.
        targets: What runs under each name: Runnable, chat model, tool, compiled graph or function.
        arguments: For tools that need more than one text: a chat model that fills in the arguments
            of all of them; or by name such a chat model, or a function from the query's text to
            the dict of arguments.
        default: Takes what neither an agent nor an LLM can take, and turns without words (a lone
            image) where there is no LLM.
        preference: ``"performance"``, ``"auto"``, ``"cost"`` or a `Preference`; for one call:
            ``config={"configurable": {"moma_preference": "cost"}}``; likewise ``moma_exclude``, a
            list of names that may not be chosen in one call.
        max_latency: As in `MoMARouter.route`.
        several: ``"first"``: one target, whose output is the output. ``"in_order"``: one after the
            other, each with the answers so far below the user's words. ``"parallel"``: all at
            once, each with the input alone.
        telemetry: Counters.
        health: Circuit breakers of LLM targets; share one between objects that ask the same LLMs.
        fallback_on: As in `ChatMoMA`: an LLM that fails is followed by the next best target.

    Raises:
        UnknownNameError: A target's name is not registered with the router.
        ToolArgumentsError: A tool needs an entry in ``arguments``.
        InvalidInputError: There is no target, one cannot be run, or no such ``several``.
        InvalidPreferenceError: There is no such preference.
        NoTargetError: Nothing could take the input, and there is no default.

    Example:
        >>> from moma_core import AgentCard, MoMARouter
        >>> card = AgentCard("shout", "Put text in capitals", examples=("write hello in capitals",))
        >>> router = MoMARouter.from_cards([card], llms=None)
        >>> chain = RunnableRouter(router=router, targets={"shout": str.upper}, default=len)
        >>> chain.invoke("write hello in capitals")
        'WRITE HELLO IN CAPITALS'
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    router: SkipValidation[MoMARouter] = Field(exclude=True, repr=False)
    targets: SkipValidation[Targets] = Field(exclude=True)
    default: SkipValidation[Runnable[Any, Any] | None] = Field(default=None, exclude=True)
    preference: SkipValidation[str | Preference | None] = None
    max_latency: float | None = None
    several: SkipValidation[Several] = "first"
    telemetry: SkipValidation[Telemetry] = Field(exclude=True, repr=False)
    health: SkipValidation[Health] = Field(exclude=True, repr=False)
    fallback_on: SkipValidation[FallbackOn | None] = Field(default=None, exclude=True, repr=False)

    def __init__(
        self,
        *,
        router: MoMARouter,
        targets: Mapping[str, Any],
        arguments: Mapping[str, Arguments] | BaseChatModel | None = None,
        default: Any = None,
        preference: str | Preference | None = None,
        max_latency: float | None = None,
        several: Several = "first",
        telemetry: Telemetry | None = None,
        health: Health | None = None,
        fallback_on: FallbackOn | None = None,
        name: str | None = None,
    ) -> None:
        check_several(several)
        check_wish(preference, max_latency)
        check_fallback_on(fallback_on)
        # configurable_fields() builds this class anew at each call: by then agents may have been
        # removed from the router, which must not break a running program.
        if not isinstance(targets, Targets):
            check_registered(router, targets)
            targets = Targets(targets, arguments)
        fields: dict[str, Any] = {
            "router": router,
            "targets": targets,
            "default": None if default is None else coerce_to_runnable(default),
            "preference": preference,
            "max_latency": max_latency,
            "several": several,
            "telemetry": telemetry or Telemetry(),
            "health": health or Health(),
            "fallback_on": fallback_on,
            "name": name,
        }
        super().__init__(**fields)

    @property
    def OutputType(self) -> Any:  # noqa: N802  # LangChain's name
        """A dict from names to outputs where there may be several, else anything."""
        return Any if self.several == "first" else dict[str, Any]

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """Preference and exclusions for one call, and whatever the targets let one configure."""
        wanted = ConfigurableFieldSpec(
            id=PREFERENCE,
            annotation=Any,
            name="Preference",
            description="performance, auto or cost",
            default=self.preference,
        )
        unwanted = ConfigurableFieldSpec(
            id=EXCLUDE,
            annotation=Any,
            name="Exclude",
            description="names that may not be chosen",
            default=(),
        )
        children = (spec for child in self._children.values() for spec in child.config_specs)
        return get_unique_config_specs([wanted, unwanted, *children])

    def get_graph(self, config: RunnableConfig | None = None) -> Graph:
        """Draw the router with an edge to each target."""
        graph = Graph()
        first = graph.add_node(self.get_input_schema(config))
        router = graph.add_node(self, self.get_name())
        last = graph.add_node(self.get_output_schema(config))
        graph.add_edge(first, router)
        for name, child in self._children.items():
            node = graph.add_node(child, name)
            graph.add_edge(router, node, conditional=True)
            graph.add_edge(node, last)
        return graph

    def _prepare(
        self, value: RouterInput, config: RunnableConfig, options: dict[str, Any]
    ) -> _RoutedCall:
        return _RoutedCall(self, value, options)

    @property
    def _children(self) -> dict[str, Runnable[Any, Any]]:
        default = {} if self.default is None else {"default": self.default}
        return {**self.targets, **default}

    def _chosen(
        self, value: RouterInput, config: RunnableConfig, options: dict[str, Any]
    ) -> _Chosen:
        """Route; a turn without words goes past the agents, who are known by words."""
        out = unreachable(self.router, self.targets) | excluded_in(config)
        if wordless := is_wordless(value):
            out |= frozenset(self.router.agents.names)
        start = time.perf_counter()
        try:
            decision = self.router.route(
                some_query_of(messages_in(value)) if wordless else query_of(value),
                preference_in(config, self.preference),
                exclude=out,
                several=self.several != "first",
                max_latency=self.max_latency,
            )
        except NoTargetError as error:
            return self._by_default(error, value, options, start)
        self.telemetry.decided(decision, (time.perf_counter() - start) * 1e3, "runnable")
        for name in decision.targets:
            if name not in self.targets:
                raise UnknownNameError(
                    f"the router chose {name!r}, which has no target; the targets are "
                    f"{sorted(self.targets)!r}. Add it to the targets of RunnableRouter."
                )
        targets, names, cards = self.targets, decision.targets, _llm_cards(self.router)
        if decision.team is not None:
            team = team_answer(decision.team, self.targets, cards)
            targets, names = Targets({"team": team}), ("team",)
        elif decision.kind == "llm":
            targets = Targets({decision.target: self._first_answer(decision, value, out)})
        return self._target(targets, names, value, options, decision.to_dict())

    def _by_default(
        self, error: NoTargetError, value: RouterInput, options: dict[str, Any], start: float
    ) -> _Chosen:
        """Take what nothing fits, or say why nobody can."""
        if self.default is None:
            if is_wordless(value):
                raise InvalidQueryError(_NO_WORDS) from error
            refuse_without_llms(error, self.router, self.targets, _NO_LLM)
            raise error
        self.telemetry.unrouted(str(error), (time.perf_counter() - start) * 1e3, "runnable")
        event = {"kind": "default", "targets": [], "reason": str(error)}
        return self._target(Targets({"default": self.default}), ["default"], value, options, event)

    def _first_answer(
        self, decision: RoutingDecision, value: RouterInput, out: Collection[str]
    ) -> FirstAnswer:
        """Return the chosen LLM, with the others that have a target in its place if it fails."""
        ranked = dict.fromkeys([decision.target, *(c.name for c in decision.candidates)])
        names = [name for name in ranked if name in self.targets and name not in out]
        windows = self.targets.windows(_llm_cards(self.router))
        tokens = tokens_of(messages_in(value))
        return FirstAnswer(
            {name: self.targets[name] for name in by_room(names, windows, tokens)},
            self.targets.input_for,
            self.health,
            windows=windows,
            fallback_on=self.fallback_on,
            on_failure=self.telemetry.failure,
        )

    def _target(
        self,
        targets: Targets,
        names: Sequence[str],
        value: RouterInput,
        options: dict[str, Any],
        event: dict[str, Any],
    ) -> _Chosen:
        if self.several == "in_order":
            return _Chosen(InOrder(targets, names), value, options, event)
        if self.several == "parallel":
            return _Chosen(at_once(targets, names, value, options), value, {}, event)
        first = names[0]
        return _Chosen(targets[first], targets.input_for(first, value), options, event)


def _llm_cards(router: MoMARouter) -> Sequence[LLMCard]:
    return router.llms.cards if router.llms is not None else ()


@dataclass(frozen=True)
class _RoutedCall:
    """Routes, tells the trace, and hands the call to what was chosen."""

    router: RunnableRouter
    value: RouterInput
    options: dict[str, Any]

    def invoke(self, config: RunnableConfig) -> Any:
        chosen = self._route(config)
        dispatch(chosen.event, config)
        return chosen.target.invoke(chosen.value, config, **chosen.options)

    async def ainvoke(self, config: RunnableConfig) -> Any:
        chosen = await asyncio.to_thread(self._route, config)
        await adispatch(chosen.event, config)
        return await chosen.target.ainvoke(chosen.value, config, **chosen.options)

    def stream(self, config: RunnableConfig) -> Iterator[Any]:
        chosen = self._route(config)
        dispatch(chosen.event, config)
        yield from chosen.target.stream(chosen.value, config, **chosen.options)

    async def astream(self, config: RunnableConfig) -> AsyncIterator[Any]:
        chosen = await asyncio.to_thread(self._route, config)
        await adispatch(chosen.event, config)
        async for chunk in chosen.target.astream(chosen.value, config, **chosen.options):
            yield chunk

    def _route(self, config: RunnableConfig) -> _Chosen:
        return self.router._chosen(self.value, config, self.options)  # noqa: SLF001
