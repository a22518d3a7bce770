"""All that can have been seen after at most K answers: sets of LLMs and who agreed with whom.

A node is a set of LLMs already asked and, for each, the group its answer falls in (numbered by
first appearance; -1: unreadable); for one of them, the watched one, also whether its answer was
short or long. Order of asking is forgotten, so a few hundred nodes hold every cascade. Knows no
chance and no cost; one lattice serves every query.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

__all__ = ["Level", "build_lattice", "canonical"]

_Ints = npt.NDArray[np.intp]
_Node = tuple[tuple[int, ...], tuple[int, ...], int]


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """The nodes at which k LLMs have been asked.

    Args:
        members: LLMs asked, ascending, shape (N, k).
        groups: Group of each one's answer, shape (N, k).
        lengths: How long the watched LLM's answer was, 0 where it was not asked, shape (N,).
        asks: LLMs not asked yet, shape (N, L - k).
        children: Node of the next level by LLM asked and what it may answer (`outcome`), shape
            (N, L - k, (k + 2) * bins); -1 where that outcome does not exist.
        bins: Lengths told apart.
    """

    members: _Ints
    groups: _Ints
    lengths: _Ints
    asks: _Ints
    children: _Ints
    bins: int = 1

    @property
    def n_groups(self) -> _Ints:
        """Readable groups of each node, shape (N,)."""
        if not self.groups.shape[1]:
            return np.zeros(len(self.groups), np.intp)
        return np.asarray(self.groups.max(axis=1) + 1, np.intp)

    def new_group(self, node: int) -> int:
        """Return the number that an answer unlike all others would get."""
        return int(self.groups[node].max(initial=-1)) + 1

    def outcome(self, group: int, length: int = 0) -> int:
        """Return the place in `children` of an answer in this group (-1: unreadable)."""
        return (group + 1) * self.bins + length


@lru_cache(maxsize=32)
def build_lattice(
    n_llms: int, depth: int, watched: int | None = None, bins: int = 1
) -> tuple[Level, ...]:
    """Return levels 0 to ``depth`` of the lattice over ``n_llms`` LLMs.

    Args:
        n_llms: LLMs L that may be asked.
        depth: Most calls.
        watched: The LLM the length of whose answer is looked at.
        bins: Lengths told apart.

    Example:
        >>> [len(level.members) for level in build_lattice(2, 2)]
        [1, 4, 5]
        >>> [len(level.members) for level in build_lattice(2, 2, watched=0, bins=3)]
        [1, 8, 15]
    """
    depth = min(depth, n_llms)
    nodes = [
        [
            (members, groups, length)
            for members in combinations(range(n_llms), k)
            for groups in _groupings(k)
            for length in range(bins if watched in members else 1)
        ]
        for k in range(depth + 1)
    ]
    places = [{node: place for place, node in enumerate(level)} for level in nodes]
    return tuple(
        _level(level, n_llms, places[k + 1] if k < depth else None, k, (watched, bins))
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
    nodes: list[_Node],
    n_llms: int,
    following: dict[_Node, int] | None,
    k: int,
    watch: tuple[int | None, int],
) -> Level:
    watched, bins = watch
    width = n_llms - k if following is not None else 0
    asks = np.zeros((len(nodes), width), np.intp)
    children = np.full((len(nodes), width, (k + 2) * bins), -1, np.intp)
    level = Level(
        np.array([members for members, _, _ in nodes], np.intp).reshape(len(nodes), k),
        np.array([groups for _, groups, _ in nodes], np.intp).reshape(len(nodes), k),
        np.array([length for _, _, length in nodes], np.intp),
        asks,
        children,
        bins,
    )
    for place, (members, groups, length) in enumerate(nodes):
        if following is None:
            break
        asks[place] = [llm for llm in range(n_llms) if llm not in members]
        for column, llm in enumerate(asks[place].tolist()):
            at = sum(member < llm for member in members)
            joined = (*members[:at], llm, *members[at:])
            for group in range(-1, max(groups, default=-1) + 2):
                seen = canonical((*groups[:at], group, *groups[at:]))
                for now in range(bins if llm == watched else 1):
                    child = following[joined, seen, now if llm == watched else length]
                    children[place, column, level.outcome(group, now)] = child
    return level
