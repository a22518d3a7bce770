"""The token mask as a logits processor for any `generate` loop (MoMA, sect. 4.2).

Every token that does not continue an eligible name gets -inf. The node of a row is worked out from
the row's own tokens, so beams may be reordered, rows may finish and generation may be resumed:
there is no state to go stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import LogitsProcessor

from moma_core.decoding.trie import (
    ROOT,
    Counts,
    Eligibility,
    IntArray,
    NamePrior,
    NameTrie,
    live_children,
)
from moma_core.errors import InvalidInputError, NoTargetError, ScoreError

__all__ = [
    "NameMask",
]

T = TypeVar("T")

_OFF_TRIE = -1


class NameMask(LogitsProcessor):
    """Lets through only tokens that continue an eligible name; give it to ``logits_processor``.

    Eligibility is read at every step, so an agent disabled meanwhile cannot be finished. Pass
    ``max_new_tokens=trie.length`` or more, and see that generation stops at the trie's terminator.

    Args:
        trie: The names.
        eligible: One for all rows, or one for each row of the batch given to ``generate`` (beams
            and returned sequences are counted off by themselves).
        prompt_length: Where names begin in ``input_ids``: the padded length of the prompts. When a
            generation is resumed it stays that of the first one.
        num_beams: As given to ``generate``.
        prior: Mass of each name, added along the trie (eq. 26); one for all rows, or one for each
            row of the batch.

    Raises:
        InvalidInputError: If an eligibility is another trie's, or a number is below 1.

    Example:
        >>> trie = NameTrie([[5], [5, 7], [3]], terminator=0, names=["travel", "travel_agent", "x"])
        >>> mask = NameMask(trie, Eligibility(trie, ["travel_agent"]), prompt_length=2)
        >>> scores = mask(torch.tensor([[9, 9, 5]]), torch.zeros(1, 10))
        >>> scores.isfinite().nonzero().tolist()  # row 0, token 7
        [[0, 7]]
    """

    supports_continuous_batching = False  # there, rows of other requests come and go

    def __init__(
        self,
        trie: NameTrie,
        eligible: Eligibility | Sequence[Eligibility],
        prompt_length: int,
        *,
        num_beams: int = 1,
        prior: NamePrior | Sequence[NamePrior] | None = None,
    ) -> None:
        self._eligible = [eligible] if isinstance(eligible, Eligibility) else list(eligible)
        if any(one.trie is not trie for one in self._eligible) or not self._eligible:
            raise InvalidInputError("expected eligibilities of this very trie; Eligibility(trie)")
        if num_beams < 1 or prompt_length < 1:
            raise InvalidInputError(
                f"expected num_beams and prompt_length from 1, got {num_beams} and {prompt_length}"
            )
        self._trie = trie
        self._prompt_length = prompt_length
        self._num_beams = num_beams
        self._priors = [prior] if isinstance(prior, NamePrior) else list(prior or ())
        self._nodes: dict[bytes, int] = {b"": ROOT}  # pure function of the tokens, so it may stay

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return scores (rows, vocabulary) with -inf wherever no eligible name goes on.

        Args:
            input_ids: Shape (rows, length).
            scores: Shape (rows, vocabulary).

        Raises:
            NoTargetError: If a row (with beams: every beam of a query) can name nobody, or other
                processors forbid every token that could.
            InvalidInputError: If the rows do not divide among the eligibilities, or a row's tokens
                since ``prompt_length`` are no beginning of a name.
            ScoreError: If the LLM gave NaN.
        """
        tails = np.ascontiguousarray(input_ids[:, self._prompt_length :].cpu().numpy())
        nodes = [self._node(tail) for tail in tails]
        counts = [one.counts for one in _per_row(self._eligible, len(nodes))]
        given: list[NamePrior | None] = list(self._priors) if self._priors else [None]
        priors = _per_row(given, len(nodes))
        allowed = [self._allowed(*row) for row in zip(nodes, counts, priors, strict=True)]
        self._check_rows(nodes, [tokens.size > 0 for tokens, _ in allowed])
        rows = np.repeat(np.arange(len(allowed)), [tokens.size for tokens, _ in allowed])
        columns = np.concatenate([tokens for tokens, _ in allowed])
        extra = np.concatenate([shares for _, shares in allowed]) if self._priors else None
        masked, kept = _kept(scores, rows, columns, extra)
        self._check_kept(kept, rows, len(nodes))
        return masked

    def _node(self, tail: IntArray) -> int:
        """Return the node that a row's own tokens lead to; past a terminator, the leaf."""
        key = tail.tobytes()
        node = self._nodes.get(key)
        if node is None:
            ends = np.flatnonzero(tail == self._trie.terminator)
            spelled = tail[: ends[0] + 1] if ends.size else tail
            reached = self._trie.walk(spelled.tolist())
            node = _OFF_TRIE if reached is None else reached
            if node != _OFF_TRIE and not ends.size:  # as many as the trie has nodes, at most
                self._nodes[key] = node
        return node

    def _allowed(
        self, node: int, counts: Counts, prior: NamePrior | None
    ) -> tuple[IntArray, npt.NDArray[np.float64]]:
        """Return the tokens that may follow a node, and what the prior adds to each, if any."""
        if node == _OFF_TRIE:
            return np.empty(0, dtype=np.int64), np.empty(0)
        if self._trie.is_leaf(node):  # finished: generate pads such a row whatever its scores
            return np.array([self._trie.terminator]), np.zeros(1)
        children = live_children(self._trie, counts, node)
        shares = prior.shares(counts, children) if prior and children.size else np.empty(0)
        return self._trie.token[children], shares

    def _check_rows(self, nodes: list[int], alive: list[bool]) -> None:
        """Raise where a query is left without a token."""
        if all(alive):
            return
        beams = self._num_beams
        for row in range(0, len(alive), beams):
            if any(alive[row : row + beams]):
                continue
            if beams == 1 and nodes[row] == _OFF_TRIE:
                raise InvalidInputError(
                    f"the tokens of row {row} from {self._prompt_length} on begin no name; pass "
                    "prompt_length=<padded length of the prompts>, and num_beams as to generate"
                )
            raise NoTargetError(
                f"row {row} has no eligible name left to go on with; enable an agent and generate "
                "again"
            )

    def _check_kept(self, kept: npt.NDArray[np.float64], rows: IntArray, n_rows: int) -> None:
        """Raise where scores are NaN, or what may follow was forbidden by others."""
        if np.isnan(kept).any():
            raise ScoreError("the LLM gave NaN; load it in float32 or bfloat16")
        if np.isfinite(kept).all():
            return
        best = np.full(n_rows, -np.inf)
        np.maximum.at(best, rows, kept)
        groups = best.reshape(-1, self._num_beams).max(axis=1)
        if np.isneginf(groups).any():
            raise NoTargetError(
                "every token that goes on with an eligible name is forbidden by another logits "
                "processor (min_new_tokens, bad_words_ids, suppress_tokens, ...); remove it"
            )


