"""The one fallback over LLMs: whose fault an error is, who is asked next, what the caller gets."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest

from moma_core import InvalidInputError, NoTargetError
from moma_core.fallback import (
    EmptyAnswerError,
    Fallback,
    available,
    check_fallback_on,
    fault_of,
    retry_after,
)
from moma_core.health import Health


def error(name: str, text: str = "", base: type[Exception] = Exception, **fields: Any) -> Exception:
    """Make an error as some provider's SDK would."""
    made = type(name, (base,), {})(text)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def response(status: int | None = None, **headers: str) -> SimpleNamespace:
    return SimpleNamespace(
        status_code=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def wrapped(inner: Exception) -> Exception:
    try:
        raise error("ChatGoogleGenerativeAIError", "error in the model") from inner
    except Exception as outer:  # noqa: BLE001
        return outer


BOTO = {"Error": {"Code": "ThrottlingException"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
GRPC = SimpleNamespace(name="RESOURCE_EXHAUSTED")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (error("BadRequestError", status_code=400), "caller"),
        (error("HTTPStatusError", response=response(422)), "caller"),
        (error("ContentPolicyViolationError"), "caller"),
        (error("APIError", code="content_filter", status_code=500), "caller"),
        (error("BadRequestError", "Output blocked by content filtering policy"), "caller"),
        (error("InvalidArgument", code=400), "caller"),
        (error("LitellmBad", code="400"), "caller"),
        (wrapped(error("ClientError", status_code=400)), "caller"),
        (error("ContextWindowExceededError", status_code=400), "overflow"),
        (error("BadRequestError", status_code=400, code="context_length_exceeded"), "overflow"),
        (
            error("BadRequestError", "prompt is too long: 210000 tokens", status_code=400),
            "overflow",
        ),
        (error("ContextOverflowError"), "overflow"),
        (error("RequestTooLargeError", status_code=413), "overflow"),
        (error("BadRequestError", "gemma:2b does not support tools", status_code=400), "unable"),
        (
            error("NotFoundError", "No endpoints found that support tool use", status_code=404),
            "unable",
        ),
        (
            error("ValidationException", "This model doesn't support tool use.", status=400),
            "unable",
        ),
        (
            error("BadRequestError", "Supported values are: 'user', 'system'", status_code=400),
            "caller",
        ),
        (error("InternalServerError", "does not support tools", status_code=500), "provider"),
        (error("RateLimitError"), "rate_limit"),
        (error("APIStatusError", response=response(429)), "rate_limit"),
        (error("ClientError", response=BOTO), "rate_limit"),
        (error("RpcError", code=lambda: GRPC), "rate_limit"),
        (error("APITimeoutError"), "provider"),
        (error("InternalServerError", "context window of the pool", status_code=500), "provider"),
        (error("OverloadedError", status_code=529), "provider"),
        (error("AuthenticationError", status_code=401), "provider"),
        (error("NotFoundError", status_code=404), "provider"),
        (error("BadRequestError", "Your credit balance is too low", status_code=400), "provider"),
        (error("ClientError", "API key not valid", code=400), "provider"),
        (TimeoutError("slow"), "provider"),
        (ValueError("no JSON"), "provider"),
        (error("Odd", code=lambda: 1 / 0), "provider"),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, Exception) else value,
)
def test_whose_fault_an_error_is(raised: Exception, expected: str) -> None:
    assert fault_of(raised) == expected


def test_how_long_an_error_asks_to_wait() -> None:
    assert retry_after(error("E", response=response(retry_after="7"))) == 7
    assert retry_after(error("E", response=response(Retry_After_Ms="1500"))) == 1.5
    assert retry_after(error("E", response=response(retry_after="soon"))) is None
    assert retry_after(error("E", response=response(retry_after="-1"))) is None
    assert retry_after(error("E")) is None
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < (retry_after(error("E", response=response(retry_after=date))) or 0) <= 60
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=60), usegmt=True)
    assert retry_after(error("E", response=response(retry_after=past))) == 0


def ask(raises: dict[str, Exception], health: Health | None = None, **options: Any) -> list[str]:
    """Ask "a", "b" and "c", some of which fail; return who was asked."""
    asked: list[str] = []
    fallback = Fallback(options.pop("names", "abc"), health or Health(), **options)
    for attempt in fallback:
        with attempt:
            asked.append(attempt.name)
            if attempt.name in raises:
                raise raises[attempt.name]
            return asked
    raise fallback.error()


BAD, SLOW = error("BadRequestError", status_code=400), TimeoutError("slow")
LONG = error("BadRequestError", "maximum context length is 8192", status_code=400)


