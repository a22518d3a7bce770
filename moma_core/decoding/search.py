"""How likely an LLM finds each eligible name, all names in one forward (sect. 4.2, eq. 26).

Two measures: `score_names` is the LLM's own, over its whole vocabulary; `masked_scores` is that of
masked decoding, which shares out each node's probability among the live children. The names are
fed as a tree after the prompt. Knows a trie and token ids, not what a prompt says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moma_core.decoding.eligibility import Eligibility, live_children
from moma_core.decoding.prefix import KvPrefix
from moma_core.decoding.prior import NamePrior
from moma_core.decoding.readout import log_probs, row_logits
from moma_core.decoding.tree import TokenTree, chain_parents
from moma_core.decoding.trie import ROOT, IntArray, NameTrie
from moma_core.errors import InvalidInputError

__all__ = ["NameScores", "begun", "checked", "masked_scores", "score_names"]

Floats = npt.NDArray[np.float64]

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
