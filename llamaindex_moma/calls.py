"""One call to one of several LlamaIndex LLMs: who may take it, who is asked, who hears of it."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import (
    AsyncGenerator,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
    MessageRole,
    TextBlock,
)
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.llms import LLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.utils import get_tokenizer

from llamaindex_moma.events import MoMALLMFailureEvent, MoMARouteEvent, send
from llamaindex_moma.portable import Authors, portable_messages
from llamaindex_moma.usage import COST, tokens_of, usage_in
from moma_core import (
    InvalidInputError,
    LLMCard,
    LLMRouter,
    MoMARouter,
    NoTargetError,
    Preference,
    Query,
    RoutingDecision,
    UnknownNameError,
)
from moma_core.errors import MoMAError
from moma_core.fallback import Attempt, Fallback, FallbackOn, available, check_fallback_on
from moma_core.health import Health
from moma_core.llms.prices import listed_card
from moma_core.llms.router import pool_for
from moma_core.types import is_text, nearest

__all__ = [
    "DECISION",
    "TAG",
    "ChatCall",
    "ChatCalls",
    "Wish",
    "answering",
    "astarted",
    "router_over",
    "started",
]

TAG = "moma_llm"
"""Key of an answer's ``additional_kwargs`` that names the LLM that wrote it."""

DECISION = "moma_decision"
"""Key of an answer's ``additional_kwargs``, while the router learns: `RoutingDecision.to_dict`."""

_NO_WORDS = "(no text)"
_given: ContextVar[list[str] | None] = ContextVar("moma_given", default=None)
_END: Any = object()
_Piece = TypeVar("_Piece")


@dataclass(frozen=True)
class Wish:
    """What a caller wants of the LLM.

    Args:
        preference: Quality against money, as in `MoMARouter.route`.
        max_latency: Most seconds that it may take, by `LLMCard.latency`.
        exclude: Names that may not be chosen; a text is one name.
    """

    preference: str | Preference | None = None
    max_latency: float | None = None
    exclude: Collection[str] | str = ()

    def taken_from(self, options: dict[str, Any]) -> Wish:
        """Return what a call's own options say instead, and take them out of these options."""
        preference = options.pop("preference", None)
        return Wish(
            self.preference if preference is None else preference,
            options.pop("max_latency", self.max_latency),
            options.pop("exclude", self.exclude),
        )


@dataclass(frozen=True)
class ChatCall:
    """One call, ready to be made.

    Args:
        owner: The LLM that was called: its callbacks hear of it, its rate limiter is asked.
        method: The method to call on the LLM that takes it.
        args: For the method.
        options: For the method too, by name.
        wish: What the caller wants of the LLM.
        query: The words to route by.
        messages: What the LLM will read, or the prompt.
        tools: Whether tools are to be called.
        bound: Name of the LLM that the call was prepared for.
        decisions: The LLMs that were chosen so far and how.
    """

    owner: LLM
    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    wish: Wish
    query: str
    messages: Sequence[ChatMessage] | str
    tools: bool = False
    bound: str | None = None
    decisions: dict[str, RoutingDecision] = field(default_factory=dict)

    def ask(self, llms: Mapping[str, LLM], name: str, authors: Authors) -> Any:
        """Return what the method of an LLM returns."""
        args, options = self.args, self.options
        history = options.get("chat_history") if self.tools else self.messages
        if history and not isinstance(history, str):
            read = portable_messages(history, llms, name, authors)
            if self.tools:
                options = {**options, "chat_history": read}
            else:
                args = (read,)
        return getattr(llms[name], self.method)(*args, **options)

    def expected(self, name: str) -> float | None:
        """Return the USD that asking an LLM was expected to cost, where it was chosen."""
        return self.decisions[name].cost_of(name) if name in self.decisions else None

    @contextmanager
    def heard(self, llm: LLM) -> Iterator[list[Any]]:
        """Tell the owner's callbacks of a call to ``llm``; the body appends its answers.

        The LLM's own callbacks hear of it through itself, so handlers of both are told once.
        """
        manager = copy.copy(self.owner.callback_manager)
        own = llm.callback_manager.handlers
        manager.set_handlers([each for each in manager.handlers if each not in own])
        if not manager.handlers or self.method.startswith("_"):
            yield []
            return
        kind = EventPayload.PROMPT if isinstance(self.messages, str) else EventPayload.MESSAGES
        asked: dict[str, Any] = {kind: self.messages}
        payload = {
            **asked,
            EventPayload.ADDITIONAL_KWARGS: self.options,
            EventPayload.SERIALIZED: self.owner.to_payload(),
        }
        answers: list[Any] = []
        with manager.as_trace("chat"), manager.event(CBEventType.LLM, payload=payload) as event:
            yield answers
            if answers:
                completed = isinstance(answers[-1], CompletionResponse)
                kind = EventPayload.COMPLETION if completed else EventPayload.RESPONSE
                event.on_end(payload={**asked, kind: answers[-1]})

    def tagged(self, response: Any, name: str) -> Any:
        """Say in a response who wrote it and how that LLM was chosen."""
        tags: dict[str, Any] = {TAG: name}
        decision, prepared = self.decisions.get(name), isinstance(response, dict)
        if decision is not None and (prepared or decision.trial is not None):
            tags[DECISION] = decision.to_dict()
        if prepared:  # what was prepared for an LLM stays bound to it
            return {**response, **tags}
        response.additional_kwargs = {**(response.additional_kwargs or {}), **tags}
        return response


