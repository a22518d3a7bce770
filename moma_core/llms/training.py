"""From scored queries to an `LLMRouter` (4.1.3) or a `CascadeRouter`.

Fits the heads, learns their blend, fits the costs; for a cascade also the hidden difficulty.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._numerics import find_centres, nearest, sigmoid
from moma_core.errors import InvalidDataError, InvalidInputError
from moma_core.llms.cascade import RATES, CascadeRouter, replay
from moma_core.llms.cascade_planner import SharedDifficulty
from moma_core.llms.costs import LONGEST, FittedCosts, count_tokens, indicative_price
from moma_core.llms.data import LLMDataset
from moma_core.llms.features import QueryFeatures
from moma_core.llms.heads import FEW, STACKED, TasksConfig, fit_head, head_choices
from moma_core.llms.heads.contract import Head
from moma_core.llms.heads.stack import StackedHead, fit_weights
from moma_core.llms.router import LLMRouter
from moma_core.llms.selection import POINTS, choose, choose_at_rate
from moma_core.protocols import Encoder, Progress
from moma_core.types import Auto, FloatArray, LLMCard, Performance, did_you_mean

__all__ = [
    "FOLDS",
    "MAX_DEPTH",
    "MAX_SHORTLIST",
    "MIN_QUERIES",
    "Trained",
    "abilities",
    "check_answers",
    "fill_costs",
    "fill_scores",
    "fit_margin",
    "fit_min_gain",
    "fit_points",
    "train",
    "train_cascade",
    "train_pool",
]

_Array = npt.NDArray[np.float64]
_EASE_PRIOR = 0.3
_ABILITY_PRIOR = 0.1
_NEARBY_PRIOR = 20.0


def abilities(scores: _Array, rounds: int = 40) -> tuple[_Array, _Array]:
    """Return each query's ease (n,) and each LLM's ability (m,), both in logits.

    Maximum posterior of ``score = sigmoid(ease + ability)`` over measured entries, with normal
    priors around zero and the mean ability, by alternating Newton steps.

    Args:
        scores: In [0, 1], NaN where not measured, shape (n, m).
        rounds: Alternations.
    """
    known = ~np.isnan(scores)
    target = np.where(known, scores, 0.0)
    ease, ability = np.zeros(len(scores)), np.zeros(scores.shape[1])
    for _ in range(rounds):
        for axis in (1, 0):
            probability = sigmoid(ease[:, None] + ability)
            grad = ((target - probability) * known).sum(axis=axis)
            curve = (probability * (1.0 - probability) * known).sum(axis=axis)
            if axis:
                ease += np.clip((grad - _EASE_PRIOR * ease) / (curve + _EASE_PRIOR), -2.0, 2.0)
            else:
                residual = _ABILITY_PRIOR * (ability - ability.mean())
                ability += np.clip((grad - residual) / (curve + _ABILITY_PRIOR), -2.0, 2.0)
    return ease, ability


def fill_scores(scores: _Array, inputs: FloatArray, seed: int = 0, regions: int = 64) -> _Array:
    """Return scores without NaN, shape (n, m).

    Args:
        scores: In [0, 1], NaN where not measured, shape (n, m).
        inputs: Query inputs, shape (n, d).
        seed: Of the regions' centres.
        regions: Regions in which a measured deviation carries over to its neighbours.
    """
    known = ~np.isnan(scores)
    if known.all():
        return scores
    ease, ability = abilities(scores)
    expected = sigmoid(ease[:, None] + ability)
    points = inputs.astype(np.float64)
    centres = find_centres(
        points, max(1, min(regions, len(points) // 20)), np.random.default_rng(seed)
    )
    owner = nearest(points, centres)
    surplus, seen = (
        np.zeros((len(centres), scores.shape[1])),
        np.zeros((len(centres), scores.shape[1])),
    )
    np.add.at(surplus, owner, np.where(known, scores - expected, 0.0))
    np.add.at(seen, owner, known.astype(np.float64))
    shared = surplus.sum(axis=1, keepdims=True) / (seen.sum(axis=1, keepdims=True) + _NEARBY_PRIOR)
    nearby = ((surplus + _NEARBY_PRIOR * shared) / (seen + _NEARBY_PRIOR))[owner]
    return np.where(known, scores, np.clip(expected + nearby, 0.0, 1.0))


def fill_costs(costs: _Array, rounds: int = 20) -> _Array:
    """Return costs without NaN: what the query costs others times the LLM's usual ratio to them.

    Two-way additive fit of log cost over measured entries; an LLM free everywhere stays free.

    Args:
        costs: USD, NaN where not measured, shape (n, m).
        rounds: Alternations of the fit.
    """
    known = ~np.isnan(costs)
    if known.all():
        return costs
    priced = known & (costs > 0.0)
    logs = np.log(np.where(priced, costs, 1.0))
    query, llm = np.zeros(len(costs)), np.zeros(costs.shape[1])
    for _ in range(rounds):
        query = _masked_mean(logs - llm, priced, axis=1)
        llm = _masked_mean(logs - query[:, None], priced, axis=0)
    expected = np.where(priced.any(axis=0), np.exp(query[:, None] + llm), 0.0)
    return np.where(known, costs, expected)


def _masked_mean(values: _Array, known: npt.NDArray[np.bool_], axis: int) -> _Array:
    total = np.where(known, values, 0.0).sum(axis=axis)
    mean: _Array = total / np.maximum(known.sum(axis=axis), 1)
    return mean


FOLDS = 4
MIN_QUERIES = 8
_MIN_GAINS = (0.002, 0.004, 0.006, 0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05)
"""Score that must be gained for what the best single LLM costs on average; as `RATES` of cascades.
"""
_POINTS = (0.0025, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.0175, POINTS)
"""Score that halving the cost may be worth."""
_MARGINS = (0.0, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2, 1.0)
"""Predicted leads over the best single LLM below which it is asked; 1: always."""
_TOLERATED, _DOUBTED = 0.005, 1.5
"""Score that `Auto` may lose, and standard errors by which `Performance` must gain."""
_MIN_GAIN_QUERIES, _MIN_POINTS_QUERIES = 300, 100
_MEASURABLE, _SIGNIFICANT = 0.003, 1.645


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A router with what training learnt on the way; rows are in the order of ``data``.

    Args:
        router: The result.
        data: The dataset, in its own order of rows and LLMs.
        held_out: Quality predicted by heads that did not see the query, shape (n, m).
        expected: USD predicted by a fit that did not see the query, shape (n, m).
        costs: Measured USD, filled in where unknown, shape (n, m).
    """

    router: LLMRouter
    data: LLMDataset
    held_out: _Array
    expected: _Array
    costs: _Array


