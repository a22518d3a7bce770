"""Calls to the chat models of a router: which to try, in which order, until one answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.tools import BaseTool
from langgraph.errors import GraphBubbleUp

from langchain_moma.decision import (
    FALLBACK_EVENT,
    adispatch,
    check_registered,
    check_router,
    dispatch,
)
from langchain_moma.messages import last_turn, some_query_of
from langchain_moma.telemetry import Telemetry
from moma_core import (
    InvalidInputError,
    LLMCard,
    MoMARouter,
    NoTargetError,
    Preference,
    RoutingDecision,
)
from moma_core.health import Health

__all__ = [
    "LLM_KEY",
    "Ask",
    "CallForms",
    "ChatPool",
    "Delegation",
    "Direct",
    "Failures",
    "Fallback",
    "Handed",
    "How",
    "Needs",
    "Try",
    "alone",
    "marked",
    "portable_messages",
    "portable_options",
    "portable_tools",
]

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
        tokens = count_tokens_approximately(messages) + _TOKENS_A_TOOL * len(tools)
        return cls(frozenset(features), tokens)

    def lacking(self, llm: BaseChatModel, card: LLMCard | None) -> str | None:
        """Return what this LLM lacks, in words; None when nothing is known to be missing."""
        stated: dict[str, Any] = dict(llm.profile or {})
        window = stated.get("max_input_tokens")
        if card is not None:
            stated.update(card.metadata)
            window = card.context_window or window
        for choice in sorted(self.features):
            if all(stated.get(key) is False for key in choice):
                return " or ".join(choice)
        if window is not None and self.tokens > window:
            return f"room for {self.tokens:,} tokens"
        return None


def _media_in(message: BaseMessage) -> set[str]:
    if isinstance(message.content, str):
        return set()
    kinds = (block.get("type") for block in message.content if isinstance(block, dict))
    return {_MEDIA[kind] for kind in kinds if kind in _MEDIA}


_MARK = "cache_control"
_OWNERS = {_MARK: ("anthropic",), "prompt_cache_key": ("openai",)}

Message = TypeVar("Message", bound=BaseMessage)


def portable_messages(messages: Sequence[Message], llm: BaseChatModel) -> list[Message]:
    """Return the messages without marks that ``llm`` does not take; untouched ones as they are.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> from langchain_moma.testing import ScriptedChat
        >>> block = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
        >>> portable_messages([HumanMessage([block])], ScriptedChat())[0].content
        [{'type': 'text', 'text': 'hi'}]
    """
    if _owns(llm, _MARK):
        return list(messages)
    return [_without_mark(message) for message in messages]


def portable_tools(tools: Sequence[Any], llm: BaseChatModel) -> list[Any]:
    """Return the tools without marks that ``llm`` does not take."""
    if _owns(llm, _MARK):
        return list(tools)
    return [_tool_without_mark(tool) for tool in tools]


def portable_options(options: Mapping[str, Any], llm: BaseChatModel) -> dict[str, Any]:
    """Return the keyword arguments without those that steer another provider's cache."""
    return {k: v for k, v in options.items() if k not in _OWNERS or _owns(llm, k)}


def _owns(llm: BaseChatModel, mark: str) -> bool:
    return any(owner in llm._llm_type for owner in _OWNERS[mark])  # LangChain's id


def _without_mark(message: Message) -> Message:
    content = message.content
    if isinstance(content, str) or not any(isinstance(b, dict) and _MARK in b for b in content):
        return message
    kept = [_plain(block) if isinstance(block, dict) else block for block in content]
    return message.model_copy(update={"content": kept})


def _tool_without_mark(tool: Any) -> Any:
    if isinstance(tool, dict):
        return _plain(tool)
    if isinstance(tool, BaseTool) and tool.extras and _MARK in tool.extras:
        return tool.model_copy(update={"extras": _plain(tool.extras) or None})
    return tool


def _plain(block: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key != _MARK}


