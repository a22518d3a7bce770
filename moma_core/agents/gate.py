"""The gate: does the best agent fit at all? ``Handled`` above a probability, else ``Deferred``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core.agents.ranker import (
    N_FEATURES,
    Columns,
    Features,
    fit_columns,
    logsumexp,
    stack_features,
)
from moma_core.errors import InvalidInputError
from moma_core.protocols import Encoder
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "COLD_THRESHOLD",
    "CONFIDENCE",
    "DESCRIPTIONS_CURVE",
    "ENOUGH_NEGATIVES",
    "ColdView",
    "Curve",
    "Evidence",
    "Gate",
    "Negatives",
    "Scope",
    "Signals",
    "blended",
    "check_rate",
    "conformal_threshold",
    "cross_fit_scope",
    "fit_gate",
    "fit_scope",
    "signals",
    "with_cold_view",
]

CONFIDENCE = 0.9
"""Share of calibrations that realise no more than the promised rate."""

_NEVER = 1.0  # no probability reaches it: every query goes to an LLM


def check_rate(rate: float) -> None:
    """Raise InvalidInputError unless ``rate`` is a number inside (0, 1)."""
    if not isinstance(rate, int | float) or not 0.0 < rate < 1.0:
        raise InvalidInputError(
            f"max_wrong_agent_rate must lie between 0 and 1, got {rate!r}. Write 0.05 for 5 %."
        )


def conformal_threshold(
    probabilities: npt.NDArray[np.floating[Any]],
    right: npt.NDArray[np.bool_],
    rate: float,
    confidence: float | None = CONFIDENCE,
) -> float:
    """Return the least probability to accept so that wrong agents stay within ``rate``.

    Args:
        probabilities: The gate's probabilities on n calibration queries, shape (n,).
        right: Whether the best agent was a wanted one, shape (n,).
        rate: Largest share of all queries that may go to a wrong agent, in (0, 1).
        confidence: In how many calibrations, in (0, 1); None promises the average alone.

    Returns:
        A threshold in [0, 1]; 1 when so few queries cannot promise ``rate`` at all.

    Raises:
        InvalidInputError: ``rate`` or ``confidence`` is not inside (0, 1).

    Example:
        >>> probabilities = np.linspace(0.01, 0.99, 99)
        >>> conformal_threshold(probabilities, probabilities > 0.3, rate=0.05) < 0.3
        True
    """
    check_rate(rate)
    n = len(probabilities)
    allowed = _allowed(n, rate, confidence)
    if allowed < 0:
        return _NEVER
    wrong = np.sort(np.asarray(probabilities, dtype=np.float64)[~right])[::-1]
    if allowed >= wrong.size:
        return 0.0
    # Above the first wrong one that is too many; ties with it are refused together.
    return float(min(np.nextafter(wrong[allowed], np.inf), _NEVER))


def _allowed(n: int, rate: float, confidence: float | None) -> int:
    """Return how many wrong ones of n may be accepted; less than 0: the promise cannot be made."""
    on_average = int(np.floor(rate * (n + 1) - 1.0 + 1e-9))
    if confidence is None:
        return on_average
    if not 0.0 < confidence < 1.0:
        raise InvalidInputError(
            f"confidence must lie between 0 and 1, got {confidence!r}. Write 0.9 for 90 %."
        )
    from scipy.stats import binom

    counts = np.arange(-1, max(on_average, -1) + 1)
    return int(counts[binom.cdf(counts, n, rate) <= 1.0 - confidence].max())


_NEAR = 0.6  # cosine to a description or example from which a background query is left out


@dataclass(frozen=True, slots=True, eq=False)
class Negatives:
    """m queries with their vectors.

    Args:
        texts: The queries, the user's first.
        vectors: Shape (m, d).
        n_given: How many of them the user gave; the rest is background.
    """

    texts: tuple[str, ...]
    vectors: FloatArray
    n_given: int

    @classmethod
    def of(cls, given: Sequence[str], encoder: Encoder, *, background: bool = True) -> Negatives:
        """Encode the user's negatives and, by default, the background."""
        own = encoder.encode(given)
        if not background:
            return cls(tuple(given), own, len(given))
        key, texts = encoder.fingerprint, _background(getattr(encoder, "many_languages", False))
        if key not in _ENCODED:  # many small routers in one process share it
            _ENCODED[key] = encoder.encode(texts)
        return cls((*given, *texts), np.concatenate([own, _ENCODED[key]]), len(given))

    def also(self, given: Sequence[str], encoder: Encoder) -> Negatives:
        """Return these with more queries of the user's, each kept once."""
        known = set(self.texts[: self.n_given])
        fresh = [text for text in dict.fromkeys(given) if text not in known]
        n, own = self.n_given, encoder.encode(fresh)
        return Negatives(
            (*self.texts[:n], *fresh, *self.texts[n:]),
            np.concatenate([self.vectors[:n], own, self.vectors[n:]]),
            n + len(fresh),
        )

    def foreign_to(self, *agents: FloatArray) -> Negatives:
        """Return those given, and the background that is far from all these vectors (n, d)."""
        nearest = np.full(len(self.texts), -1.0, dtype=np.float32)
        for vectors in agents:
            if vectors.size:
                nearest = np.maximum(nearest, (self.vectors @ vectors.T).max(axis=1))
        keep: npt.NDArray[np.bool_] = nearest < _NEAR
        keep[: self.n_given] = True
        texts = tuple(text for text, kept in zip(self.texts, keep, strict=True) if kept)
        return Negatives(texts, self.vectors[keep], self.n_given)


