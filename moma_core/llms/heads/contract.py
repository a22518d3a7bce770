"""What a head of this package offers beside `QualityHead`: its parts, so that it can be saved."""

from __future__ import annotations

from typing import Any, Protocol

import numpy.typing as npt

from moma_core.types import FloatArray, LLMCard

__all__ = [
    "Head",
]


class Head(Protocol):
    """A quality head that can be saved: `QualityHead` with its parts."""

    @property
    def kind(self) -> str:
        """Key of `HEADS`, or ``"stack"``."""

    @property
    def llms(self) -> tuple[LLMCard, ...]:
        """The LLMs, in the order of the columns."""

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1], shape (n, m), from inputs (n, d)."""

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""
