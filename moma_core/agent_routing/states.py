"""The conversation's state machine (eq. 21-25): which agents a turn may go to at all.

Rules come first (keywords, regular expressions, events); where they are silent, states that have a
prompt compete by cosine; where those are silent too, a sticky state stays. `StateMachine.next` is
pure: it returns the next `RoutingState` and the caller keeps it. The machine knows categories and
agent names only as words; it never sees a ranker.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from moma_core.errors import InvalidStatesError
from moma_core.protocols import Encoder
from moma_core.types import FloatArray, Query, RoutingState

__all__ = ["State", "StateMachine"]


class _Pattern(Protocol):
    def search(self, text: str) -> object | None: ...


@dataclass(frozen=True, slots=True)
class State:
    """One atomic state: when it holds and which agents may answer in it.

    Args:
        name: For instance ``TRAVEL_RELATED``.
        keywords: Words or phrases, any of which makes it hold; case does not matter.
        patterns: Regular expressions in RE2 syntax (linear time), any of which makes it hold.
        events: Prefixes of system events, such as ``file_uploaded``, any of which makes it hold.
        prompt: What it is about in a sentence; enables the semantic state (eq. 24).
        threshold: Least cosine between query and prompt.
        priority: Of the states whose rules fire, those of the highest priority hold.
        sticky: For how many silent turns it stays.
        categories: Agents of these categories are eligible.
        agents: Agents of these names are eligible.
        prefixes: Agents whose names start so are eligible.

    A state that names no agents by any of the three restricts nothing.
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

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise InvalidStatesError(f"a state needs a name, got {self.name!r:.40}.")
        for field in ("keywords", "patterns", "events", "categories", "agents", "prefixes"):
            value = getattr(self, field)
            if not isinstance(value, list | tuple) or not all(
                isinstance(item, str) and item for item in value
            ):
                raise InvalidStatesError(
                    f"state {self.name!r}: {field} is a list of texts, none empty, got "
                    f"{value!r:.60}. Write {field}=['...']."
                )
            object.__setattr__(self, field, tuple(value))

    @property
    def restricts(self) -> bool:
        """Whether it narrows the agents."""
        return bool(self.categories or self.agents or self.prefixes)


_SEMANTIC_MARGIN = 0.05  # states this near to the best one hold together with it


