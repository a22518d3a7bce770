"""ChatCascade: a chat model that asks a cheap LLM, and another one if the answer is in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.constants import TAG_NOSTREAM
from langgraph.errors import GraphBubbleUp
from pydantic import Field, SkipValidation

from langchain_moma.calls import (
    CallRunnable,
    check_chat_models,
    says_nothing,
    tokens_of,
    tokens_told_by,
    window_of,
)
from langchain_moma.decision import (
    FALLBACK_EVENT,
    adispatch,
    check_wish,
    dispatch,
    excluded_in,
    preference_in,
)
from langchain_moma.messages import (
    LLM_KEY,
    some_query_of,
)
from langchain_moma.portable import portable_messages, portable_options
from langchain_moma.usage import COST_KEY, ametered, cost_facts, metered, usage_in
from moma_core import CascadeRouter, Encoder, InvalidInputError, Preference, RoutingEncoder
from moma_core.fallback import Fallback, FallbackOn, available, check_fallback_on
from moma_core.health import Health
from moma_core.llms.cascade import Accept, Ask, CascadePlan
from moma_core.llms.tokens import count_tokens
from moma_core.training.judge import final_answer

__all__ = [
    "CASCADE_KEY",
    "CascadeAsk",
    "CascadeRun",
    "ChatCascade",
]

# ruff: noqa: ARG002  # LangChain passes `run_manager` by its name, needed or not

CASCADE_KEY = "moma_cascade"
"""Key in an answer's ``response_metadata``: whom the cascade asked, and USD by LLM."""

_UNTRACED: RunnableConfig = {"callbacks": []}  # the chat model's own run is the one that is traced


class ChatCascade(CallRunnable, BaseChatModel):
    """A chat model that asks as few of its LLMs as a trained `CascadeRouter` finds worth it.

    The answer is the accepted LLM's, with the usage of all calls. Its ``response_metadata`` has
    ``moma_llm`` and, under ``moma_cascade``, whom it asked and the USD of each call. A stream gives
    the accepted answer only: token by token where nothing can replace it, else in one chunk. A
    failing LLM is planned around. Calls no tools.

    Args:
        router: Plans; `CascadeRouter.load("pool")`.
        llms: Chat models by the names of the router's LLMs; those left out are never asked.
        read: From a reply to the final answer that is compared; None: it cannot be read. By
            default as `moma collect` reads answers, so a cascade sees what it was trained on.
        encoder: The one the router was trained with.
        preference: As for `ChatMoMA`, and for one call likewise.
        max_latency: As for `CascadeRouter.plan`.
        health: Circuit breakers; failing LLMs are left out while another one is well.
        fallback_on: As for `ChatMoMA`.

    Raises:
        InvalidInputError: ``router`` plans no cascade, or ``llms`` holds something that is no chat
            model.
        UnknownNameError: A name is not among the router's LLMs.
        ArtifactError: The encoder is another one than in training.
        NoTargetError: At a call: no LLM may be asked.

    """

    router: SkipValidation[CascadeRouter] = Field(exclude=True, repr=False)
    llms: SkipValidation[Mapping[str, BaseChatModel]] = Field(exclude=True, repr=False)
    read: SkipValidation[Callable[[str], str | None]] = Field(
        default=final_answer, exclude=True, repr=False
    )
    encoder: SkipValidation[Encoder] = Field(
        default_factory=RoutingEncoder, exclude=True, repr=False
    )
    preference: SkipValidation[str | Preference | None] = None
    max_latency: float | None = None
    health: SkipValidation[Health] = Field(default_factory=Health, exclude=True, repr=False)
    fallback_on: SkipValidation[FallbackOn | None] = Field(default=None, exclude=True, repr=False)

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        _check(self.router, self.llms)
        check_wish(self.preference, self.max_latency)
        check_fallback_on(self.fallback_on)
        self.router.base.check_encoder(self.encoder.fingerprint)

    @property
    def _llm_type(self) -> str:
        return "moma_cascade"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"llms": sorted(self.llms), "preference": str(self.preference)}

    def get_num_tokens(self, text: str) -> int:
        """Return about the most tokens that a text takes, as its LLMs count them."""
        return self.get_num_tokens_from_messages([HumanMessage(text)])

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return about the most tokens that messages take: any of the LLMs may be asked."""
        return max(tokens_told_by(llm, messages, tools or ()) for llm in self.llms.values())

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Refuse: a call of a tool is no answer that another LLM's could agree with."""
        raise NotImplementedError("a cascade compares final answers and calls no tools: ChatMoMA")

    def _prepare(
        self, value: LanguageModelInput, config: RunnableConfig, options: dict[str, Any]
    ) -> CascadeRun:
        return self._run(self._convert_input(value).to_messages(), options, config)

    def _run(
        self, messages: list[BaseMessage], options: dict[str, Any], config: RunnableConfig
    ) -> CascadeRun:
        preference, exclude = preference_in(config, self.preference), excluded_in(config)
        return CascadeRun(self, messages, options, preference, exclude)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        options = kwargs if stop is None else {**kwargs, "stop": stop}
        answer = self._run(messages, options, {}).invoke(_UNTRACED)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        options = kwargs if stop is None else {**kwargs, "stop": stop}
        answer = await self._run(messages, options, {}).ainvoke(_UNTRACED)
        return ChatResult(generations=[ChatGeneration(message=answer)])


@dataclass(frozen=True, slots=True)
class CascadeAsk:
    """Ask this LLM now.

    Args:
        name: Of the LLM.
        llm: Its chat model.
        final: Whether its answer is accepted whatever it says.
    """

    name: str
    llm: BaseChatModel
    final: bool


@dataclass(slots=True)
class CascadeRun:
    """What was asked and said so far for one query; answers that may be replaced are not streamed.

    Args:
        chat: Its settings.
        messages: The conversation; its last human words are what is planned for.
        options: For each LLM's call.
        preference: As for `CascadeRouter.plan`.
        exclude: LLMs that may not be asked.
    """

    chat: ChatCascade
    messages: Sequence[BaseMessage]
    options: Mapping[str, Any] = field(default_factory=dict)
    preference: str | Preference | None = None
    exclude: frozenset[str] = frozenset()
    plan: CascadePlan | None = None
    said: dict[str, AIMessage] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    fallback: Fallback = field(init=False)
    _told: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        card = self.chat.router.base.card
        self.fallback = Fallback(
            (),
            self.chat.health,
            windows={name: window_of(llm, card(name)) for name, llm in self.chat.llms.items()},
            fallback_on=self.chat.fallback_on,
            passing=(GraphBubbleUp,),
        )

    def next(self) -> CascadeAsk | AIMessage:
        """Return whom to ask, or the accepted answer with the usage of all calls.

        Raises:
            NoTargetError: No LLM may be asked, and none failed; else the first one's error.
        """
        if self.plan is None:
            self.plan = self._planned()
        read = self.chat.read
        answers = {name: read(str(said.text)) or None for name, said in self.said.items()}
        step = self.plan.next(answers, costs=self.costs)
        if isinstance(step, Accept):
            answer = self.said[step.llm]
            told = self._accounted(step.llm, answer, self.said)
            told["response_metadata"] |= self._paid()
            return answer.model_copy(update=told)
        return CascadeAsk(step.llm, self.chat.llms[step.llm], _is_final(step))

    def record(self, name: str, answer: BaseMessage) -> None:
        """Take an answer."""
        kept = answer if isinstance(answer, AIMessage) else AIMessage(answer.content)
        self.said[name] = kept
        self._pay(name, usage_in(kept))

    def invoke(self, config: RunnableConfig) -> AIMessage:
        """Return the accepted answer."""
        while isinstance(step := self.next(), CascadeAsk):
            with self.fallback.attempt(step.name):
                self.record(
                    step.name, self._ready(step).invoke(self._sent(step), _quiet(step, config))
                )
            for event in self._failures():
                dispatch(event, config, FALLBACK_EVENT)
        return step

    async def ainvoke(self, config: RunnableConfig) -> AIMessage:
        """Await the accepted answer; plans in a thread."""
        while isinstance(step := await asyncio.to_thread(self.next), CascadeAsk):
            with self.fallback.attempt(step.name):
                answer = await self._ready(step).ainvoke(self._sent(step), _quiet(step, config))
                self.record(step.name, answer)
            for event in self._failures():
                await adispatch(event, config, FALLBACK_EVENT)
        return step

    def stream(self, config: RunnableConfig) -> Iterator[AIMessageChunk]:
        """Yield the accepted answer, token by token where nothing can replace it."""
        while isinstance(step := self.next(), CascadeAsk):
            with self.fallback.attempt(step.name) as attempt:
                ready, sent = self._ready(step), self._sent(step)
                if not step.final:
                    self.record(step.name, ready.invoke(sent, _quiet(step, config)))
                else:
                    mark, pay = partial(self._first, step.name), partial(self._pay, step.name)
                    for chunk in metered(ready.stream(sent, config), pay):
                        yield from attempt.chunks(chunk, empty=says_nothing(chunk), mark=mark)
                    yield from attempt.rest(mark)
                    return
            for event in self._failures():
                dispatch(event, config, FALLBACK_EVENT)
        yield _whole(step)

    async def astream(self, config: RunnableConfig) -> AsyncIterator[AIMessageChunk]:
        """Yield the same; plans in a thread."""
        while isinstance(step := await asyncio.to_thread(self.next), CascadeAsk):
            with self.fallback.attempt(step.name) as attempt:
                ready, sent = self._ready(step), self._sent(step)
                if not step.final:
                    self.record(step.name, await ready.ainvoke(sent, _quiet(step, config)))
                else:
                    mark, pay = partial(self._first, step.name), partial(self._pay, step.name)
                    async for chunk in ametered(ready.astream(sent, config), pay):
                        for each in attempt.chunks(chunk, empty=says_nothing(chunk), mark=mark):
                            yield each
                    for each in attempt.rest(mark):
                        yield each
                    return
            for event in self._failures():
                await adispatch(event, config, FALLBACK_EVENT)
        yield _whole(step)

    def _ready(self, step: CascadeAsk) -> Runnable[Any, Any]:
        return step.llm.bind(**portable_options(self.options, step.llm))

    def _sent(self, step: CascadeAsk) -> list[BaseMessage]:
        return portable_messages(self.messages, step.llm, step.name)

    def _first(self, name: str, chunk: AIMessageChunk) -> AIMessageChunk:
        """Return the first chunk of the accepted answer, which tells of the calls before it."""
        said = {**self.said, name: chunk}
        return chunk.model_copy(update=self._accounted(name, chunk, said))

    def _accounted(
        self, name: str, answer: AIMessage, said: Mapping[str, AIMessage]
    ) -> dict[str, Any]:
        usage: UsageMetadata | None = None
        for each in said.values():
            if each.usage_metadata is not None:
                usage = add_usage(usage, each.usage_metadata)
        facts = {"asked": list(said), "usd": dict(self.costs)}
        about = {**answer.response_metadata, LLM_KEY: name, CASCADE_KEY: facts}
        return {"usage_metadata": usage, "response_metadata": about}

    def _planned(self) -> CascadePlan:
        chat, known = self.chat, self.chat.router.base.names
        failed = {failure.llm for failure in self.fallback.failures}
        out = {n for n in known if n not in chat.llms or not self.fallback.fits(n)}
        tokens = tokens_of(self.messages)
        out |= self._too_small(known, tokens) | self.exclude | failed
        if failed and out.issuperset(known):
            raise self.fallback.error()
        left = [name for name in known if name not in out]
        out.update(set(left).difference(available(left, chat.health) or left))
        text = some_query_of(self.messages).text
        read = max(tokens - tokens_of([HumanMessage(text)]), 0) + count_tokens(text)
        vector = chat.encoder.encode([text])[0]
        return chat.router.plan(text, vector, self.preference, out, chat.max_latency, tokens=read)

    def _too_small(self, known: Sequence[str], tokens: int) -> set[str]:
        """Return the LLMs whose window is known not to hold the messages, if others' does."""
        card, llms = self.chat.router.base.card, self.chat.llms
        windows = {n: window_of(llms[n], card(n)) for n in known if n in llms}
        small = {n for n, window in windows.items() if window is not None and window < tokens}
        return small if len(small) < len(windows) else set()

    def _failures(self) -> list[dict[str, str]]:
        """Return what failed since the last look; the next plan is made without it."""
        new = self.fallback.failures[self._told :]
        self._told += len(new)
        if new:
            self.plan = None
        return [failure.to_dict() for failure in new]

    def _pay(self, name: str, usage: UsageMetadata | None) -> dict[str, Any]:
        """Keep what a call cost, from which the pool learns; return what all did so far."""
        expected = None if self.plan is None else self.plan.expected.get(name)
        facts = cost_facts(self.chat.router.base, name, usage, expected)
        if facts:
            self.costs[name] = facts[COST_KEY]["real"]
        return self._paid() if facts else {}

    def _paid(self) -> dict[str, Any]:
        """Return what the plan was expected to cost, and what its calls did."""
        if self.plan is None or not self.costs:
            return {}
        return {COST_KEY: {"expected": self.plan.cost, "real": sum(self.costs.values())}}


def _is_final(step: Ask) -> bool:
    branches = (step.new, step.unreadable, *(after for _, after in step.same))
    return all(branch == Accept(step.llm) for branch in branches)


def _quiet(step: CascadeAsk, config: RunnableConfig) -> RunnableConfig:
    """Keep LangGraph from streaming an answer that may be replaced."""
    return config if step.final else merge_configs(config, {"tags": [TAG_NOSTREAM]})


def _whole(answer: AIMessage) -> AIMessageChunk:
    return AIMessageChunk(
        content=answer.content,
        additional_kwargs=answer.additional_kwargs,
        response_metadata=answer.response_metadata,
        usage_metadata=answer.usage_metadata,
        id=answer.id,
        chunk_position="last",
    )


def _check(router: object, llms: Mapping[str, BaseChatModel]) -> None:
    if not isinstance(router, CascadeRouter):
        raise InvalidInputError(
            f"router must be a CascadeRouter, got {type(router).__name__}. Train one with moma "
            "train llms --strategy cascade, then CascadeRouter.load(folder)."
        )
    check_chat_models(llms)
    for name in llms:
        router.base.card(name)