_ENCODED: dict[str, FloatArray] = {}  # the background's vectors, by the encoder's fingerprint


@cache
def _background(many_languages: bool) -> tuple[str, ...]:
    """Return small talk and general questions, in English or in eighteen languages."""
    names = ["background.txt", "background_multilingual.txt"][: 1 + many_languages]
    folder = resources.files("moma_core").joinpath("packaged")
    texts = [folder.joinpath(name).read_text(encoding="utf-8") for name in names]
    return tuple(line for text in texts for line in text.splitlines())


ENOUGH_NEGATIVES = 20
"""Negatives of the user's from which their words are learnt."""


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """One linear column: positive logits for what is like the agents' examples.

    Args:
        dense: Shape (d,).
        lexical: Shape (N_FEATURES,).
        bias: Of the column.
        usual: Median logit of held-out examples; stands in where the column has nothing to say.
    """

    dense: FloatArray
    lexical: FloatArray
    bias: float
    usual: float = 0.0

    def logits(self, features: Features) -> FloatArray:
        """Return one logit a text, shape (n,)."""
        logits: FloatArray = features.dense @ self.dense + np.float32(self.bias)
        if features.dense.shape[0] == 1:  # the hot path, without a sparse product
            terms = features.lexical
            logits += np.float32(self.lexical[terms.indices] @ terms.data)
        else:
            logits += features.lexical @ self.lexical
        return logits

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything as plain arrays, for safetensors."""
        terms = np.flatnonzero(self.lexical)
        return {
            "scope_dense": self.dense,
            "scope_terms": terms.astype(np.int32),
            "scope_weights": self.lexical[terms],
            "scope_levels": np.array([self.bias, self.usual], dtype=np.float32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Scope | None:
        """Rebuild what `arrays` gave, or nothing where nothing was fitted."""
        if "scope_dense" not in arrays:
            return None
        lexical = np.zeros(N_FEATURES, dtype=np.float32)
        lexical[arrays["scope_terms"]] = arrays["scope_weights"]
        bias, usual = map(float, arrays["scope_levels"])
        return cls(arrays["scope_dense"], lexical, bias, usual)


def fit_scope(inside: Features, outside: Features) -> Scope:
    """Return the column of a logistic regression of examples (n) against negatives (m).

    It is `fit_columns` with one column and a rival whose logit stays 0.
    """
    from scipy.sparse import csr_matrix

    n, m, d = inside.dense.shape[0], outside.dense.shape[0], inside.dense.shape[1]
    nothing = Columns(
        np.zeros((1, d), dtype=np.float32),
        csr_matrix((1, N_FEATURES), dtype=np.float32),
        np.zeros(1, dtype=np.float32),
    )
    y = np.repeat(np.arange(2), [n, m])
    rival = np.zeros(n + m, dtype=np.float32)
    fitted = fit_columns(stack_features(inside, outside), y, nothing, rival)
    lexical = np.asarray(fitted.lexical.toarray(), dtype=np.float32)[0]
    return Scope(fitted.dense[0], lexical, float(fitted.bias[0]))


def cross_fit_scope(
    inside: Features,
    outside: Features,
    inside_folds: npt.NDArray[np.intp],
    outside_folds: npt.NDArray[np.intp],
) -> tuple[FloatArray, FloatArray]:
    """Return logits of examples (n,) and negatives (m,), each from the folds it is not in.

    Args:
        inside: n examples.
        outside: m negatives.
        inside_folds: Fold of each example, shape (n,).
        outside_folds: Fold of each negative, shape (m,).
    """
    in_scope = np.zeros(inside.dense.shape[0], dtype=np.float32)
    out_of_scope = np.zeros(outside.dense.shape[0], dtype=np.float32)
    for fold in np.union1d(inside_folds, outside_folds):
        held, kept = inside_folds == fold, outside_folds == fold
        column = fit_scope(inside.rows(np.flatnonzero(~held)), outside.rows(np.flatnonzero(~kept)))
        in_scope[held] = column.logits(inside.rows(np.flatnonzero(held)))
        out_of_scope[kept] = column.logits(outside.rows(np.flatnonzero(kept)))
    return in_scope, out_of_scope


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """What the gate sees of n queries: each array has shape (n,).

    Args:
        top: The best logit.
        log_share: Log share of the softmax that it holds.
        scope: Logit of being in scope; None where nothing was fitted to tell.
        cold: What `moma_core.agents.reranker.cold_start_features` saw, shape (n, 2): lead over
            the next agent, cosine; None where the curve does not ask for it.
    """

    top: FloatArray
    log_share: FloatArray
    scope: FloatArray | None = None
    cold: FloatArray | None = None

    def rows(self) -> npt.NDArray[np.float64]:
        """Return the three numbers side by side, shape (n, 3)."""
        scope = np.zeros_like(self.top) if self.scope is None else self.scope
        return np.column_stack([self.top, self.log_share, scope]).astype(np.float64)


def signals(logits: FloatArray) -> Signals:
    """Return the gate's view of logits (n, n_eligible), n_eligible >= 1."""
    top = logits.max(axis=1)
    return Signals(top, top - logsumexp(logits))


