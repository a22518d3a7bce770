"""Collection (4.1.2): ask LLMs, have their answers judged or scored, write what training reads.

Answers and verdicts go through a journal on disk, so a run that was killed goes on where it was.
Calls callables only; knows no provider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidCardError, InvalidInputError
from moma_core.llm_routing.collection.calls import Call, CallRules, CallsDone, run_calls
from moma_core.llm_routing.collection.journal import Journal, call_key
from moma_core.llm_routing.collection.judge import (
    Judge,
    combine_verdicts,
    read_verdict,
    swapped,
)
from moma_core.llm_routing.collection.questions import Questions, balanced_pairs
from moma_core.llm_routing.collection.reply import AskLLM, Reply
from moma_core.llm_routing.collection.scoring import Scorer
from moma_core.llm_routing.collection.tables import Collected, write_tables
from moma_core.protocols import Encoder
from moma_core.types import LLMCard

__all__ = ["JOURNAL_FILE", "CollectConfig", "collect"]

JOURNAL_FILE = "journal.jsonl"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class CollectConfig:
    """What to ask and how much of it.

    Args:
        sample: So many representative queries instead of all.
        method: How they are chosen, see `sampling.representatives`.
        pairs: Judged pairs a query; None: as many as there are LLMs (each is in two), all when
            there are three LLMs or fewer.
        budget: USD for answers and verdicts together, earlier runs included.
        prompt: What an LLM is sent, with ``{query}``.
        rules: Concurrency, attempts, deadlines.
        seed: Of every random choice.

    Raises:
        InvalidInputError: The budget is negative, or the prompt lacks ``{query}``.
    """

    sample: int | None = None
    method: Literal["k-centre", "k-means"] = "k-means"
    pairs: int | None = None
    budget: float | None = None
    prompt: str = "{query}"
    rules: CallRules = field(default_factory=CallRules)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget is not None and not self.budget >= 0:
            raise InvalidInputError(f"a budget is USD, zero or more, got {self.budget!r}.")
        if "{query}" not in self.prompt:
            raise InvalidInputError(f"the prompt must hold {{query}}, got {self.prompt!r:.60}.")


def collect(
    questions: Questions,
    llms: Mapping[str, AskLLM],
    cards: Mapping[str, LLMCard],
    out: str | Path,
    *,
    judge: Judge | None = None,
    scorer: Scorer | None = None,
    encoder: Encoder | None = None,
    config: CollectConfig | None = None,
    progress: Progress | None = None,
) -> Collected:
    """Ask every LLM, judge or score the answers, and write ``scored.parquet`` into ``out``.

    With a judge, pairs of answers are compared in both orders and ``pairs.parquet`` is written
    too; an LLM is asked a query only where one of its pairs is judged. Run it again with the same
    ``out`` after a crash, a raised budget or more LLMs: what was answered is not asked again.

    Args:
        questions: What to ask.
        llms: Callables by the LLMs' names; see `reply.AskLLM`.
        cards: Prices by the same names.
        out: Directory of the journal and the tables.
        judge: Compares answers.
        scorer: Scores one answer, instead of a judge; see `scoring.exact_match`.
        encoder: Needed to choose a sample of the queries.
        config: How much, and how.
        progress: Called with what is done, calls done, and calls in all.

    Returns:
        What was collected, and where it is.

    Raises:
        InvalidInputError: Neither or both of judge and scorer are given, or the sample cannot be
            drawn.
        InvalidCardError: An LLM has no card.
        ArtifactError: ``out`` cannot be written, or is being written by another process.
        NoTargetError: Nothing could be scored: all calls failed, or the budget is too small.

    Example:
        >>> import tempfile
        >>> from moma_core.llm_routing.collection.scoring import exact_match
        >>> cards = {name: LLMCard(name, 1.0, 2.0) for name in ("small", "big")}
        >>> done = collect(
        ...     Questions.of([{"query": "2+2?", "reference": "4"}]),
        ...     {"small": lambda prompt: "5", "big": lambda prompt: "4"},
        ...     cards, tempfile.mkdtemp(), scorer=exact_match,
        ... )
        >>> done.answers, done.mean_scores
        (2, {'small': 0.0, 'big': 1.0})
    """
    config = config or CollectConfig()
    _check(llms, cards, judge, scorer)
    if config.sample is not None:
        if encoder is None:
            raise InvalidInputError("a sample of the queries needs an encoder: encoder=...")
        questions = questions.representative(config.sample, encoder, config.method, config.seed)
    tell = progress or (lambda *_: None)
    names = tuple(llms)
    pairs = None if judge is None else _pairs(len(questions), len(names), config)
    replies: _Replies = {}
    verdicts = np.full((0 if pairs is None else len(pairs), 2), -1, np.intp)
    answered, judged = CallsDone(), CallsDone()
    with Journal(Path(out) / JOURNAL_FILE) as journal:
        for rows in _rounds(len(questions), judge, config):
            asks = _answer_calls(questions, llms, cards, pairs, rows, config)
            _make(asks.values(), journal, config, "answers", tell, answered)
            held = journal.answered
            replies |= {at: held[call.key] for at, call in asks.items() if call.key in held}
            if judge is not None and pairs is not None:
                calls = _verdict_calls(questions, replies, pairs, rows, judge, verdicts)
                _make(calls.values(), journal, config, "verdicts", tell, judged)
                _keep_verdicts(calls, journal, verdicts)
        spent = journal.spent
    return write_tables(
        Path(out), questions, names, replies, pairs, verdicts, scorer, (answered, judged), spent
    )


_Replies = dict[tuple[int, int], Mapping[str, Any]]


def _check(
    llms: Mapping[str, AskLLM],
    cards: Mapping[str, LLMCard],
    judge: Judge | None,
    scorer: Scorer | None,
) -> None:
    if (judge is None) == (scorer is None):
        raise InvalidInputError(
            "give a judge (compares answers) or a scorer (scores one answer), one of them."
        )
    if not llms:
        raise InvalidInputError("give at least one LLM: llms={'name': callable}.")
    for name in llms:
        if name not in cards:
            raise InvalidCardError(
                f"LLM {name!r} has no card. Give its prices: cards={{{name!r}: "
                f"LLMCard({name!r}, 0.15, 0.6)}}; a local LLM costs 0."
            )


def _pairs(queries: int, llms: int, config: CollectConfig) -> npt.NDArray[np.intp]:
    per_query = llms if config.pairs is None else config.pairs
    return balanced_pairs(queries, llms, per_query, config.seed)


def _kept(reply: Reply) -> Mapping[str, Any]:
    return {"text": reply.text}


def _rounds(queries: int, judge: Judge | None, config: CollectConfig) -> Iterator[range]:
    """Yield rows to finish before the next ones.

    With a judge and a budget a few at a time: else all money might go into answers that nobody
    judges any more.
    """
    size = queries
    if judge is not None and config.budget is not None:
        size = max(8, 2 * config.rules.concurrency)
    for start in range(0, queries, size):
        yield range(start, min(start + size, queries))


def _make(
    calls: Iterable[Call],
    journal: Journal,
    config: CollectConfig,
    what: str,
    tell: Progress,
    done: CallsDone,
) -> None:
    """Make calls and add what became of them to ``done``."""

    def told(now: int, total: int) -> None:
        tell(what, now, total)

    done.add(run_calls(calls, journal, config.rules, config.budget, told, tuple(done.given_up)))


def _answer_calls(
    questions: Questions,
    llms: Mapping[str, AskLLM],
    cards: Mapping[str, LLMCard],
    pairs: npt.NDArray[np.intp] | None,
    rows: range,
    config: CollectConfig,
) -> dict[tuple[int, int], Call]:
    """Return the calls for answers, by row of the query and column of the LLM."""
    names = tuple(llms)
    if pairs is None:
        places = {(row, column) for row in rows for column in range(len(names))}
    else:
        places = {(row, llm) for row, *both in pairs.tolist() if row in rows for llm in both}
    calls = {}
    for row, column in sorted(places):
        name, prompt = names[column], config.prompt.replace("{query}", questions.texts[row])
        key = call_key("answer", name, prompt)
        calls[row, column] = Call(key, name, llms[name], cards[name], prompt, _kept)
    return calls


def _verdict_calls(
    questions: Questions,
    replies: _Replies,
    pairs: npt.NDArray[np.intp],
    rows: range,
    judge: Judge,
    verdicts: npt.NDArray[np.intp],
) -> dict[tuple[int, int], Call]:
    """Return the judge's calls, by pair and order; what needs no judge is put into ``verdicts``."""
    calls: dict[tuple[int, int], Call] = {}
    for number, (row, a, b) in enumerate(pairs.tolist()):
        if row not in rows or (row, a) not in replies or (row, b) not in replies:
            continue
        texts = replies[row, a]["text"], replies[row, b]["text"]
        plain = _without_asking(*texts)
        if plain is not None:
            verdicts[number] = plain
            continue
        for order, (left, right) in enumerate((texts, texts[::-1])):
            prompt = judge.question(questions.texts[row], left, right)
            calls[number, order] = _verdict_call(judge, prompt)
    return calls


def _keep_verdicts(
    calls: Mapping[tuple[int, int], Call], journal: Journal, verdicts: npt.NDArray[np.intp]
) -> None:
    """Put what the judge said into ``verdicts``, shape (pairs, 2), all in the order a, b."""
    for (number, order), call in calls.items():
        if (record := journal.answered.get(call.key)) is not None:
            outcome = int(record["outcome"])
            verdicts[number, order] = swapped(outcome) if order else outcome


def _verdict_call(judge: Judge, prompt: str) -> Call:
    def read(reply: Reply) -> Mapping[str, Any]:
        return {"outcome": read_verdict(reply)}

    key = call_key("verdict", judge.card.name, prompt)
    return Call(key, judge.card.name, judge.ask, judge.card, prompt, read)


def _without_asking(left: str, right: str) -> int | None:
    """Return the outcome where none but one is possible: equal answers, or one that is empty."""
    left, right = left.strip(), right.strip()
    if left == right:
        return combine_verdicts(0, 0)
    if left and right:
        return None
    return 3 if left else 4
