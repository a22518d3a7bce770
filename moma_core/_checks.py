"""What names, texts and numbers from outside must satisfy, and names as words."""

from __future__ import annotations

import json
import numbers
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeGuard

from moma_core.errors import (
    DuplicateNameError,
    InvalidCardError,
    InvalidInputError,
    MoMAError,
    UnknownNameError,
)

__all__ = [
    "MAX_NAME_CHARS",
    "Words",
    "check_name",
    "check_names",
    "half_character",
    "harmless",
    "is_finite",
    "is_json_object",
    "is_number",
    "is_text",
    "is_visible",
    "joined",
    "readable",
    "rebuilding",
]

MAX_NAME_CHARS = 128

_STEERING = r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""What moves a terminal's cursor, ends a line or turns the direction of writing."""

# No control characters, no half ones, none that show another name than there is.
_NAME = re.compile(rf"[^\x00-\x1f{_STEERING}\ud800-\udfff]+")
_HARMFUL = re.compile(rf"[\x00-\x08\x0b-\x1f{_STEERING}]")
# Unicode counts these as letters or symbols, and draws nothing.
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")


def check_name(name: object, what: str) -> None:
    """Refuse a name that no registry, tokeniser or person could use.

    Raises:
        InvalidCardError: It is empty, too long, unprintable, begins or ends with a character that
            nobody sees (a blank, a zero-width space, a byte order mark), or is no text.
    """
    fits = isinstance(name, str) and 0 < len(name) <= MAX_NAME_CHARS and _NAME.fullmatch(name)
    if not isinstance(name, str) or not fits or not (is_visible(name[0]) and is_visible(name[-1])):
        raise InvalidCardError(
            f"{what} name must be 1 to {MAX_NAME_CHARS} printable characters without spaces or "
            f"invisible characters at either end, got {str(name)[:40]!r}. Give a short name "
            "such as 'weather_forecast'."
        )


def harmless(text: str) -> str:
    r"""Return a text with what steers terminals and the direction of writing made visible.

    Line feeds and tabs stay.

    Example:
        >>> print(harmless("rain " + chr(27) + "[31m" + chr(0x202E) + "now"))
        rain \x1b[31m\u202enow
    """
    return _HARMFUL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def is_text(value: object) -> TypeGuard[str]:
    """Say whether it is text with something to see and no half characters."""
    if not isinstance(value, str) or not any(map(is_visible, value)):
        return False
    return half_character(value) is None  # no store and no tokeniser takes one


def half_character(text: str) -> int | None:
    """Return where the first half of a character (a lone surrogate) is, None where there is none.

    Example:
        >>> half_character("rain"), half_character("rain " + chr(0xD83C))
        (None, 5)
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


@contextmanager
def rebuilding(what: str) -> Iterator[None]:
    """Say what is wrong with a plain dict that a value is rebuilt from.

    Args:
        what: The value, such as ``"a RoutingDecision"``.

    Raises:
        InvalidInputError: A key is missing, or a value has a wrong type.

    Example:
        >>> with rebuilding("a TeamPlan"):
        ...     {}["members"]
        Traceback (most recent call last):
        moma_core.errors.InvalidInputError: the dict of a TeamPlan lacks 'members'. ...
    """
    try:
        yield
    except MoMAError:
        raise
    except KeyError as error:
        raise InvalidInputError(
            f"the dict of {what} lacks {error.args[0]!r}. Give what its to_dict() returned."
        ) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidInputError(
            f"the dict of {what} does not hold together ({error}). Give what its to_dict() "
            "returned."
        ) from error


def is_number(value: object) -> bool:
    """Say whether it is a real number; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_finite(value: object) -> TypeGuard[float]:
    """Say whether it is a real number that a float can hold.

    Example:
        >>> is_finite(2), is_finite(float("nan")), is_finite(10**400)
        (True, False, False)
    """
    return is_number(value) and -_LARGEST < value < _LARGEST  # type: ignore[operator]


_LARGEST = 1e300


def is_json_object(value: object) -> bool:
    """Say whether it is a mapping that JSON can hold."""
    if not isinstance(value, Mapping):
        return False
    try:
        json.dumps(dict(value))
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def is_visible(character: str) -> bool:
    """Say whether a character leaves a mark: no blank, control or format character."""
    kind = unicodedata.category(character)
    return kind not in ("Cc", "Cf", "Zs", "Zl", "Zp") and character not in _FILLERS


Words = Mapping[str, Sequence[str]]
"""Texts by the name of what they are about."""


def check_names(what: str, names: Iterable[str], *words: Mapping[str, object] | None) -> None:
    """Refuse names that are given twice, and words about a name that is not there.

    Args:
        what: What bears the names, such as ``"tool"``.
        names: All of them.
        words: By name; None counts as nothing.

    Raises:
        DuplicateNameError: Two share a name.
        UnknownNameError: There are words for a name that is not there.

    Example:
        >>> check_names("tool", ["clock"], {"clcok": ["how late is it?"]})
        Traceback (most recent call last):
        moma_core.errors.UnknownNameError: there are words for a tool 'clcok', ...
    """
    counts = Counter(names)
    for name, count in counts.items():
        if count > 1:
            raise DuplicateNameError(
                f"{count} {what}s are called {name!r}; a router tells them apart by name. Rename "
                "all but one."
            )
    for mapping in words:
        for name in mapping or ():
            if name not in counts:
                raise UnknownNameError(
                    f"there are words for a {what} {name!r}, but the {what}s are "
                    f"{sorted(counts)!r:.500}. Correct the name, or leave it out."
                )


def joined(label: str, name: str, *parts: Sequence[str]) -> tuple[str, ...]:
    """Return the texts of all parts, each once.

    Args:
        label: What they are, such as ``"examples"``.
        name: What they are about.
        parts: Lists of texts.

    Raises:
        InvalidCardError: A part is one text, whose letters would become texts.

    Example:
        >>> joined("examples", "clock", ["how late is it?"], ("what time is it?",))
        ('how late is it?', 'what time is it?')
    """
    for part in parts:
        if isinstance(part, str):
            raise InvalidCardError(
                f"{label} of {name!r} are a list of texts, got one text {part[:40]!r}. Write "
                f"[{part[:40]!r}]."
            )
    return tuple(dict.fromkeys(text for part in parts for text in part))


def readable(name: str) -> str:
    """Return a name as the words it is made of; empty where it has none.

    Example:
        >>> readable("getHealthWorkforce_v2")
        'get health workforce v2'
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return " ".join(re.sub(r"[_\-/.:]+", " ", spaced).split()).lower()