@dataclass(frozen=True, slots=True)
class Curve:
    """A logistic curve over what the gate sees.

    Args:
        top: Weight of the best logit.
        log_share: Weight of the best agent's log share of the softmax.
        intercept: Of the curve.
        scope: Weight of the logit of being in scope.
        lead: Weight of how far the best logit leads the next.
        cosine: Weight of the cosine of query and best agent's description.
    """

    top: float
    log_share: float
    intercept: float
    scope: float = 0.0
    lead: float = 0.0
    cosine: float = 0.0

    @property
    def uses_cold_features(self) -> bool:
        """Whether it weighs `Signals.cold`."""
        return any((self.lead, self.cosine))

    def probabilities(self, seen: Signals) -> npt.NDArray[np.float64]:
        """Return the curve's value for each of n queries, shape (n,)."""
        score = seen.rows() @ np.array([self.top, self.log_share, self.scope]) + self.intercept
        if seen.cold is not None:
            score += seen.cold @ np.array([self.lead, self.cosine])
        probabilities: npt.NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(score, -50, 50)))
        return probabilities


_COLD_CURVE = Curve(top=0.96, log_share=0.72, intercept=-1.39)
DESCRIPTIONS_CURVE = Curve(top=0.063, log_share=0.509, intercept=-1.913, lead=1.599, cosine=4.165)
"""Of agents known by their descriptions alone, looked at more closely; benchmarks/cold_gate.py."""

