"""The k most probable names under masked decoding, exactly, with as few forwards as can be.

Best-first: the likeliest open node is opened next, and a forward is run only where several
eligible names part; tokens that leave no choice are fed along in the same forward. Probabilities
only shrink down a path, so the first k names reached are the k most probable. The search itself
runs no LLM: it says which tokens it wants fed and takes the logits that come out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from moma_core.decoding.eligibility import Counts, live_children
from moma_core.decoding.prior import Floats, NamePrior
from moma_core.decoding.tree import NO_PARENT, chain_parents
from moma_core.decoding.trie import ROOT, IntArray, NameTrie
from moma_core.errors import ScoreError

__all__ = ["BestFirst", "Branching", "NamePath", "Rescore", "SampledPath", "TopNames"]

Read = Callable[[IntArray], Floats]
Rescore = Callable[[list[int], IntArray, Floats], Floats]


@dataclass(frozen=True, slots=True)
class TopNames:
    """Holds the most probable names after one prompt, best first.

    Args:
        names: At most k, fewer if fewer are eligible.
        log_probs: Of each, under masked decoding.
        forwards: Forward passes it took: live branchings opened, no more.
    """

    names: tuple[str, ...]
    log_probs: tuple[float, ...]
    forwards: int


@dataclass(frozen=True, slots=True, eq=False)
class Branching:
    """Is a node where several eligible names part, with the tokens to feed to get there.

    Args:
        node: The node; its state is that of the last token fed.
        children: Its live children, ascending, two or more.
        tokens: What is still to be fed, in order, at least one.
        parents: The slot before each of ``tokens``.
    """

    node: int
    children: IntArray
    tokens: list[int]
    parents: list[int]


@dataclass(slots=True)
class NamePath:
    """Feeds paths of a trie after one prompt, remembering the slot that each node took.

    Args:
        trie: The names.
        counts: A snapshot of who is eligible.
        prompt: Token ids, at least one.
        parent: The slot that the prompt follows.
    """

    trie: NameTrie
    counts: Counts
    prompt: list[int]
    parent: int = NO_PARENT
    _slots: dict[int, int] = field(default_factory=dict)

    def descend(self, node: int) -> tuple[int, IntArray]:
        """Follow the only live child as long as there is just one.

        Returns:
            The leaf or branching reached, and its live children, none at a leaf.
        """
        children = live_children(self.trie, self.counts, node)
        while children.size == 1:
            node = int(children[0])
            children = live_children(self.trie, self.counts, node)
        return node, children

    def towards(self, node: int, children: IntArray, first_slot: int) -> Branching:
        """Say what to feed so that the last token fed is the one that leads to a branching.

        Args:
            node: The branching.
            children: Its live children.
            first_slot: The slot that the first of these tokens will take.
        """
        way, tokens = self._way(node)
        slot = self.parent
        if self._slots:
            slot = self._slots[int(self.trie.parent[way[0]])]
        else:
            tokens = [*self.prompt, *tokens]
            self._slots[ROOT] = first_slot + len(self.prompt) - 1
        first_of_way = first_slot + len(tokens) - len(way)
        self._slots.update({passed: first_of_way + i for i, passed in enumerate(way)})
        return Branching(node, children, tokens, chain_parents(len(tokens), first_slot, slot))

    def last_token(self, name: str) -> tuple[int, list[int]]:
        """Say how to reach a name's last token before its terminator.

        Returns:
            The slot of what was fed on the way to it, and the tokens to feed after that.
        """
        node = int(self.trie.parent[self.trie.leaf_node_of(name)])
        way, tokens = self._way(node)
        if not self._slots:
            return self.parent, [*self.prompt, *tokens]
        return self._slots[int(self.trie.parent[way[0]]) if way else node], tokens

    def _way(self, node: int) -> tuple[list[int], list[int]]:
        """Return the nodes down to ``node`` that were not fed, and their tokens."""
        way: list[int] = []
        while node != ROOT and node not in self._slots:
            way.append(node)
            node = int(self.trie.parent[node])
        way.reverse()
        return way, self.trie.token[way].tolist()


class BestFirst:
    """Finds the k most probable names of one prompt.

    Args:
        path: The prompt and the names.
        k: How many.
        prior: Mass of each name, added along the trie.
        rescore: Changes logits after the prior, given the tokens since the prompt.
        ends: Tokens any of which may end a name, in place of the trie's terminator alone.

    Attributes:
        found: Names with their log probabilities, best first.
        opened: Branchings opened, each of which costs one forward.
    """

    def __init__(
        self,
        path: NamePath,
        k: int = 1,
        prior: NamePrior | None = None,
        rescore: Rescore | None = None,
        ends: Sequence[int] = (),
    ) -> None:
        self._path = path
        self._k = k
        self._prior = prior
        self._rescore = rescore
        self._ends = np.array(ends, dtype=np.int64)
        self._cost = 0.0
        self._queue = [(0.0, ROOT)]
        self.found: list[tuple[str, float]] = []
        self.opened = 0

    def next(self, first_slot: int) -> Branching | None:
        """Return the branching to feed next, None when all is found.

        Args:
            first_slot: The slot that the first token fed will take.
        """
        while self._queue and len(self.found) < self._k:
            self._cost, node = heappop(self._queue)
            node, children = self._path.descend(node)
            if children.size:
                self.opened += 1
                return self._path.towards(node, children, first_slot)
            trie = self._path.trie
            self.found.append((trie.names[trie.name_of_leaf[trie.lo[node]]], -self._cost))
        return None

    def top(self) -> TopNames:
        """Return what was found."""
        names, log_probs = zip(*self.found, strict=True)
        return TopNames(names, log_probs, self.opened)

    def take(self, branching: Branching, read: Read) -> None:
        """Go on with a branching's children.

        Args:
            branching: The last one asked for.
            read: Gives the logits of tokens after it.
        """
        shares = self._shares(branching, read)
        possible = np.isfinite(shares)  # a processor such as top-p may have ruled some out
        for child, share in zip(branching.children[possible], shares[possible], strict=True):
            heappush(self._queue, (self._cost - float(share), int(child)))

    def _shares(self, branching: Branching, read: Read) -> Floats:
        """Return log probabilities among a branching's children, shape (c,)."""
        trie = self._path.trie
        tokens = trie.token[branching.children]
        logits = read(tokens)
        if self._ends.size:
            closes = tokens == trie.terminator
            logits = np.where(closes, np.logaddexp.reduce(read(self._ends)), logits)
        if self._prior is not None:
            logits = logits + self._prior.shares(self._path.counts, branching.children)
        if self._rescore is not None:
            logits = self._rescore(trie.path(branching.node), tokens, logits)
        total = np.logaddexp.reduce(logits)
        if np.isneginf(total):
            names = trie.names_below(branching.node)
            raise ScoreError(
                f"the LLM rules out each way to go on among {len(names)} names such as "
                f"{names[0]!r}; rename them, or take another LLM"
            )
        shares: Floats = logits - total
        return shares


class SampledPath(BestFirst):
    """Draws one name of one prompt, token by token, as masked sampling would.

    Args:
        path: The prompt and the names.
        uniform: Returns a number from [0, 1).
        prior: Mass of each name, added along the trie.
        rescore: Changes logits after the prior, given the tokens since the prompt.
    """

    def __init__(
        self,
        path: NamePath,
        uniform: Callable[[], float],
        prior: NamePrior | None = None,
        rescore: Rescore | None = None,
    ) -> None:
        super().__init__(path, 1, prior, rescore)
        self._uniform = uniform

    def take(self, branching: Branching, read: Read) -> None:
        """Go on with one of a branching's children, drawn by its probability."""
        shares = self._shares(branching, read)
        steps = np.cumsum(np.exp(shares))
        drawn = int(np.searchsorted(steps, self._uniform() * steps[-1], side="right"))
        heappush(self._queue, (self._cost - float(shares[drawn]), int(branching.children[drawn])))
