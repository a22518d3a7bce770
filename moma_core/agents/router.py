"""Agent routing as the paper tells it (sect. 4.2): state, eligible agents, ranking, gate.

`AgentRouter` reads a catalog, follows its changes, and answers `Handled` or `Deferred`. It never
encodes a query (the caller did) and never chooses an LLM.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

import numpy as np

from moma_core.agent_routing.catalog import AgentCatalog, Snapshot
from moma_core.agent_routing.categories import Categories, Taxonomy
from moma_core.agent_routing.categorising import collect, follow
from moma_core.agent_routing.conformal import check_rate
from moma_core.agent_routing.eligible import Eligible, eligible_agents
from moma_core.agent_routing.health import Health
from moma_core.agent_routing.negatives import Negatives
from moma_core.agent_routing.ranking import Asked, rank
from moma_core.agent_routing.states import StateMachine
from moma_core.agent_routing.steps import Steps
from moma_core.agent_routing.training import (
    Progress,
    Trained,
    extend,
    sources_of,
    train,
)
from moma_core.protocols import FinalDecider
from moma_core.types import AgentOutcome, Deferred, FloatArray, Query, RoutingState

__all__ = ["AgentRouter"]

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
    ) -> None:
        self.catalog = catalog
        if trained is not None and max_wrong_agent_rate is None:
            max_wrong_agent_rate = trained.gate.max_wrong_agent_rate
        self.max_wrong_agent_rate = max_wrong_agent_rate
        if max_wrong_agent_rate is not None:
            check_rate(max_wrong_agent_rate)
        self.health = health or Health()
        self.taxonomy = taxonomy or Taxonomy()
        self.decider = decider
        self.states = states or StateMachine()
        empty = np.zeros((0, catalog.snapshot.dimension), dtype=np.float32)
        self.negatives = negatives or Negatives((), empty, 0)
        self._lock = threading.Lock()
        self._current: tuple[Snapshot, Trained, Categories] | None = None
        if trained is not None:
            self._follow(trained, catalog.snapshot)

    def fit(self, progress: Progress | None = None) -> None:
        """Fit ranker and gate to all agents now; a route does so by itself when much changed."""
        with self._lock:
            snapshot = self.catalog.snapshot
            trained = train(snapshot, self.negatives, progress, self.max_wrong_agent_rate)
            self._current = snapshot, trained, collect(snapshot, self.taxonomy)

    def set_negatives(self, negatives: Negatives) -> None:
        """Replace the queries that no agent should take; the next route fits the gate to them."""
        with self._lock:
            self.negatives = negatives
            self._current = None

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
        vector: FloatArray,
        state: RoutingState,
        exclude: Collection[str] = (),
        steps: Steps | None = None,
        joined: FloatArray | None = None,
    ) -> tuple[AgentOutcome, RoutingState]:
        """Return the outcome for one query and the conversation's next state.

        Args:
            query: The query.
            vector: Unit vector of ``states.read(query, state).text``, shape (d,).
            state: Where the conversation stood.
            exclude: Names that may not be chosen this time.
            steps: Receives the steps taken.
            joined: Of a follow-up: unit vector of ``states.read(query, state).joined``, (1, d).

        Raises:
            ScoreError: The logits are not finite.
        """
        steps = steps or Steps()
        snapshot, trained, categories = self._up_to_date()
        with steps.timed("categories") as detail:
            if snapshot.records:
                name, cosine = categories.nearest(vector)
                detail.append(f"{len(categories.names)} known, nearest {name} ({cosine:.2f})")
        with steps.timed("state") as detail:
            reading = self.states.read(query, state)
            following = self.states.next(state, query, vector)
            detail += [" + ".join(following.active) or "none", *reading.remarks]
        with steps.timed("eligible") as detail:
            allowed = self._eligible(snapshot, following, exclude)
            rows = allowed.rows
            if not reading.follows:
                rows = categories.narrowed(vector, rows)
            detail.append(str(allowed))
            if rows.size < allowed.rows.size:
                detail.append(f"of which {rows.size} in the nearest categories")
        if rows.size == 0:
            return Deferred(allowed.why_nobody), following
        with steps.timed("rank") as detail:
            asked = Asked([reading], vector[None], joined, state)
            outcome = rank(asked, rows, snapshot, trained, self.decider)[0]
            detail.append(f"best {outcome.candidates[0].name}")
        with steps.timed("gate") as detail:
            needed = trained.gate.threshold
            detail.append(f"probability {outcome.probability:.2f}, needed {needed:.2f}")
        return outcome, following

    def route_batch(
        self,
        queries: Sequence[str | Query],
        vectors: FloatArray,
        exclude: Collection[str] = (),
        joined: FloatArray | None = None,
    ) -> list[AgentOutcome]:
        """Return the outcomes for independent queries, vectors of shape (n, d).

        Each query starts a conversation of its own: the states it enters restrict its agents. Of
        the m follow-ups (by their history), ``joined`` holds the vectors as in `route`, (m, d).
        """
        snapshot, trained, categories = self._up_to_date()
        asked = [Query.of(query) for query in queries]
        readings = [self.states.read(query, _FRESH) for query in asked]
        leaning = [i for i, reading in enumerate(readings) if reading.joined is not None]
        place = {i: row for row, i in enumerate(leaning)}
        by_state: dict[tuple[str, ...], list[int]] = {}
        for i, (query, vector) in enumerate(zip(asked, vectors, strict=True)):
            by_state.setdefault(self.states.next(_FRESH, query, vector).active, []).append(i)
        outcomes: dict[int, AgentOutcome] = {}
        for active, members in by_state.items():
            allowed = self._eligible(snapshot, RoutingState(active), exclude)
            rows = allowed.rows
            if rows.size == 0:
                outcomes |= dict.fromkeys(members, Deferred(allowed.why_nobody))
                continue
            size = _BATCH if categories.retrieval is None else 1  # then each has rows of its own
            for start in range(0, len(members), size):
                chunk = members[start : start + size]
                chosen = [readings[i] for i in chunk]
                rows = allowed.rows
                if not chosen[0].follows:
                    rows = categories.narrowed(vectors[chunk[0]], rows)
                also = None if joined is None else joined[[place[i] for i in chunk if i in place]]
                part = Asked(chosen, vectors[chunk], also)
                found = rank(part, rows, snapshot, trained, self.decider)
                outcomes |= dict(zip(chunk, found, strict=True))
        return [outcomes[i] for i in range(len(asked))]

    def _eligible(
        self, snapshot: Snapshot, state: RoutingState, exclude: Collection[str]
    ) -> Eligible:
        return eligible_agents(snapshot, self.states, state, self.health.unhealthy(), exclude)

    def _up_to_date(self) -> tuple[Snapshot, Trained, Categories]:
        current, snapshot = self._current, self.catalog.snapshot
        if current is not None and current[0] is snapshot:
            return current
        with self._lock:
            snapshot = self.catalog.snapshot  # it may have moved on while others held the lock
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


_BATCH = 256
_FRESH = RoutingState()
