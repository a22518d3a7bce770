"""Scores of answers: by a reference, or from judged pairs of one query (4.1.2). Knows no LLM."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError
from moma_core.llm_routing.answers import normalise_answer

__all__ = ["Scorer", "exact_match", "final_answer", "scores_of_pairs"]

Scorer = Callable[[str, str, str | None], float]
"""From query, answer and reference answer to a score in [0, 1]."""

_MARKED = re.compile(r"(?:final answer|answer|result)\s*(?:is|:|=)\s*(.+)", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_LONGEST = 120
_ADVANTAGE = np.array([0.0, 0.5, -0.5, 1.0, -1.0])
_QUERY_PRIOR = 0.5
_Array = npt.NDArray[np.float64]


def final_answer(text: str) -> str | None:
    r"""Return the final answer of a reply: what is boxed, what follows "answer:", or its last line.

    Example:
        >>> final_answer("2 and 2 make 4.\nAnswer: 4"), final_answer(r"so \boxed{17}")
        ('4', '17')
    """
    boxed = _BOXED.findall(text)
    if boxed:
        return str(boxed[-1]).strip() or None
    lines = [line.strip(" *_#") for line in text.strip().splitlines() if line.strip(" *_#")]
    if not lines:
        return None
    for line in reversed(lines):
        if found := _MARKED.search(line):
            return found.group(1).strip(" *_") or None
    return lines[-1] if len(lines[-1]) <= _LONGEST else None


def exact_match(query: str, answer: str, reference: str | None) -> float:
    r"""Return 1.0 where the final answer says the same as the reference, after normalising.

    Args:
        query: Not looked at.
        answer: An LLM's reply.
        reference: The right answer.

    Raises:
        InvalidDataError: There is no reference.

    Example:
        >>> exact_match("2+2?", "It is simple.\nAnswer: 4.0", "4")
        1.0
    """
    if reference is None:
        raise InvalidDataError(
            f"the query {query[:60]!r} has no reference answer. Add a column 'reference', or let a "
            "judge compare the answers."
        )
    final = normalise_answer(final_answer(answer))
    return float(final is not None and final == normalise_answer(reference))


def scores_of_pairs(
    query: npt.NDArray[np.integer],
    first: npt.NDArray[np.integer],
    second: npt.NDArray[np.integer],
    outcome: npt.NDArray[np.integer],
    shape: tuple[int, int],
) -> _Array:
    """Return scores in [0, 1] of the LLMs that were compared on each query, NaN elsewhere.

    A win counts an advantage of 0.5, a strong one 1. A query's scores are the least-squares
    solution of ``score_a - score_b = advantage`` around what each LLM is worth on all queries, 0.5
    in the middle. They are relative to the pool: on a query where all fail alike, all get 0.5.

    Args:
        query: Row of each pair, shape (n,).
        first: Column of its first LLM, shape (n,).
        second: Column of its second one, shape (n,).
        outcome: Code 0 to 4, shape (n,).
        shape: Queries and LLMs.

    Example:
        >>> pairs = (np.array([0, 0]), np.array([0, 1]), np.array([1, 2]), np.array([1, 1]))
        >>> scores_of_pairs(*pairs, (1, 3)).round(1).tolist()
        [[0.9, 0.5, 0.1]]
    """
    advantage = _ADVANTAGE[np.asarray(outcome)]
    level = _solve(first, second, advantage, shape[1], 1.0, np.zeros(shape[1]))
    scores = np.full(shape, np.nan)
    order = np.argsort(query, kind="stable")
    starts = np.flatnonzero(np.diff(np.asarray(query)[order], prepend=-1))
    for rows in np.split(order, starts[1:]) if len(order) else ():
        seen, local = np.unique(np.concatenate([first[rows], second[rows]]), return_inverse=True)
        a, b = local[: len(rows)], local[len(rows) :]
        own = _solve(a, b, advantage[rows], len(seen), _QUERY_PRIOR, level[seen])
        scores[int(query[rows[0]]), seen] = np.clip(0.5 + own, 0.0, 1.0)
    return scores


def _solve(
    a: npt.NDArray[np.integer],
    b: npt.NDArray[np.integer],
    advantage: _Array,
    m: int,
    prior: float,
    around: _Array,
) -> _Array:
    """Ridge solution x (m,) of x_a - x_b = advantage, drawn towards ``around``."""
    normal: _Array = np.eye(m) * prior
    right: _Array = prior * around
    np.add.at(normal, (a, a), 1.0)
    np.add.at(normal, (b, b), 1.0)
    np.add.at(normal, (a, b), -1.0)
    np.add.at(normal, (b, a), -1.0)
    np.add.at(right, a, advantage)
    np.add.at(right, b, -advantage)
    return np.asarray(np.linalg.solve(normal, right), np.float64)
