"""An encoder without weights: words hashed to signs, so that equal words give equal vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from moma_core.types import FloatArray

__all__ = ["HashEncoder"]


class HashEncoder:
    """Encodes a text as the normalised sum of one random sign vector a word.

    Args:
        dimension: Length of a vector.

    Example:
        >>> a, b = HashEncoder().encode(["red apple", "apple red"])
        >>> bool(abs(a - b).max() < 1e-6)
        True
    """

    def __init__(self, dimension: int = 64) -> None:
        self._dimension = dimension

    @property
    def fingerprint(self) -> str:
        """Says the dimension."""
        return f"hash-{self._dimension}"

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._dimension

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Return unit vectors, shape (n, dimension)."""
        rows = np.zeros((len(texts), self._dimension), dtype=np.float32)
        for i, text in enumerate(texts):
            for word in text.lower().split() or [""]:
                seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())
                rows[i] += np.random.default_rng(seed).choice([-1.0, 1.0], self._dimension)
            if not rows[i].any():
                rows[i, 0] = 1.0
        unit: FloatArray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit
