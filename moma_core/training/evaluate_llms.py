"""How an LLM router does on judged pairs that it was not trained on.

Pairs say who beat whom, not how good an answer was: measured are the predicted winners, the
predicted outcomes (preference head), and how the router's choice does where it was judged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError
from moma_core.llm_routing.elo import count_outcomes, elo_of_counts
from moma_core.llm_routing.heads import JudgedHead
from moma_core.llm_routing.outcomes import Outcomes, log_outcomes
from moma_core.llm_routing.pairs import Judgements, read_judgements
from moma_core.llm_routing.router import LLMRouter
from moma_core.protocols import Encoder
from moma_core.selection import choose
from moma_core.types import Auto, Cost, Performance

__all__ = ["evaluate_pairs"]

_WINNER = np.array([0, 1, -1, 1, -1])
_Array = npt.NDArray[np.float64]
_Codes = npt.NDArray[np.intp]


def evaluate_pairs(router: LLMRouter, path: str | Path, encoder: Encoder) -> dict[str, Any]:
    """Return how well the router predicts the pairs of a file.

    Pairs with an LLM outside the router's pool are left out. ``winner_accuracy`` counts decided
    pairs, equal predictions half; ``elo_accuracy`` is what naming the LLM of the higher Elo (over
    these same pairs) gives. For each preference, ``points`` is the mean of win 1, tie 0.5, loss 0
    of the LLM that the router chooses, over the ``judged`` pairs that it takes part in.

    Args:
        router: Trained on other queries.
        path: Pairs, see `moma_core.llm_routing.pairs.PAIRS`.
        encoder: The one the router was trained with.

    Returns:
        A JSON-like dict: ``n_pairs, n_queries, ties, winner_accuracy, elo_accuracy, elo,
        preferences`` and, for a preference head trained on pairs, ``outcome_log_loss`` beside
        ``base_rate_log_loss``.

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
        picks = choose(costs, quality, preference, anchor=single)
        report["preferences"][name] = _points(picks[row], a, b, winner)
    alone = np.full(len(row), single)
    report["best_single"] = {"name": router.best_single, **_points(alone, a, b, winner)}
    judged = isinstance(router.head, JudgedHead) and "pairs" in router.metadata
    if judged and router.head.kind == "preference":
        inputs = router.features.join(texts, vectors)
        report.update(_outcome_losses(router.head, inputs, row, a, b, code))
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


def _outcome_losses(
    head: Any,
    inputs: npt.NDArray[np.float32],
    row: _Codes,
    a: _Codes,
    b: _Codes,
    code: _Codes,
) -> dict[str, float]:
    raw = head.net.outputs(inputs).astype(np.float64)
    eta = head.tie_threshold(inputs).astype(np.float64)
    logs = log_outcomes(raw[row, a], raw[row, b], eta[row], Outcomes())
    shares = np.bincount(code, minlength=5) / len(code)
    return {
        "outcome_log_loss": float(-logs[np.arange(len(code)), code].mean()),
        "base_rate_log_loss": float(-np.log(shares[code]).mean()),
    }
