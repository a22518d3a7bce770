"""Measures LLM routing on scored queries or judged pairs: what `moma eval llms` reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError
from moma_core.llms.cascade import RATES, CascadeRouter, Planned, replay
from moma_core.llms.data import LLMDataset
from moma_core.llms.heads.judged import JudgedHead, log_outcomes
from moma_core.llms.router import LLMRouter
from moma_core.llms.selection import choose, choose_at_rate
from moma_core.llms.training import check_answers
from moma_core.protocols import Encoder
from moma_core.training.baselines import fit_baselines
from moma_core.training.bradley_terry import Levels
from moma_core.training.judgements import Judgements, count_outcomes, elo_of_counts, read_judgements
from moma_core.types import Auto, Cost, FloatArray, Performance, Preference

__all__ = [
    "COST_SHARES",
    "cost_of_score",
    "evaluate_cascade",
    "evaluate_llms",
    "evaluate_pairs",
    "score_at_cost",
    "share_of",
    "trade_off_curve",
    "upper_hull",
]

COST_SHARES = (0.25, 0.5, 0.7)
"""Shares of the best single LLM's cost at which scores are reported."""

_Array = npt.NDArray[np.float64]


def upper_hull(points: _Array) -> _Array:
    """Return the rising part of the upper convex hull of (cost, score) points, cheapest first.

    A point between two corners is reached by using one setting for a share of the queries and the
    other setting for the rest.

    Args:
        points: Costs and scores, shape (n, 2), n at least 1.

    Example:
        >>> upper_hull(np.array([[0.0, 0.5], [1.0, 0.6], [2.0, 1.0], [3.0, 0.9]])).tolist()
        [[0.0, 0.5], [2.0, 1.0]]
    """
    points = np.asarray(points, np.float64)
    corners: list[_Array] = []
    for point in points[np.lexsort((-points[:, 1], points[:, 0]))]:
        if corners and point[1] <= corners[-1][1]:
            continue
        while len(corners) > 1 and _turns_up(corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    return np.array(corners)


def _turns_up(first: _Array, middle: _Array, last: _Array) -> bool:
    left = (middle[1] - first[1]) * (last[0] - first[0])
    right = (last[1] - first[1]) * (middle[0] - first[0])
    return bool(left <= right)


def score_at_cost(hull: _Array, cost: float) -> float | None:
    """Return the score reached at a mean cost, linear between corners; None below the cheapest."""
    if cost < hull[0, 0]:
        return None
    return float(np.interp(cost, hull[:, 0], hull[:, 1]))


def cost_of_score(hull: _Array, score: float) -> float | None:
    """Return the least mean cost at which a score is reached; None when it never is."""
    if score > hull[-1, 1]:
        return None
    if score <= hull[0, 1]:
        return float(hull[0, 0])
    return float(np.interp(score, hull[:, 1], hull[:, 0]))


def share_of(cost: float | None, whole: float) -> float | None:
    """Return the cost as a share of another one; None where either has no meaning."""
    return None if cost is None or whole <= 0 else float(cost / whole)


_RATES = (0.0, *np.logspace(-3, 2, 63).tolist())
_PREFERENCES: dict[str, Preference] = {
    "performance": Performance(),
    "auto": Auto(),
    "cost": Cost(),
}


def evaluate_llms(
    router: LLMRouter,
    dataset: LLMDataset,
    encoder: Encoder,
    vectors: FloatArray | None = None,
    trained_on: LLMDataset | None = None,
) -> dict[str, Any]:
    """Return how the router does on scored queries that it was not trained on.

    Only queries on which every LLM of the router's pool was measured count (``n_test``). Score ties
    go to the cheaper LLM. The oracle asks, for each query, the LLM that is best on it. ``curve`` is
    swept by one rate lambda, from 0 to 100 per mean cost of the best single LLM: each query goes to
    the largest predicted score - lambda * predicted cost. ``score_at_cost`` and
    ``cost_to_match_best_single`` are read off the upper hull of the curve and the LLM of least
    predicted cost; between corners two rates are mixed (`metrics.upper_hull`).

    ``intervals`` are 95 % intervals of what each preference leads the best single LLM by in score,
    over queries. ``baselines`` are plain routers by predicted score, with our predicted costs,
    each with its own score, cost, lead, interval and ``score_at_cost``. ``why_null`` gives the
    reason of each figure that is null.

    Args:
        router: Trained on other queries.
        dataset: With a column for each LLM of the router's pool; others are ignored.
        encoder: The one the router was trained with.
        vectors: The queries' vectors when already encoded, shape (n, d).
        trained_on: What the router was trained on: baselines are fitted to it; None: the only
            baseline is the best single LLM.

    Returns:
        A JSON-like dict: ``n_test, best_single, best_single_score, best_single_cost, oracle_score,
        preferences, curve, score_at_cost, cost_to_match_best_single, usage, intervals, baselines,
        why_null``.

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
    report = _report(scores, costs, data, router)
    heads = (
        {}
        if trained_on is None
        else fit_baselines(router, trained_on, encoder.encode(trained_on.queries))
    )
    for name, head in heads.items():
        plain = head.predict(np.asarray(vectors, np.float32)).astype(np.float64)
        report["baselines"][name] = _baseline(plain, costs, data, router)
    return {**report, "why_null": _why_null(report)}


def _baseline(scores: _Array, costs: _Array, data: LLMDataset, router: LLMRouter) -> dict[str, Any]:
    """Return the figures of a plain router: the best predicted score, ties to the cheaper LLM."""
    single, rows = data.llms.index(router.best_single), np.arange(len(data))
    picks = choose(costs, scores, Performance())
    hull = upper_hull(trade_off_curve(scores, costs, data.scores, data.costs, single))
    best_cost = float(data.costs[:, single].mean())
    lead = data.scores[rows, picks] - data.scores[:, single]
    return {
        "score": float(data.scores[rows, picks].mean()),
        "cost": float(data.costs[rows, picks].mean()),
        "lead": float(lead.mean()),
        "interval": _interval(lead),
        "score_at_cost": {str(s): score_at_cost(hull, s * best_cost) for s in COST_SHARES},
    }


def _interval(lead: _Array) -> list[float]:
    """Return the 95 % interval of a mean over queries."""
    noise = _NORMAL_95 * float(lead.std(ddof=1)) / np.sqrt(len(lead)) if len(lead) > 1 else np.inf
    bounds = (float(lead.mean() - noise), float(lead.mean() + noise))
    return [min(max(bound, -1.0), 1.0) for bound in bounds]


_NORMAL_95 = 1.96


def _why_null(report: dict[str, Any]) -> dict[str, str]:
    """Return the reason of each figure of a report that is null."""
    reasons = {}
    cheapest, best = report["curve"][0][0], max(point[1] for point in report["curve"])
    for share, score in report["score_at_cost"].items():
        if score is None:
            reasons[f"score_at_cost {share}"] = (
                f"no choice is that cheap: the cheapest costs ${cheapest:.3g} a query"
            )
    if report["cost_to_match_best_single"] is None:
        reasons["cost_to_match_best_single"] = (
            "the best single LLM costs nothing"
            if report["best_single_cost"] <= 0
            else f"its score of {report['best_single_score']:.4f} is never reached; {best:.4f} is"
        )
    return reasons


def _picks(scores: _Array, costs: _Array, router: LLMRouter) -> dict[str, npt.NDArray[np.intp]]:
    """Return the columns that each preference chooses, shape (n,) each."""
    learnt = {
        "min_gain_per_usd": router.min_gain_per_usd,
        "points": router.points,
        "margin": router.margin,
    }
    single = router.names.index(router.best_single)
    return {
        name: choose(costs, scores, preference, single, **learnt)
        for name, preference in _PREFERENCES.items()
    }


def _report(scores: _Array, costs: _Array, data: LLMDataset, router: LLMRouter) -> dict[str, Any]:
    rows, single = np.arange(len(data)), data.llms.index(router.best_single)
    chosen = _picks(scores, costs, router)
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
        "intervals": {
            name: _interval(data.scores[rows, picks] - data.scores[:, single])
            for name, picks in chosen.items()
        },
        "baselines": {"best single": {"score": best_score, "cost": best_cost, "lead": 0.0}},
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
    return _cascades_report(router, router.predict(data.queries, vectors), data)


def _cascades_report(router: CascadeRouter, planned: Planned, data: LLMDataset) -> dict[str, Any]:
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
        watch=planned.watch,
    )
    asked = np.zeros(data.scores.shape)
    asked[:, columns] = among
    alone = data.llms.index(planned.anchor)
    is_single = column == last
    asked[is_single] = np.arange(len(data.llms)) == alone
    score = np.where(is_single, data.scores[:, alone], score)
    return score, np.where(is_single, data.costs[:, alone], cost), asked


_WINNER = np.array([0, 1, -1, 1, -1])
_Codes = npt.NDArray[np.intp]


def evaluate_pairs(router: LLMRouter, path: str | Path, encoder: Encoder) -> dict[str, Any]:
    """Return how well the router predicts the pairs of a file.

    Pairs with an LLM outside the router's pool are left out. ``winner_accuracy`` counts decided
    pairs, equal predictions half; ``elo_accuracy`` is what naming the LLM of the higher Elo (over
    these same pairs) gives. For each preference, ``points`` is the mean of win 1, tie 0.5, loss 0
    of the LLM that the router chooses, over the ``judged`` pairs that it takes part in.

    Args:
        router: Trained on other queries.
        path: Pairs, see `moma_core.training.PAIRS`.
        encoder: The one the router was trained with.

    Returns:
        A JSON-like dict: ``n_pairs, n_queries, ties, winner_accuracy, elo_accuracy, elo,
        preferences``; for a pool trained on pairs ``bradley_terry_accuracy`` and
        ``bradley_terry_log_loss``, of the levels of the training pairs whatever the query; and for
        a preference head ``outcome_log_loss`` beside ``base_rate_log_loss``, that of these pairs'
        own frequencies of outcomes. Accuracies are means over decided pairs, losses over all pairs.

    Raises:
        InvalidDataError: No pair is of the router's pool.
        ArtifactError: The encoder is another one than in training.
    """
    router.check_encoder(encoder.fingerprint)
    texts, row, a, b, code = _read(path, router.names)
    vectors = encoder.encode(texts)
    quality, costs = router.predict(texts, vectors)
    winner = _WINNER[code]
    counts = count_outcomes(a, b, code, len(router.names))
    ratings = {rating.name: rating.elo for rating in elo_of_counts(router.names, counts, rounds=9)}
    elo = np.array([ratings[name] for name in router.names])
    report: dict[str, Any] = {
        "n_pairs": len(code),
        "n_queries": len(texts),
        "ties": float((winner == 0).mean()),
        "winner_accuracy": _accuracy(quality[row, a] - quality[row, b], winner),
        "elo_accuracy": _accuracy(elo[a] - elo[b], winner),
        "elo": {name: round(ratings[name], 1) for name in router.names},
        "preferences": {},
    }
    single = router.names.index(router.best_single)
    for name, preference in (("performance", Performance()), ("auto", Auto()), ("cost", Cost())):
        picks = choose(costs, quality, preference, single, points=router.points)
        report["preferences"][name] = _points(picks[row], a, b, winner)
    alone = np.full(len(row), single)
    report["best_single"] = {"name": router.best_single, **_points(alone, a, b, winner)}
    head = router.head
    if isinstance(head, JudgedHead) and "pairs" in router.metadata and head.kind == "preference":
        inputs = router.features.join(texts, vectors)
        report.update(_outcome_losses(head, inputs, row, a, b, code))
    if (
        head.llms == router.cards
        and "levels" in router.metadata
        and len(router.names) == len(router.metadata["levels"]["values"])
    ):
        report.update(_by_levels(Levels.from_dict(router.metadata["levels"]), a, b, code))
    return report


def _read(
    path: str | Path, names: tuple[str, ...]
) -> tuple[list[str], _Codes, _Codes, _Codes, _Codes]:
    """Return distinct queries, and of each pair: row, first column, second column, outcome."""
    texts: dict[str, int] = {}
    columns = {name: column for column, name in enumerate(names)}
    parts = [_known(part, columns, texts) for part in read_judgements(path)]
    rows = np.concatenate(parts)
    if not len(rows):
        raise InvalidDataError(f"no pair of {path} compares two of the pool's LLMs {list(names)}.")
    return list(texts), rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3]


def _known(part: Judgements, columns: dict[str, int], texts: dict[str, int]) -> _Codes:
    own = np.array([columns.get(name, -1) for name in part.llms], np.intp)
    a, b = own[part.first], own[part.second]
    kept = (a >= 0) & (b >= 0)
    used = np.unique(part.query[kept]).tolist()
    place = np.zeros(len(part.queries), np.intp)
    place[used] = [texts.setdefault(part.queries[row], len(texts)) for row in used]
    return np.stack([place[part.query], a, b, part.outcome], axis=1)[kept]


def _accuracy(gap: _Array, winner: _Codes) -> float | None:
    decided = winner != 0
    if not decided.any():
        return None
    right = np.sign(gap[decided]) * winner[decided]
    return float(np.where(right == 0, 0.5, right > 0).mean())


def _points(picks: _Codes, a: _Codes, b: _Codes, winner: _Codes) -> dict[str, Any]:
    points = np.concatenate([winner[picks == a], -winner[picks == b]])
    mean = float((0.5 + 0.5 * points).mean()) if len(points) else None
    return {"points": mean, "judged": len(points)}


def _by_levels(levels: Levels, a: _Codes, b: _Codes, code: _Codes) -> dict[str, float | None]:
    logs = levels.log_outcomes(a, b)
    return {
        "bradley_terry_accuracy": _accuracy(levels.values[a] - levels.values[b], _WINNER[code]),
        "bradley_terry_log_loss": float(-logs[np.arange(len(code)), code].mean()),
    }


def _outcome_losses(
    head: JudgedHead,
    inputs: npt.NDArray[np.float32],
    row: _Codes,
    a: _Codes,
    b: _Codes,
    code: _Codes,
) -> dict[str, float]:
    raw = head.net.outputs(inputs).astype(np.float64)
    eta = head.tie_threshold(inputs).astype(np.float64)
    logs = log_outcomes(raw[row, a], raw[row, b], eta[row], head.form)
    shares = np.bincount(code, minlength=5) / len(code)
    return {
        "outcome_log_loss": float(-logs[np.arange(len(code)), code].mean()),
        "base_rate_log_loss": float(-np.log(shares[code]).mean()),
    }
