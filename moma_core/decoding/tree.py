"""Tokens fed to an LLM as a tree, many continuations in one forward, and the logits read out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from moma_core.decoding.prefix import KvPrefix, causal_lm, check_context, fresh_cache
from moma_core.decoding.trie import IntArray
from moma_core.errors import InvalidInputError, ScoreError

__all__ = [
    "NO_PARENT",
    "Floats",
    "Layers",
    "Readout",
    "SharedPrefix",
    "TokenTree",
    "attends_apart",
    "attends_apart_exactly",
    "chain_parents",
    "let_attend_apart",
    "log_probs",
    "readout_of",
    "row_logits",
    "shared_attention",
]

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


Floats = npt.NDArray[np.float64]

_READOUT_BLOCK = 128  # states whose whole vocabulary is in memory at a time


class Readout(Protocol):
    """Runs the LLM and turns what came out at each position, its state, into logits."""

    def states(self, **inputs: Any) -> torch.Tensor:
        """Return one state for each of m tokens of a single row, shape (m, d)."""

    def rows(self, state: torch.Tensor, tokens: IntArray) -> torch.Tensor:
        """Return the logits of c tokens after a state (d,), shape (c,)."""

    def whole(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits of the vocabulary, shape (m, vocabulary)."""


class HeadRows:
    """Multiplies hidden states by the rows of the output head that are wanted."""

    def __init__(self, lm: Any) -> None:
        head = lm.get_output_embeddings()
        self._body = lm.base_model
        self._weight = head.weight
        self._bias = getattr(head, "bias", None)

    def states(self, **inputs: Any) -> torch.Tensor:
        """Return the last hidden states, shape (m, d)."""
        hidden: torch.Tensor = self._body(**inputs).last_hidden_state[0]
        return hidden

    def rows(self, state: torch.Tensor, tokens: IntArray) -> torch.Tensor:
        """Return logits of c tokens, shape (c,), reading only their rows."""
        index = torch.from_numpy(tokens).to(state.device)
        logits: torch.Tensor = self._weight[index] @ state
        return logits if self._bias is None else logits + self._bias[index]

    def whole(self, states: torch.Tensor) -> torch.Tensor:
        """Return all logits, shape (m, vocabulary)."""
        return torch.nn.functional.linear(states, self._weight, self._bias)


