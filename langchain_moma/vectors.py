"""Query vectors by text, so that choosing tools and choosing an LLM encode a query once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

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
        >>> bool((vectors.of("hello") == vectors.all(["bye", "hello"])[1]).all())
        True
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: OrderedDict[str, npt.NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, text: str) -> npt.NDArray[np.float32]:
        """Return the unit vector of ``text``, shape (d,)."""
        vector: npt.NDArray[np.float32] = self.all([text])[0]
        return vector

    def all(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the unit vectors of texts, shape (n, d); the new ones are encoded together."""
        with self._lock:
            found = {text: self._known[text] for text in texts if text in self._known}
        fresh = [text for text in dict.fromkeys(texts) if text not in found]
        if fresh:
            found.update(zip(fresh, self._encoder.encode(fresh), strict=True))
        with self._lock:
            for text in texts:
                self._known[text] = found[text]
                self._known.move_to_end(text)
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return np.stack([found[text] for text in texts])
