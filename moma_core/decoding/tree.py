"""From hidden states to logits: only the rows of the output head that are asked for.

Some LLMs do more than multiply by the head (soft caps, scales). A probe of a few tokens, run once
for each LLM, tells which way is exact, and refuses an LLM that cannot attend along a tree.
"""

from __future__ import annotations

from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from moma_core.decoding.prefix import KvPrefix, causal_lm, fresh_cache
from moma_core.decoding.shared_attention import SharedPrefix, attends_apart
from moma_core.decoding.trie import IntArray
from moma_core.errors import InvalidInputError, ScoreError

__all__ = [
    "Floats",
    "Readout",
    "attends_apart_exactly",
    "log_probs",
    "readout_of",
    "row_logits",
]

Floats = npt.NDArray[np.float64]

_BLOCK = 128  # states whose whole vocabulary is in memory at a time


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
    for at in range(0, len(states), _BLOCK):
        begin, end = np.searchsorted(places, [at, at + _BLOCK])
        logits = readout.whole(states[at : at + _BLOCK]).float()
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
