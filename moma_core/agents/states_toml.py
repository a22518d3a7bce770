"""States as TOML: read with errors that name the line, and written back.

Checks what a file can get wrong by itself; `StateMachine` checks that states hold together.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from moma_core.agents.states import State, StateFault
from moma_core.errors import InvalidStatesError

__all__ = [
    "Document",
    "read_toml",
    "write_toml",
]


@dataclass(frozen=True, slots=True)
class Document:
    """What a states file says.

    Args:
        where: The file's name.
        text: Its TOML.
        states: Its ``[[states]]`` tables.
        follow_ups: Phrases that begin a follow-up.
        cancel: Phrases that end all states.
    """

    where: str
    text: str
    states: tuple[State, ...] = ()
    follow_ups: tuple[str, ...] = ()
    cancel: tuple[str, ...] = ()

    def locate(self, fault: StateFault) -> InvalidStatesError:
        """Return the same error with the line of its state and field before it."""
        named = [i for i, state in enumerate(self.states) if state.name == fault.state]
        # Of two states that share a name, the second is at fault.
        return InvalidStatesError(f"{_place(self, named[-1], fault.field)}: {fault}")


def read_toml(source: str | Path) -> Document:
    r"""Read a TOML file (a `Path`, or text ending in ``.toml``) or TOML text.

    Raises:
        InvalidStatesError: It cannot be read, or says something unknown; the message names the
            line where there is one.

    Example:
        >>> read_toml("[[states]]\nname = 'A'\nkeyword = ['x']")
        Traceback (most recent call last):
        moma_core.errors.InvalidStatesError: states, line 3, state 1: unknown field 'keyword'; ...
    """
    is_path = isinstance(source, Path) or source.strip().endswith(".toml")
    where = str(source) if is_path else "states"
    try:
        text = Path(source).read_text(encoding="utf-8") if is_path else str(source)
        content = tomllib.loads(text)
    except OSError as error:
        raise InvalidStatesError(f"cannot read the states file {where}: {error}") from error
    except (ValueError, RecursionError) as error:  # also of a number with too many digits
        raise InvalidStatesError(f"{where} is not valid TOML: {error}") from error
    tables = content.get("states", [])
    if not isinstance(tables, list) or set(content) - {"states", *_PHRASES}:
        raise InvalidStatesError(
            f"{where}: expected only [[states]] tables and the lists {' and '.join(_PHRASES)} "
            f"before them, found {sorted(content)}."
        )
    document = Document(where, text)
    phrases = [_phrases(document, name, content.get(name, [])) for name in _PHRASES]
    states = tuple(_state(document, i, table) for i, table in enumerate(tables))
    return Document(where, text, states, *phrases)


def write_toml(states: Sequence[State], follow_ups: Sequence[str], cancel: Sequence[str]) -> str:
    """Return TOML that `read` reads back to the same."""
    lines = [
        f"{name} = {_toml(tuple(value))}"
        for name, value in zip(_PHRASES, (follow_ups, cancel), strict=True)
        if value
    ]
    for state in states:
        lines.append("[[states]]")
        for field in fields(State):
            value = getattr(state, field.name)
            if value != field.default:
                lines.append(f"{field.name} = {_toml(value)}")
        lines.append("")
    return "\n".join(lines)


_PHRASES = ("follow_ups", "cancel")
_INTEGERS = ("priority", "sticky", "expires_after")
_KNOWN = {field.name: field.default for field in fields(State)}


def _phrases(document: Document, name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
        raise InvalidStatesError(
            f"{document.where}: {name} is a list of phrases, got {value!r:.60}. "
            f"Write {name} = ['...']."
        )
    return tuple(value)


def _state(document: Document, index: int, table: object) -> State:
    if not isinstance(table, Mapping):
        raise InvalidStatesError(
            f"{_place(document, index)}: expected a [[states]] table, got {table!r:.40}."
        )
    for key, value in table.items():
        if key not in _KNOWN:
            raise InvalidStatesError(
                f"{_place(document, index, key)}: unknown field {key!r}; known are "
                f"{sorted(_KNOWN)}."
            )
        if not _fits(key, value):
            raise InvalidStatesError(
                f"{_place(document, index, key)}: {key} has the wrong type: {value!r:.60}."
            )
    if not table.get("name"):
        raise InvalidStatesError(f"{_place(document, index, 'name')}: a state needs a name.")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
    }
    try:
        return State(**values)
    except StateFault as fault:
        raise InvalidStatesError(f"{_place(document, index, fault.field)}: {fault}") from fault


def _fits(key: str, value: object) -> bool:
    if isinstance(_KNOWN[key], tuple):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if key == "threshold":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if key in _INTEGERS:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str)


_HEADER = re.compile(r"""\s*\[\[\s*(["']?)states\1\s*\]\]""")


def _place(document: Document, index: int, field: str = "") -> str:
    """Return the file, line and number of a state, at a field's line where the state has it.

    Tables written inline have no header to find; then there is no line.
    """
    lines = document.text.splitlines()
    starts = [i for i, line in enumerate(lines) if _HEADER.match(line)]
    if index >= len(starts):
        return f"{document.where}, state {index + 1}"
    start = starts[index]
    end = starts[index + 1] if index + 1 < len(starts) else len(lines)
    key = re.compile(rf"""\s*(["']?){re.escape(field)}\1\s*=""")
    found = [i for i in range(start, end) if field and key.match(lines[i])]
    return f"{document.where}, line {(found or [start])[0] + 1}, state {index + 1}"


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        escaped = "".join(
            f"\\u{ord(c):04x}" if ord(c) < 32 or c in '"\\' or ord(c) == 127 else c for c in value
        )
        return f'"{escaped}"'
    return repr(value)