@dataclass(frozen=True)
class ChatCalls:
    """LLMs by name, and the router that chooses among them.

    Args:
        llms: By the names that the router scores.
        router: Has LLMs.
        health: Circuit breakers.
        wish: For calls that bring none.
        fallback_on: Errors after which the next LLM is asked; None: as `moma_core.fallback` says.
        authors: Who made which tool call and thought.
    """

    llms: Mapping[str, LLM]
    router: MoMARouter
    health: Health
    wish: Wish
    fallback_on: FallbackOn | None = None
    authors: Authors = field(default_factory=Authors)

    def check(self) -> None:
        """Refuse what would fail at the first call."""
        check_fallback_on(self.fallback_on)
        known = self._pool.names
        for name in self.llms:
            if name not in known:
                raise UnknownNameError(
                    f"the router scores no LLM called {name!r}. {nearest(name, known)} Use its "
                    f"names; add one without any data: router.save('pool'), then moma llms add "
                    f"{name!r} --input USD --output USD --quality SCORE --router pool, then "
                    "MoMARouter.load('pool'); or train a pool: moma train llms."
                )
        self._choose(_NO_WORDS, list(self.llms), self.wish)

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

    def run(self, call: ChatCall) -> Any:
        """Return the answer of the first LLM that gives one."""
        if call.owner.rate_limiter is not None:
            call.owner.rate_limiter.acquire()
        fallback = self._fallback(call)
        while (attempt := self._next(fallback)) is not None:
            with attempt, call.heard(self.llms[attempt.name]) as answers:
                answers.append(
                    self._told(call, call.ask(self.llms, attempt.name, self.authors), attempt.name)
                )
                self._learn(call, answers[-1], attempt.name)
                return answers[-1]
        raise fallback.error()

    async def arun(self, call: ChatCall) -> Any:
        """Return the answer of the first LLM that gives one; choose off the event loop."""
        if call.owner.rate_limiter is not None:
            await call.owner.rate_limiter.async_acquire()
        fallback = self._fallback(call)
        while (attempt := await asyncio.to_thread(self._next, fallback)) is not None:
            with attempt, call.heard(self.llms[attempt.name]) as answers:
                answer = await call.ask(self.llms, attempt.name, self.authors)
                answers.append(self._told(call, answer, attempt.name))
                self._learn(call, answers[-1], attempt.name)
                return answers[-1]
        raise fallback.error()

    def stream(self, call: ChatCall) -> Generator[Any, None, None]:
        """Return the pieces of the first LLM that gives one; later failures are the caller's."""
        if call.owner.rate_limiter is not None:
            call.owner.rate_limiter.acquire()
        return started(self._pieces(call))

    async def astream(self, call: ChatCall) -> AsyncGenerator[Any, None]:
        """Return the pieces of the first LLM that gives one; choose off the event loop."""
        if call.owner.rate_limiter is not None:
            await call.owner.rate_limiter.async_acquire()
        return await astarted(self._apieces(call))

    def author_of(self, response: ChatResponse) -> FunctionCallingLLM:
        """Return the LLM that wrote a response; any that can call tools if it carries no tag."""
        able = self._able()
        name = response.additional_kwargs.get(TAG)
        if not able:
            raise NoTargetError("none of the LLMs here can call tools.")
        return able[name] if name in able else next(iter(able.values()))

    def _pieces(self, call: ChatCall) -> Generator[Any, None, None]:
        fallback = self._fallback(call)
        while (attempt := self._next(fallback)) is not None:
            with attempt, call.heard(self.llms[attempt.name]) as answers:
                for untagged in call.ask(self.llms, attempt.name, self.authors):
                    piece = self._told(call, untagged, attempt.name)
                    answers[:] = [piece]
                    yield from attempt.chunks(piece, empty=_says_nothing(piece))
                yield from attempt.rest()
                self._learn(call, answers[-1], attempt.name)
                return
        raise fallback.error()

    async def _apieces(self, call: ChatCall) -> AsyncGenerator[Any, None]:
        fallback = self._fallback(call)
        while (attempt := await asyncio.to_thread(self._next, fallback)) is not None:
            with attempt, call.heard(self.llms[attempt.name]) as answers:
                async for untagged in await call.ask(self.llms, attempt.name, self.authors):
                    piece = self._told(call, untagged, attempt.name)
                    answers[:] = [piece]
                    for ready in attempt.chunks(piece, empty=_says_nothing(piece)):
                        yield ready
                for ready in attempt.rest():
                    yield ready
                self._learn(call, answers[-1], attempt.name)
                return
        raise fallback.error()

    def _told(self, call: ChatCall, response: Any, name: str) -> Any:
        """Say in a response who wrote it, how that LLM was chosen, and what it cost."""
        told, used = call.tagged(response, name), usage_in(response)
        real = None if used is None else self._pool.paid(name, *used)
        if real is not None:
            told.additional_kwargs[COST] = {"expected": call.expected(name), "real": real}
        return told

    def _learn(self, call: ChatCall, response: Any, name: str) -> None:
        """Remember whose a whole answer is; correct later costs by what it cost."""
        if isinstance(response, ChatResponse):
            self.authors.wrote(name, response.message)
        if (given := _given.get()) is not None:
            given.append(name)
        if (used := usage_in(response)) is not None:
            self._pool.paid(name, *used, expected=call.expected(name))

    def without(
        self, given: list[str], options: Mapping[str, Any], error: TypeError | ValueError
    ) -> dict[str, Any]:
        """Return a call's options without the LLM whose answer had not the wanted form.

        Raises:
            TypeError: As given, where it is about something else, or nobody else is left.
            ValueError: Likewise.
        """
        exclude = options.get("exclude", self.wish.exclude)
        out = {exclude} if isinstance(exclude, str) else set(exclude)
        out.update(given[-1:])
        if not given or isinstance(error, MoMAError) or out.issuperset(self._able() or self.llms):
            raise error
        send(MoMALLMFailureEvent(llm=given[-1], error=repr(error), following=None))
        given.clear()
        return {**options, "exclude": out}

    @property
    def _pool(self) -> LLMRouter:
        assert self.router.llms is not None  # noqa: S101 - `router_over` gave it some
        return self.router.llms

    def _fallback(self, call: ChatCall) -> Fallback:
        windows = {name: llm.metadata.context_window for name, llm in self.llms.items()}
        bound = [name for name in self.llms if name == call.bound]
        names = iter(bound) if bound else self._names(call)
        return Fallback(names, self.health, windows=windows, fallback_on=self.fallback_on)

    def _next(self, fallback: Fallback) -> Attempt | None:
        """Return the next attempt, and tell LlamaIndex's dispatcher of the failure before it."""
        attempt = next(fallback, None)
        if fallback.failures:
            failure = fallback.failures[-1]
            following = None if attempt is None else attempt.name
            send(
                MoMALLMFailureEvent(llm=failure.llm, error=repr(failure.error), following=following)
            )
        return attempt

    def _names(self, call: ChatCall) -> Iterator[str]:
        """Yield the LLMs that may take a call, each chosen anew, so that feedback knows how."""
        allowed = self._able() if call.tools else self.llms
        if not allowed:
            raise NoTargetError(
                f"none of the LLMs {list(self.llms)!r} can call tools. Give MoMALLM one whose "
                "metadata.is_function_calling_model is true, or use a ReActAgent."
            )
        left = _with_room(allowed, call.messages)
        tokens = tokens_of(call.messages, call.args[0] if call.tools else ())
        query = Query(call.query if is_text(call.query) else _NO_WORDS, tokens=tokens)
        while left:
            start = time.perf_counter()
            try:
                decision = self._choose(query, available(left, self.health) or left, call.wish)
            except NoTargetError:
                if call.decisions:  # the others are excluded
                    return
                raise
            call.decisions[decision.target] = decision
            ms = (time.perf_counter() - start) * 1e3
            send(MoMARouteEvent.of_decision(call.query, decision, ms))
            left.remove(decision.target)
            yield decision.target

    def _choose(self, query: str | Query, among: Sequence[str], wish: Wish) -> RoutingDecision:
        return self.router.choose_llm(
            query, among, wish.preference, max_latency=wish.max_latency, exclude=wish.exclude
        )

    def _able(self) -> dict[str, FunctionCallingLLM]:
        return {
            name: llm
            for name, llm in self.llms.items()
            if isinstance(llm, FunctionCallingLLM) and llm.metadata.is_function_calling_model
        }


