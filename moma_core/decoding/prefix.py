"""The key-value cache of a prompt's beginning, encoded once (MoMA, A.2.4: KV-cache prefetching).

The part of a prompt that describes a category's agents is the same for every query. Knows token
ids and one LLM's forward; neither agents nor texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from moma_core.errors import InvalidInputError

__all__ = ["KvPrefix", "causal_lm", "check_context", "context_of", "extend", "fresh_cache"]

_CHUNK = 512  # tokens of one forward while encoding: bounds memory, and a waiting query's wait


@dataclass(frozen=True, slots=True, eq=False)
class KvPrefix:
    """Holds what one LLM computed for a prompt's first tokens, never written to again.

    Args:
        tokens: The p token ids.
        layers: Keys and values of each layer, shapes (1, heads, p, head size).
    """

    tokens: tuple[int, ...]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @classmethod
    def encode(cls, llm: Any, tokens: Sequence[int], after: KvPrefix | None = None) -> KvPrefix:
        """Run an LLM over tokens, a few hundred at a time.

        Args:
            llm: A causal LLM of transformers with full attention in every layer.
            tokens: At least one token id.
            after: What comes before them; the result holds it too.

        Raises:
            InvalidInputError: If there is no token, more than the LLM can read, or a layer has no
                full attention.
        """
        if not len(tokens):
            raise InvalidInputError("expected at least one token to encode as a prefix, got none")
        cache = after.cache(llm) if after else fresh_cache(llm)
        for at in range(0, len(tokens), _CHUNK):
            extend(llm, cache, tokens[at : at + _CHUNK])
        before = after.tokens if after else ()
        grown: list[Any] = cache.layers
        layers = tuple((layer.keys, layer.values) for layer in grown)
        return cls((*before, *(int(token) for token in tokens)), layers)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Memory of the keys and values, in bytes."""
        return sum(part.nbytes for layer in self.layers for part in layer)

    def cache(self, llm: Any) -> DynamicCache:
        """Return a cache that begins with this prefix; growing it leaves the prefix as it is.

        Nothing is copied here: a dynamic layer grows by joining into a new tensor.
        """
        cache = fresh_cache(llm)
        layers: list[Any] = cache.layers
        for layer, (keys, values) in zip(layers, self.layers, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
        return cache


@torch.no_grad()
def extend(llm: Any, cache: DynamicCache, tokens: Sequence[int]) -> None:
    """Feed tokens after those a cache of one row holds."""
    begin = cache.get_seq_length()
    check_context(llm, begin + len(tokens))
    ids = torch.tensor([list(tokens)], device=llm.device)
    places = torch.arange(begin, begin + ids.shape[1], device=llm.device)[None]
    causal_lm(llm).base_model(
        input_ids=ids, position_ids=places, past_key_values=cache, use_cache=True
    )


def fresh_cache(llm: Any) -> DynamicCache:
    """Return an empty cache.

    Raises:
        InvalidInputError: If a layer of the LLM attends in a window, or is recurrent.
    """
    cache = DynamicCache(config=llm.config)
    if not all(type(layer) is DynamicLayer for layer in cache.layers):
        raise InvalidInputError(
            f"{type(llm).__name__} has layers without full attention, so its names cannot be fed "
            "as a tree; use NameMask as a logits_processor of generate"
        )
    return cache


def causal_lm(llm: Any) -> Any:
    """Return the causal LLM itself, unwrapped from an adapter of peft."""
    return llm.get_base_model() if hasattr(llm, "get_base_model") else llm


def context_of(llm: Any) -> int:
    """Return how many tokens an LLM can read at once, very many where it does not say."""
    most = getattr(causal_lm(llm).config, "max_position_embeddings", None)
    return most if isinstance(most, int) else 1 << 30


def check_context(llm: Any, length: int) -> None:
    """Raise if so many tokens are more than an LLM can read at once.

    Raises:
        InvalidInputError: If so.
    """
    if length > context_of(llm):
        raise InvalidInputError(
            f"{length} tokens are more than the {context_of(llm)} that "
            f"{type(causal_lm(llm)).__name__} reads at once; shorten the query or descriptions, or "
            "show fewer agents"
        )
