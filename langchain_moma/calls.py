"""Calls to the chat models of a router: which LLM to ask, and whom to ask next when it fails.

`ChatCalls` holds the chat models. A `ChatRequest` says what is asked, a `ChatRun` walks from LLM
to LLM until one answers (`moma_core.fallback`). `CallRunnable` gives a Runnable its four forms.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.errors import GraphBubbleUp

from langchain_moma.cards import llm_cards_from_chat_models
from langchain_moma.decision import (
    DECISION_KEY,
    EVENT,
    FALLBACK_EVENT,
    adispatch,
    check_registered,
    check_router,
    dispatch,
)
from langchain_moma.messages import (
    LLM_KEY,
    count_tokens,
    count_tokens_in,
    last_turn,
    marked,
    some_query_of,
)
from langchain_moma.portable import portable_messages
from langchain_moma.telemetry import Telemetry
from langchain_moma.usage import ametered, cost_facts, metered, usage_in
from moma_core import (
    InvalidInputError,
    LLMCard,
    MoMARouter,
    NoTargetError,
    Preference,
    RoutingDecision,
)
from moma_core.fallback import (
    Attempt,
    Failure,
    Fallback,
    FallbackOn,
    available,
    check_fallback_on,
)
from moma_core.health import Health
from moma_core.llms.router import pool_for

__all__ = [
    "Call",
    "CallRunnable",
    "ChatCall",
    "ChatCalls",
    "ChatRequest",
    "ChatRun",
    "How",
    "Needs",
    "by_room",
    "check_chat_models",
    "router_over",
    "says_nothing",
    "tokens_of",
    "tokens_told_by",
    "window_of",
]

How = Callable[[BaseChatModel], Runnable[Any, Any]]
"""Turns a chat model into what is to be run: with tools bound, with a schema, with options."""

_T = TypeVar("_T")
Mark = Callable[[_T, Mapping[str, Any]], _T]
Usage = Callable[[_T], UsageMetadata | None]

_TOKENS_A_TOOL = 150
_MEDIA = {
    "image": "image_inputs",
    "image_url": "image_inputs",
    "input_image": "image_inputs",
    "audio": "audio_inputs",
    "input_audio": "audio_inputs",
    "file": "pdf_inputs",
    "input_file": "pdf_inputs",
    "document": "pdf_inputs",
    "video": "video_inputs",
}
_FREE_CHOICE = (None, "auto", "none", False)


@dataclass(frozen=True, slots=True)
class Needs:
    """What one call asks of whoever answers it.

    Args:
        features: Keys of a LangChain `ModelProfile`; of each tuple at least one must be there.
        tokens: About how long the input is.
    """

    features: frozenset[tuple[str, ...]] = frozenset()
    tokens: int = 0

    @classmethod
    def of(
        cls,
        messages: Sequence[BaseMessage],
        options: Mapping[str, Any],
        *,
        structured: bool = False,
    ) -> Needs:
        """Read the needs out of a call's messages and keyword arguments.

        Example:
            >>> from langchain_core.messages import HumanMessage
            >>> Needs.of([HumanMessage("hi")], {"tools": [{"name": "clock"}]}).features
            frozenset({('tool_calling',)})
        """
        features: set[tuple[str, ...]] = {
            (key,) for message in messages for key in _media_in(message)
        }
        tools = options.get("tools") or ()
        if tools:
            features.add(("tool_calling",))
            if options.get("tool_choice") not in _FREE_CHOICE:
                features.add(("tool_choice", "tool_calling"))
        if options.get("response_format") is not None:
            features.add(("structured_output",))
        if structured:
            features.add(("structured_output", "tool_calling"))
        return cls(frozenset(features), tokens_of(messages, tools))

    def lacking(self, llm: BaseChatModel, card: LLMCard | None) -> str | None:
        """Return what this LLM lacks, in words; None when nothing is known to be missing."""
        stated: dict[str, Any] = dict(llm.profile or {}) | dict(card.metadata if card else {})
        for choice in sorted(self.features):
            if all(stated.get(key) is False for key in choice):
                return " or ".join(choice)
        window = window_of(llm, card)
        if window is not None and self.tokens > window:
            return f"room for {self.tokens:,} tokens"
        return None


def _media_in(message: BaseMessage) -> set[str]:
    if isinstance(message.content, str):
        return set()
    kinds = (block.get("type") for block in message.content if isinstance(block, dict))
    return {_MEDIA[kind] for kind in kinds if kind in _MEDIA}


def _tool_tokens(tool: Any) -> int:
    """Return about how many tokens a tool's definition takes, its schema and all."""
    try:
        schema = tool if isinstance(tool, dict) else convert_to_openai_tool(tool)
    except (TypeError, ValueError):  # the chat model may know what it is
        return _TOKENS_A_TOOL
    return count_tokens_in(json.dumps(schema, default=str, ensure_ascii=False))


