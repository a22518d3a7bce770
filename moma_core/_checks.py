"""What every name, text and number from outside must satisfy."""

from __future__ import annotations

import json
import numbers
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeGuard

from moma_core.errors import InvalidCardError, InvalidInputError, MoMAError

__all__ = [
    "MAX_NAME_CHARS",
    "check_name",
    "half_character",
    "is_json_object",
    "is_number",
    "is_text",
    "is_visible",
    "rebuilding",
]

MAX_NAME_CHARS = 128

_NAME = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")  # no control characters, no half ones
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


def is_json_object(value: object) -> bool:
    """Say whether it is a mapping that JSON can hold."""
    if not isinstance(value, Mapping):
        return False
    try:
        json.dumps(dict(value))
    except (TypeError, ValueError):
        return False
    return True


def is_visible(character: str) -> bool:
    """Say whether a character leaves a mark: no blank, control or format character."""
    kind = unicodedata.category(character)
    return kind not in ("Cc", "Cf", "Zs", "Zl", "Zp") and character not in _FILLERS
