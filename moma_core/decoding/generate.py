"""Choosing names inside `generate` (eq. 26): one, several in order, many queries at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria
from transformers.utils.generic import ModelOutput

from moma_core.decoding.prefix import KvPrefix, PrefixCache
from moma_core.decoding.search import (
    BestFirst,
    Branching,
    NamePath,
    Rescore,
    SampledPath,
    TopNames,
    begun,
    checked,
)
from moma_core.decoding.tree import NO_PARENT, TokenTree, row_logits
from moma_core.decoding.trie import Eligibility, Floats, IntArray, NamePrior, NameTrie
from moma_core.errors import InvalidInputError, NoTargetError

__all__ = [
    "NameChoices",
    "OrderedNames",
    "begun_together",
    "choose_name",
    "common_beginning",
    "each",
    "groups",
    "ordered_names",
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


_WORTH_A_FORWARD = 64  # shared tokens from which rows' common beginning is encoded by itself


@dataclass
class NameChoices(ModelOutput):
    """Holds what `choose_name` found; returned where ``return_dict_in_generate=True``.

    Args:
        sequences: Each row's prompt, its best name and the terminator, padded, shape (rows, t).
        names: For each row at most ``n_names`` names, best first.
        probabilities: Of each of these names, under masked decoding.
        forwards: For each row the live branchings opened, each of which is one forward.
    """

    sequences: torch.LongTensor | None = None
    names: tuple[tuple[str, ...], ...] | None = None
    probabilities: tuple[tuple[float, ...], ...] | None = None
    forwards: tuple[int, ...] | None = None


def choose_name(
    model: Any,
    input_ids: torch.LongTensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    *,
    trie: NameTrie,
    eligible: Eligibility | Sequence[Eligibility] | None = None,
    prior: NamePrior | Sequence[NamePrior] | None = None,
    n_names: int = 1,
    prefixes: PrefixCache | None = None,
    **model_kwargs: Any,
) -> NameChoices | torch.LongTensor:
    """Answer with the most probable eligible names; give it to ``generate(custom_generate=...)``.

    Without sampling the names are the most probable whole names, exactly, which a greedy walk need
    not reach. With ``do_sample=True`` one name is drawn token by token. Every logits processor
    (temperature, top-p, your own) is applied where names part.

    Args:
        model: A causal LLM of transformers, given by ``generate``.
        input_ids: Shape (rows, length), given by ``generate``; left padding is fine.
        logits_processor: Given by ``generate``.
        stopping_criteria: Given by ``generate``; names end by themselves.
        generation_config: Given by ``generate``.
        trie: The names.
        eligible: One for all rows, or one for each row; by default all names.
        prior: Mass of each name, one for all rows or one for each, added along the trie.
        n_names: How many names for each row, best first.
        prefixes: Encoded beginnings of prompts to look in.
        **model_kwargs: Given by ``generate``.

    Returns:
        `NameChoices` where ``return_dict_in_generate=True``, else its ``sequences``.

    Raises:
        InvalidInputError: If asked for beams, for other stopping criteria, for outputs of every
            step, to go on from a cache, or with an LLM that cannot be fed a tree.
        NoTargetError: If a row has no eligible name, or processors forbid all.
        ScoreError: If the LLM gives NaN.

    Example:
        ``out = llm.generate(**inputs, custom_generate=choose_name, trie=trie, n_names=3,
        max_new_tokens=trie.length, return_dict_in_generate=True)``, then ``out.names[0]``.
        (`generate` warns where no length is given.)
    """
    _refuse(model_kwargs, stopping_criteria, generation_config, n_names)
    rows = _rows(input_ids, model_kwargs.get("attention_mask"))
    allowed = [
        checked(trie, one, row) for one, row in zip(_spread(eligible, len(rows)), rows, strict=True)
    ]
    masses = _spread(prior, len(rows))
    prefix = _shared_prefix(model, rows, prefixes)
    begin = len(prefix) if prefix else 0
    searches: list[BestFirst] = []
    for group in groups([row[begin:] for row in rows]):
        tree, rests = begun_together(model, [rows[i][begin:] for i in group], prefix)
        together = [
            _search(
                NamePath(trie, allowed[i].counts, rest),
                masses[i],
                _rescored(logits_processor, input_ids[i], model.config.vocab_size),
                0 if generation_config.do_sample else n_names,
            )
            for i, rest in zip(group, rests, strict=True)
        ]
        run(tree, together)
        searches += together
    tops = [search.top() for search in searches]
    sequences = _sequences(input_ids, trie, [top.names[0] for top in tops], generation_config)
    if not generation_config.return_dict_in_generate:
        return sequences
    return NameChoices(
        sequences=sequences,
        names=tuple(top.names for top in tops),
        probabilities=tuple(tuple(np.exp(top.log_probs).tolist()) for top in tops),
        forwards=tuple(top.forwards for top in tops),
    )


def _refuse(
    model_kwargs: dict[str, Any],
    stopping: StoppingCriteriaList,
    config: GenerationConfig,
    n_names: int,
) -> None:
    """Raise where more is asked than choosing a name can do, saying what to do instead."""
    if (config.num_beams or 1) > 1:
        raise InvalidInputError(
            f"choose_name searches exactly and takes no beams, got num_beams={config.num_beams}; "
            "leave it out and pass n_names=<how many>, or use NameMask as a logits_processor"
        )
    if n_names < 1 or (config.do_sample and n_names > 1):
        raise InvalidInputError(
            f"expected n_names of 1 with do_sample=True, else from 1, got {n_names}; pass "
            "do_sample=False for the most probable names"
        )
    own = (MaxLengthCriteria, EosTokenCriteria)
    others = [type(one).__name__ for one in stopping if not isinstance(one, own)]
    if others:
        raise InvalidInputError(
            f"choose_name always finishes its name and cannot stop by {others}; leave them out"
        )
    for asked in ("output_scores", "output_logits", "output_attentions", "output_hidden_states"):
        if getattr(config, asked, None):
            raise InvalidInputError(
                f"choose_name runs no forward for every token, so it has no {asked}; leave it out"
            )
    cache = model_kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise InvalidInputError(
            "choose_name does not go on from past_key_values; pass prefixes=PrefixCache(...)"
        )


def _spread(given: Any, n_rows: int) -> list[Any]:
    """Return one of what is given for each row; ``num_return_sequences`` repeats each in turn."""
    if isinstance(given, list | tuple) and given and n_rows % len(given) == 0:
        given = [one for one in given for _ in range(n_rows // len(given))]
    return each(given, n_rows)


def _rows(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[list[int]]:
    """Return each row's tokens without padding.

    Raises:
        InvalidInputError: If there are none, as with ``inputs_embeds``.
    """
    ids = input_ids.cpu().numpy()
    if ids.size == 0:
        raise InvalidInputError("choose_name needs input_ids; inputs_embeds alone will not do")
    if attention_mask is None:
        return [list(row) for row in ids.tolist()]
    kept = attention_mask.cpu().numpy().astype(bool)
    return [row[here].tolist() for row, here in zip(ids, kept, strict=True)]


def _shared_prefix(
    llm: Any, rows: list[list[int]], prefixes: PrefixCache | None
) -> KvPrefix | None:
    """Return the encoded beginning that all rows share, as far as it is known or worth it."""
    shared = common_beginning(rows)
    known = prefixes.longest(rows[0][: shared + 1]) if prefixes else None
    held = len(known) if known else 0
    if len(rows) > 1 and shared - held >= _WORTH_A_FORWARD:
        return KvPrefix.encode(llm, rows[0][held:shared], after=known)
    return known


def _search(path: NamePath, prior: NamePrior | None, rescore: Rescore | None, k: int) -> BestFirst:
    """Return a search for k names, or with k = 0 a draw of one by torch's random numbers."""
    if k:
        return BestFirst(path, k, prior, rescore)
    return SampledPath(path, lambda: float(torch.rand(())), prior, rescore)


