"""An LLM for LlamaIndex that is several: each call goes to the one worth its price for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.bridge.pydantic import BaseModel, PrivateAttr
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.types import TokenAsyncGen, TokenGen

from llamaindex_moma.calls import (
    DECISION,
    TAG,
    ChatCall,
    ChatCalls,
    Wish,
    answering,
    astarted,
    router_over,
    started,
)
from llamaindex_moma.events import MoMARouteEvent
from llamaindex_moma.question import asking, question_in, question_in_messages
from moma_core import InvalidInputError, LLMCard, MoMARouter, Preference, RoutingDecision
from moma_core.fallback import FallbackOn
from moma_core.health import Health

if TYPE_CHECKING:
    from llama_index.core.program.utils import FlexibleModel
    from llama_index.core.tools import BaseTool

__all__ = ["MoMALLM"]

_Model = TypeVar("_Model", bound=BaseModel)


class MoMALLM(FunctionCallingLLM):
    """Asks, for each call, the LLM that is worth its price.

    The user's question is what is routed: not the text that was retrieved for it, nor what tools
    returned, so that all steps of one question go to the same LLM. Only LLMs whose window holds the
    call are eligible, and for tool calls those that can call functions. An LLM that fails before
    its first token is followed by the next best, as `moma_core.fallback` says; one that keeps
    failing is left alone for a while. A call may bring its own ``preference``, ``max_latency`` and
    ``exclude``. An answer names its LLM in ``additional_kwargs["moma_llm"]``; where it reports its
    usage, ``"moma_cost"`` beside it has the expected USD and the real ones, from which later
    expectations are corrected.

    Args:
        llms: LlamaIndex LLMs by the names under which the router scores them, or by any; LLMs of
            the router without an entry here are never chosen. They stay as they are, callbacks
            included.
        router: Scores the LLMs. Left out, or with agents alone, the packaged pool knows them, or
            their cards do, so that hard questions go to able ones on the first day.
        cards: Where the router has no LLMs: what is known of ``llms``, prices, published scores,
            likes (`LLMCard`). Prices that are missing are read from litellm's table where that
            package is installed.
        preference: ``"performance"``, ``"auto"``, ``"cost"``, ``"cost:0.002"`` (USD a query), or a
            `Preference`.
        max_latency: Most seconds that an LLM may take, by `LLMCard.latency`.
        fallback_on: Errors after which the next LLM is asked, instead of the rule: classes, or a
            function of the error.
        health: Circuit breakers; share one between objects that ask the same LLMs.
        kwargs: For `LLM`, such as ``callback_manager``, which hears of each call once.

    Raises:
        UnknownNameError: The router does not know a name.
        InvalidCardError: The price of an LLM is not known.
        InvalidInputError: There is no LLM at all, or what is given is none.
        InvalidPreferenceError: There is no such preference.

    Example:
        >>> from llama_index.core.llms import MockLLM
        >>> llm = MoMALLM({"gpt-4o-mini-2024-07-18": MockLLM(), "gemini-1.5-pro": MockLLM()})
        >>> response = llm.complete("What is 17 * 23?", preference="cost")
        >>> response.additional_kwargs["moma_llm"]
        'gpt-4o-mini-2024-07-18'
    """

    _calls: ChatCalls = PrivateAttr()

    def __init__(
        self,
        llms: Mapping[str, LLM],
        router: MoMARouter | None = None,
        *,
        cards: Iterable[LLMCard] = (),
        preference: str | Preference | None = None,
        max_latency: float | None = None,
        fallback_on: FallbackOn | None = None,
        health: Health | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        wish = Wish(preference, max_latency)
        router = router_over(router, llms, cards)
        calls = ChatCalls(llms, router, health or Health(), wish, fallback_on)
        calls.check()
        self._calls = replace(calls, llms=dict(llms))

    @classmethod
    def class_name(cls) -> str:
        """Return the class' name, as LlamaIndex wants it."""
        return "MoMALLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What every LLM here can do: the smallest windows, and tool calls if one can."""
        return self._calls.metadata

    @property
    def router(self) -> MoMARouter:
        """Chooses; ``router.learn(Learning(...))`` turns on learning from use."""
        return self._calls.router

    @property
    def health(self) -> Health:
        """Which LLMs failed lately."""
        return self._calls.health

    def with_preference(self, preference: str | Preference) -> MoMALLM:
        """Return the same LLMs with another preference.

        Raises:
            InvalidPreferenceError: There is no such preference.
        """
        copy = self.model_copy()
        calls = replace(self._calls, wish=replace(self._calls.wish, preference=preference))
        calls.check()
        copy._calls = calls  # noqa: SLF001 - its own class
        return copy

    def feedback(
        self,
        answer: ChatResponse | CompletionResponse | MoMARouteEvent | RoutingDecision,
        reward: float,
    ) -> bool:
        """Learn how good an answer was; the router must be learning, see `MoMARouter.feedback`.

        Args:
            answer: What a call returned (of a stream, any piece), the `MoMARouteEvent` of a call
                inside a query engine or an agent, or the decision itself.
            reward: In [0, 1], 1 for the best answer.

        Returns:
            Whether it counts; a second feedback on the same decision does not.

        Raises:
            InvalidInputError: Learning is off, there is no decision in ``answer``, or the reward is
                out of bounds.
        """
        if isinstance(answer, RoutingDecision):
            return self.router.feedback(answer, reward)
        if isinstance(answer, MoMARouteEvent):
            found = answer.decision
        else:
            found = (getattr(answer, "additional_kwargs", None) or {}).get(DECISION)
        if found is None:
            raise InvalidInputError(
                f"there is no decision in this {type(answer).__name__}. Give what MoMALLM returned "
                "while learning was on: llm.router.learn(Learning(...)), from moma_core."
            )
        return self.router.feedback(RoutingDecision.from_dict(found), reward)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Complete a prompt."""
        call = self._completion("complete", prompt, formatted, kwargs)
        response: CompletionResponse = self._calls.run(call)
        return response

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer messages."""
        response: ChatResponse = self._calls.run(self._chat("chat", messages, kwargs))
        return response

    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Complete a prompt, piece by piece."""
        return self._calls.stream(self._completion("stream_complete", prompt, formatted, kwargs))

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer messages, piece by piece."""
        return self._calls.stream(self._chat("stream_chat", messages, kwargs))

    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Complete a prompt."""
        call = self._completion("acomplete", prompt, formatted, kwargs)
        response: CompletionResponse = await self._calls.arun(call)
        return response

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer messages."""
        response: ChatResponse = await self._calls.arun(self._chat("achat", messages, kwargs))
        return response

    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Complete a prompt, piece by piece."""
        call = self._completion("astream_complete", prompt, formatted, kwargs)
        return await self._calls.astream(call)

    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer messages, piece by piece."""
        return await self._calls.astream(self._chat("astream_chat", messages, kwargs))

    def chat_with_tools(self, tools: Sequence[BaseTool], *args: Any, **kwargs: Any) -> ChatResponse:
        """Answer or call tools; only function-calling LLMs are asked."""
        call = self._tool_call("chat_with_tools", tools, args, kwargs)
        response: ChatResponse = self._calls.run(call)
        return response

    async def achat_with_tools(
        self, tools: Sequence[BaseTool], *args: Any, **kwargs: Any
    ) -> ChatResponse:
        """Answer or call tools; only function-calling LLMs are asked."""
        call = self._tool_call("achat_with_tools", tools, args, kwargs)
        response: ChatResponse = await self._calls.arun(call)
        return response

    def stream_chat_with_tools(
        self, tools: Sequence[BaseTool], *args: Any, **kwargs: Any
    ) -> ChatResponseGen:
        """Answer or call tools, piece by piece; only function-calling LLMs are asked."""
        return self._calls.stream(self._tool_call("stream_chat_with_tools", tools, args, kwargs))

    async def astream_chat_with_tools(
        self, tools: Sequence[BaseTool], *args: Any, **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer or call tools, piece by piece; only function-calling LLMs are asked."""
        call = self._tool_call("astream_chat_with_tools", tools, args, kwargs)
        return await self._calls.astream(call)

    def predict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Fill a template and answer it; its question is routed, not the text around it."""
        with asking(prompt, prompt_args):
            return super().predict(prompt, **prompt_args)

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Fill a template and answer it; see `predict`."""
        with asking(prompt, prompt_args):
            return await super().apredict(prompt, **prompt_args)

    def stream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenGen:
        """Fill a template and answer it piece by piece; see `predict`."""
        with asking(prompt, prompt_args):
            return super().stream(prompt, **prompt_args)

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        """Fill a template and answer it piece by piece; see `predict`."""
        with asking(prompt, prompt_args):
            return await super().astream(prompt, **prompt_args)

    def structured_predict(
        self,
        output_cls: type[_Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> _Model:
        """Fill a template and answer it in a given form; see `predict`.

        An answer that has not this form is followed by the next best LLM's.
        """
        options = dict(llm_kwargs or {})
        with asking(prompt, prompt_args), answering() as given:
            while True:
                try:
                    found: _Model = super().structured_predict(
                        output_cls, prompt, options, **prompt_args
                    )
                except (TypeError, ValueError) as error:
                    options = self._calls.without(given, options, error)
                else:
                    return found

    async def astructured_predict(
        self,
        output_cls: type[_Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> _Model:
        """Fill a template and answer it in a given form; see `structured_predict`."""
        options = dict(llm_kwargs or {})
        with asking(prompt, prompt_args), answering() as given:
            while True:
                try:
                    found: _Model = await super().astructured_predict(
                        output_cls, prompt, options, **prompt_args
                    )
                except (TypeError, ValueError) as error:
                    options = self._calls.without(given, options, error)
                else:
                    return found

    def stream_structured_predict(
        self,
        output_cls: type[_Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[_Model | FlexibleModel, None, None]:
        """Fill a template and answer it in a given form, growing; see `predict`."""
        with asking(prompt, prompt_args):
            return started(
                super().stream_structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
            )

    async def astream_structured_predict(
        self,
        output_cls: type[_Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[_Model | FlexibleModel, None]:
        """Fill a template and answer it in a given form, growing; see `predict`."""
        with asking(prompt, prompt_args):
            pieces = await super().astream_structured_predict(
                output_cls, prompt, llm_kwargs, **prompt_args
            )
            return await astarted(pieces)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the tool calls, as read by the LLM that wrote the response."""
        author = self._calls.author_of(response)
        return author.get_tool_calls_from_response(
            response, error_on_no_tool_call=error_on_no_tool_call, **kwargs
        )

    def _prepare_chat_with_tools(
        self, tools: Sequence[BaseTool], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Return what ``chat`` takes, bound to the LLM that will understand it."""
        call = self._tool_call("_prepare_chat_with_tools_compat", tools, args, kwargs)
        prepared: dict[str, Any] = self._calls.run(call)
        return prepared

    def _completion(
        self, method: str, prompt: str, formatted: bool, options: dict[str, Any]
    ) -> ChatCall:
        wish = self._calls.wish.taken_from(options)
        options["formatted"] = formatted
        return ChatCall(self, method, (prompt,), options, wish, question_in(prompt), prompt)

    def _chat(
        self, method: str, messages: Sequence[ChatMessage], options: dict[str, Any]
    ) -> ChatCall:
        wish = self._calls.wish.taken_from(options)
        bound, decision = options.pop(TAG, None), options.pop(DECISION, None)
        call = ChatCall(
            self,
            method,
            (messages,),
            options,
            wish,
            question_in_messages(messages),
            messages,
            bound=bound,
        )
        if bound is not None and decision is not None:
            call.decisions[bound] = RoutingDecision.from_dict(decision)
        return call

    def _tool_call(
        self,
        method: str,
        tools: Sequence[BaseTool],
        args: Sequence[Any],
        options: dict[str, Any],
    ) -> ChatCall:
        wish = self._calls.wish.taken_from(options)
        options.update(zip(_TOOL_ARGUMENTS, args, strict=False))
        if not options.get("tool_required"):
            options.pop("tool_required", None)  # older LLMs do not know it
        history, message = options.get("chat_history"), options.get("user_msg")
        asked = ChatMessage(message) if isinstance(message, str) else message
        messages = [*(history or ()), *([asked] if asked is not None else ())]
        question = question_in_messages(history, message)
        return ChatCall(self, method, (tools,), options, wish, question, messages, tools=True)


# Of LlamaIndex's calls with tools, after the tools.
_TOOL_ARGUMENTS = (
    "user_msg",
    "chat_history",
    "verbose",
    "allow_parallel_tool_calls",
    "tool_required",
)