_RIGHT_CURVE = Curve(top=0.5, log_share=1.0, intercept=0.0)  # where few examples tell nothing else


@dataclass(frozen=True, slots=True)
class Gate:
    """Accepts an agent when its calibrated probability reaches a threshold.

    Args:
        fits: The probability that some agent fits.
        right: The probability that, if some agent fits, the best one is right; None where ``fits``
            says both.
        threshold: Least probability to accept.
        coverage: Share of held-out examples that the threshold accepts, when fitted.
        max_wrong_agent_rate: The promise that the threshold keeps, when one was asked for.

    The defaults hold for agents known by their descriptions alone (benchmarks/cold_gate.py).

    Example:
        >>> gate = Gate()
        >>> bool(gate.probabilities(signals(np.array([[9.0, 0.0]])))[0] > gate.threshold)
        True
    """

    fits: Curve = _COLD_CURVE
    right: Curve | None = None
    threshold: float = 0.5
    coverage: float | None = None
    max_wrong_agent_rate: float | None = None

    def probabilities(self, seen: Signals) -> npt.NDArray[np.float64]:
        """Return the probability that the best of the eligible agents is right, shape (n,)."""
        fits = self.fits.probabilities(seen)
        return fits if self.right is None else fits * self.right.probabilities(seen)

    def to_dict(self) -> dict[str, Any]:
        """Return a plain form for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Gate:
        """Rebuild what `to_dict` gave."""
        curves = {key: plain[key] and Curve(**plain[key]) for key in ("fits", "right")}
        return cls(**{**plain, **curves})


_COLD = Gate()


def fit_gate(
    held_out: Signals,
    right: npt.NDArray[np.bool_],
    without_owner: Signals,
    negatives: Signals,
    *,
    n_given: int = 0,
    max_wrong_agent_rate: float | None = None,
) -> Gate:
    """Return a gate fitted on examples that the ranker had not seen.

    Args:
        held_out: Of n examples, all agents eligible.
        right: Whether the best agent was the wanted one, shape (n,).
        without_owner: Of the same examples, the wanted agent not eligible.
        negatives: Of m queries that no agent should take; m may be 0.
        n_given: How many of those are the user's own, which come first.
        max_wrong_agent_rate: Promise to keep on examples and the user's negatives together
            (`conformal_threshold`); None balances what is kept with what is caught.
    """
    n = right.size
    fitted = Gate(
        fits=_fits(held_out, without_owner, negatives),
        right=_fit_curve(held_out.rows()[:, :2], right, np.ones(n), _RIGHT_CURVE),
    )
    in_scope, out_of_scope = fitted.probabilities(held_out), fitted.probabilities(negatives)
    if max_wrong_agent_rate is not None:
        probabilities = np.concatenate([in_scope, out_of_scope[:n_given]])
        correct = np.concatenate([right, np.zeros(n_given, dtype=bool)])
        threshold = conformal_threshold(probabilities, correct, max_wrong_agent_rate)
    else:
        threshold = _threshold(
            in_scope, right, out_of_scope if n_given >= _ENOUGH_NEGATIVES else None
        )
    threshold = min(max(threshold, _CERTAIN), 1.0 - _CERTAIN)
    coverage = float((in_scope >= threshold).mean()) if n else None
    return Gate(fitted.fits, fitted.right, threshold, coverage, max_wrong_agent_rate)


_NONE_FITS = 0.4  # queries for which no agent fits, for each one that some agent should take
_ENOUGH_NEGATIVES = 20  # as many count as much as the made-up ones; the user's set the threshold
_CERTAIN = 1e-6  # probabilities this near to 0 or 1 are rounding
_NOISE = 0.7  # standard errors of the sum that a lower threshold may cost
_SURE = 0.6  # threshold without so many negatives of the user's; benchmarks/few_examples.py
_KEEP = 0.8  # share of right examples that it keeps whatever their probabilities


def _fits(held_out: Signals, without_owner: Signals, negatives: Signals) -> Curve:
    """Return the curve that tells examples from what no agent should take."""
    n, m = held_out.top.size, negatives.top.size
    rows = np.concatenate([held_out.rows(), without_owner.rows(), negatives.rows()])
    labels = np.repeat([True, False], [n, n + m])
    real = m / (m + _ENOUGH_NEGATIVES)
    made_up = np.full(n, _NONE_FITS * (1.0 - real))
    out_of_scope = np.full(m, _NONE_FITS * real * n / max(m, 1))
    return _fit_curve(
        rows, labels, np.concatenate([np.ones(n), made_up, out_of_scope]), _COLD_CURVE
    )


def _fit_curve(
    rows: npt.NDArray[np.float64],
    labels: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.float64],
    near: Curve,
) -> Curve:
    """Minimise the weighted logistic loss, held near a curve so that few rows cannot run.

    Args:
        rows: Best logits, log probabilities, perhaps logits of being in scope, shape (n, 2 or 3).
        labels: Shape (n,).
        weights: Shape (n,).
        near: What no row at all would give.
    """
    from scipy.optimize import minimize

    count = rows.shape[1]
    design = np.column_stack([rows, np.ones(len(rows))])
    prior = np.array([*[near.top, near.log_share, near.scope][:count], near.intercept])
    signs = np.where(labels, 1.0, -1.0)

    def loss(theta: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        margins = signs * (design @ theta)
        value = float((weights * np.logaddexp(0.0, -margins)).sum())
        grad = -weights * signs / (1.0 + np.exp(np.clip(margins, -50, 50)))
        away = theta - prior
        return value + 0.5 * float(away @ away), design.T @ grad + away

    bounds = [*[(0.0, None)] * count, (None, None)]  # a higher logit never lowers the probability
    *found, intercept = map(float, minimize(loss, prior, jac=True, bounds=bounds).x)
    return Curve(found[0], found[1], intercept, *found[2:])


def _threshold(
    probabilities: npt.NDArray[np.float64],
    right: npt.NDArray[np.bool_],
    negatives: npt.NDArray[np.float64] | None,
) -> float:
    """Return the least probability to accept.

    Without negatives of the user's nothing tells how near an out-of-scope query may come: the
    threshold is fixed, lower only where the examples' probabilities are low as a whole.
    With them: the largest sum of (examples kept and right) and (negatives caught) or rather, after
    the one-standard-error rule, the lowest threshold that is no worse within part of the noise of
    so few examples and negatives: users' words stray further than examples do.

    Args:
        probabilities: Of n examples, shape (n,).
        right: Whether the best agent was the wanted one, shape (n,).
        negatives: Chances of m queries that no agent should take, background included, shape (m,);
            None where the user gave too few.
    """
    kept = np.sort(probabilities[right])
    if kept.size == 0:
        return _COLD.threshold
    if negatives is None:
        return min(_SURE, float(np.quantile(kept, 1.0 - _KEEP)))
    cuts = np.unique(np.concatenate([kept, negatives]))
    keeps = (kept.size - np.searchsorted(kept, cuts)) / right.size
    catches = np.searchsorted(np.sort(negatives), cuts) / negatives.size
    total = keeps + catches
    best = int(np.argmax(total))
    spread = _NOISE * np.sqrt(
        catches[best] * (1.0 - catches[best]) / negatives.size
        + keeps[best] * (1.0 - keeps[best]) / right.size
    )
    first = int(np.flatnonzero(total >= total[best] - max(spread, 1.0 / negatives.size))[0])
    return float((cuts[max(first - 1, 0)] + cuts[first]) / 2)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What speaks for the best agent of n queries where few of its examples are known.

    Every array has shape (n,). How near queries come to cards differs from catalog to catalog, so
    cosines count from the catalog's own level: the median over the packaged queries, which no agent
    should take, of their largest cosine with any card or example.

    Args:
        above: Largest cosine of the query with a card or example, less the catalog's level.
        foreign: Largest cosine with a query that no agent should take, less that with any agent.
        cosine_lead: Cosine of the best agent, less the largest of the others'.
        log_share: Log share that the best agent holds of its shortlist; at least -5.
        lead: How far its logit, the reranker's say included, leads the next one's; at most 3.
        read_lead: The reranker's logit of the best agent, less the largest of the others'.
        read: The reranker's logit of the best agent.
        refused: The reranker's logit of the best agent where it is below 0, times ``above`` where
            that is above 0: near and refused is quoted or declined, far and refused is only far.
        general: Log-odds that the query asks for what any LLM does, less that of the best agent's
            own description and examples; at least 0.
        negative: How much the query is one that no agent should take: 0 at a cosine of .85 to 1 at
            .95, where no card or example is nearer.
    """

    above: FloatArray
    foreign: FloatArray
    cosine_lead: FloatArray
    log_share: FloatArray
    lead: FloatArray
    read_lead: FloatArray
    read: FloatArray
    refused: FloatArray
    general: FloatArray
    negative: FloatArray


