"""Heads trained on who beats whom: preference (eq. 1-6), contrastive (A.4), classifier (A.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._numerics import sigmoid
from moma_core.llms.heads.moe import MoEConfig, MoEHead, train_mixture
from moma_core.types import FloatArray, LLMCard

__all__ = [
    "OUTCOMES",
    "JudgedConfig",
    "JudgedHead",
    "Outcomes",
    "best_llm_loss",
    "calibrate",
    "fit_classifier",
    "fit_contrastive",
    "fit_preference",
    "five_to_three",
    "log_outcomes",
    "log_sigmoid",
    "outcome_loss",
    "outcomes_of_scores",
    "pairwise_loss",
]

OUTCOMES = ("equal", "a better", "b better", "a much better", "b much better", "both bad")
"""Outcomes by code; the last one exists in the grounded form only."""

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Which form of the outcome probabilities is meant.

    Args:
        strength: alpha, comparison strength of strong wins.
        margin: delta, advantage at which half of the wins are strong.
        grounded: Whether "both bad" is an outcome of its own.
    """

    strength: float = 1.0
    margin: float = 1.0
    grounded: bool = False


def log_sigmoid(values: _Array) -> _Array:
    """Return log(1 / (1 + exp(-values))) without overflow."""
    result: _Array = -np.logaddexp(0.0, -values)
    return result


def log_outcomes(s_a: _Array, s_b: _Array, eta: _Array, form: Outcomes | None = None) -> _Array:
    """Return the log probability of each outcome; they sum to 1 (eq. 1-4).

    Args:
        s_a: Score of the first LLM, shape (n,).
        s_b: Score of the second LLM, shape (n,).
        eta: Tie threshold of the query, shape (n,).
        form: Strength, margin, grounded.

    Returns:
        Shape (n, 5), or (n, 6) in the grounded form, in the order of `OUTCOMES`.

    Example:
        >>> even = np.exp(log_outcomes(np.zeros(1), np.zeros(1), np.zeros(1)))[0]
        >>> even.round(3).tolist(), float(even.sum().round(6))
        ([0.333, 0.282, 0.282, 0.052, 0.052], 1.0)
    """
    form = form or Outcomes()
    t = np.logaddexp(0.0, eta)
    gap = s_a - s_b
    if form.grounded:
        both = np.logaddexp(s_a, s_b)
        ground = np.logaddexp(0.0, both)
        a_under = np.logaddexp(0.0, np.logaddexp(s_a, t + s_b))
        b_under = np.logaddexp(0.0, np.logaddexp(s_b, t + s_a))
        a_wins, b_wins = s_a - a_under, s_b - b_under
        tie = s_a + s_b + eta - ground + np.logaddexp(-a_under, -b_under)
    else:
        a_wins, b_wins = log_sigmoid(gap - t), log_sigmoid(-gap - t)
        tie = eta + np.logaddexp(np.log(2.0), eta) - np.logaddexp(gap, t) - np.logaddexp(-gap, t)
    strong_a = form.strength * (gap - t - form.margin)
    strong_b = form.strength * (-gap - t - form.margin)
    columns = [
        tie,
        a_wins + log_sigmoid(-strong_a),
        b_wins + log_sigmoid(-strong_b),
        a_wins + log_sigmoid(strong_a),
        b_wins + log_sigmoid(strong_b),
    ]
    if form.grounded:
        columns.append(-ground)
    return np.stack(columns, axis=-1)


def outcomes_of_scores(
    score_a: _Array, score_b: _Array, much: float = 0.5, bad: float | None = None
) -> npt.NDArray[np.int8]:
    """Return the outcome code that two scores in [0, 1] stand for (4.1.2).

    Args:
        score_a: Of the first LLM.
        score_b: Of the second LLM; same shape.
        much: Difference from which a win is strong.
        bad: Where both scores are at most this, the outcome is "both bad"; None: never.

    Example:
        >>> a, b = np.array([1.0, 0.6, 0.0, 0.0]), np.array([0.0, 0.5, 0.0, 0.1])
        >>> outcomes_of_scores(a, b, bad=0.05).tolist()
        [3, 1, 5, 2]
    """
    gap = score_a - score_b
    weak = np.where(gap > 0, 1, np.where(gap < 0, 2, 0))
    code = np.where(np.abs(gap) >= much, weak + 2 * (weak > 0), weak)
    if bad is not None:
        code = np.where((score_a <= bad) & (score_b <= bad), 5, code)
    return code.astype(np.int8)


_Codes = npt.NDArray[np.integer]