def _per_row(given: list[T], n_rows: int) -> list[T]:
    """Return one of what is given for each row, each repeated for its beams and sequences."""
    each, rest = divmod(n_rows, len(given))
    if rest:
        raise InvalidInputError(
            f"{n_rows} rows do not divide among {len(given)} eligibilities or priors; pass one for "
            "each row of the batch"
        )
    return [one for one in given for _ in range(each)]


def _kept(
    scores: torch.Tensor, rows: IntArray, columns: IntArray, extra: Any
) -> tuple[torch.FloatTensor, npt.NDArray[np.float64]]:
    """Return scores that are -inf but at (rows, columns), and the values there."""
    if scores.device.type == "cpu" and scores.dtype == torch.float32:
        source = scores.detach().numpy()  # filling in numpy is the quicker on a loaded CPU
        filled = np.full(source.shape, -np.inf, dtype=np.float32)
        kept = source[rows, columns]
        if extra is not None:
            kept = kept + extra.astype(np.float32)
        filled[rows, columns] = kept
        return cast("torch.FloatTensor", torch.from_numpy(filled)), kept.astype(np.float64)
    at = torch.from_numpy(np.stack([rows, columns])).to(scores.device)
    masked = torch.full_like(scores, -torch.inf)
    values = scores[at[0], at[1]]
    if extra is not None:
        values = values + torch.from_numpy(extra).to(values)
    masked[at[0], at[1]] = values
    return cast("torch.FloatTensor", masked), values.double().cpu().numpy()
