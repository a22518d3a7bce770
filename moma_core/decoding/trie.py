"""A trie over the tokens of agents' names, and which names may be decoded now (sect. 4.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from threading import Lock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from moma_core.errors import (
    DuplicateNameError,
    InvalidInputError,
    NoTargetError,
    ScoreError,
    UnknownNameError,
)

__all__ = [
    "ROOT",
    "Counts",
    "Eligibility",
    "IntArray",
    "NamePrior",
    "NameTrie",
    "TextTokenizer",
    "live_children",
]

IntArray = npt.NDArray[np.int64]

ROOT = 0


class TextTokenizer(Protocol):
    """What the trie asks of a tokenizer; any of transformers' will do."""

    @property
    def eos_token_id(self) -> Any:
        """The token that ends an answer, or None."""

    def __call__(self, text: Any, *, add_special_tokens: bool) -> Any:
        """Return a mapping whose ``input_ids`` are token ids, a list for each text."""


class NameTrie:
    """Holds every name's one canonical tokenisation, each closed by a terminator.

    The terminator is what lets ``travel`` live beside ``travel_agent``: no sequence with it is the
    beginning of another. A node is an int, `ROOT` the first; a leaf is the place of a name in
    lexicographic order of tokens.

    Args:
        token_sequences: A sequence of token ids for each of n names, in the names' order.
        terminator: The token id that ends a name, the LLM's end-of-sequence token as a rule.
        names: The n names; without them the sequences are known by their numbers.

    Attributes:
        names: The n names, in the order given.
        terminator: As given.
        depth: Tokens from the root to each node, shape (m,).
        parent: The node above each node, shape (m,); the root's is -1.
        token: The token on the edge into each node, shape (m,); the root's is -1.
        first: Where each node's children begin, shape (m + 1,): they are ``first[i]:first[i + 1]``.
        lo: First leaf below each node, shape (m,).
        hi: One past the last leaf below each node, shape (m,).
        name_of_leaf: Which name each leaf is, shape (n,).
        leaf_of_name: Where each name is among the leaves, shape (n,).
        length: Most tokens that a name takes, with its terminator: enough for ``max_new_tokens``.

    Raises:
        InvalidInputError: If there is no sequence, one is empty, or one holds the terminator.
        DuplicateNameError: If two names have the same tokens.

    Example:
        >>> trie = NameTrie([[5], [5, 7], [3]], terminator=0, names=["travel", "travel_agent", "x"])
        >>> trie.token[trie.children(ROOT)].tolist()  # sorted
        [3, 5]
        >>> trie.names_below(trie.walk([5]))
        ['travel', 'travel_agent']
        >>> trie.match([5, 0])
        'travel'
    """

    def __init__(
        self,
        token_sequences: Sequence[Sequence[int]],
        terminator: int,
        names: Sequence[str] | None = None,
    ) -> None:
        self.terminator = int(terminator)
        self.names = tuple(map(str, range(len(token_sequences)) if names is None else names))
        padded = _padded(token_sequences, self.terminator, self.names)
        order = np.argsort(_as_bytes(padded), kind="stable")
        rows = padded[order]
        self.name_of_leaf: IntArray = order.astype(np.int64)
        self.leaf_of_name: IntArray = np.empty_like(self.name_of_leaf)
        self.leaf_of_name[order] = np.arange(len(order))
        self.length = int(rows.shape[1])
        self._number(rows)
        self._leaf: dict[str, int] = dict(zip(self.names, self.leaf_of_name.tolist(), strict=True))

    @classmethod
    def from_names(
        cls,
        names: Sequence[str],
        tokenizer: TextTokenizer,
        *,
        terminator: int | None = None,
        lead: str = "",
    ) -> NameTrie:
        """Tokenise names as the LLM itself would write them, once each.

        Args:
            names: Unique, not empty; any script.
            tokenizer: The LLM's.
            terminator: Token id that ends a name; by default the tokenizer's end of sequence.
            lead: Text between the prompt and the name that is tokenised with it, e.g. a space
                after a prompt that ends with a colon.

        Raises:
            InvalidInputError: If a name is empty, holds the terminator's text, or the tokenizer
                has no end-of-sequence token and no ``terminator`` is given.
            DuplicateNameError: If two names are alike, or alike to this tokenizer.
        """
        end = tokenizer.eos_token_id if terminator is None else terminator
        if not isinstance(end, int):
            raise InvalidInputError(
                "the tokenizer has no end-of-sequence token; pass terminator=<token id>"
            )
        if not names:
            raise InvalidInputError("expected at least one name to decode, got none")
        encoded = tokenizer([lead + name for name in names], add_special_tokens=False)["input_ids"]
        return cls(encoded, end, names)

    def __len__(self) -> int:
        return len(self.names)

    def _number(self, rows: IntArray) -> None:
        """Number the nodes of sorted ``rows`` (n, length), depth by depth, row by row."""
        n, length = rows.shape
        fresh = np.zeros((n, length), dtype=bool)  # this row begins a new node at this depth
        fresh[0] = True
        differs = rows[1:] != rows[:-1]
        twins = np.flatnonzero(~differs.any(axis=1))
        if twins.size:
            pair = self.name_of_leaf[twins[0] : twins[0] + 2]
            raise DuplicateNameError(
                f"{self.names[pair[0]]!r} and {self.names[pair[1]]!r} have the same tokens, so no "
                "decoding can tell them apart; rename one"
            )
        np.logical_or.accumulate(differs, axis=1, out=fresh[1:])
        used = rows >= 0
        fresh &= used
        depths, first_rows = np.nonzero(fresh.T)  # breadth-first
        node = np.cumsum(fresh.T.ravel()).reshape(length, n)  # (length, n), where used
        above = np.where(depths > 0, node[depths - 1, first_rows], ROOT)
        below = np.bincount(node[used.T], minlength=depths.size + 1)[1:]
        self.depth: IntArray = np.concatenate([[0], depths + 1])
        self.parent: IntArray = np.concatenate([[-1], above])
        self.token: IntArray = np.concatenate([[-1], rows[first_rows, depths]])
        self.lo: IntArray = np.concatenate([[0], first_rows])
        self.hi: IntArray = np.concatenate([[n], first_rows + below])
        n_children = np.bincount(above, minlength=depths.size + 1)
        self.first: IntArray = np.concatenate([[1], 1 + np.cumsum(n_children)])

    def children(self, node: int) -> slice:
        """Return the range of a node's children, empty at a leaf."""
        return slice(int(self.first[node]), int(self.first[node + 1]))

    def is_leaf(self, node: int) -> bool:
        """Tell whether a node ends a name, its terminator included."""
        return bool(self.first[node] == self.first[node + 1])

    def child(self, node: int, token: int) -> int | None:
        """Return the child that a token leads to, or None."""
        here = self.children(node)
        at = here.start + int(np.searchsorted(self.token[here], token))
        return at if at < here.stop and self.token[at] == token else None

    def walk(self, tokens: Sequence[int], node: int = ROOT) -> int | None:
        """Return the node that tokens lead to from ``node``, or None where they leave the trie."""
        for token in tokens:
            below = self.child(node, token)
            if below is None:
                return None
            node = below
        return node

    def match(self, tokens: Sequence[int]) -> str | None:
        """Return the name that tokens spell up to their first terminator, or None.

        What follows the terminator is padding and is not looked at.
        """
        spelled = list(tokens)
        if self.terminator not in spelled:
            return None
        node = self.walk(spelled[: spelled.index(self.terminator) + 1])
        return None if node is None else self.names[self.name_of_leaf[self.lo[node]]]

    def tokens_of(self, name: str) -> list[int]:
        """Return a name's tokens, its terminator last.

        Raises:
            UnknownNameError: If the trie does not hold it.
        """
        return self.path(self.leaf_node_of(name))

    def place(self, name: str) -> int:
        """Return where a name stands among `names`.

        Raises:
            UnknownNameError: If the trie does not hold it.
        """
        return int(self.name_of_leaf[self.leaf(name)])

    def leaf(self, name: str) -> int:
        """Return where a name stands among the leaves.

        Raises:
            UnknownNameError: If the trie does not hold it.
        """
        try:
            return self._leaf[name]
        except KeyError:
            raise UnknownNameError(
                f"no agent {name!r} among the {len(self)} of this trie; build it again with "
                "NameTrie.from_names"
            ) from None

    def path(self, node: int) -> list[int]:
        """Return the tokens from the root to a node."""
        tokens: list[int] = []
        while node != ROOT:
            tokens.append(int(self.token[node]))
            node = int(self.parent[node])
        return tokens[::-1]

    def leaf_node_of(self, name: str) -> int:
        """Return the node that ends a name.

        Raises:
            UnknownNameError: If the trie does not hold it.
        """
        leaf = self.leaf(name)
        node = ROOT
        while not self.is_leaf(node):
            here = self.children(node)
            node = here.start + int(np.searchsorted(self.hi[here], leaf, side="right"))
        return node

    def names_below(self, node: int | None) -> list[str]:
        """Return the names below a node, in lexicographic order of tokens; none below None."""
        if node is None:
            return []
        return [self.names[i] for i in self.name_of_leaf[self.lo[node] : self.hi[node]]]


