"""Ability head: LLMs known by their cards alone, on a scale of abilities and difficulty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moma_core.llms.abilities import Ability, AbilityScale
from moma_core.types import FloatArray, LLMCard

__all__ = [
    "AbilityHead",
]

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class AbilityHead:
    """Predicts the probability to be right, averaged over what is not known of an LLM.

    Args:
        llms: Cards of the columns.
        scale: Reads the query.
        means: Abilities, shape (m, k).
        covariances: Shape (m, k, k).
    """

    kind: ClassVar[str] = "ability"
    llms: tuple[LLMCard, ...]
    scale: AbilityScale
    means: _Array
    covariances: _Array

    @classmethod
    def place(cls, llms: tuple[LLMCard, ...], scale: AbilityScale) -> AbilityHead:
        """Return the head of a pool of cards; a card may be like one that comes before it.

        Raises:
            InvalidCardError: A card is like an unknown LLM, or names an unknown benchmark.
        """
        k = len(scale.subjects)
        head = cls((), scale, np.zeros((0, k)), np.zeros((0, k, k)))
        for card in llms:
            head = head.with_card(card)
        return head

    def with_card(self, card: LLMCard) -> AbilityHead:
        """Return the head with one LLM more.

        Raises:
            InvalidCardError: As `place`.
        """
        others = {
            each.name: Ability(self.means[row], self.covariances[row])
            for row, each in enumerate(self.llms)
        }
        ability = self.scale.place(card, others)
        return AbilityHead(
            (*self.llms, card),
            self.scale,
            np.vstack([self.means, ability.mean[None]]),
            np.concatenate([self.covariances, ability.covariance[None]]),
        )

    def only(self, columns: Sequence[int], llms: tuple[LLMCard, ...]) -> AbilityHead:
        """Return the head of some of its columns, under these cards."""
        rows = list(columns)
        return AbilityHead(llms, self.scale, self.means[rows], self.covariances[rows])

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1], shape (n, m)."""
        return self.scale.predict(embeddings, self.means, self.covariances)[0].astype(np.float32)

    def spread(self, embeddings: FloatArray) -> _Array:
        """Return the standard deviation of `predict` by what is not known, shape (n, m)."""
        return self.scale.predict(embeddings, self.means, self.covariances)[1]

    def best(self) -> str:
        """Return the name of the LLM of the highest expected score; ties: the cheaper one."""
        level = [self.scale.level(Ability(m, c)) for m, c in zip(self.means, self.covariances,
                                                                strict=True)]  # fmt: skip
        order = sorted(
            range(len(level)), key=lambda row: (-level[row], self.llms[row].output_price, row)
        )
        return self.llms[order[0]].name

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        return {"scale": self.scale.config()}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps; the scale's names are prefixed."""
        inner = {f"scale.{name}": values for name, values in self.scale.arrays().items()}
        return {"means": self.means, "covariances": self.covariances, **inner}

    @classmethod
    def from_parts(
        cls, llms: tuple[LLMCard, ...], config: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> AbilityHead:
        """Rebuild from `config` and `arrays`."""
        inner = {n.removeprefix("scale."): v for n, v in arrays.items() if n.startswith("scale.")}
        scale = AbilityScale.from_parts(config["scale"], inner)
        return cls(llms, scale, arrays["means"], arrays["covariances"])