def tokens_of(messages: Sequence[BaseMessage], tools: Sequence[Any] = ()) -> int:
    """Return about how many tokens messages and definitions of tools take, whatever their script.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> schema = {"name": "clock", "parameters": {"about": "time " * 800}}
        >>> tokens_of([HumanMessage("hi")], [schema]) > 1_000
        True
    """
    return count_tokens(messages) + sum(map(_tool_tokens, tools))


def tokens_told_by(
    llm: BaseChatModel, messages: Sequence[BaseMessage], tools: Sequence[Any] = ()
) -> int:
    """Return an LLM's own count of tokens, or ours where it has none.

    LangChain's default fetches GPT-2's tokenizer from a hub, which is nobody's here.
    """
    counts = ("get_num_tokens_from_messages", "get_num_tokens", "get_token_ids")
    kind = type(llm)
    if llm.custom_get_token_ids is None and all(
        getattr(kind, count) is getattr(BaseChatModel, count) for count in counts
    ):
        return tokens_of(messages, tools)
    if kind.get_num_tokens_from_messages is not BaseChatModel.get_num_tokens_from_messages:
        return llm.get_num_tokens_from_messages(list(messages), tools or None)
    return llm.get_num_tokens_from_messages(list(messages)) + sum(map(_tool_tokens, tools))


def window_of(llm: BaseChatModel, card: LLMCard | None) -> int | None:
    """Return how many tokens a chat model takes, where that is known."""
    stated = (llm.profile or {}).get("max_input_tokens")
    return stated if card is None else card.context_window or stated


def by_room(names: Sequence[str], windows: Mapping[str, int | None], tokens: int) -> list[str]:
    """Return the names in order, those whose window is known to be too small last.

    Example:
        >>> by_room(["small", "large", "unknown"], {"small": 10, "large": 100}, 50)
        ['large', 'unknown', 'small']
    """
    return sorted(names, key=lambda name: tokens > (windows.get(name) or tokens))


@dataclass(frozen=True)
class ChatRequest:
    """What is asked in one call, and what the answer needs.

    Args:
        messages: The conversation.
        needs: What whoever answers must be able to do.
        preference: As in `MoMARouter.route`.
        exclude: Names that may not be chosen this time.
        max_latency: As in `MoMARouter.route`.
    """

    messages: Sequence[BaseMessage]
    needs: Needs = field(default_factory=Needs)
    preference: str | Preference | None = None
    exclude: frozenset[str] = frozenset()
    max_latency: float | None = None


