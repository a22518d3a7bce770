"""One fallback over LLMs: whom to ask next when one fails, and when to give up.

Every adapter asks its LLMs in the same loop, sync or async:

    fallback = Fallback(names, health)
    for attempt in fallback:
        with attempt:
            return ask(attempt.name)
    raise fallback.error()

An attempt whose body raises swallows the error where the next LLM may do better, and lets it out
where it belongs to the caller. `fault_of` tells them apart for any provider's SDK:

    ============  ==============================================  ==========================
    fault         errors                                          what happens
    ============  ==============================================  ==========================
    "caller"      400, 422, content policy                        raised; no circuit opens
    "overflow"    413, context length                             LLMs with a larger window
    "unable"      400, 404, 422: the LLM does not support this    next; no circuit opens
    "rate_limit"  429                                             next; waits ``retry-after``
    "provider"    time-outs, 5xx, 401, 403, 404, anything else    next; counts as a failure
    ============  ==============================================  ==========================

A stream is committed to its LLM by the first chunk that says something: pass chunks through
`Attempt.chunks` and what is left at the end through `Attempt.rest`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Literal, TypeVar

from moma_core.errors import InvalidInputError, MoMAError, NoTargetError
from moma_core.health import Health

__all__ = [
    "Attempt",
    "EmptyAnswerError",
    "Failure",
    "Fallback",
    "FallbackOn",
    "Fault",
    "available",
    "check_fallback_on",
    "fault_of",
    "retry_after",
]

Fault = Literal["caller", "overflow", "unable", "rate_limit", "provider"]
"""Whose fault an error is, and what kind it is."""

FallbackOn = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]
"""Errors after which the next LLM is asked: one class, several, or a predicate."""

_Chunk = TypeVar("_Chunk")
_Wanted = TypeVar("_Wanted")

_OVERFLOW = re.compile(
    r"context.?(length|window|size|overflow|limit)|maximum context|prompt is too long"
    r"|input is too long|too many (input )?tokens|maximum number of (input )?tokens",
    re.IGNORECASE,
)
_UNABLE = re.compile(
    r"(does not|doesn.t|do not|don.t) support|only supported (by|in|for) certain models"
    r"|not supported (with|by|in|for|on) th(is|e) (\w+ )?model|no endpoints? found that support",
    re.IGNORECASE,
)
_POLICY = re.compile(r"content.?(policy|filter|management)|responsible.?ai.?policy", re.IGNORECASE)
_RATE = re.compile(r"rate.?limit|too.?many.?requests|throttl|resource.?exhausted", re.IGNORECASE)
_BAD_REQUEST = re.compile(
    r"bad.?request|invalid.?request|invalid.?argument|unprocessable", re.IGNORECASE
)
_ACCOUNT = re.compile(r"api.?key|billing|credit|quota", re.IGNORECASE)
_STATUS_FIELDS = ("status_code", "http_status", "status", "code")
_CAUSES = 4


class EmptyAnswerError(MoMAError):
    """A stream ended before its first chunk."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt.

    Args:
        llm: Who was asked.
        error: What was raised.
        fault: Its kind.
    """

    llm: str
    error: Exception
    fault: Fault

    def to_dict(self) -> dict[str, str]:
        """Return it as plain data.

        Example:
            >>> Failure("small", TimeoutError("slow"), "provider").to_dict()
            {'llm': 'small', 'error': "TimeoutError('slow')"}
        """
        return {"llm": self.llm, "error": repr(self.error)}


class Fallback(Iterator["Attempt"]):
    """Yields attempts until one succeeds or nobody is left.

    LLMs with an open circuit, or that asked to be left alone for a while, are passed over. When
    nobody else is left, the first of them still gets one try.

    Args:
        names: LLMs, best first; read one at a time, so that a generator may decide late.
        health: The circuit breaker.
        windows: Context windows in tokens, where known; after an overflow smaller ones are left
            out.
        fallback_on: Errors after which the next LLM is asked, instead of the rule above.
        passing: Exceptions that say nothing of the LLM, such as a framework's interrupts; raised.
        on_failure: Called with each failure, also with one that is raised.

    Example:
        >>> fallback = Fallback(["small", "large"], Health())
        >>> for attempt in fallback:
        ...     with attempt:
        ...         if attempt.name == "small":
        ...             raise TimeoutError("slow")
        ...         print(attempt.name, "answers")
        ...         break
        large answers
        >>> [failure.to_dict() for failure in fallback.failures]
        [{'llm': 'small', 'error': "TimeoutError('slow')"}]
    """

    def __init__(
        self,
        names: Iterable[str],
        health: Health,
        *,
        windows: Mapping[str, int | None] | None = None,
        fallback_on: FallbackOn | None = None,
        passing: tuple[type[BaseException], ...] = (),
        on_failure: Callable[[Failure], None] | None = None,
    ) -> None:
        self.health = health
        self.failures: list[Failure] = []
        self.passing = passing
        self._names = iter(names)
        self._windows = windows or {}
        self._fallback_on = fallback_on
        self._on_failure = on_failure
        self._passed_over: list[str] = []
        self._floor = 0
        self._done = False

    def __next__(self) -> Attempt:
        """Return the next attempt."""
        while not self._done:
            for name in self._names:
                if not self.fits(name):
                    continue
                if available([name], self.health):
                    return Attempt(name, self)
                self._passed_over.append(name)
            self._done = True
            for name in filter(self.fits, self._passed_over):
                return Attempt(name, self)
        raise StopIteration

    def record(self, name: str, error: Exception) -> Failure:
        """Keep an error."""
        failure = Failure(name, error, fault_of(error))
        self.failures.append(failure)
        if failure.fault == "overflow":
            self._floor = max(self._floor, self._windows.get(name) or 0)
        if self._on_failure is not None:
            self._on_failure(failure)
        return failure

    def goes_on(self, failure: Failure) -> bool:
        """Say whether the next LLM is asked after a failure."""
        if self._fallback_on is None:
            return failure.fault != "caller"
        if isinstance(self._fallback_on, type | tuple):
            return isinstance(failure.error, self._fallback_on)
        return self._fallback_on(failure.error)

    def error(self) -> Exception:
        """Return the first error, with notes on the others.

        Example:
            >>> fallback = Fallback([], Health())
            >>> _ = fallback.record("small", TimeoutError("slow"))
            >>> fallback.error().__notes__
            ["This is the error of LLM 'small'; nobody else could answer either."]
        """
        if not self.failures:
            return NoTargetError("there is no LLM to ask. Give at least one that may be asked.")
        first, *others = self.failures
        first.error.add_note(
            f"This is the error of LLM {first.llm!r}; nobody else could answer either."
        )
        for other in others:
            first.error.add_note(
                f"  {other.llm!r}, asked in its place, failed with {other.error!r}"
            )
        return first.error

    def attempt(self, name: str) -> Attempt:
        """Return an attempt at an LLM of the caller's choice, whatever its circuit."""
        return Attempt(name, self)

    def fits(self, name: str) -> bool:
        """Say whether an LLM's window is larger than those that overflowed, as far as is known."""
        window = self._windows.get(name)
        return window is None or window > self._floor