class Failures:
    """Errors of one call, in the order in which LLMs were asked, and what to raise in the end.

    Args:
        telemetry: Counts them.

    Example:
        >>> failures = Failures(Telemetry())
        >>> failures.add("small", TimeoutError("slow"))
        {'llm': 'small', 'error': "TimeoutError('slow')"}
        >>> failures.final().__notes__
        ["This is the error of LLM 'small'; nobody else could answer either."]
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._errors: list[tuple[str, Exception]] = []

    def add(self, name: str, error: Exception) -> dict[str, Any]:
        """Keep an error; return it as plain data for an event."""
        self._errors.append((name, error))
        self._telemetry.failed(name, error)
        return self.plain[-1]

    @property
    def plain(self) -> list[dict[str, Any]]:
        """All of them as plain data."""
        return [{"llm": name, "error": repr(error)} for name, error in self._errors]

    def final(self) -> Exception:
        """Return the first error, with notes on the others."""
        (first, error), *others = self._errors
        error.add_note(f"This is the error of LLM {first!r}; nobody else could answer either.")
        for name, other in others:
            error.add_note(f"  {name!r}, asked in its place, failed with {other!r}")
        return error


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

    Raises:
        InvalidInputError: There is no chat model, or something else in its place.
        UnknownNameError: A name is not among the router's LLMs.
    """

    router: MoMARouter
    llms: Mapping[str, BaseChatModel]
    health: Health = field(default_factory=Health)
    telemetry: Telemetry = field(default_factory=Telemetry)
    surface: str = "chat"

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
        start = time.perf_counter()
        query = some_query_of(ask.messages)
        decision = self.router.choose_llm(query, well, ask.preference)
        self.telemetry.decided(decision, (time.perf_counter() - start) * 1e3, self.surface)
        return decision

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


def turn_llm(messages: Sequence[BaseMessage], names: Collection[str]) -> str | None:
    """Return the LLM whose tool calls are being worked on at the end of ``messages``."""
    for message in reversed(last_turn(messages)):
        if isinstance(message, AIMessage) and message.tool_calls:
            name: Any = message.response_metadata.get(LLM_KEY)
            return name if name in names else None
    return None


_T = TypeVar("_T")


@dataclass(frozen=True)
class Fallback:
    """One call that goes from LLM to LLM; circuit breakers and counters hear how each did.

    Args:
        pool: Who can be asked.
        ask: What is asked.
        config: Of the run whose trace hears decisions and failures; None tells no trace.
    """

    pool: ChatPool
    ask: Ask
    config: RunnableConfig | None = None

    def call(self, run: Callable[[Try], _T]) -> _T:
        """Return what ``run`` gives for the first LLM that answers."""
        failures = Failures(self.pool.telemetry)
        for chosen in self.pool.tries(self.ask):
            self._decided(chosen)
            try:
                with self.pool.attempt(chosen.name):
                    return run(chosen)
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001  # any provider's error
                self._failed(failures, chosen, error)
        raise failures.final()

    async def acall(self, run: Callable[[Try], Awaitable[_T]]) -> _T:
        """Await the same; routes in a thread."""
        failures = Failures(self.pool.telemetry)
        tries = self.pool.tries(self.ask)
        while chosen := await asyncio.to_thread(next, tries, None):
            await self._adecided(chosen)
            try:
                with self.pool.attempt(chosen.name):
                    return await run(chosen)
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001  # any provider's error
                await self._afailed(failures, chosen, error)
        raise failures.final()

    def stream(
        self, run: Callable[[Try], Iterator[_T]], mark: Callable[[_T, str], _T]
    ) -> Iterator[_T]:
        """Yield the chunks of the first LLM that begins to answer, the first one marked."""
        failures = Failures(self.pool.telemetry)
        for chosen in self.pool.tries(self.ask):
            self._decided(chosen)
            begun = False
            try:
                with self.pool.attempt(chosen.name):
                    for chunk in run(chosen):
                        yield chunk if begun else mark(chunk, chosen.name)
                        begun = True
                return
            except GraphBubbleUp:
                raise
            except Exception as error:
                self._failed(failures, chosen, error, told=not begun)
                if begun:
                    raise
        raise failures.final()

    async def astream(
        self, run: Callable[[Try], AsyncIterator[_T]], mark: Callable[[_T, str], _T]
    ) -> AsyncIterator[_T]:
        """Yield the same; routes in a thread."""
        failures = Failures(self.pool.telemetry)
        tries = self.pool.tries(self.ask)
        while chosen := await asyncio.to_thread(next, tries, None):
            await self._adecided(chosen)
            begun = False
            try:
                with self.pool.attempt(chosen.name):
                    async for chunk in run(chosen):
                        yield chunk if begun else mark(chunk, chosen.name)
                        begun = True
                return
            except GraphBubbleUp:
                raise
            except Exception as error:
                await self._afailed(failures, chosen, error, told=not begun)
                if begun:
                    raise
        raise failures.final()

    def _decided(self, chosen: Try) -> None:
        if self.config is not None and chosen.decision is not None:
            dispatch(chosen.decision.to_dict(), self.config)

    async def _adecided(self, chosen: Try) -> None:
        if self.config is not None and chosen.decision is not None:
            await adispatch(chosen.decision.to_dict(), self.config)

    def _failed(
        self, failures: Failures, chosen: Try, error: Exception, *, told: bool = True
    ) -> None:
        plain = failures.add(chosen.name, error)
        if self.config is not None and told:
            dispatch(plain, self.config, FALLBACK_EVENT)

    async def _afailed(
        self, failures: Failures, chosen: Try, error: Exception, *, told: bool = True
    ) -> None:
        plain = failures.add(chosen.name, error)
        if self.config is not None and told:
            await adispatch(plain, self.config, FALLBACK_EVENT)