@dataclass(frozen=True)
class ChatCalls:
    """The chat models that a router chooses among, and how they are asked.

    Args:
        router: Decides; its agents are left out.
        llms: Chat models by the names of the router's LLMs.
        health: Which of them have been failing.
        telemetry: Receives decisions and failures.
        surface: Who asks, for the log.
        fallback_on: As in `Fallback`.

    Raises:
        InvalidInputError: There is no chat model, or something else in its place.
        UnknownNameError: A name is not among the router's LLMs.
    """

    router: MoMARouter
    llms: Mapping[str, BaseChatModel]
    health: Health = field(default_factory=Health)
    telemetry: Telemetry = field(default_factory=Telemetry)
    surface: str = "chat"
    fallback_on: FallbackOn | None = None

    def check(self) -> None:
        """Refuse names and objects that could never answer."""
        check_router(self.router)
        check_chat_models(self.llms)
        check_registered(self.router, self.llms, agents=False)
        check_fallback_on(self.fallback_on)

    def call(
        self,
        request: ChatRequest,
        ask: Callable[[str], _T],
        config: RunnableConfig,
        mark: Mark[_T] = marked,
        usage: Usage[_T] = usage_in,
    ) -> _T:
        """Return the first answer.

        Args:
            request: What is asked.
            ask: Asks the LLM of a name.
            config: Of the run whose trace gets decisions and failures.
            mark: Adds to an answer's metadata who gave it, how it was chosen and what it cost.
            usage: Reads the tokens off an answer.
        """
        run = ChatRun(self, request, config)
        while attempt := run.next():
            with attempt:
                answer = ask(attempt.name)
                return mark(answer, run.all_facts(attempt.name, usage(answer)))
        raise run.fallback.error()

    async def acall(
        self,
        request: ChatRequest,
        ask: Callable[[str], Awaitable[_T]],
        config: RunnableConfig,
        mark: Mark[_T] = marked,
        usage: Usage[_T] = usage_in,
    ) -> _T:
        """Await the same; routes in a thread."""
        run = ChatRun(self, request, config)
        while attempt := await run.anext():
            with attempt:
                answer = await ask(attempt.name)
                return mark(answer, run.all_facts(attempt.name, usage(answer)))
        raise run.fallback.error()

    def stream(
        self,
        request: ChatRequest,
        ask: Callable[[str], Iterator[Any]],
        config: RunnableConfig,
    ) -> Iterator[Any]:
        """Yield the chunks of the first LLM that begins to say something, the first one marked."""
        run = ChatRun(self, request, config)
        while attempt := run.next():
            mark = partial(marked, facts=run.facts(attempt.name))
            with attempt:
                for chunk in metered(ask(attempt.name), partial(run.cost, attempt.name)):
                    yield from attempt.chunks(chunk, empty=says_nothing(chunk), mark=mark)
                yield from attempt.rest(mark)
                return
        raise run.fallback.error()

    async def astream(
        self,
        request: ChatRequest,
        ask: Callable[[str], AsyncIterator[Any]],
        config: RunnableConfig,
    ) -> AsyncIterator[Any]:
        """Yield the same; routes in a thread."""
        run = ChatRun(self, request, config)
        while attempt := await run.anext():
            mark = partial(marked, facts=run.facts(attempt.name))
            with attempt:
                async for chunk in ametered(ask(attempt.name), partial(run.cost, attempt.name)):
                    for ready in attempt.chunks(chunk, empty=says_nothing(chunk), mark=mark):
                        yield ready
                for ready in attempt.rest(mark):
                    yield ready
                return
        raise run.fallback.error()

    def decide(self, request: ChatRequest) -> RoutingDecision:
        """Choose among the LLMs that can do what the call needs, failing ones left out if possible.

        Raises:
            NoTargetError: There is none.
        """
        eligible = self.eligible(request)
        if not eligible:
            raise NoTargetError(self._why_nobody(request))
        start = time.perf_counter()
        decision = self._choose(request, available(eligible, self.health) or eligible)
        self.telemetry.decided(decision, (time.perf_counter() - start) * 1e3, self.surface)
        return decision

    def _choose(self, request: ChatRequest, names: Sequence[str]) -> RoutingDecision:
        """Return the decision among ``names``."""
        query = replace(some_query_of(request.messages), tokens=request.needs.tokens)
        return self.router.choose_llm(
            query, names, request.preference, max_latency=request.max_latency
        )

    def eligible(self, request: ChatRequest) -> list[str]:
        """Return the names that can do what the call needs and may be chosen."""
        left = (name for name in self.llms if name not in request.exclude)
        return [name for name in left if self._lacking(name, request.needs) is None]

    def in_view(self, request: ChatRequest) -> BaseChatModel:
        """Return the LLM that would read the messages now: its turn's, else the one chosen."""
        lead = _turn_llm(request.messages)
        if lead in self.llms:
            return self.llms[lead]
        return self.llms[self._choose(request, list(self.llms)).target]

    def windows(self) -> dict[str, int | None]:
        """Return the context windows, where known."""
        return {name: window_of(llm, self._card(name)) for name, llm in self.llms.items()}

    def _lacking(self, name: str, needs: Needs) -> str | None:
        return needs.lacking(self.llms[name], self._card(name))

    def _card(self, name: str) -> LLMCard | None:
        known = self.router.llms.cards if self.router.llms is not None else ()
        return next((card for card in known if card.name == name), None)

    def _why_nobody(self, request: ChatRequest) -> str:
        reasons = (
            f"{name!r} is excluded"
            if name in request.exclude
            else f"{name!r} lacks {self._lacking(name, request.needs)}"
            for name in self.llms
        )
        return (
            f"no LLM can take this call: {'; '.join(reasons)}. Add one that can, or correct its "
            "profile or LLMCard."
        )


