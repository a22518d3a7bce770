"""A user's queries: from a text file, JSON lines or parquet, and which of them to ask (4.1.2)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError, InvalidInputError
from moma_core.llm_routing.sampling import representatives
from moma_core.protocols import Encoder

__all__ = ["QUESTIONS", "Questions", "balanced_pairs"]

QUESTIONS = (
    "queries are a text file with one query a line, or .jsonl or .parquet with a text 'query' and, "
    "where there is one, a 'task' and a 'reference' answer"
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
        kept: dict[str, tuple[str, str | None]] = {}
        for number, row in enumerate(rows, 1):
            plain = {"query": row} if isinstance(row, str) else row
            query = plain.get("query") if isinstance(plain, Mapping) else None
            if not isinstance(query, str) or not query.strip():
                raise InvalidDataError(f"row {number} has no query text, got {row!r:.60}.")
            reference = plain.get("reference")
            task = str(plain.get("task") or "")
            kept.setdefault(query, (task, None if reference is None else str(reference)))
        return cls(tuple(kept), *zip(*kept.values(), strict=True)) if kept else cls(())

    @classmethod
    def read(cls, path: str | Path) -> Questions:
        """Read a file: ``.parquet``, ``.jsonl``, or text with one query a line.

        Raises:
            InvalidDataError: It cannot be read, or holds no query.
        """
        path = Path(path)
        try:
            if path.suffix == ".parquet":
                return cls.of(_parquet_rows(path))
            lines = path.read_text(encoding="utf-8-sig").split("\n")
            filled = [line for line in lines if line.strip()]
            return cls.of(map(json.loads, filled) if path.suffix == ".jsonl" else filled)
        except (OSError, ValueError) as error:
            if isinstance(error, InvalidDataError):
                raise
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


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    columns = set(pq.read_schema(path).names)
    wanted = [name for name in ("query", "task", "reference") if name in columns]
    if "query" not in wanted:
        raise InvalidDataError(f"{path} lacks the column 'query': {QUESTIONS}.")
    rows: list[dict[str, Any]] = pq.read_table(path, columns=wanted).to_pylist()
    return rows


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
