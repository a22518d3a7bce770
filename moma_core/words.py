"""What users say about things beside their cards, by name; and a name as words.

Slips of the pen are refused here: a name that is not there, a name given twice, one text where a
list of texts belongs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from moma_core.errors import DuplicateNameError, InvalidCardError, UnknownNameError

__all__ = ["Words", "check_names", "joined", "readable"]

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
