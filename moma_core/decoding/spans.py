"""Narrows a JSON schema to what a request says: its words for texts, its numbers for numbers.

Pure functions on schemas; knows no LLM. A parameter that the request says nothing of is left out
where it may be, and is the reason to fill in nothing where it may not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Accepts", "grounded", "numbers_in", "spans_in"]

Accepts = Callable[[Mapping[str, Any], str], bool]
"""Whether a text satisfies a schema; asked for those with a pattern or a format."""


_INFINITE = float("inf")
_LONGEST = 8  # words of a span, beyond which only the whole request is offered
_MOST_WORDS = 80  # of a request that are looked at
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w]|\.\d)")
_WORD = re.compile(r"[^\W_]+")
_UNTOUCHED = ("enum", "const", "$ref", "anyOf", "oneOf", "allOf")


def grounded(
    schema: Mapping[str, Any], query: str, accepts: Accepts = lambda _schema, _text: True
) -> tuple[dict[str, Any] | None, str]:
    """Return an object schema whose values can only come from a query, or None and why.

    Args:
        schema: Of an object; its texts, numbers, lists of those and objects of those are narrowed.
            Enumerations stay, if the query has a word of theirs or there is nothing to choose.
        query: The user's words.
        accepts: Says whether a word keeps to a pattern or a format.

    Example:
        >>> schema = {"type": "object", "required": ["days"],
        ...           "properties": {"days": {"type": "integer"}, "city": {"type": "string"}}}
        >>> grounded(schema, "rain in Oslo for 3 days?")[0]["properties"]["days"]
        {'enum': [3]}
        >>> grounded(schema, "rain in Oslo?")
        (None, "the request says nothing of 'days'")
    """
    properties = schema.get("properties", {})
    required = list(schema.get("required", ()))
    kept: dict[str, Any] = {}
    for name, about in properties.items():
        narrowed = _narrowed(about, query, accepts) if isinstance(about, Mapping) else None
        if narrowed is not None:
            kept[name] = narrowed
        elif name in required:
            return None, f"the request says nothing of {name!r}"
    unknown = [name for name in required if name not in properties]
    if unknown:
        return None, f"the schema requires {unknown[0]!r} and does not say what it is"
    rest = {key: value for key, value in schema.items() if key in ("$defs", "definitions")}
    made = {"type": "object", "properties": kept, "additionalProperties": False, **rest}
    return {**made, "required": [name for name in kept if name in required]}, ""


def spans_in(query: str) -> list[str]:
    """Return every run of a few words of a query, without the punctuation around it.

    Example:
        >>> spans_in("rain in Oslo?")
        ['rain', 'rain in', 'rain in Oslo', 'in', 'in Oslo', 'Oslo']
    """
    words = query.split()[:_MOST_WORDS]
    spans: dict[str, None] = {}
    for start in range(len(words)):
        for end in range(start + 1, min(start + _LONGEST, len(words)) + 1):
            span = " ".join(words[start:end]).strip(" .,;:!?\"'()[]")
            if span:
                spans[span] = None
    whole = " ".join(query.split())
    return [*spans, *([whole] if len(words) > _LONGEST else [])]


def numbers_in(query: str) -> list[int | float]:
    """Return the numbers that a query has in digits or, up to twelve, in words.

    Example:
        >>> numbers_in("two tickets at 12.50, row 7")
        [2, 12.5, 7]
    """
    found: list[int | float] = []
    for token in query.split():
        bare = token.strip(".,;:!?\"'()[]$€£%").lower()
        if bare in _NUMBER_WORDS:
            found.append(_NUMBER_WORDS.index(bare))
        elif match := _NUMBER.fullmatch(bare):
            text = match.group()
            found.append(float(text) if "." in text else int(text))
    return list(dict.fromkeys(found))


def _narrowed(about: Mapping[str, Any], query: str, accepts: Accepts) -> dict[str, Any] | None:
    """Return the schema of a value that the query speaks of, or None."""
    if any(key in about for key in _UNTOUCHED):
        return _listed(about, query)
    match about.get("type"):
        case "string":
            spans = [span for span in spans_in(query) if _fits(span, about, accepts)]
            return {"enum": spans} if spans else None
        case "integer":
            whole = [n for n in numbers_in(query) if isinstance(n, int) and _within(n, about)]
            return {"enum": whole} if whole else None
        case "number":
            some = [n for n in numbers_in(query) if _within(n, about)]
            return {"enum": some} if some else None
        case "array":
            items = about.get("items")
            item = _narrowed(items, query, accepts) if isinstance(items, Mapping) else None
            bounds = {k: about[k] for k in ("minItems", "maxItems") if k in about}
            return None if item is None else {"type": "array", "items": item, **bounds}
        case "object":
            return grounded(about, query, accepts)[0]
    return None  # booleans, nulls and what has no type: nothing in the words to go by


def _listed(about: Mapping[str, Any], query: str) -> dict[str, Any] | None:
    """Return an enumeration narrowed to the values that the query names."""
    if "const" in about:
        return {"const": about["const"]}
    values = about.get("enum")
    if not isinstance(values, list):
        return None
    if len(values) == 1:
        return {"enum": values}
    said = _plain(query)
    named = [value for value in values if _plain(value) in said]
    return {"enum": named} if named else None


def _plain(value: Any) -> str:
    return f" {' '.join(_WORD.findall(str(value).lower()))} "


def _fits(span: str, about: Mapping[str, Any], accepts: Accepts) -> bool:
    if not int(about.get("minLength", 0)) <= len(span) <= int(about.get("maxLength", 10**9)):
        return False
    if not {"pattern", "format"} & about.keys():
        return True
    return len(span.split()) == 1 and accepts(about, span)


def _within(number: float, about: Mapping[str, Any]) -> bool:
    low, high = about.get("minimum", -_INFINITE), about.get("maximum", _INFINITE)
    return bool(low <= number <= high)
