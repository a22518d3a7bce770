"""How a cascade router does on scored queries with answers; every call of a plan is paid for.

Same figures as `evaluation.llms`; measured answers, scores and costs are replayed along each plan.
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
from moma_core.llm_routing.cascades.router import RATES, CascadeRouter, Planned
from moma_core.llm_routing.cascades.training import check_answers
from moma_core.llm_routing.cascades.tree import replay
from moma_core.llm_routing.dataset import LLMDataset
from moma_core.protocols import Encoder
from moma_core.types import Auto, Cost, FloatArray, Performance, Preference

__all__ = ["evaluate_cascade"]

_PREFERENCES: dict[str, Preference] = {
    "performance": Performance(),
    "auto": Auto(),
    "cost": Cost(),
}
_Array = npt.NDArray[np.float64]
_Played = tuple[_Array, _Array, npt.NDArray[np.float64]]


def evaluate_cascade(
    router: CascadeRouter,
    dataset: LLMDataset,
    encoder: Encoder,
    vectors: FloatArray | None = None,
) -> dict[str, Any]:
    """Return how the router does on queries that it was not trained on.

    Only queries on which every LLM of the pool was measured count. The curve has one point a rate
    of `RATES` (and the best single LLM), the same rate for every query.

    Args:
        router: Trained on other queries.
        dataset: With score, cost and answer of each LLM of the router's pool.
        encoder: The one the router was trained with.
        vectors: The queries' vectors when already encoded, shape (n, d).

    Returns:
        The keys of `evaluate_llms`; ``usage`` is the share of queries on which each LLM was asked,
        and ``calls`` the mean calls a query.

    Raises:
        InvalidDataError: No answers, no column for an LLM of the pool, or no complete query.
        ArtifactError: The encoder is another one than in training.
    """
    router.base.check_encoder(encoder.fingerprint)
    check_answers(dataset)
    data = dataset.pool(router.base.names)
    complete = ~(np.isnan(data.scores) | np.isnan(data.costs)).any(axis=1)
    if not complete.any():
        raise InvalidDataError(
            f"no query was scored on all of {list(data.llms)}. Give a table with such rows."
        )
    data = data.take(complete)
    vectors = encoder.encode(data.queries) if vectors is None else vectors[complete]
    return _report(router, router.predict(data.queries, vectors), data)


def _report(router: CascadeRouter, planned: Planned, data: LLMDataset) -> dict[str, Any]:
    single = data.llms.index(router.base.best_single)
    best_score, best_cost = data.scores[:, single].mean(), data.costs[:, single].mean()
    chosen = {
        name: _play(planned, data, planned.choose(preference))
        for name, preference in _PREFERENCES.items()
    }
    swept = [_play(planned, data, np.full(len(data), c)) for c in range(len(RATES) + 1)]
    curve = np.array([[cost.mean(), score.mean()] for score, cost, _ in swept])
    curve = curve[np.lexsort((curve[:, 1], curve[:, 0]))]
    hull = upper_hull(curve)
    return {
        "n_test": len(data),
        "best_single": data.llms[single],
        "best_single_score": float(best_score),
        "best_single_cost": float(best_cost),
        "oracle_score": float(data.scores.max(axis=1).mean()),
        "preferences": {
            name: {"score": float(score.mean()), "cost": float(cost.mean())}
            for name, (score, cost, _) in chosen.items()
        },
        "curve": curve.tolist(),
        "score_at_cost": {str(s): score_at_cost(hull, s * best_cost) for s in COST_SHARES},
        "cost_to_match_best_single": share_of(cost_of_score(hull, best_score), best_cost),
        "usage": {
            name: dict(zip(data.llms, asked.mean(axis=0).tolist(), strict=True))
            for name, (_, _, asked) in chosen.items()
        },
        "calls": {name: float(asked.sum(axis=1).mean()) for name, (_, _, asked) in chosen.items()},
        "shortlist": list(planned.names),
    }


def _play(planned: Planned, data: LLMDataset, column: npt.NDArray[np.intp]) -> _Played:
    """Return measured score (n,), USD (n,) and who was asked (n, m) when these plans are run."""
    columns = [data.llms.index(name) for name in planned.names]
    assert data.answers is not None  # noqa: S101 - checked at the door
    last = len(RATES)
    score, cost, among = replay(
        planned.levels,
        planned.policy,
        np.minimum(column, last - 1),
        data.answers[:, columns],
        data.scores[:, columns],
        data.costs[:, columns],
        planned.watch,
    )
    asked = np.zeros(data.scores.shape)
    asked[:, columns] = among
    alone = data.llms.index(planned.anchor)
    is_single = column == last
    asked[is_single] = np.arange(len(data.llms)) == alone
    score = np.where(is_single, data.scores[:, alone], score)
    return score, np.where(is_single, data.costs[:, alone], cost), asked
