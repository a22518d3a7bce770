"""What one query would cost on each LLM, before asking it: expected USD.

Output length differs by LLM and task, so where costs were measured they are learnt from the query;
where only prices are known, a typical answer length stands in, or one read off the query. What is
sent along with the query (the conversation, tools, images) is priced by its tokens, see `Sent`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidInputError
from moma_core.llms.heads.linear import ridge
from moma_core.llms.tokens import count_tokens
from moma_core.locks import Lock
from moma_core.types import FloatArray, LLMCard, Query

__all__ = [
    "CHARS_PER_TOKEN",
    "LONGEST",
    "TYPICAL_INPUT_TOKENS",
    "TYPICAL_OUTPUT_TOKENS",
    "AdaptedCosts",
    "CostEstimator",
    "FittedCosts",
    "PricedCosts",
    "Sent",
    "Usage",
    "build_costs",
    "count_tokens",
    "indicative_price",
]

CHARS_PER_TOKEN = 4.0
TYPICAL_INPUT_TOKENS = 100.0
TYPICAL_OUTPUT_TOKENS = 300.0
LONGEST = 1_000.0
"""Tokens up to which fitted costs are trusted to follow a query's length, or the longest query that
they were fitted on if that is more."""

_TURN = 4
"""Tokens that say whose turn it is."""

_FLOOR = 1e-9
_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sent:
    """What an LLM will read when it is asked.

    Args:
        tokens: Of everything: the query, what came before it, tools, images.
        cached: Of these, tokens that the last LLM has in its provider's cache.
        last: The LLM that answered the turn before; None where there was none.
    """

    tokens: float
    cached: float = 0.0
    last: str | None = None

    @classmethod
    def of(cls, query: Query, last: str | None = None) -> Sent:
        """Count a query with its history, or take ``Query.tokens``, which the caller counted.

        Example:
            >>> Sent.of(Query("commit it", history=("word " * 1000,))).tokens > 1000
            True
        """
        own = count_tokens(query.text)
        before = sum(count_tokens(turn) + _TURN for turn in query.history)
        tokens = own + before if query.tokens is None else max(query.tokens, own)
        return cls(tokens, float(tokens - own) if query.history and last else 0.0, last)


class CostEstimator(Protocol):
    """Expects the cost of queries on each LLM."""

    @property
    def kind(self) -> str:
        """Key by which `build_costs` rebuilds it."""

    @property
    def longest(self) -> float:
        """Tokens of a text up to which `predict` counts them; more costs what the cards say."""

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
        longest: Tokens up to which it is trusted to follow a query's length.
    """

    kind: ClassVar[str] = "fitted"
    weights: npt.NDArray[np.float32]
    bias: _Array
    scale: _Array
    highest: _Array
    longest: float = LONGEST

    @classmethod
    def fit(
        cls, inputs: FloatArray, costs: _Array, penalty: float = 3.0, longest: float = LONGEST
    ) -> FittedCosts:
        """Fit on inputs (n, d) and complete costs (n, m) in USD."""
        weights, bias = ridge(inputs.astype(np.float64), np.log(costs + _FLOOR), penalty)
        highest = costs.max(axis=0)
        plain = cls(weights.astype(np.float32), bias, np.ones(costs.shape[1]), highest)
        mean = plain.predict((), inputs).mean(axis=0)
        scale = np.divide(costs.mean(axis=0), mean, out=np.zeros_like(mean), where=mean > 0)
        return cls(plain.weights, bias, scale, highest, longest)

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
        return {"longest": self.longest}

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
    """Input tokens and an expected answer, at the prices of the cards.

    Args:
        llms: Cards of the columns.
        output_tokens: Typical length of an answer.
        length: Weights of the log of an answer's tokens, of the inputs and a bias, shape (d + 1,);
            None: every answer is of typical length.

    Example:
        >>> costs = PricedCosts((LLMCard("small", 1.0, 2.0),), output_tokens=100)
        >>> costs.predict(["four " * 100], np.zeros((1, 0), np.float32)).round(4).tolist()
        [[0.0003]]
    """

    kind: ClassVar[str] = "priced"
    longest: ClassVar[float] = np.inf
    llms: tuple[LLMCard, ...]
    output_tokens: float = TYPICAL_OUTPUT_TOKENS
    length: _Array | None = None

    def predict(self, texts: Sequence[str], inputs: FloatArray) -> _Array:
        """Return USD, shape (n, m)."""
        tokens = np.array([count_tokens(text) for text in texts], np.float64)[:, None]
        read = np.array([card.input_price for card in self.llms])
        write = np.array([card.output_price for card in self.llms])
        thought = np.array([card.reasoning_tokens for card in self.llms])
        answer = self.output_tokens if self.length is None else self._answer(inputs)[:, None]
        expected: _Array = (tokens * read + (answer + thought) * write) / 1e6
        return expected

    def _answer(self, inputs: FloatArray) -> _Array:
        """Return the expected tokens of answers, shape (n,)."""
        assert self.length is not None  # noqa: S101 - asked only where there is one
        logs = np.asarray(inputs, np.float64) @ self.length[:-1] + self.length[-1]
        tokens: _Array = np.exp(np.clip(logs, *_ANSWERS))
        return tokens

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps."""
        return {"output_tokens": self.output_tokens}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps; the cards hold all other numbers."""
        return {} if self.length is None else {"length": self.length}


