"""Ids of tool calls that another LLM's provider takes, for every adapter.

Providers refuse each other's ids. A new id is a function of the old one and of those before it, so
that a conversation begins with the same bytes at each call.
"""

from __future__ import annotations

import hashlib
import re

__all__ = ["CallIds"]

_FORM = re.compile(r"[A-Za-z0-9_-]{1,40}")  # everybody takes it, but for Mistral:
_SHORT = re.compile(r"[A-Za-z0-9]{9}")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class CallIds:
    """Gives each foreign tool call an id that the reader takes, once in the conversation.

    Args:
        reader: What the reader's framework calls its provider, such as ``"mistralai-chat"``.

    Example:
        >>> ids = CallIds("mistralai-chat")
        >>> sent = ids.of_call("toolu_01", own=False)
        >>> len(sent), ids.of_answer("toolu_01") == sent, ids.of_call("abcdefgh1", own=False)
        (9, True, 'abcdefgh1')
    """

    def __init__(self, reader: str) -> None:
        self._form = _SHORT if "mistral" in reader.lower() else _FORM
        self._given: dict[str, str] = {}  # from the id in the conversation to the one sent
        self._used: set[str] = set()

    def of_call(self, known: str | None, *, own: bool | None) -> str | None:
        """Return the id that is sent; that of the reader's own call stays."""
        if known is None:
            return None
        sent, again = known, 0
        while not own and (sent in self._used or not self._form.fullmatch(sent)):
            sent, again = _short(f"{known} {again}"), again + 1
        self._used.add(sent)
        self._given[known] = sent
        return sent

    def of_answer(self, known: str) -> str:
        """Return the id under which the call that is answered was sent."""
        return self._given.get(known, known)


def _short(text: str) -> str:
    """Return nine letters and digits: an id that every provider takes."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return "".join(_DIGITS[number // 62**i % 62] for i in range(9))
