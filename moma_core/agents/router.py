"""Agent routing as the paper tells it (sect. 4.2): state, eligible agents, ranking, gate.

`AgentRouter` reads a catalog, follows its changes, and answers `Handled` or `Deferred`.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agents.catalog import AgentCatalog, Snapshot
from moma_core.agents.categories import Categories, Taxonomy, collect, follow
from moma_core.agents.claims import counting
from moma_core.agents.conversation import EncodedTurns, Reading, asking, goes_on
from moma_core.agents.gate import (
    Negatives,
    check_rate,
)
from moma_core.agents.rank import Fitted, K, RankRequest, rank
from moma_core.agents.reranker import (
    Reranker,
)
from moma_core.agents.states import StateMachine
from moma_core.agents.training import Trained, extend, sources_of, train
from moma_core.decision import AgentOutcome, Candidate, Deferred, Handled, Trace
from moma_core.encoder import PACKAGED
from moma_core.health import Health
from moma_core.locks import Lock
from moma_core.protocols import FinalDecider, Progress
from moma_core.telemetry import Counts
from moma_core.types import FloatArray, Query, RoutingState

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "AgentRouter",
    "Choice",
    "Eligible",
    "eligible_agents",
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
    if all(mask.all() for _, mask in masks):
        return Eligible(snapshot.everybody, len(snapshot.records), state=state.active)
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
        *,
        health: Health | None = None,
        max_wrong_agent_rate: float | None = None,
        taxonomy: Taxonomy | None = None,
        decider: FinalDecider | None = None,
        reranker: Reranker | None = None,
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
        self.counts = Counts("gate")
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

    @property
    def parts(self) -> tuple[object, ...]:
        """All that outcomes depend on but health; each is another object once it changed."""
        current, own = self._up_to_date(), (self.decider, self.reranker, self.taxonomy)
        return current, self.states, self.negatives, self.substitutes, *own

    def fingerprint(self) -> str:
        """Return a digest of `parts`, equal in processes with equal agents and settings.

        What a decider would say nobody can tell: with one, no two digests are equal.
        """
        snapshot, trained, _ = self._up_to_date()
        cards = [
            (trained.sources.get(r.card.name), r.card.name, r.card.enabled, r.card.categories)
            for r in snapshot.records
        ]
        fitted = (trained.gate.to_dict(), trained.changes, trained.exemplar_weight)
        settings = (self.states.to_toml(), self.taxonomy.to_dict(), self.substitutes)
        reads = "" if self.reranker is None else self.reranker.fingerprint
        others = (self.negatives.texts, reads, self.catalog.encoder.fingerprint)
        decider = "" if self.decider is None else uuid.uuid4().hex
        everything = repr((cards, fitted, settings, others, decider))
        return hashlib.blake2b(everything.encode(), digest_size=16).hexdigest()

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
            return self._counted(Deferred(allowed.why_nobody)), following
        with trace.timed("rank") as detail:
            request = RankRequest(turns, state, choice.k, absent, choice.min_probability)
            [outcome] = self._ranked(request, rows, self._fitted(snapshot, trained))
            detail.append(f"best {outcome.candidates[0].name}")
        row = snapshot.position.get(state.waiting_for or state.last_target or "")
        outcome = self._after(outcome, reading, state, may_stay=row is not None and row in rows)
        with trace.timed("gate") as detail:
            taken = "taken" if isinstance(outcome, Handled) else outcome.reason
            detail.append(f"probability {outcome.probability:.2f}, {taken}")
            if outcome.goes_on:
                detail.append("goes on with what came before")
        return self._counted(outcome), following

    def _counted(self, outcome: AgentOutcome) -> AgentOutcome:
        """Count an outcome and return it."""
        nobody = "deferred" if outcome.candidates else "nobody eligible"
        self.counts.add("taken" if isinstance(outcome, Handled) else nobody)
        if outcome.goes_on:
            self.counts.add("goes on")
        return outcome

    def _after(
        self, outcome: AgentOutcome, reading: Reading, state: RoutingState, *, may_stay: bool
    ) -> AgentOutcome:
        """Return the outcome of a turn after the one before it: who took that keeps an answer.

        Args:
            outcome: By the turn's own words.
            reading: The turn.
            state: The conversation's, before it.
            may_stay: Whether an agent took the turn before, and may be chosen.
        """
        before = state.waiting_for or state.last_target
        if before is None or reading.cancels or (before in self.catalog and not may_stay):
            return outcome
        others = [each for each in outcome.candidates if each.name != before]
        first = outcome.candidates[:1] == tuple(others[:1])
        rival = outcome.probability if first else 0.0
        p = goes_on(reading.text, rival, asked=state.waiting_for is not None)
        if p < _GOES_ON:
            return outcome
        if not may_stay:
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
        return [self._counted(outcomes[i]) for i in range(len(queries))]

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
        """Return the outcomes of n readings; of a long one also by its sentences that ask.

        The surest decides; candidates are of the whole and of all these sentences in turn.
        """
        texts = [reading.text for reading in request.turns.readings]
        outcomes = rank(request, rows, catalog, self.decider, self.reranker)
        outcomes = self._readable(texts, outcomes)
        for i, text in enumerate(texts):
            surest = outcomes[i].probability  # no part is surer than that it asks for something
            found = {each: ask for each, ask in asking(text).items() if ask > surest}
            if not found:
                continue
            readings = [Reading(each, each) for each in found]
            turns = EncodedTurns.encode(readings, self.catalog.encoder)
            alone = replace(request, turns=turns, state=_FRESH)
            parts = rank(alone, rows, catalog, self.decider, self.reranker)
            parts = self._readable([*found], parts)
            weighed = [
                part.probability * ask for ask, part in zip(found.values(), parts, strict=True)
            ]
            order = np.argsort(weighed)[::-1].tolist()
            whole, best = outcomes[i], order[0]
            taken = parts[best] if weighed[best] > whole.probability else whole
            lists = [each.candidates for each in (whole, *(parts[j] for j in order))]
            outcomes[i] = replace(taken, candidates=_in_turn(taken.candidates, lists, request.k))
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
        left = list(outcomes)
        for i, (text, outcome) in enumerate(zip(texts, outcomes, strict=True)):
            if not reads(text):
                self.counts.add("language not read")
                least = min(outcome.probability, _UNREAD)
                left[i] = Deferred(reason, least, outcome.candidates, _UNREAD)
        return left

    def _fitted(self, snapshot: Snapshot, trained: Trained) -> Fitted:
        known = self._known
        if known is None or known.snapshot is not snapshot or known.trained is not trained:
            measured = getattr(self.catalog.encoder, "packaged", None) in PACKAGED
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


def _in_turn(
    surest: tuple[Candidate, ...], lists: Sequence[tuple[Candidate, ...]], k: int
) -> tuple[Candidate, ...]:
    """Return k candidates, one of each list in turn, the first of the surest list before all.

    What a long text asks for stands in several sentences, and the k places are for all of it. None
    counts more than the one before it, nor more than in its own list.
    """
    taken: dict[str, Candidate] = {}
    for each in (*surest[:1], *chain.from_iterable(zip_longest(*lists))):
        if each is not None:
            taken.setdefault(each.name, each)
    kept = [*taken.values()][:k]
    scores = np.minimum.accumulate([each.score for each in kept])
    scores /= max(float(scores.sum()), 1.0)
    return tuple(replace(each, score=float(s)) for each, s in zip(kept, scores, strict=True))


_GOES_ON = 0.5  # probability of a mere answer from which it stays with who took the turn before
_UNREAD = 0.2  # most probability of an agent for words that the encoder cannot read
_FRESH = RoutingState()
