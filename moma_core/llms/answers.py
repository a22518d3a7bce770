"""When two answers say the same: normalised final answers, compared as text or by a callable.

Quotes, capitals, spaces, ``$``, ``%``, thousands separators and trailing zeros differ between LLMs
that mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = [
    "UNREADABLE",
    "Normaliser",
    "answer_ids",
    "normalise_answer",
]

Normaliser = Callable[[str], str | None]
"""Brings an answer to a form in which equal means the same; None: it cannot be read."""

UNREADABLE = -1
"""Identity of an answer that could not be read: it agrees with no other."""

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_QUOTES = "'\"`"


def normalise_answer(answer: str | None) -> str | None:
    """Return the answer without what does not change its meaning; None where there is none.

    Args:
        answer: A *final* answer ("42", "C", "'abc'"), not the reasoning that led to it.

    Example:
        >>> [normalise_answer(a) for a in ("'Abc' ", "$1,200.50", "26.00%", "-0", None)]
        ['abc', '1200.5', '26', '0', None]
    """
    if answer is None:
        return None
    text = _unquoted(" ".join(str(answer).split())).rstrip(".").casefold()
    number = text.lstrip("$").rstrip("%").strip()
    if _NUMBER.fullmatch(number) and any(character.isdigit() for character in number):
        return _number(number.replace(",", ""))
    return text


def _unquoted(text: str) -> str:
    while True:
        inner = text.strip(" \\")
        if len(inner) > 1 and inner[0] == inner[-1] and inner[0] in _QUOTES + "$":
            inner = inner[1:-1]
        elif inner[:1] and inner[0] in _QUOTES and inner.count(inner[0]) == 1:
            inner = inner[1:]
        elif inner[-1:] and inner[-1] in _QUOTES and inner.count(inner[-1]) == 1:
            inner = inner[:-1]
        if inner == text:
            return text
        text = inner


def _number(text: str) -> str:
    sign = "-" if text.startswith("-") else ""
    whole, _, part = text.lstrip("+-").partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    plain = f"{whole}.{part}" if part else whole
    return plain if plain == "0" else sign + plain


def answer_ids(
    answers: Sequence[Sequence[str | None]], normalise: Normaliser = normalise_answer
) -> npt.NDArray[np.int32]:
    """Return small numbers that are equal within a query where the answers say the same.

    Args:
        answers: One row a query, one answer an LLM; None where none could be read.
        normalise: Brings an answer to a comparable form.

    Returns:
        Shape (n, m); `UNREADABLE` where there is no answer.

    Example:
        >>> answer_ids([["4", " 4.0", None, "5"]]).tolist()
        [[0, 0, -1, 1]]
    """
    rows = []
    for row in answers:
        known: dict[str, int] = {}
        plain = [None if each is None else normalise(each) for each in row]
        rows.append([UNREADABLE if p is None else known.setdefault(p, len(known)) for p in plain])
    return np.array(rows, np.int32).reshape(len(rows), len(answers[0]) if len(answers) else 0)
