"""Query vectors by text, so that choosing tools and choosing an LLM encode a query once."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from moma_core import Encoder

__all__ = ["Vectors"]

_KEPT = 256


class Vectors:
    """Encodes texts and remembers the last few; safe to share between threads.

    Args:
        encoder: Encodes what is not remembered.

    Example:
        >>> from moma_core.testing import HashEncoder
        >>> vectors = Vectors(HashEncoder())
        >>> vectors.of("hello") is vectors.of("hello")
        True
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: OrderedDict[str, npt.NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, text: str) -> npt.NDArray[np.float32]:
        """Return the unit vector of ``text``, shape (d,)."""
        with self._lock:
            if text in self._known:
                self._known.move_to_end(text)
                return self._known[text]
        vector: npt.NDArray[np.float32] = self._encoder.encode([text])[0]
        with self._lock:
            self._known[text] = vector
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return vector
