"""The conversation's state machine (eq. 21-25): which agents a turn may go to at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from moma_core._checks import is_finite
from moma_core.agents.conversation import EncodedTurns, Phrases, Reading
from moma_core.errors import InvalidStatesError
from moma_core.protocols import Encoder
from moma_core.types import FloatArray, Query, RoutingState

__all__ = [
    "Rules",
    "State",
    "StateFault",
    "StateMachine",
    "check_states",
    "mermaid",
]


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
        if not is_finite(self.threshold):
            raise self.fault("threshold", f"threshold is a cosine, got {self.threshold!r:.40}.")
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


_SEMANTIC_MARGIN = 0.05  # states this near to the best one hold together with it
_MAX_CHARS = 100_000  # of a text that rules look at


def check_states(source: str | Path) -> tuple[State, ...]:
    """Return the states of a TOML file or text after checking that they hold together.

    Prompts are not encoded, so no encoder is needed.

    Raises:
        InvalidStatesError: The TOML is broken, or its states do not hold together; the message
            names the line.
    """
    from moma_core.agents.states_toml import read_toml

    document = read_toml(source)
    try:
        StateMachine([replace(state, prompt="") for state in document.states])
    except StateFault as fault:
        raise document.locate(fault) from fault
    return document.states


class StateMachine:
    """Turns a query and the previous state into the next state (delta of eq. 21).

    Args:
        states: Any number, none included.
        encoder: Encodes the prompts; only needed when a state has one.
        follow_ups: Phrases that begin a follow-up, beside the English ones ("and", "what about").
        cancel: Phrases that end all states, beside the English ones ("never mind").

    Raises:
        InvalidStatesError: Two states share a name, a pattern does not compile, a composite state
            has unknown parts or is part of itself, or a prompt is given without an encoder.

    Example:
        >>> machine = StateMachine([State("TRAVEL", keywords=("flight",))])
        >>> state = machine.next(RoutingState(), Query("book a flight", history=("hi",)))
        >>> follow_up = Query("and for two?", history=("book a flight",))
        >>> state.active, machine.next(state, follow_up).active
        (('TRAVEL',), ('TRAVEL',))
    """

    def __init__(
        self,
        states: Sequence[State] = (),
        encoder: Encoder | None = None,
        *,
        follow_ups: Sequence[str] = (),
        cancel: Sequence[str] = (),
    ) -> None:
        self.states = tuple(states)
        self.phrases = Phrases(follow_ups, cancel)
        self._by_name = _named(self.states)
        self._atoms = _atoms_of(self._by_name)
        self._composites = [state.name for state in self.states if state.all_of]
        self._rules = {state.name: Rules(state) for state in self.states if not state.all_of}
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
            InvalidStatesError: The TOML is broken, or its states do not hold together; the message
                names the line.

        Example:
            >>> StateMachine.from_toml('''
            ... [[states]]
            ... name = "FILE_UPLOADED"
            ... events = ["file_uploaded"]
            ... categories = ["documents"]
            ... ''').states[0].events
            ('file_uploaded',)
        """
        from moma_core.agents.states_toml import read_toml

        document = read_toml(source)
        try:
            return cls(
                document.states,
                encoder,
                follow_ups=document.follow_ups,
                cancel=document.cancel,
            )
        except StateFault as fault:
            raise document.locate(fault) from fault

    def to_toml(self) -> str:
        """Return TOML that `from_toml` reads back to the same machine."""
        from moma_core.agents.states_toml import write_toml

        return write_toml(self.states, self.phrases.follow_ups, self.phrases.cancel)

    def read(self, query: Query, previous: RoutingState) -> Reading:
        """Return how to read a turn: alone, after the query it leans on, or as a change of mind."""
        return self.phrases.read(query, previous)

    def encode(
        self, queries: Sequence[Query], encoder: Encoder, previous: RoutingState | None = None
    ) -> EncodedTurns:
        """Read turns, each after ``previous`` or else as the first one, and encode them at once."""
        before = previous or RoutingState()
        return EncodedTurns.encode([self.read(query, before) for query in queries], encoder)

    def next(
        self,
        previous: RoutingState,
        query: Query,
        vector: FloatArray | None = None,
        reading: Reading | None = None,
    ) -> RoutingState:
        """Return the state after ``query``.

        Args:
            previous: The state before it.
            query: The turn.
            vector: Its sentence vector, shape (d,); semantic states need it.
            reading: What `read` made of the turn, where that is known already.
        """
        if not self.states:
            return RoutingState((), 0, previous.last_target, previous.topic)
        reading = reading or self.read(query, previous)
        left = self._left(query)
        ages = {} if reading.cancels else _ages(previous)
        staying = self._staying(ages, reading.follows) - left
        fired = self._fired(reading.words, query.events) - left
        meant = {} if reading.follows else self._meant(vector)
        meant = {name: cosine for name, cosine in meant.items() if name not in left}
        if fired:
            entered = self._likeliest(self._top(fired), meant)
        else:
            entered = set() if reading.follows and staying else self._near_best(meant)
        likely = fired | (meant.keys() if fired else entered) | staying
        active = self._with_composites(entered, likely, fired) if entered else staying
        active = active | self._holding(active)
        fresh = fired | entered
        following = {n: 0 if n in fresh else ages.get(n, -1) + 1 for n in self._in_order(active)}
        youngest = min(following.values(), default=0)
        return RoutingState(
            tuple(following),
            youngest,
            previous.last_target,
            previous.topic,
            tuple(following.values()),
        )

    def eligible(
        self, state: RoutingState, names: Sequence[str], categories: Sequence[Sequence[str]]
    ) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """Return which agents the active states allow, shape (n,), or None for all (lambda).

        A composite state leads: its parts are not asked. Of several leading states that restrict
        agents, any may allow one.
        """
        leading = [self._by_name[n] for n in self._leading(state.active)]
        leading = [s for s in leading if s.restricts]
        if not leading:
            return None
        return np.array(
            [
                any(s.allows(name, own) for s in leading)
                for name, own in zip(names, categories, strict=True)
            ],
            dtype=bool,
        )

    def _left(self, query: Query) -> Set[str]:
        said = [_utf8(text) for text in (query.text, *query.events)]
        return {name for name, rules in self._rules.items() if rules.end(said)}

    def _fired(self, words: str, events: Sequence[str]) -> Set[str]:
        said = _utf8(words)
        return {name for name, rules in self._rules.items() if rules.fire(said, events)}

    def _top(self, fired: Set[str]) -> Set[str]:
        top = max(self._by_name[name].priority for name in fired)
        return {name for name in fired if self._by_name[name].priority == top}

    def _meant(self, vector: FloatArray | None) -> dict[str, float]:
        """Return the states whose prompt is near enough to the query, with their cosines."""
        if self._prompts is None or vector is None:
            return {}
        cosines = (self._prompts @ vector).tolist()
        pairs = zip(self._semantic, cosines, strict=True)
        return {state.name: cosine for state, cosine in pairs if cosine >= state.threshold}

    def _near_best(self, meant: Mapping[str, float]) -> Set[str]:
        least = max(meant.values(), default=0.0) - _SEMANTIC_MARGIN
        return {name for name, cosine in meant.items() if cosine >= least}

    def _likeliest(self, fired: Set[str], meant: Mapping[str, float]) -> Set[str]:
        """Of several states whose rules fire, keep the nearest by meaning and those without it."""
        near = self._near_best({name: meant[name] for name in fired & meant.keys()})
        far = {name for name in fired if near and self._by_name[name].prompt} - near
        return fired - far

    def _staying(self, ages: Mapping[str, int], follows: bool) -> Set[str]:
        def bound(state: State) -> int:
            return max(state.sticky, state.expires_after) if follows else state.sticky

        return {n for n, age in ages.items() if n in self._rules and age < bound(self._by_name[n])}

    def _with_composites(self, entered: Set[str], likely: Set[str], fired: Set[str]) -> Set[str]:
        """Add what composite states need that hold by something new and something held."""
        new = entered | fired
        parts = (self._atoms[name] for name in self._composites)
        return frozenset(entered).union(*(p for p in parts if p <= likely and p & new))

    def _holding(self, active: Set[str]) -> Set[str]:
        return {name for name in self._composites if self._atoms[name] <= active}

    def _leading(self, active: Sequence[str]) -> list[str]:
        known = [name for name in active if name in self._atoms]
        return [n for n in known if not any(self._atoms[n] < self._atoms[o] for o in known)]

    def _in_order(self, active: Set[str]) -> list[str]:
        composite = [name for name in self._composites if name in active]
        return composite + [name for name in self._rules if name in active]