_ANSWERS = np.log(20.0), np.log(2_000.0)
"""Shortest and longest answer that is expected before asking, log of tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedCosts:
    """Log costs as blends of another estimator's, for LLMs added, removed or repriced later.

    Args:
        base: The estimator that was trained, over m LLMs.
        weights: Shape (m, m'); a kept LLM has a single 1.
        bias: Shape (m',); a new price adds the log of its ratio to the old one.
    """

    kind: ClassVar[str] = "adapted"
    base: CostEstimator
    weights: _Array
    bias: _Array

    @property
    def longest(self) -> float:
        """As the base."""
        return self.base.longest

    def predict(self, texts: Sequence[str], inputs: FloatArray) -> _Array:
        """Return USD, shape (n, m')."""
        expected: _Array = np.exp(self._logs(texts, inputs) @ self.weights + self.bias)
        return np.where(expected > 2.0 * _FLOOR, expected, 0.0)

    def fit_column(
        self, texts: Sequence[str], inputs: FloatArray, costs: _Array
    ) -> tuple[_Array, float]:
        """Return weights (m,) and bias of a new LLM from its measured USD, shape (n,).

        Its cost follows the mean log cost of the others at a ratio that keeps the mean.
        """
        others = self._logs(texts, inputs).mean(axis=1)
        weights = np.full(len(self.weights), 1.0 / len(self.weights))
        ratio = max(float(costs.mean()), _FLOOR) / float(np.exp(others).mean())
        return weights, float(np.log(ratio))

    def _logs(self, texts: Sequence[str], inputs: FloatArray) -> _Array:
        logs: _Array = np.log(np.maximum(self.base.predict(texts, inputs), _FLOOR))
        return logs

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        return {"base": {"kind": self.base.kind, **self.base.config()}}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps; the base's names are prefixed."""
        inner = {f"base.{name}": values for name, values in self.base.arrays().items()}
        return {"weights": self.weights, "bias": self.bias, **inner}


def build_costs(
    config: Mapping[str, Any], llms: tuple[LLMCard, ...], arrays: Mapping[str, Any]
) -> CostEstimator:
    """Rebuild a cost estimator from its config, with ``kind``, and its arrays.

    Raises:
        KeyError: The kind or an array is unknown; a checkpoint turns it into an `ArtifactError`.
    """
    if config["kind"] == AdaptedCosts.kind:
        inner = {n.removeprefix("base."): v for n, v in arrays.items() if n.startswith("base.")}
        base = build_costs(config["base"], llms, inner)
        return AdaptedCosts(base, arrays["weights"], arrays["bias"])
    if config["kind"] == PricedCosts.kind:
        return PricedCosts(llms, config["output_tokens"], arrays.get("length"))
    fitted = {name: arrays[name] for name in ("weights", "bias", "scale", "highest")}
    return FittedCosts(**fitted, longest=float(config.get("longest", LONGEST)))


def indicative_price(queries: Sequence[str], costs: _Array) -> float:
    """Return USD per million tokens that explains measured costs, input and output priced alike.

    Total cost over total tokens, those of the question and a typical answer of 300. Indicative
    only: it fills an `LLMCard` for which no price list was given.

    Args:
        queries: Texts, length n.
        costs: USD of one LLM, NaN where unknown, shape (n,).
    """
    known = ~np.isnan(costs)
    read = np.array([count_tokens(text) for text in queries], np.float64)[known]
    tokens = (read + TYPICAL_OUTPUT_TOKENS).sum()
    return float(f"{costs[known].sum() / tokens * 1e6:.3g}")


_PRIOR = 5.0
"""Calls' worth of the belief that expectations are right."""

_MEMORY = 200.0
"""Calls that are remembered; older ones fade, so that a change of model or price is followed."""

_BEYOND = math.log(20.0)


class Usage:
    """By what factor each LLM costs more, or less, than expected: learnt from real usage.

    The mean of real over expected in logs, drawn to one.

    Args:
        seen: By LLM: weight of what was seen and its mean log ratio.

    Example:
        >>> usage = Usage()
        >>> for _ in range(50):
        ...     usage.observe("small", 0.001 * usage.factors(["small"])[0], real=0.002)
        >>> usage.factors(["small", "unknown"]).round(1).tolist()
        [1.9, 1.0]
    """

    def __init__(self, seen: Mapping[str, Sequence[float]] | None = None) -> None:
        self._seen = {name: (float(n), float(mean)) for name, (n, mean) in (seen or {}).items()}
        self._lock = Lock()
        self.observed = 0  # times that the factors changed

    def observe(self, name: str, expected: float, real: float) -> None:
        """Learn what one call cost.

        Args:
            name: The LLM that was asked.
            expected: USD that the decision said; the factor that it held is taken out again.
            real: USD that was paid.

        Raises:
            InvalidInputError: A cost is negative or no number.
        """
        if not (0.0 <= expected < math.inf and 0.0 <= real < math.inf):
            raise InvalidInputError(
                f"costs are USD, zero or more, got expected={expected!r} and real={real!r}."
            )
        if expected == 0.0 or real == 0.0:
            return  # a free LLM has no ratio
        with self._lock:
            weight, mean = self._seen.get(name, (0.0, 0.0))
            ratio = math.log(real / expected)
            ratio = min(max(ratio, -_BEYOND), _BEYOND) + self._drawn(name)
            weight = min(weight + 1.0, _MEMORY)
            self._seen[name] = (weight, mean + (ratio - mean) / weight)
            self.observed += 1

    def expect(
        self, name: str, expected: npt.NDArray[np.float64], real: npt.NDArray[np.float64]
    ) -> None:
        """Learn from many calls at once, both in USD, shape (n,): the ratio of their sums."""
        if expected.sum() > 0.0 and real.sum() > 0.0:
            with self._lock:
                weight = min(float(len(real)), _MEMORY)
                self._seen[name] = (weight, math.log(real.sum() / expected.sum()))
                self.observed += 1

    def _drawn(self, name: str) -> float:
        weight, mean = self._seen.get(name, (0.0, 0.0))
        return mean * weight / (weight + _PRIOR)

    def factors(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return what to multiply expected USD by, one where nothing was seen, shape (m,)."""
        return np.exp([self._drawn(name) for name in names])

    def to_dict(self) -> dict[str, list[float]]:
        """Return plain numbers by LLM."""
        return {name: [weight, mean] for name, (weight, mean) in sorted(self._seen.items())}
