"""Turns a catalog into a ranker and a gate; adds single agents without touching the others.

`train` fits everything; `extend` follows a catalog that changed: kept agents keep their columns to
the bit, new and changed ones are fitted against them in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from moma_core.agent_routing.catalog import Snapshot
from moma_core.agent_routing.cold_start import lean_names
from moma_core.agent_routing.crossfit import FOLDS, cold_gate, cross_fit
from moma_core.agent_routing.fitting import HELD, fit_columns, logsumexp
from moma_core.agent_routing.gate import Gate
from moma_core.agent_routing.lexical import document_frequencies, inverse_frequencies
from moma_core.agent_routing.negatives import Negatives
from moma_core.agent_routing.ranker import (
    Columns,
    Features,
    LinearRanker,
    description_columns,
    stack_columns,
    stack_features,
)
from moma_core.agent_routing.scope import Scope
from moma_core.agent_routing.task import Task
from moma_core.agent_routing.wording import card_text
from moma_core.protocols import AgentRecord
from moma_core.types import FloatArray

__all__ = ["Progress", "Trained", "extend", "fingerprint", "sources_of", "train"]

Progress = Callable[[str, int, int], None]  # label, done, total

_MIN_EXAMPLES_FOR_GATE = 10
_NEAREST_NEGATIVES = 1_000  # examples of other agents that a new agent is told apart from
_NEAREST_AGENTS = 2_000  # agents whose examples these can be
_PRODUCTS = 2_000_000  # of an example and an agent, that a new agent may cost


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A fitted ranker and gate, and what each column was fitted on.

    Args:
        ranker: One column an agent.
        gate: Fitted on held-out examples.
        exemplar_weight: What an agent's examples, one by one, add to its logit (`Shortlist`).
        sources: Fingerprint of each agent's card when its column was fitted.
        changes: Agents added or changed since everything was last fitted together.
        scope: Whether a query's words are in scope; None where nothing told.
        fresh: Names of the agents that came or changed since: the scope does not know them.
    """

    ranker: LinearRanker
    gate: Gate
    sources: Mapping[str, str] = field(default_factory=dict)
    changes: int = 0
    exemplar_weight: float = 0.0
    scope: Scope | None = None
    fresh: frozenset[str] = frozenset()


def fingerprint(record: AgentRecord) -> str:
    """Return a digest of what an agent's column depends on; being enabled is not part of it."""
    card = record.card
    parts = [card.name, card.description, list(card.examples), dict(card.input_schema)]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()


def train(
    snapshot: Snapshot,
    negatives: Negatives,
    progress: Progress | None = None,
    max_wrong_agent_rate: float | None = None,
) -> Trained:
    """Fit the ranker to all examples, and the gate to examples held out fold by fold.

    Args:
        snapshot: The agents; with no example at all, descriptions alone make the ranker.
        negatives: Queries that no agent should take; may be empty.
        progress: Called with a label, fits done, and fits in all.
        max_wrong_agent_rate: What the gate must guarantee (`conformal_threshold`); None lets it
            balance.
    """
    records = snapshot.records
    tell = progress or (lambda _label, _done, _total: None)
    names = snapshot.names
    texts = [card_text(record.card) for record in records]
    examples = [text for record in records for text in record.card.examples]
    corpus = texts + examples
    idf = inverse_frequencies(document_frequencies(corpus), len(corpus))
    described = Features.of(texts, snapshot.descriptions, idf)
    prior = description_columns(described)
    sources = {name: fingerprint(r) for name, r in zip(names, records, strict=True)}
    if not examples:
        cold = LinearRanker(names, lean_names(prior, snapshot), idf)
        return Trained(cold, cold_gate(cold, snapshot, negatives, max_wrong_agent_rate), sources)
    task = Task.of(snapshot, examples, idf, described, prior)
    total = 1 + (FOLDS if _can_hold_out(records) else 0)
    tell("fitting the ranker", 0, total)
    ranker = LinearRanker(names, task.fit(np.ones(len(examples), dtype=bool)), idf)
    if total == 1:
        return Trained(
            ranker, cold_gate(ranker, snapshot, negatives, max_wrong_agent_rate), sources
        )
    shown = np.concatenate([record.example_vectors for record in records])
    foreign = negatives.foreign_to(snapshot.descriptions, shown)
    told = cross_fit(task, snapshot, ranker, foreign, tell, max_wrong_agent_rate)
    tell("fitted", total, total)
    return Trained(
        ranker, told.gate, sources, exemplar_weight=told.exemplar_weight, scope=told.scope
    )


