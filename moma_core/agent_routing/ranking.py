"""Ranks the eligible agents for a reading and asks the gate whether the best one fits.

What the ranker, the examples and the scope say of a query comes together here. Knows nothing of
states, categories or of why an agent is eligible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agent_routing.catalog import Snapshot
from moma_core.agent_routing.cold_start import closer_look
from moma_core.agent_routing.final_decision import decided
from moma_core.agent_routing.followups import Reading, in_context
from moma_core.agent_routing.shortlist import Shortlist, exemplars, shortlist
from moma_core.agent_routing.training import Trained
from moma_core.errors import ScoreError
from moma_core.protocols import FinalDecider
from moma_core.types import AgentOutcome, Candidate, Deferred, FloatArray, Handled, RoutingState

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Asked", "rank"]

_SHOWN = 10  # candidates kept in a decision


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """n readings with their vectors, m of them joined to an earlier query.

    Args:
        readings: What the turns say.
        vectors: Unit vectors of their texts, shape (n, d).
        joined: Unit vectors of the joined texts, in order, shape (m, d); None leaves them out.
        state: Where the conversation stood before them.
    """

    readings: Sequence[Reading]
    vectors: FloatArray
    joined: FloatArray | None = None
    state: RoutingState = field(default_factory=RoutingState)


def rank(
    asked: Asked,
    rows: npt.NDArray[np.intp],
    snapshot: Snapshot,
    trained: Trained,
    decider: FinalDecider | None = None,
) -> list[AgentOutcome]:
    """Return the outcome of each of n readings.

    Args:
        asked: The readings.
        rows: Agents that may be chosen, at least one.
        snapshot: All agents.
        trained: Fitted to them.
        decider: Has the last word on the shortlist's order; None leaves it to the ranker.

    Raises:
        ScoreError: The logits are not finite.
    """
    logits, scope = _scores(asked, rows, snapshot, trained)
    if not np.isfinite(logits).all():
        raise ScoreError(
            "the ranker gave scores that are not finite. Check that the encoder gives finite "
            "vectors, then fit again with router.fit()."
        )
    weight = trained.exemplar_weight
    best = shortlist(
        logits, asked.vectors, (lambda i: exemplars(snapshot.records[rows[i]])) if weight else None
    )
    if decider is not None:
        texts = [reading.text for reading in asked.readings]
        best = decided(best, texts, rows, snapshot, weight, decider)
    if scope is not None and trained.fresh:
        scope = _known(scope, best, rows, snapshot, trained)
    seen = best.signals(weight, scope)
    if trained.gate.fits.looks_closer:
        seen = replace(seen, closer=closer_look(best, weight, asked.vectors, rows, snapshot))
    chances = trained.gate.chances(seen)
    refined = best.refined(weight)
    shares = np.exp(refined - best.total(weight)[:, None])
    order = np.argsort(-refined, axis=1, kind="stable")[:, :_SHOWN]
    return [
        _outcome(
            float(chance),
            trained.gate.threshold,
            tuple(Candidate(snapshot.names[rows[row[i]]], float(share[i])) for i in places),
        )
        for chance, row, share, places in zip(chances, best.agents, shares, order, strict=True)
    ]


def _scores(
    asked: Asked, rows: npt.NDArray[np.intp], snapshot: Snapshot, trained: Trained
) -> tuple[FloatArray, FloatArray | None]:
    """Return logits (n, n_rows) and, where fitted, those of being in scope (n,).

    A follow-up goes also by its joined text, and by that alone where scope is concerned.
    """
    ranker, readings = trained.ranker, asked.readings
    seen = ranker.features([reading.text for reading in readings], asked.vectors)
    logits = ranker.scores(seen, rows)
    scope = trained.scope.logits(seen) if trained.scope else None
    leaning = [i for i, reading in enumerate(readings) if reading.follows]
    if not leaning:
        return (logits if rows.size == logits.shape[1] else logits[:, rows]), scope
    whole = [reading.joined for reading in readings if reading.joined is not None]
    after, after_scope = iter(()), iter(())
    if asked.joined is not None and whole:
        joined = ranker.features(whole, asked.joined)
        after = iter(ranker.scores(joined, rows))
        after_scope = iter(trained.scope.logits(joined)) if trained.scope else after_scope
    previous = snapshot.position.get(asked.state.last_target or "")
    by_llm = asked.state.last_target is not None and previous is None
    for i in leaning:
        row = next(after, None) if readings[i].joined is not None else None
        logits[i] = in_context(logits[i], row, previous, by_llm=by_llm)
        if scope is not None and trained.scope is not None:
            scope[i] = trained.scope.usual if row is None else next(after_scope)
    return logits[:, rows], scope


def _known(
    scope: FloatArray,
    best: Shortlist,
    rows: npt.NDArray[np.intp],
    snapshot: Snapshot,
    trained: Trained,
) -> FloatArray:
    """Return the scope's logits (n,), raised to the usual where it does not know the best agent."""
    chosen = rows[best.best(trained.exemplar_weight)]
    fresh = np.array([snapshot.names[row] in trained.fresh for row in chosen])
    usual = np.float32(trained.scope.usual if trained.scope else 0.0)
    known: FloatArray = np.where(fresh, np.maximum(scope, usual), scope)
    return known


def _outcome(chance: float, threshold: float, candidates: tuple[Candidate, ...]) -> AgentOutcome:
    if chance >= threshold:
        return Handled((candidates[0].name,), chance, candidates)
    reason = (
        f"no agent fits: the nearest, {candidates[0].name!r}, is right with probability "
        f"{chance:.2f} and {threshold:.2f} is needed"
    )
    return Deferred(reason, chance, candidates)
