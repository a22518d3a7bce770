"""Agent routing as the paper tells it (sect. 4.2): state, eligible agents, ranking, gate.

`AgentRouter` reads a catalog, follows its changes, and answers `Handled` or `Deferred`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agents.acts import generality
from moma_core.agents.catalog import AgentCatalog, Snapshot, card_text
from moma_core.agents.categories import Categories, Taxonomy, collect, follow
from moma_core.agents.claims import counting
from moma_core.agents.conversation import EncodedTurns, Reading, asking, goes_on, in_context
from moma_core.agents.gate import (
    COLD_THRESHOLD,
    Evidence,
    Negatives,
    blended,
    check_rate,
    cold_probabilities,
)
from moma_core.agents.hints import effect_of
from moma_core.agents.ranker import Columns, Features, description_columns, logsumexp
from moma_core.agents.reranker import (
    LENGTH,
    LOUDEST,
    Read,
    Reranker,
    Shortlist,
    cold_start_features,
    exemplars,
    rerank,
    shortlist,
)
from moma_core.agents.states import StateMachine
from moma_core.agents.training import Trained, extend, sources_of, train
from moma_core.encoder import PACKAGED
from moma_core.errors import ScoreError
from moma_core.health import Health
from moma_core.locks import Lock
from moma_core.protocols import AgentRecord, FinalDecider, Progress
from moma_core.types import (
    AgentOutcome,
    Candidate,
    Deferred,
    FloatArray,
    Handled,
    Query,
    RoutingState,
    Trace,
)

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "AgentRouter",
    "Choice",
    "Eligible",
    "Fitted",
    "RankRequest",
    "apply_decider",
    "eligible_agents",
    "rank",
]


@dataclass(frozen=True, slots=True, eq=False)
class Eligible:
    """The agents that may be chosen, and why not the others.

    Args:
        rows: Of the snapshot, those that may be chosen.
        total: How many agents are registered.
        left_out: Reason and number of agents, each agent counted once.
        state: Names of the active states.
        absent: Rows of the agents that a query may mean and that are not there now, and why:
            disabled, unhealthy or excluded.
    """

    rows: npt.NDArray[np.intp]
    total: int
    left_out: tuple[tuple[str, int], ...] = ()
    state: tuple[str, ...] = ()
    absent: Mapping[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out)
        counted = f"{self.rows.size} of {self.total} agents"
        return f"{counted} ({reasons})" if reasons else counted

    @property
    def why_nobody(self) -> str:
        """Why an LLM takes the query where no agent may be chosen."""
        if not self.total:
            return "no agents are registered"
        where = f" in state {' + '.join(self.state)}" if self.state else ""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out)
        return f"none of {self.total} agents is enabled and eligible{where} ({reasons})"


def eligible_agents(
    snapshot: Snapshot,
    states: StateMachine,
    state: RoutingState,
    unhealthy: Collection[str] = (),
    exclude: Collection[str] = (),
    among: Collection[str] | None = None,
) -> Eligible:
    """Return which agents may be chosen in ``state``.

    Args:
        snapshot: All agents.
        states: Says which of them a state allows.
        state: Where the conversation stands.
        unhealthy: Names that failed lately.
        exclude: Names that may not be chosen this time.
        among: The only names that may be chosen; None: all.
    """
    masks = [("disabled", snapshot.enabled)]
    if unhealthy:
        masks.append(("unhealthy", _without(snapshot, unhealthy)))
    if exclude:
        masks.append(("excluded", _without(snapshot, exclude)))
    absences = len(masks)  # those that follow say which agents are not meant
    if among is not None:
        masks.append(("not asked about", ~_without(snapshot, among)))
    if state.active:
        categories = [record.card.categories for record in snapshot.records]
        allowed = states.eligible(state, snapshot.names, categories)
        if allowed is not None:
            masks.append(("outside the state", allowed))
    eligible = np.ones(len(snapshot.records), dtype=bool)
    left_out = []
    for reason, mask in masks:
        count = int((eligible & ~mask).sum())
        eligible &= mask
        if count:
            left_out.append((reason, count))
    meant = np.ones(eligible.size, dtype=bool)
    for _, mask in masks[absences:]:
        meant &= mask
    absent = {
        int(row): reason
        for reason, mask in reversed(masks[:absences])  # an agent's first reason counts
        for row in np.flatnonzero(meant & ~mask)
    }
    rows = np.flatnonzero(eligible)
    return Eligible(rows, eligible.size, tuple(left_out), state.active, absent)


def _without(snapshot: Snapshot, names: Collection[str]) -> npt.NDArray[np.bool_]:
    mask = np.ones(len(snapshot.records), dtype=bool)
    mask[[snapshot.position[name] for name in names if name in snapshot.position]] = False
    return mask


_LEAST = 1e-9  # a probability of nothing, whose logarithm is still a number


def apply_decider(
    best: Shortlist,
    texts: Sequence[str],
    rows: npt.NDArray[np.intp],
    snapshot: Snapshot,
    weight: float,
    decider: FinalDecider,
    away: npt.NDArray[np.bool_] | None = None,
) -> Shortlist:
    """Return the list of each of n queries with the logits that a final decision gives it.

    Args:
        best: The ranker's, k agents a query.
        texts: The queries, length n.
        rows: Of the snapshot, what the list's agents are columns of.
        snapshot: All agents.
        weight: Of the examples one by one, as in `Shortlist.refined`.
        decider: Gives probabilities.
        away: Which of the columns it is not to choose; they keep their logits.

    Raises:
        ScoreError: The probabilities are not finite, or not one for each agent.
    """
    logits = best.refined(weight)
    for i, text in enumerate(texts):
        places = np.arange(logits.shape[1])
        if away is not None:
            places = np.flatnonzero(~away[best.agents[i]])
        cards = [snapshot.records[rows[agent]].card for agent in best.agents[i, places]]
        before = logits[i, places]
        probabilities = np.asarray(decider.decide(text, cards, before))
        if probabilities.shape != before.shape or not np.isfinite(probabilities).all():
            raise ScoreError(
                f"the final decision gave {probabilities!s:.60} for {len(cards)} agents; "
                "one finite value each was expected. Check the decider, or route with decider=None."
            )
        logits[i, places] = np.log(np.maximum(probabilities, _LEAST)) + logsumexp(before)
    return replace(best, logits=logits - np.float32(weight) * best.closeness)


K = 10  # candidates kept in a decision


@dataclass(frozen=True, slots=True, eq=False)
class RankRequest:
    """n turns to rank the agents for.

    Args:
        turns: What they say, with their vectors.
        state: Where the conversation stood before them.
        k: How many candidates to return of each.
        absent: Rows of agents that a turn may mean and that are not there now, and why. They are
            ranked with the others: where one fits as well as any, nobody takes its place.
        min_probability: Least probability to accept an agent; None: the gate's.
    """

    turns: EncodedTurns
    state: RoutingState = field(default_factory=RoutingState)
    k: int = K
    absent: Mapping[int, str] = field(default_factory=dict)
    min_probability: float | None = None


_ABSENT = 8  # of them, the best, that have a place in a shortlist
_AS_GOOD = 0.5  # logit by which the best agent must lead each of them


def rank(
    request: RankRequest,
    rows: npt.NDArray[np.intp],
    catalog: Fitted,
    decider: FinalDecider | None = None,
    reranker: Reranker | None = None,
) -> list[AgentOutcome]:
    """Return the outcome of each of n readings.

    Args:
        request: The readings.
        rows: Agents that may be chosen, at least one.
        catalog: All agents, and what was fitted to them.
        decider: Has the last word on the shortlist's order; None leaves it to the ranker.
        reranker: Reads query and card together where few examples are known; None: nobody does.

    Raises:
        ScoreError: The logits are not finite.
    """
    snapshot, trained = catalog.snapshot, catalog.trained
    absent = np.array(sorted(request.absent), dtype=np.intp)
    rows = np.union1d(rows, absent) if absent.size else rows
    away = np.isin(rows, absent) if absent.size else np.zeros(rows.size, dtype=bool)
    logits, scope = _scores(request, rows, catalog)
    if not np.isfinite(logits).all():
        raise ScoreError(
            "the ranker gave scores that are not finite. Check that the encoder gives finite "
            "vectors, then fit again with router.fit()."
        )
    weight, vectors = trained.exemplar_weight, request.turns.alone
    own = (lambda i: exemplars(snapshot.records[rows[i]])) if weight else None
    length = max(request.k, LENGTH) + min(absent.size, _ABSENT)
    best = shortlist(_few_absent(logits, away), vectors, own, length)
    texts = [reading.text for reading in request.turns.readings]
    read = None
    if reranker is not None:
        best, read = rerank(best, texts, rows, snapshot, weight, reranker)
    elif catalog.measured:
        read = Read.nothing(best, rows, snapshot, weight)
    if decider is not None:
        best = apply_decider(best, texts, rows, snapshot, weight, decider, away)
    if scope is not None and trained.fresh:
        scope = _known(scope, best, rows, snapshot, trained)
    gated, some, thresholds = _gated(best, (read, scope), request.turns, rows, catalog)
    if request.min_probability is not None:
        thresholds = np.full(len(gated), request.min_probability)
    refined = best.refined(weight)
    shares = np.exp(refined - best.total(weight)[:, None])
    outcomes = []
    for i, places in enumerate(np.argsort(-refined, axis=1, kind="stable")):
        listed = rows[best.agents[i, places]]
        there = np.flatnonzero(~away[best.agents[i, places]])
        absentee = _meant_instead(refined[i, places], there)
        missing = None
        if absentee is not None:
            row = int(listed[absentee])
            missing = snapshot.names[row], request.absent[row]
        candidates = tuple(
            Candidate(snapshot.names[listed[j]], float(shares[i, places[j]]))
            for j in there[: request.k]
        )
        probabilities = float(gated[i]), float(some[i])
        nearest = snapshot.names[listed[0]]
        outcome = _outcome(probabilities, float(thresholds[i]), candidates, nearest, missing)
        outcomes.append(_careful(outcome, float(thresholds[i]), snapshot))
    return outcomes


def _meant_instead(logits: FloatArray, there: npt.NDArray[np.intp]) -> int | None:
    """Return the place of an absent agent that fits as well as the best of those there.

    Args:
        logits: Of a shortlist, best first, shape (k,).
        there: The places of those that are there, at least one.
    """
    if there.size == logits.size:
        return None
    rival = int(np.delete(np.arange(logits.size), there)[0])
    return rival if logits[there[0]] - logits[rival] < _AS_GOOD else None


def _gated(
    best: Shortlist,
    said: tuple[Read | None, FloatArray | None],
    turns: EncodedTurns,
    rows: npt.NDArray[np.intp],
    catalog: Fitted,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return what the gate says of n queries: two probabilities and the threshold, (n,) each.

    The probabilities are that the best agent is right and that some agent fits. Where the reranker
    was asked, they lie between what holds for all catalogs and this catalog's own gate.

    Args:
        best: The shortlists.
        said: What the reranker said of them, and the logits of being in scope; None: nothing.
        turns: The queries, with their unit vectors.
        rows: Of the snapshot, what the lists' agents are columns of.
        catalog: All agents, and what was fitted to them.
    """
    (read, scope), snapshot, gate = said, catalog.snapshot, catalog.trained.gate
    vectors = turns.alone
    weight = catalog.trained.exemplar_weight
    seen = best.signals(weight, scope)
    if gate.fits.uses_cold_features:
        seen = replace(seen, cold=cold_start_features(best, weight, vectors, rows, snapshot))
    gated, some = gate.probabilities(seen), gate.fits.probabilities(seen)
    if read is None or gate.max_wrong_agent_rate is not None:
        return gated, some, np.full(len(gated), gate.threshold)
    n = int(snapshot.n_examples.sum()) if gate.coverage is not None else 0
    trust = np.where(read.share > 0, 1.0 / (1.0 + n / _MANY_EXAMPLES), 0.0)
    asked = bool(np.isfinite(read.logits).any())
    seen_cold = _evidence(best, read, turns, rows, catalog)
    right, fits = cold_probabilities(seen_cold, read=asked)
    cold = COLD_THRESHOLD + _MORE_ASKED * (1.0 - read.share)
    thresholds = trust * cold + (1.0 - trust) * gate.threshold
    return blended(right, gated, trust), blended(fits, some, trust), thresholds