def outcome_loss(
    s_a: _Array, s_b: _Array, eta: _Array, outcome: _Codes, form: Outcomes, three: bool = False
) -> tuple[float, _Array, _Array, _Array]:
    """Return the cross-entropy over outcomes (eq. 5-6) and its gradients by s_a, s_b and eta.

    Args:
        s_a: Score of the first LLM of each pair, shape (n,).
        s_b: Score of the second one, shape (n,).
        eta: Tie threshold of the pair's query, shape (n,).
        outcome: Code of each pair, shape (n,); see `outcomes.OUTCOMES`.
        form: Strength, margin, grounded.
        three: Labels tell only who won (0, 1, 2): the strong and weak halves are added.
    """
    if not three and not form.grounded:
        return _five_outcome_loss(s_a - s_b, eta, np.asarray(outcome, np.intp), form)
    losses, slopes = [], []
    for inputs in _stencil(s_a, s_b, eta):
        logs = log_outcomes(*inputs, form)
        losses.append(-_picked(five_to_three(logs) if three else logs, outcome))
    for up, down in zip(losses[1::2], losses[2::2], strict=True):
        slopes.append((up - down) / (2.0 * _H * len(outcome)))
    return float(losses[0].mean()), slopes[0], slopes[1], slopes[2]


def _five_outcome_loss(
    gap: _Array, eta: _Array, outcome: npt.NDArray[np.intp], form: Outcomes
) -> tuple[float, _Array, _Array, _Array]:
    """The loss with its gradients in closed form, several times faster than by differences."""
    side = np.array([0.0, 1.0, -1.0, 1.0, -1.0])[outcome]
    tie, sign = outcome == 0, np.where(outcome >= 3, 1.0, -1.0)
    t, by_t_of_eta = np.logaddexp(0.0, eta), sigmoid(eta)
    up, down = gap - t, -gap - t
    lead = np.where(side < 0, down, up)  # of the winner, beyond the threshold
    strong = sign * form.strength * (lead - form.margin)
    won = log_sigmoid(lead) + log_sigmoid(strong)
    by_lead = sigmoid(-lead) + sign * form.strength * sigmoid(-strong)
    drawn = eta + np.logaddexp(np.log(2.0), eta) - 2.0 * t + log_sigmoid(-up) + log_sigmoid(-down)
    by_gap = np.where(tie, sigmoid(down) - sigmoid(up), side * by_lead)
    by_t = np.where(tie, sigmoid(up) + sigmoid(down) - 2.0, -by_lead)
    by_eta = by_t * by_t_of_eta + np.where(tie, 1.0 + sigmoid(eta - np.log(2.0)), 0.0)
    loss, size = -np.where(tie, drawn, won), len(outcome)
    return float(loss.mean()), -by_gap / size, by_gap / size, -by_eta / size


_H = 1e-4


def _stencil(s_a: _Array, s_b: _Array, eta: _Array) -> list[tuple[_Array, _Array, _Array]]:
    """The point, then a step up and a step down along each input: central differences, O(h^2)."""
    return [
        (s_a, s_b, eta),
        (s_a + _H, s_b, eta), (s_a - _H, s_b, eta),
        (s_a, s_b + _H, eta), (s_a, s_b - _H, eta),
        (s_a, s_b, eta + _H), (s_a, s_b, eta - _H),
    ]  # fmt: skip


def _picked(logs: _Array, outcome: _Codes) -> _Array:
    picked: _Array = np.take_along_axis(logs, np.asarray(outcome, np.intp)[:, None], axis=1)[:, 0]
    return picked


def five_to_three(logs: _Array) -> _Array:
    """Return log probabilities of tie (and both bad), a wins, b wins, shape (n, 3)."""
    tie = logs[:, 0] if logs.shape[1] == 5 else np.logaddexp(logs[:, 0], logs[:, 5])
    wins = [np.logaddexp(logs[:, 1], logs[:, 3]), np.logaddexp(logs[:, 2], logs[:, 4])]
    return np.stack([tie, *wins], axis=1)


def pairwise_loss(values: _Array, scores: _Array) -> tuple[float, _Array]:
    """Return -log sigmoid(f_a - f_b) over all pairs that differ in score (eq. 31-33).

    A pair counts by how much its scores differ; ties count nothing.

    Args:
        values: f of each query and LLM, shape (n, m).
        scores: Measured quality, shape (n, m).

    Returns:
        Mean over queries, and the gradient by values, shape (n, m), summed within a query.
    """
    better = np.maximum(scores[:, :, None] - scores[:, None, :], 0.0)  # (n, a, b): a beats b
    gap = values[:, :, None] - values[:, None, :]
    loss = float((better * np.logaddexp(0.0, -gap)).sum() / len(values))
    grad = -better * sigmoid(-gap)
    return loss, grad.sum(axis=2) - grad.sum(axis=1)