How = Callable[[BaseChatModel], Runnable[Any, Any]]
"""Turns a chat model into what is to be run: with tools bound, with a schema, with options."""


@dataclass(frozen=True)
class Delegation:
    """One call handed to the LLMs of a pool.

    Args:
        pool: Who can be asked.
        ask: What is asked.
        how: Prepares a chat model for the call.
    """

    pool: ChatPool
    ask: Ask
    how: How

    def invoke(self, messages: list[BaseMessage], config: RunnableConfig) -> Any:
        """Return the first answer."""

        def run(chosen: Try) -> Any:
            sent = portable_messages(messages, chosen.llm)
            return marked(self.how(chosen.llm).invoke(sent, config), chosen.name)

        return Fallback(self.pool, self.ask, config).call(run)

    async def ainvoke(self, messages: list[BaseMessage], config: RunnableConfig) -> Any:
        """Await the first answer; routes in a thread."""

        async def run(chosen: Try) -> Any:
            sent = portable_messages(messages, chosen.llm)
            return marked(await self.how(chosen.llm).ainvoke(sent, config), chosen.name)

        return await Fallback(self.pool, self.ask, config).acall(run)

    def stream(self, messages: list[BaseMessage], config: RunnableConfig) -> Iterator[Any]:
        """Yield the chunks of the first LLM that begins to answer."""

        def run(chosen: Try) -> Iterator[Any]:
            return self.how(chosen.llm).stream(portable_messages(messages, chosen.llm), config)

        return Fallback(self.pool, self.ask, config).stream(run, marked)

    def astream(self, messages: list[BaseMessage], config: RunnableConfig) -> AsyncIterator[Any]:
        """Yield the chunks of the first LLM that begins to answer; routes in a thread."""

        def run(chosen: Try) -> AsyncIterator[Any]:
            return self.how(chosen.llm).astream(portable_messages(messages, chosen.llm), config)

        return Fallback(self.pool, self.ask, config).astream(run, marked)


def marked(answer: Any, name: str) -> Any:
    """Return an AI message that says which LLM gave it; anything else as it is."""
    if not isinstance(answer, AIMessage):
        return answer
    return answer.model_copy(
        update={"response_metadata": {**answer.response_metadata, LLM_KEY: name}}
    )


# ruff: noqa: SLF001  # these underscored methods are LangChain's contract between chat models


_TRACE_ONLY = ("ls_structured_output_format", "structured_output_format")


class _Bare(NamedTuple):
    llm: BaseChatModel
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Direct:
    """One call answered inside the caller's run.

    Args:
        pool: Who can be asked.
        ask: What is asked.
        how: Prepares a chat model for the call.
    """

    pool: ChatPool
    ask: Ask
    how: How

    def generate(
        self, messages: list[BaseMessage], run_manager: CallbackManagerForLLMRun | None
    ) -> ChatResult:
        """Return the first result."""

        def run(chosen: Try) -> ChatResult:
            llm, options = self._bare(chosen)
            sent = portable_messages(messages, llm)
            return _marked(llm._generate(sent, run_manager=run_manager, **options), chosen.name)

        return Fallback(self.pool, self.ask).call(run)

    async def agenerate(
        self, messages: list[BaseMessage], run_manager: AsyncCallbackManagerForLLMRun | None
    ) -> ChatResult:
        """Await the first result."""

        async def run(chosen: Try) -> ChatResult:
            llm, options = self._bare(chosen)
            sent = portable_messages(messages, llm)
            result = await llm._agenerate(sent, run_manager=run_manager, **options)
            return _marked(result, chosen.name)

        return await Fallback(self.pool, self.ask).acall(run)

    def stream(
        self, messages: list[BaseMessage], run_manager: CallbackManagerForLLMRun | None
    ) -> Iterator[ChatGenerationChunk]:
        """Yield the chunks of the first LLM that begins to answer."""

        def run(chosen: Try) -> Iterator[ChatGenerationChunk]:
            llm, options = self._bare(chosen)
            sent = portable_messages(messages, llm)
            if type(llm)._stream is BaseChatModel._stream:
                yield _as_chunk(llm._generate(sent, run_manager=run_manager, **options))
            else:
                yield from llm._stream(sent, run_manager=run_manager, **options)

        return Fallback(self.pool, self.ask).stream(run, _first)

    def astream(
        self, messages: list[BaseMessage], run_manager: AsyncCallbackManagerForLLMRun | None
    ) -> AsyncIterator[ChatGenerationChunk]:
        """Yield the chunks of the first LLM that begins to answer."""

        async def run(chosen: Try) -> AsyncIterator[ChatGenerationChunk]:
            llm, options = self._bare(chosen)
            sent = portable_messages(messages, llm)
            if not _streams(llm):
                result = await llm._agenerate(sent, run_manager=run_manager, **options)
                yield _as_chunk(result)
                return
            async for chunk in llm._astream(sent, run_manager=run_manager, **options):
                yield chunk

        return Fallback(self.pool, self.ask).astream(run, _first)

    def _bare(self, chosen: Try) -> _Bare:
        bound: Any = self.how(chosen.llm)
        options: dict[str, Any] = {}
        while isinstance(bound, RunnableBindingBase):
            options = {**bound.kwargs, **options}
            bound = bound.bound
        return _Bare(bound, {k: v for k, v in options.items() if k not in _TRACE_ONLY})


