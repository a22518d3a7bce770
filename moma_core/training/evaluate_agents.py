"""Measures agent routing on labelled queries: what `moma eval agents` reports."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core.agents.data import LabelledQueries, with_examples
from moma_core.decision import Ranking
from moma_core.encoder import RoutingEncoder
from moma_core.errors import InvalidDataError
from moma_core.protocols import Encoder, Progress
from moma_core.router import MoMARouter
from moma_core.training.plots import canvas, write_picture
from moma_core.types import AgentCard, FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "AT_ONCE",
    "ToldEncoder",
    "calibration_error",
    "draw_reliability",
    "evaluate_agents",
    "ranked",
    "reliability",
]


AT_ONCE = 512
"""Queries between two moves of the bar."""


class ToldEncoder:
    """An encoder that tells of long lists how far it is.

    Args:
        encoder: Encodes.
        tell: Told.

    Example:
        >>> from moma_core.testing import HashEncoder
        >>> encoder = ToldEncoder(HashEncoder(), lambda *told: print(*told))
        >>> encoder.encode(["why?"] * 600).shape
        encoding 512 600
        encoding 600 600
        (600, 64)
    """

    def __init__(self, encoder: Encoder, tell: Progress) -> None:
        self._encoder = encoder
        self._tell = tell
        self.fingerprint = encoder.fingerprint
        self.dimension = encoder.dimension

    def __getattr__(self, name: str) -> Any:  # what it reads, and which of the packaged ones it is
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._encoder, name)

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Return unit vectors, shape (n, d)."""
        if len(texts) <= 1:
            return self._encoder.encode(texts)
        parts = []
        for start in range(0, len(texts), AT_ONCE):
            parts.append(self._encoder.encode(texts[start : start + AT_ONCE]))
            self._tell("encoding", min(start + AT_ONCE, len(texts)), len(texts))
        return np.concatenate(parts)


_BINS = 10


