"""What one query would cost on each LLM, before asking it: expected USD.

Output length differs by LLM and task, so where costs were measured they are learnt from the query;
where only prices are known, a typical answer length stands in. Knows nothing of quality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from moma_core.llm_routing.heads.linear import ridge
from moma_core.types import FloatArray, LLMCard

__all__ = [
    "CHARS_PER_TOKEN",
    "TYPICAL_OUTPUT_TOKENS",
    "CostModel",
    "FittedCosts",
    "PricedCosts",
    "build_costs",
    "indicative_price",
]

CHARS_PER_TOKEN = 4.0
TYPICAL_OUTPUT_TOKENS = 300.0
_FLOOR = 1e-9
_Array = npt.NDArray[np.float64]


class CostModel(Protocol):
    """Expects the cost of queries on each LLM."""

    @property
    def kind(self) -> str:
        """Key by which `build_costs` rebuilds it."""

    def predict(self, texts: Sequence[str], inputs: FloatArray) -> _Array:
        """Return USD, zero or more, shape (n, m), of texts and their head inputs (n, d)."""

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""


@dataclass(frozen=True, slots=True, eq=False)
class FittedCosts:
    """Log cost linear in the query's inputs, scaled so that the mean is the measured mean.

    Args:
        weights: Shape (d, m).
        bias: Shape (m,).
        scale: Factor of each LLM that makes the mean prediction the mean cost, shape (m,).
        highest: Dearest measured query of each LLM; twice that bounds a prediction, shape (m,).
    """

    kind: ClassVar[str] = "fitted"
    weights: npt.NDArray[np.float32]
    bias: _Array
    scale: _Array
    highest: _Array

    @classmethod
    def fit(cls, inputs: FloatArray, costs: _Array, penalty: float = 3.0) -> FittedCosts:
        """Fit on inputs (n, d) and complete costs (n, m) in USD."""
        weights, bias = ridge(inputs.astype(np.float64), np.log(costs + _FLOOR), penalty)
        highest = costs.max(axis=0)
        plain = cls(weights.astype(np.float32), bias, np.ones(costs.shape[1]), highest)
        level = plain.predict((), inputs).mean(axis=0)
        scale = np.divide(costs.mean(axis=0), level, out=np.zeros_like(level), where=level > 0)
        return cls(plain.weights, bias, scale, highest)

    def predict(self, texts: Sequence[str], inputs: FloatArray) -> _Array:
        """Return USD, shape (n, m); the length of the text is among the inputs."""
        del texts
        logs = (inputs @ self.weights).astype(np.float64) + self.bias
        expected: _Array = np.minimum(
            np.exp(np.minimum(logs, 50.0)) * self.scale, 2.0 * self.highest
        )
        return expected

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        return {}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""
        return {
            "weights": self.weights,
            "bias": self.bias,
            "scale": self.scale,
            "highest": self.highest,
        }


@dataclass(frozen=True, slots=True, eq=False)
class PricedCosts:
    """Input tokens (characters / 4) and a typical answer, at the prices of the cards.

    Args:
        llms: Cards of the columns.
        output_tokens: Typical length of an answer.

    Example:
        >>> costs = PricedCosts((LLMCard("small", 1.0, 2.0),), output_tokens=100)
        >>> costs.predict(["four" * 100], np.zeros((1, 0), np.float32)).round(6).tolist()
        [[0.0003]]
    """

    kind: ClassVar[str] = "priced"
    llms: tuple[LLMCard, ...]
    output_tokens: float = TYPICAL_OUTPUT_TOKENS

    def predict(self, texts: Sequence[str], inputs: FloatArray) -> _Array:
        """Return USD, shape (n, m)."""
        del inputs
        tokens = np.array([len(text) for text in texts], np.float64)[:, None] / CHARS_PER_TOKEN
        read = np.array([card.input_price for card in self.llms])
        write = np.array([card.output_price for card in self.llms])
        expected: _Array = (tokens * read + self.output_tokens * write) / 1e6
        return expected

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps."""
        return {"output_tokens": self.output_tokens}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return nothing: the cards hold all numbers."""
        return {}


def build_costs(
    config: Mapping[str, Any], llms: tuple[LLMCard, ...], arrays: Mapping[str, Any]
) -> CostModel:
    """Rebuild a cost model from its config, with ``kind``, and its arrays.

    Raises:
        KeyError: The kind or an array is unknown; a checkpoint turns it into an `ArtifactError`.
    """
    if config["kind"] == PricedCosts.kind:
        return PricedCosts(llms, config["output_tokens"])
    return FittedCosts(**{name: arrays[name] for name in FittedCosts.__slots__})


def indicative_price(queries: Sequence[str], costs: _Array) -> float:
    """Return USD per million tokens that explains measured costs, input and output priced alike.

    Total cost over total tokens, taking characters / 4 for the question and a typical answer of 300
    tokens. Indicative only: it fills an `LLMCard` for which no price list was given.

    Args:
        queries: Texts, length n.
        costs: USD of one LLM, NaN where unknown, shape (n,).
    """
    known = ~np.isnan(costs)
    chars = np.array([len(text) for text in queries], np.float64)[known]
    tokens = (chars / CHARS_PER_TOKEN + TYPICAL_OUTPUT_TOKENS).sum()
    return float(f"{costs[known].sum() / tokens * 1e6:.3g}")
