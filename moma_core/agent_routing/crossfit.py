"""Fits on held-out examples what training examples cannot tell: gate, scope, the exemplars' say.

Fold by fold, the i-th example of every agent is kept away from the ranker and from the exemplars;
what both then say of it is what they will say of a user's words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agent_routing.catalog import Snapshot
from moma_core.agent_routing.cold_start import closer_look
from moma_core.agent_routing.gate import DESCRIPTIONS_CURVE, Gate, Signals, fit_gate
from moma_core.agent_routing.negatives import Negatives
from moma_core.agent_routing.ranker import Features, LinearRanker
from moma_core.agent_routing.scope import ENOUGH_NEGATIVES, Scope, cross_fit_scope, fit_scope
from moma_core.agent_routing.shortlist import Shortlist, exemplars, shortlist
from moma_core.agent_routing.task import FOLDS, Task
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["FOLDS", "CrossFitted", "cold_gate", "cold_threshold", "cross_fit"]

_WEIGHTS = (0.0, 3.0, 6.0, 10.0, 15.0, 20.0)


@dataclass(frozen=True, slots=True, eq=False)
class CrossFitted:
    """What held-out examples told.

    Args:
        gate: Whether the best agent fits.
        exemplar_weight: What an agent's examples, one by one, add to its logit.
        scope: Whether a query's words are in scope; None with too few negatives to learn it.
    """

    gate: Gate
    exemplar_weight: float = 0.0
    scope: Scope | None = None


def cross_fit(
    task: Task,
    snapshot: Snapshot,
    ranker: LinearRanker,
    negatives: Negatives,
    tell: Callable[[str, int, int], None],
    max_wrong_agent_rate: float | None = None,
) -> CrossFitted:
    """Return the gate, the scope and the exemplars' weight, chosen on held-out examples.

    Args:
        task: The examples, laid out for fitting; some agent has more than one, so that there are
            two folds at least.
        snapshot: The agents they belong to.
        ranker: Fitted on all of them; it ranks the negatives.
        negatives: Queries that no agent should take.
        tell: Progress.
        max_wrong_agent_rate: What the gate must guarantee, or None.
    """
    lists: list[Shortlist] = []
    rows: list[npt.NDArray[np.intp]] = []
    for fold in range(FOLDS):
        tell("fitting the gate on held-out examples", 1 + fold, 1 + FOLDS)
        held = np.flatnonzero(task.folds == fold)
        if held.size:
            lists.append(_held_out(task, snapshot, fold, held))
            rows.append(held)
    owners = [task.active[task.owners[held]] for held in rows]
    wanted = np.concatenate(owners)
    weight = _best_weight(lists, wanted)
    told = ranker.features(negatives.texts, negatives.vectors)
    scope, inside, outside = _scope(task, np.concatenate(rows), told, negatives.n_given)
    foreign = shortlist(
        ranker.scores(told), negatives.vectors, lambda agent: exemplars(snapshot.records[agent])
    )
    gate = fit_gate(
        _join([part.signals(weight) for part in lists], inside),
        _best(lists, weight) == wanted,
        _join([p.without(o).signals(weight) for p, o in zip(lists, owners, strict=True)], inside),
        foreign.signals(weight, outside),
        n_given=negatives.n_given,
        max_wrong_agent_rate=max_wrong_agent_rate,
    )
    return CrossFitted(gate, weight, scope)


def cold_gate(
    ranker: LinearRanker,
    snapshot: Snapshot,
    negatives: Negatives,
    max_wrong_agent_rate: float | None = None,
) -> Gate:
    """Return the gate for agents with too few examples to hold any out.

    Descriptions alone have a curve of their own; where some agent has an example the default curve
    holds. So few examples cannot promise a rate: asked for one, the gate accepts nothing.
    """
    if max_wrong_agent_rate is not None:
        return Gate(threshold=1.0, coverage=0.0, max_wrong_agent_rate=max_wrong_agent_rate)
    vectors = [record.example_vectors for record in snapshot.records]
    foreign = negatives.foreign_to(snapshot.descriptions, *vectors)
    if not snapshot.records or not foreign.texts:
        return Gate()
    best = shortlist(ranker.logits(foreign.texts, foreign.vectors), foreign.vectors, None)
    seen = best.signals(0.0)
    if any(own.size for own in vectors):
        chances = Gate().chances(seen)
        return Gate(threshold=cold_threshold(chances, _SOME_EXAMPLES))
    everybody = np.arange(len(snapshot.records))
    look = closer_look(best, 0.0, foreign.vectors, everybody, snapshot)
    chances = DESCRIPTIONS_CURVE.chances(replace(seen, closer=look))
    return Gate(DESCRIPTIONS_CURVE, threshold=cold_threshold(chances))


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Which share of foreign queries to refuse, and between which chances that may be asked."""

    caught: float
    least: float
    most: float


