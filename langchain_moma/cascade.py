"""ChatCascade: a chat model that asks a cheap LLM, reads its answer, and accepts or asks another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.constants import TAG_NOSTREAM
from langgraph.errors import GraphBubbleUp
from pydantic import Field, SkipValidation

from langchain_moma.calls import LLM_KEY, CallForms, Handed, portable_messages, portable_options
from langchain_moma.decision import FALLBACK_EVENT, adispatch, dispatch, excluded_in, preference_in
from langchain_moma.messages import some_query_of
from moma_core import CascadeRouter, Encoder, InvalidInputError, Preference, RoutingEncoder
from moma_core.health import Health
from moma_core.llms.cascade import Accept, Ask, CascadePlan
from moma_core.llms.selection import parse_preference
from moma_core.training.judge import final_answer

__all__ = [
    "CASCADE_KEY",
    "Asking",
    "CascadeSetting",
    "ChatCascade",
    "Walk",
]

CASCADE_KEY = "moma_cascade"
"""Key in an answer's ``response_metadata``: whom the cascade asked, and USD by LLM."""


@dataclass(frozen=True, slots=True)
class CascadeSetting:
    """What every query of a chat model shares.

    Args:
        router: Plans.
        llms: Chat models by name.
        read: From a reply to its final answer; None: it cannot be read.
        encoder: Encodes the query.
        max_latency: As for `CascadeRouter.plan`.
        health: Which LLMs have been failing.
    """

    router: CascadeRouter
    llms: Mapping[str, BaseChatModel]
    read: Callable[[str], str | None]
    encoder: Encoder
    max_latency: float | None
    health: Health


@dataclass(frozen=True, slots=True)
class Asking:
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
class Walk:
    """What was asked and said so far for one query.

    Args:
        setting: Shared by all queries.
        messages: The conversation; its last human words are what is planned for.
        preference: As for `CascadeRouter.plan`.
        exclude: LLMs that may not be asked.
    """

    setting: CascadeSetting
    messages: Sequence[BaseMessage]
    preference: str | Preference | None = None
    exclude: frozenset[str] = frozenset()
    plan: CascadePlan | None = None
    said: dict[str, AIMessage] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    errors: list[tuple[str, Exception]] = field(default_factory=list)

    def next(self) -> Asking | AIMessage:
        """Return whom to ask, or the accepted answer with the usage of all calls.

        Raises:
            NoTargetError: No LLM may be asked, and none failed; else the first one's error.
        """
        if self.plan is None:
            self.plan = self._planned()
        read = self.setting.read
        answers = {name: read(str(said.text)) or None for name, said in self.said.items()}
        step = self.plan.next(answers, costs=self._trusted())
        if isinstance(step, Accept):
            told = self.said[step.llm]
            return told.model_copy(update=self._accounted(step.llm, told, self.said))
        return Asking(step.llm, self.setting.llms[step.llm], _is_final(step))

    def hear(self, asked: Asking, said: BaseMessage) -> None:
        """Take an answer."""
        told = said if isinstance(said, AIMessage) else AIMessage(said.content)
        self.said[asked.name] = told
        cost = self._cost(asked.name, told.usage_metadata)
        if cost is not None:
            self.costs[asked.name] = cost

    @contextmanager
    def attempt(self, asked: Asking) -> Iterator[None]:
        """Take an error of the body as the LLM's failure: the next plan is made without it."""
        try:
            with self.setting.health.attempt(asked.name, passing=(GraphBubbleUp,)):
                yield
        except GraphBubbleUp:
            raise
        except Exception as error:  # noqa: BLE001  # any provider's error
            self.errors.append((asked.name, error))
            self.plan = None

    def begun(self, asked: Asking, chunk: AIMessage) -> dict[str, Any]:
        """Return what the first chunk of the accepted answer says of the calls before it."""
        return self._accounted(asked.name, chunk, {**self.said, asked.name: chunk})

    def _accounted(
        self, name: str, told: AIMessage, said: Mapping[str, AIMessage]
    ) -> dict[str, Any]:
        usage: UsageMetadata | None = None
        for each in said.values():
            if each.usage_metadata is not None:
                usage = add_usage(usage, each.usage_metadata)
        facts = {"asked": list(said), "usd": dict(self.costs)}
        about = {**told.response_metadata, LLM_KEY: name, CASCADE_KEY: facts}
        return {"usage_metadata": usage, "response_metadata": about}

    def _planned(self) -> CascadePlan:
        known, setting = self.setting.router.base.names, self.setting
        failed = {name for name, _ in self.errors}
        out = {name for name in known if name not in setting.llms} | self.exclude | failed
        ailing = {name for name in known if setting.health.is_open(name)} - out
        if len(out | ailing) < len(known):
            out |= ailing
        if self.errors and len(out) >= len(known):
            raise self._nobody()
        text = some_query_of(self.messages).text
        vector = setting.encoder.encode([text])[0]
        return setting.router.plan(text, vector, self.preference, out, setting.max_latency)

    def _nobody(self) -> Exception:
        (first, error), *others = self.errors
        error.add_note(f"This is the error of LLM {first!r}; nobody else could answer either.")
        for name, other in others:
            error.add_note(f"  {name!r} failed with {other!r}")
        return error

    def _cost(self, name: str, usage: UsageMetadata | None) -> float | None:
        if usage is None:
            return None
        card = self.setting.router.base.card(name)
        read, wrote = usage["input_tokens"], usage["output_tokens"]
        return (card.input_price * read + card.output_price * wrote) / 1e6

    def _trusted(self) -> dict[str, float]:
        """Leave out costs at indicative prices: plans weigh USD as measured in training."""
        card = self.setting.router.base.card
        return {n: c for n, c in self.costs.items() if card(n).metadata.get("price") is None}


