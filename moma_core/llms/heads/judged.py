"""Heads trained on who beats whom: preference (eq. 1-6), contrastive (A.4), classifier (A.3).

All three give one raw value an LLM, meaningful within a query; a logistic fit on the training
scores (one slope, one offset an LLM) turns it into quality in [0, 1]. Pairs are derived from
scores, all pairs of a query at once, so neither row nor column order can matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.llm_routing.heads.moe import MoEConfig, MoEHead, train_mixture
from moma_core.llm_routing.losses import best_llm_loss, outcome_loss, pairwise_loss
from moma_core.llm_routing.outcomes import Outcomes, outcomes_of_scores
from moma_core.types import FloatArray, LLMCard

__all__ = [
    "JudgedConfig",
    "JudgedHead",
    "calibrate",
    "fit_classifier",
    "fit_contrastive",
    "fit_preference",
]

_Array = npt.NDArray[np.float64]
_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class JudgedConfig:
    """How to train.

    Args:
        net: The mixture that gives the raw values.
        form: Outcome probabilities of the preference head.
        much: Difference of scores from which a win is strong.
        bad: Both scores at most this: "both bad" in the grounded form.
    """

    net: MoEConfig = field(default_factory=lambda: MoEConfig(experts=1, top=1, width=64))
    form: Outcomes = field(default_factory=lambda: Outcomes(grounded=True))
    much: float = 0.5
    bad: float = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class JudgedHead:
    """Predicts ``sigmoid(slope * raw + offset)``.

    Args:
        kind: ``"preference"``, ``"contrastive"`` or ``"classifier"``.
        llms: Cards of the columns.
        net: Gives the raw values; the preference head's has one output more, eta.
        slope: Of the logistic fit.
        offset: Of each LLM, shape (m,).
    """

    kind: str
    llms: tuple[LLMCard, ...]
    net: MoEHead
    slope: float
    offset: _Array

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1], shape (n, m)."""
        raw = self.net.outputs(embeddings)[:, : len(self.llms)].astype(np.float64)
        return (0.5 * (1.0 + np.tanh(0.5 * (self.slope * raw + self.offset)))).astype(np.float32)

    def tie_threshold(self, embeddings: FloatArray) -> FloatArray:
        """Return eta of each query (preference head), shape (n,)."""
        return self.net.outputs(embeddings)[:, len(self.llms)]

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        return {"slope": self.slope, **self.net.config()}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""
        return {"offset": self.offset, **self.net.arrays()}

    @classmethod
    def from_parts(
        cls, llms: tuple[LLMCard, ...], config: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> JudgedHead:
        """Rebuild from `config` and `arrays`."""
        inner = {name: values for name, values in arrays.items() if name != "offset"}
        net = MoEHead(llms, inner, config["top"])
        return cls(config["kind"], llms, net, float(config["slope"]), arrays["offset"])


def fit_preference(
    inputs: FloatArray,
    scores: _Array,
    llms: tuple[LLMCard, ...],
    config: JudgedConfig,
    rng: np.random.Generator,
) -> JudgedHead:
    """Fit the preference head: m scores and the threshold eta from one mixture (fig. 4, eq. 5)."""
    m = scores.shape[1]
    first, second = np.triu_indices(m, 1)
    bad = config.bad if config.form.grounded else None

    def slope(rows: npt.NDArray[np.intp], raw: _Floats) -> _Floats:
        gradient = np.zeros(raw.shape)
        if not len(first):
            return gradient.astype(np.float32)
        true, values = scores[rows], raw.astype(np.float64)
        code = outcomes_of_scores(true[:, first], true[:, second], config.much, bad)
        pairs = (values[:, first].ravel(), values[:, second].ravel())
        eta = np.repeat(values[:, m], len(first))
        _, by_a, by_b, by_eta = outcome_loss(*pairs, eta, code.ravel(), config.form)
        shape, scale = (len(rows), len(first)), 2.0 * len(rows)
        for place, each in ((first, by_a), (second, by_b)):
            np.add.at(gradient.T, place, each.reshape(shape).T * scale * m / 2)
        gradient[:, m] = by_eta.reshape(shape).sum(axis=1) * scale
        return gradient.astype(np.float32)

    start = np.append(_start(scores), -1.0)
    net = train_mixture(inputs, start, slope, llms, config.net, rng)
    return calibrate("preference", net, inputs, scores, llms)


def fit_contrastive(
    inputs: FloatArray,
    scores: _Array,
    llms: tuple[LLMCard, ...],
    config: JudgedConfig,
    rng: np.random.Generator,
) -> JudgedHead:
    """Fit f(q, m) = h(q) . e_m + b_m with learnt LLM embeddings e_m (the output layer; A.4)."""
    return _fit("contrastive", pairwise_loss, inputs, scores, llms, config, rng)


def fit_classifier(
    inputs: FloatArray,
    scores: _Array,
    llms: tuple[LLMCard, ...],
    config: JudgedConfig,
    rng: np.random.Generator,
) -> JudgedHead:
    """Fit logits of which LLM is best on a query (A.3)."""
    return _fit("classifier", best_llm_loss, inputs, scores, llms, config, rng)


def _fit(
    kind: str,
    loss: Callable[[_Array, _Array], tuple[float, _Array]],
    inputs: FloatArray,
    scores: _Array,
    llms: tuple[LLMCard, ...],
    config: JudgedConfig,
    rng: np.random.Generator,
) -> JudgedHead:
    def slope(rows: npt.NDArray[np.intp], raw: _Floats) -> _Floats:
        return loss(raw.astype(np.float64), scores[rows])[1].astype(np.float32)

    net = train_mixture(inputs, np.zeros(scores.shape[1]), slope, llms, config.net, rng)
    return calibrate(kind, net, inputs, scores, llms)


def _start(scores: _Array) -> _Array:
    level = np.clip(scores.mean(axis=0), 0.02, 0.98)
    start: _Array = np.log(level / (1.0 - level))
    return start


def calibrate(
    kind: str, net: MoEHead, inputs: FloatArray, scores: _Array, llms: tuple[LLMCard, ...]
) -> JudgedHead:
    """Return a head whose one slope and offset an LLM turn the net's values into quality.

    Fitted by damped Newton steps on the cross-entropy.

    Args:
        kind: Of the head.
        net: Gives the raw values.
        inputs: Shape (n, d).
        scores: Quality in [0, 1], shape (n, m).
        llms: Cards of the columns.
    """
    m = scores.shape[1]
    raw = net.outputs(inputs)[:, :m].astype(np.float64)
    slope, offset = 0.0, _start(scores)
    for _ in range(25):
        chance = 0.5 * (1.0 + np.tanh(0.5 * (slope * raw + offset)))
        pull, curve = chance - scores, np.maximum(chance * (1.0 - chance), 1e-4)
        middle = (curve * raw).sum(axis=0) / curve.sum(axis=0)
        level = pull.sum(axis=0) / curve.sum(axis=0)
        steep = ((pull - curve * level) * raw).sum() / ((curve * (raw - middle) ** 2).sum() + 1.0)
        slope = max(slope - float(np.clip(steep, -0.5, 0.5)), 0.0)
        offset = offset - np.clip(level - steep * middle, -1.0, 1.0)
    return JudgedHead(kind, llms, net, slope, offset)