# Of descriptions alone: the cheapest over data sets left out of the curve's fit; and of a few
# examples: kept and caught at it (benchmarks/cold_gate.py).
_DESCRIPTIONS = _Bounds(0.9, 0.25, 0.4)
_SOME_EXAMPLES = _Bounds(0.95, 0.15, 0.5)


def cold_threshold(foreign: npt.NDArray[np.float64], bounds: _Bounds = _DESCRIPTIONS) -> float:
    """Return the least probability to accept, from that of n foreign queries, shape (n,).

    Some catalogs describe their agents in a word, others in sentences, and one curve cannot be
    calibrated for both; how near queries come that fit nobody tells them apart. Between bounds, a
    catalog whose descriptions foreign queries never come near asks for less certainty.

    Example:
        >>> cold_threshold(np.array([0.01, 0.02, 0.4])), cold_threshold(np.array([0.9, 0.95]))
        (0.324, 0.4)
    """
    wanted = float(np.quantile(foreign, bounds.caught))
    return round(min(max(wanted, bounds.least), bounds.most), 4)


def _held_out(task: Task, snapshot: Snapshot, fold: int, held: npt.NDArray[np.intp]) -> Shortlist:
    kept = _exemplars_without(task, snapshot, fold)
    logits = task.fit(task.folds != fold).logits(task.features.rows(held))
    return shortlist(logits, task.vectors[held], kept.__getitem__)


def _exemplars_without(task: Task, snapshot: Snapshot, fold: int) -> list[FloatArray]:
    """Return every agent's exemplars, less the examples of a fold."""
    kept = [record.description_vector[None] for record in snapshot.records]
    first = 0
    for agent in task.active:
        vectors = snapshot.records[agent].example_vectors
        stays = task.folds[first : first + len(vectors)] != fold
        first += len(vectors)
        if stays.any():
            kept[agent] = vectors[stays]
    return kept


def _best(lists: Sequence[Shortlist], weight: float) -> npt.NDArray[np.intp]:
    return np.concatenate([part.best(weight) for part in lists])


def _best_weight(lists: Sequence[Shortlist], wanted: npt.NDArray[np.intp]) -> float:
    """Return the weight that gets most examples right; ties go to the smaller one."""
    right = [(_best(lists, weight) == wanted).sum() for weight in _WEIGHTS]
    return _WEIGHTS[int(np.argmax(right))]


def _scope(
    task: Task, order: npt.NDArray[np.intp], outside: Features, n_given: int
) -> tuple[Scope | None, FloatArray | None, FloatArray | None]:
    """Return the scope, and held-out logits of the examples in ``order`` and of the negatives."""
    if n_given < ENOUGH_NEGATIVES:
        return None, None, None
    inside = task.features.rows(np.arange(task.n_examples))
    folds = np.arange(outside.dense.shape[0]) % FOLDS
    shown, foreign = cross_fit_scope(inside, outside, task.folds, folds)
    scope = replace(fit_scope(inside, outside), usual=float(np.median(shown)))
    return scope, shown[order], foreign


def _join(parts: Sequence[Signals], scope: FloatArray | None) -> Signals:
    return Signals(
        np.concatenate([part.top for part in parts]),
        np.concatenate([part.log_share for part in parts]),
        scope,
    )
