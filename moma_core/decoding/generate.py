"""Choosing a name inside `generate` (eq. 26): a decode loop with as few forwards as can be.

`generate` prepares the inputs and hands over; rows that begin alike are encoded once and searched
together. What only a full decode loop can do (beams, streams, scores of every step) is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria
from transformers.utils.generic import ModelOutput

from moma_core.decoding.eligibility import Eligibility
from moma_core.decoding.packing import begun_together, common_beginning, each, groups, run
from moma_core.decoding.prefix import KvPrefix
from moma_core.decoding.prefix_cache import PrefixCache
from moma_core.decoding.prior import Floats, NamePrior
from moma_core.decoding.scoring import checked
from moma_core.decoding.search import BestFirst, NamePath, Rescore, SampledPath
from moma_core.decoding.trie import IntArray, NameTrie
from moma_core.errors import InvalidInputError, NoTargetError

__all__ = ["NameChoices", "choose_name"]

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
