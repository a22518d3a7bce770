"""Log probabilities of texts that go on after encoded beginnings, many in one forward.

The beginnings come from a `PrefixCache`, so a query of fifteen tokens costs fifteen tokens under
each of sixteen agents, however long their descriptions are. Knows tokens, not what they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from moma_core.decoding.prefix import KvPrefix, causal_lm, check_context
from moma_core.errors import InvalidInputError, ScoreError

__all__ = ["continuation_log_probs"]

Floats = npt.NDArray[np.float64]

_MOST_TOKENS = 1_024  # of continuations in one forward, padding included
_MOST_HELD = 8_192  # of prefixes side by side, padding included: 190 MB with SmolLM2
_BLOCK = 256  # states whose logits over the vocabulary are in memory at once
_PRECISE = 64  # of these, in float32 too


def continuation_log_probs(
    llm: Any,
    prefixes: Sequence[KvPrefix],
    continuations: Sequence[Sequence[int]],
) -> list[Floats]:
    """Return log P(token | prefix, tokens before it) for every token but each first one.

    A prefix is what comes before the continuation's first token; that token is fed, not scored,
    since a cache holds keys and values but not what would come next.

    Args:
        llm: A causal LLM of transformers with full attention in every layer.
        prefixes: b encoded beginnings, of any lengths.
        continuations: For each, at least two token ids.

    Returns:
        For each continuation of n tokens its n - 1 log probabilities.

    Raises:
        InvalidInputError: A continuation has fewer than two tokens, or more than the LLM can read
            after its prefix; or there is not one for each.
        ScoreError: The LLM gave NaN.
    """
    if len(prefixes) != len(continuations) or min(map(len, continuations), default=2) < 2:
        raise InvalidInputError(
            "expected for each prefix a continuation of at least two tokens, got "
            f"{len(prefixes)} prefixes and lengths {[len(c) for c in continuations]!s:.60}"
        )
    results: list[Floats] = [np.empty(0)] * len(prefixes)
    for group in _groups([len(c) for c in continuations], [len(p) for p in prefixes]):
        found = _forward(llm, [prefixes[i] for i in group], [continuations[i] for i in group])
        for i, row in zip(group, found, strict=True):
            results[i] = row
    return results


def _groups(lengths: Sequence[int], pasts: Sequence[int]) -> list[list[int]]:
    """Put rows of like length together, so that little is padded and memory is bounded."""
    groups: list[list[int]] = []
    past = 0  # the longest of the last group
    for i in np.argsort(lengths, kind="stable")[::-1].tolist():
        past = max(past, pasts[i])
        rows = len(groups[-1]) + 1 if groups else 1
        if rows == 1 or rows * lengths[groups[-1][0]] > _MOST_TOKENS or rows * past > _MOST_HELD:
            groups.append([])
            past = pasts[i]
        groups[-1].append(i)
    return groups


@torch.inference_mode()
def _forward(
    llm: Any, prefixes: Sequence[KvPrefix], continuations: Sequence[Sequence[int]]
) -> list[Floats]:
    lm = causal_lm(llm)
    past, longest = max(map(len, prefixes)), max(map(len, continuations)) - 1
    check_context(lm, past + longest)
    ids = torch.zeros(len(prefixes), longest, dtype=torch.long)
    targets, places = ids.clone(), ids.clone()
    seen = torch.zeros(len(prefixes), past + longest, dtype=torch.long)
    for row, (prefix, tokens) in enumerate(zip(prefixes, continuations, strict=True)):
        n = len(tokens) - 1
        ids[row, :n], targets[row, :n] = torch.tensor(tokens[:-1]), torch.tensor(tokens[1:])
        places[row] = torch.arange(len(prefix), len(prefix) + longest)
        seen[row, past - len(prefix) : past + n] = 1
    states = lm.base_model(
        input_ids=ids.to(lm.device),
        attention_mask=seen.to(lm.device),
        position_ids=places.to(lm.device),
        past_key_values=_side_by_side(lm, prefixes, past),
        use_cache=True,
    ).last_hidden_state
    scores = _picked(lm, states.flatten(0, 1), targets.flatten().to(lm.device))
    table = scores.reshape(len(prefixes), longest)
    return [table[row, : len(tokens) - 1] for row, tokens in enumerate(continuations)]


def _side_by_side(lm: Any, prefixes: Sequence[KvPrefix], past: int) -> DynamicCache:
    """Return a cache with one row a prefix, padded on the left to ``past`` tokens."""
    cache = DynamicCache(config=lm.config)
    for layer in range(len(prefixes[0].layers)):
        pair = []
        for part in (0, 1):
            first = prefixes[0].layers[layer][part]  # (1, heads, p, head size)
            joined = first.new_zeros(len(prefixes), first.shape[1], past, first.shape[3])
            for row, prefix in enumerate(prefixes):
                joined[row, :, past - len(prefix) :] = prefix.layers[layer][part][0]
            pair.append(joined)
        cache.update(pair[0], pair[1], layer)
    return cache


def _picked(lm: Any, states: torch.Tensor, tokens: torch.Tensor) -> Floats:
    """Return log P(token | state), shape (m,), a block of states at a time."""
    head = lm.get_output_embeddings()
    picked = []
    for at in range(0, len(states), _BLOCK):
        logits = head(states[at : at + _BLOCK])
        for i in range(0, len(logits), _PRECISE):
            log_probs = torch.log_softmax(logits[i : i + _PRECISE].float(), dim=-1)
            wanted = tokens[at + i : at + i + len(log_probs), None]
            picked.append(log_probs.gather(1, wanted).squeeze(1))
    scores: Floats = torch.cat(picked).double().cpu().numpy()
    if np.isnan(scores).any():
        raise ScoreError(
            "the LLM gave NaN. Load it in float32: LocalLLM.load(..., dtype='float32')"
        )
    return scores
