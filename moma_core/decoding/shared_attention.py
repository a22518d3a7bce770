"""Attention to an encoded prefix and to the tokens after it, apart from each other (sect. 4.2).

Softmax over both is the two results weighed by their normalisers, so a prefix's keys and values are
read where they lie: neither joined with the new ones in each layer of each forward, nor repeated
for the query heads that share them, nor masked. It is a way of attending that transformers lets a
model choose by name; whoever passes no prefix gets transformers' own "sdpa". Knows no tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AttentionInterface, AttentionMaskInterface

__all__ = ["Layers", "SharedPrefix", "attends_apart", "let_attend_apart", "shared_attention"]

Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]

_NAME = "moma_shared_prefix"
_PLAIN = "sdpa"
_KERNEL = "_scaled_dot_product_flash_attention_for_cpu"  # SDPA's own; the one with normalisers
_BLOCK = 96  # new tokens whose attention to each other is computed at once


@dataclass(frozen=True, slots=True, eq=False)
class SharedPrefix:
    """Holds a prefix that new tokens all see, and which of one another they see.

    Args:
        layers: Keys and values of each layer, shapes (1, key heads, p, d).
        blocks: New tokens ``rows``, and the range ``columns`` of tokens after the prefix outside
            of which none of them sees any: of queries side by side each sees its own only.
    """

    layers: Layers
    blocks: tuple[tuple[slice, slice], ...]

    @classmethod
    def seen(cls, layers: Layers, sees: npt.NDArray[np.bool_]) -> SharedPrefix:
        """Cut what m new tokens see of t tokens after the prefix into blocks, shape (m, t)."""
        blocks = []
        for at in range(0, len(sees), _BLOCK):
            columns = np.flatnonzero(sees[at : at + _BLOCK].any(axis=0))
            rows = slice(at, min(at + _BLOCK, len(sees)))
            blocks.append((rows, slice(int(columns[0]), int(columns[-1]) + 1)))
        return cls(layers, tuple(blocks))


def let_attend_apart(model: Any) -> None:
    """Let a model of transformers attend to prefixes apart, where it uses "sdpa" on a CPU.

    Nothing else changes: without a prefix it attends as before. A model of another kind stays as
    it is.
    """
    if _chosen(model) != _PLAIN or not hasattr(torch.ops.aten, _KERNEL):
        return
    masks: Any = AttentionMaskInterface
    AttentionInterface.register(_NAME, shared_attention)
    masks.register(_NAME, masks()[_PLAIN])
    model.set_attn_implementation(_NAME)


def attends_apart(model: Any) -> bool:
    """Tell whether a model may be given a prefix apart from its cache, where it now lies."""
    return _chosen(model) == _NAME and bool(model.device.type == "cpu")


def _chosen(model: Any) -> str | None:
    chosen: str | None = model.config._attn_implementation  # noqa: SLF001  # no public name reads it
    return chosen


def shared_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    shared_prefix: SharedPrefix | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' "sdpa" does, and to a prefix that all tokens see.

    Args:
        module: The layer's attention; its ``layer_idx`` finds the prefix's keys and values.
        query: Shape (1, heads, m, d).
        key: Of the tokens after the prefix, shape (1, key heads, t, d).
        value: The same.
        attention_mask: Which of these tokens each one sees, added, shape (1, 1, m, t).
        shared_prefix: None for plain attention.
        scaling: Of the products.
        dropout: Of plain attention.
        **others: Passed on to plain attention; with a prefix what changes scores is refused.

    Returns:
        Shape (1, m, heads, d), and None for the weights.

    Raises:
        ValueError: With a prefix, where the layer caps, shifts or windows its scores.
    """
    if shared_prefix is None:
        known: Any = AttentionInterface
        attended: tuple[torch.Tensor, None] = known()[_PLAIN](
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return attended
    for changing in ("softcap", "sliding_window", "position_bias", "s_aux"):
        if others.get(changing) is not None:
            raise ValueError(f"no attention to a prefix apart with {changing}")
    kernel = getattr(torch.ops.aten, _KERNEL)
    keys, values = shared_prefix.layers[module.layer_idx]
    _, heads, m, d = query.shape
    groups = keys.shape[1]
    each = heads // groups
    # Heads that share keys lie one after the other, so they can stand in for more queries.
    far, far_norm = kernel(query.reshape(1, groups, each * m, d), keys, values, scale=scaling)
    far, far_norm = far.reshape(1, heads, m, d), far_norm.reshape(1, heads, m)
    key, value = key.repeat_interleave(each, dim=1), value.repeat_interleave(each, dim=1)
    joined = torch.empty(1, m, heads, d, dtype=query.dtype)
    for rows, columns in shared_prefix.blocks:
        near, near_norm = kernel(
            query[:, :, rows],
            key[:, :, columns],
            value[:, :, columns],
            attn_mask=None if attention_mask is None else attention_mask[:, :, rows, columns],
            scale=scaling,
        )
        share = torch.sigmoid(near_norm - far_norm[:, :, rows])[..., None]
        joined[:, rows] = torch.lerp(far[:, :, rows].float(), near.float(), share).transpose(1, 2)
    return joined, None