def best_llm_loss(values: _Array, scores: _Array) -> tuple[float, _Array]:
    """Return the cross-entropy to the best LLM of each query (eq. 27-29) and its gradient.

    LLMs that tie for the best share the target equally, so their order cannot matter.

    Args:
        values: Logit of each LLM, shape (n, m).
        scores: Measured quality, shape (n, m).
    """
    best = scores == scores.max(axis=1, keepdims=True)
    target = best / best.sum(axis=1, keepdims=True)
    shifted = values - values.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-(target * logs).sum() / len(values)), np.exp(logs) - target


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
    """Predicts ``sigmoid(slope * raw + offset)``, or the expected share of points against the pool.

    The share is that of a head trained on judged pairs, which tell nothing of absolute quality: the
    mean over the others of ``sigmoid(steepness * (raw - theirs))``, in the order of ``raw``.

    Args:
        kind: ``"preference"``, ``"contrastive"`` or ``"classifier"``.
        llms: Cards of the columns.
        net: Gives the raw values; the preference head's has one output more, eta.
        slope: Of the logistic fit.
        offset: Of each LLM, shape (m,).
        form: Outcome probabilities that a preference head was trained with.
        steepness: Of points by difference of raw values; zero: slope and offset hold instead.
    """

    kind: str
    llms: tuple[LLMCard, ...]
    net: MoEHead
    slope: float
    offset: _Array
    form: Outcomes = field(default_factory=Outcomes)
    steepness: float = 0.0

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1], shape (n, m)."""
        raw = self.net.outputs(embeddings)[:, : len(self.llms)].astype(np.float64)
        if self.steepness:
            won = [sigmoid(self.steepness * (row[:, None] - row)).sum(axis=1) - 0.5 for row in raw]
            shares = np.array(won).reshape(raw.shape) / max(raw.shape[1] - 1, 1)
            return np.asarray(shares, np.float32)
        return sigmoid(self.slope * raw + self.offset).astype(np.float32)

    def tie_threshold(self, embeddings: FloatArray) -> FloatArray:
        """Return eta of each query (preference head), shape (n,)."""
        return self.net.outputs(embeddings)[:, len(self.llms)]

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        form = {"strength": self.form.strength, "margin": self.form.margin}
        own = {"slope": self.slope, "form": form, "steepness": self.steepness}
        return {**own, **self.net.config()}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""
        return {"offset": self.offset, **self.net.arrays()}

    @classmethod
    def from_parts(
        cls, llms: tuple[LLMCard, ...], config: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> JudgedHead:
        """Rebuild from `config` and `arrays`."""
        inner = {name: values for name, values in arrays.items() if name != "offset"}
        net = MoEHead.from_parts(llms, config, inner)
        form = Outcomes(**config.get("form", {}))
        steepness = float(config.get("steepness", 0.0))
        slope, offset = float(config["slope"]), arrays["offset"]
        return cls(config["kind"], llms, net, slope, offset, form, steepness)


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

    def grad(rows: npt.NDArray[np.intp], raw: _Floats) -> _Floats:
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
    net = train_mixture(inputs, start, grad, llms, config.net, rng)
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
    def grad(rows: npt.NDArray[np.intp], raw: _Floats) -> _Floats:
        return loss(raw.astype(np.float64), scores[rows])[1].astype(np.float32)

    net = train_mixture(inputs, np.zeros(scores.shape[1]), grad, llms, config.net, rng)
    return calibrate(kind, net, inputs, scores, llms)


def _start(scores: _Array) -> _Array:
    mean = np.clip(scores.mean(axis=0), 0.02, 0.98)
    start: _Array = np.log(mean / (1.0 - mean))
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
        probability = sigmoid(slope * raw + offset)
        residual, curve = probability - scores, np.maximum(probability * (1.0 - probability), 1e-4)
        middle = (curve * raw).sum(axis=0) / curve.sum(axis=0)
        mean = residual.sum(axis=0) / curve.sum(axis=0)
        steep = ((residual - curve * mean) * raw).sum() / (
            (curve * (raw - middle) ** 2).sum() + 1.0
        )
        slope = max(slope - float(np.clip(steep, -0.5, 0.5)), 0.0)
        offset = offset - np.clip(mean - steep * middle, -1.0, 1.0)
    return JudgedHead(kind, llms, net, slope, offset)
