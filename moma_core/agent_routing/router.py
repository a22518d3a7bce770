"""Agent routing as the paper tells it (sect. 4.2): state, eligible agents, ranking, gate.

`AgentRouter` reads a catalog, follows its changes, and answers `Handled` or `Deferred`. It never
encodes a query (the caller did) and never chooses an LLM.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agent_routing.catalog import AgentCatalog, Snapshot
from moma_core.agent_routing.categories import Categories
from moma_core.agent_routing.fitting import logsumexp
from moma_core.agent_routing.negatives import Negatives
from moma_core.agent_routing.states import StateMachine
from moma_core.agent_routing.training import (
    Progress,
    Trained,
    extend,
    fingerprint,
    train,
)
from moma_core.errors import ScoreError
from moma_core.types import (
    AgentOutcome,
    Candidate,
    Deferred,
    FloatArray,
    Handled,
    Query,
    RoutingState,
    Step,
)

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["AgentRouter", "Steps"]

_REFIT_SHARE = 0.2  # of agents changed since the last full fit, above which all are fitted again
_SHOWN = 10  # candidates kept in a decision


class Steps:
    """Collects the steps of one route with their times."""

    def __init__(self) -> None:
        self._steps: list[Step] = []

    @contextmanager
    def timed(self, name: str) -> Iterator[list[str]]:
        """Time a step; what the body appends becomes its detail."""
        detail: list[str] = []
        start = time.perf_counter()
        yield detail
        self._steps.append(Step(name, (time.perf_counter() - start) * 1e3, " ".join(detail)))

    def done(self) -> tuple[Step, ...]:
        """Return the steps so far."""
        return tuple(self._steps)


class AgentRouter:
    """Picks the agent for a query, or says that none fits.

    Args:
        catalog: The agents; changes to it take effect on the next route.
        states: The conversation's state machine; by default no state restricts anything.
        negatives: Queries that no agent should take; they sharpen the gate.
        trained: A saved ranker and gate; by default they are fitted on first use.
    """

    def __init__(
        self,
        catalog: AgentCatalog,
        states: StateMachine | None = None,
        negatives: Negatives | None = None,
        trained: Trained | None = None,
    ) -> None:
        self.catalog = catalog
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
            trained = train(snapshot, self.negatives, progress)
            self._current = snapshot, trained, Categories.of(snapshot)

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
    ) -> tuple[AgentOutcome, RoutingState]:
        """Return the outcome for one query and the conversation's next state.

        Args:
            query: The query.
            vector: Its unit vector, shape (d,).
            state: Where the conversation stood.
            exclude: Names that may not be chosen this time.
            steps: Receives the steps taken.

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
            following = self.states.next(state, query, vector)
            detail.append(" + ".join(following.active) or "none")
        with steps.timed("eligible") as detail:
            rows = np.flatnonzero(self._eligible(snapshot, following, exclude))
            detail.append(f"{rows.size} of {len(snapshot.records)} agents")
        if rows.size == 0:
            return Deferred(_why_nobody(snapshot, following)), following
        with steps.timed("rank") as detail:
            logits = trained.ranker.logits([query.text], vector[None])[:, rows]
            _check_finite(logits)
            candidates = _candidates(logits[0], rows, snapshot.names)
            detail.append(f"best {candidates[0].name}")
        with steps.timed("gate") as detail:
            chance = float(trained.gate.probabilities(logits)[0])
            detail.append(f"probability {chance:.2f}, needed {trained.gate.threshold:.2f}")
        return _outcome(chance, trained.gate.threshold, candidates), following

    def route_batch(
        self,
        queries: Sequence[str | Query],
        vectors: FloatArray,
        exclude: Collection[str] = (),
    ) -> list[AgentOutcome]:
        """Return the outcomes for independent queries, vectors of shape (n, d).

        Each query starts a conversation of its own: the states it enters restrict its agents.
        """
        snapshot, trained, _ = self._up_to_date()
        asked = [Query.of(query) for query in queries]
        by_state: dict[tuple[str, ...], list[int]] = {}
        for i, (query, vector) in enumerate(zip(asked, vectors, strict=True)):
            by_state.setdefault(self.states.next(_FRESH, query, vector).active, []).append(i)
        outcomes: dict[int, AgentOutcome] = {}
        for active, members in by_state.items():
            state = RoutingState(active)
            rows = np.flatnonzero(self._eligible(snapshot, state, exclude))
            if rows.size == 0:
                outcomes |= dict.fromkeys(members, Deferred(_why_nobody(snapshot, state)))
                continue
            for start in range(0, len(members), _BATCH):
                chunk = members[start : start + _BATCH]
                texts = [asked[i].text for i in chunk]
                logits = trained.ranker.logits(texts, vectors[chunk])[:, rows]
                found = _outcomes(logits, rows, snapshot.names, trained)
                outcomes |= dict(zip(chunk, found, strict=True))
        return [outcomes[i] for i in range(len(asked))]

    def _eligible(
        self, snapshot: Snapshot, state: RoutingState, exclude: Collection[str]
    ) -> npt.NDArray[np.bool_]:
        eligible = snapshot.enabled.copy()
        categories = [record.card.categories for record in snapshot.records]
        allowed = self.states.eligible(state, snapshot.names, categories) if state.active else None
        if allowed is not None:
            eligible &= allowed
        for name in exclude:
            if name in snapshot.position:
                eligible[snapshot.position[name]] = False
        return eligible

    def _up_to_date(self) -> tuple[Snapshot, Trained, Categories]:
        current, snapshot = self._current, self.catalog.snapshot
        if current is not None and current[0] is snapshot:
            return current
        with self._lock:
            snapshot = self.catalog.snapshot  # it may have moved on while others held the lock
            if self._current is None:
                trained = train(snapshot, self.negatives)
                self._current = snapshot, trained, Categories.of(snapshot)
            elif self._current[0] is not snapshot:
                self._follow(self._current[1], snapshot)
            return self._current

    def _follow(self, trained: Trained, snapshot: Snapshot) -> None:
        """Bring a ranker up to date: nothing, single columns, or everything, as much as changed."""
        sources = {r.card.name: fingerprint(r) for r in snapshot.records}
        changed = sum(trained.sources.get(name) != source for name, source in sources.items())
        if changed + trained.changes > _REFIT_SHARE * max(len(sources), 1):
            trained = train(snapshot, self.negatives)
        elif snapshot.names != trained.ranker.names or changed:
            trained = extend(trained, snapshot)
        self._current = snapshot, trained, Categories.of(snapshot)


