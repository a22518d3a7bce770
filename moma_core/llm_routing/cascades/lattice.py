"""All that can have been seen after at most K answers: sets of LLMs and who agreed with whom.

A node is a set of LLMs already asked and, for each, the group its answer falls in (numbered by
first appearance; -1: unreadable). Order of asking is forgotten, so a few hundred nodes hold every
cascade. Knows no chance and no cost; one lattice serves every query.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

__all__ = ["Level", "build_lattice", "canonical"]

_Ints = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """The nodes at which k LLMs have been asked.

    Args:
        members: LLMs asked, ascending, shape (N, k).
        groups: Group of each one's answer, shape (N, k).
        asks: LLMs not asked yet, shape (N, L - k).
        children: Node of the next level by LLM asked and group of its answer plus one (0:
            unreadable), shape (N, L - k, k + 2); -1 where that group does not exist.
    """

    members: _Ints
    groups: _Ints
    asks: _Ints
    children: _Ints

    @property
    def n_groups(self) -> _Ints:
        """Readable groups of each node, shape (N,)."""
        if not self.groups.shape[1]:
            return np.zeros(len(self.groups), np.intp)
        return np.asarray(self.groups.max(axis=1) + 1, np.intp)

    def new_group(self, node: int) -> int:
        """Return the number that an answer unlike all others would get."""
        return int(self.groups[node].max(initial=-1)) + 1


@lru_cache(maxsize=32)
def build_lattice(n_llms: int, depth: int) -> tuple[Level, ...]:
    """Return levels 0 to ``depth`` of the lattice over ``n_llms`` LLMs.

    Example:
        >>> [len(level.members) for level in build_lattice(2, 2)]
        [1, 4, 5]
    """
    depth = min(depth, n_llms)
    nodes = [
        [
            (members, groups)
            for members in combinations(range(n_llms), k)
            for groups in _groupings(k)
        ]
        for k in range(depth + 1)
    ]
    places = [{node: place for place, node in enumerate(level)} for level in nodes]
    return tuple(
        _level(level, n_llms, places[k + 1] if k < depth else None, k)
        for k, level in enumerate(nodes)
    )


def canonical(groups: tuple[int, ...]) -> tuple[int, ...]:
    """Return the groups numbered by first appearance; negative ones stay -1.

    Example:
        >>> canonical((4, -1, 2, 4))
        (0, -1, 1, 0)
    """
    known: dict[int, int] = {}
    return tuple(-1 if g < 0 else known.setdefault(g, len(known)) for g in groups)


def _groupings(k: int) -> list[tuple[int, ...]]:
    if k == 0:
        return [()]
    return [
        (*before, group)
        for before in _groupings(k - 1)
        for group in range(-1, max(before, default=-1) + 2)
    ]


def _level(
    nodes: list[tuple[tuple[int, ...], tuple[int, ...]]],
    n_llms: int,
    following: dict[tuple[tuple[int, ...], tuple[int, ...]], int] | None,
    k: int,
) -> Level:
    width = n_llms - k if following is not None else 0
    asks = np.zeros((len(nodes), width), np.intp)
    children = np.full((len(nodes), width, k + 2), -1, np.intp)
    for place, (members, groups) in enumerate(nodes):
        if following is None:
            break
        asks[place] = [llm for llm in range(n_llms) if llm not in members]
        for column, llm in enumerate(asks[place].tolist()):
            at = sum(member < llm for member in members)
            joined = (*members[:at], llm, *members[at:])
            for group in range(-1, max(groups, default=-1) + 2):
                seen = canonical((*groups[:at], group, *groups[at:]))
                children[place, column, group + 1] = following[joined, seen]
    shape = (len(nodes), k)
    return Level(
        np.array([members for members, _ in nodes], np.intp).reshape(shape),
        np.array([groups for _, groups in nodes], np.intp).reshape(shape),
        asks,
        children,
    )