def train(
    dataset: LLMDataset,
    encoder: Encoder,
    *,
    head: str = "auto",
    seed: int = 0,
    prices: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    vectors: FloatArray | None = None,
    notes: Mapping[str, Any] | None = None,
    completed: _Array | None = None,
) -> LLMRouter:
    """Train a router for the dataset's pool of LLMs.

    Every row given is used, whatever its ``split``; filter with `LLMDataset.only` first. Scores
    that are missing are filled as `completion` says and never count as zero. The router lists its
    LLMs by name.

    Args:
        dataset: Scored queries, at least 8.
        encoder: Turns queries into vectors; the router remembers its fingerprint.
        head: ``"auto"`` (a blend of `STACKED`, its weights learnt by cross-validation) or one kind.
        seed: Of every random choice.
        prices: USD per million tokens by LLM, as ``{name: [input, output]}`` or one number; where
            absent, an indicative price is derived from the costs.
        progress: Called after each step.
        vectors: The queries' vectors when already encoded, shape (n, d), in the dataset's order.
        notes: JSON-like facts to keep in the checkpoint (sources, licences).
        completed: The scores without a gap, shape (n, m), in the dataset's order: what is taken
            where none was measured. None: `fill_scores`.

    Returns:
        The router; its ``metadata`` holds seed, data fingerprint and held-out error.

    Raises:
        InvalidInputError: No such head.
        InvalidDataError: Too few queries, or vectors of another length.
    """
    return train_pool(
        dataset,
        encoder,
        head=head,
        seed=seed,
        prices=prices,
        progress=progress,
        vectors=vectors,
        notes=notes,
        completed=completed,
    ).router


