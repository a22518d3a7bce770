"""Finds numbers, dates and quoted words in a sentence, without an LLM.

Knows nothing of tools: each one asks for what it needs.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

from moma_demo.agents.agent import UnclearError

__all__ = [
    "after",
    "as_text",
    "dates",
    "labelled",
    "numbers",
    "payload",
    "quoted",
    "today",
    "whole",
]

_NUMBER = re.compile(
    r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?\s?(?:k\b|million\b|thousand\b)?", re.IGNORECASE
)
_SCALES = {"k": 1e3, "thousand": 1e3, "million": 1e6}
_QUOTED = re.compile(r"""(?<!\w)'([^']+)'(?!\w)|"([^"]+)"|`([^`]+)`|“([^”]+)”""")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATE = re.compile(
    rf"""(?P<iso>\b\d{{4}}-\d\d?-\d\d?\b)
    |\b(?P<day>\d\d?)(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<month>{_MONTH})(?:,?\s+(?P<year>\d{{4}}))?\b
    |\b(?P<month2>{_MONTH})\s+(?P<day2>\d\d?)(?:st|nd|rd|th)?(?:,?\s+(?P<year2>\d{{4}}))?\b
    |\b(?P<word>today|now|tomorrow|yesterday|christmas|new\s+year)\b""",
    re.IGNORECASE | re.VERBOSE,
)


def today() -> date:
    """Return the date where the user is."""
    return datetime.now(UTC).astimezone().date()


def numbers(text: str) -> list[float]:
    """Return the numbers in order.

    Example:
        >>> numbers("$1,250.50 and 200k, or -3")
        [1250.5, 200000.0, -3.0]
    """
    return [_value(match.group()) for match in _NUMBER.finditer(text)]


def labelled(text: str, label: str) -> float | None:
    """Return the number right before ``label``, a regular expression.

    Example:
        >>> labelled("5.5% for 30 years", "%"), labelled("5.5% for 30 years", "years?")
        (5.5, 30.0)
    """
    found = re.search(rf"({_NUMBER.pattern})[\s-]*(?:{label})", text, re.IGNORECASE)
    return _value(found.group(1)) if found else None


def _value(text: str) -> float:
    scale = 1.0
    for word, factor in _SCALES.items():
        if text.lower().endswith(word):
            text, scale = text[: -len(word)], factor
    return float(text.replace(",", "")) * scale


def whole(value: float) -> int:
    """Return a whole number.

    Raises:
        UnclearError: It has a fraction.
    """
    if value != int(value):
        raise UnclearError
    return int(value)


def as_text(value: float) -> str:
    """Write a number the way people do: no trailing zeros, at most ten digits.

    Example:
        >>> as_text(3.0), as_text(0.1 + 0.2)
        ('3', '0.3')
    """
    return f"{value:,}" if isinstance(value, int) else f"{value:,.10g}"


def quoted(text: str) -> list[str]:
    """Return what stands in quotation marks or backticks.

    Example:
        >>> quoted("is 'a b' in `c`?")
        ['a b', 'c']
    """
    return [next(filter(None, match.groups())) for match in _QUOTED.finditer(text)]


def after(text: str, lead: str) -> str:
    """Return what follows ``lead``, a regular expression, without the last question mark.

    Raises:
        UnclearError: Nothing follows it.
    """
    found = re.search(rf"{lead}\s*(.+)$", text.strip(), re.IGNORECASE | re.DOTALL)
    words = found.group(found.lastindex or 1).strip().rstrip("?").strip() if found else ""
    if not words:
        raise UnclearError
    return words


def payload(text: str, lead: str = r":\s") -> str:
    """Return the text that a tool should work on: in quotes, else after a colon or ``lead``.

    Raises:
        UnclearError: There is none.

    Example:
        >>> payload("count the words in: to be or not")
        'to be or not'
    """
    marked = quoted(text)
    if marked:
        return marked[-1]
    found = re.search(r":\s+(.+)$", text.strip(), re.DOTALL)
    return found.group(1).strip() if found else after(text, lead)


def dates(text: str) -> list[date]:
    """Return the dates in order; a day without a year is the next one to come.

    Example:
        >>> dates("from 2026-03-01 to 5 April 2026")
        [datetime.date(2026, 3, 1), datetime.date(2026, 4, 5)]
    """
    return [_date(match) for match in _DATE.finditer(text)]


def _date(match: re.Match[str]) -> date:
    parts = match.groupdict()
    try:
        if parts["iso"]:
            year, month, day = (int(part) for part in parts["iso"].split("-"))
            return date(year, month, day)
        if parts["word"]:
            return _named(parts["word"].lower())
        month = _MONTHS.index((parts["month"] or parts["month2"])[:3].lower()) + 1
        day = int(parts["day"] or parts["day2"])
        named = parts["year"] or parts["year2"]
        return date(int(named), month, day) if named else _next(month, day)
    except ValueError as error:
        raise UnclearError from error


def _named(word: str) -> date:
    shifts = {"today": 0, "now": 0, "tomorrow": 1, "yesterday": -1}
    if word in shifts:
        return today() + timedelta(days=shifts[word])
    return _next(12, 25) if word == "christmas" else _next(1, 1)


def _next(month: int, day: int) -> date:
    now = today()
    this_year = date(now.year, month, day)
    return this_year if this_year >= now else date(now.year + 1, month, day)
