"""How likely an LLM finds each eligible name, and the k most probable ones (sect. 4.2, eq. 26)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moma_core.decoding.prefix import KvPrefix
from moma_core.decoding.tree import NO_PARENT, TokenTree, chain_parents, log_probs, row_logits
from moma_core.decoding.trie import (
    ROOT,
    Counts,
    Eligibility,
    Floats,
    IntArray,
    NamePrior,
    NameTrie,
    live_children,
)
from moma_core.errors import InvalidInputError, ScoreError

__all__ = [
    "BestFirst",
    "Branching",
    "NamePath",
    "NameScores",
    "Rescore",
    "SampledPath",
    "TopNames",
    "begun",
    "checked",
    "masked_scores",
    "score_names",
]


_MOST_NODES = 1_024  # of a trie in one forward; attention among them grows with the square
_LONG_PROMPT = 512  # tokens from which the prompt is encoded first, without a mask in memory


@dataclass(frozen=True, slots=True, eq=False)
class NameScores:
    """Holds the log probability of each name after one prompt.

    Args:
        names: The n names.
        log_probs: Shape (n,); -inf where a name is not eligible.
        forwards: Forward passes it took.
        tokens_fed: Tokens run through the LLM.
    """

    names: tuple[str, ...]
    log_probs: Floats
    forwards: int
    tokens_fed: int

    @property
    def among_eligible(self) -> Floats:
        """The log probabilities made to sum to one over the eligible names, shape (n,)."""
        return np.asarray(self.log_probs - np.logaddexp.reduce(self.log_probs))

    def best(self, k: int = 1) -> list[tuple[str, float]]:
        """Return the k most probable names with their share among the eligible, best first."""
        shares = np.exp(self.among_eligible)
        order = np.argsort(-shares, kind="stable")[:k]
        return [(self.names[i], float(shares[i])) for i in order if shares[i] > 0.0]


def score_names(
    llm: Any,
    trie: NameTrie,
    prompt: Sequence[int],
    eligible: Eligibility | None = None,
    *,
    prefix: KvPrefix | None = None,
) -> NameScores:
    """Return log P(name, terminator | prompt) for every eligible name, exactly.

    The sum of each token's log probability over the whole vocabulary, so that the probabilities of
    all texts, not of the names, sum to one.

    Args:
        llm: A causal LLM of transformers.
        trie: The names.
        prompt: Token ids after the prefix, at least one.
        eligible: By default all names.
        prefix: What comes before ``prompt``, encoded by this LLM.

    Raises:
        InvalidInputError: If the prompt is empty or the LLM cannot be fed a tree.
        NoTargetError: If no name is eligible.
        ScoreError: If the LLM gives NaN.
    """
    eligible = checked(trie, eligible, prompt)
    counts = eligible.counts
    live = counts[trie.hi] > counts[trie.lo]
    inner = live & (np.diff(trie.first) > 0)
    tree, prompt = begun(llm, prompt, prefix)
    totals = np.full(trie.token.size, -np.inf)
    for nodes, states, begin in _states(tree, trie, inner, prompt):
        edges = np.flatnonzero(live & (trie.parent >= 0))
        place = np.full(trie.token.size, -1)
        place[ROOT], place[nodes] = 0, np.arange(1, nodes.size + 1)
        edges = edges[place[trie.parent[edges]] >= 0]
        edges = edges[np.argsort(place[trie.parent[edges]], kind="stable")]
        scores = log_probs(
            tree.readout, states[begin:], place[trie.parent[edges]], trie.token[edges]
        )
        totals[edges] = scores
    by_leaf = _summed(trie, totals, live)
    return NameScores(trie.names, by_leaf[trie.leaf_of_name], tree.forwards, tree.tokens_fed)


def masked_scores(
    llm: Any,
    trie: NameTrie,
    prompt: Sequence[int],
    eligible: Eligibility | None = None,
    *,
    prefix: KvPrefix | None = None,
    prior: NamePrior | None = None,
) -> NameScores:
    """Return the log probability of each name under masked decoding; they sum to one.

    At every node the LLM's probability, times the prior's share where there is one, is shared out
    among the live children. Only nodes up to the last choice are fed, and of the output head only
    the rows of live children are computed.

    Args:
        llm: A causal LLM of transformers.
        trie: The names.
        prompt: Token ids after the prefix, at least one.
        eligible: By default all names.
        prefix: What comes before ``prompt``, encoded by this LLM.
        prior: Mass of each name, added along the trie.

    Raises:
        InvalidInputError: If the prompt is empty or the LLM cannot be fed a tree.
        NoTargetError: If no name is eligible.
        ScoreError: If the LLM gives NaN.
    """
    eligible = checked(trie, eligible, prompt)
    counts = eligible.counts
    live = counts[trie.hi] > counts[trie.lo]
    below = np.bincount(trie.parent[1:][live[1:]], minlength=trie.token.size)
    totals = np.where(live, 0.0, -np.inf)
    forked = below > 1
    needed = _upwards(trie, forked)
    tree, prompt = begun(llm, prompt, prefix)
    if needed[ROOT]:
        for nodes, states, begin in _states(tree, trie, needed, prompt):
            for place, node in enumerate([ROOT, *nodes.tolist()]):
                if forked[node]:
                    children = live_children(trie, counts, node)
                    logits = row_logits(tree.readout, states[begin + place], trie.token[children])
                    if prior is not None:
                        logits = logits + prior.shares(counts, children)
                    totals[children] = logits - np.logaddexp.reduce(logits)
    by_leaf = _summed(trie, totals, live)
    return NameScores(trie.names, by_leaf[trie.leaf_of_name], tree.forwards, tree.tokens_fed)


def checked(trie: NameTrie, eligible: Eligibility | None, prompt: Sequence[int]) -> Eligibility:
    """Return the eligible names, all where None is given.

    Raises:
        InvalidInputError: If the prompt is empty, or the names are another trie's.
        NoTargetError: If no name is eligible.
    """
    if not len(prompt):
        raise InvalidInputError("expected at least one token of prompt after the prefix, got none")
    if eligible is None:
        return Eligibility(trie)
    if eligible.trie is not trie:
        raise InvalidInputError("the eligibility is another trie's; make it by Eligibility(trie)")
    eligible.check()
    return eligible


def begun(llm: Any, prompt: Sequence[int], prefix: KvPrefix | None) -> tuple[TokenTree, list[int]]:
    """Return an empty tree after the prefix, and the prompt's tokens that are still to be fed."""
    rest = [int(token) for token in prompt]
    if len(rest) <= _LONG_PROMPT:
        return TokenTree(llm, prefix), rest
    tree = TokenTree(llm, KvPrefix.encode(llm, rest[:-1], after=prefix))
    return tree, rest[-1:]


