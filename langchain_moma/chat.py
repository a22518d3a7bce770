"""ChatMoMA: a chat model that chooses the LLM for each call and hands the call to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import (
    BaseChatModel,
    LangSmithParams,
    LanguageModelInput,
    ModelProfile,
)
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableSerializable
from langchain_core.tools import BaseTool
from pydantic import ConfigDict, Field, SkipValidation

from langchain_moma.calls import (
    Ask,
    CallForms,
    ChatPool,
    Delegation,
    Direct,
    Handed,
    How,
    Needs,
    portable_options,
    portable_tools,
)
from langchain_moma.decision import PREFERENCE, did_you_mean, excluded_in, preference_in
from langchain_moma.messages import messages_in
from langchain_moma.telemetry import Telemetry
from moma_core import MoMARouter, Preference, UnknownNameError
from moma_core.health import Health
from moma_core.llms.selection import parse_preference

__all__ = [
    "ChatMoMA",
    "StructuredMoMA",
]

Delegate = Callable[[list[BaseMessage], Needs, How, RunnableConfig], Delegation]


class StructuredMoMA(CallForms, RunnableSerializable[LanguageModelInput, Any]):
    """Gives what ``with_structured_output`` of the chosen LLM gives.

    Args:
        delegate: Chooses.
        how: Turns a chat model into a Runnable that gives the wanted form.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    delegate: SkipValidation[Delegate] = Field(exclude=True)
    how: SkipValidation[How] = Field(exclude=True)

    def _hand_on(
        self, value: LanguageModelInput, config: RunnableConfig, options: Mapping[str, Any]
    ) -> Handed:
        messages: list[BaseMessage] = [*messages_in(value)]
        needs = Needs.of(messages, options, structured=True)

        def how(llm: BaseChatModel) -> Runnable[Any, Any]:
            bound = self.how(llm)
            return bound.bind(**options) if options else bound

        return Handed(self.delegate(messages, needs, how, config), messages)