class Attempt:
    """One LLM to ask; a context manager around the call, sync or async.

    Args:
        name: The LLM.
        fallback: Where it reports to.
    """

    def __init__(self, name: str, fallback: Fallback) -> None:
        self.name = name
        self.committed = False
        self.failure: Failure | None = None
        self._fallback = fallback
        self._held: list[Any] = []
        self._watch: AbstractContextManager[None] | None = None

    def chunks(
        self, chunk: _Chunk, *, empty: bool, mark: Callable[[_Chunk], _Chunk] | None = None
    ) -> list[_Chunk]:
        """Return the chunks to pass on now; empty ones are held back until one says something.

        Args:
            chunk: The stream's next one.
            empty: Whether it says nothing.
            mark: Changes the first chunk that is passed on.
        """
        if empty and not self.committed:
            self._held.append(chunk)
            return []
        return [chunk] if self.committed else self._commit([*self._held, chunk], mark)

    def rest(self, mark: Callable[[Any], Any] | None = None) -> list[Any]:
        """Return what is still held back at the end of a stream.

        Raises:
            EmptyAnswerError: Not one chunk came.
        """
        if self.committed:
            return []
        if not self._held:
            raise EmptyAnswerError(f"LLM {self.name!r} ended its answer before the first chunk.")
        return self._commit(self._held, mark)

    def _commit(self, chunks: list[Any], mark: Callable[[Any], Any] | None) -> list[Any]:
        self.committed = True
        return chunks if mark is None else [mark(chunks[0]), *chunks[1:]]

    def __enter__(self) -> Attempt:
        passing = (*self._fallback.passing, _NotItsFault)
        self._watch = self._fallback.health.attempt(self.name, passing=passing)
        self._watch.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, Exception) and not isinstance(error, self._fallback.passing):
            self.failure = self._fallback.record(self.name, error)
            wait = retry_after(error) if self.failure.fault == "rate_limit" else None
            if wait is not None:
                self._fallback.health.leave_alone(self.name, wait)
            blamed = self.failure.fault == "provider" or (
                self.failure.fault == "rate_limit" and wait is None
            )
            self._leave(error if blamed else _NotItsFault())
            return not self.committed and self._fallback.goes_on(self.failure)
        self._leave(error)
        return False

    def _leave(self, error: BaseException | None) -> None:
        """Tell the breaker how the body ended."""
        if self._watch is not None:
            trace = None if error is None else error.__traceback__
            self._watch.__exit__(None if error is None else type(error), error, trace)


