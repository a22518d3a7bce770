"""Which names may be decoded now: a vector over the leaves of a trie, changed in microseconds.

Nothing is compiled from it, so an agent that is switched off is gone from the next step on. Knows
the trie's leaf intervals, and no LLM.
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock

import numpy as np
import numpy.typing as npt

from moma_core.decoding.trie import IntArray, NameTrie
from moma_core.errors import InvalidInputError, NoTargetError

__all__ = ["Counts", "Eligibility", "live_children"]

Counts = npt.NDArray[np.int32]


class Eligibility:
    """Tells for every node of a trie whether an eligible name lies below it.

    Each change replaces one array of running counts, so a reader in another thread sees the names
    before the change or after it, never a mixture. `counts` is one such snapshot.

    Args:
        trie: Its names are those that may be eligible.
        names: The eligible names; by default all.

    Raises:
        UnknownNameError: If a name is not in the trie.

    Example:
        >>> trie = NameTrie([[5], [5, 7], [3]], terminator=0, names=["travel", "travel_agent", "x"])
        >>> eligible = Eligibility(trie, ["travel", "x"])
        >>> eligible.disable("x")
        >>> eligible.names()
        ['travel']
        >>> eligible.only(["travel_agent"])
        >>> eligible.live(trie.walk([5])).tolist() == [trie.walk([5, 7])]
        True
    """

    __slots__ = ("_lock", "counts", "trie")

    def __init__(self, trie: NameTrie, names: Iterable[str] | None = None) -> None:
        self.trie = trie
        self._lock = Lock()
        self.counts: Counts = np.arange(len(trie) + 1, dtype=np.int32)
        if names is not None:
            self.only(names)

    def __len__(self) -> int:
        return int(self.counts[-1])

    def __contains__(self, name: str) -> bool:
        leaf = self.trie.leaf(name)
        return bool(self.counts[leaf + 1] != self.counts[leaf])

    def enable(self, name: str) -> None:
        """Make one name eligible; nothing happens if it is.

        Raises:
            UnknownNameError: If it is not in the trie.
        """
        self._switch(name, 1)

    def disable(self, name: str) -> None:
        """Make one name ineligible; nothing happens if it is.

        Raises:
            UnknownNameError: If it is not in the trie.
        """
        self._switch(name, -1)

    def _switch(self, name: str, step: int) -> None:
        leaf = self.trie.leaf(name)
        with self._lock:
            counts = self.counts
            if (counts.item(leaf + 1) > counts.item(leaf)) != (step > 0):
                counts = counts.copy()
                after = counts[leaf + 1 :]
                after += step
                self.counts = counts

    def only(self, names: Iterable[str]) -> None:
        """Make exactly these names eligible.

        Raises:
            UnknownNameError: If one is not in the trie.
        """
        chosen = np.zeros(len(self.trie), dtype=bool)
        chosen[[self.trie.place(name) for name in names]] = True
        self.only_where(chosen)

    def only_where(self, chosen: npt.NDArray[np.bool_]) -> None:
        """Make exactly the chosen names eligible.

        Args:
            chosen: Shape (n_names,), in the order of the trie's names.

        Raises:
            InvalidInputError: If the shape is another.
        """
        if chosen.shape != (len(self.trie),):
            raise InvalidInputError(
                f"expected a choice for each of {len(self.trie)} names, got shape {chosen.shape}"
            )
        counts = np.zeros(len(self.trie) + 1, dtype=np.int32)
        np.cumsum(chosen[self.trie.name_of_leaf], out=counts[1:])
        with self._lock:
            self.counts = counts

    def copy(self) -> Eligibility:
        """Return the same names, changed apart from these from now on."""
        twin = Eligibility(self.trie)
        twin.counts = self.counts
        return twin

    def where(self) -> npt.NDArray[np.bool_]:
        """Return which names are eligible, shape (n_names,), in the order of the trie's names."""
        return np.diff(self.counts).astype(bool)[self.trie.leaf_of_name]

    def names(self) -> list[str]:
        """Return the eligible names, in the order of the trie's."""
        return [self.trie.names[i] for i in np.flatnonzero(self.where())]

    def live(self, node: int | None) -> IntArray:
        """Return the children of a node with an eligible name below, none where node is None."""
        return live_children(self.trie, self.counts, node)

    def check(self) -> None:
        """Raise if no name is eligible.

        Raises:
            NoTargetError: If so.
        """
        if not len(self):
            raise NoTargetError(
                f"none of the {len(self.trie)} agents is eligible, so there is no name to decode; "
                "enable one with eligible.enable(name)"
            )


def live_children(trie: NameTrie, counts: Counts, node: int | None) -> IntArray:
    """Return the children of a node with an eligible name below, shape (c,), sorted by token.

    A child lives iff its leaf interval holds an eligible leaf: ``counts[hi] > counts[lo]``.

    Args:
        trie: The names.
        counts: Eligible leaves before each leaf, shape (n_names + 1,).
        node: None has no children.
    """
    if node is None:
        return np.empty(0, dtype=np.int64)
    here = trie.children(node)
    alive = counts[trie.hi[here]] > counts[trie.lo[here]]
    live: IntArray = here.start + np.flatnonzero(alive)
    return live