def _few_absent(logits: FloatArray, away: npt.NDArray[np.bool_]) -> FloatArray:
    """Return logits (n, c) in which all but the best few columns that are ``away`` are -inf."""
    columns = np.flatnonzero(away)
    if columns.size <= _ABSENT:
        return logits
    kept: FloatArray = logits.copy()
    weak = np.argpartition(-logits[:, columns], _ABSENT - 1, axis=1)[:, _ABSENT:]
    np.put_along_axis(kept, columns[weak], np.float32(-np.inf), axis=1)
    return kept


@dataclass(frozen=True, eq=False)
class Fitted:
    """All agents at one moment, with what was fitted to them and the queries none should take.

    Args:
        snapshot: The agents.
        trained: Ranker and gate.
        negatives: Queries that no agent should take.
        measured: Whether the gate's curves for all catalogs were measured with this encoder.
        many_languages: Whether the encoder reads many.
    """

    snapshot: Snapshot
    trained: Trained
    negatives: Negatives
    measured: bool = True
    many_languages: bool = False

    @cached_property
    def described(self) -> Columns:
        """The columns that all agents would have by their descriptions alone."""
        texts = [card_text(record.card) for record in self.snapshot.records]
        idf = self.trained.ranker.idf
        return description_columns(Features.of(texts, self.snapshot.descriptions, idf))

    @cached_property
    def _reached(self) -> tuple[FloatArray, FloatArray]:
        """The packaged queries that no agent should take, (m, d), and how near each comes, (m,)."""
        vectors = self.negatives.vectors[self.negatives.n_given :]
        nearest = np.zeros(len(vectors), dtype=np.float32)
        if not len(vectors) or not self.snapshot.records:
            return vectors, nearest
        nearest = (vectors @ self.snapshot.descriptions.T).max(axis=1)
        with_any = [r.example_vectors for r in self.snapshot.records if len(r.example_vectors)]
        if with_any:
            nearest = np.maximum(nearest, (vectors @ np.concatenate(with_any).T).max(axis=1))
        return vectors, nearest

    def background(self, vectors: FloatArray) -> FloatArray:
        """Return how near queries (n, d) come that no agent should take, a cosine, shape (n,).

        The median of all that are packaged; where those are of many languages, the mean of the
        nearest ones, which are of the query's own: texts of one language are nearer to each other.
        """
        known, nearest = self._reached
        if not nearest.size:
            return np.zeros(len(vectors), dtype=np.float32)
        if not self.many_languages:
            return np.full(len(vectors), np.median(nearest), dtype=np.float32)
        alike = np.argpartition(-(vectors @ known.T), _ALIKE - 1, axis=1)[:, :_ALIKE]
        level: FloatArray = nearest[alike].mean(axis=1)
        return level