def _states(
    tree: TokenTree, trie: NameTrie, wanted: npt.NDArray[np.bool_], prompt: list[int]
) -> Iterator[tuple[IntArray, torch.Tensor, int]]:
    """Feed the prompt with wanted nodes behind it, at most some thousand at a time.

    Yields:
        The nodes fed, ascending, shape (k,); states; and where among the states the prompt's last
        one stands: those of the nodes follow it.
    """
    begin, last = len(prompt) - 1, None
    for nodes in _portions(trie, wanted):
        slots = np.full(trie.token.size, -1)
        slots[ROOT] = begin
        slots[nodes] = begin + 1 + np.arange(nodes.size)
        tokens, parents = trie.token[nodes].tolist(), slots[trie.parent[nodes]].tolist()
        if last is None:
            states = tree.feed([*prompt, *tokens], [*chain_parents(len(prompt), 0), *parents])
            last = states[begin : begin + 1]
            yield nodes, states, begin
        else:
            tree.cut(begin + 1)
            yield nodes, torch.cat([last, tree.feed(tokens, parents)]), 0


def _portions(trie: NameTrie, wanted: npt.NDArray[np.bool_]) -> list[IntArray]:
    """Split wanted nodes, the root left out, by intervals of leaves; each with its ancestors."""
    nodes = np.flatnonzero(wanted[1:]) + 1
    if nodes.size <= _MOST_NODES:
        return [nodes]
    begun_at = np.cumsum(np.bincount(trie.lo[nodes], minlength=len(trie)))
    steps = np.arange(_MOST_NODES, begun_at[-1] + _MOST_NODES, _MOST_NODES)
    cuts = np.unique([0, *np.searchsorted(begun_at, steps), len(trie)])
    portions = [
        nodes[(trie.lo[nodes] < end) & (trie.hi[nodes] > start)] for start, end in pairwise(cuts)
    ]
    return [portion for portion in portions if portion.size]


def _upwards(trie: NameTrie, nodes: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the nodes chosen and every node above them, shape (m,)."""
    reached = nodes.copy()
    for level in reversed(_levels(trie)):
        reached[trie.parent[level][reached[level]]] = True
    return reached


def _summed(trie: NameTrie, edges: Floats, live: npt.NDArray[np.bool_]) -> Floats:
    """Add up log probabilities from the root to each leaf, shape (n,); -inf at dead leaves."""
    totals = np.where(live, edges, -np.inf)
    totals[ROOT] = 0.0
    for level in _levels(trie):
        totals[level] += totals[trie.parent[level]]
    leaves = np.flatnonzero(trie.first[:-1] == trie.first[1:])
    by_leaf = np.empty(len(trie))
    by_leaf[trie.lo[leaves]] = totals[leaves]
    return by_leaf


def _levels(trie: NameTrie) -> list[slice]:
    """Return the nodes of each depth from 1 on; breadth-first, each is one range."""
    ends = np.cumsum(np.bincount(trie.depth)).tolist()
    return [slice(begin, end) for begin, end in pairwise(ends)]


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
