"""An LLM for LlamaIndex that is several: each call goes to the one worth its price for that query."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection

from llamaindex_moma.cards import nearest
from llamaindex_moma.events import MoMALLMFailureEvent, MoMARouteEvent, scores_of, tell
from llamaindex_moma.ranking import packaged_encoder
from moma_core import (
    InvalidInputError,
    LLMRouter,
    MoMARouter,
    NoTargetError,
    Preference,
    RoutingDecision,
    UnknownNameError,
)
from moma_core.types import is_text

if TYPE_CHECKING:
    from llama_index.core.tools import BaseTool

__all__ = [
    "Call",
    "Delegates",
    "MoMALLM",
    "last_user_text",
]

TAG = "moma_llm"
_NO_WORDS = "(no text)"


def last_user_text(
    messages: Sequence[ChatMessage] | None, user_msg: str | ChatMessage | None = None
) -> str:
    """Return the words to route by: the last that the user wrote, else the last at all.

    Example:
        >>> last_user_text([ChatMessage("hello"), ChatMessage("hi", role="assistant")])
        'hello'
    """
    if user_msg is not None:
        return user_msg if isinstance(user_msg, str) else user_msg.content or ""
    texts = [(message.role, message.content or "") for message in messages or ()]
    asked = [text for role, text in texts if role == MessageRole.USER and is_text(text)]
    return asked[-1] if asked else next((text for _, text in reversed(texts) if is_text(text)), "")


@dataclass(frozen=True)
class Delegates:
    """LLMs by name, and the router that orders them.

    Args:
        llms: By the names that the router scores.
        router: Has an LLM pool.
        preference: For calls that bring none.
        fallback_on: Errors after which the next LLM is asked.
    """

    llms: Mapping[str, LLM]
    router: MoMARouter
    preference: str | Preference | None
    fallback_on: tuple[type[Exception], ...]

    @classmethod
    def of(
        cls,
        llms: Mapping[str, LLM],
        router: MoMARouter | None,
        preference: str | Preference | None,
        fallback_on: tuple[type[Exception], ...],
    ) -> Delegates:
        """Check names and preference once, so that a slip shows before the first call."""
        if not llms:
            raise InvalidInputError("there is no LLM to choose from. Give MoMALLM({name: llm}).")
        router = router or MoMARouter.from_cards(encoder=packaged_encoder())
        known = _pool(router).names
        for name in llms:
            if name not in known:
                raise UnknownNameError(
                    f"the router scores no LLM called {name!r}. {nearest(name, known)} Use its "
                    f"names; add one without any data: router.save('pool'), then moma llms add "
                    f"{name!r} --input USD --output USD --quality SCORE --router pool, then "
                    "MoMARouter.load('pool'); or train a pool: moma train llms."
                )
        made = cls(dict(llms), router, preference, fallback_on)
        made.order("check", preference)
        return made

    def preferring(self, preference: str | Preference) -> Delegates:
        """Return the same with another preference."""
        self.order("check", preference)
        return replace(self, preference=preference)

    @property
    def metadata(self) -> LLMMetadata:
        """The smallest of everything; tool calls if one LLM can, as they go to such LLMs only."""
        each = [llm.metadata for llm in self.llms.values()]
        outputs = [item.num_output for item in each if item.num_output > 0]
        roles = {item.system_role for item in each}
        return LLMMetadata(
            context_window=min(item.context_window for item in each),
            num_output=min(outputs, default=-1),
            is_chat_model=all(item.is_chat_model for item in each),
            is_function_calling_model=bool(self._able()),
            model_name=f"moma({', '.join(self.llms)})",
            system_role=roles.pop() if len(roles) == 1 else MessageRole.SYSTEM,
        )

    def order(
        self, text: str, preference: str | Preference | None, *, tools: bool = False
    ) -> RoutingDecision:
        """Decide among the LLMs that may take this call.

        Raises:
            NoTargetError: Tools are to be called, and no LLM here can.
        """
        allowed = self._able() if tools else self.llms
        if not allowed:
            raise NoTargetError(
                f"none of the LLMs {list(self.llms)!r} can call tools. Give MoMALLM one whose "
                "metadata.is_function_calling_model is true, or use a ReActAgent."
            )
        words = text if is_text(text) else _NO_WORDS
        wanted = self.preference if preference is None else preference
        return self.router.choose_llm(words, list(allowed), wanted)

    def call(
        self, owner: LLM, method: str, text: str, kwargs: dict[str, Any], tools: bool = False
    ) -> Call:
        """Decide for one call; takes ``preference`` and the tag of a bound call out of kwargs."""
        if owner.rate_limiter is not None:
            owner.rate_limiter.acquire()
        return self._call(owner, method, text, kwargs, tools=tools)

    async def acall(
        self, owner: LLM, method: str, text: str, kwargs: dict[str, Any], tools: bool = False
    ) -> Call:
        """Decide for one call, off the event loop."""
        if owner.rate_limiter is not None:
            await owner.rate_limiter.async_acquire()
        return await asyncio.to_thread(self._call, owner, method, text, kwargs, tools=tools)

    def author_of(self, response: ChatResponse) -> FunctionCallingLLM:
        """Return the LLM that wrote a response; any that can call tools if it carries no tag."""
        able = self._able()
        name = response.additional_kwargs.get(TAG)
        if name not in able and not able:
            raise NoTargetError("none of the LLMs here can call tools.")
        return able[name] if name in able else next(iter(able.values()))

    def _able(self) -> dict[str, FunctionCallingLLM]:
        return {
            name: llm
            for name, llm in self.llms.items()
            if isinstance(llm, FunctionCallingLLM) and llm.metadata.is_function_calling_model
        }

    def _call(
        self, owner: LLM, method: str, text: str, kwargs: dict[str, Any], *, tools: bool
    ) -> Call:
        preference, bound = kwargs.pop("preference", None), kwargs.pop(TAG, None)
        start = time.perf_counter()
        if bound in self.llms:
            names = [cast("str", bound)]
        else:
            decision = self.order(text, preference, tools=tools)
            names = [candidate.name for candidate in decision.candidates]
            _announce(text, decision, start)
        heard = owner.callback_manager if owner.callback_manager.handlers else None
        asked = [(name, _heard_by(heard, self.llms[name])) for name in names]
        return Call(asked, method, kwargs, self.fallback_on)


@dataclass(frozen=True)
class Call:
    """One call, ready to be made.

    Args:
        llms: Names and LLMs, in the order in which they are asked.
        method: The method to call.
        kwargs: For the method, beside what `run` and the others are given.
        fallback_on: Errors after which the next LLM is asked.
    """

    llms: list[tuple[str, LLM]]
    method: str
    kwargs: dict[str, Any]
    fallback_on: tuple[type[Exception], ...]

    def run(self, *args: Any, **more: Any) -> Any:
        """Return the answer of the first LLM that gives one."""
        for i, (name, llm) in enumerate(self.llms):
            try:
                return _tagged(getattr(llm, self.method)(*args, **more, **self.kwargs), name)
            except self.fallback_on as error:
                self._failed(i, error)
        raise AssertionError("the last failure was raised")

    async def arun(self, *args: Any, **more: Any) -> Any:
        """Return the answer of the first LLM that gives one."""
        for i, (name, llm) in enumerate(self.llms):
            try:
                return _tagged(await getattr(llm, self.method)(*args, **more, **self.kwargs), name)
            except self.fallback_on as error:
                self._failed(i, error)
        raise AssertionError("the last failure was raised")

    def stream(self, *args: Any, **more: Any) -> Iterator[Any]:
        """Return the pieces of the first LLM that gives one; later failures are the caller's."""
        for i, (name, llm) in enumerate(self.llms):
            try:
                pieces = iter(getattr(llm, self.method)(*args, **more, **self.kwargs))
                first = next(pieces, None)
            except self.fallback_on as error:
                self._failed(i, error)
            else:
                return _resumed(first, pieces, name)
        raise AssertionError("the last failure was raised")

    async def astream(self, *args: Any, **more: Any) -> AsyncIterator[Any]:
        """Return the pieces of the first LLM that gives one; later failures are the caller's."""
        for i, (name, llm) in enumerate(self.llms):
            try:
                pieces = aiter(await getattr(llm, self.method)(*args, **more, **self.kwargs))
                first = await anext(pieces, None)
            except self.fallback_on as error:
                self._failed(i, error)
            else:
                return _aresumed(first, pieces, name)
        raise AssertionError("the last failure was raised")

    def _failed(self, i: int, error: Exception) -> None:
        """Tell the dispatcher; raise the error when nobody is left."""
        following = self.llms[i + 1][0] if i + 1 < len(self.llms) else None
        tell(MoMALLMFailureEvent(llm=self.llms[i][0], error=repr(error), following=following))
        if following is None:
            raise error