def train_pool(
    dataset: LLMDataset,
    encoder: Encoder,
    *,
    head: str = "auto",
    seed: int = 0,
    prices: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    vectors: FloatArray | None = None,
    notes: Mapping[str, Any] | None = None,
    completed: _Array | None = None,
) -> Trained:
    """Train as `train` does and keep the held-out predictions too; same arguments and errors."""
    _check(dataset, head, vectors, encoder.dimension)
    report = progress or (lambda *_: None)
    kinds = _kinds(head, dataset)
    total = 3 + (FOLDS + 1) * len(kinds)
    order = dataset.order()
    data = dataset.take(order).pool(sorted(dataset.llms))
    vectors = encoder.encode(data.queries) if vectors is None else vectors[order]
    report("encode", 1, total)
    features = QueryFeatures.fit(data.queries)
    inputs = features.join(data.queries, vectors)
    scores = data.scores if completed is None else completed[order][:, np.argsort(dataset.llms)]
    scores, spent = fill_scores(scores, inputs, seed), fill_costs(data.costs)
    llms = tuple(_card(data, name, prices or {}) for name in data.llms)
    costs, expected = _costs(data.queries, inputs, spent), _expected(inputs, spent, seed)
    members = _cross_fitted(kinds, data, inputs, scores, llms, seed, report)
    fitted, errors, held_out = _fit(members, data.scores, expected, spent)
    single = _best_single(llms, scores, spent)
    min_gain, points, margin = _learnt(
        held_out, expected, data.scores, spent, data.llms.index(single)
    )
    report("costs", total, total)
    router = LLMRouter(
        head=fitted,
        costs=costs,
        features=features,
        encoder_fingerprint=encoder.fingerprint,
        dimension=encoder.dimension,
        best_single=single,
        min_gain_per_usd=min_gain,
        points=points,
        margin=margin,
        metadata={**_facts(dataset, seed), "held_out_squared_error": errors, **(notes or {})},
    )
    return Trained(router, data, held_out, expected, spent)


def _costs(queries: Sequence[str], inputs: FloatArray, spent: _Array) -> FittedCosts:
    longest = max(LONGEST, *(float(count_tokens(text)) for text in queries))
    return FittedCosts.fit(inputs, spent, longest=longest)


def _learnt(
    held_out: _Array, expected: _Array, scores: _Array, spent: _Array, single: int
) -> tuple[float, float, float]:
    """Return gain per USD, points and margin, learnt from queries that the head did not see."""
    min_gain = fit_min_gain(held_out, expected, scores, spent[:, single].mean())
    points = fit_points(held_out, expected, scores, single)
    return min_gain, points, fit_margin(held_out, expected, scores, single, min_gain)


def fit_min_gain(predicted: _Array, expected: _Array, scores: _Array, unit: float) -> float:
    """Return below what score a USD predicted differences are noise, for `Performance`.

    The largest of a ladder of rates whose choices, on queries that the head did not see, score not
    significantly less than those of the best prediction alone (one-sided, 5 %: 1.645 standard
    errors). The error must be at most 0.003, and 300 queries scored by every LLM, else zero: on
    less data a loss would go unnoticed.

    Args:
        predicted: Quality predicted by heads that did not see the query, shape (n, m).
        expected: USD, predicted likewise, shape (n, m).
        scores: Measured quality, NaN where unknown, shape (n, m).
        unit: USD that the ladder refers to: the mean cost of the best single LLM.
    """
    rows = np.flatnonzero(~np.isnan(scores).any(axis=1))
    if len(rows) < _MIN_GAIN_QUERIES or unit <= 0:
        return 0.0
    predicted, expected = predicted[rows], expected[rows]
    best = scores[rows, choose_at_rate(expected, predicted, 0.0)]
    for rate in reversed(_MIN_GAINS):
        change = scores[rows, choose_at_rate(expected, predicted, rate / unit)] - best
        noise = float(change.std()) / np.sqrt(len(rows))
        if noise <= _MEASURABLE and float(change.mean()) >= -_SIGNIFICANT * noise:
            return float(rate / unit)
    return 0.0


