"""Agents for text: counting, letter case, slugs, regular expressions."""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Literal

import re2
from langchain_core.tools import tool

from moma_demo.agents.agent import DemoAgent, UnclearError
from moma_demo.agents.extract import payload, quoted

__all__ = ["AGENTS"]

_STYLES = {
    "upper": r"upper|capitals|caps\b|all caps",
    "snake": r"snake",
    "camel": r"camel",
    "title": r"title|headline",
    "lower": r"lower|small letters",
}
_IN_WORDS = r"\b(?:in|of|for|from|into)\b"
_MAX_SHOWN = 10


@tool
def text_statistics(text: str) -> str:
    """Count words, characters, sentences and reading time of a text."""
    words = re.findall(r"[\w'-]+", text)
    sentences = max(1, len(re.findall(r"[.!?]+(?:\s|$)", text)))
    longest = max(words, key=len, default="")
    return (
        f"{len(words)} words, {len(text)} characters, {sentences} sentence(s), "
        f"{len(set(map(str.lower, words)))} different words, longest {longest!r}, "
        f"{max(1, round(len(words) / 4))} s to read"
    )


@tool
def case_converter(text: str, style: Literal["upper", "lower", "title", "snake", "camel"]) -> str:
    """Change the letter case of a text: UPPER, lower, Title, snake_case, camelCase."""
    words: list[str] = re.findall(r"\w+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text))
    match style:
        case "upper":
            return text.upper()
        case "lower":
            return text.lower()
        case "title":
            return " ".join(word.capitalize() for word in text.split())
        case "snake":
            return "_".join(words).lower()
        case "camel":
            first, *rest = words or [""]
            return first.lower() + "".join(word.capitalize() for word in rest)


def _case(text: str) -> dict[str, Any]:
    body = payload(text)
    request = text.replace(body, "")
    style = next((name for name, words in _STYLES.items() if re.search(words, request, re.I)), None)
    if style is None:
        raise UnclearError
    return {"text": body, "style": style}


@tool
def slug_maker(text: str) -> str:
    """Make a web address slug or a file name out of a title."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


@tool
def regex_tester(pattern: str, text: str) -> str:
    """Test a regular expression on a text and show what it matches."""
    try:
        # RE2 runs in linear time, whatever the pattern.
        found = [match.group() for match in re2.compile(pattern).finditer(text)]
    except re2.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    if not found:
        return f"{pattern} matches nothing in {text!r}"
    shown = ", ".join(repr(item) for item in found[:_MAX_SHOWN])
    return f"{pattern} matches {len(found)} time(s): {shown}"


def _regex(text: str) -> dict[str, Any]:
    slashed = re.search(r"(?<!\w)/(.+?)/(?!\w)", text)
    marked = quoted(text)
    if slashed:
        rest = text[: slashed.start()] + text[slashed.end() :]
        return {"pattern": slashed.group(1), "text": payload(rest)}
    if len(marked) < 2:
        raise UnclearError
    return {"pattern": marked[0], "text": marked[1]}


def _text(text: str) -> dict[str, Any]:
    return {"text": payload(text, _IN_WORDS)}


AGENTS = (
    DemoAgent(
        text_statistics,
        "text",
        _text,
        "a text in quotes or after a colon.",
        (
            "count the words in: to be or not to be",
            "how many characters does 'supercalifragilistic' have?",
            'word count of "The quick brown fox jumps over the lazy dog."',
            "text statistics: All happy families are alike. Each unhappy one is not.",
            "how long does it take to read 'Call me Ishmael.'",
            "number of sentences in: I came. I saw. I won.",
        ),
    ),
    DemoAgent(
        case_converter,
        "text",
        _case,
        "a text and a case, such as snake case: Hello World.",
        (
            "write 'hello world' in upper case",
            "convert to snake case: User First Name",
            "camelCase for 'order line total'",
            "make this lower case: STOP SHOUTING",
            "title case: the old man and the sea",
            "put 'final notice' in all caps",
        ),
    ),
    DemoAgent(
        slug_maker,
        "text",
        _text,
        "a title in quotes or after a colon.",
        (
            "make a slug for: Ten Ways to Boil an Egg",
            "URL slug of 'Crème brûlée at home'",
            "turn the title 'What is new in 2026?' into a web address",
            "file name for: Meeting Notes, 3rd of May",
            "permalink for 'Hello, World!'",
        ),
    ),
    DemoAgent(
        regex_tester,
        "text",
        _regex,
        "a pattern and a text, such as does /[0-9]+/ match 'room 42'.",
        (
            r"does the regex `^\d+$` match `123`?",
            r"test /[a-z]+@[a-z]+\.com/ on 'write to ann@example.com'",
            r"what does the regular expression /\b\w{5}\b/ find in: green trees stand still",
            r"check pattern '[A-Z]{2}\d{2}' against 'DE89 3704'",
            r"all matches of /colou?r/ in 'color or colour'",
        ),
    ),
)