class StateMachine:
    """Turns a query and the previous state into the next state (delta of eq. 21).

    Args:
        states: Any number, none included.
        encoder: Encodes the prompts; only needed when a state has one.

    Raises:
        InvalidStatesError: Two states share a name, a pattern does not compile, or a prompt is
            given without an encoder.

    Example:
        >>> machine = StateMachine([State("TRAVEL", keywords=("flight",), sticky=1)])
        >>> state = machine.next(RoutingState(), Query("book a flight"))
        >>> state.active, machine.next(state, Query("and for two?")).active
        (('TRAVEL',), ('TRAVEL',))
    """

    def __init__(self, states: Sequence[State] = (), encoder: Encoder | None = None) -> None:
        self.states = tuple(states)
        names = [state.name for state in self.states]
        if len(set(names)) != len(names):
            raise InvalidStatesError(f"two states share a name among {names}; rename one.")
        self._patterns = {state.name: _compile(state) for state in self.states}
        self._semantic = [state for state in self.states if state.prompt]
        self._prompts: FloatArray | None = None
        if self._semantic:
            if encoder is None:
                raise InvalidStatesError(
                    f"state {self._semantic[0].name!r} has a prompt, which needs an encoder. "
                    "Write StateMachine(states, encoder)."
                )
            self._prompts = encoder.encode([state.prompt for state in self._semantic])

    @classmethod
    def from_toml(cls, source: str | Path, encoder: Encoder | None = None) -> StateMachine:
        """Read states from a TOML file (a `Path`, or text ending in ``.toml``) or TOML text.

        Raises:
            InvalidStatesError: The TOML is broken or a field is unknown or of the wrong type.

        Example:
            >>> StateMachine.from_toml('''
            ... [[states]]
            ... name = "FILE_UPLOADED"
            ... events = ["file_uploaded"]
            ... categories = ["documents"]
            ... ''').states[0].events
            ('file_uploaded',)
        """
        is_path = isinstance(source, Path) or source.strip().endswith(".toml")
        where = str(source) if is_path else "states"
        try:
            text = Path(source).read_text(encoding="utf-8") if is_path else str(source)
            document = tomllib.loads(text)
        except OSError as error:
            raise InvalidStatesError(f"cannot read the states file {where}: {error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidStatesError(f"{where} is not valid TOML: {error}") from error
        tables = document.get("states", [])
        if not isinstance(tables, list) or set(document) - {"states"}:
            raise InvalidStatesError(
                f"{where}: expected only [[states]] tables, found {sorted(document)}."
            )
        return cls(
            [_state(table, f"{where}, state {i + 1}") for i, table in enumerate(tables)], encoder
        )

    def to_toml(self) -> str:
        """Return TOML that `from_toml` reads back to the same states."""
        lines: list[str] = []
        for state in self.states:
            lines.append("[[states]]")
            for field in fields(State):
                value = getattr(state, field.name)
                if value != field.default:
                    lines.append(f"{field.name} = {_toml(value)}")
            lines.append("")
        return "\n".join(lines)

    def next(
        self, previous: RoutingState, query: Query, vector: FloatArray | None = None
    ) -> RoutingState:
        """Return the state after ``query``; its sentence vector (d,) serves semantic states."""
        active = self._by_rules(query) or self._by_meaning(vector)
        if active:
            return RoutingState(active, 0, previous.last_target)
        staying = self._staying(previous)
        return RoutingState(staying, previous.turns + 1 if staying else 0, previous.last_target)

    def eligible(
        self, state: RoutingState, names: Sequence[str], categories: Sequence[Sequence[str]]
    ) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """Return which agents the active states allow, shape (n,), or None for all (lambda).

        Composite states allow what any of their restricting parts allows.
        """
        active = [s for s in self.states if s.name in state.active and s.restricts]
        if not active:
            return None
        return np.array(
            [
                any(_allows(s, name, own) for s in active)
                for name, own in zip(names, categories, strict=True)
            ],
            dtype=bool,
        )

    def _by_rules(self, query: Query) -> tuple[str, ...]:
        fired = [state for state in self.states if self._fires(state, query)]
        top = max((state.priority for state in fired), default=0)
        return tuple(state.name for state in fired if state.priority == top)

    def _fires(self, state: State, query: Query) -> bool:
        if any(event.startswith(e) for e in state.events for event in query.events):
            return True
        return any(pattern.search(query.text) for pattern in self._patterns[state.name])

    def _by_meaning(self, vector: FloatArray | None) -> tuple[str, ...]:
        if self._prompts is None or vector is None:
            return ()
        cosines = self._prompts @ vector
        best = cosines.max()
        return tuple(
            state.name
            for state, cosine in zip(self._semantic, cosines, strict=True)
            if cosine >= state.threshold and cosine >= best - _SEMANTIC_MARGIN
        )

    def _staying(self, previous: RoutingState) -> tuple[str, ...]:
        held = {s.name for s in self.states if s.sticky > previous.turns}
        return tuple(name for name in previous.active if name in held)


def _allows(state: State, name: str, categories: Sequence[str]) -> bool:
    return (
        name in state.agents
        or any(category in state.categories for category in categories)
        or any(name.startswith(prefix) for prefix in state.prefixes)
    )


# No letter, digit or mark of a script with spaces; RE2's own \W knows ASCII only.
_EDGE = r"[^\pL\pN\pM_]|[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"


def _compile(state: State) -> list[_Pattern]:
    import re2

    words = [rf"(?i)(?:^|{_EDGE}){re2.escape(word)}(?:{_EDGE}|$)" for word in state.keywords]
    options = re2.Options()
    options.log_errors = False
    compiled = []
    for pattern in (*words, *state.patterns):
        try:
            compiled.append(re2.compile(pattern, options))
        except re2.error as error:
            raise InvalidStatesError(
                f"state {state.name!r}: pattern {pattern!r} is not RE2 syntax ({error}). "
                "Look-around and back-references are not available."
            ) from error
    return compiled


def _state(table: Mapping[str, Any], where: str) -> State:
    if not isinstance(table, Mapping):
        raise InvalidStatesError(f"{where}: expected a [[states]] table, got {table!r:.40}.")
    known = {field.name: field for field in fields(State)}
    for key, value in table.items():
        if key not in known:
            raise InvalidStatesError(f"{where}: unknown field {key!r}; known are {sorted(known)}.")
        example = known[key].default
        wanted = tuple if isinstance(example, tuple) else (int if key in _INTEGERS else float)
        if not _fits(value, str if key in ("name", "prompt") else wanted):
            raise InvalidStatesError(f"{where}: {key} has the wrong type: {value!r}.")
    if not table.get("name"):
        raise InvalidStatesError(f"{where}: a state needs a name.")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
    }
    return State(**values)


_INTEGERS = ("priority", "sticky")


def _fits(value: object, wanted: type) -> bool:
    if wanted is tuple:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, wanted) and not isinstance(value, bool)


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        escaped = "".join(
            f"\\u{ord(c):04x}" if ord(c) < 32 or c in '"\\' or ord(c) == 127 else c for c in value
        )
        return f'"{escaped}"'
    return repr(value)
