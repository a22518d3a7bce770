"""Turns a catalog into a ranker and a gate; adds single agents without touching the others.

`train` fits everything; `extend` follows a catalog that changed: kept agents keep their columns to
the bit, new and changed ones are fitted against them in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core._checks import is_number
from moma_core._store import read_pair, write_pair
from moma_core.agents.catalog import Snapshot, card_text
from moma_core.agents.gate import (
    DESCRIPTIONS_CURVE,
    ENOUGH_NEGATIVES,
    Gate,
    Negatives,
    Scope,
    Signals,
    cross_fit_scope,
    fit_gate,
    fit_scope,
)
from moma_core.agents.ranker import (
    HELD,
    Columns,
    Features,
    LinearRanker,
    description_columns,
    document_frequencies,
    fit_columns,
    inverse_frequencies,
    logsumexp,
    stack_columns,
    stack_features,
)
from moma_core.agents.reranker import (
    Shortlist,
    cold_start_features,
    downweight_ngrams,
    exemplars,
    shortlist,
)
from moma_core.agents.rival_training import MANY, fit_among_rivals
from moma_core.errors import ArtifactError
from moma_core.protocols import AgentRecord, Progress
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "FOLDS",
    "CrossFitted",
    "RankedList",
    "Task",
    "Trained",
    "cold_gate",
    "cold_threshold",
    "cross_fit",
    "extend",
    "fingerprint",
    "held_out_lists",
    "ranked_lists",
    "read_trained",
    "sources_of",
    "train",
    "trained_exists",
    "write_trained",
]

FOLDS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Examples and descriptions as rows to fit, with the agents that have examples as columns."""

    features: Features  # (n examples + k descriptions)
    vectors: FloatArray  # (n examples, d): unit vectors of the examples
    y: npt.NDArray[np.intp]  # row of `active` each text belongs to
    n_examples: int
    active: npt.NDArray[np.intp]  # k agents with at least one example
    prior: Columns  # all agents
    folds: npt.NDArray[np.intp]  # (n examples,): the i-th example of its agent, modulo the folds

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        examples: Sequence[str],
        idf: FloatArray,
        described: Features,
        prior: Columns,
    ) -> Task:
        """Lay out a snapshot whose descriptions and examples are features already."""
        counts = np.array([len(r.card.examples) for r in snapshot.records])
        active = np.flatnonzero(counts)
        vectors = np.concatenate([r.example_vectors for r in snapshot.records])
        in_scope = Features.of(examples, vectors, idf)
        y = np.repeat(np.arange(active.size), counts[active])
        return cls(
            features=stack_features(in_scope, described.rows(active)),
            vectors=vectors,
            y=np.concatenate([y, np.arange(active.size)]),
            n_examples=len(examples),
            active=active,
            prior=prior,
            folds=np.concatenate([np.arange(c) % FOLDS for c in counts[active]]),
        )

    def fit(self, use: npt.NDArray[np.bool_]) -> Columns:
        """Return columns of all agents, fitted on the descriptions and the chosen examples."""
        rows = np.flatnonzero(np.concatenate([use, np.ones(self.active.size, dtype=bool)]))
        features = self.features.rows(rows)
        n = self.prior.bias.size
        idle = np.setdiff1d(np.arange(n), self.active)
        # One agent alone has nothing to be told apart from: there the idle ones are its rivals.
        alone = self.active.size == 1 and idle.size > 0
        frozen = logsumexp(self.prior.rows(idle).logits(features)) if alone else None
        prior, y = self.prior.rows(self.active), self.y[rows]
        if alone:
            fitted = fit_columns(features, y, prior, frozen, bias_l2=HELD)
        else:
            many = self.active.size >= MANY
            fitted = (fit_among_rivals if many else fit_columns)(features, y, prior)
            # A softmax leaves the common level of its biases open: the idle ones sit at 0.
            fitted.bias[:] -= fitted.bias.mean()
        order = np.argsort(np.concatenate([self.active, idle]), kind="stable")
        return stack_columns([fitted, self.prior.rows(idle)]).rows(order)


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
    y = [task.active[task.y[held]] for held in rows]
    wanted = np.concatenate(y)
    weight = _best_weight(lists, wanted)
    told = ranker.features(negatives.texts, negatives.vectors)
    scope, inside, outside = _scope(task, np.concatenate(rows), told, negatives.n_given)
    out_of_scope = shortlist(
        ranker.scores(told), negatives.vectors, lambda agent: exemplars(snapshot.records[agent])
    )
    gate = fit_gate(
        _join([part.signals(weight) for part in lists], inside),
        _best(lists, weight) == wanted,
        _join([p.without(o).signals(weight) for p, o in zip(lists, y, strict=True)], inside),
        out_of_scope.signals(weight, outside),
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
    out_of_scope = negatives.foreign_to(snapshot.descriptions, *vectors)
    if not snapshot.records or not out_of_scope.texts:
        return Gate()
    best = shortlist(
        ranker.logits(out_of_scope.texts, out_of_scope.vectors), out_of_scope.vectors, None
    )
    seen = best.signals(0.0)
    if any(own.size for own in vectors):
        probabilities = Gate().probabilities(seen)
        return Gate(threshold=cold_threshold(probabilities, _SOME_EXAMPLES))
    everybody = np.arange(len(snapshot.records))
    look = cold_start_features(best, 0.0, out_of_scope.vectors, everybody, snapshot)
    probabilities = DESCRIPTIONS_CURVE.probabilities(replace(seen, cold=look))
    return Gate(DESCRIPTIONS_CURVE, threshold=cold_threshold(probabilities))


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Which share of out-of-scope queries to refuse, between which thresholds."""

    caught: float
    least: float
    most: float


# Of descriptions alone: the cheapest over data sets left out of the curve's fit; and of a few
# examples: kept and caught at it (benchmarks/cold_gate.py).
_DESCRIPTIONS = _Bounds(0.9, 0.25, 0.4)
_SOME_EXAMPLES = _Bounds(0.95, 0.15, 0.5)


def cold_threshold(out_of_scope: npt.NDArray[np.float64], bounds: _Bounds = _DESCRIPTIONS) -> float:
    """Return the least probability to accept, from that of n out_of_scope queries, shape (n,).

    Some catalogs describe their agents in a word, others in sentences, and one curve cannot be
    calibrated for both; how near queries come that fit nobody tells them apart. Between bounds, a
    catalog whose descriptions out_of_scope queries never come near asks for less certainty.

    Example:
        >>> cold_threshold(np.array([0.01, 0.02, 0.4])), cold_threshold(np.array([0.9, 0.95]))
        (0.324, 0.4)
    """
    wanted = float(np.quantile(out_of_scope, bounds.caught))
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
    in_scope, out_of_scope = cross_fit_scope(inside, outside, task.folds, folds)
    scope = replace(fit_scope(inside, outside), usual=float(np.median(in_scope)))
    return scope, in_scope[order], out_of_scope


def _join(parts: Sequence[Signals], scope: FloatArray | None) -> Signals:
    return Signals(
        np.concatenate([part.top for part in parts]),
        np.concatenate([part.log_share for part in parts]),
        scope,
    )


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
        columns = downweight_ngrams(prior, [record.card for record in records])
        cold = LinearRanker(names, columns, idf)
        return Trained(cold, cold_gate(cold, snapshot, negatives, max_wrong_agent_rate), sources)
    task = Task.of(snapshot, examples, idf, described, prior)
    total = 1 + (FOLDS if _can_hold_out(records) else 0)
    tell("fitting the ranker", 0, total)
    ranker = LinearRanker(names, task.fit(np.ones(len(examples), dtype=bool)), idf)
    if total == 1:
        return Trained(
            ranker, cold_gate(ranker, snapshot, negatives, max_wrong_agent_rate), sources
        )
    in_scope = np.concatenate([record.example_vectors for record in records])
    out_of_scope = negatives.foreign_to(snapshot.descriptions, in_scope)
    told = cross_fit(task, snapshot, ranker, out_of_scope, tell, max_wrong_agent_rate)
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
        told = bool(snapshot.n_examples.any())
        return prior if told else downweight_ngrams(prior, [record.card])
    texts, vectors = _near(snapshot, kept, record.description_vector)
    features = stack_features(own, Features.of(texts, vectors, idf)) if texts else own
    y = np.repeat(np.array([0, 1]), [len(own_texts), len(texts)])
    parts = [logsumexp(part.logits(features)) for part in others]
    return fit_columns(features, y, prior, np.logaddexp.reduce(parts), bias_l2=HELD)


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


_LENGTH = 16


@dataclass(frozen=True, slots=True)
class RankedList:
    """The agents that a ranker lists for one query, best first.

    Args:
        query: The words.
        names: k agents.
        log_prior: Their log probabilities among all agents, length k.
        wanted: The agent whose example the query is; empty where nobody knows.
    """

    query: str
    names: tuple[str, ...]
    log_prior: tuple[float, ...]
    wanted: str = ""


def ranked_lists(
    snapshot: Snapshot,
    queries: Sequence[str],
    vectors: FloatArray,
    trained: Trained | None = None,
) -> list[RankedList]:
    """Return the shortlist of each query.

    Args:
        snapshot: The agents, at least one.
        queries: n queries.
        vectors: Their unit vectors, shape (n, d).
        trained: The ranker; by default it is fitted here.
    """
    if trained is None:
        nothing = np.zeros((0, snapshot.dimension), dtype=np.float32)
        trained = train(snapshot, Negatives((), nothing, 0))
    weight = trained.exemplar_weight
    best = shortlist(
        trained.ranker.logits(queries, vectors),
        vectors,
        (lambda i: exemplars(snapshot.records[i])) if weight else None,
    )
    log_shares = best.refined(weight) - best.total(weight)[:, None]
    return [
        _listed(snapshot, query, agents, row)
        for query, agents, row in zip(queries, best.agents, log_shares, strict=True)
    ]


def held_out_lists(snapshot: Snapshot, most: int = 400, seed: int = 0) -> list[RankedList]:
    """Return shortlists of agents' examples by rankers fitted without them.

    Args:
        snapshot: The agents; those without examples are listed beside the others.
        most: Examples to return at most, drawn at random.
        seed: Of the draw.

    Returns:
        None where fewer than two examples are known.
    """
    texts = [card_text(record.card) for record in snapshot.records]
    examples = [text for record in snapshot.records for text in record.card.examples]
    if len(examples) < 2:
        return []
    corpus = texts + examples
    idf = inverse_frequencies(document_frequencies(corpus), len(corpus))
    described = Features.of(texts, snapshot.descriptions, idf)
    task = Task.of(snapshot, examples, idf, described, description_columns(described))
    rng = np.random.default_rng(seed)
    lists: list[RankedList] = []
    for fold in range(FOLDS):
        held = rng.permutation(np.flatnonzero(task.folds == fold))[: most - len(lists)]
        if not 0 < held.size < task.n_examples:
            continue
        logits = task.fit(task.folds != fold).logits(task.features.rows(held))
        best = shortlist(logits, task.vectors[held], None)
        log_shares = best.logits - best.total(0.0)[:, None]
        for example, agents, row in zip(held, best.agents, log_shares, strict=True):
            wanted = snapshot.names[task.active[task.y[example]]]
            lists.append(_listed(snapshot, examples[example], agents, row, wanted))
    return lists


def _listed(
    snapshot: Snapshot,
    query: str,
    agents: np.ndarray[tuple[int, ...], np.dtype[np.intp]],
    log_shares: FloatArray,
    wanted: str = "",
) -> RankedList:
    order = np.argsort(-log_shares, kind="stable")[:_LENGTH]
    names = tuple(snapshot.names[agents[i]] for i in order)
    return RankedList(query, names, tuple(float(log_shares[i]) for i in order), wanted)


_FILES = "ranker.json", "ranker.safetensors"
_REMEDY = (
    f"Delete {_FILES[0]} and {_FILES[1]} there: they are fitted again from the registered agents, "
    "and your own negatives are to be given again."
)


def write_trained(directory: Path, trained: Trained, negatives: Negatives, encoder: str) -> None:
    """Write two files into ``directory``, each whole or not at all.

    Raises:
        ArtifactError: The disk is full or not writable; what was there before is intact.
    """
    scope = trained.scope.arrays() if trained.scope else {}
    arrays = {**trained.ranker.arrays(), **scope, "negative_vectors": negatives.vectors}
    document = {
        "encoder": encoder,
        "agents": list(trained.ranker.names),
        "gate": trained.gate.to_dict(),
        "sources": dict(trained.sources),
        "changes": trained.changes,
        "exemplar_weight": trained.exemplar_weight,
        "fresh": sorted(trained.fresh),
        "negatives": list(negatives.texts),
        "negatives_given": negatives.n_given,
    }
    write_pair(directory, _FILES, document, arrays)


def trained_exists(directory: Path) -> bool:
    """Say whether any part of a saved ranker is there."""
    return any((directory / name).exists() for name in _FILES)


def read_trained(directory: Path, encoder: str) -> tuple[Trained, Negatives]:
    """Read what `write_trained` wrote.

    Raises:
        ArtifactError: A file is missing, truncated, changed, of another version or encoder.
    """
    document, arrays = read_pair(directory, _FILES, _REMEDY)
    try:
        if document["encoder"] != encoder:
            raise ValueError(f"fitted with encoder {document['encoder']!r}, not {encoder!r}")
        _check_document(document)
        vectors = arrays.pop("negative_vectors")
        ranker = LinearRanker.from_arrays(document["agents"], arrays)
        trained = Trained(
            ranker,
            Gate.from_dict(document["gate"]),
            document["sources"],
            document["changes"],
            document["exemplar_weight"],
            Scope.from_arrays(arrays),
            frozenset(document.get("fresh", ())),
        )
        _probe(trained, vectors.shape[1])
        texts = tuple(document["negatives"])
        if not (len(texts) == len(vectors) and np.isfinite(vectors).all()):
            raise ValueError("its negatives and their vectors do not belong together")
        return trained, Negatives(texts, vectors, document["negatives_given"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ArtifactError(
            f"the agents' ranker in {str(directory)!r} cannot be used: {error}. {_REMEDY}"
        ) from error


def _check_document(document: Mapping[str, Any]) -> None:
    """Refuse a JSON file whose values have other types than `write_trained` gave them.

    Raises:
        ValueError: One has.
    """
    for name in ("agents", "fresh", "negatives"):
        texts = document.get(name, ())
        if not all(isinstance(text, str) for text in texts) or isinstance(texts, str):
            raise ValueError(f"{name} is no list of texts")
    sources = document["sources"]
    if not isinstance(sources, dict) or not all(isinstance(v, str) for v in sources.values()):
        raise ValueError("sources are no texts by name")
    given = document["negatives_given"]
    numbers = {"changes": document["changes"], "negatives_given": given}
    for name, value in document["gate"].items():
        of_curve = name in ("fits", "right") and value is not None
        numbers |= {f"{name} {n}": v for n, v in value.items()} if of_curve else {name: value}
    numbers["exemplar_weight"] = document["exemplar_weight"]
    for name, value in numbers.items():
        if not is_number(value) and not (value is None and name in _MAY_BE_NONE):
            raise ValueError(f"{name} is no number, but {value!r:.40}")
    if not 0 <= given <= len(document["negatives"]) or document["gate"]["fits"] is None:
        raise ValueError("it counts more negatives than it has, or has no gate")


_MAY_BE_NONE = ("coverage", "max_wrong_agent_rate", "right")


def _probe(trained: Trained, dimension: int) -> None:
    """Rank and gate one query, so that parts of unlike shapes are found at load and not in use.

    Raises:
        ValueError: Something is not finite, or does not fit.
    """
    vectors = np.zeros((1, dimension), dtype=np.float32)
    features = trained.ranker.features(["?"], vectors)
    logits = trained.ranker.scores(features)
    scope = trained.scope.logits(features) if trained.scope else None
    if logits.shape != (1, len(trained.ranker.names)) or not np.isfinite(logits).all():
        raise ValueError(f"expected finite scores of {len(trained.ranker.names)} agents")
    zero = np.zeros(1, dtype=np.float32)
    seen = Signals(zero, zero, zero if scope is None else scope, np.zeros((1, 2), np.float32))
    if not np.isfinite(trained.gate.probabilities(seen)).all():
        raise ValueError("the gate gives no probabilities")