_ALIKE = 8
_MORE_ASKED = 0.25  # of the cold probability, among agents that all have many examples
_MANY_EXAMPLES = 100.0  # held out, at which a catalog's own gate counts as much as all others'


def _evidence(
    best: Shortlist,
    read: Read,
    turns: EncodedTurns,
    rows: npt.NDArray[np.intp],
    catalog: Fitted,
) -> Evidence:
    """Return what speaks for the best agent of each query."""
    vectors = turns.alone
    snapshot, weight = catalog.snapshot, catalog.trained.exemplar_weight
    refined = best.refined(weight)
    places = np.argsort(-refined, axis=1, kind="stable")[:, :LENGTH]
    n, pick = len(places), (np.arange(len(places)), places[:, 0])
    ranked = np.take_along_axis(refined, places, axis=1)
    cosines = np.array(
        [
            [_cosine(snapshot.records[rows[agent]], vector) for agent in row[order]]
            for row, order, vector in zip(best.agents, places, vectors, strict=True)
        ],
        dtype=np.float32,
    )
    said = np.take_along_axis(read.logits, places, axis=1)
    said = np.clip(np.where(np.isfinite(said), said, -LOUDEST), -_HEARD, _HEARD)
    nearest = cosines.max(axis=1)
    foreign = np.full(n, -1.0, dtype=np.float32)
    if len(catalog.negatives.vectors):
        foreign = (vectors @ catalog.negatives.vectors.T).max(axis=1)
    alone = ranked.shape[1] == 1
    return Evidence(
        above=nearest - catalog.background(vectors),
        foreign=foreign - nearest,
        cosine_lead=cosines[:, 0] - (_NEAR if alone else cosines[:, 1:].max(axis=1)),
        log_share=np.maximum(refined[pick] - logsumexp(refined), -5.0),
        lead=np.minimum(ranked[:, 0] - (_NOBODY if alone else ranked[:, 1]), 3.0),
        read_lead=said[:, 0] - (-_HEARD if alone else said[:, 1:].max(axis=1)),
        read=said[:, 0],
        refused=np.minimum(said.max(axis=1), 0.0),
        general=_general(turns, snapshot, rows[best.agents[pick[0], places[:, 0]]]),
    )


