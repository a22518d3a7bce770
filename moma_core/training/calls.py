"""Many LLM calls at once: retries, deadlines, a budget, and a journal that survives a crash."""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import json
import logging
import math
import os
import queue
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moma_core._checks import parse_json
from moma_core.errors import ArtifactError, InvalidDataError, InvalidInputError
from moma_core.types import LLMCard

__all__ = [
    "AskLLM",
    "Call",
    "CallRules",
    "CallsDone",
    "Journal",
    "Reply",
    "as_reply",
    "call_key",
    "estimated_tokens",
    "reply_cost",
    "run_calls",
    "worst_cost",
]

_CHARS_PER_TOKEN = 4.0
_CAUTIOUS_CHARS_PER_TOKEN = 2.5


@dataclass(frozen=True, slots=True)
class Reply:
    """What an LLM answered and what it used.

    Args:
        text: The answer; may be empty.
        input_tokens: Tokens read, where the provider told.
        output_tokens: Tokens written, where the provider told.
        cost: USD, where the provider told; else it follows from tokens and the card's prices.

    Example:
        >>> reply_cost(Reply("4", 1_000_000, 0), "2+2?", LLMCard("small", 0.15, 0.6))
        0.15
    """

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None


AskLLM = Callable[[str], Reply | str]
"""Sends a prompt to an LLM; raises whatever its provider raises."""


def as_reply(value: Any) -> Reply:
    """Return a reply from what a callable gave: a `Reply`, or plain text without usage.

    Raises:
        InvalidDataError: It gave something else, or a usage or cost that is negative.
    """
    reply = Reply(value) if isinstance(value, str) else value
    if not isinstance(reply, Reply) or not isinstance(reply.text, str):
        raise InvalidDataError(
            f"an LLM must answer with text or Reply(text, input_tokens, output_tokens), got "
            f"{type(value).__name__}."
        )
    for name in ("input_tokens", "output_tokens", "cost"):
        number = getattr(reply, name)
        if number is not None and not (math.isfinite(number) and number >= 0):
            raise InvalidDataError(f"{name} of a reply is zero or more, got {number!r}.")
    clean = reply.text.encode("utf-8", "replace").decode()  # lone surrogates fit no parquet file
    return Reply(clean, reply.input_tokens, reply.output_tokens, reply.cost)


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text has: characters / 4."""
    return math.ceil(len(text) / _CHARS_PER_TOKEN)


def reply_cost(reply: Reply, prompt: str, card: LLMCard) -> float:
    """Return USD of a call: as told, or tokens at the card's prices, estimated where not told."""
    if reply.cost is not None:
        return float(reply.cost)
    read, wrote = reply.input_tokens, reply.output_tokens
    read = estimated_tokens(prompt) if read is None else read
    wrote = estimated_tokens(reply.text) if wrote is None else wrote
    return card.usd(read, wrote)


def worst_cost(prompt: str, card: LLMCard, max_output_tokens: int) -> float:
    """Return USD that a call costs at most when it writes at most ``max_output_tokens``."""
    read = math.ceil(len(prompt) / _CAUTIOUS_CHARS_PER_TOKEN)
    return card.usd(read, max_output_tokens)


_FORMAT = 1


def call_key(*parts: str) -> str:
    """Return a short name of a call that depends on all parts: who is asked, and every word.

    Example:
        >>> call_key("answer", "small", "2+2?") == call_key("answer", "small", "2+2 ?")
        False
    """
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "replace")).hexdigest()[:32]