def _ages(previous: RoutingState) -> dict[str, int]:
    ages = previous.ages
    if len(ages) != len(previous.active):
        ages = (previous.turns,) * len(previous.active)
    return dict(zip(previous.active, ages, strict=True))


def _named(states: Sequence[State]) -> dict[str, State]:
    by_name: dict[str, State] = {}
    for state in states:
        if state.name in by_name:
            raise state.fault("name", "two states share a name; rename one.")
        by_name[state.name] = state
    return by_name


def _atoms_of(by_name: Mapping[str, State]) -> dict[str, frozenset[str]]:
    """Return the atomic states that each state stands for, in time linear in all parts."""
    atoms: dict[str, frozenset[str]] = {}
    for first in by_name:
        path = {first: iter(by_name[first].all_of)} if first not in atoms else {}
        while path:
            name, parts = next(reversed(path.items()))
            part = next((part for part in parts if part not in atoms), None)
            if part is None:
                own = [atoms[part] for part in by_name[name].all_of]
                atoms[name] = frozenset().union(*own) if own else frozenset([name])
                del path[name]
            elif part not in by_name:
                raise by_name[name].fault(
                    "all_of", f"no state is named {part!r}; declared are {list(by_name)!r:.200}."
                )
            elif part in path:
                circle = [*list(path)[list(path).index(part) :], part]
                raise by_name[part].fault(
                    "all_of",
                    f"is part of itself ({' -> '.join(circle):.300}). Take one part out.",
                )
            else:
                path[part] = iter(by_name[part].all_of)
    return atoms


