"""What names, texts, numbers and JSON from outside must satisfy, and names as words."""

from __future__ import annotations

import difflib
import json
import math
import numbers
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

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
    "did_you_mean",
    "half_character",
    "is_finite",
    "is_json_object",
    "is_number",
    "is_text",
    "is_visible",
    "joined",
    "nearest",
    "parse_json",
    "printable",
    "readable",
    "rebuilding",
    "slip_of",
]

MAX_NAME_CHARS = 128

_STEERING = r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""What moves a terminal's cursor, ends a line or turns the direction of writing."""

# No control characters, no half ones, none that show another name than there is.
_NAME = re.compile(rf"[^\x00-\x1f{_STEERING}\ud800-\udfff]+")
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


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Ask whether the nearest known name was meant, upper case or not; empty where none is near.

    Example:
        >>> did_you_mean("GPT-4o-mni", ["gpt-4o-mini", "o3"])
        "Did you mean 'gpt-4o-mini'? "
    """
    folded = {other.casefold(): other for other in known}
    close = difflib.get_close_matches(str(name).casefold(), folded, n=1)
    return f"Did you mean {folded[close[0]]!r}? " if close else ""


def nearest(name: object, known: Iterable[str]) -> str:
    """Say which known name was perhaps meant or, where none is near, which there are.

    Example:
        >>> nearest("wether", ["weather"]), nearest("dice", ["weather"])
        ("Did you mean 'weather'?", "There are ['weather'].")
    """
    names = list(known)
    some = f"{names[:8]!r:.300}"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return did_you_mean(name, names).strip() or (f"There are {some}{more}." if names else "")


def slip_of(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is meant almost surely; None where it may be another on purpose.

    Example:
        >>> slip_of("wether", ["weather"]), slip_of("sales_2023", ["sales_2024"])
        ('weather', None)
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=_SLIP)
    # Names that differ in a number, as sales_2023 and sales_2024, are two on purpose.
    same = close and re.findall(r"\d+", name) == re.findall(r"\d+", close[0])
    return close[0] if same else None


_SLIP = 0.87  # "calender" for "calendar", and not "agent_a" for "agent_b"


def printable(text: object) -> str:
    r"""Return a text on whose characters no terminal or page acts: no control, no change of side.

    Example:
        >>> print(printable("a" + chr(27) + "[2J" + chr(0x202E) + "b"))
        a\x1b[2J\u202eb
    """
    return "".join(ascii(c)[1:-1] if _acts(c) else c for c in str(text))


def _acts(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and character not in _JOINERS)


_JOINERS = "\u200c\u200d"  # letters of Persian and Hindi, families of emoji


def readable(name: str) -> str:
    """Return a name as the words it is made of; empty where it has none.

    Example:
        >>> readable("getHealthWorkforce_v2")
        'get health workforce v2'
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return " ".join(re.sub(r"[_\-/.:]+", " ", spaced).split()).lower()


_DIGITS = 20  # of 64 bits, with a sign


def parse_json(content: bytes | str, *, any_number: bool = False) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: It is no JSON, nests too deep, or, unless ``any_number``, has a number that is
            none, infinite or too large.

    Example:
        >>> parse_json('{"threshold": NaN}')
        Traceback (most recent call last):
        ValueError: NaN is no number that can be used here
    """
    try:
        if any_number:
            return json.loads(content)
        return json.loads(content, parse_constant=_refuse, parse_int=_whole, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error


def _refuse(text: str) -> Any:
    raise ValueError(f"{text:.40} is no number that can be used here")


def _whole(text: str) -> int:
    return int(text) if len(text) < _DIGITS else _refuse(text)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)
