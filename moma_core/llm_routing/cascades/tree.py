"""From a policy over the lattice to one query's tree, and to what it does on known answers.

Knows node numbers and LLM names; no belief and no preference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moma_core.llm_routing.cascades.lattice import Level
from moma_core.llm_routing.cascades.plan import Accept, Ask, CascadeStep, Weigh
from moma_core.llm_routing.cascades.planner import Policy

__all__ = ["Watch", "build_plan", "replay", "single_plan"]

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """The LLM whose answer's length is looked at, and what counts as long.

    Args:
        llm: Its number.
        limits: USD that part lengths, by query, shape (n, bins - 1).
    """

    llm: int
    limits: _Array

    def length(self, row: int, cost: float) -> int:
        """Return how long an answer of this cost is."""
        return int(np.searchsorted(self.limits[row], cost))


def single_plan(name: str) -> Ask:
    """Return the plan that asks one LLM and accepts whatever it says."""
    return Ask(name, Accept(name), Accept(name))


def build_plan(
    levels: Sequence[Level],
    names: Sequence[str],
    policy: Policy,
    row: int,
    column: int,
    watch: Watch | None = None,
) -> Ask:
    """Return the tree of one query (``row``) at one rate (``column``)."""

    def grow(k: int, node: int, first: tuple[tuple[str, int], ...]) -> CascadeStep:
        level = levels[k]
        choice = int(policy.choices[k][row, column, node])
        if choice < k:
            return Accept(names[_accepted(level, node, choice)])
        llm = int(level.asks[node, choice - k])
        at = int((level.members[node] < llm).sum())
        children = level.children[node, choice - k]

        def after(group: int, known: tuple[tuple[str, int], ...]) -> CascadeStep:
            places = [(name, place + (place >= at)) for name, place in known]
            if group == new:
                places.append((names[llm], at))
            watched = watch is not None and watch.llm == llm
            steps = tuple(
                grow(k + 1, int(children[level.outcome(group, length)]), tuple(places))
                for length in range(level.bins if watched else 1)
            )
            if watch is None or all(step == steps[0] for step in steps):
                return steps[0]
            return Weigh(names[llm], tuple(watch.limits[row].tolist()), steps)

        new = level.new_group(node)
        same = tuple((name, after(int(level.groups[node][place]), first)) for name, place in first)
        return Ask(names[llm], after(new, first), after(-1, first), same)

    root = grow(0, 0, ())
    if not isinstance(root, Ask):
        raise TypeError("a cascade starts with a call.")
    return root


def replay(
    levels: Sequence[Level],
    policy: Policy,
    rate: npt.NDArray[np.intp],
    answers: npt.NDArray[np.int32],
    scores: _Array,
    costs: _Array,
    watch: Watch | None = None,
) -> tuple[_Array, _Array, npt.NDArray[np.bool_]]:
    """Return measured score and USD of the plan of each query, and who was asked.

    Args:
        levels: The lattice over L LLMs.
        policy: Of n queries.
        rate: Column of the plan of each query, shape (n,).
        answers: Which answers are the same, shape (n, L).
        scores: Measured quality, shape (n, L).
        costs: Measured USD, shape (n, L).
        watch: Whose answer's length is looked at.

    Returns:
        Score (n,), USD of all calls (n,), and the LLMs asked (n, L).
    """
    n = len(answers)
    gained, spent, asked = np.zeros(n), np.zeros(n), np.zeros(answers.shape, bool)
    for row in range(n):
        node = 0
        for k, level in enumerate(levels):
            choice = int(policy.choices[k][row, rate[row], node])
            if choice < k:
                gained[row] = scores[row, _accepted(level, node, choice)]
                break
            llm = int(level.asks[node, choice - k])
            spent[row] += costs[row, llm]
            asked[row, llm] = True
            group = _group(level, node, answers[row], int(answers[row, llm]))
            watched = watch is not None and watch.llm == llm
            length = watch.length(row, costs[row, llm]) if watch and watched else 0
            node = int(level.children[node, choice - k, level.outcome(group, length)])
    return gained, spent, asked


def _accepted(level: Level, node: int, group: int) -> int:
    """The cheapest LLM that gave this answer; where none is readable, the dearest LLM asked."""
    places = np.flatnonzero(level.groups[node] == group)
    return int(level.members[node][places[0] if len(places) else -1])


def _group(level: Level, node: int, answers: npt.NDArray[np.int32], answer: int) -> int:
    if answer < 0:
        return -1
    for member, group in zip(level.members[node], level.groups[node], strict=True):
        if answers[member] == answer:
            return int(group)
    return level.new_group(node)