class Journal:
    """Appends records to a file and remembers the answered ones by their key.

    Args:
        path: The file; made if absent, continued if there.

    Raises:
        ArtifactError: It cannot be read or written, is damaged before its last line, or another
            process writes it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "journal.jsonl"
        >>> with Journal(path) as journal:
        ...     journal.append("k", {"text": "4", "cost": 0.5})
        >>> with Journal(path) as journal:
        ...     journal.answered["k"]["text"], journal.spent
        ('4', 0.5)
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.answered: dict[str, dict[str, Any]] = {}
        """Records of answered calls by key."""
        self.spent = 0.0
        """USD of all calls in the file, failed ones included."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b")
        except OSError as error:
            raise ArtifactError(f"cannot write {path} ({error}). Choose another --out.") from error
        try:
            self._lock()
            self._replay()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def append(self, key: str, record: Mapping[str, Any]) -> None:
        """Write an answered call; it is on disk when this returns.

        Raises:
            ArtifactError: The disk is full, or the file cannot be written.
        """
        self._write({"key": key, **record})

    def failed(self, record: Mapping[str, Any]) -> None:
        """Write a failed call: it counts for the money spent, and will be asked again.

        Raises:
            ArtifactError: The disk is full, or the file cannot be written.
        """
        self._write({"failed": True, **record})

    def _write(self, record: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ArtifactError(
                f"cannot write {self._path} ({error}). Make room and run again: it goes on there."
            ) from error
        self._remember(record)

    def _remember(self, record: dict[str, Any]) -> None:
        self.spent += float(record.get("cost", 0.0))
        if "key" in record:
            self.answered[record["key"]] = record

    def _replay(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # killed while writing
            self._file.truncate(whole)
        lines = content[:whole].splitlines()
        if not lines:
            self._write({"format": _FORMAT})
            return
        for number, line in enumerate(lines, 1):
            try:
                record = parse_json(line, any_number=True)
                if number == 1 and record["format"] != _FORMAT:
                    raise ValueError(f"format {record['format']!r}")
                self._remember(record)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ArtifactError(
                    f"line {number} of {self._path} is damaged ({error}). Delete that line, or "
                    "name another --out."
                ) from error

    def _lock(self) -> None:
        with contextlib.suppress(ImportError):  # no fcntl on Windows: nobody guards there
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ArtifactError(
                    f"another process writes {self._path}. Wait for it, or name another --out."
                ) from error


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CallRules:
    """How calls are made.

    Args:
        concurrency: Calls at the same time.
        attempts: Tries of each call.
        timeout: Seconds after which a call counts as failed.
        backoff: Seconds before the second try; doubled for each further one.
        max_output_tokens: What one call is expected to write at most; a call starts only if the
            budget still holds this much. Set the same limit in your LLMs.
        give_up_after: So many failed calls of one LLM in a row, and it is not asked again in this
            run.

    Raises:
        InvalidInputError: A number is out of bounds.
    """

    concurrency: int = 8
    attempts: int = 3
    timeout: float = 120.0
    backoff: float = 1.0
    max_output_tokens: int = 1024
    give_up_after: int = 5

    def __post_init__(self) -> None:
        counts = (self.concurrency, self.attempts, self.max_output_tokens, self.give_up_after)
        if min(counts) < 1 or not self.timeout > 0 or not self.backoff >= 0:
            raise InvalidInputError(
                f"counts are 1 or more, timeout is more than 0 and backoff 0 or more, got {self}."
            )


@dataclass(frozen=True, slots=True)
class Call:
    """One question to one LLM.

    Args:
        key: Names the call in the journal.
        llm: Whom to ask.
        ask: Asks it.
        card: Its prices.
        prompt: What to send.
        read: Returns what the journal keeps of a reply; raises `ValueError` for one that cannot be
            used, which counts as a failure.
        facts: What the journal keeps beside it.
    """

    key: str
    llm: str
    ask: AskLLM
    card: LLMCard
    prompt: str
    read: Callable[[Reply], Mapping[str, Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class CallsDone:
    """What became of the calls.

    Args:
        answered: Answered in this run.
        known: Answered in an earlier run.
        failed: Failed at every attempt, by LLM.
        given_up: LLMs that failed too often in a row.
        over_budget: Calls not started because the budget did not hold them.
    """

    answered: int = 0
    known: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    given_up: set[str] = field(default_factory=set)
    over_budget: int = 0

    def add(self, other: CallsDone) -> None:
        """Count another run's calls too."""
        self.answered += other.answered
        self.known += other.known
        self.failed += other.failed
        self.given_up |= other.given_up
        self.over_budget += other.over_budget


@dataclass(frozen=True, slots=True)
class _Attempt:
    call: Call
    number: int
    reserved: float
    deadline: float


def run_calls(
    calls: Iterable[Call],
    journal: Journal,
    rules: CallRules,
    budget: float | None = None,
    tell: Callable[[int, int], None] = lambda *_: None,
    given_up: Collection[str] = (),
) -> CallsDone:
    """Make every call that the journal does not hold, and keep each answer there.

    No call starts when the money spent so far, what the running calls may cost and what this one
    may cost exceed ``budget`` together; what running calls leave over is used.

    Args:
        calls: What to ask.
        journal: Knows the earlier answers; receives the new ones.
        rules: Concurrency, attempts, deadlines.
        budget: USD for everything in the journal, earlier runs included; None: no limit.
        tell: Called with calls done and calls in all.
        given_up: LLMs that are not to be asked.

    Raises:
        ArtifactError: The journal cannot be written.
    """
    loop = _Loop(list(calls), journal, rules, budget, tell)
    loop.done.given_up.update(given_up)
    return loop.run()


class _Loop:
    def __init__(
        self,
        calls: list[Call],
        journal: Journal,
        rules: CallRules,
        budget: float | None,
        tell: Callable[[int, int], None],
    ) -> None:
        self._journal, self._rules, self._budget, self._tell = journal, rules, budget, tell
        waiting = {call.key: call for call in calls if call.key not in journal.answered}
        self._total = len({call.key for call in calls})
        self.done = CallsDone(known=self._total - len(waiting))
        self._fresh = deque((call, 1) for call in waiting.values())
        self._later: list[tuple[float, int, Call, int]] = []  # when, tie-breaker, call, attempt
        self._running: dict[int, _Attempt] = {}
        self._results: queue.SimpleQueue[tuple[int, object]] = queue.SimpleQueue()
        self._tickets = 0
        self._in_a_row: Counter[str] = Counter()
        self._doubtful: defaultdict[str, set[str]] = defaultdict(set)  # to be tried again, by LLM
        self._most_doubtful = max(rules.concurrency, rules.give_up_after)

    def run(self) -> CallsDone:
        while self._fresh or self._later or self._running:
            self._start_what_fits()
            open_calls = len(self._fresh) + len(self._later) + len(self._running)
            self._tell(self._total - open_calls, self._total)
            if self._running or self._later:
                self._take_results()
            self._drop_overdue()
        self._tell(self._total, self._total)
        return self.done

    def _start_what_fits(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            _, _, call, number = heapq.heappop(self._later)
            self._fresh.appendleft((call, number))
        while self._fresh and len(self._running) < self._rules.concurrency:
            call, number = self._fresh[0]
            if call.llm in self.done.given_up:
                self._fresh.popleft()
                self.done.failed[call.llm] += 1
                continue
            if number == 1 and len(self._doubtful[call.llm]) >= self._most_doubtful:
                self._fresh.popleft()  # else a broken LLM is asked everything before it is given up
                self._put_off(call, number, max(self._rules.backoff, 0.001))
                continue
            worst = worst_cost(call.prompt, call.card, self._rules.max_output_tokens)
            if not self._fits(worst):
                if not self._running:
                    self.done.over_budget += 1
                    self._fresh.popleft()
                    self._doubtful[call.llm].discard(call.key)
                    continue  # a cheaper LLM's call may still fit
                return  # what the running calls leave over may suffice
            self._fresh.popleft()
            self._start(call, number, worst)

    def _fits(self, worst: float) -> bool:
        if self._budget is None:
            return True
        reserved = sum(attempt.reserved for attempt in self._running.values())
        return self._journal.spent + reserved + worst <= self._budget

    def _start(self, call: Call, number: int, worst: float) -> None:
        self._tickets += 1
        ticket, results = self._tickets, self._results
        deadline = time.monotonic() + self._rules.timeout
        self._running[ticket] = _Attempt(call, number, worst, deadline)
        self._doubtful[call.llm].add(call.key)

        def attempt() -> None:
            try:
                results.put((ticket, call.ask(call.prompt)))
            except BaseException as error:  # noqa: BLE001 - whatever a provider raises
                results.put((ticket, error))

        threading.Thread(target=attempt, name=f"moma-{call.llm}", daemon=True).start()

    def _take_results(self) -> None:
        """Wait for one result, or until a deadline or a retry is due; then take all there are."""
        due = [attempt.deadline for attempt in self._running.values()]
        due += [self._later[0][0]] if self._later else []
        wait = max(min(due) - time.monotonic(), 0.001)
        try:
            while True:
                self._settle(*self._results.get(timeout=wait))
                wait = 0.001
        except queue.Empty:
            return

    def _settle(self, ticket: int, result: object) -> None:
        attempt = self._running.pop(ticket, None)
        if attempt is None:  # came after its deadline; was charged in full then
            return
        if isinstance(result, BaseException):
            self._failed(attempt, result, 0.0)
            return
        call, cost = attempt.call, 0.0
        try:
            reply = as_reply(result)
            cost = reply_cost(reply, call.prompt, call.card)
            kept = dict(call.read(reply))
        except Exception as error:  # noqa: BLE001 - a failed call must not end the others
            self._failed(attempt, error, cost)
            return
        self._journal.append(call.key, {"llm": call.llm, **call.facts, **kept, "cost": cost})
        self._in_a_row[call.llm] = 0
        self._doubtful[call.llm].discard(call.key)
        self.done.answered += 1

    def _drop_overdue(self) -> None:
        now = time.monotonic()
        overdue = [t for t, attempt in self._running.items() if attempt.deadline <= now]
        for ticket in overdue:
            attempt = self._running.pop(ticket)
            late = TimeoutError(f"no answer in {self._rules.timeout:g} s")
            self._failed(attempt, late, attempt.reserved)  # its provider may charge for it

    def _failed(self, attempt: _Attempt, error: BaseException, cost: float) -> None:
        call, kind = attempt.call, type(error).__name__
        last = attempt.number >= self._rules.attempts
        logger.log(
            logging.WARNING if last else logging.INFO,
            "LLM %r, attempt %d failed: %s: %.200s", call.llm, attempt.number, kind, error,
        )  # fmt: skip
        self._journal.failed({"llm": call.llm, **call.facts, "error": kind, "cost": cost})
        if not last:
            self._put_off(
                call, attempt.number + 1, self._rules.backoff * 2.0 ** (attempt.number - 1)
            )
            return
        self._doubtful[call.llm].discard(call.key)
        self.done.failed[call.llm] += 1
        self._in_a_row[call.llm] += 1
        if self._in_a_row[call.llm] >= self._rules.give_up_after:
            self.done.given_up.add(call.llm)

    def _put_off(self, call: Call, number: int, seconds: float) -> None:
        self._tickets += 1
        heapq.heappush(self._later, (time.monotonic() + seconds, self._tickets, call, number))