# Logistic regressions over sub-catalogs of 2 to 199 agents of MetaTool, CLINC150, banking50 (train
# rows), Seal-Tools, lobe and twelve query engines, judged with one of them left out, fitted on all;
# the last number is the intercept (benchmarks/fit_cold_gate.py).
@dataclass(frozen=True, slots=True)
class _Cold:
    near: tuple[float, ...]  # above, foreign: what other queries leave unsaid
    meant: tuple[float, ...]  # refused, general: what is only quoted, refused or talked about
    right: tuple[float, ...]  # the five of the best agent
    holds: tuple[float, float]  # slope and intercept over the log-odds of near and meant (Platt)


_READ_ALONG = _Cold(
    near=(5.534, -4.075, -0.353),
    meant=(1.685, -1.885, 3.059),
    right=(2.822, 1.685, 0.352, 0.101, 0.128, 3.346),
    holds=(1.478, 0.611),
)
# Where no reranker reads along: the mean of those of the plain MiniLM and the multilingual encoder;
# by words alone, whether it is meant is the same with every encoder.
_UNREAD = _Cold(
    near=(5.575, -4.238, -0.037),
    meant=(0.0, -2.194, 2.508),
    right=(3.358, 1.721, 0.627, 0.0, 0.0, 3.544),
    holds=(1.33, 0.592),
)
COLD_THRESHOLD = 0.38
"""Least probability to accept an agent of which little is known; benchmarks/fit_cold_gate.py."""


