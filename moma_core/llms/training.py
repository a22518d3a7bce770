"""From scored queries to an `LLMRouter` (4.1.3): fit the heads, learn their blend, fit the costs.

Rows and LLMs are put into an order of their own before anything random happens, so the order of the
file cannot matter. Everything is deterministic by seed.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError, InvalidInputError
from moma_core.llm_routing.completion import fill_costs, fill_scores
from moma_core.llm_routing.costs import FittedCosts, indicative_price
from moma_core.llm_routing.dataset import LLMDataset
from moma_core.llm_routing.features import QueryFeatures
from moma_core.llm_routing.heads import (
    STACKED,
    Head,
    StackedHead,
    fit_head,
    fit_weights,
    head_choices,
)
from moma_core.llm_routing.router import LLMRouter
from moma_core.protocols import Encoder
from moma_core.selection import choose_at_rate
from moma_core.types import FloatArray, LLMCard

__all__ = ["FOLDS", "MIN_QUERIES", "Progress", "Trained", "fit_thrift", "train", "train_pool"]

FOLDS = 4
MIN_QUERIES = 8
_THRIFTS = (0.002, 0.004, 0.006, 0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05)
"""Score that must be gained for what the best single LLM costs on average; as `RATES` of cascades.
"""
_THRIFT_QUERIES, _MEASURABLE, _SIGNIFICANT = 300, 0.003, 1.645
Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``."""

_Array = npt.NDArray[np.float64]


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
    head: str = "auto",
    seed: int = 0,
    prices: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    vectors: FloatArray | None = None,
    notes: Mapping[str, Any] | None = None,
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

    Returns:
        The router; its ``metadata`` holds seed, data fingerprint and held-out error.

    Raises:
        InvalidInputError: No such head.
        InvalidDataError: Too few queries, or vectors of another length.
    """
    return train_pool(dataset, encoder, head, seed, prices, progress, vectors, notes).router


def train_pool(
    dataset: LLMDataset,
    encoder: Encoder,
    head: str = "auto",
    seed: int = 0,
    prices: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    vectors: FloatArray | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Trained:
    """Train as `train` does and keep the held-out predictions too; same arguments and errors."""
    _check(dataset, head, vectors, encoder.dimension)
    report = progress or (lambda *_: None)
    total = 3 + (FOLDS + 1) * (len(STACKED) if head == "auto" else 1)
    order = dataset.order()
    data = dataset.take(order).pool(sorted(dataset.llms))
    vectors = encoder.encode(data.queries) if vectors is None else vectors[order]
    report("encode", 1, total)
    features = QueryFeatures.fit(data.queries)
    inputs = features.join(data.queries, vectors)
    scores, spent = fill_scores(data.scores, inputs, seed), fill_costs(data.costs)
    llms = tuple(_card(data, name, prices or {}) for name in data.llms)
    observed = ~np.isnan(data.scores)
    fitted, errors, held_out = _fit(head, inputs, scores, observed, llms, seed, report, total)
    costs, expected = FittedCosts.fit(inputs, spent), _expected(inputs, spent, seed)
    single = _best_single(llms, scores, spent)
    thrift = fit_thrift(held_out, expected, data.scores, spent[:, data.llms.index(single)].mean())
    report("costs", total, total)
    router = LLMRouter(
        head=fitted,
        costs=costs,
        features=features,
        encoder_fingerprint=encoder.fingerprint,
        dimension=encoder.dimension,
        best_single=single,
        thrift=thrift,
        metadata={**_facts(dataset, seed), "held_out_squared_error": errors, **(notes or {})},
    )
    return Trained(router, data, held_out, expected, spent)


def fit_thrift(predicted: _Array, expected: _Array, scores: _Array, unit: float) -> float:
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
    if len(rows) < _THRIFT_QUERIES or unit <= 0:
        return 0.0
    predicted, expected = predicted[rows], expected[rows]
    best = scores[rows, choose_at_rate(expected, predicted, 0.0)]
    for rate in reversed(_THRIFTS):
        change = scores[rows, choose_at_rate(expected, predicted, rate / unit)] - best
        noise = float(change.std()) / np.sqrt(len(rows))
        if noise <= _MEASURABLE and float(change.mean()) >= -_SIGNIFICANT * noise:
            return float(rate / unit)
    return 0.0


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
            f"unknown head {head!r}. Choose one of {', '.join(head_choices())}."
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


def _fit(
    kind: str,
    inputs: FloatArray,
    scores: _Array,
    observed: npt.NDArray[np.bool_],
    llms: tuple[LLMCard, ...],
    seed: int,
    report: Progress,
    total: int,
) -> tuple[Head, dict[str, float], _Array]:
    """Fit on all rows, with the held-out error of each kind over `FOLDS` folds of the rows."""
    kinds = STACKED if kind == "auto" else (kind,)
    folds = _folds(len(inputs), seed)
    held_out = np.zeros((len(kinds), *scores.shape))
    done = 1
    for fold in range(FOLDS):
        seen, unseen = folds != fold, folds == fold
        for position, each in enumerate(kinds):
            part = fit_head(each, inputs[seen], scores[seen], llms, seed)
            held_out[position, unseen] = part.predict(inputs[unseen])
            done += 1
            report(f"cross-validate {each}", done, total)
    errors = {
        each: _error(held_out[position], scores, observed) for position, each in enumerate(kinds)
    }
    weights = fit_weights(held_out, scores, observed)
    blended = weights.blend(held_out)
    errors["stack"] = _error(blended, scores, observed)
    heads = []
    for each in kinds:
        heads.append(fit_head(each, inputs, scores, llms, seed))
        done += 1
        report(f"fit {each}", done, total)
    if kind != "auto":
        return heads[0], {kind: errors[kind]}, held_out[0]
    return StackedHead(llms, heads, weights), errors, blended


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
