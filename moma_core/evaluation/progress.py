"""How far an evaluation is, in queries: what a progress bar moves by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from moma_core.protocols import Encoder
from moma_core.types import FloatArray

__all__ = ["AT_ONCE", "Progress", "ToldEncoder"]

Progress = Callable[[str, int, int], None]
"""Called with a label, what is done, and what is to be done in all."""

AT_ONCE = 512
"""Queries between two moves of the bar."""


class ToldEncoder:
    """An encoder that tells of long lists how far it is.

    Args:
        encoder: Encodes.
        tell: Told.

    Example:
        >>> from moma_core.testing import HashEncoder
        >>> encoder = ToldEncoder(HashEncoder(), lambda *told: print(*told))
        >>> encoder.encode(["why?"] * 600).shape
        encoding 512 600
        encoding 600 600
        (600, 64)
    """

    def __init__(self, encoder: Encoder, tell: Progress) -> None:
        self._encoder = encoder
        self._tell = tell
        self.fingerprint = encoder.fingerprint
        self.dimension = encoder.dimension

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Return unit vectors, shape (n, d)."""
        if len(texts) <= 1:
            return self._encoder.encode(texts)
        parts = []
        for start in range(0, len(texts), AT_ONCE):
            parts.append(self._encoder.encode(texts[start : start + AT_ONCE]))
            self._tell("encoding", min(start + AT_ONCE, len(texts)), len(texts))
        return np.concatenate(parts)