def _is_final(step: Ask) -> bool:
    branches = (step.new, step.unreadable, *(after for _, after in step.same))
    return all(branch == Accept(step.llm) for branch in branches)


# ruff: noqa: ARG002, SLF001  # LangChain's contract between chat models


class ChatCascade(CallForms, BaseChatModel):
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

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        _check(self.router, self.llms)
        parse_preference(self.preference)
        self.router.base.check_encoder(self.encoder.fingerprint)

    @property
    def _llm_type(self) -> str:
        return "moma_cascade"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"llms": sorted(self.llms), "preference": str(self.preference)}

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Refuse: a call of a tool is no answer that another LLM's could agree with."""
        raise NotImplementedError("a cascade compares final answers and calls no tools: ChatMoMA")

    def _hand_on(
        self, value: LanguageModelInput, config: RunnableConfig, options: Mapping[str, Any]
    ) -> Handed:
        messages = self._convert_input(value).to_messages()
        preference, exclude = preference_in(config, self.preference), excluded_in(config)
        walk = Walk(self._setting, messages, preference, exclude)
        return Handed(cast("Any", _Cascading(walk, options)), messages)

    @property
    def _setting(self) -> CascadeSetting:
        return CascadeSetting(
            self.router, self.llms, self.read, self.encoder, self.max_latency, self.health
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        walk = Walk(self._setting, messages, self.preference)
        while isinstance(step := walk.next(), Asking):
            with walk.attempt(step):
                sent = portable_messages(messages, step.llm)
                walk.hear(step, step.llm._generate(sent, stop, **kwargs).generations[0].message)
        return ChatResult(generations=[ChatGeneration(message=step)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        walk = Walk(self._setting, messages, self.preference)
        while isinstance(step := await asyncio.to_thread(walk.next), Asking):
            with walk.attempt(step):
                sent = portable_messages(messages, step.llm)
                result = await step.llm._agenerate(sent, stop, **kwargs)
                walk.hear(step, result.generations[0].message)
        return ChatResult(generations=[ChatGeneration(message=step)])


@dataclass(frozen=True)
class _Cascading:
    """Asks whom the walk names; answers that may be replaced are kept out of streams."""

    walk: Walk
    options: Mapping[str, Any]

    def invoke(self, messages: list[BaseMessage], config: RunnableConfig) -> AIMessage:
        while isinstance(step := self.walk.next(), Asking):
            failures = len(self.walk.errors)
            with self.walk.attempt(step):
                sent = portable_messages(messages, step.llm)
                self.walk.hear(step, self._ready(step).invoke(sent, _quiet(step, config)))
            for event in self._failures(failures):
                dispatch(event, config, FALLBACK_EVENT)
        return step

    async def ainvoke(self, messages: list[BaseMessage], config: RunnableConfig) -> AIMessage:
        while isinstance(step := await asyncio.to_thread(self.walk.next), Asking):
            failures = len(self.walk.errors)
            with self.walk.attempt(step):
                sent = portable_messages(messages, step.llm)
                self.walk.hear(step, await self._ready(step).ainvoke(sent, _quiet(step, config)))
            for event in self._failures(failures):
                await adispatch(event, config, FALLBACK_EVENT)
        return step

    def stream(
        self, messages: list[BaseMessage], config: RunnableConfig
    ) -> Iterator[AIMessageChunk]:
        while isinstance(step := self.walk.next(), Asking):
            failures, begun = len(self.walk.errors), False
            with self.walk.attempt(step):
                sent, ready = portable_messages(messages, step.llm), self._ready(step)
                if not step.final:
                    self.walk.hear(step, ready.invoke(sent, _quiet(step, config)))
                else:
                    for chunk in ready.stream(sent, config):
                        yield chunk if begun else self._first(step, chunk)
                        begun = True
            if begun:
                self._raise(failures)
                return
            for event in self._failures(failures):
                dispatch(event, config, FALLBACK_EVENT)
        yield _whole(step)

    async def astream(
        self, messages: list[BaseMessage], config: RunnableConfig
    ) -> AsyncIterator[AIMessageChunk]:
        while isinstance(step := await asyncio.to_thread(self.walk.next), Asking):
            failures, begun = len(self.walk.errors), False
            with self.walk.attempt(step):
                sent, ready = portable_messages(messages, step.llm), self._ready(step)
                if not step.final:
                    self.walk.hear(step, await ready.ainvoke(sent, _quiet(step, config)))
                else:
                    async for chunk in ready.astream(sent, config):
                        yield chunk if begun else self._first(step, chunk)
                        begun = True
            if begun:
                self._raise(failures)
                return
            for event in self._failures(failures):
                await adispatch(event, config, FALLBACK_EVENT)
        yield _whole(step)

    def _ready(self, step: Asking) -> Runnable[Any, Any]:
        return step.llm.bind(**portable_options(self.options, step.llm))

    def _first(self, step: Asking, chunk: AIMessageChunk) -> AIMessageChunk:
        return chunk.model_copy(update=self.walk.begun(step, chunk))

    def _failures(self, since: int) -> list[dict[str, Any]]:
        return [{"llm": n, "error": repr(error)} for n, error in self.walk.errors[since:]]

    def _raise(self, since: int) -> None:
        """Raise what failed amid a stream: half an answer was given, so nobody else can."""
        for _, error in self.walk.errors[since:]:
            raise error


def _quiet(step: Asking, config: RunnableConfig) -> RunnableConfig:
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


def _check(router: object, llms: object) -> None:
    if not isinstance(router, CascadeRouter):
        raise InvalidInputError(
            f"router must be a CascadeRouter, got {type(router).__name__}. Train one with moma "
            "train llms --strategy cascade, then CascadeRouter.load(folder)."
        )
    if not llms or not isinstance(llms, Mapping):
        raise InvalidInputError(
            "llms are chat models by name, at least one: llms={'name': ChatOpenAI(...)}; got "
            f"{llms!r:.60}."
        )
    for name, llm in llms.items():
        if not isinstance(llm, BaseChatModel):
            raise InvalidInputError(
                f"LLM {name!r} must be a chat model, got {type(llm).__name__}. Give the chat model "
                "itself; options go to its constructor."
            )
        router.base.card(name)
