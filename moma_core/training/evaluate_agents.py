"""Measures agent routing on labelled queries: what `moma eval agents` reports."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moma_core.agent_routing.dataset import LabelledQueries, with_examples
from moma_core.encoders import MiniLMEncoder
from moma_core.errors import InvalidDataError
from moma_core.evaluation.progress import AT_ONCE, Progress, ToldEncoder
from moma_core.protocols import Encoder
from moma_core.router import MoMARouter
from moma_core.types import AgentCard, AgentOutcome, FloatArray, Handled, Query, RoutingState

__all__ = ["evaluate_agents"]

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
        encoder: By default the packaged MiniLM.
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
    encoder = ToldEncoder(encoder or MiniLMEncoder(), tell)
    router = MoMARouter.from_cards(
        with_examples(cards, train, shots, seed),
        llms=None,
        encoder=encoder,
        negatives=train.negatives(),
        max_wrong_agent_rate=max_wrong_agent_rate,
    )
    router.fit(tell)
    vectors = encoder.encode(test.texts)
    outcomes = _routed(router, test.texts, vectors, tell)
    with_examples(cards, test)  # an unknown agent in the test file is an error, not a miss
    if diagram is not None:
        _draw(test, outcomes, router.agent_router.trained.gate.threshold, diagram)
    report = {"n_agents": len(cards), "n_test": len(test)}
    return {**report, **_quality(test, outcomes), **_times(router, encoder, test.texts, tell)}


def _routed(
    router: MoMARouter, texts: Sequence[str], vectors: FloatArray, tell: Progress
) -> list[AgentOutcome]:
    outcomes: list[AgentOutcome] = []
    for start in range(0, len(texts), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        outcomes += router.agent_router.route_batch(texts[some], vectors[some])
        tell("routing", len(outcomes), len(texts))
    return outcomes


def _quality(test: LabelledQueries, outcomes: Sequence[AgentOutcome]) -> dict[str, float | None]:
    best = [[c.name for c in outcome.candidates[:5]] for outcome in outcomes]
    wanted = [set(names) for names in test.agents]
    accepted = np.array([isinstance(outcome, Handled) for outcome in outcomes])
    chance = np.array([outcome.probability for outcome in outcomes])
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
        "oos_auroc": _auroc(chance, inside),
        "kept_in_scope_top1": _mean((first & accepted)[inside]),
        "oos_recall": _mean(~accepted[~inside]),
    }


def _draw(
    test: LabelledQueries, outcomes: Sequence[AgentOutcome], threshold: float, path: Path
) -> None:
    from moma_core.evaluation.reliability import draw_reliability, reliability

    right = [
        bool(outcome.candidates) and outcome.candidates[0].name in wanted
        for outcome, wanted in zip(outcomes, test.agents, strict=True)
    ]
    chances = np.array([outcome.probability for outcome in outcomes])
    draw_reliability(reliability(chances, np.array(right)), threshold, path)


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _auroc(chance: Any, inside: Any) -> float | None:
    if inside.all() or not inside.any():
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(inside, chance))


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
        vector = encoder.encode([text])[0]
        router.agent_router.route(Query(text), vector, RoutingState())
        encoded.append(middle - start)
        routed.append(time.perf_counter() - middle)
    return {
        "encode_ms_p50": float(np.median(encoded) * 1e3),
        "route_ms_p50": float(np.median(routed) * 1e3),
        "route_ms_p95": float(np.quantile(routed, 0.95) * 1e3),
    }
