"""Tokens fed to an LLM as a tree: many continuations of one beginning in a single forward.

Each token attends to the shared prefix, to its own ancestors and to itself, and stands at the
position its depth gives it; so every branch computes what it would alone. Knows token ids and
parents, not names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from moma_core.decoding.prefix import KvPrefix, causal_lm, check_context, fresh_cache
from moma_core.decoding.readout import attends_apart_exactly, readout_of
from moma_core.decoding.shared_attention import SharedPrefix

__all__ = ["NO_PARENT", "TokenTree", "chain_parents"]

NO_PARENT = -1
_ROOM = 64


class TokenTree:
    """Grows a tree of tokens after a prefix and gives each one's state.

    Args:
        llm: A causal LLM of transformers with full attention in every layer.
        prefix: What comes before the tree; None for nothing.

    Attributes:
        forwards: Forward passes run so far.
        readout: Turns states into logits.
        tokens_fed: Tokens run through the LLM so far.

    Raises:
        InvalidInputError: If the LLM cannot be fed a tree.
    """

    def __init__(self, llm: Any, prefix: KvPrefix | None = None) -> None:
        self._lm = causal_lm(llm)
        self.readout = readout_of(llm)
        self._begin = len(prefix) if prefix else 0
        apart = prefix is not None and attends_apart_exactly(llm)
        self._apart = prefix.layers if prefix and apart else None
        self._cache = prefix.cache(llm) if prefix and not apart else fresh_cache(llm)
        self._depths = np.empty(0, dtype=np.int64)
        self._sees = np.zeros((_ROOM, _ROOM), dtype=bool)  # slot by slot: ancestors and itself
        self._states: list[torch.Tensor] = []  # of each forward
        self.forwards = 0
        self.tokens_fed = 0

    def __len__(self) -> int:
        return len(self._depths)

    @torch.no_grad()
    def feed(self, tokens: Sequence[int], parents: Sequence[int]) -> torch.Tensor:
        """Add tokens in one forward and return their states, shape (m, d).

        Args:
            tokens: m token ids.
            parents: The slot before each: earlier tokens are slots 0, 1, ... in the order fed,
                these ones follow on; `NO_PARENT` for what comes right after the prefix.

        Raises:
            InvalidInputError: If a branch is longer than what the LLM can read.
        """
        old = len(self)
        self._place(parents)
        check_context(self._lm, self._begin + int(self._depths[old:].max(initial=0)) + 1)
        fed = len(self)
        device, dtype = self._lm.device, self._lm.dtype
        sees = self._sees[old:fed, :fed]
        apart = {"shared_prefix": SharedPrefix.seen(self._apart, sees)} if self._apart else {}
        held = 0 if self._apart else self._begin  # of the prefix, in the cache
        mask = torch.zeros((fed - old, held + fed), dtype=dtype)
        mask[:, held:].masked_fill_(torch.from_numpy(~sees), torch.finfo(dtype).min)
        states = self.readout.states(
            input_ids=torch.tensor([list(tokens)], device=device),
            attention_mask=mask[None, None].to(device),  # (1, 1, m, held + fed)
            position_ids=torch.from_numpy(self._begin + self._depths[old:])[None].to(device),
            past_key_values=self._cache,
            use_cache=True,
            **apart,
        )
        self.forwards += 1
        self.tokens_fed += fed - old
        self._states.append(states)
        return states

    def state(self, slot: int) -> torch.Tensor:
        """Return the state of a token fed before, shape (d,)."""
        for states in self._states:
            if slot < len(states):
                break
            slot -= len(states)
        return states[slot]

    def feed_chain(self, tokens: Sequence[int], parent: int = NO_PARENT) -> torch.Tensor:
        """Add tokens one after the other behind a slot, and return their states, shape (m, d)."""
        return self.feed(tokens, chain_parents(len(tokens), len(self), parent))

    def cut(self, slots: int) -> None:
        """Forget every token but the first ``slots`` fed."""
        extra = len(self) - slots
        if extra > 0:
            self._states = [torch.cat(self._states)[:slots]]
            self._cache.crop(-extra)  # transformers 5: how many to remove, as a negative number
            self._depths = self._depths[:slots]
            self._sees[slots:] = False

    def _place(self, parents: Sequence[int]) -> None:
        """Give each new token its slot, its depth and the slots it sees."""
        old = len(self)
        total = old + len(parents)
        if total > len(self._sees):
            room = np.zeros((total + total // 2,) * 2, dtype=bool)
            room[:old, :old] = self._sees[:old, :old]
            self._sees = room
        self._depths = np.concatenate([self._depths, np.zeros(len(parents), dtype=np.int64)])
        for slot, parent in enumerate(parents, start=old):
            if parent != NO_PARENT:
                self._sees[slot, :slot] = self._sees[parent, :slot]
                self._depths[slot] = self._depths[parent] + 1
            self._sees[slot, slot] = True


def chain_parents(length: int, first_slot: int, parent: int = NO_PARENT) -> list[int]:
    """Return the parents of a chain of tokens that will take the slots from ``first_slot`` on.

    Example:
        >>> chain_parents(3, first_slot=5, parent=2)
        [2, 5, 6]
    """
    return [parent, *range(first_slot, first_slot + length - 1)] if length else []