def _can_hold_out(records: Sequence[AgentRecord]) -> bool:
    counts = [len(record.card.examples) for record in records]
    return sum(counts) >= _MIN_EXAMPLES_FOR_GATE and max(counts) > 1


def sources_of(
    snapshot: Snapshot, before: Snapshot | None = None, known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the fingerprint of each agent; ``known`` are those of the agents of ``before``."""
    known = known or {}
    same = {id(r) for r in before.records} if before else set()  # both are alive: ids are unique
    return {
        name: known[name] if id(record) in same and name in known else fingerprint(record)
        for name, record in zip(snapshot.names, snapshot.records, strict=True)
    }


def extend(
    trained: Trained, snapshot: Snapshot, sources: Mapping[str, str] | None = None
) -> Trained:
    """Return a ranker for the changed catalog in which unchanged agents keep their columns.

    Args:
        trained: Of the catalog as it was.
        snapshot: The catalog as it is.
        sources: `sources_of` the snapshot, where they are known.
    """
    old = trained.ranker
    sources = sources_of(snapshot) if sources is None else sources
    row = {name: i for i, name in enumerate(old.names)}
    kept = [n for n in snapshot.names if n in row and trained.sources.get(n) == sources[n]]
    known = set(kept)
    fresh = [n for n in snapshot.names if n not in known]
    appended = snapshot.names == (*old.names, *fresh)  # as catalogs mostly change
    if appended:
        columns = [old.columns]
    else:
        columns = [old.columns.rows(np.array([row[n] for n in kept], dtype=np.intp))]
    for name in fresh:
        columns.append(_one_column(snapshot, name, columns, kept, old.idf))
    trained = replace(
        trained,
        sources=sources,
        changes=trained.changes + len(fresh),
        fresh=trained.fresh.union(fresh),
    )
    if appended:
        ranker = old.extended(fresh, stack_columns(columns[1:])) if fresh else old
        return replace(trained, ranker=ranker)
    stacked = stack_columns(columns)
    place = {name: i for i, name in enumerate([*kept, *fresh])}
    order = np.array([place[name] for name in snapshot.names], dtype=np.intp)
    return replace(trained, ranker=LinearRanker(snapshot.names, stacked.rows(order), old.idf))


def _one_column(
    snapshot: Snapshot,
    name: str,
    others: Sequence[Columns],
    kept: Sequence[str],
    idf: FloatArray,
) -> Columns:
    """Fit one agent against the frozen others and the examples nearest to its description."""
    record = snapshot.records[snapshot.position[name]]
    own_texts = [card_text(record.card), *record.card.examples]
    own_vectors = np.concatenate([record.description_vector[None], record.example_vectors])
    own = Features.of(own_texts, own_vectors, idf)
    prior = description_columns(own.rows(np.arange(1)))
    if not record.card.examples or not kept:
        return lean_names(prior, snapshot)
    texts, vectors = _near(snapshot, kept, record.description_vector)
    features = stack_features(own, Features.of(texts, vectors, idf)) if texts else own
    owners = np.repeat(np.array([0, 1]), [len(own_texts), len(texts)])
    parts = [logsumexp(part.logits(features)) for part in others]
    return fit_columns(features, owners, prior, np.logaddexp.reduce(parts), bias_l2=HELD)


def _near(
    snapshot: Snapshot, kept: Sequence[str], vector: FloatArray
) -> tuple[list[str], FloatArray]:
    """Return the examples of kept agents that are nearest to a description.

    Among thousands of agents only the nearest ones are asked, and for fewer examples: every
    example costs one product with every agent.
    """
    rows = np.array([snapshot.position[name] for name in kept], dtype=np.intp)
    if rows.size > _NEAREST_AGENTS:
        cosines = snapshot.descriptions[rows] @ vector
        rows = rows[np.sort(np.argpartition(-cosines, _NEAREST_AGENTS)[:_NEAREST_AGENTS])]
    records = [snapshot.records[row] for row in rows]
    texts = [text for record in records for text in record.card.examples]
    vectors = np.concatenate([record.example_vectors for record in records])
    count = min(_NEAREST_NEGATIVES, max(_PRODUCTS // len(kept), 1))
    nearest = np.argsort(-(vectors @ vector), kind="stable")[:count]
    return [texts[i] for i in nearest], vectors[nearest]
