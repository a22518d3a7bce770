"""Judged pairs on disk: who beat whom on which query (4.1.2), and Elo ratings from them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._numerics import sigmoid
from moma_core._tables import column_names, is_parquet, rows_in
from moma_core.errors import InvalidDataError, needs_extra

__all__ = [
    "PAIRS",
    "Judgements",
    "Rating",
    "count_outcomes",
    "elo_of_counts",
    "elo_ratings",
    "holds_pairs",
    "read_judgements",
]

_SCALE = 400.0 / np.log(10.0)
_MEAN = 1_000.0
_PRIOR = 0.5
_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rating:
    """One LLM's Elo.

    Args:
        name: The LLM.
        elo: Rating; the pool's mean is 1,000, and 400 points are odds of 10.
        low: Lower end of the 95 % interval.
        high: Upper end.
        games: Judged pairs it took part in.
    """

    name: str
    elo: float
    low: float
    high: float
    games: int


def elo_ratings(
    names: Sequence[str],
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    outcome: npt.ArrayLike,
    rounds: int = 200,
    seed: int = 0,
) -> list[Rating]:
    """Rate LLMs by judged pairs, best first.

    Args:
        names: The LLMs.
        first: Index of the first LLM of each pair.
        second: Index of the second one.
        outcome: Codes of `outcomes.OUTCOMES`; strong and weak wins count alike.
        rounds: Bootstrap rounds of the intervals.
        seed: Of the bootstrap.

    Raises:
        InvalidDataError: There is no pair, or a pair compares an LLM with itself.

    Example:
        >>> [r.name for r in elo_ratings(["x", "y"], [0, 1, 0], [1, 0, 1], [2, 1, 0], rounds=9)]
        ['y', 'x']
    """
    return elo_of_counts(names, count_outcomes(first, second, outcome, len(names)), rounds, seed)


def count_outcomes(
    first: npt.ArrayLike, second: npt.ArrayLike, outcome: npt.ArrayLike, m: int
) -> npt.NDArray[np.int64]:
    """Return how often each pair of LLMs ended each way; counts of parts may be added.

    Args:
        first: Index of the first LLM of each pair, shape (n,).
        second: Index of the second one, shape (n,).
        outcome: Codes of `outcomes.OUTCOMES`, shape (n,).
        m: How many LLMs.

    Returns:
        Shape (m, m, 3): tie, the row LLM won, the column LLM won.

    Raises:
        InvalidDataError: A pair compares an LLM with itself.
    """
    a, b, code = (np.asarray(each, np.intp) for each in (first, second, outcome))
    if (a == b).any():
        raise InvalidDataError("Elo needs judged pairs of two different LLMs each.")
    ended = np.array([0, 1, 2, 1, 2, 0])[code]
    cells = np.bincount((a * m + b) * 3 + ended, minlength=3 * m * m)
    return cells.reshape(m, m, 3).astype(np.int64)


def elo_of_counts(
    names: Sequence[str], counts: npt.NDArray[np.int64], rounds: int = 200, seed: int = 0
) -> list[Rating]:
    """Rate LLMs by what `count_outcomes` counted, best first.

    Drawing pairs with replacement is drawing the counts from a multinomial, so the bootstrap costs
    the same for a hundred pairs and for millions.

    Args:
        names: The LLMs, length m.
        counts: Shape (m, m, 3).
        rounds: Bootstrap rounds of the intervals.
        seed: Of the bootstrap.

    Raises:
        InvalidDataError: There is no pair.
    """
    total = int(counts.sum())
    if not total:
        raise InvalidDataError("Elo needs judged pairs of two different LLMs each.")
    ratings = _bradley_terry(_wins(counts))
    rng = np.random.default_rng(seed)
    shares = counts.ravel() / total
    draws = [
        _bradley_terry(_wins(rng.multinomial(total, shares).reshape(counts.shape)))
        for _ in range(rounds)
    ]
    low, high = np.percentile(np.array(draws), [2.5, 97.5], axis=0)
    games = counts.sum(axis=(1, 2)) + counts.sum(axis=(0, 2))
    rated = [
        Rating(name, float(ratings[i]), float(low[i]), float(high[i]), int(games[i]))
        for i, name in enumerate(names)
    ]
    return sorted(rated, key=lambda rating: (-rating.elo, rating.name))


def _wins(counts: npt.NDArray[np.int64]) -> _Array:
    """How often the row LLM beat the column LLM, ties half each, shape (m, m)."""
    half_ties = 0.5 * counts[:, :, 0]
    wins: _Array = counts[:, :, 1] + counts[:, :, 2].T + half_ties + half_ties.T
    return wins


def _bradley_terry(wins: _Array) -> _Array:
    """Newton's maximum posterior with a weak prior, so that an unbeaten LLM stays finite."""
    games = wins + wins.T
    skill = np.zeros(len(wins))
    for _ in range(30):
        probability = sigmoid(skill[:, None] - skill)
        grad = (wins - games * probability).sum(axis=1) - _PRIOR * skill
        curve = games * probability * (1.0 - probability)
        hessian = np.diag(curve.sum(axis=1) + _PRIOR) - curve
        step = np.linalg.solve(hessian, grad)
        skill = skill + np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    rated: _Array = _MEAN + _SCALE * (skill - skill.mean())
    return rated