def test_time_outs_go_on_and_what_is_the_callers_comes_back() -> None:
    health = Health(failures=1)
    assert ask({"a": SLOW}, health) == ["a", "b"]
    assert health.unhealthy() == {"a"}
    health = Health(failures=1)
    with pytest.raises(type(BAD)) as caught:
        ask({"a": BAD}, health)
    assert caught.value is BAD
    assert not health.unhealthy()


def test_the_user_says_which_errors_go_on() -> None:
    health = Health(failures=1)
    assert ask({"a": BAD}, health, fallback_on=lambda error: True) == ["a", "b"]
    assert not health.unhealthy()
    for only in (ConnectionError, (ConnectionError, OSError)):
        kept = ValueError("mine")
        with pytest.raises(ValueError, match="mine"):
            ask({"a": kept}, fallback_on=only)
        assert ask({"a": ConnectionError()}, fallback_on=only) == ["a", "b"]
    for wrong in ("TimeoutError", (), ("TimeoutError",), int, (TimeoutError, 5)):
        with pytest.raises(InvalidInputError, match="fallback_on takes error classes"):
            check_fallback_on(wrong)
    check_fallback_on(None)


def test_a_rate_limit_is_waited_for_wherever_the_breaker_is_shared() -> None:
    health = Health(failures=1)
    limited = error("RateLimitError", response=response(429, retry_after="60"))
    assert ask({"a": limited}, health) == ["a", "b"]
    assert ask({}, health) == ["b"]
    assert available("abc", health) == ["b", "c"]
    assert not health.unhealthy()  # it said when to come back, so that nobody has to guess
    assert ask({}, Health()) == ["a"]
    over = error("RateLimitError", response=response(429, retry_after="0"))
    health = Health(failures=1)
    assert ask({"a": over}, health) == ["a", "b"]
    assert available("a", health) == ["a"]
    ask({"a": error("RateLimitError")}, health)
    assert health.unhealthy() == {"a"}


def test_after_an_overflow_only_larger_windows_are_asked() -> None:
    windows = {"a": 8_192, "b": 8_192, "c": 128_000}
    health = Health(failures=1)
    assert ask({"a": LONG}, health, windows=windows) == ["a", "c"]
    assert not health.unhealthy()
    assert ask({"a": LONG}, windows={"a": 8_192}) == ["a", "b"]  # what nobody states may be larger
    with pytest.raises(Exception, match="maximum context") as caught:
        ask({"a": LONG, "c": LONG}, windows=windows)
    assert caught.value is LONG


def test_one_honest_try_when_every_circuit_is_open() -> None:
    health = Health(failures=1)
    for name in "abc":
        health.report_failure(name)
    assert ask({}, health) == ["a"]
    health.report_failure("c")
    with pytest.raises(TimeoutError):
        ask({name: TimeoutError(name) for name in "abc"}, health)


def test_nobody_is_left() -> None:
    with pytest.raises(NoTargetError, match="no LLM to ask"):
        ask({}, names=())
    with pytest.raises(TimeoutError, match="first") as caught:
        ask({"a": TimeoutError("first"), "b": ValueError("second"), "c": KeyError("third")})
    notes = "".join(caught.value.__notes__)
    assert "'b'" in notes
    assert "third" in notes
    assert "in ask" in "".join(traceback.format_exception(caught.value))  # where it was raised


def test_an_interrupt_and_a_cancellation_blame_nobody() -> None:
    class Interrupt(Exception):  # noqa: N818
        pass

    health = Health(failures=1)
    with pytest.raises(Interrupt):
        ask({"a": Interrupt()}, health, passing=(Interrupt,))
    with pytest.raises(KeyboardInterrupt):
        ask({"a": KeyboardInterrupt()}, health)  # type: ignore[dict-item]
    assert not health.unhealthy()


def stream(chunks: dict[str, list[Any]], health: Health | None = None) -> list[str]:
    fallback = Fallback(chunks, health or Health())
    passed: list[str] = []
    for attempt in fallback:
        with attempt:
            for chunk in chunks[attempt.name]:
                if isinstance(chunk, Exception):
                    raise chunk
                passed += attempt.chunks(
                    chunk, empty=not chunk, mark=lambda c, n=attempt.name: n + c
                )
            passed += attempt.rest(lambda c, n=attempt.name: n + c)
            return passed
    raise fallback.error()


def test_an_empty_chunk_commits_to_nobody() -> None:
    assert stream({"a": ["", SLOW], "b": ["", "x", "", "y"]}) == ["b", "x", "", "y"]
    assert stream({"a": [], "b": ["x"]}) == ["bx"]
    assert stream({"a": ["", ""], "b": ["x"]}) == ["a", ""]  # it has nothing to say, and said so
    with pytest.raises(EmptyAnswerError, match="'a' ended its answer"):
        stream({"a": []})
    health = Health(failures=1)
    with pytest.raises(TimeoutError):
        stream({"a": ["x", SLOW], "b": ["y"]}, health)
    assert health.unhealthy() == {"a"}