@contextmanager
def answering() -> Iterator[list[str]]:
    """Collect the names of the LLMs that give whole answers within."""
    names: list[str] = []
    token = _given.set(names)
    try:
        yield names
    finally:
        _given.reset(token)


def router_over(
    router: MoMARouter | None, llms: Mapping[str, LLM], cards: Iterable[LLMCard] = ()
) -> MoMARouter:
    """Return a router that has LLMs: the one given, or one that knows ``llms`` by cards.

    Args:
        router: May have agents alone, or be missing.
        llms: By name.
        cards: What is known of them; prices that are missing are read from litellm's table.

    Raises:
        InvalidInputError: Cards are given beside a router that has LLMs, or ``llms`` holds none.
        InvalidCardError: The price of one is not known.
        UnknownNameError: A card's name is none of the LLMs'.
    """
    _check_llms(llms)
    if router is not None and router.llms is not None:
        if cards:
            raise InvalidInputError(
                "the router has LLMs, so cards would be its second ones. Leave cards out, or write "
                "router.llms = router.llms.add(card)."
            )
        return router
    pool = pool_for(llms, cards, lambda name: listed_card(name, llms[name].metadata.model_name))
    return (router or MoMARouter.from_cards(llms=None)).with_llms(pool)


def _check_llms(llms: object) -> None:
    if not isinstance(llms, Mapping):
        raise InvalidInputError(
            f"LLMs are given by name, got {type(llms).__name__}. Write "
            "MoMALLM({'gpt-4o-2024-08-06': OpenAI(...)})."
        )
    if not llms:
        raise InvalidInputError("there is no LLM to choose from. Give MoMALLM({name: llm}).")
    for name, llm in llms.items():
        if not isinstance(llm, LLM):
            raise InvalidInputError(
                f"{name!r} is given as {type(llm).__name__}; LlamaIndex LLMs are expected, "
                "such as OpenAI(...)."
            )


