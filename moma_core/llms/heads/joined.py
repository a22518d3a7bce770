"""Joined head: the LLMs of several heads side by side, each predicted by its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moma_core.llms.heads.contract import Head
from moma_core.types import FloatArray, LLMCard

__all__ = ["JoinedHead"]


@dataclass(frozen=True, slots=True, eq=False)
class JoinedHead:
    """Predicts by every part, columns in the order of the parts.

    Args:
        parts: Heads over the same inputs.
    """

    kind: ClassVar[str] = "joined"
    parts: Sequence[Head]

    @property
    def llms(self) -> tuple[LLMCard, ...]:
        """The parts' LLMs one after the other."""
        return tuple(card for part in self.parts for card in part.llms)

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1], shape (n, m)."""
        return np.concatenate([part.predict(embeddings) for part in self.parts], axis=1)

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        parts: list[Mapping[str, Any]] = [
            {"kind": part.kind, "llms": [card.name for card in part.llms], **part.config()}
            for part in self.parts
        ]
        return {"parts": parts}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps; parts' names are prefixed by their position."""
        return {
            f"{position}.{name}": values
            for position, part in enumerate(self.parts)
            for name, values in part.arrays().items()
        }