_BATCH = 256
_FRESH = RoutingState()


def _candidates(
    logits: FloatArray, rows: npt.NDArray[np.intp], names: Sequence[str]
) -> tuple[Candidate, ...]:
    """Return the best agents with their share of the softmax over the eligible ones."""
    count = min(_SHOWN, logits.size)
    best = np.argpartition(-logits, count - 1)[:count]
    best = best[np.argsort(-logits[best], kind="stable")]
    shares = np.exp(logits[best] - logsumexp(logits[None])[0])
    return tuple(
        Candidate(names[rows[i]], float(share)) for i, share in zip(best, shares, strict=True)
    )


def _outcomes(
    logits: FloatArray, rows: npt.NDArray[np.intp], names: Sequence[str], trained: Trained
) -> list[AgentOutcome]:
    _check_finite(logits)
    chances = trained.gate.probabilities(logits)
    return [
        _outcome(float(chance), trained.gate.threshold, _candidates(row, rows, names))
        for chance, row in zip(chances, logits, strict=True)
    ]


def _outcome(chance: float, threshold: float, candidates: tuple[Candidate, ...]) -> AgentOutcome:
    if chance >= threshold:
        return Handled((candidates[0].name,), chance, candidates)
    reason = (
        f"no agent fits: the nearest, {candidates[0].name!r}, is right with probability "
        f"{chance:.2f} and {threshold:.2f} is needed"
    )
    return Deferred(reason, chance, candidates)


def _why_nobody(snapshot: Snapshot, state: RoutingState) -> str:
    if not snapshot.records:
        return "no agents are registered"
    where = f" in state {' + '.join(state.active)}" if state.active else ""
    return f"none of {len(snapshot.records)} agents is enabled and eligible{where}"


def _check_finite(logits: FloatArray) -> None:
    if not np.isfinite(logits).all():
        raise ScoreError(
            "the ranker gave scores that are not finite. Check that the encoder gives finite "
            "vectors, then fit again with router.fit()."
        )