class WholeLogits:
    """Takes the LLM's own logits, for LLMs that scale or cap them."""

    def __init__(self, lm: Any) -> None:
        self._lm = lm

    def states(self, **inputs: Any) -> torch.Tensor:
        """Return the logits themselves as states, shape (m, vocabulary)."""
        logits: torch.Tensor = self._lm(**inputs).logits[0]
        return logits

    def rows(self, state: torch.Tensor, tokens: IntArray) -> torch.Tensor:
        """Return logits of c tokens, shape (c,)."""
        return state[torch.from_numpy(tokens).to(state.device)]

    def whole(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states, which are the logits."""
        return states


_KNOWN: WeakKeyDictionary[Any, Readout] = WeakKeyDictionary()


def readout_of(llm: Any) -> Readout:
    """Return the exact readout of an LLM; the first call runs four forwards of three tokens.

    Raises:
        InvalidInputError: If the LLM is an encoder-decoder, or does not attend along a tree
            exactly (sliding windows, recurrent layers, positions of its own).
    """
    lm = causal_lm(llm)
    if lm not in _KNOWN:
        _KNOWN[lm] = _probed(lm)
    return _KNOWN[lm]


_APART: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def attends_apart_exactly(llm: Any) -> bool:
    """Tell whether an LLM may be given a prefix apart from its cache; the first call tries it."""
    lm = causal_lm(llm)
    if not attends_apart(lm):
        return False
    if lm not in _APART:
        _APART[lm] = _tried_apart(lm)
    return _APART[lm]


@torch.no_grad()
def _tried_apart(lm: Any) -> bool:
    """Compare one token after a prefix of two with the same three in a plain forward."""
    ids = torch.from_numpy(np.linspace(1, lm.config.vocab_size - 2, 3).astype(np.int64))[None]
    readout = readout_of(lm)
    layers = KvPrefix.encode(lm, ids[0, :2].tolist()).layers
    try:
        states = readout.states(
            input_ids=ids[:, 2:],
            position_ids=torch.tensor([[2]]),
            attention_mask=torch.zeros(1, 1, 1, 1, dtype=lm.dtype),
            past_key_values=fresh_cache(lm),
            use_cache=True,
            shared_prefix=SharedPrefix.seen(layers, np.ones((1, 1), dtype=bool)),
        )
    except (TypeError, ValueError, RuntimeError):  # e.g. it passes nothing on to its layers
        return False
    expected = lm(input_ids=ids).logits[0, -1]
    return _error(readout.whole(states)[-1:], expected[None]) <= _rounding(lm)


@torch.no_grad()
def _probed(lm: Any) -> Readout:
    """Choose the readout whose logits are the LLM's own, if along a tree these are right."""
    refusal = InvalidInputError(
        f"{type(lm).__name__} cannot be fed a tree of tokens; use NameMask as a logits_processor "
        "of generate, which asks nothing special of the LLM"
    )
    if lm.config.is_encoder_decoder:
        raise refusal
    fresh_cache(lm)
    a, b, c = (int(token) for token in np.linspace(1, lm.config.vocab_size - 2, 3))
    device, low = lm.device, torch.finfo(lm.dtype).min
    mask = torch.tensor([[0, low, low], [0, 0, low], [0, low, 0]], dtype=lm.dtype, device=device)
    inputs = {
        "input_ids": torch.tensor([[a, b, c]], device=device),
        "position_ids": torch.tensor([[0, 1, 1]], device=device),
        "attention_mask": mask[None, None],
    }
    alone = [lm(input_ids=torch.tensor([[a, x]], device=device)).logits[0, -1] for x in (b, c)]
    try:
        own = WholeLogits(lm).states(**inputs)
        rows = HeadRows(lm)
        read = rows.whole(rows.states(**inputs))
    except (TypeError, ValueError, RuntimeError) as error:  # e.g. it knows 2-D masks only
        raise refusal from error
    if _error(own[1:], torch.stack(alone)) > _rounding(lm):
        raise refusal
    same = read.shape == own.shape and _error(read, own) <= 1e-3  # the same sums, or others
    return rows if same else WholeLogits(lm)


def _error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the root mean square of differences beside the spread of what is expected."""
    if got.shape != expected.shape:
        return float("inf")
    spread = float(expected.float().std()) or 1.0
    return float((got.float() - expected.float()).square().mean().sqrt()) / spread


def _rounding(lm: Any) -> float:
    """Return how much of the spread two ways of computing the same logits may differ by.

    SmolLM2 in bfloat16: 0.1; where it does not see what it should, 1.3 and more.
    """
    return 1e-3 if lm.dtype == torch.float32 else 0.25


@torch.no_grad()
def log_probs(readout: Readout, states: torch.Tensor, places: IntArray, tokens: IntArray) -> Floats:
    """Return log P(token | state) over the whole vocabulary, shape (e,).

    Args:
        readout: Of the LLM.
        states: Shape (m, d).
        places: Which state each of e tokens follows, ascending, shape (e,).
        tokens: Shape (e,).

    Raises:
        ScoreError: If the LLM gave NaN.
    """
    result = np.empty(len(tokens), dtype=np.float64)
    for at in range(0, len(states), _READOUT_BLOCK):
        begin, end = np.searchsorted(places, [at, at + _READOUT_BLOCK])
        logits = readout.whole(states[at : at + _READOUT_BLOCK]).float()
        index = torch.from_numpy(np.stack([places[begin:end] - at, tokens[begin:end]]))
        index = index.to(logits.device)
        picked = logits.log_softmax(dim=-1)[index[0], index[1]]  # logsumexp takes six times as long
        result[begin:end] = picked.double().cpu().numpy()
    return finite(result)


@torch.no_grad()
def row_logits(readout: Readout, state: torch.Tensor, tokens: IntArray) -> Floats:
    """Return the logits of c tokens after one state (d,), shape (c,).

    Raises:
        ScoreError: If the LLM gave NaN.
    """
    return finite(readout.rows(state, tokens).double().cpu().numpy())


def finite(scores: Floats) -> Floats:
    """Return scores as they are.

    Raises:
        ScoreError: If one is NaN or infinite; minus infinity is what some LLMs give to tokens that
            are never to be said.
    """
    if np.isnan(scores).any() or np.isposinf(scores).any():
        raise ScoreError("the LLM gave NaN or infinity; load it in float32 or bfloat16")
    return scores


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