class ChatRun:
    """One request on its way from LLM to LLM.

    Args:
        calls: Whom to ask.
        request: What is asked.
        config: Of the run whose trace gets decisions and failures.
    """

    def __init__(self, calls: ChatCalls, request: ChatRequest, config: RunnableConfig) -> None:
        self.decision: RoutingDecision | None = None
        self._calls, self._request, self._config = calls, request, config
        self._events: list[tuple[str, dict[str, Any]]] = []
        self.fallback = Fallback(
            self._names(),
            calls.health,
            windows=calls.windows(),
            fallback_on=calls.fallback_on,
            passing=(GraphBubbleUp,),
            on_failure=self._failed,
        )

    def next(self) -> Attempt | None:
        """Return the next attempt, if any, and tell the trace what happened since the last one."""
        attempt = next(self.fallback, None)
        while self._events:
            event, data = self._events.pop(0)
            dispatch(data, self._config, event)
        return attempt

    async def anext(self) -> Attempt | None:
        """Await the same; routes in a thread."""
        attempt = await asyncio.to_thread(next, self.fallback, None)
        while self._events:
            event, data = self._events.pop(0)
            await adispatch(data, self._config, event)
        return attempt

    def facts(self, name: str) -> dict[str, Any]:
        """Return what an answer says of itself: who gave it and, where the router learns, why."""
        decision = self.decision
        if decision is None or decision.trial is None or decision.target != name:
            return {LLM_KEY: name}
        return {LLM_KEY: name, DECISION_KEY: decision.to_dict()}

    def cost(self, name: str, usage: UsageMetadata | None) -> dict[str, Any]:
        """Return what an answer says of its cost; nothing was expected of one that goes on."""
        expected = None if self.decision is None else self.decision.cost_of(name)
        return cost_facts(self._calls.router.llms, name, usage, expected)

    def all_facts(self, name: str, usage: UsageMetadata | None) -> dict[str, Any]:
        """Return what a whole answer says of itself."""
        return {**self.facts(name), **self.cost(name, usage)}

    def _names(self) -> Iterator[str]:
        """Yield the LLMs to ask, best first; the one that began a tool-calling turn leads."""
        calls, request = self._calls, self._request
        lead = _turn_llm(request.messages)
        if lead in calls.eligible(request) and available([lead], calls.health):
            yield lead
            request = replace(request, exclude=request.exclude | {lead})
            if not calls.eligible(request):
                return
        self.decision = decision = calls.decide(request)
        self._events.append((EVENT, decision.to_dict()))
        ranked = [decision.target, *(candidate.name for candidate in decision.candidates)]
        yield from dict.fromkeys([*ranked, *calls.eligible(request)])

    def _failed(self, failure: Failure) -> None:
        self._calls.telemetry.failure(failure)
        self._events.append((FALLBACK_EVENT, failure.to_dict()))


def _turn_llm(messages: Sequence[BaseMessage]) -> str:
    """Return the LLM whose tool calls are being worked on at the end of ``messages``, else ""."""
    for message in reversed(last_turn(messages)):
        if isinstance(message, AIMessage) and message.tool_calls:
            return str(message.response_metadata.get(LLM_KEY, ""))
    return ""


def check_chat_models(llms: object) -> None:
    """Refuse what holds no chat models by name.

    Raises:
        InvalidInputError: It is empty, no mapping, or holds something else.
    """
    if not llms or not isinstance(llms, Mapping):
        raise InvalidInputError(
            "llms are chat models by name, at least one: llms={'name': ChatOpenAI(...)}; got "
            f"{llms!r:.60}."
        )
    for name, llm in llms.items():
        if not isinstance(llm, BaseChatModel):
            raise InvalidInputError(
                f"LLM {name!r} must be a chat model, got {type(llm).__name__}. Give the chat "
                "model itself; options go to its constructor, retries and fallbacks are ours."
            )


def router_over(
    router: MoMARouter | None, llms: object, cards: Iterable[LLMCard] = ()
) -> MoMARouter:
    """Return a router that has LLMs: the one given, or one that knows the chat models by cards.

    Args:
        router: May have agents alone, or be missing.
        llms: Chat models by name.
        cards: What is known of them; prices and windows that are missing are read from litellm's
            table and the chat models' profiles.

    Raises:
        InvalidInputError: Cards are given beside a router that has LLMs, or ``llms`` holds no chat
            models.
        InvalidCardError: The price of one is not known.
        UnknownNameError: A card's name is none of the chat models'.
    """
    if router is not None:
        check_router(router)
        if router.llms is not None:
            if cards:
                raise InvalidInputError(
                    "the router has LLMs, so cards would be its second ones. Leave cards out, or "
                    "write router.llms = router.llms.add(card)."
                )
            return router
    check_chat_models(llms)
    named = cast("Mapping[str, BaseChatModel]", llms)
    pool = pool_for(named, cards, lambda name: llm_cards_from_chat_models({name: named[name]})[0])
    return (router or MoMARouter.from_cards(llms=None)).with_llms(pool)


