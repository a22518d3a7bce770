"""The conversation's state machine (eq. 21-25): which agents a turn may go to at all.

Rules come first (keywords, regular expressions, events); a follow-up stays where the conversation
was; where rules are silent or several states are likely, states that have a prompt compete by
cosine; where those are silent too, a sticky state stays. `StateMachine.next` is pure: it returns
the next `RoutingState` and the caller keeps it. The machine knows categories and agent names only
as words; it never sees a ranker.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from moma_core.agent_routing.states_toml import read_toml, write_toml
from moma_core.agent_routing.followups import Phrases, Reading
from moma_core.agent_routing.state import Rules, State, StateFault
from moma_core.errors import InvalidStatesError
from moma_core.protocols import Encoder
from moma_core.types import FloatArray, Query, RoutingState

__all__ = ["State", "StateMachine", "check_states"]

_SEMANTIC_MARGIN = 0.05  # states this near to the best one hold together with it
_MAX_CHARS = 100_000  # of a text that rules look at


def check_states(source: str | Path) -> tuple[State, ...]:
    """Return the states of a TOML file or text after checking that they hold together.

    Prompts are not encoded, so no encoder is needed.

    Raises:
        InvalidStatesError: The TOML is broken, or its states do not hold together; the message
            names the line.
    """
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
        self._atoms = {state.name: _atoms(state, self._by_name, ()) for state in self.states}
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
        return write_toml(self.states, self.phrases.follow_ups, self.phrases.cancel)

    def read(self, query: Query, previous: RoutingState) -> Reading:
        """Return how to read a turn: alone, after the query it leans on, or as a change of mind."""
        return self.phrases.read(query, previous)

    def next(
        self, previous: RoutingState, query: Query, vector: FloatArray | None = None
    ) -> RoutingState:
        """Return the state after ``query``; its sentence vector (d,) serves semantic states."""
        if not self.states:
            return RoutingState((), 0, previous.last_target, previous.topic)
        reading = self.read(query, previous)
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


def _atoms(state: State, by_name: Mapping[str, State], path: Collection[str]) -> frozenset[str]:
    """Return the atomic states that a state stands for."""
    if state.name in path:
        raise state.fault(
            "all_of", f"is part of itself ({' -> '.join([*path, state.name])}). Take one part out."
        )
    if not state.all_of:
        return frozenset([state.name])
    parts: set[str] = set()
    for name in state.all_of:
        if name not in by_name:
            raise state.fault(
                "all_of", f"no state is named {name!r}; declared are {list(by_name)!r:.200}."
            )
        parts |= _atoms(by_name[name], by_name, [*path, state.name])
    return frozenset(parts)


def _utf8(text: str) -> bytes:
    return text[:_MAX_CHARS].encode("utf-8", "replace")