def _rescored(
    processors: LogitsProcessorList, prompt: torch.Tensor, vocabulary: int
) -> Rescore | None:
    """Return what applies logits processors to some tokens' logits, None where there are none."""
    if not len(processors):
        return None

    def rescore(path: list[int], tokens: IntArray, logits: Floats) -> Floats:
        so_far = torch.cat([prompt, torch.tensor(path, dtype=prompt.dtype, device=prompt.device)])
        scores = torch.full((1, vocabulary), -torch.inf, device=prompt.device)
        index = torch.from_numpy(tokens).to(prompt.device)
        scores[0, index] = torch.from_numpy(logits).to(scores)
        rescored = processors(cast("Any", so_far[None]), cast("Any", scores))
        after: Floats = rescored[0, index].double().cpu().numpy()
        if np.isneginf(after).all():
            raise NoTargetError(
                "logits processors forbid every token that goes on with an eligible name; remove "
                "min_new_tokens, bad_words_ids, suppress_tokens or your own"
            )
        return after

    return rescore


def _sequences(
    input_ids: torch.LongTensor, trie: NameTrie, names: list[str], config: GenerationConfig
) -> torch.LongTensor:
    """Return prompts with their names and terminators behind, padded, shape (rows, t)."""
    spelled = [trie.tokens_of(name) for name in names]
    pad = config.pad_token_id if isinstance(config.pad_token_id, int) else trie.terminator
    tails = torch.full((len(names), max(map(len, spelled))), pad, dtype=input_ids.dtype)
    for row, tokens in enumerate(spelled):
        tails[row, : len(tokens)] = torch.tensor(tokens)
    return cast("torch.LongTensor", torch.cat([input_ids, tails.to(input_ids.device)], dim=1))