def _resumed(first: Any, rest: Iterator[Any], name: str) -> Iterator[Any]:
    if first is not None:
        yield _tagged(first, name)
        for piece in rest:
            yield _tagged(piece, name)


async def _aresumed(first: Any, rest: AsyncIterator[Any], name: str) -> AsyncIterator[Any]:
    if first is not None:
        yield _tagged(first, name)
        async for piece in rest:
            yield _tagged(piece, name)


def _tagged(response: Any, name: str) -> Any:
    """Say which LLM wrote a response; what is prepared for it stays bound to it."""
    if isinstance(response, dict):
        return {**response, TAG: name}
    response.additional_kwargs = {**(response.additional_kwargs or {}), TAG: name}
    return response


def _heard_by(manager: CallbackManager | None, llm: LLM) -> LLM:
    """Return the LLM with its events sent to a manager; the caller's own object stays as it is."""
    return llm if manager is None else llm.model_copy(update={"callback_manager": manager})


def _announce(text: str, decision: RoutingDecision, start: float) -> None:
    tell(
        MoMARouteEvent(
            kind="llm",
            query=text,
            targets=list(decision.targets),
            reason=decision.reason,
            scores=scores_of(decision.candidates),
            cost=decision.cost,
            preference=decision.preference,
            ms=(time.perf_counter() - start) * 1e3,
            decision=decision.to_dict(),
        )
    )


def _pool(router: MoMARouter) -> LLMRouter:
    if router.llms is None:
        raise InvalidInputError(
            "this router has no LLMs. Give it some: MoMARouter.from_cards(llms='packaged')."
        )
    return router.llms


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