PAIRS = (
    "a table of judged pairs (.csv, .tsv, .jsonl or .parquet) has the columns 'query', 'llm_a', "
    "'llm_b' and 'outcome': 0 equal, 1 a better, 2 b better, 3 a much better, 4 b much better; "
    "optional: 'cost_a' and 'cost_b', USD of the two answers"
)
_REQUIRED, _COSTS = ("query", "llm_a", "llm_b", "outcome"), ("cost_a", "cost_b")
_Codes = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Judgements:
    """Some judged pairs; texts and names are held once and pointed at.

    Args:
        queries: Distinct texts.
        llms: Distinct names.
        query: Position of each pair's query, shape (n,).
        first: Position of its first LLM, shape (n,).
        second: Position of its second LLM, shape (n,).
        outcome: Codes 0 to 4, shape (n,).
        cost_a: USD of the first answer, NaN where unknown, shape (n,).
        cost_b: USD of the second answer, NaN where unknown, shape (n,).

    Raises:
        InvalidDataError: A text is blank, an outcome unknown, or an LLM compared with itself.

    Example:
        >>> pairs = Judgements.of([{"query": "why?", "llm_a": "x", "llm_b": "y", "outcome": 3}])
        >>> pairs.outcome.tolist(), pairs.llms
        ([3], ('x', 'y'))
    """

    queries: Sequence[str]
    llms: Sequence[str]
    query: _Codes
    first: _Codes
    second: _Codes
    outcome: _Codes
    cost_a: _Array
    cost_b: _Array

    def __post_init__(self) -> None:
        for text in (*self.queries, *self.llms):
            if not isinstance(text, str) or not text.strip():
                raise InvalidDataError(f"a query or LLM is no text, got {text!r:.40}: {PAIRS}.")
        known = np.isin(self.outcome, np.arange(5))
        if not known.all():
            row = int(np.flatnonzero(~known)[0])
            raise InvalidDataError(f"row {row} has the outcome {self.outcome[row]}: {PAIRS}.")
        if (self.first == self.second).any():
            name = self.llms[int(self.first[self.first == self.second][0])]
            raise InvalidDataError(f"a row compares {name!r} with itself: {PAIRS}.")
        for usd in (self.cost_a, self.cost_b):
            if (usd < 0).any() or np.isinf(usd).any():
                raise InvalidDataError(f"a cost is USD, zero or more: {PAIRS}.")

    def __len__(self) -> int:
        return len(self.outcome)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Judgements:
        """Take dicts with the columns of the schema.

        Raises:
            InvalidDataError: A row does not fit it.
        """
        with needs_extra("train"):
            import pyarrow as pa

        names = [*_REQUIRED, *(name for name in _COSTS if any(row.get(name) for row in rows))]
        try:
            table = pa.table({name: [row.get(name) for row in rows] for name in names})
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InvalidDataError(f"a value has a wrong type ({error}): {PAIRS}.") from error
        return cls.of_table(table)

    @classmethod
    def of_table(cls, table: Any) -> Judgements:
        """Take an Arrow table or record batch with the columns of the schema.

        Raises:
            InvalidDataError: It does not fit it.
        """
        with needs_extra("train"):
            import pyarrow as pa

        for name in _REQUIRED:
            if table[name].null_count:
                raise InvalidDataError(f"a row lacks {name!r}: {PAIRS}.")
        if not pa.types.is_integer(table["outcome"].type):
            raise InvalidDataError(f"an outcome is no whole number: {PAIRS}.")
        queries, query = _encoded(_texts(table["query"]))
        count = len(query)
        llms = pa.concat_arrays([_texts(table["llm_a"]), _texts(table["llm_b"])])
        names, both = _encoded(llms)
        return cls(
            queries,
            names,
            query,
            both[:count],
            both[count:],
            table["outcome"].to_numpy().astype(np.intp),
            _usd(table, "cost_a"),
            _usd(table, "cost_b"),
        )