class _NotItsFault(Exception):  # noqa: N818  # told to the breaker, never raised to a caller
    """Ends an attempt that says nothing of the LLM's health."""


def check_fallback_on(fallback_on: object) -> None:
    """Refuse what cannot say which errors to go on after.

    Raises:
        InvalidInputError: It is neither error classes nor a function.

    Example:
        >>> check_fallback_on((TimeoutError, ConnectionError))
    """
    several = fallback_on if isinstance(fallback_on, tuple) else (fallback_on,)
    classes = [each for each in several if isinstance(each, type)]
    fits = all(issubclass(each, Exception) for each in classes)
    if isinstance(fallback_on, tuple):
        fits = fits and len(classes) == len(several) > 0
    if fallback_on is not None and not (fits and (classes or callable(fallback_on))):
        raise InvalidInputError(
            f"fallback_on takes error classes or a function, got {fallback_on!r:.60}. Write "
            "fallback_on=(TimeoutError, ConnectionError), or lambda error: ..."
        )


def available(names: Iterable[str], health: Health) -> list[str]:
    """Return those of the names that may be asked now.

    Example:
        >>> health = Health(failures=1)
        >>> health.report_failure("small")
        >>> available(["small", "large"], health)
        ['large']
    """
    return [name for name in names if health.may_be_asked(name)]


def fault_of(error: BaseException) -> Fault:
    """Say whose fault an error is, by its status and names, of whatever SDK it comes.

    Example:
        >>> class BadRequestError(Exception):
        ...     status_code = 400
        >>> fault_of(BadRequestError("no such role")), fault_of(TimeoutError())
        ('caller', 'provider')
        >>> fault_of(BadRequestError("maximum context length is 8192 tokens"))
        'overflow'
    """
    chain = list(_chain(error))
    status = next((found for each in chain if (found := _status(each)) is not None), None)
    names = " ".join(name for each in chain for name in _names(each))
    text = " ".join(str(each) for each in chain)
    bad = status in (400, 413, 422) or (status is None and bool(_BAD_REQUEST.search(names)))
    if status == 413 or _OVERFLOW.search(names) or (bad and _OVERFLOW.search(text)):
        return "overflow"
    if _POLICY.search(names) or (bad and _POLICY.search(text)):
        return "caller"
    if (bad or status == 404) and _UNABLE.search(text):
        return "unable"
    if status == 429 or (status in (None, 400) and _RATE.search(names)):
        return "rate_limit"
    return "caller" if bad and not _ACCOUNT.search(text) else "provider"


def retry_after(error: BaseException) -> float | None:
    """Return the seconds that an error asks to wait; None when it does not say.

    Example:
        >>> class RateLimitError(Exception):
        ...     retry_after = 20
        >>> retry_after(RateLimitError())
        20.0
    """
    for each in _chain(error):
        headers = _headers(each)
        if (ms := _number(headers.get("retry-after-ms"))) is not None:
            return ms / 1e3
        for told in (getattr(each, "retry_after", None), headers.get("retry-after")):
            if (seconds := _number(told)) is not None:
                return seconds
            if isinstance(told, str) and (until := _date(told)) is not None:
                return max((until - datetime.now(UTC)).total_seconds(), 0.0)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes: frameworks wrap the errors of SDKs."""
    current: BaseException | None = error
    for _ in range(_CAUSES):
        if current is None:
            return
        yield current
        current = current.__cause__


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        return _http(_field(response.get("ResponseMetadata"), "HTTPStatusCode"))
    for holder in (error, response):
        for field in _STATUS_FIELDS:
            found = _http(getattr(holder, field, None))
            if found is not None:
                return found
    return None


def _http(value: object) -> int | None:
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    return int(value) if isinstance(value, int) and 400 <= value < 600 else None


def _names(error: BaseException) -> Iterator[str]:
    """Yield the words that name an error: its classes, and what its provider calls it."""
    for base in type(error).__mro__:
        if issubclass(base, Exception) and base is not Exception:
            yield base.__name__
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        yield str(_field(response.get("Error"), "Code") or "")
    for field in ("code", "type"):
        value = getattr(error, field, None)
        if isinstance(value, str):
            yield value
        elif callable(value) and field == "code":  # grpc
            yield str(getattr(_quietly(value), "name", ""))


def _quietly(function: Callable[[], _Wanted]) -> _Wanted | None:
    try:
        return function()
    except Exception:  # noqa: BLE001  # an error about an error tells nothing
        return None


def _headers(error: BaseException) -> Mapping[str, Any]:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        found = _field(response.get("ResponseMetadata"), "HTTPHeaders")
    else:
        found = getattr(response, "headers", None) or getattr(error, "headers", None)
    return {str(k).lower(): v for k, v in found.items()} if isinstance(found, Mapping) else {}


def _field(value: object, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _number(value: object) -> float | None:
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _date(text: str) -> datetime | None:
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    return until if until.tzinfo else until.replace(tzinfo=UTC)
