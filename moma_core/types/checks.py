"""What every name, text and number from outside must satisfy."""

from __future__ import annotations

import json
import numbers
import re
from collections.abc import Mapping

from moma_core.errors import InvalidCardError

__all__ = ["MAX_NAME_CHARS", "check_name", "is_json_object", "is_number", "is_text"]

MAX_NAME_CHARS = 128

# No control characters and no lone surrogates; no blanks at either end.
_NAME = re.compile(r"(?!\s)[^\x00-\x1f\x7f\ud800-\udfff]+(?<!\s)")


def check_name(name: object, what: str) -> None:
    """Refuse a name that no registry, tokeniser or person could use.

    Raises:
        InvalidCardError: It is empty, too long, unprintable, or no text.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
        raise InvalidCardError(
            f"{what} name must be 1 to {MAX_NAME_CHARS} printable characters without spaces at "
            f"either end, got {str(name)[:40]!r}. Give a short name such as 'weather_forecast'."
        )


def is_text(value: object) -> bool:
    """Say whether it is text with something to see and no half characters."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate: no store and no tokeniser takes it
        return False
    return True


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
