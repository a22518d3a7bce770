"""Many queries in the forwards of one: their prompts and names side by side after one prefix.

A small forward takes as long as reading the LLM's weights; sixteen queries that share it read them
once. Each query sees the prefix and its own tokens only, so its answer is the one it gets alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from moma_core.decoding.eligibility import Eligibility
from moma_core.decoding.prefix import KvPrefix
from moma_core.decoding.prior import NamePrior
from moma_core.decoding.readout import row_logits
from moma_core.decoding.scoring import begun, checked
from moma_core.decoding.search import BestFirst, Branching, NamePath, TopNames
from moma_core.decoding.tree import TokenTree
from moma_core.decoding.trie import NameTrie
from moma_core.errors import InvalidInputError

__all__ = [
    "begun_together",
    "common_beginning",
    "each",
    "groups",
    "run",
    "top_k",
    "top_k_packed",
]

T = TypeVar("T")

_MOST_TOKENS = 1_024  # of prompts in one forward; attention among them grows with the square


def top_k(
    llm: Any,
    trie: NameTrie,
    prompt: Sequence[int],
    eligible: Eligibility | None = None,
    *,
    k: int = 1,
    prefix: KvPrefix | None = None,
    prior: NamePrior | None = None,
) -> TopNames:
    """Return the k names that masked decoding finds most probable, exactly.

    Args:
        llm: A causal LLM of transformers.
        trie: The names.
        prompt: Token ids after the prefix, at least one.
        eligible: By default all names.
        k: At least 1.
        prefix: What comes before ``prompt``, encoded by this LLM.
        prior: Mass of each name, added along the trie.

    Raises:
        InvalidInputError: If k < 1, the prompt is empty or the LLM cannot be fed a tree.
        NoTargetError: If no name is eligible.
        ScoreError: If the LLM gives NaN.
    """
    return top_k_packed(llm, trie, [prompt], eligible, k=k, prefix=prefix, priors=prior)[0]


def top_k_packed(
    llm: Any,
    trie: NameTrie,
    prompts: Sequence[Sequence[int]],
    eligible: Eligibility | Sequence[Eligibility | None] | None = None,
    *,
    k: int = 1,
    prefix: KvPrefix | None = None,
    priors: NamePrior | Sequence[NamePrior | None] | None = None,
) -> list[TopNames]:
    """Return for each query what `top_k` would, the queries sharing their forwards.

    Args:
        llm: A causal LLM of transformers.
        trie: The names.
        prompts: Token ids of b queries after the prefix, at least one each.
        eligible: One for all queries, or one for each; by default all names.
        k: At least 1.
        prefix: What comes before each prompt, encoded by this LLM.
        priors: One for all queries, or one for each.

    Raises:
        InvalidInputError: If k < 1, a prompt is empty, there is not one of a list for each query,
            or the LLM cannot be fed a tree.
        NoTargetError: If a query has no eligible name.
        ScoreError: If the LLM gives NaN.
    """
    if k < 1:
        raise InvalidInputError(f"expected k of at least 1, got {k}")
    allowed = [
        checked(trie, one, prompt)
        for one, prompt in zip(each(eligible, len(prompts)), prompts, strict=True)
    ]
    mass = each(priors, len(prompts))
    searches: list[BestFirst] = []
    for group in groups(prompts):
        tree, rests = begun_together(llm, [prompts[i] for i in group], prefix)
        together = [
            BestFirst(NamePath(trie, allowed[i].counts, rest), k, mass[i])
            for i, rest in zip(group, rests, strict=True)
        ]
        run(tree, together)
        searches.extend(together)
    return [search.top() for search in searches]


def run(tree: TokenTree, searches: Sequence[BestFirst]) -> None:
    """Advance searches together, all their wishes in one forward, until each has found its names.

    Args:
        tree: What they grow; each search's tokens follow its own.
        searches: Of one LLM and prefix.

    Raises:
        ScoreError: If the LLM gives NaN.
    """
    waiting = list(searches)
    while waiting:
        wanted: list[tuple[BestFirst, Branching]] = []
        tokens: list[int] = []
        parents: list[int] = []
        for search in waiting:
            branching = search.next(len(tree) + len(tokens))
            if branching is not None:
                tokens.extend(branching.tokens)
                parents.extend(branching.parents)
                wanted.append((search, branching))
        if wanted:
            states = tree.feed(tokens, parents)
            ends = np.cumsum([len(branching.tokens) for _, branching in wanted])
            for (search, branching), end in zip(wanted, ends, strict=True):
                search.take(branching, partial(row_logits, tree.readout, states[end - 1]))
        waiting = [search for search, _ in wanted]


def each(given: T | Sequence[T | None] | None, n: int) -> list[T | None]:
    """Return one thing for each of n queries, where one for all or a list of n is given.

    Raises:
        InvalidInputError: If the list has another length.

    Example:
        >>> each("all", 2), each(["one", None], 2)
        (['all', 'all'], ['one', None])
    """
    if not isinstance(given, list | tuple):
        return [given] * n  # type: ignore[list-item]
    if len(given) != n:
        raise InvalidInputError(f"expected one for each of {n} queries, got {len(given)}")
    return list(given)


def common_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all prompts share, fewer than the shortest has.

    Example:
        >>> common_beginning([[1, 2, 3, 4], [1, 2, 5]])
        2
        >>> common_beginning([[1, 2], [1, 2]])  # each keeps a token of its own
        1
    """
    low, high = min(map(list, prompts)), max(map(list, prompts))
    most = min(map(len, prompts)) - 1
    return next((i for i in range(most) if low[i] != high[i]), most)


def groups(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Put prompts in order into groups of bounded length; a longer one is alone."""
    groups: list[list[int]] = []
    room = 0
    for i, prompt in enumerate(prompts):
        if len(prompt) > room:
            groups.append([])
            room = _MOST_TOKENS
        groups[-1].append(i)
        room -= len(prompt)
    return groups


def begun_together(
    llm: Any, prompts: Sequence[Sequence[int]], prefix: KvPrefix | None
) -> tuple[TokenTree, list[list[int]]]:
    """Return an empty tree after the prefix, and what of each prompt is still to be fed."""
    if len(prompts) == 1:
        tree, rest = begun(llm, prompts[0], prefix)
        return tree, [rest]
    return TokenTree(llm, prefix), [[int(token) for token in prompt] for prompt in prompts]