_TELLING = 8  # examples that tell how general an agent is


def _general(turns: EncodedTurns, snapshot: Snapshot, chosen: npt.NDArray[np.intp]) -> FloatArray:
    """Return `Evidence.general` of n queries with the rows of their best agents, shape (n,)."""
    asked = generality([reading.text for reading in turns.readings])
    cards = [snapshot.records[row].card for row in chosen]
    own = [generality([card.description, *card.examples[:_TELLING]]).max() for card in cards]
    more: FloatArray = np.clip(np.minimum(asked, asked - np.array(own)), 0.0, _MOST_GENERAL)
    return more


_MOST_GENERAL = 3.0


_NEAR = 0.1  # cosine that somebody reaches for any query
_HEARD = 6.0  # log-odds of the reranker beyond which the gate is no surer
_NOBODY = 0.5  # logit that somebody reaches for any query


def _cosine(record: AgentRecord, vector: FloatArray) -> float:
    told = float(record.description_vector @ vector)
    if len(record.example_vectors):
        told = max(told, float((record.example_vectors @ vector).max()))
    return told


def _scores(
    request: RankRequest, rows: npt.NDArray[np.intp], catalog: Fitted
) -> tuple[FloatArray, FloatArray | None]:
    """Return logits (n, n_rows) and, where fitted, those of being in scope (n,).

    A follow-up goes also by its joined text, and by that alone where scope is concerned.
    """
    snapshot, trained = catalog.snapshot, catalog.trained
    ranker, readings = trained.ranker, request.turns.readings
    seen = ranker.features([reading.text for reading in readings], request.turns.alone)
    logits = ranker.scores(seen, rows)
    scope = trained.scope.logits(seen) if trained.scope else None
    leaning = [i for i, reading in enumerate(readings) if reading.follows]
    if not leaning:
        kept = logits if rows.size == logits.shape[1] else logits[:, rows]
        return _on_one_scale(kept, seen, rows, catalog), scope
    whole = [reading.joined for reading in readings if reading.joined is not None]
    after, after_scope = iter(()), iter(())
    if whole:
        joined = ranker.features(whole, request.turns.joined)
        after = iter(ranker.scores(joined, rows))
        after_scope = iter(trained.scope.logits(joined)) if trained.scope else after_scope
    previous = snapshot.position.get(request.state.last_target or "")
    by_llm = request.state.last_target is not None and previous is None
    for i in leaning:
        row = next(after, None) if readings[i].joined is not None else None
        logits[i] = in_context(logits[i], row, previous, by_llm=by_llm)
        if scope is not None and trained.scope is not None:
            scope[i] = trained.scope.usual if row is None else next(after_scope)
    return _on_one_scale(logits[:, rows], seen, rows, catalog), scope