def fit_margin(
    predicted: _Array, expected: _Array, scores: _Array, single: int, min_gain_per_usd: float = 0.0
) -> float:
    """Return the lead over the best single LLM that another one must have under `Performance`.

    The margin of a ladder whose choices, on queries that the head did not see, gain most over the
    best single LLM less 1.5 standard errors of the gain; where none gains that much, 1: that LLM is
    asked always. Ties go to the smaller margin.

    Args:
        predicted: Quality predicted by heads that did not see the query, shape (n, m).
        expected: USD, predicted likewise, shape (n, m).
        scores: Measured quality, NaN where unknown, shape (n, m).
        single: Column of the best single LLM.
        min_gain_per_usd: As `fit_min_gain` found.
    """
    rows = np.flatnonzero(~np.isnan(scores).any(axis=1))
    if not len(rows):
        return 0.0
    predicted, expected, best = predicted[rows], expected[rows], _MARGINS[-1]
    most = 0.0
    for margin in reversed(_MARGINS):
        picks = choose(
            expected, predicted, Performance(), single,
            min_gain_per_usd=min_gain_per_usd, margin=margin,
        )  # fmt: skip
        lead = scores[rows, picks] - scores[rows, single]
        sure = float(lead.mean() - _DOUBTED * lead.std() / np.sqrt(len(rows)))
        if sure >= most - 1e-12:
            best, most = margin, max(sure, most)
    return best


def fit_points(predicted: _Array, expected: _Array, scores: _Array, single: int) -> float:
    """Return the score that halving the cost is worth under `Auto`.

    `POINTS`, or what of a ladder below it is the largest at which queries that the head did not see
    lose at most 0.005 to the best single LLM; the smallest where none does. Fewer than 100 queries
    scored by every LLM tell nothing: `POINTS`.

    Args:
        predicted: Quality predicted by heads that did not see the query, shape (n, m).
        expected: USD, predicted likewise, shape (n, m).
        scores: Measured quality, NaN where unknown, shape (n, m).
        single: Column of the best single LLM.
    """
    rows = np.flatnonzero(~np.isnan(scores).any(axis=1))
    if len(rows) < _MIN_POINTS_QUERIES:
        return POINTS
    predicted, expected = predicted[rows], expected[rows]
    for points in reversed(_POINTS):
        picks = choose(expected, predicted, Auto(points))
        lead = scores[rows, picks] - scores[rows, single]
        if float(lead.mean()) >= -_TOLERATED:
            return points
    return _POINTS[0]


def _expected(inputs: FloatArray, spent: _Array, seed: int) -> _Array:
    """Return cross-fitted USD, shape (n, m)."""
    folds, expected = _folds(len(inputs), seed), np.zeros(spent.shape)
    for fold in range(FOLDS):
        seen = folds != fold
        part = FittedCosts.fit(inputs[seen], spent[seen])
        expected[~seen] = part.predict((), inputs[~seen])
    return expected


def _folds(n: int, seed: int) -> npt.NDArray[np.intp]:
    folds: npt.NDArray[np.intp] = np.random.default_rng(seed).permutation(n) % FOLDS
    return folds


