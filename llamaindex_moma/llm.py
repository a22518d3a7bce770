"""An LLM for LlamaIndex that is several: each call goes to the one worth its price for that query.

Everything is delegated: prompts, streams, tool calls and their parsing. The chosen LLM fires its
own callbacks and events, once; this class adds only which LLM was chosen and why.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
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
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection

from llamaindex_moma.delegation import Delegates, last_user_text
from moma_core import MoMARouter, Preference

if TYPE_CHECKING:
    from llama_index.core.tools import BaseTool

__all__ = ["MoMALLM"]

_Piece = TypeVar("_Piece")


class MoMALLM(FunctionCallingLLM):
    """Picks among LLMs for each call, by preference, and delegates the call to the chosen one.

    The last user message is what is routed, so that all steps of a tool-calling loop go to the same
    LLM. An LLM that fails before its first token is followed by the next best. Tool calls go to
    function-calling LLMs only.

    Args:
        llms: LlamaIndex LLMs by the names under which the router scores them; LLMs of the router
            without an entry here are never chosen.
        router: Scores the LLMs; the packaged pool by default.
        preference: ``"performance"``, ``"auto"``, ``"cost"``, ``"cost:0.002"`` (USD a query), or a
            `Preference`; a call may bring its own as ``preference=...``.
        fallback_on: Errors after which the next LLM is asked.
        kwargs: For `LLM`, such as ``callback_manager``, which then receives the events of all.

    Raises:
        UnknownNameError: The router does not know a name.
        InvalidInputError: There is no LLM at all.
        InvalidPreferenceError: There is no such preference.

    Example:
        >>> from llama_index.core.llms import MockLLM
        >>> llm = MoMALLM({"gpt-4o-mini-2024-07-18": MockLLM(), "gemini-1.5-pro": MockLLM()})
        >>> response = llm.complete("What is 17 * 23?", preference="cost")
        >>> response.additional_kwargs["moma_llm"]
        'gpt-4o-mini-2024-07-18'
    """

    _delegates: Delegates = PrivateAttr()

    def __init__(
        self,
        llms: Mapping[str, LLM],
        router: MoMARouter | None = None,
        *,
        preference: str | Preference | None = None,
        fallback_on: tuple[type[Exception], ...] = (Exception,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._delegates = Delegates.of(llms, router, preference, fallback_on)

    @classmethod
    def class_name(cls) -> str:
        """Return the class' name, as LlamaIndex wants it."""
        return "MoMALLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What every LLM here can do: the smallest windows, and tool calls if one can."""
        return self._delegates.metadata

    def with_preference(self, preference: str | Preference) -> MoMALLM:
        """Return the same LLMs with another preference.

        Raises:
            InvalidPreferenceError: There is no such preference.
        """
        copy = self.model_copy()
        copy._delegates = self._delegates.preferring(preference)  # noqa: SLF001 - its own class
        return copy

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Complete a prompt."""
        call = self._delegates.call(self, "complete", prompt, kwargs)
        response: CompletionResponse = call.run(prompt, formatted=formatted)
        return response

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer messages."""
        call = self._delegates.call(self, "chat", last_user_text(messages), kwargs)
        response: ChatResponse = call.run(messages)
        return response

    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Complete a prompt, piece by piece."""
        call = self._delegates.call(self, "stream_complete", prompt, kwargs)
        return _generator(call.stream(prompt, formatted=formatted))

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer messages, piece by piece."""
        call = self._delegates.call(self, "stream_chat", last_user_text(messages), kwargs)
        return _generator(call.stream(messages))

    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Complete a prompt."""
        call = await self._delegates.acall(self, "acomplete", prompt, kwargs)
        response: CompletionResponse = await call.arun(prompt, formatted=formatted)
        return response

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer messages."""
        call = await self._delegates.acall(self, "achat", last_user_text(messages), kwargs)
        response: ChatResponse = await call.arun(messages)
        return response

    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Complete a prompt, piece by piece."""
        call = await self._delegates.acall(self, "astream_complete", prompt, kwargs)
        return _agenerator(await call.astream(prompt, formatted=formatted))

    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer messages, piece by piece."""
        call = await self._delegates.acall(self, "astream_chat", last_user_text(messages), kwargs)
        return _agenerator(await call.astream(messages))

    def chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        """Answer or call tools; only function-calling LLMs are asked."""
        asked = _asked(user_msg, chat_history, verbose, allow_parallel_tool_calls, tool_required)
        text = last_user_text(chat_history, user_msg)
        call = self._delegates.call(self, "chat_with_tools", text, kwargs, tools=True)
        response: ChatResponse = call.run(tools, **asked)
        return response

    async def achat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        """Answer or call tools; only function-calling LLMs are asked."""
        asked = _asked(user_msg, chat_history, verbose, allow_parallel_tool_calls, tool_required)
        text = last_user_text(chat_history, user_msg)
        call = await self._delegates.acall(self, "achat_with_tools", text, kwargs, tools=True)
        response: ChatResponse = await call.arun(tools, **asked)
        return response

    def stream_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> ChatResponseGen:
        """Answer or call tools, piece by piece; only function-calling LLMs are asked."""
        asked = _asked(user_msg, chat_history, verbose, allow_parallel_tool_calls, tool_required)
        text = last_user_text(chat_history, user_msg)
        call = self._delegates.call(self, "stream_chat_with_tools", text, kwargs, tools=True)
        return _generator(call.stream(tools, **asked))

    async def astream_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> ChatResponseAsyncGen:
        """Answer or call tools, piece by piece; only function-calling LLMs are asked."""
        asked = _asked(user_msg, chat_history, verbose, allow_parallel_tool_calls, tool_required)
        text = last_user_text(chat_history, user_msg)
        call = await self._delegates.acall(
            self, "astream_chat_with_tools", text, kwargs, tools=True
        )
        return _agenerator(await call.astream(tools, **asked))

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the tool calls, as read by the LLM that wrote the response."""
        author = self._delegates.author_of(response)
        return author.get_tool_calls_from_response(
            response, error_on_no_tool_call=error_on_no_tool_call, **kwargs
        )

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return what ``chat`` takes, bound to the LLM that will understand it."""
        asked = _asked(user_msg, chat_history, verbose, allow_parallel_tool_calls, tool_required)
        text, method = last_user_text(chat_history, user_msg), "_prepare_chat_with_tools_compat"
        call = self._delegates.call(self, method, text, kwargs, tools=True)
        prepared: dict[str, Any] = call.run(tools, **asked)
        return prepared


def _asked(
    user_msg: str | ChatMessage | None,
    chat_history: list[ChatMessage] | None,
    verbose: bool,
    allow_parallel_tool_calls: bool,
    tool_required: bool,
) -> dict[str, Any]:
    """Return what the caller asked for; older LLMs do not know ``tool_required``."""
    asked: dict[str, Any] = {
        "user_msg": user_msg,
        "chat_history": chat_history,
        "verbose": verbose,
        "allow_parallel_tool_calls": allow_parallel_tool_calls,
    }
    return {**asked, "tool_required": True} if tool_required else asked


def _generator(stream: Iterator[_Piece]) -> Generator[_Piece, None, None]:
    """Return a generator, which some of LlamaIndex's callers insist on."""
    yield from stream


async def _agenerator(stream: AsyncIterator[_Piece]) -> AsyncGenerator[_Piece, None]:
    async for piece in stream:
        yield piece
