"""What collection leaves: ``scored.parquet``, ``pairs.parquet`` and a report (4.1.2)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import ArtifactError, InvalidDataError, NoTargetError
from moma_core.llm_routing.collection.calls import CallsDone
from moma_core.llm_routing.collection.judge import combine_verdicts
from moma_core.llm_routing.collection.questions import Questions
from moma_core.llm_routing.collection.scoring import Scorer, final_answer, scores_of_pairs
from moma_core.llm_routing.elo import Rating, elo_ratings

__all__ = ["PAIRS_FILE", "SCORED_FILE", "Collected", "write_tables"]

SCORED_FILE = "scored.parquet"
PAIRS_FILE = "pairs.parquet"

logger = logging.getLogger(__name__)
_Array = npt.NDArray[np.float64]
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
    verdicts: _Codes,
    scorer: Scorer | None,
    calls: tuple[CallsDone, CallsDone],
    spent: float,
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
    _write(out / SCORED_FILE, _scored_columns(questions, names, replies, scores, costs))
    if pairs is not None:
        rows = np.stack([judged, first, second], axis=1)
        _write(out / PAIRS_FILE, _pair_columns(questions, names, rows, codes, costs))
    return Collected(
        scored=out / SCORED_FILE,
        pairs=None if pairs is None else out / PAIRS_FILE,
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
            logger.warning("LLM %r has no score and is left out of %s", name, SCORED_FILE)
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


def _write(path: Path, columns: Mapping[str, list[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ("query", "task", "reference", "llm_a", "llm_b")
    fields = []
    for name in columns:
        text = name in texts or name.startswith(("answer|", "reply|"))
        kind = pa.int8() if name == "outcome" else pa.string() if text else pa.float64()
        fields.append((name, kind))
    part = path.with_suffix(".parquet.part")
    try:
        pq.write_table(pa.table(dict(columns), schema=pa.schema(fields)), part)
        os.replace(part, path)  # noqa: PTH105 - whole or not at all
    except OSError as error:
        raise ArtifactError(f"cannot write {path} ({error}). Make room and run again.") from error