def _streams(llm: BaseChatModel) -> bool:
    own = type(llm)
    return not (own._stream is BaseChatModel._stream and own._astream is BaseChatModel._astream)


def _marked(result: ChatResult, name: str) -> ChatResult:
    for generation in result.generations:
        generation.message = marked(generation.message, name)
    return result


def _first(chunk: ChatGenerationChunk, name: str) -> ChatGenerationChunk:
    return chunk.model_copy(update={"message": marked(chunk.message, name)})


def _as_chunk(result: ChatResult) -> ChatGenerationChunk:
    message = result.generations[0].message
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    chunks = [
        tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=i)
        for i, call in enumerate(calls)
    ]
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content=message.content,
            tool_call_chunks=chunks,
            additional_kwargs=message.additional_kwargs,
            response_metadata=message.response_metadata,
            usage_metadata=getattr(message, "usage_metadata", None),
            id=message.id,
            chunk_position="last",
        )
    )


# ruff: noqa: ARG002  # LangChain passes `run_manager` by its name, needed or not


_Value = TypeVar("_Value")


class Handed(NamedTuple):
    """A call on its way: to whom it goes, and with what."""

    delegation: Delegation
    messages: list[BaseMessage]


class CallForms:
    """Gives a Runnable that implements `_hand_on` its invoke, stream and async forms.

    The callbacks of the `config` that `_hand_on` gets hang below the Runnable's own run.
    """

    def _hand_on(
        self, value: LanguageModelInput, config: RunnableConfig, options: Mapping[str, Any]
    ) -> Handed:
        raise NotImplementedError

    def invoke(
        self: Any,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Choose, then invoke the chosen LLM."""
        options = _with_stop(stop, kwargs)
        return self._call_with_config(self._invoke, input, config, options=options)

    async def ainvoke(
        self: Any,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Choose in a thread, then await the chosen LLM."""
        options = _with_stop(stop, kwargs)
        return await self._acall_with_config(self._ainvoke, input, config, options=options)

    def stream(
        self: Any,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Choose, then pass on the chosen LLM's chunks as they come."""
        options = _with_stop(stop, kwargs)
        yield from self._transform_stream_with_config(
            iter([input]), self._chunks, config, options=options
        )

    async def astream(
        self: Any,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Choose in a thread, then pass on the chosen LLM's chunks as they come."""
        options = _with_stop(stop, kwargs)
        async for chunk in self._atransform_stream_with_config(
            alone(input), self._achunks, config, options=options
        ):
            yield chunk

    def _invoke(
        self, value: Any, run_manager: object, config: RunnableConfig, *, options: dict[str, Any]
    ) -> Any:
        handed = self._hand_on(value, config, options)
        return handed.delegation.invoke(handed.messages, config)

    async def _ainvoke(
        self, value: Any, run_manager: object, config: RunnableConfig, *, options: dict[str, Any]
    ) -> Any:
        handed = self._hand_on(value, config, options)
        return await handed.delegation.ainvoke(handed.messages, config)

    def _chunks(
        self,
        values: Iterator[Any],
        run_manager: object,
        config: RunnableConfig,
        *,
        options: dict[str, Any],
    ) -> Iterator[Any]:
        handed = self._hand_on(next(values), config, options)
        yield from handed.delegation.stream(handed.messages, config)

    async def _achunks(
        self,
        values: AsyncIterator[Any],
        run_manager: object,
        config: RunnableConfig,
        *,
        options: dict[str, Any],
    ) -> AsyncIterator[Any]:
        handed = self._hand_on(await anext(values), config, options)
        async for chunk in handed.delegation.astream(handed.messages, config):
            yield chunk


def _with_stop(stop: list[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    return options if stop is None else {**options, "stop": stop}


async def alone(value: _Value) -> AsyncIterator[_Value]:
    """Yield one value: what LangChain's streaming takes its input from."""
    yield value