_TRUSTED = 0.7  # of what examples add to a description's logit, beside agents without any
_HANDICAP = 1.5  # logit that an agent of very many examples gives to agents without any
_HALF_KNOWN = 3.0  # examples at which it gives half of that


def _on_one_scale(
    logits: FloatArray, seen: Features, rows: npt.NDArray[np.intp], catalog: Fitted
) -> FloatArray:
    """Return logits (n, n_rows) in which agents with and without examples compete fairly.

    A column fitted to examples speaks louder than a description. Where both kinds are eligible, an
    agent of m examples scores ``c + 0.7 (f - c) - 1.5 m / (m + 3)``, with f its fitted logit and c
    what its description alone says; an agent without examples scores c.
    """
    known = catalog.snapshot.n_examples[rows]
    fitted = np.flatnonzero(known)
    if fitted.size in (0, rows.size):
        return logits
    described = catalog.described.rows(rows[fitted]).logits(seen)
    handicap = (_HANDICAP * known[fitted] / (known[fitted] + _HALF_KNOWN)).astype(np.float32)
    level: FloatArray = logits.copy()
    level[:, fitted] = described + _TRUSTED * (logits[:, fitted] - described) - handicap
    # The gate knows fitted logits: all move so that the best of them stays where it was.
    level += (logits[:, fitted].max(axis=1) - level[:, fitted].max(axis=1))[:, None]
    return level


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


def _outcome(
    probabilities: tuple[float, float],
    threshold: float,
    candidates: tuple[Candidate, ...],
    nearest: str,
    missing: tuple[str, str] | None,
) -> AgentOutcome:
    """Return what the gate says: its probability that the first is right, and that some fits.

    Args:
        probabilities: The two of them.
        threshold: Least probability to accept.
        candidates: Agents that are there, best first.
        nearest: Who is best, there or not.
        missing: Who fits as well as any and is not there, and why; None: nobody.
    """
    probability, some_fits = probabilities
    if probability >= threshold and missing is None:
        return Handled((candidates[0].name,), probability, candidates, some_fits)
    if probability >= threshold and missing is not None:
        reason = f"{missing[0]!r}, which fits as well as any agent, is {missing[1]}"
    else:
        reason = (
            f"no agent fits: the nearest, {nearest!r}, is right with probability "
            f"{probability:.2f} and {threshold:.2f} is needed"
        )
    return Deferred(reason, probability, candidates, some_fits)


_UNSURE = 0.5  # logit by which an agent that destroys must lead one that reads


def _careful(outcome: AgentOutcome, threshold: float, snapshot: Snapshot) -> AgentOutcome:
    """Return an outcome in which, unsure between reading and destroying, the agent reads."""
    if not isinstance(outcome, Handled) or len(outcome.candidates) < 2:
        return outcome
    (first, second), rest = outcome.candidates[:2], outcome.candidates[2:]
    cards = [snapshot.records[snapshot.position[c.name]].card for c in (first, second)]
    if [effect_of(card) for card in cards] != ["destroys", "reads"]:
        return outcome
    if second.score < first.score * np.exp(-_UNSURE):
        return outcome
    probability = outcome.probability * second.score / first.score
    even = (first.score + second.score) / 2
    candidates = (replace(second, score=even), replace(first, score=even), *rest)
    if probability >= threshold:
        return Handled((second.name,), probability, candidates, outcome.some_fits)
    reason = f"unsure whether {second.name!r} is to read or {first.name!r} to destroy"
    return Deferred(reason, probability, candidates, outcome.some_fits)


