"""States as a Mermaid diagram: what leads into each state, what keeps it, what ends it."""

from __future__ import annotations

from collections.abc import Sequence

from moma_core.agent_routing.state import State

__all__ = ["mermaid"]


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
        lines.append(f"{own} --> [*] : {_named('leave rule', state.leave)}")
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
    rules = [_named(what, items) + first for what, items in named if items]
    if state.prompt:
        rules.append(f"means {_escaped(state.prompt)}, cosine {state.threshold:g} or more")
    return rules


def _agents(state: State) -> str:
    named = (
        ("category", state.categories),
        ("agent", state.agents),
        ("names from", state.prefixes),
    )
    return ", ".join(_named(what, items) for what, items in named if items)


def _named(what: str, items: Sequence[str]) -> str:
    return f"{what} {' or '.join(_escaped(item) for item in items)}"


def _turns(count: int) -> str:
    return f"{count} turn" if count == 1 else f"{count} turns"


def _escaped(text: str) -> str:
    """Return text in which nothing means anything to Mermaid, by its numeric entities."""
    return "".join(c if c.isalnum() or c in " _.,-" else f"#{ord(c)};" for c in text)
