"""How an LLM router does on scored queries: three preferences and the whole trade-off curve.

All choices are made from predictions; scores and costs reported are the measured ones of the LLM
chosen. The best single LLM is the one that was best on the router's training data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError
from moma_core.evaluation.metrics import (
    COST_SHARES,
    cost_of_score,
    score_at_cost,
    share_of,
    upper_hull,
)
from moma_core.llm_routing.dataset import LLMDataset
from moma_core.llm_routing.router import LLMRouter
from moma_core.protocols import Encoder
from moma_core.selection import choose, choose_at_rate
from moma_core.types import Auto, Cost, FloatArray, Performance, Preference

__all__ = ["COST_SHARES", "evaluate_llms", "trade_off_curve"]

_RATES = (0.0, *np.logspace(-3, 2, 63).tolist())
_PREFERENCES: dict[str, Preference] = {
    "performance": Performance(),
    "auto": Auto(),
    "cost": Cost(),
}
_Array = npt.NDArray[np.float64]


def evaluate_llms(
    router: LLMRouter, dataset: LLMDataset, encoder: Encoder, vectors: FloatArray | None = None
) -> dict[str, Any]:
    """Return how the router does on scored queries that it was not trained on.

    Only queries on which every LLM of the router's pool was measured count (``n_test``). Score ties
    go to the cheaper LLM. The oracle asks, for each query, the LLM that is best on it. ``curve`` is
    swept by one rate lambda, from 0 to 100 per mean cost of the best single LLM: each query goes to
    the largest predicted score - lambda * predicted cost. ``score_at_cost`` and
    ``cost_to_match_best_single`` are read off the upper hull of the curve and the LLM of least
    predicted cost; between corners two rates are mixed (`metrics.upper_hull`).

    Args:
        router: Trained on other queries.
        dataset: With a column for each LLM of the router's pool; others are ignored.
        encoder: The one the router was trained with.
        vectors: The queries' vectors when already encoded, shape (n, d).

    Returns:
        A JSON-like dict: ``n_test, best_single, best_single_score, best_single_cost, oracle_score,
        preferences, curve, score_at_cost, cost_to_match_best_single, usage``.

    Raises:
        InvalidDataError: An LLM of the pool has no column, or no query has all of them.
        ArtifactError: The encoder is another one than in training.
    """
    router.check_encoder(encoder.fingerprint)
    data = dataset.pool(router.names)
    complete = ~(np.isnan(data.scores) | np.isnan(data.costs)).any(axis=1)
    if not complete.any():
        raise InvalidDataError(
            f"no query was scored on all of {list(router.names)}. Give a table with such rows."
        )
    data = data.take(complete)
    vectors = encoder.encode(data.queries) if vectors is None else vectors[complete]
    scores, costs = router.predict(data.queries, vectors)
    single = router.names.index(router.best_single)
    return _report(scores, costs, data, single, router.thrift)


def _report(
    scores: _Array, costs: _Array, data: LLMDataset, single: int, thrift: float
) -> dict[str, Any]:
    rows = np.arange(len(data))
    chosen = {
        name: choose(costs, scores, preference, single, thrift)
        for name, preference in _PREFERENCES.items()
    }
    curve = trade_off_curve(scores, costs, data.scores, data.costs, single)
    hull = upper_hull(curve)
    best_score = float(data.scores[:, single].mean())
    best_cost = float(data.costs[:, single].mean())
    match = cost_of_score(hull, best_score)
    return {
        "n_test": len(data),
        "best_single": data.llms[single],
        "best_single_score": best_score,
        "best_single_cost": best_cost,
        "oracle_score": float(data.scores.max(axis=1).mean()),
        "preferences": {
            name: {
                "score": float(data.scores[rows, picks].mean()),
                "cost": float(data.costs[rows, picks].mean()),
            }
            for name, picks in chosen.items()
        },
        "curve": curve.tolist(),
        "score_at_cost": {str(s): score_at_cost(hull, s * best_cost) for s in COST_SHARES},
        "cost_to_match_best_single": share_of(match, best_cost),
        "usage": {name: _usage(picks, data.llms) for name, picks in chosen.items()},
    }


def trade_off_curve(
    scores: _Array, costs: _Array, true_scores: _Array, true_costs: _Array, single: int
) -> _Array:
    """Return realised mean (cost, score) along the sweep, shape (65, 2), by ascending cost.

    The last point of the sweep asks the LLM of least mean predicted cost for everything.

    Args:
        scores: Predicted quality, shape (n, m).
        costs: Predicted USD, shape (n, m).
        true_scores: Measured quality, shape (n, m).
        true_costs: Measured USD, shape (n, m).
        single: Column whose mean predicted cost is the unit of the rates.
    """
    unit = max(float(costs[:, single].mean()), 1e-12)
    cheapest = np.full(len(scores), int(costs.mean(axis=0).argmin()))
    picks = [choose_at_rate(costs, scores, rate / unit) for rate in _RATES]
    rows = np.arange(len(scores))
    points = np.array(
        [[true_costs[rows, p].mean(), true_scores[rows, p].mean()] for p in (*picks, cheapest)]
    )
    return points[np.lexsort((points[:, 1], points[:, 0]))]


def _usage(picks: npt.NDArray[np.intp], llms: tuple[str, ...]) -> dict[str, float]:
    counts = np.bincount(picks, minlength=len(llms)) / len(picks)
    return dict(zip(llms, counts.tolist(), strict=True))