def started(pieces: Generator[_Piece, None, None]) -> Generator[_Piece, None, None]:
    """Return the pieces of a stream whose first one was waited for, so that it fails at once."""
    first = next(pieces, _END)

    def all_of_them() -> Generator[_Piece, None, None]:
        if first is not _END:
            yield first
            yield from pieces

    return all_of_them()


async def astarted(pieces: AsyncGenerator[_Piece, None]) -> AsyncGenerator[_Piece, None]:
    """Return the pieces of a stream whose first one was waited for, so that it fails at once."""
    first = await anext(pieces, _END)

    async def all_of_them() -> AsyncGenerator[_Piece, None]:
        try:
            if first is not _END:
                yield first
                async for piece in pieces:
                    yield piece
        finally:
            await pieces.aclose()

    return all_of_them()


def _says_nothing(piece: ChatResponse | CompletionResponse) -> bool:
    if piece.delta:
        return False
    if isinstance(piece, CompletionResponse):
        return not piece.text
    blocks = any(not isinstance(b, TextBlock) or b.text for b in piece.message.blocks)
    return not blocks and not piece.message.additional_kwargs


def _with_room(llms: Mapping[str, LLM], messages: Sequence[ChatMessage] | str) -> list[str]:
    """Return the LLMs whose windows hold these messages and an answer, else the widest ones."""
    text = messages if isinstance(messages, str) else "\n".join(m.content or "" for m in messages)
    room = {
        name: llm.metadata.context_window - max(llm.metadata.num_output, 0)
        for name, llm in llms.items()
    }
    # A token is a byte or more, so that few texts need counting.
    if len(text.encode("utf-8", "replace")) <= min(room.values()):
        return list(llms)
    tokens = len(get_tokenizer()(text))
    return [name for name in llms if tokens <= room[name]] or [
        name for name in llms if room[name] == max(room.values())
    ]