def _padded(sequences: Sequence[Sequence[int]], terminator: int, names: Sequence[str]) -> IntArray:
    """Lay sequences out as rows (n, length), each closed by the terminator and padded with -1."""
    if not len(sequences) or len(sequences) != len(names):
        raise InvalidInputError(
            f"expected a token sequence for each name and at least one, got {len(sequences)} "
            f"sequences for {len(names)} names"
        )
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    flat = np.fromiter(chain.from_iterable(sequences), dtype=np.int64, count=int(lengths.sum()))
    if not lengths.all():
        raise InvalidInputError(f"name {names[int(lengths.argmin())]!r} has no tokens; rename it")
    if flat.min() < 0 or terminator < 0:
        raise InvalidInputError("expected token ids from 0, got a negative one")
    if (flat == terminator).any():
        place = int(np.searchsorted(lengths.cumsum(), np.argmax(flat == terminator), "right"))
        raise InvalidInputError(
            f"name {names[place]!r} holds the terminator, token {terminator}; rename it or pass "
            "another terminator"
        )
    rows = np.full((len(lengths), int(lengths.max()) + 1), -1, dtype=np.int64)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = flat
    rows[np.arange(len(lengths)), lengths] = terminator
    return rows


def _as_bytes(rows: IntArray) -> npt.NDArray[np.bytes_]:
    """View non-negative rows as byte strings that sort as the rows do, -1 before all else."""
    big_endian = np.ascontiguousarray(rows + 1).astype(">u4")
    return big_endian.view(f"S{4 * rows.shape[1]}").ravel()


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