def _utf8(text: str) -> bytes:
    return text[:_MAX_CHARS].encode("utf-8", "replace")


def mermaid(states: Sequence[State]) -> str:
    """Return a ``stateDiagram-v2`` that Mermaid, GitHub and most editors draw.

    Example:
        >>> print(mermaid([State("TRAVEL", keywords=("flight",), categories=("travel",))]))
        stateDiagram-v2
            state "TRAVEL" as s1
            s1 : category travel
            [*] --> s1 : keyword flight
            s1 --> s1 : follow-up, up to 8 turns
            s1 --> [*] : nothing speaks for it, or a cancel phrase
    """
    ids = {state.name: f"s{i + 1}" for i, state in enumerate(states)}
    lines = ["stateDiagram-v2"]
    for state in states:
        own = ids[state.name]
        lines.append(f'state "{_escaped(state.name)}" as {own}')
        if state.restricts:
            lines.append(f"{own} : {_agents(state)}")
    for state in states:
        lines += _composite(state, ids) if state.all_of else _atomic(state, ids[state.name])
    return "\n    ".join(lines)


def _atomic(state: State, own: str) -> list[str]:
    lines = [f"[*] --> {own} : {rule}" for rule in _rules(state)]
    if state.expires_after:
        lines.append(f"{own} --> {own} : follow-up, up to {_turns(state.expires_after)}")
    silence = f" for {_turns(state.sticky + 1)}" if state.sticky else ""
    lines.append(f"{own} --> [*] : nothing speaks for it{silence}, or a cancel phrase")
    if state.leave:
        lines.append(f"{own} --> [*] : {_named_rule('leave rule', state.leave)}")
    return lines


def _composite(state: State, ids: dict[str, str]) -> list[str]:
    lines = []
    for part in state.all_of:
        others = [_escaped(name) for name in state.all_of if name != part]
        label = f" : while {' and '.join(others)} holds" if others else ""
        lines.append(f"{ids[part]} --> {ids[state.name]}{label}")
    return lines


def _rules(state: State) -> list[str]:
    first = f", priority {state.priority}" if state.priority else ""
    named = (("keyword", state.keywords), ("pattern", state.patterns), ("event", state.events))
    rules = [_named_rule(what, items) + first for what, items in named if items]
    if state.prompt:
        rules.append(f"means {_escaped(state.prompt)}, cosine {state.threshold:g} or more")
    return rules


def _agents(state: State) -> str:
    named = (
        ("category", state.categories),
        ("agent", state.agents),
        ("names from", state.prefixes),
    )
    return ", ".join(_named_rule(what, items) for what, items in named if items)


def _named_rule(what: str, items: Sequence[str]) -> str:
    return f"{what} {' or '.join(_escaped(item) for item in items)}"


def _turns(count: int) -> str:
    return f"{count} turn" if count == 1 else f"{count} turns"


def _escaped(text: str) -> str:
    """Return text in which nothing means anything to Mermaid, by its numeric entities."""
    return "".join(c if c.isalnum() or c in " _.,-" else f"#{ord(c)};" for c in text)
