"""Collection (4.1.2): ask LLMs, have their answers judged or scored, write what training reads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from moma_core._numerics import find_centres, squared_distances
from moma_core._tables import ENDINGS, read_table, write_table
from moma_core.errors import (
    InvalidCardError,
    InvalidDataError,
    InvalidInputError,
    NoTargetError,
)
from moma_core.protocols import Encoder, Progress
from moma_core.training.calls import (
    AskLLM,
    Call,
    CallRules,
    CallsDone,
    Journal,
    Reply,
    call_key,
    run_calls,
)
from moma_core.training.judge import (
    Judge,
    Scorer,
    combine_verdicts,
    exact_match,
    final_answer,
    read_verdict,
    scores_of_pairs,
    swapped,
)
from moma_core.training.judgements import Rating, elo_ratings
from moma_core.types import FloatArray, LLMCard

__all__ = [
    "JOURNAL_FILE",
    "PAIRS_FILE",
    "QUESTIONS",
    "SCORED_FILE",
    "CollectConfig",
    "Collected",
    "Questions",
    "balanced_pairs",
    "collect",
    "representatives",
    "write_tables",
]

_Array = npt.NDArray[np.float64]


def representatives(
    vectors: FloatArray,
    domains: Sequence[str],
    total: int,
    method: Literal["k-centre", "k-means"] = "k-means",
    seed: int = 0,
) -> npt.NDArray[np.intp]:
    """Return rows that stand for the others, each domain by its share (at least one).

    Args:
        vectors: Query vectors, shape (n, d).
        domains: Domain of each query, length n.
        total: Queries wanted.
        method: ``"k-means"``: those nearest to cluster centres, typical ones; ``"k-centre"``:
            farthest-first, so that no query is far from a chosen one, unusual ones too.
        seed: Of the starting points.

    Returns:
        Distinct row numbers, ascending.

    Raises:
        InvalidInputError: More rows are wanted than exist, fewer than domains, or no such method.

    Example:
        >>> rows = representatives(np.eye(4, dtype=np.float32), ["a", "a", "b", "b"], 2)
        >>> len(rows), rows[0] < 2 <= rows[1]
        (2, np.True_)
    """
    labels, sizes = np.unique(np.array(domains), return_counts=True)
    if not len(labels) <= total <= len(vectors):
        raise InvalidInputError(
            f"expected {len(labels)} (domains) to {len(vectors)} (queries) representatives, got "
            f"total={total}."
        )
    if method not in ("k-centre", "k-means"):
        raise InvalidInputError(f"unknown method {method!r}. Choose 'k-means' or 'k-centre'.")
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for label, count in zip(labels, _quotas(sizes, total), strict=True):
        rows = np.flatnonzero(np.array(domains) == label)
        points = np.asarray(vectors[rows], np.float64)
        pick = _farthest_first if method == "k-centre" else _nearest_to_centres
        chosen.extend(rows[pick(points, int(count), rng)].tolist())
    return np.array(sorted(chosen), np.intp)


def _quotas(sizes: npt.NDArray[np.intp], total: int) -> npt.NDArray[np.intp]:
    """Shares by size, one at least, rounded to the total by largest remainder."""
    spare = total - len(sizes)
    shares = (sizes - 1) * spare / max(int((sizes - 1).sum()), 1)
    quotas = shares.astype(np.intp)
    order = np.argsort(-(shares - quotas), kind="stable")
    quotas[order[: spare - int(quotas.sum())]] += 1
    return np.asarray(quotas + 1, np.intp)


def _farthest_first(points: _Array, count: int, rng: np.random.Generator) -> list[int]:
    """Start at the point nearest to the mean; then always the one farthest from all chosen."""
    del rng
    chosen = [int(squared_distances(points, points.mean(axis=0)[None]).argmin())]
    distance = squared_distances(points, points[chosen])[:, 0]
    while len(chosen) < count:
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, squared_distances(points, points[chosen[-1:]])[:, 0])
    return chosen


def _nearest_to_centres(points: _Array, count: int, rng: np.random.Generator) -> list[int]:
    centres = find_centres(points, count, rng)
    distances = squared_distances(points, centres)
    chosen: list[int] = []
    for column in range(distances.shape[1]):
        distances[chosen] = np.inf
        chosen.append(int(distances[:, column].argmin()))
    while len(chosen) < count:
        chosen.append(next(row for row in range(len(points)) if row not in chosen))
    return chosen


QUESTIONS = (
    "queries are a .txt file with one query a line, or .csv, .tsv, .jsonl or .parquet with a text "
    "'query' and, where there is one, a 'task' and a 'reference' answer"
)


@dataclass(frozen=True, slots=True)
class Questions:
    """Distinct queries, with task and reference answer where known.

    Args:
        texts: Queries, length n.
        tasks: Task or domain of each, ``""`` where unknown; empty for none at all.
        references: Right answer of each, None where unknown; empty for none at all.

    Raises:
        InvalidDataError: There is no query, or a list has another length.

    Example:
        >>> Questions.of(["2+2?", "2+2?", "3+3?"]).texts
        ('2+2?', '3+3?')
    """

    texts: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    references: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.texts)
        if n == 0:
            raise InvalidDataError(f"there is no query: {QUESTIONS}.")
        object.__setattr__(self, "tasks", self.tasks or ("",) * n)
        object.__setattr__(self, "references", self.references or (None,) * n)
        if len(self.tasks) != n or len(self.references) != n:
            raise InvalidDataError(
                f"{n} queries need as many tasks and references, got {len(self.tasks)} and "
                f"{len(self.references)}."
            )

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(cls, rows: Iterable[str | Mapping[str, Any]]) -> Questions:
        """Take texts, or dicts with ``query``, ``task`` and ``reference``; repetitions are dropped.

        Raises:
            InvalidDataError: A row has no query, or there is none.
        """
        return cls._of((f"row {number}", row) for number, row in enumerate(rows, 1))

    @classmethod
    def _of(cls, rows: Iterable[tuple[str, str | Mapping[str, Any]]]) -> Questions:
        kept: dict[str, tuple[str, str | None]] = {}
        for where, row in rows:
            plain = {"query": row} if isinstance(row, str) else row
            query = plain.get("query") if isinstance(plain, Mapping) else None
            if not isinstance(query, str) or not query.strip():
                raise InvalidDataError(f"{where} has no query text, got {row!r:.60}.")
            reference = plain.get("reference")
            task = str(plain.get("task") or "")
            kept.setdefault(query, (task, None if reference is None else str(reference)))
        return cls(tuple(kept), *zip(*kept.values(), strict=True)) if kept else cls(())

    @classmethod
    def read(cls, path: str | Path) -> Questions:
        """Read a table (CSV, TSV, JSON lines, parquet), or else text with one query a line.

        Raises:
            InvalidDataError: It cannot be read, or holds no query.
        """
        path = Path(path)
        if path.suffix.lower() in ENDINGS:
            table = read_table(path, ("query",), ("task", "reference").__contains__)
            rows = range(len(table))
            return cls._of(
                (table.where(i), {name: table.columns[name][i] for name in table.columns})
                for i in rows
            )
        try:
            return cls.of(line for line in path.read_text("utf-8-sig").split("\n") if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidDataError(f"cannot read {path} ({error}): {QUESTIONS}.") from error

    def take(self, rows: Iterable[int]) -> Questions:
        """Return the questions of these rows."""
        kept = list(rows)
        return Questions(
            tuple(self.texts[row] for row in kept),
            tuple(self.tasks[row] for row in kept),
            tuple(self.references[row] for row in kept),
        )

    def representative(
        self,
        total: int,
        encoder: Encoder,
        method: Literal["k-centre", "k-means"] = "k-means",
        seed: int = 0,
    ) -> Questions:
        """Return ``total`` questions that stand for all, each task by its share.

        Raises:
            InvalidInputError: Fewer are wanted than there are tasks, or more than there are.
        """
        if total == len(self):
            return self
        tasks = len(set(self.tasks))
        if not tasks <= total < len(self):
            raise InvalidInputError(
                f"{total} of {len(self)} queries cannot be chosen: with {tasks} tasks, ask for "
                f"{tasks} to {len(self)}, or for all (leave out --sample)."
            )
        vectors = encoder.encode(self.texts)
        return self.take(representatives(vectors, self.tasks, total, method, seed).tolist())


def balanced_pairs(
    queries: int, llms: int, per_query: int | None, seed: int = 0
) -> npt.NDArray[np.intp]:
    """Return which LLMs to compare on which query, shape (pairs, 3): query, first, second.

    Each query puts the LLMs on a circle in an order of its own and compares neighbours, then those
    two apart, and so on: with m pairs a query each LLM is in two, and with m - 1 or more all are
    connected.

    Args:
        queries: How many queries.
        llms: How many LLMs m, two or more.
        per_query: Pairs of a query; None: all m (m - 1) / 2.
        seed: Of the orders.

    Raises:
        InvalidInputError: There are fewer than two LLMs, or no pair is wanted.

    Example:
        >>> balanced_pairs(100, 4, 2).shape
        (200, 3)
    """
    if llms < 2:
        raise InvalidInputError(f"a judge compares two LLMs or more, got {llms}.")
    most = llms * (llms - 1) // 2
    wanted = most if per_query is None else min(per_query, most)
    if wanted < 1:
        raise InvalidInputError(f"pairs of a query are 1 or more, got {per_query!r}.")
    rng = np.random.default_rng(seed)
    steps = [(i, (i + step) % llms) for step in range(1, llms) for i in range(llms)]
    circle = list({frozenset(pair): pair for pair in steps}.values())[:wanted]
    rows = []
    for query in range(queries):
        order = rng.permutation(llms)
        rows += [(query, order[i], order[j]) for i, j in circle]
    return np.array(rows, np.intp).reshape(-1, 3)


SCORED_FILE = "scored.parquet"
"""The table of scores, or with another ending."""
PAIRS_FILE = "pairs.parquet"

logger = logging.getLogger(__name__)
_Codes = npt.NDArray[np.intp]
_Replies = Mapping[tuple[int, int], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection run has, earlier runs with the same journal included.

    Args:
        scored: Path of the table that ``moma train llms`` reads.
        pairs: Path of the judged pairs; None with a scorer.
        queries: Queries with a score.
        answers: Answers there are.
        judged: Pairs with a verdict in both orders.
        consistent: Share of them whose two verdicts agree on who won; None without a judge.
        failed: Calls that failed at every attempt, by LLM; run again to try them anew.
        given_up: LLMs (or judge) that failed too often in a row.
        over_budget: Calls that the budget did not hold.
        spent: USD so far.
        mean_scores: Mean score of each LLM over the queries where it has one.
        ratings: Elo over the judged pairs, best first.
    """

    scored: Path
    pairs: Path | None
    queries: int
    answers: int
    judged: int
    consistent: float | None
    failed: Mapping[str, int]
    given_up: tuple[str, ...]
    over_budget: int
    spent: float
    mean_scores: Mapping[str, float]
    ratings: tuple[Rating, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every call was answered."""
        return not self.failed and not self.over_budget


def write_tables(
    out: Path,
    questions: Questions,
    names: Sequence[str],
    replies: _Replies,
    pairs: _Codes | None,
    *,
    verdicts: _Codes,
    scorer: Scorer | None,
    calls: tuple[CallsDone, CallsDone],
    spent: float,
    ending: str = ".parquet",
) -> Collected:
    """Derive scores, write the tables, and say what there is.

    Args:
        out: Directory.
        questions: What was asked.
        names: The LLMs.
        replies: Answers by row and column.
        pairs: Which were to be judged, shape (pairs, 3): row, first column, second; None without a
            judge.
        verdicts: Outcomes in both orders, shape (pairs, 2), -1 where there is none.
        scorer: Scores one answer.
        calls: What became of the calls for answers and for verdicts.
        spent: USD so far.
        ending: Of the tables' names.

    Raises:
        NoTargetError: There is nothing to score.
        InvalidDataError: The scorer gave no number in [0, 1].
        ArtifactError: A table cannot be written.
    """
    shape = (len(questions), len(names))
    costs = np.full(shape, np.nan)
    for (row, column), record in replies.items():
        costs[row, column] = record["cost"]
    judged, first, second, codes = _agreed(pairs, verdicts)
    if pairs is not None:
        scores = scores_of_pairs(judged, first, second, codes, shape)
    else:
        scores = _scored(questions, replies, scorer, shape)
    failed = calls[0].failed + calls[1].failed
    over_budget = calls[0].over_budget + calls[1].over_budget
    if np.isnan(scores).all():
        raise NoTargetError(
            f"nothing could be scored: {len(replies)} answers, {len(judged)} judged pairs, "
            f"{over_budget} calls over the budget, {failed.total()} failed. Look at the warnings, "
            "raise the budget, and run again with the same --out."
        )
    scored, paired = ((out / name).with_suffix(ending) for name in (SCORED_FILE, PAIRS_FILE))
    write_table(scored, _scored_columns(questions, names, replies, scores, costs))
    if pairs is not None:
        rows = np.stack([judged, first, second], axis=1)
        write_table(paired, _pair_columns(questions, names, rows, codes, costs))
    return Collected(
        scored=scored,
        pairs=None if pairs is None else paired,
        queries=int((~np.isnan(scores)).any(axis=1).sum()),
        answers=len(replies),
        judged=len(judged),
        consistent=_consistent(verdicts),
        failed=dict(failed),
        given_up=tuple(sorted(calls[0].given_up | calls[1].given_up)),
        over_budget=over_budget,
        spent=spent,
        mean_scores=_means(names, scores),
        ratings=tuple(elo_ratings(names, first, second, codes)) if len(judged) else (),
    )


def _agreed(pairs: _Codes | None, verdicts: _Codes) -> tuple[_Codes, _Codes, _Codes, _Codes]:
    """Return row, first column, second column and outcome of each pair judged in both orders."""
    if pairs is None:
        none = np.zeros(0, np.intp)
        return none, none, none, none
    both = (verdicts >= 0).all(axis=1)
    codes = np.array([combine_verdicts(*each) for each in verdicts[both].tolist()], np.intp)
    kept = pairs[both]
    return kept[:, 0], kept[:, 1], kept[:, 2], codes


def _scored(
    questions: Questions, replies: _Replies, scorer: Scorer | None, shape: tuple[int, int]
) -> _Array:
    scores = np.full(shape, np.nan)
    for (row, column), record in replies.items():
        if scorer is None:
            continue
        query, reference = questions.texts[row], questions.references[row]
        scores[row, column] = _score(scorer, query, str(record["text"]), reference)
    return scores


def _score(scorer: Scorer, query: str, answer: str, reference: str | None) -> float:
    try:
        value = scorer(query, answer, reference)
    except InvalidDataError:  # says itself what to do
        raise
    except Exception as error:  # the user's own function
        raise InvalidDataError(
            f"the scorer failed ({type(error).__name__}: {error}) for the query {query[:60]!r}. "
            "The answers are kept: run again with a mended scorer."
        ) from error
    if not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise InvalidDataError(
            f"the scorer must give a number in [0, 1], got {value!r:.40} for the query "
            f"{query[:60]!r}. The answers are kept: run again with a mended scorer."
        )
    return value


def _means(names: Sequence[str], scores: _Array) -> dict[str, float]:
    known = ~np.isnan(scores)
    totals, counts = np.where(known, scores, 0.0).sum(axis=0), known.sum(axis=0)
    pairs = zip(names, totals, counts, strict=True)
    return {name: float(total / count) for name, total, count in pairs if count}


def _consistent(verdicts: _Codes) -> float | None:
    both = verdicts[(verdicts >= 0).all(axis=1)]
    if not len(both):
        return None
    winner = np.array([0, 1, 2, 1, 2])[both]
    return float((winner[:, 0] == winner[:, 1]).mean())


def _scored_columns(
    questions: Questions, names: Sequence[str], replies: _Replies, scores: _Array, costs: _Array
) -> dict[str, list[Any]]:
    kept = np.flatnonzero((~np.isnan(scores)).any(axis=1)).tolist()
    columns: dict[str, list[Any]] = {
        "query": [questions.texts[row] for row in kept],
        "task": [questions.tasks[row] for row in kept],
        "reference": [questions.references[row] for row in kept],
    }
    for column, name in enumerate(names):
        known = ~np.isnan(scores[:, column])
        if not known.any():
            logger.warning("LLM %r has no score and is left out of the scores", name)
            continue
        texts = [replies.get((row, column), {}).get("text") for row in kept]
        columns[f"score|{name}"] = [_plain(scores[row, column]) for row in kept]
        columns[f"cost|{name}"] = [_plain(costs[row, column]) for row in kept]
        columns[f"answer|{name}"] = [None if text is None else final_answer(text) for text in texts]
        columns[f"reply|{name}"] = texts
    return columns


def _pair_columns(
    questions: Questions,
    names: Sequence[str],
    rows: _Codes,
    codes: _Codes,
    costs: _Array,
) -> dict[str, list[Any]]:
    plain = rows.tolist()
    return {
        "query": [questions.texts[row] for row, _, _ in plain],
        "task": [questions.tasks[row] for row, _, _ in plain],
        "llm_a": [names[a] for _, a, _ in plain],
        "llm_b": [names[b] for _, _, b in plain],
        "outcome": codes.tolist(),
        "cost_a": [_plain(costs[row, a]) for row, a, _ in plain],
        "cost_b": [_plain(costs[row, b]) for row, _, b in plain],
    }


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


JOURNAL_FILE = "journal.jsonl"


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
        ending: Of the tables' names: ``".parquet"``, ``".csv"``, ``".tsv"`` or ``".jsonl"``.

    Raises:
        InvalidInputError: The budget is negative, the prompt lacks ``{query}``, or there is no such
            ending.
    """

    sample: int | None = None
    method: Literal["k-centre", "k-means"] = "k-means"
    pairs: int | None = None
    budget: float | None = None
    prompt: str = "{query}"
    rules: CallRules = field(default_factory=CallRules)
    seed: int = 0
    ending: str = ".parquet"

    def __post_init__(self) -> None:
        if self.ending not in ENDINGS:
            raise InvalidInputError(f"ending is one of {', '.join(ENDINGS)}, got {self.ending!r}.")
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
        >>> from moma_core.training.judge import exact_match
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
    if scorer is exact_match and None in questions.references:  # before a call is paid for
        exact_match(questions.texts[questions.references.index(None)], "", None)
    tell = progress or (lambda *_: None)
    names = tuple(llms)
    pairs = None if judge is None else _pairs(len(questions), len(names), config)
    replies: dict[tuple[int, int], Mapping[str, Any]] = {}
    verdicts = np.full((0 if pairs is None else len(pairs), 2), -1, np.intp)
    answered, judged = CallsDone(), CallsDone()
    places = _places(range(len(questions)), len(names), pairs)
    told = _Told(tell, {"answers": len(places), "verdicts": 2 * len(verdicts)})
    with Journal(Path(out) / JOURNAL_FILE) as journal:
        for rows in _rounds(len(questions), judge, config):
            asks = _answer_calls(questions, llms, cards, pairs, rows, config)
            _make(asks.values(), journal, config, told.of("answers"), answered)
            held = journal.answered
            replies |= {at: held[call.key] for at, call in asks.items() if call.key in held}
            if judge is not None and pairs is not None:
                calls = _verdict_calls(questions, replies, pairs, rows, judge, verdicts)
                _make(calls.values(), journal, config, told.of("verdicts"), judged)
                _keep_verdicts(calls, journal, verdicts)
        spent = journal.spent
    return write_tables(
        Path(out),
        questions,
        names,
        replies,
        pairs,
        verdicts=verdicts,
        scorer=scorer,
        calls=(answered, judged),
        spent=spent,
        ending=config.ending,
    )


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


class _Told:
    """Tells of rounds of calls as of one long step, so that the time left is that of all."""

    def __init__(self, tell: Progress, totals: Mapping[str, int]) -> None:
        self._tell, self._totals = tell, totals
        self._before = dict.fromkeys(totals, 0)

    def of(self, what: str) -> Callable[[int, int], None]:
        """Return what a round calls with its calls done and its calls in all."""
        before = self._before[what]

        def told(done: int, in_round: int) -> None:
            self._before[what] = before + in_round
            self._tell(what, before + done, self._totals[what])

        return told


def _make(
    calls: Iterable[Call],
    journal: Journal,
    config: CollectConfig,
    told: Callable[[int, int], None],
    done: CallsDone,
) -> None:
    """Make calls and add what became of them to ``done``."""
    done.add(run_calls(calls, journal, config.rules, config.budget, told, tuple(done.given_up)))


def _places(rows: range, llms: int, pairs: npt.NDArray[np.intp] | None) -> set[tuple[int, int]]:
    """Return which queries go to which LLMs, as row and column."""
    if pairs is None:
        return {(row, column) for row in rows for column in range(llms)}
    return {(row, llm) for row, *both in pairs.tolist() if row in rows for llm in both}


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
    calls = {}
    for row, column in sorted(_places(rows, len(names), pairs)):
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