@dataclass(frozen=True, slots=True)
class Choice:
    """Who may be chosen this time.

    Args:
        exclude: Names that may not be chosen.
        among: The only names that may be chosen; None: all.
        k: How many candidates to return.
        substitutes: Whether a neighbour may take what is meant for an agent that is disabled,
            unhealthy or excluded.
        min_probability: Least probability to accept an agent; None: the gate's.
    """

    exclude: Collection[str] = ()
    among: Collection[str] | None = None
    k: int = K
    substitutes: bool = False
    min_probability: float | None = None


_REFIT_SHARE = 0.2  # of agents changed since the last full fit, above which all are fitted again
_FOLLOW_FROM = 300  # agents, from which categories are kept when single agents come or go


class AgentRouter:
    """Picks the agent for a query, or says that none fits.

    Args:
        catalog: The agents; changes to it take effect on the next route.
        states: The conversation's state machine; by default no state restricts anything.
        negatives: Queries that no agent should take; they sharpen the gate.
        trained: A saved ranker and gate; by default they are fitted on first use.
        max_wrong_agent_rate: Largest share of all queries that may go to a wrong agent, promised
            with 90 % confidence (`conformal_threshold`); None, or what ``trained`` was fitted to,
            balances instead.
        health: Agents that fail are not chosen until they recover; told by whoever invokes them.
        taxonomy: The user's list of categories and what they are for; by default what cards name.
        decider: Has the last word on who of the shortlist is best, before the gate; None: nobody.
        reranker: Reads query and card together where few examples are known; None: nobody does.
        substitutes: Whether a neighbour may take what is meant for an agent that is disabled,
            unhealthy or excluded; by default such a query is deferred.
    """

    def __init__(
        self,
        catalog: AgentCatalog,
        states: StateMachine | None = None,
        negatives: Negatives | None = None,
        trained: Trained | None = None,
        health: Health | None = None,
        max_wrong_agent_rate: float | None = None,
        taxonomy: Taxonomy | None = None,
        decider: FinalDecider | None = None,
        reranker: Reranker | None = None,
        *,
        substitutes: bool = False,
    ) -> None:
        self.catalog = catalog
        self.substitutes = substitutes
        if trained is not None and max_wrong_agent_rate is None:
            max_wrong_agent_rate = trained.gate.max_wrong_agent_rate
        self.max_wrong_agent_rate = max_wrong_agent_rate
        if max_wrong_agent_rate is not None:
            check_rate(max_wrong_agent_rate)
        self.health = health or Health()
        self.taxonomy = taxonomy or Taxonomy()
        self.decider = decider
        self.reranker = reranker
        self.states = states or StateMachine()
        empty = np.zeros((0, catalog.snapshot.dimension), dtype=np.float32)
        self.negatives = negatives or Negatives((), empty, 0)
        self._lock = Lock()
        self._known: Fitted | None = None
        self._counting: tuple[Snapshot, Snapshot] | None = None
        self._current: tuple[Snapshot, Trained, Categories] | None = None
        if trained is not None:
            self._follow(trained, self._snapshot())

    def fit(self, progress: Progress | None = None) -> None:
        """Fit ranker and gate to all agents now; a route does so by itself when much changed."""
        with self._lock:
            snapshot = self._snapshot()
            trained = train(snapshot, self.negatives, progress, self.max_wrong_agent_rate)
            self._current = snapshot, trained, collect(snapshot, self.taxonomy)

    def set_negatives(self, negatives: Negatives) -> None:
        """Replace the queries that no agent should take; the next route fits the gate to them."""
        with self._lock:
            self.negatives = negatives
            self._current = self._known = None

    @property
    def categories(self) -> Categories:
        """The categories of the agents as they are now."""
        return self._up_to_date()[2]

    @property
    def trained(self) -> Trained:
        """The ranker and gate in use, brought up to date with the catalog."""
        return self._up_to_date()[1]

    def route(
        self,
        query: Query,
        turns: EncodedTurns,
        state: RoutingState,
        choice: Choice | None = None,
        trace: Trace | None = None,
    ) -> tuple[AgentOutcome, RoutingState]:
        """Return the outcome for one query and the conversation's next state.

        Args:
            query: The query.
            turns: What it says (`StateMachine.read`), with its vectors.
            state: Where the conversation stood.
            choice: Who may be chosen this time, and how many candidates are wanted.
            trace: Receives the steps taken.

        Raises:
            ScoreError: The logits are not finite.
        """
        choice, trace = choice or Choice(), trace or Trace()
        [reading], vector = turns.readings, turns.alone[0]
        snapshot, trained, categories = self._up_to_date()
        with trace.timed("categories") as detail:
            if snapshot.records:
                name, cosine = categories.nearest(vector)
                detail.append(f"{len(categories.names)} known, nearest {name} ({cosine:.2f})")
        with trace.timed("state") as detail:
            following = self.states.next(state, query, vector, reading)
            detail += [" + ".join(following.active) or "none", *reading.remarks]
        with trace.timed("eligible") as detail:
            allowed = self._eligible(snapshot, following, choice)
            rows = allowed.rows
            absent = self._absent(allowed, choice)
            if not reading.follows:
                rows = categories.narrowed(vector, rows)
                absent = _narrowed(categories, vector, absent)
            detail.append(str(allowed))
            if rows.size < allowed.rows.size:
                detail.append(f"of which {rows.size} in the nearest categories")
        if rows.size == 0:
            return Deferred(allowed.why_nobody), following
        with trace.timed("rank") as detail:
            request = RankRequest(turns, state, choice.k, absent, choice.min_probability)
            [outcome] = self._ranked(request, rows, self._fitted(snapshot, trained))
            detail.append(f"best {outcome.candidates[0].name}")
        outcome = self._after(outcome, reading, state, frozenset(snapshot.names[i] for i in rows))
        with trace.timed("gate") as detail:
            taken = "taken" if isinstance(outcome, Handled) else outcome.reason
            detail.append(f"probability {outcome.probability:.2f}, {taken}")
            if outcome.goes_on:
                detail.append("goes on with what came before")
        return outcome, following

    def _after(
        self, outcome: AgentOutcome, reading: Reading, state: RoutingState, names: Collection[str]
    ) -> AgentOutcome:
        """Return the outcome of a turn after the one before it: who took that keeps an answer.

        Args:
            outcome: By the turn's own words.
            reading: The turn.
            state: The conversation's, before it.
            names: Agents that may be chosen.
        """
        before = state.waiting_for or state.last_target
        if before is None or reading.cancels or (before in self.catalog and before not in names):
            return outcome
        others = [each for each in outcome.candidates if each.name != before]
        first = outcome.candidates[:1] == tuple(others[:1])
        rival = outcome.probability if first else 0.0
        p = goes_on(reading.text, rival, asked=state.waiting_for is not None)
        if p < _GOES_ON:
            return outcome
        if before not in names:
            reason, left = f"it goes on with what {before!r} was asked", 1.0 - p
            fits = min(outcome.some_fits, left)
            return Deferred(reason, min(rival, left), outcome.candidates, fits, goes_on=True)
        if isinstance(outcome, Handled) and not first:
            surer, fits = max(p, outcome.probability), max(p, outcome.some_fits)
            return replace(outcome, probability=surer, some_fits=fits, goes_on=True)
        fits = p + (1.0 - p) * outcome.some_fits  # shares of it are what candidates hold
        less = (1.0 - p) * outcome.some_fits / fits
        kept = [replace(each, score=each.score * less) for each in others]
        return Handled((before,), p, (Candidate(before, p / fits), *kept), fits, goes_on=True)

    def route_batch(
        self, queries: Sequence[Query], turns: EncodedTurns, choice: Choice | None = None
    ) -> list[AgentOutcome]:
        """Return the outcomes for n independent queries.

        Each query starts a conversation of its own: the states it enters restrict its agents.

        Args:
            queries: Length n.
            turns: What they say, with their vectors.
            choice: Who may be chosen this time, and how many candidates are wanted.
        """
        choice = choice or Choice()
        current = self._up_to_date()
        by_state: dict[tuple[str, ...], list[int]] = {}
        for i, (query, reading) in enumerate(zip(queries, turns.readings, strict=True)):
            entered = self.states.next(_FRESH, query, turns.alone[i], reading).active
            by_state.setdefault(entered, []).append(i)
        outcomes: dict[int, AgentOutcome] = {}
        for active, members in by_state.items():
            allowed = self._eligible(current[0], RoutingState(active), choice)
            if allowed.rows.size == 0:
                outcomes |= dict.fromkeys(members, Deferred(allowed.why_nobody))
                continue
            size = _BATCH if current[2].retrieval is None else 1  # then each has rows of its own
            for start in range(0, len(members), size):
                chunk = members[start : start + size]
                found = self._rank_chunk(turns.rows(chunk), allowed, current, choice)
                outcomes |= dict(zip(chunk, found, strict=True))
        return [outcomes[i] for i in range(len(queries))]

    def _rank_chunk(
        self,
        turns: EncodedTurns,
        allowed: Eligible,
        current: tuple[Snapshot, Trained, Categories],
        choice: Choice,
    ) -> list[AgentOutcome]:
        snapshot, trained, categories = current
        rows, absent = allowed.rows, self._absent(allowed, choice)
        if not turns.readings[0].follows:
            rows = categories.narrowed(turns.alone[0], rows)
            absent = _narrowed(categories, turns.alone[0], absent)
        least = choice.min_probability
        request = RankRequest(turns, k=choice.k, absent=absent, min_probability=least)
        return self._ranked(request, rows, self._fitted(snapshot, trained))

    def _ranked(
        self, request: RankRequest, rows: npt.NDArray[np.intp], catalog: Fitted
    ) -> list[AgentOutcome]:
        """Return the outcomes of n readings; of a long one also by its sentences that ask."""
        texts = [reading.text for reading in request.turns.readings]
        outcomes = rank(request, rows, catalog, self.decider, self.reranker)
        outcomes = self._readable(texts, outcomes)
        for i, text in enumerate(texts):
            if not (found := asking(text)):
                continue
            readings = [Reading(each, each) for each in found]
            turns = EncodedTurns.encode(readings, self.catalog.encoder)
            alone = replace(request, turns=turns, state=_FRESH)
            parts = rank(alone, rows, catalog, self.decider, self.reranker)
            parts = self._readable([*found], parts)
            weighed = [
                part.probability * ask for ask, part in zip(found.values(), parts, strict=True)
            ]
            best = int(np.argmax(weighed))
            if weighed[best] > outcomes[i].probability:
                outcomes[i] = parts[best]
        return outcomes

    def _absent(self, allowed: Eligible, choice: Choice) -> Mapping[int, str]:
        return {} if choice.substitutes or self.substitutes else allowed.absent

    def _readable(self, texts: Sequence[str], outcomes: list[AgentOutcome]) -> list[AgentOutcome]:
        """Return outcomes less sure, and deferred, where the encoder cannot read the words.

        Agents with examples enough to hold some out know better: they are left alone.
        """
        reads = getattr(self.catalog.encoder, "reads", None)
        if reads is None or self.trained.gate.coverage is not None:
            return outcomes
        reason = "the encoder reads no words in this (docs/encoders.md, other languages)"
        return [
            outcome
            if reads(text)
            else Deferred(reason, min(outcome.probability, _UNREAD), outcome.candidates, _UNREAD)
            for text, outcome in zip(texts, outcomes, strict=True)
        ]

    def _fitted(self, snapshot: Snapshot, trained: Trained) -> Fitted:
        known = self._known
        if known is None or known.snapshot is not snapshot or known.trained is not trained:
            measured = isinstance(self.catalog.encoder, tuple(PACKAGED.values()))
            many = bool(getattr(self.catalog.encoder, "many_languages", False))
            known = self._known = Fitted(snapshot, trained, self.negatives, measured, many)
        return known

    def _eligible(self, snapshot: Snapshot, state: RoutingState, choice: Choice) -> Eligible:
        failing = self.health.unhealthy()
        return eligible_agents(snapshot, self.states, state, failing, choice.exclude, choice.among)

    def _snapshot(self) -> Snapshot:
        """Return the agents as they are now, with the examples that count."""
        registered, known = self.catalog.snapshot, self._counting
        if known is None or known[0] is not registered:
            known = self._counting = registered, counting(registered)
        return known[1]

    def _up_to_date(self) -> tuple[Snapshot, Trained, Categories]:
        current, snapshot = self._current, self._snapshot()
        if current is not None and current[0] is snapshot:
            return current
        with self._lock:
            snapshot = self._snapshot()  # it may have moved on while others held the lock
            if self._current is None:
                trained = train(snapshot, self.negatives, None, self.max_wrong_agent_rate)
                self._current = snapshot, trained, collect(snapshot, self.taxonomy)
            elif self._current[0] is not snapshot:
                self._follow(self._current[1], snapshot)
            return self._current

    def _follow(self, trained: Trained, snapshot: Snapshot) -> None:
        """Bring a ranker up to date: nothing, single columns, or everything, as much as changed."""
        before = self._current[0] if self._current else None
        sources = sources_of(snapshot, before, trained.sources)
        changed = sum(trained.sources.get(name) != source for name, source in sources.items())
        refit = changed + trained.changes > _REFIT_SHARE * max(len(sources), 1)
        if refit:
            trained = train(snapshot, self.negatives, None, self.max_wrong_agent_rate)
        elif snapshot.names != trained.ranker.names or changed:
            trained = extend(trained, snapshot, sources)
        self._current = snapshot, trained, self._categories(snapshot, afresh=refit)

    def _categories(self, snapshot: Snapshot, *, afresh: bool) -> Categories:
        if afresh or self._current is None or len(snapshot.records) < _FOLLOW_FROM:
            return collect(snapshot, self.taxonomy)
        before, _, known = self._current
        return follow(known, before, snapshot)


def _narrowed(
    categories: Categories, vector: FloatArray, absent: Mapping[int, str]
) -> Mapping[int, str]:
    """Return those of the absent agents that are in the nearest categories of a vector (d,)."""
    if not absent:
        return absent
    rows = np.array(sorted(absent), dtype=np.intp)
    return {int(row): absent[int(row)] for row in categories.narrowed(vector, rows)}


_BATCH = 256
_GOES_ON = 0.5  # probability of a mere answer from which it stays with who took the turn before
_UNREAD = 0.2  # most probability of an agent for words that the encoder cannot read
_FRESH = RoutingState()
