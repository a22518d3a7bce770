"""One state of a conversation: what makes it hold, how long it stays, and whom it allows.

Knows nothing of other states but their names, and nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from moma_core.errors import InvalidStatesError

__all__ = ["Rules", "State", "StateFault"]


class StateFault(InvalidStatesError):  # noqa: N818 - the public name is its parent's
    """Says which field of which state is at fault, so that a file's reader can name the line."""

    def __init__(self, message: str, state: str = "", field: str = "") -> None:
        super().__init__(message)
        self.state, self.field = state, field


@dataclass(frozen=True, slots=True)
class State:
    """When it holds and which agents may answer in it; atomic, or composite by ``all_of``.

    Args:
        name: For instance ``TRAVEL_RELATED``.
        keywords: Words or phrases, any of which makes it hold; case does not matter.
        patterns: Regular expressions in RE2 syntax (linear time), any of which makes it hold.
        events: Prefixes of system events, such as ``file_uploaded``, any of which makes it hold.
        prompt: What it is about in a sentence; enables the semantic state (eq. 24).
        threshold: Least cosine between query and prompt.
        priority: Of the states whose rules fire, those of the highest priority hold.
        sticky: For how many turns it stays when nothing speaks for it.
        categories: Agents of these categories are eligible.
        agents: Agents of these names are eligible.
        prefixes: Agents whose names start so are eligible.
        expires_after: For how many turns follow-ups ("and for two?") can keep it.
        leave: RE2 patterns; a text or event in which one is found ends it.
        all_of: Names of states that must all hold for this composite one to hold; it then leads:
            its own ``categories``, ``agents`` and ``prefixes`` count, those of its parts do not.

    A state that names no agents by any of the three restricts nothing.

    Raises:
        InvalidStatesError: A field has the wrong form, or a composite state has rules of its own.
    """

    name: str
    keywords: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    prompt: str = ""
    threshold: float = 0.35
    priority: int = 0
    sticky: int = 0
    categories: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    expires_after: int = 8
    leave: tuple[str, ...] = ()
    all_of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise StateFault(f"a state needs a name, got {self.name!r:.40}.", field="name")
        for field in _LISTS:
            value = getattr(self, field)
            if not isinstance(value, list | tuple) or not all(
                isinstance(item, str) and item for item in value
            ):
                raise self.fault(
                    field,
                    f"{field} is a list of texts, none empty, got {value!r:.60}. "
                    f"Write {field}=['...'].",
                )
            object.__setattr__(self, field, tuple(value))
        for field in ("sticky", "expires_after"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 0:
                raise self.fault(field, f"{field} is a number of turns, 0 or more, got {value!r}.")
        self._check_composite()

    def _check_composite(self) -> None:
        own = [field for field in _OF_ATOMS if getattr(self, field)]
        if self.all_of and own:
            raise self.fault(
                own[0],
                f"a composite state holds by its parts alone, got {own[0]} beside all_of. "
                f"Move {own[0]} to one of {list(self.all_of)}.",
            )

    def fault(self, field: str, message: str) -> StateFault:
        """Return an error about one field."""
        return StateFault(f"state {self.name!r}: {message}", self.name, field)

    @property
    def restricts(self) -> bool:
        """Whether it narrows the agents."""
        return bool(self.categories or self.agents or self.prefixes)

    def allows(self, name: str, categories: Sequence[str]) -> bool:
        """Say whether an agent of this name and these categories may answer in it."""
        return (
            name in self.agents
            or any(category in self.categories for category in categories)
            or any(name.startswith(prefix) for prefix in self.prefixes)
        )


_OF_ATOMS = ("keywords", "patterns", "events", "prompt", "priority", "sticky", "leave")
_LISTS = (
    *("keywords", "patterns", "events", "categories", "agents", "prefixes"),
    *("leave", "all_of"),
)


class _Pattern(Protocol):
    def search(self, text: bytes) -> object | None: ...


class Rules:
    """The rules of one state, compiled.

    Raises:
        InvalidStatesError: A pattern is not RE2 syntax.
    """

    def __init__(self, state: State) -> None:
        self._events = state.events
        words = [
            _compile(state, "keywords", _whole_words(state.keywords[i : i + _AT_ONCE]))
            for i in range(0, len(state.keywords), _AT_ONCE)
        ]
        self._enter = [*words, *(_compile(state, "patterns", text) for text in state.patterns)]
        self._leave = [_compile(state, "leave", text) for text in state.leave]

    def fire(self, words: bytes, events: Sequence[str]) -> bool:
        """Say whether a keyword, pattern or event makes the state hold; ``words`` are UTF-8."""
        if self._events and any(event.startswith(self._events) for event in events):
            return True
        return bool(words) and any(pattern.search(words) for pattern in self._enter)

    def end(self, said: Iterable[bytes]) -> bool:
        """Say whether a leave rule ends the state, in the text or in an event."""
        return bool(self._leave) and any(p.search(text) for p in self._leave for text in said)


_AT_ONCE = 100  # keywords in one pattern; RE2 bounds a pattern's memory
# No letter, digit or mark of a script with spaces; RE2's own \W knows ASCII only.
_EDGE = r"[^\pL\pN\pM_]|[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"


def _whole_words(keywords: Iterable[str]) -> str:
    import re2

    return rf"(?i)(?:^|{_EDGE})(?:{'|'.join(map(re2.escape, keywords))})(?:{_EDGE}|$)"


def _compile(state: State, field: str, pattern: str) -> _Pattern:
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        compiled: _Pattern = re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        raise state.fault(
            field,
            f"pattern {pattern!r:.80} is not RE2 syntax ({error}). Look-around and "
            "back-references are not available.",
        ) from error
    return compiled