@dataclass(frozen=True, slots=True, eq=False)
class ColdView:
    """What holds for all catalogs, of n queries; each array has shape (n,).

    Args:
        near: Probability that the query is near enough to what some agent does; 0 for what no agent
            should take.
        meant: Probability that it means what it is near to, rather than to quote or refuse it.
        right: Probability that the best agent is the right one, if any is.
        holds: Slope and intercept under which the log-odds of being near and meant hold, (n, 2).
    """

    near: npt.NDArray[np.float64]
    meant: npt.NDArray[np.float64]
    right: npt.NDArray[np.float64]
    holds: npt.NDArray[np.float64]

    @property
    def correction(self) -> npt.NDArray[np.float64]:
        """By how much log-odds of being near and meant are too low, shape (n,)."""
        odds = _log_odds(self.near * self.meant)
        return (self.holds[:, 0] - 1.0) * odds + self.holds[:, 1]

    @classmethod
    def of(cls, seen: Evidence, read: npt.NDArray[np.bool_]) -> ColdView:
        """Return what one set of curves for all catalogs says.

        Args:
            seen: What speaks for the best agents.
            read: Whether a reranker read the query, shape (n,).
        """
        best = [seen.cosine_lead, seen.log_share, seen.lead, seen.read_lead, seen.read]
        near, meant, right = (
            _logistic(columns, np.where(read[:, None], along, unread))
            for columns, along, unread in (
                ([seen.above, seen.foreign], _READ_ALONG.near, _UNREAD.near),
                ([seen.refused, seen.general], _READ_ALONG.meant, _UNREAD.meant),
                (best, _READ_ALONG.right, _UNREAD.right),
            )
        )
        holds = np.where(read[:, None], _READ_ALONG.holds, _UNREAD.holds)
        return cls(near * (1.0 - seen.negative), meant, right, holds)