def reliability(
    probabilities: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return mean probability, share right and count of each non-empty tenth, shape (bins, 3).

    Args:
        probabilities: The gate's probabilities, shape (n,).
        right: Whether the best agent was a wanted one, shape (n,).

    Example:
        >>> reliability(np.array([0.1, 0.12, 0.9]), np.array([False, False, True])).shape
        (2, 3)
    """
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    rows = [
        (probabilities[bins == b].mean(), right[bins == b].mean(), (bins == b).sum())
        for b in np.unique(bins)
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def calibration_error(table: npt.NDArray[np.float64]) -> float:
    """Return the expected calibration error: mean distance of probability and share, by count."""
    return float(np.average(np.abs(table[:, 0] - table[:, 1]), weights=table[:, 2]))


def draw_reliability(table: npt.NDArray[np.float64], threshold: float, path: Path) -> None:
    """Draw the diagram as PNG or SVG, by the path's ending; legible in black and white.

    Raises:
        ArtifactError: The file cannot be written.
    """
    figure, (axes,) = canvas(5.0, 5.0)
    axes.plot([0, 1], [0, 1], linestyle=":", color="0.5", label="perfect")
    axes.axvline(threshold, linestyle="--", color="0.3", label=f"threshold {threshold:.2f}")
    axes.plot(table[:, 0], table[:, 1], marker="o", color="black", label="measured")
    for probability, share, count in table:
        axes.annotate(f"{count:.0f}", (probability, share), (4, -11), textcoords="offset points")
    axes.set(
        xlabel="the gate's probability", ylabel="share that was right", xlim=(0, 1), ylim=(0, 1)
    )
    axes.set_title(f"Reliability of the gate (error {calibration_error(table):.3f})")
    axes.legend(loc="upper left")
    write_picture(figure, path)


_TIMED = 300  # queries routed one by one for the times


def evaluate_agents(
    cards: Sequence[AgentCard],
    train: LabelledQueries,
    test: LabelledQueries,
    *,
    shots: int | None = None,
    seed: int = 0,
    encoder: Encoder | None = None,
    progress: Progress | None = None,
    diagram: Path | None = None,
    max_wrong_agent_rate: float | None = None,
) -> dict[str, Any]:
    """Fit on ``train`` alone, route ``test``, and return the report.

    Args:
        cards: The agents.
        train: Examples and, as queries without agents, negatives; may be empty.
        test: Queries to route.
        shots: At most so many examples an agent; None takes all.
        seed: Of the draw of examples.
        encoder: By default the packaged encoder.
        progress: Called with a label, steps done, steps in all.
        diagram: Where to draw the gate's reliability diagram, if anywhere.
        max_wrong_agent_rate: Promise that the gate must keep; see `MoMARouter.from_cards`.

    Returns:
        ``in_scope_top1``, ``top5`` (share with a wanted agent among the first five),
        ``recall_at_5`` (mean over queries of the share of wanted agents among the first five),
        ``oos_auroc`` (of the gate's probability, in scope against out of scope),
        ``kept_in_scope_top1``, ``oos_recall``, and milliseconds. A figure without queries is None.

    Raises:
        InvalidDataError: ``test`` is empty or a query names an unknown agent.
    """
    if not len(test):
        raise InvalidDataError("the test file has no rows; give at least one query.")
    tell = progress or (lambda _label, _done, _total: None)
    encoder = ToldEncoder(encoder or RoutingEncoder(), tell)
    router = MoMARouter.from_cards(
        with_examples(cards, train, shots, seed),
        llms=None,
        encoder=encoder,
        negatives=train.negatives(),
        max_wrong_agent_rate=max_wrong_agent_rate,
    )
    router.fit(tell)
    rankings = ranked(router, test.texts, tell)
    with_examples(cards, test)  # an unknown agent in the test file is an error, not a miss
    if diagram is not None:
        _draw(test, rankings, router.agent_router.trained.gate.threshold, diagram)
    report = {"n_agents": len(cards), "n_test": len(test)}
    return {**report, **_quality(test, rankings), **_times(router, encoder, test.texts, tell)}


def ranked(
    router: MoMARouter, texts: Sequence[str], tell: Progress, label: str = "routing"
) -> list[Ranking]:
    """Return what `MoMARouter.rank` says of many queries; ``tell`` hears how far it is."""
    rankings: list[Ranking] = []
    for start in range(0, len(texts), AT_ONCE):
        rankings += router.rank(texts[start : start + AT_ONCE])
        tell(label, len(rankings), len(texts))
    return rankings


def _quality(test: LabelledQueries, rankings: Sequence[Ranking]) -> dict[str, float | None]:
    best = [ranking.names[:5] for ranking in rankings]
    wanted = [set(names) for names in test.agents]
    accepted = np.array([ranking.fits for ranking in rankings])
    probability = np.array([ranking.best_probability for ranking in rankings])
    inside = np.array([bool(names) for names in wanted])
    first = np.array([bool(b) and b[0] in w for b, w in zip(best, wanted, strict=True)])
    among = np.array([bool(w.intersection(b)) for b, w in zip(best, wanted, strict=True)])
    recall = np.array(
        [len(w.intersection(b)) / max(len(w), 1) for b, w in zip(best, wanted, strict=True)]
    )
    return {
        "in_scope_top1": _mean(first[inside]),
        "top5": _mean(among[inside]),
        "recall_at_5": _mean(recall[inside]),
        "oos_auroc": _auroc(probability, inside),
        "kept_in_scope_top1": _mean((first & accepted)[inside]),
        "oos_recall": _mean(~accepted[~inside]),
    }


def _draw(test: LabelledQueries, rankings: Sequence[Ranking], threshold: float, path: Path) -> None:
    right = [
        bool(ranking) and ranking[0].name in wanted
        for ranking, wanted in zip(rankings, test.agents, strict=True)
    ]
    probabilities = np.array([ranking.best_probability for ranking in rankings])
    draw_reliability(reliability(probabilities, np.array(right)), threshold, path)


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _auroc(probability: Any, inside: Any) -> float | None:
    if inside.all() or not inside.any():
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(inside, probability))


def _times(
    router: MoMARouter, encoder: Encoder, texts: Sequence[str], tell: Progress
) -> dict[str, float]:
    """Time the encoder alone and the whole route in turn, so that noise hits both alike."""
    step = max(len(texts) // _TIMED, 1)
    encoded, routed = [], []
    chosen = texts[::step][:_TIMED]
    for done, text in enumerate(chosen):
        tell("timing", done, len(chosen))
        start = time.perf_counter()
        encoder.encode([text])
        middle = time.perf_counter()
        router.rank(text)
        encoded.append(middle - start)
        routed.append(time.perf_counter() - middle)
    return {
        "encode_ms_p50": float(np.median(encoded) * 1e3),
        "route_ms_p50": float(np.median(routed) * 1e3),
        "route_ms_p95": float(np.quantile(routed, 0.95) * 1e3),
    }
