"""Per-query scores and costs of a pool of LLMs, read from a table (4.1.1).

Refuses what does not fit the schema.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._tables import Table, read_table
from moma_core.errors import InvalidDataError
from moma_core.llms.answers import Normaliser, answer_ids, normalise_answer

__all__ = [
    "SCHEMA",
    "LLMDataset",
]

SCHEMA = (
    "a table of scored queries has a text column 'query' and, for each LLM, 'score|<llm>' in "
    "[0, 1] (empty where it was not asked) and 'cost|<llm>' in USD for that query; optional: "
    "'task', 'split', and for cascades 'answer|<llm>', the final answer (empty if unreadable)"
)
_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LLMDataset:
    """Queries with the score and cost of each LLM on each of them.

    Args:
        queries: Texts, length n.
        llms: Names, length m.
        scores: Quality in [0, 1], NaN where the LLM was not asked, shape (n, m).
        costs: USD of the query, NaN where unknown, shape (n, m).
        tasks: Task of each query, empty when the table has none.
        splits: Split of each query, empty when the table has none. Training uses every row it is
            given: filter first (`only`).
        answers: Which LLMs gave the same answer: equal numbers within a row (`answer_ids`), -1
            where none could be read, shape (n, m); None when the table has no answers.

    Raises:
        InvalidDataError: A value is out of bounds, or there is no query or no LLM.

    Example:
        >>> data = LLMDataset(("1+1?",), ("small",), np.array([[1.0]]), np.array([[1e-5]]))
        >>> len(data)
        1
    """

    queries: tuple[str, ...]
    llms: tuple[str, ...]
    scores: _Array
    costs: _Array
    tasks: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    answers: npt.NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", np.asarray(self.scores, np.float64))
        object.__setattr__(self, "costs", np.asarray(self.costs, np.float64))
        n, m = len(self.queries), len(self.llms)
        if n == 0 or m == 0:
            raise InvalidDataError(
                f"expected at least one query and one LLM, got {n} and {m}: {SCHEMA}."
            )
        if self.scores.shape != (n, m) or self.costs.shape != (n, m):
            raise InvalidDataError(
                f"expected scores and costs of shape {(n, m)}, got {self.scores.shape} and "
                f"{self.costs.shape}."
            )
        if self.answers is not None and self.answers.shape != (n, m):
            raise InvalidDataError(f"expected answers of shape {(n, m)}, got {self.answers.shape}.")
        if len(set(self.llms)) != m:
            raise InvalidDataError(f"an LLM is named twice among {list(self.llms)}.")
        _check_queries(self.queries, _row)
        for column, name in enumerate(self.llms):
            _check_column(f"score|{name}", self.scores[:, column], _row)
            _check_column(f"cost|{name}", self.costs[:, column], _row)

    def __len__(self) -> int:
        return len(self.queries)

    @classmethod
    def read(
        cls,
        path: str | Path,
        normalise: Normaliser = normalise_answer,
        llm: str | None = None,
    ) -> LLMDataset:
        """Read a CSV, TSV, JSON lines or parquet file.

        Args:
            path: The file; its ending says what it is.
            normalise: Says when two answers are the same.
            llm: The only LLM whose cost is asked for: of the others the scores are enough, as
                `LLMRouter.add` takes them.

        Raises:
            InvalidDataError: The file cannot be read, lacks a column, or holds a bad value.
        """
        return cls._of(read_table(path, wanted=_is_ours), normalise, llm)

    @classmethod
    def from_table(
        cls,
        table: Any,
        source: str = "the table",
        normalise: Normaliser = normalise_answer,
        llm: str | None = None,
    ) -> LLMDataset:
        """Take an Arrow table; ``source`` names it in errors, the others are as in `read`.

        Raises:
            InvalidDataError: It lacks a column, or holds a bad value.
        """
        rows = range(1, table.num_rows + 1)
        return cls._of(Table(Path(source), table.to_pydict(), rows, "row"), normalise, llm)

    @classmethod
    def _of(cls, table: Table, normalise: Normaliser, llm: str | None) -> LLMDataset:
        columns, source = table.columns, table.path
        llms = tuple(name[6:] for name in columns if name.startswith("score|"))
        priced = llms if llm is None else (llm,)
        asked = [f"{kind}|{name}" for name in priced for kind in ("score", "cost")]
        missing = [name for name in ("query", *asked) if name not in columns]
        if not llms:
            missing.append("score|<llm>")
        if missing:
            raise InvalidDataError(f"{source} lacks the column {missing[0]!r}: {SCHEMA}.")
        if not len(table):
            raise InvalidDataError(f"{source} has no row. Give one a scored query: {SCHEMA}.")
        _check_queries(columns["query"], table.where)
        values = {
            kind: np.stack([_numbers(table, f"{kind}|{name}") for name in llms], axis=1)
            for kind in _HIGHEST
        }
        data = cls(
            queries=tuple(columns["query"]),
            llms=llms,
            scores=values["score"],
            costs=values["cost"],
            tasks=tuple(map(str, columns.get("task", ()))),
            splits=tuple(map(str, columns.get("split", ()))),
            answers=_answers(table, llms, normalise),
        )
        data.pool(priced).check_measured()
        return data

    def check_measured(self) -> LLMDataset:
        """Return itself, every LLM having at least one score and one cost.

        Raises:
            InvalidDataError: A column is empty.
        """
        for kind, values in (("score", self.scores), ("cost", self.costs)):
            for name in np.array(self.llms)[np.isnan(values).all(axis=0)]:
                raise InvalidDataError(
                    f"the column '{kind}|{name}' is empty. Leave this LLM out, or ask it some "
                    "queries."
                )
        return self

    def take(self, rows: npt.ArrayLike) -> LLMDataset:
        """Return the dataset of these rows, given as indices or as a mask of shape (n,)."""
        kept: list[int] = np.arange(len(self))[np.asarray(rows)].tolist()
        return LLMDataset(
            queries=tuple(self.queries[row] for row in kept),
            llms=self.llms,
            scores=self.scores[kept],
            costs=self.costs[kept],
            tasks=tuple(self.tasks[row] for row in kept) if self.tasks else (),
            splits=tuple(self.splits[row] for row in kept) if self.splits else (),
            answers=None if self.answers is None else self.answers[kept],
        )

    def only(self, split: str) -> LLMDataset:
        """Return the rows of one split.

        Raises:
            InvalidDataError: No row has it.
        """
        if split not in self.splits:
            raise InvalidDataError(
                f"no row of split {split!r}; there are {sorted(set(self.splits))}."
            )
        return self.take(np.array(self.splits) == split)

    def pool(self, llms: Sequence[str]) -> LLMDataset:
        """Return the columns of these LLMs, in this order.

        Raises:
            InvalidDataError: One of them has no column.
        """
        for name in llms:
            if name not in self.llms:
                raise InvalidDataError(
                    f"no column 'score|{name}' for LLM {name!r}; there are {list(self.llms)}. "
                    "Give a table that has it."
                )
        columns = [self.llms.index(name) for name in llms]
        return LLMDataset(
            self.queries,
            tuple(llms),
            self.scores[:, columns],
            self.costs[:, columns],
            self.tasks,
            self.splits,
            None if self.answers is None else self.answers[:, columns],
        )

    def order(self) -> npt.NDArray[np.intp]:
        """Return the rows in an order that depends on their content only, shape (n,)."""
        columns = np.argsort(np.array(self.llms))
        scores, costs = (
            np.ascontiguousarray(self.scores[:, columns]),
            np.ascontiguousarray(self.costs[:, columns]),
        )
        digests = [
            hashlib.sha256(text.encode() + scores[row].tobytes() + costs[row].tobytes()).digest()
            for row, text in enumerate(self.queries)
        ]
        return np.array(sorted(range(len(self)), key=digests.__getitem__), np.intp)

    def fingerprint(self) -> str:
        """Return a sha256 of names, queries, scores and costs that no reordering changes."""
        data = self.pool(sorted(self.llms)).take(self.order())
        digest = hashlib.sha256("\n".join((*data.llms, *data.queries)).encode())
        digest.update(data.scores.tobytes())
        digest.update(data.costs.tobytes())
        return digest.hexdigest()


_HIGHEST = {"score": 1.0, "cost": np.inf}


def _is_ours(column: str) -> bool:
    """Say whether a column is read; whole replies, say, are not."""
    return column in ("query", "task", "split") or column.startswith(("score|", "cost|", "answer|"))


def _check_queries(queries: Sequence[Any], where: Callable[[int], str]) -> None:
    for row, query in enumerate(queries):
        if not isinstance(query, str) or not query.strip():
            raise InvalidDataError(f"{where(row)} has no query text, got {query!r:.40}: {SCHEMA}.")


def _check_column(name: str, values: _Array, where: Callable[[int], str]) -> None:
    highest = _HIGHEST[name.partition("|")[0]]
    bad = np.flatnonzero((values < 0) | (values > highest) | np.isinf(values))
    if len(bad):
        raise InvalidDataError(
            f"{where(int(bad[0]))} has {float(values[bad[0]])!r} in the column {name!r}: {SCHEMA}."
        )


def _row(row: int) -> str:
    return f"row {row + 1}"


def _numbers(table: Table, name: str) -> _Array:
    values = table.numbers(name)
    _check_column(name, values, table.where)
    return values


def _answers(
    table: Table, llms: Sequence[str], normalise: Normaliser
) -> npt.NDArray[np.int32] | None:
    names = [f"answer|{llm}" for llm in llms]
    if not any(name in table.columns for name in names):
        return None
    return answer_ids(list(zip(*map(table.column, names), strict=True)), normalise)