def _texts(column: Any) -> Any:
    """Return a text column as one plain array."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InvalidDataError(f"queries and LLMs are texts, got {kind}: {PAIRS}.")
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return whole.cast(pa.string())


def _encoded(column: Any) -> tuple[tuple[str, ...], _Codes]:
    """Return the distinct values of a column, and the position of each row's one."""
    found = column.dictionary_encode()
    return tuple(found.dictionary.to_pylist()), found.indices.to_numpy().astype(np.intp)


def _usd(table: Any, name: str) -> _Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if name not in table.schema.names:
        return np.full(table.num_rows, np.nan)
    try:
        values: Any = pc.cast(table[name], pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidDataError(f"a cost must be USD ({error}): {PAIRS}.") from error
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)


def holds_pairs(path: str | Path) -> bool:
    """Say whether a file holds judged pairs rather than scored queries, by its columns."""
    return "llm_a" in column_names(path)


def read_judgements(path: str | Path, rows: int = 32_768) -> Iterator[Judgements]:
    """Yield a file's pairs, at most ``rows`` at a time.

    Args:
        path: ``.parquet`` (read by row groups), ``.csv``, ``.tsv`` or ``.jsonl``.
        rows: Most rows in memory.

    Raises:
        InvalidDataError: It cannot be read, is empty, lacks a column, or holds a bad value.
    """
    parts = _read_parquet(path, rows) if is_parquet(path) else _read_lines(path, rows)
    empty = True
    for part in parts:
        empty = False
        yield part
    if empty:
        raise InvalidDataError(f"{path} holds no pair: {PAIRS}.")


def _read_parquet(path: str | Path, rows: int) -> Iterator[Judgements]:
    with needs_extra("train"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:  # else the whole file is read
            names = file.schema_arrow.names
            for name in _REQUIRED:
                if name not in names:
                    raise InvalidDataError(f"{path} lacks the column {name!r}: {PAIRS}.")
            wanted = [*_REQUIRED, *(name for name in _COSTS if name in names)]
            for batch in file.iter_batches(batch_size=rows, columns=wanted):
                yield Judgements.of_table(batch)
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidDataError(f"cannot read {path} as parquet ({error}): {PAIRS}.") from error


def _read_lines(path: str | Path, rows: int) -> Iterator[Judgements]:
    lines = rows_in(path)
    while part := list(itertools.islice(lines, rows)):
        known = [_typed(row, f"{path}, line {line}") for line, row in part]
        try:
            yield Judgements.of(known)
        except InvalidDataError as error:
            raise InvalidDataError(f"{path}, {_bad_line(part, known)}: {error}") from error


def _typed(row: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a row with the numbers that CSV and TSV have as texts."""
    try:
        codes = {name: int(row[name]) for name in ("outcome",) if isinstance(row.get(name), str)}
        usd = {name: float(row[name]) for name in _COSTS if isinstance(row.get(name), str)}
    except ValueError as error:
        raise InvalidDataError(f"{where}: {error}; {PAIRS}.") from error
    return {**row, **codes, **usd}


def _bad_line(part: Sequence[tuple[int, Any]], known: Sequence[Mapping[str, Any]]) -> str:
    """Return the first line that does not fit by itself."""
    for (line, _), row in zip(part, known, strict=True):
        try:
            Judgements.of([row])
        except (InvalidDataError, KeyError):
            return f"line {line}"
    return f"lines {part[0][0]} to {part[-1][0]}"
