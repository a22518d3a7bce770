"""ChatMoMA: a chat model that chooses the LLM for each call and hands the call to it."""

# ruff: noqa: ARG002  # LangChain passes `run_manager` by its name, needed or not

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import (
    BaseChatModel,
    LangSmithParams,
    LanguageModelInput,
    ModelProfile,
)
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableSerializable
from langchain_core.tools import BaseTool
from pydantic import ConfigDict, Field, SkipValidation

from langchain_moma.calls import (
    CallRunnable,
    ChatCall,
    ChatCalls,
    ChatRequest,
    How,
    Needs,
    router_over,
    tokens_told_by,
)
from langchain_moma.decision import (
    PREFERENCE,
    check_wish,
    excluded_in,
    preference_in,
)
from langchain_moma.messages import messages_in
from langchain_moma.portable import portable_options, portable_tools
from langchain_moma.telemetry import Telemetry
from moma_core import LLMCard, MoMARouter, Preference, UnknownNameError
from moma_core.fallback import FallbackOn
from moma_core.health import Health
from moma_core.types import did_you_mean

__all__ = [
    "ChatMoMA",
    "StructuredMoMA",
]

_UNTRACED: RunnableConfig = {"callbacks": []}  # the chat model's own run is the one that is traced


class ChatMoMA(CallRunnable, BaseChatModel):
    """A chat model that asks, for each call, the LLM that is worth its price.

    Only LLMs that can do what the call needs (tools, structured output, images, length) are
    eligible: `.profile` and the router's `LLMCard` say so. A failing LLM is followed by the next
    best; one that keeps failing is left alone for a while. While tool calls are being answered, the
    LLM that made them goes on. An answer names its LLM in ``response_metadata["moma_llm"]``;
    ``invoke(..., model="name")`` asks that one alone. Where it reports its usage,
    ``response_metadata["moma_cost"]`` has the expected USD and the real ones, from which later
    expectations are corrected. While the router learns from use, the decision is there too:
    ``router.feedback(decision_in(answer), reward)``.

    Args:
        router: Decides; its agents play no part here. Left out, or with agents alone, the chat
            models are known by their cards, so that hard queries go to able ones on the first day.
        llms: Chat models by the names of the router's LLMs, or by any.
        cards: Where the router has no LLMs: what is known of the chat models, prices, published
            scores, likes (`LLMCard`). Prices that are missing are read from litellm's table where
            that package is installed.
        preference: ``"performance"``, ``"auto"``, ``"cost"`` or a `Preference`; for one call:
            ``config={"configurable": {"moma_preference": "cost"}}``.
        max_latency: As in `MoMARouter.route`.
        health: Circuit breakers; share one between objects that ask the same LLMs.
        telemetry: Counters; share one likewise.
        fallback_on: Errors after which the next LLM is asked: classes or a predicate. By default
            all but those that are the caller's, such as a 400 (`moma_core.fallback`).

    Raises:
        InvalidInputError: ``llms`` is empty or holds something that is no chat model.
        InvalidPreferenceError: There is no such preference.
        InvalidCardError: The price of a chat model is not known.
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
        >>> own = {
        ...     "fast": FakeListChatModel(responses=["hello"]),
        ...     "deep": FakeListChatModel(responses=["a long proof"]),
        ... }
        >>> cards = [LLMCard("fast", 0.1, 0.4, quality=0.75), LLMCard("deep", 2, 8, quality=0.9)]
        >>> ChatMoMA(llms=own, cards=cards).invoke("say hello").text
        'hello'
    """

    router: SkipValidation[MoMARouter] = Field(exclude=True, repr=False)
    llms: SkipValidation[Mapping[str, BaseChatModel]] = Field(exclude=True, repr=False)
    preference: SkipValidation[str | Preference | None] = None
    max_latency: float | None = None
    health: SkipValidation[Health] = Field(default_factory=Health, exclude=True, repr=False)
    telemetry: SkipValidation[Telemetry] = Field(
        default_factory=Telemetry, exclude=True, repr=False
    )
    fallback_on: SkipValidation[FallbackOn | None] = Field(default=None, exclude=True, repr=False)

    def __init__(self, *, cards: Iterable[LLMCard] = (), **fields: Any) -> None:
        fields["router"] = router_over(fields.get("router"), fields.get("llms"), cards)
        super().__init__(**fields)
        self._calls.check()
        check_wish(self.preference, self.max_latency)

    @property
    def _calls(self) -> ChatCalls:
        return ChatCalls(
            self.router, self.llms, self.health, self.telemetry, fallback_on=self.fallback_on
        )

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

    def get_num_tokens(self, text: str) -> int:
        """Return the tokens of a text, as the LLM that would read it counts them."""
        return self.get_num_tokens_from_messages([HumanMessage(text)])

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return the tokens of messages and tools, as the LLM that would read them counts them.

        An LLM without a count of its own is counted for here, offline.
        """
        request = ChatRequest(messages, preference=self.preference, max_latency=self.max_latency)
        return tokens_told_by(self._calls.in_view(request), messages, tools or ())

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

        return StructuredMoMA(chat=self, how=how)

    def _prepare(
        self, value: LanguageModelInput, config: RunnableConfig, options: dict[str, Any]
    ) -> ChatCall:
        return self._call(self._convert_input(value).to_messages(), config, options)

    def _call(
        self,
        messages: list[BaseMessage],
        config: RunnableConfig,
        options: Mapping[str, Any],
        structured: How | None = None,
    ) -> ChatCall:
        """Return the prepared call; ``structured`` makes a chat model give a schema."""
        rest, others = self._pinned(options)
        request = ChatRequest(
            messages,
            Needs.of(messages, options, structured=structured is not None),
            preference_in(config, self.preference),
            excluded_in(config) | others,
            self.max_latency,
        )

        def how(llm: BaseChatModel) -> Runnable[Any, Any]:
            bound = structured(llm) if structured is not None else llm
            if "tools" in rest and structured is None:
                return _with_tools(llm, rest)
            own = portable_options(rest, llm)
            return bound.bind(**own) if own else bound

        return ChatCall(self._calls, request, how)

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

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = self._untraced(messages, stop, kwargs).invoke(_UNTRACED)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = await self._untraced(messages, stop, kwargs).ainvoke(_UNTRACED)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self._untraced(messages, stop, kwargs).stream(_UNTRACED):
            yield ChatGenerationChunk(message=chunk)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in self._untraced(messages, stop, kwargs).astream(_UNTRACED):
            yield ChatGenerationChunk(message=chunk)

    def _untraced(
        self, messages: list[BaseMessage], stop: list[str] | None, options: dict[str, Any]
    ) -> ChatCall:
        return self._call(messages, {}, options if stop is None else {**options, "stop": stop})


class StructuredMoMA(CallRunnable, RunnableSerializable[LanguageModelInput, Any]):
    """Gives what ``with_structured_output`` of the chosen LLM gives.

    Args:
        chat: Chooses.
        how: Turns a chat model into a Runnable that gives the wanted form.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    chat: SkipValidation[ChatMoMA] = Field(exclude=True)
    how: SkipValidation[How] = Field(exclude=True)

    def _prepare(
        self, value: LanguageModelInput, config: RunnableConfig, options: dict[str, Any]
    ) -> ChatCall:
        messages: list[BaseMessage] = [*messages_in(value)]
        return self.chat._call(messages, config, options, self.how)  # noqa: SLF001


def _with_tools(llm: BaseChatModel, options: Mapping[str, Any]) -> Runnable[Any, Any]:
    """Bind tools the chat model's own way."""
    rest = {key: value for key, value in options.items() if key != "tools"}
    tools, own = options["tools"], portable_options(rest, llm)
    return llm.bind_tools(portable_tools(tools, llm), **own) if tools else llm.bind(**own)


def _weakest(values: Sequence[Any]) -> Any:
    """Return what holds for all: a flag if all have it, the smallest number, a common value."""
    if all(isinstance(value, bool) for value in values):
        return all(values)
    if all(isinstance(value, int | float) for value in values):
        return min(values)
    return values[0] if all(value == values[0] for value in values) else None
