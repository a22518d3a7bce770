"""A prior over names, added along the trie while decoding (eq. 26).

At each node a child gains ``log(mass below the child / mass below the node)``: along a whole name
these add up to the log of its share. Knows leaves and their log masses, not where those come from.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moma_core.decoding.trie import IntArray, NameTrie
from moma_core.errors import InvalidInputError, ScoreError

__all__ = ["NamePrior"]

Floats = npt.NDArray[np.float64]


class NamePrior:
    """Says how much of the ranker's mass lies below each child of a node.

    Args:
        trie: The n names.
        log_mass: Log of each name's mass, up to a constant, shape (n,) in the names' order, e.g.
            a ranker's log probabilities times a weight.

    Raises:
        InvalidInputError: If the shape is another.
        ScoreError: If a value is not finite.

    Example:
        >>> trie = NameTrie([[5], [5, 7], [3]], terminator=0)
        >>> prior = NamePrior(trie, np.log([0.5, 0.25, 0.25]))
        >>> everyone = np.arange(4)
        >>> shares = prior.shares(everyone, np.array([1, 2]))  # token 3, and token 5 with two names
        >>> np.exp(shares).round(2).tolist()
        [0.25, 0.75]
    """

    __slots__ = ("_by_leaf", "_trie")

    def __init__(self, trie: NameTrie, log_mass: npt.ArrayLike) -> None:
        masses = np.asarray(log_mass, dtype=np.float64)
        if masses.shape != (len(trie),):
            raise InvalidInputError(
                f"expected a log mass for each of {len(trie)} names, got shape {masses.shape}"
            )
        if not np.isfinite(masses).all():
            raise ScoreError(
                "expected finite log masses; make an agent ineligible instead of giving it none"
            )
        self._trie = trie
        self._by_leaf = masses[trie.name_of_leaf]

    def shares(self, counts: npt.NDArray[np.integer], children: IntArray) -> Floats:
        """Return log(mass below child / mass below all of them), shape (c,).

        Args:
            counts: An eligibility's snapshot; only eligible names have mass.
            children: The live children of one node, ascending, shape (c,).
        """
        lo, hi = self._trie.lo[children[0]], self._trie.hi[children[-1]]
        alive = np.diff(counts[lo : hi + 1]) > 0
        masses = np.where(alive, self._by_leaf[lo:hi], -np.inf)
        below: Floats = np.logaddexp.reduceat(masses, self._trie.lo[children] - lo)
        shares: Floats = below - np.logaddexp.reduce(below)
        return shares