def says_nothing(chunk: Any) -> bool:
    """Say whether a chunk of a stream has neither words nor a call of a tool in it."""
    if not isinstance(chunk, AIMessageChunk):
        return False
    return not (chunk.content or chunk.tool_call_chunks or chunk.additional_kwargs)


class Call(Protocol):
    """One call, prepared; its callbacks hang below the run of ``config``."""

    def invoke(self, config: RunnableConfig) -> Any:
        """Return the answer."""

    async def ainvoke(self, config: RunnableConfig) -> Any:
        """Await the answer."""

    def stream(self, config: RunnableConfig) -> Iterator[Any]:
        """Yield the answer in chunks."""

    def astream(self, config: RunnableConfig) -> AsyncIterator[Any]:
        """Yield the answer in chunks."""


@dataclass(frozen=True)
class ChatCall:
    """A call handed to the first chat model that answers.

    Args:
        calls: Who can be asked.
        request: What is asked.
        how: Prepares a chat model for the call.
    """

    calls: ChatCalls
    request: ChatRequest
    how: How

    def invoke(self, config: RunnableConfig) -> Any:
        """Return the first answer."""

        def ask(name: str) -> Any:
            return self._ready(name).invoke(self._sent(name), config)

        return self.calls.call(self.request, ask, config)

    async def ainvoke(self, config: RunnableConfig) -> Any:
        """Await the first answer; routes in a thread."""

        async def ask(name: str) -> Any:
            return await self._ready(name).ainvoke(self._sent(name), config)

        return await self.calls.acall(self.request, ask, config)

    def stream(self, config: RunnableConfig) -> Iterator[Any]:
        """Yield the chunks of the first LLM that begins to answer."""

        def ask(name: str) -> Iterator[Any]:
            return self._ready(name).stream(self._sent(name), config)

        return self.calls.stream(self.request, ask, config)

    def astream(self, config: RunnableConfig) -> AsyncIterator[Any]:
        """Yield the chunks of the first LLM that begins to answer; routes in a thread."""

        def ask(name: str) -> AsyncIterator[Any]:
            return self._ready(name).astream(self._sent(name), config)

        return self.calls.astream(self.request, ask, config)

    def _ready(self, name: str) -> Runnable[Any, Any]:
        return self.how(self.calls.llms[name])

    def _sent(self, name: str) -> list[BaseMessage]:
        return portable_messages(self.request.messages, self.calls.llms[name], name)


class CallRunnable:
    """Gives a Runnable that implements `_prepare` its invoke, stream and async forms."""

    def _prepare(self, value: Any, config: RunnableConfig, options: dict[str, Any]) -> Call:
        """Return the call for an input; quick, since async forms wait for it."""
        raise NotImplementedError

    def invoke(
        self: Any,
        input: Any,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Choose, then invoke what was chosen."""
        options = _with_stop(stop, kwargs)

        def run(value: Any, config: RunnableConfig) -> Any:
            return self._prepare(value, config, options).invoke(config)

        return self._call_with_config(run, input, config)

    async def ainvoke(
        self: Any,
        input: Any,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Choose in a thread, then await what was chosen."""
        options = _with_stop(stop, kwargs)

        async def run(value: Any, config: RunnableConfig) -> Any:
            return await self._prepare(value, config, options).ainvoke(config)

        return await self._acall_with_config(run, input, config)

    def stream(
        self: Any,
        input: Any,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Choose, then pass on the chunks of what was chosen as they come."""
        options = _with_stop(stop, kwargs)

        def run(values: Iterator[Any], config: RunnableConfig) -> Iterator[Any]:
            yield from self._prepare(next(values), config, options).stream(config)

        yield from self._transform_stream_with_config(iter([input]), run, config)

    async def astream(
        self: Any,
        input: Any,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Choose in a thread, then pass on the chunks of what was chosen as they come."""
        options = _with_stop(stop, kwargs)

        async def run(values: AsyncIterator[Any], config: RunnableConfig) -> AsyncIterator[Any]:
            async for chunk in self._prepare(await anext(values), config, options).astream(config):
                yield chunk

        async for chunk in self._atransform_stream_with_config(_only(input), run, config):
            yield chunk


def _with_stop(stop: list[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    return options if stop is None else {**options, "stop": stop}


async def _only(value: Any) -> AsyncIterator[Any]:
    yield value