def _facts(dataset: LLMDataset, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "queries": len(dataset),
        "data_sha256": dataset.fingerprint(),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _check(dataset: LLMDataset, head: str, vectors: FloatArray | None, dimension: int) -> None:
    if head not in head_choices():
        raise InvalidInputError(
            f"unknown head {head!r}. {did_you_mean(head, head_choices())}"
            f"Choose one of {', '.join(head_choices())}."
        )
    dataset.check_measured()
    if len(dataset) < MIN_QUERIES:
        raise InvalidDataError(
            f"{len(dataset)} scored queries are too few to train on; give at least {MIN_QUERIES}, "
            "better some hundreds."
        )
    if vectors is not None and vectors.shape != (len(dataset), dimension):
        raise InvalidDataError(
            f"expected vectors of shape {(len(dataset), dimension)}, got {vectors.shape}."
        )


def _kinds(head: str, dataset: LLMDataset) -> tuple[str, ...]:
    if head != "auto":
        return (head,)
    kinds = (*STACKED, "neighbours") if len(dataset) <= FEW else STACKED
    return (*kinds, "tasks") if len(set(dataset.tasks)) > 1 else kinds


@dataclass(frozen=True, slots=True, eq=False)
class _Members:
    """Heads fitted on all rows, what they predict of rows they did not see, and the true scores."""

    kinds: tuple[str, ...]
    heads: tuple[Head, ...]
    held_out: _Array  # (h, n, m)
    scores: _Array  # (n, m), complete


def _cross_fitted(
    kinds: tuple[str, ...],
    data: LLMDataset,
    inputs: FloatArray,
    scores: _Array,
    llms: tuple[LLMCard, ...],
    seed: int,
    report: Progress,
) -> _Members:
    """Fit each kind on all rows, and on all but each of `FOLDS` folds in turn."""
    folds, total = _folds(len(inputs), seed), 3 + (FOLDS + 1) * len(kinds)
    held_out, done = np.zeros((len(kinds), *scores.shape)), 1
    tasks = np.array(data.tasks or [""] * len(data))

    def fit(kind: str, rows: npt.NDArray[np.bool_]) -> Head:
        config = TasksConfig(tuple(tasks[rows].tolist())) if kind == "tasks" else None
        return fit_head(kind, inputs[rows], scores[rows], llms, seed, config)

    for fold in range(FOLDS):
        for position, kind in enumerate(kinds):
            part, unseen = fit(kind, folds != fold), folds == fold
            held_out[position, unseen] = part.predict(inputs[unseen])
            done += 1
            report(f"cross-validate {kind}", done, total)
    heads = []
    for kind in kinds:
        heads.append(fit(kind, np.ones(len(inputs), bool)))
        done += 1
        report(f"fit {kind}", done, total)
    return _Members(kinds, tuple(heads), held_out, scores)


def _fit(
    members: _Members, measured: _Array, expected: _Array, spent: _Array
) -> tuple[Head, dict[str, float], _Array]:
    """Return the head, the held-out error of each member, and what the head predicts held out.

    ``tasks`` is blended in where queries are then routed better.
    """
    observed, scores = ~np.isnan(measured), members.scores
    errors = {
        kind: _error(own, scores, observed)
        for kind, own in zip(members.kinds, members.held_out, strict=True)
    }
    if len(members.kinds) == 1:
        return members.heads[0], errors, members.held_out[0]
    sizes = sorted({len([kind for kind in members.kinds if kind != "tasks"]), len(members.kinds)})
    weights = [fit_weights(members.held_out[:n], scores, observed) for n in sizes]
    blends = [w.blend(members.held_out[:n]) for w, n in zip(weights, sizes, strict=True)]
    earned = [_routed(blend, expected, measured, spent) for blend in blends]
    best = int(np.argmax([each.mean() if len(each) else 0.0 for each in earned]))
    errors["stack"] = _error(blends[best], scores, observed)
    heads = members.heads[: sizes[best]]
    return StackedHead.of(heads, weights[best]), errors, blends[best]


def _routed(predicted: _Array, expected: _Array, scores: _Array, spent: _Array) -> _Array:
    """Return measured score - rate * cost of routed queries, mean over `RATES`, shape (n,)."""
    rows = np.flatnonzero(~np.isnan(scores).any(axis=1))
    predicted, expected = predicted[rows], expected[rows]
    unit = max(float(spent[:, np.nanmean(scores, axis=0).argmax()].mean()), 1e-12)
    earned = np.zeros(len(rows))
    for rate in RATES:
        picks = choose_at_rate(expected, predicted, rate / unit)
        earned += scores[rows, picks] - rate * spent[rows, picks] / unit
    return earned / len(RATES)


def _error(predicted: _Array, scores: _Array, observed: npt.NDArray[np.bool_]) -> float:
    return round(float(((predicted - scores)[observed] ** 2).mean()), 5)


def _best_single(llms: tuple[LLMCard, ...], scores: _Array, costs: _Array) -> str:
    means = scores.mean(axis=0)
    return llms[int(np.lexsort((costs.mean(axis=0), -means))[0])].name


def _card(data: LLMDataset, name: str, prices: Mapping[str, Any]) -> LLMCard:
    if name not in prices:
        price = indicative_price(data.queries, data.costs[:, data.llms.index(name)])
        return LLMCard(name, price, price, metadata={"price": "indicative"})
    given = prices[name]
    try:
        read, write = given if isinstance(given, list | tuple) else (given, given)
        return LLMCard(name, float(read), float(write))
    except (TypeError, ValueError) as error:
        raise InvalidDataError(
            f"the price of LLM {name!r} must be USD per million tokens, a number or [input, "
            f"output], got {given!r}."
        ) from error


MAX_DEPTH = 4
MAX_SHORTLIST = 5
_JUDGED = 300
_REPLAYED = 20_000
_TRIED, _NOISE = 3, 2.0
_PAYS = 1.0
"""Standard errors by which cascades must beat one call; `_NOISE` guards the best of several."""
_TOLERANCE = 0.02
_WEAKEST = 0.6
_CHEAP = 0.3
_WITNESS = 0.55
_JUDGED_RATES = (2, 4, 6, 8)
"""Columns of `RATES` at which shortlists are compared."""
_REPLAYED_RATES = range(1, 11)
"""Columns of `RATES` at which plans are replayed: all but the ends, since few rates are noisy."""


def train_cascade(
    dataset: LLMDataset,
    encoder: Encoder,
    *,
    head: str = "auto",
    seed: int = 0,
    prices: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    vectors: FloatArray | None = None,
    depth: int = MAX_DEPTH,
) -> CascadeRouter:
    """Train a router that plans cascades for the dataset's pool of LLMs.

    Args:
        dataset: Scored queries with answers (columns ``answer|<llm>``).
        encoder: Turns queries into vectors.
        head: As for `training.train`.
        seed: Of every random choice.
        prices: As for `training.train`.
        progress: Called after each step.
        vectors: The queries' vectors when already encoded, shape (n, d).
        depth: Most calls of a plan, 1 to 4; 1 is a plain choice.

    Returns:
        The router; its ``metadata["held_out_gain"]`` is the mean and standard error of what
        cascades earn over one call on queries that the head did not see (score - rate * cost, mean
        of rates). Where the mean is not above the error, it has ``depth`` 1 and all LLMs.

    Raises:
        InvalidInputError: No such head, or a depth out of bounds.
        InvalidDataError: The table has no answers, or too few queries.
    """
    if not 1 <= depth <= MAX_DEPTH:
        raise InvalidInputError(f"a cascade asks 1 to {MAX_DEPTH} LLMs, got depth={depth!r}.")
    check_answers(dataset)
    trained = train_pool(
        dataset, encoder, head=head, seed=seed, prices=prices, progress=progress, vectors=vectors
    )
    answers = trained.data.answers
    assert answers is not None  # noqa: S101 - checked above
    difficulty = SharedDifficulty.fit(
        trained.held_out, trained.expected, trained.data.scores, trained.costs, answers
    )
    names = trained.router.names
    single = names.index(trained.router.best_single)
    unit = float(trained.costs[:, single].mean())
    facts = {"strategy": "cascade", "seed": seed, "rates": list(RATES)}
    everyone = tuple(names[llm] for llm in _by_cost(range(len(names)), trained.costs.mean(axis=0)))
    once = CascadeRouter(trained.router, difficulty, everyone, 1, unit, metadata=facts)
    return once if depth == 1 else _with_calls(once, depth, trained)


def _with_calls(once: CascadeRouter, depth: int, trained: Trained) -> CascadeRouter:
    """Return the router with cascades over the same pool, or as it is where they earn no more."""
    single = once.base.best_single
    router = replace(once, depth=depth, shortlist=(single,))
    router = replace(router, shortlist=_shortlist(router, trained, once.base.names.index(single)))
    watched, earned = _watched(router, trained)
    gain = earned - _earned(once, trained)
    mean, noise = float(gain.mean()), float(gain.std()) / np.sqrt(len(gain))
    facts = {**once.metadata, "held_out_gain": [round(mean, 5), round(noise, 5)]}
    if mean > _PAYS * noise:
        return replace(router, watched=watched, metadata=facts)
    return replace(once, metadata=facts)


def check_answers(dataset: LLMDataset) -> None:
    """Refuse a dataset without answers.

    Raises:
        InvalidDataError: It has none.
    """
    if dataset.answers is None or (dataset.answers < 0).all():
        raise InvalidDataError(
            "a cascade looks at answers, but the table has no readable column 'answer|<llm>'. Add "
            "the final answer of each LLM, or choose one LLM a query: --strategy single."
        )


def _shortlist(router: CascadeRouter, trained: Trained, single: int) -> tuple[str, ...]:
    """Return the LLMs that cascades may ask, cheapest first.

    Worth asking is what scores at least 0.6 of the best and at most 0.02 below every LLM that costs
    no more (a strict front would leave out an equal, whose second opinion counts). Free places go
    to LLMs of at most 0.3 of the best single LLM's cost and 0.55 of its score: weak, but whether
    they agree tells much for little. Where there are too many, the best are picked greedily by
    expected score - rate * cost.
    """
    names, cost = router.base.names, trained.costs.mean(axis=0)
    score = np.nanmean(trained.data.scores, axis=0)
    best_for_less = np.array([score[cost <= each].max() for each in cost])
    worth = (score >= best_for_less - _TOLERANCE) & (score >= _WEAKEST * score.max())
    cheap = (cost <= _CHEAP * cost[single]) & (score >= _WITNESS * score.max())
    chosen = [single]
    for tier in (worth, cheap):
        rest = [llm for llm in np.flatnonzero(tier).tolist() if llm not in chosen]
        if len(chosen) + len(rest) <= MAX_SHORTLIST:
            chosen, rest = [*chosen, *rest], []
        while rest and len(chosen) < MAX_SHORTLIST:
            llm = max(rest, key=lambda e: _value(router, trained, _by_cost([*chosen, e], cost)))
            chosen.append(llm)
            rest.remove(llm)
    return tuple(names[llm] for llm in _by_cost(chosen, cost))


def _watched(router: CascadeRouter, trained: Trained) -> tuple[str | None, _Array]:
    """Return whose answer's length is worth looking at (None: no one's), and what is earned so.

    Tried are the cheapest ones, which are asked first. What counts is score - rate * cost as
    replayed on training queries, by more than two standard errors: the best of three is lucky.
    """
    plain = _earned(router, trained)
    earned = {
        name: _earned(replace(router, watched=name), trained) for name in router.shortlist[:_TRIED]
    }
    best = max(earned, key=lambda name: float(earned[name].mean()))
    gain = earned[best] - plain
    noise = _NOISE * float(gain.std()) / np.sqrt(len(plain))
    return (best, earned[best]) if float(gain.mean()) > noise else (None, plain)


def _earned(router: CascadeRouter, trained: Trained) -> _Array:
    """Return measured score - rate * cost of training queries, mean over some rates, shape (n,)."""
    rows, kept = slice(0, _REPLAYED), [RATES[column] for column in _REPLAYED_RATES]
    planned = router.plan_predicted(trained.held_out[rows], trained.expected[rows], rates=kept)
    columns = [router.base.names.index(name) for name in planned.names]
    assert trained.data.answers is not None  # noqa: S101 - checked above
    scores = np.nan_to_num(trained.data.scores[rows][:, columns])
    spent = trained.costs[rows][:, columns]
    known = trained.data.answers[rows][:, columns]
    earned = np.zeros(len(scores))
    for column, rate in enumerate(kept):
        plan = np.full(len(scores), column)
        score, cost, _ = replay(
            planned.levels, planned.policy, plan, known, scores, spent, watch=planned.watch
        )
        earned += (score - rate / max(router.unit, 1e-12) * cost) / len(kept)
    return earned


def _by_cost(llms: Sequence[int], level: _Array) -> list[int]:
    return sorted(llms, key=lambda llm: (level[llm], llm))


def _value(router: CascadeRouter, trained: Trained, columns: list[int]) -> float:
    """Return the mean expected score - rate * cost over some rates, with this shortlist."""
    names = tuple(router.base.names[column] for column in columns)
    planned = replace(router, shortlist=names).plan_predicted(
        trained.held_out[:_JUDGED], trained.expected[:_JUDGED]
    )
    rates = np.array([RATES[column] for column in _JUDGED_RATES]) / max(router.unit, 1e-12)
    kept = list(_JUDGED_RATES)
    return float((planned.scores[:, kept] - rates * planned.costs[:, kept]).mean())