_MANY_EXAMPLES = 100.0  # held out, at which a catalog's own gate counts as much as all others'
_UNTOLD = 0.25  # share in nearness of what holds for all, where the user gave no negatives
_MORE_ASKED = 0.54  # of the probability, as examples grow
_UNCORRECTED, _MORE_UNCORRECTED = 0.3, 0.42  # the same without `ColdView.correction`, up to `_SURE`


def with_cold_view(
    gate: Gate,
    seen: Signals,
    cold: ColdView,
    share: FloatArray,
    known: tuple[int, int],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return a gate's probabilities beside what holds for all catalogs, and thresholds, (n,) each.

    The gate was fitted to a catalog's own examples and knows best who is right among them; of what
    is foreign it knows no more than the user's negatives tell. So its say grows with examples for
    the one, and with negatives as well for the other.

    Args:
        gate: The catalog's own.
        seen: What it sees of n queries.
        cold: What holds for all.
        share: How few examples are known of the best agents, from 1 (none) to 0, shape (n,).
        known: Examples held out to fit the gate, and negatives that the user gave.

    Returns:
        The probability that the best agent is right, that some agent fits, least to accept.
    """
    n, n_given = known if gate.coverage is not None else (0, 0)
    told = n_given / (n_given + ENOUGH_NEGATIVES)
    trust = np.where(share > 0, 1.0 / (1.0 + n / _MANY_EXAMPLES), 0.0)
    near_trust = np.maximum(trust, _UNTOLD * (1.0 - told))
    own_right = np.ones(len(trust)) if gate.right is None else gate.right.probabilities(seen)
    near = blended(cold.near, gate.fits.probabilities(seen), near_trust)
    held = trust * share
    fits = near * cold.meant ** np.maximum(trust, 1.0 - told)
    fits = _raised(fits, held * cold.correction)
    right = blended(cold.right, own_right, trust)
    fewer = 1.0 - share
    least = held * (COLD_THRESHOLD + _MORE_ASKED * fewer)
    least += (1.0 - held) * np.minimum(_UNCORRECTED + _MORE_UNCORRECTED * fewer, _SURE)
    common = np.maximum(trust, 1.0 - told)
    return fits * right, fits, common * least + (1.0 - common) * gate.threshold


def _raised(
    probabilities: npt.NDArray[np.float64], by: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return n probabilities whose log-odds are raised; 0 stays 0."""
    return np.where(probabilities > 0.0, _of_log_odds(_log_odds(probabilities) + by), 0.0)


def _of_log_odds(odds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    probabilities: npt.NDArray[np.float64] = 1.0 / (1.0 + np.exp(-odds))
    return probabilities


def _log_odds(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    p = np.clip(probabilities, 1e-6, 1 - 1e-6)
    odds: npt.NDArray[np.float64] = np.log(p / (1.0 - p))
    return odds


def _logistic(
    columns: Sequence[FloatArray], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return values of logistic curves of m columns (n,) by weights (n, m + 1)."""
    score = (np.array(columns).T * weights[:, :-1]).sum(axis=1) + weights[:, -1]
    return _of_log_odds(np.clip(score, -50, 50))


def blended(
    cold: npt.NDArray[np.float64], fitted: npt.NDArray[np.float64], share: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return probabilities whose log-odds lie between two, ``share`` of them the cold one's, (n,).

    Example:
        >>> blended(np.array([0.2]), np.array([0.8]), np.array([0.5])).round(2).tolist()
        [0.5]
    """
    return _of_log_odds(share * _log_odds(cold) + (1.0 - share) * _log_odds(fitted))
