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

from moma_core.decoding.prefix import causal_lm, fresh_cache
from moma_core.decoding.trie import IntArray
from moma_core.errors import InvalidInputError, ScoreError

__all__ = ["Floats", "Readout", "log_probs", "readout_of", "row_logits"]

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
    """Return the exact readout of an LLM; the first call runs three forwards of three tokens.

    Raises:
        InvalidInputError: If the LLM is an encoder-decoder, or does not attend along a tree
            exactly (sliding windows, recurrent layers, positions of its own).
    """
    lm = causal_lm(llm)
    if lm not in _KNOWN:
        _KNOWN[lm] = _probed(lm)
    return _KNOWN[lm]


@torch.no_grad()
def _probed(lm: Any) -> Readout:
    """Choose the readout whose logits along a tree are the LLM's own along each branch."""
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
    expected = torch.stack(alone).float()
    spread = float(expected.std()) or 1.0
    tolerance = (1e-3 if lm.dtype == torch.float32 else 0.1) * spread
    for kind in (HeadRows, WholeLogits):
        readout: Readout = kind(lm)
        try:
            got = readout.whole(readout.states(**inputs)[1:]).float()
        except (TypeError, ValueError, RuntimeError) as error:  # e.g. it knows 2-D masks only
            raise refusal from error
        if got.shape == expected.shape and float((got - expected).abs().max()) <= tolerance:
            return readout
    raise refusal


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
        picked = logits[index[0], index[1]] - logits.logsumexp(dim=-1)[index[0]]
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
        ScoreError: If one is NaN.
    """
    if np.isnan(scores).any():
        raise ScoreError("the LLM gave NaN; load it in float32 or bfloat16")
    return scores
