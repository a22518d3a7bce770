"""Queries that no agent should take: what the gate learns "none fits" from.

The user's own come first. Beside them stands a background of everyday questions to an LLM, written
for this package; one that comes near an agent of the catalog is left out, since it may be its job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from moma_core.protocols import Encoder
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Negatives"]

_NEAR = 0.6  # cosine to a description or example from which a background query is left out


@dataclass(frozen=True, slots=True, eq=False)
class Negatives:
    """m queries with their vectors.

    Args:
        texts: The queries, the user's first.
        vectors: Shape (m, d).
        n_given: How many of them the user gave; the rest is background.
    """

    texts: tuple[str, ...]
    vectors: FloatArray
    n_given: int

    @classmethod
    def of(cls, given: Sequence[str], encoder: Encoder, *, background: bool = True) -> Negatives:
        """Encode the user's negatives and, by default, the background."""
        own = encoder.encode(given)
        if not background:
            return cls(tuple(given), own, len(given))
        key = encoder.fingerprint
        if key not in _ENCODED:  # many small routers in one process share it
            _ENCODED[key] = encoder.encode(_background())
        return cls((*given, *_background()), np.concatenate([own, _ENCODED[key]]), len(given))

    def also(self, given: Sequence[str], encoder: Encoder) -> Negatives:
        """Return these with more queries of the user's, each kept once."""
        known = set(self.texts[: self.n_given])
        fresh = [text for text in dict.fromkeys(given) if text not in known]
        n, own = self.n_given, encoder.encode(fresh)
        return Negatives(
            (*self.texts[:n], *fresh, *self.texts[n:]),
            np.concatenate([self.vectors[:n], own, self.vectors[n:]]),
            n + len(fresh),
        )

    def foreign_to(self, *agents: FloatArray) -> Negatives:
        """Return those given, and the background that is far from all these vectors (n, d)."""
        nearest = np.full(len(self.texts), -1.0, dtype=np.float32)
        for vectors in agents:
            if vectors.size:
                nearest = np.maximum(nearest, (self.vectors @ vectors.T).max(axis=1))
        keep: npt.NDArray[np.bool_] = nearest < _NEAR
        keep[: self.n_given] = True
        texts = tuple(text for text, kept in zip(self.texts, keep, strict=True) if kept)
        return Negatives(texts, self.vectors[keep], self.n_given)


_ENCODED: dict[str, FloatArray] = {}  # the background's vectors, by the encoder's fingerprint


@cache
def _background() -> tuple[str, ...]:
    text = resources.files("moma_core.agent_routing").joinpath("background.txt")
    return tuple(text.read_text(encoding="utf-8").splitlines())