class ChatMoMA(CallForms, BaseChatModel):
    """A chat model that asks, for each call, the LLM that is worth its price.

    Only LLMs that can do what the call needs (tools, structured output, images, length) are
    eligible: `.profile` and the router's `LLMCard` say so. A failing LLM is followed by the next
    best; one that keeps failing is left alone for a while. While tool calls are being answered, the
    LLM that made them goes on. An answer names its LLM in ``response_metadata["moma_llm"]``;
    ``invoke(..., model="name")`` asks that one alone.

    Args:
        router: Decides; its agents play no part here.
        llms: Chat models by the names of the router's LLMs.
        preference: ``"performance"``, ``"auto"``, ``"cost"`` or a `Preference`; for one call:
            ``config={"configurable": {"moma_preference": "cost"}}``.
        health: Circuit breakers; share one between objects that ask the same LLMs.
        telemetry: Counters; share one likewise.

    Raises:
        InvalidInputError: ``llms`` is empty or holds something that is no chat model.
        InvalidPreferenceError: There is no such preference.
        UnknownNameError: A name is not among the router's LLMs; at a call: ``model=`` is not among
            ``llms``.
        NoTargetError: At a call: no LLM can do what it needs.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> from moma_core import MoMARouter
        >>> llms = {
        ...     "gpt-4o-2024-08-06": FakeListChatModel(responses=["a long proof"]),
        ...     "gpt-4o-mini-2024-07-18": FakeListChatModel(responses=["hello"]),
        ... }
        >>> chat = ChatMoMA(router=MoMARouter.from_cards(), llms=llms, preference="cost")
        >>> answer = chat.invoke("say hello")
        >>> answer.text, answer.response_metadata["moma_llm"]
        ('hello', 'gpt-4o-mini-2024-07-18')
    """

    router: SkipValidation[MoMARouter] = Field(exclude=True, repr=False)
    llms: SkipValidation[Mapping[str, BaseChatModel]] = Field(exclude=True, repr=False)
    preference: SkipValidation[str | Preference | None] = None
    health: SkipValidation[Health] = Field(default_factory=Health, exclude=True, repr=False)
    telemetry: SkipValidation[Telemetry] = Field(
        default_factory=Telemetry, exclude=True, repr=False
    )

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self._pool.check()
        parse_preference(self.preference)

    @property
    def _pool(self) -> ChatPool:
        return ChatPool(self.router, self.llms, self.health, self.telemetry)

    @property
    def _llm_type(self) -> str:
        return "moma"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"llms": sorted(self.llms), "preference": str(self.preference)}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params.setdefault("ls_model_name", "moma")
        return params

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """The preference for one call."""
        return [
            ConfigurableFieldSpec(
                id=PREFERENCE,
                annotation=Any,
                name="Preference",
                description="performance, auto or cost",
                default=self.preference,
            )
        ]

    def _resolve_model_profile(self) -> ModelProfile | None:
        """Return what all LLMs have in common, so that nobody relies on what one lacks."""
        profiles = [dict(llm.profile or {}) for llm in self.llms.values()]
        shared = set.intersection(*(set(profile) for profile in profiles)) if profiles else set()
        common = {key: _weakest([profile[key] for profile in profiles]) for key in sorted(shared)}
        return cast("ModelProfile", {k: v for k, v in common.items() if v is not None}) or None

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools; the chosen LLM converts them to its own form."""
        choice = {} if tool_choice is None else {"tool_choice": tool_choice}
        return self.bind(tools=list(tools), **choice, **kwargs)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a Runnable that gives ``schema`` by the chosen LLM's own method."""

        def how(llm: BaseChatModel) -> Runnable[Any, Any]:
            return llm.with_structured_output(schema, include_raw=include_raw, **kwargs)

        return StructuredMoMA(delegate=self._delegate, how=how)

    def _hand_on(
        self, value: LanguageModelInput, config: RunnableConfig, options: Mapping[str, Any]
    ) -> Handed:
        messages = self._convert_input(value).to_messages()
        needs = Needs.of(messages, options)
        options, others = self._pinned(options)
        return Handed(self._delegate(messages, needs, prepared(options), config, others), messages)

    def _delegate(
        self,
        messages: Sequence[BaseMessage],
        needs: Needs,
        how: How,
        config: RunnableConfig,
        others: frozenset[str] = frozenset(),
    ) -> Delegation:
        preference = preference_in(config, self.preference)
        ask = Ask(messages, needs, preference, excluded_in(config) | others)
        return Delegation(self._pool, ask, how)

    def _pinned(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
        """Return the options, and the LLMs ruled out by ``model=`` with the name of one."""
        rest = dict(options)
        name = rest.pop("model", None)
        if name is None:
            return rest, frozenset()
        if name not in tuple(self.llms):
            raise UnknownNameError(
                f"model={name!r} names none of the LLMs here, {sorted(self.llms)!r}. "
                f"{did_you_mean(name, self.llms)}Leave it out to have one chosen."
            )
        return rest, frozenset(self.llms).difference({name})

    def _direct(
        self, messages: list[BaseMessage], stop: list[str] | None, options: Mapping[str, Any]
    ) -> Direct:
        needs = Needs.of(messages, options)
        options, others = self._pinned(options)
        if stop is not None:
            options["stop"] = stop
        ask = Ask(messages, needs, self.preference, others)
        return Direct(self._pool, ask, prepared(options))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._direct(messages, stop, kwargs).generate(messages, run_manager)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await self._direct(messages, stop, kwargs).agenerate(messages, run_manager)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        yield from self._direct(messages, stop, kwargs).stream(messages, run_manager)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in self._direct(messages, stop, kwargs).astream(messages, run_manager):
            yield chunk


def prepared(options: Mapping[str, Any]) -> How:
    """Return what makes a chat model ready for a call: tools bound its own way, options passed."""
    rest = dict(options)
    tools = rest.pop("tools", None)

    def how(llm: BaseChatModel) -> Runnable[Any, Any]:
        own = portable_options(rest, llm)
        return llm.bind_tools(portable_tools(tools, llm), **own) if tools else llm.bind(**own)

    return how


def _weakest(values: Sequence[Any]) -> Any:
    """Return what holds for all: a flag if all have it, the smallest number, a common value."""
    if all(isinstance(value, bool) for value in values):
        return all(values)
    if all(isinstance(value, int | float) for value in values):
        return min(values)
    return values[0] if all(value == values[0] for value in values) else None
