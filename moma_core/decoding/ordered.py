"""An ordered list of agents (eq. 26): each name is decoded after the ones before it.

Names already chosen are masked, so nobody is listed twice. After each name the LLM either goes on
with the separator or ends the list; the tokens that settle this are fed with the next name's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moma_core.decoding.eligibility import Eligibility
from moma_core.decoding.packing import begun_together, run
from moma_core.decoding.prefix import KvPrefix
from moma_core.decoding.prior import NamePrior
from moma_core.decoding.readout import row_logits
from moma_core.decoding.scoring import checked
from moma_core.decoding.search import BestFirst, NamePath
from moma_core.decoding.tree import NO_PARENT, TokenTree
from moma_core.decoding.trie import NameTrie
from moma_core.errors import InvalidInputError

__all__ = ["OrderedNames", "ordered_names"]


@dataclass(frozen=True, slots=True)
class OrderedNames:
    """Holds names in the order the LLM gives them.

    Args:
        names: All different.
        log_probs: Of each name after the ones before it, under masked decoding.
        forwards: Forward passes it took.
    """

    names: tuple[str, ...]
    log_probs: tuple[float, ...]
    forwards: int


def ordered_names(
    llm: Any,
    trie: NameTrie,
    prompt: Sequence[int],
    separator: Sequence[int],
    eligible: Eligibility | None = None,
    *,
    at_most: int,
    at_least: int = 1,
    prefix: KvPrefix | None = None,
    prior: NamePrior | None = None,
) -> OrderedNames:
    """Return different names in order, each the most probable after the ones before it.

    Args:
        llm: A causal LLM of transformers.
        trie: The names; its terminator ends the list.
        prompt: Token ids after the prefix, at least one.
        separator: Token ids between two names, e.g. of a line break.
        eligible: By default all names.
        at_most: Names to return at most; fewer if fewer are eligible.
        at_least: Names from which on the LLM may end the list.
        prefix: What comes before ``prompt``, encoded by this LLM.
        prior: Mass of each name, added along the trie.

    Raises:
        InvalidInputError: If the separator is empty or holds the terminator, the numbers are not
            1 <= at_least <= at_most, the prompt is empty or the LLM cannot be fed a tree.
        NoTargetError: If no name is eligible.
        ScoreError: If the LLM gives NaN.
    """
    between = [int(token) for token in separator]
    if not between or trie.terminator in between:
        raise InvalidInputError(
            "expected a separator of at least one token and without the terminator, got "
            f"{between}; tokenise a line break or a comma"
        )
    if not 1 <= at_least <= at_most:
        raise InvalidInputError(f"expected 1 <= at_least <= at_most, got {at_least} and {at_most}")
    left = checked(trie, eligible, prompt).copy()
    tree, (rest,) = begun_together(llm, [prompt], prefix)
    parent, last = NO_PARENT, NO_PARENT
    ends = (trie.terminator, between[0]) if at_most > 1 else ()
    found: list[tuple[str, float]] = []
    while len(left) and len(found) < at_most:
        path = NamePath(trie, left.counts, rest, parent)
        search = BestFirst(path, 1, prior, ends=ends)
        run(tree, [search])
        if len(found) >= at_least:
            if last >= len(tree):  # a single name was left, so nothing was fed for it
                tree.feed_chain(rest, parent)
            if _closes(tree, last, trie.terminator, between[0]):
                break
        found += search.found
        name = search.found[0][0]
        left.disable(name)
        parent, unfed = path.last_token(name)
        last = len(tree) + len(unfed) - 1 if unfed else parent
        rest = [*unfed, *between]
    names, log_probs = zip(*found, strict=True)
    return OrderedNames(names, log_probs, tree.forwards)


def _closes(tree: TokenTree, slot: int, terminator: int, separator: int) -> bool:
    """Tell whether the LLM ends the list rather than going on, after a name's last token."""
    tokens = np.array([terminator, separator])
    end, go_on = row_logits(tree.readout, tree.state(slot), tokens)
    return bool(end >= go_on)
