"""One ranking of the eligible agents: logits, a second look, the gate's two probabilities.

`rank` reads n queries against what was `Fitted` to the agents of one moment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from moma_core._checks import readable
from moma_core.agents.catalog import Snapshot, card_text
from moma_core.agents.conversation import EncodedTurns, generality, in_context
from moma_core.agents.gate import ColdView, Evidence, Negatives, with_cold_view
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
from moma_core.agents.search import MANY
from moma_core.agents.training import Trained
from moma_core.decision import AgentOutcome, Candidate, Deferred, Handled
from moma_core.encoder import in_english
from moma_core.errors import ScoreError
from moma_core.protocols import FinalDecider
from moma_core.types import AgentCard, FloatArray, RoutingState

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Fitted", "K", "RankRequest", "apply_decider", "effect_of", "effect_said", "rank"]

_LEAST = 1e-9  # a probability of nothing, whose logarithm is still a number


def apply_decider(
    best: Shortlist,
    texts: Sequence[str],
    rows: npt.NDArray[np.intp],
    snapshot: Snapshot,
    weight: float,
    decider: FinalDecider,
    *,
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

    @property
    def n(self) -> int:
        """How many turns."""
        return len(self.turns.readings)


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
    absent = np.array(sorted(request.absent), dtype=np.intp)
    rows = np.union1d(rows, absent) if absent.size else rows
    if len(catalog.snapshot.records) < MANY or rows.size <= _FEW:
        return _outcomes(_Field.of(request, rows, absent, catalog), catalog, decider, reranker)
    alone = (replace(request, turns=request.turns.rows([i])) for i in range(request.n))
    fields = (_Field.of(one, rows, absent, catalog).narrowed(catalog) for one in alone)
    return [_outcomes(field, catalog, decider, reranker)[0] for field in fields]


@dataclass(frozen=True, slots=True, eq=False)
class _Field:
    """Who is ranked for n readings.

    Args:
        request: The readings.
        alone: Their texts as the ranker sees them.
        joined: The joined texts of those that have one.
        rows: Of the snapshot, the agents to rank.
        absent: Which rows of it are of agents that are not there now.
        rest: Log-sum-exp of the logits of those left out, with examples and without.
    """

    request: RankRequest
    alone: Features
    joined: Features | None
    rows: npt.NDArray[np.intp]
    absent: npt.NDArray[np.intp]
    rest: tuple[float, float] = (-np.inf, -np.inf)

    @classmethod
    def of(
        cls,
        request: RankRequest,
        rows: npt.NDArray[np.intp],
        absent: npt.NDArray[np.intp],
        catalog: Fitted,
    ) -> _Field:
        """Return what a request is about."""
        readings = request.turns.readings
        whole = [reading.joined for reading in readings if reading.joined is not None]
        alone = catalog.features([reading.text for reading in readings], request.turns.alone)
        joined = catalog.features(whole, request.turns.joined) if whole else None
        return cls(request, alone, joined, rows, absent)

    @property
    def away(self) -> npt.NDArray[np.bool_]:
        """Which of the rows are of agents that are not there now."""
        if not self.absent.size:
            return np.zeros(self.rows.size, dtype=bool)
        return np.isin(self.rows, self.absent)

    def narrowed(self, catalog: Fitted) -> _Field:
        """Return the field of one reading with the likeliest of very many agents alone."""
        ranker, count = catalog.trained.ranker, max(_NEAR_ENOUGH, 4 * self.request.k)
        texts = [self.alone] if self.joined is None else [self.alone, self.joined]
        previous = catalog.snapshot.position.get(self.request.state.last_target or "")
        rows = [] if previous is None else [self.rows[self.rows == previous]]
        rest = []
        for kind in catalog.kinds(self.rows):
            found = [ranker.near(text, kind, count) for text in texts] if kind.size else []
            rows += [near for near, _ in found]
            rest.append(float(np.mean([others for _, others in found])) if found else -np.inf)
        return replace(self, rows=np.unique(np.concatenate(rows)), rest=(rest[0], rest[1]))


_NEAR_ENOUGH = 64  # of very many agents, those that are looked at closely
_FEW = 2_000  # eligible agents that are all looked at closely


def _outcomes(
    field: _Field, catalog: Fitted, decider: FinalDecider | None, reranker: Reranker | None
) -> list[AgentOutcome]:
    """Return the outcome of each of n readings, as `rank` does."""
    request, rows, away = field.request, field.rows, field.away
    best, read, scope, reserve = _listed(field, away, catalog, decider, reranker)
    gated, some, thresholds = _gated(best, (read, scope), request.turns, rows, catalog)
    if request.min_probability is not None:
        thresholds = np.full(len(gated), request.min_probability)
    names, weight = catalog.snapshot.names, catalog.trained.exemplar_weight
    refined = best.refined(weight)
    total = best.total(weight)[:, None]
    shares = np.exp(refined - total)
    kept, held = 0, None
    if reserve is not None:
        kept = _places(request.k, rows, catalog.snapshot)
        held = np.exp(reserve.refined(weight) - total)
    outcomes = []
    for i, places in enumerate(np.argsort(-refined, axis=1, kind="stable")):
        listed = rows[best.agents[i, places]]
        there = np.flatnonzero(~away[best.agents[i, places]])
        absentee = _meant_instead(refined[i, places], there)
        missing = None
        if absentee is not None:
            row = int(listed[absentee])
            missing = names[row], request.absent[row]
        candidates = tuple(
            Candidate(names[listed[j]], float(shares[i, places[j]])) for j in there[: request.k]
        )
        if reserve is not None and held is not None:
            pairs = zip(rows[reserve.agents[i]], held[i], strict=True)
            others = [Candidate(names[row], float(share)) for row, share in pairs]
            candidates = _of_both(candidates, others, kept)
        probabilities, threshold = (float(gated[i]), float(some[i])), float(thresholds[i])
        outcome = _outcome(probabilities, threshold, candidates, names[listed[0]], missing)
        outcomes.append(_careful(outcome, threshold, catalog.snapshot))
    return outcomes


def _listed(
    field: _Field,
    away: npt.NDArray[np.bool_],
    catalog: Fitted,
    decider: FinalDecider | None,
    reranker: Reranker | None,
) -> tuple[Shortlist, Read | None, FloatArray | None, Shortlist | None]:
    """Return the shortlists, what the reranker said of them, and logits of being in scope (n,).

    The fourth is the list of agents with examples alone, where others have none.

    Args:
        field: n readings and the agents to rank.
        away: Which of these are not there now.
        catalog: All agents, and what was fitted to them.
        decider: Has the last word on the order; None: nobody.
        reranker: Reads query and card together; None: nobody does.
    """
    snapshot, trained, request, rows = catalog.snapshot, catalog.trained, field.request, field.rows
    logits, scope, raised = _scores(field, catalog)
    if not np.isfinite(logits).all():
        raise ScoreError(
            "the ranker gave scores that are not finite. Check that the encoder gives finite "
            "vectors, then fit again with router.fit()."
        )
    weight = trained.exemplar_weight
    own = (lambda i: exemplars(snapshot.records[rows[i]])) if weight else None
    length = max(request.k, LENGTH) + min(len(request.absent), _ABSENT)
    best = shortlist(_few_absent(logits, away), request.turns.alone, own, length)
    known = np.flatnonzero((snapshot.n_examples[rows] > 0) & ~away)
    reserve = None
    if known.size not in (0, rows.size) and request.k > 1:
        theirs = None if own is None else lambda i: own(known[i])
        reserve = shortlist(logits[:, known], request.turns.alone, theirs)
        reserve = replace(reserve, agents=known[reserve.agents])
    left_out = np.logaddexp(field.rest[0], field.rest[1] + raised)
    best = replace(best, rest=np.logaddexp(best.rest, left_out.astype(np.float32)))
    texts = [reading.text for reading in request.turns.readings]
    read = None
    if reranker is not None:
        best, read = rerank(best, texts, request.turns.alone, rows, (snapshot, weight), reranker)
    elif catalog.measured:
        read = Read.nothing(best, rows, snapshot, weight)
    if decider is not None:
        best = apply_decider(best, texts, rows, snapshot, weight, decider, away=away)
    if scope is not None and trained.fresh:
        scope = _known(scope, best, rows, snapshot, trained)
    return best, read, scope, reserve


def _places(k: int, rows: npt.NDArray[np.intp], snapshot: Snapshot) -> int:
    """Return how many of k places are kept for agents with examples, half at most.

    What descriptions alone say of many agents is much alike: those without examples would take all
    places behind the first. The more examples the others have, the less is their due.
    """
    known = snapshot.n_examples[rows]
    known = known[known > 0]
    return round(k / 2 * float(np.mean(known / (known + _HALF_KNOWN))))


def _of_both(
    best: tuple[Candidate, ...], known: Sequence[Candidate], places: int
) -> tuple[Candidate, ...]:
    """Return candidates, best first, of which the last ``places`` go to the best ``known``.

    One that was not among the best counts no more than the last of them.
    """
    first = best[: max(len(best) - places, 1)]
    names = {candidate.name for candidate in first}
    others = sorted((c for c in known if c.name not in names), key=lambda c: -c.score)
    listed = {candidate.name: candidate for candidate in best}
    least = best[-1].score
    last = [replace(c, score=min(c.score, least)) for c in others[: len(best) - len(first)]]
    more = [listed.get(c.name, c) for c in last]
    kept = {candidate.name: candidate for candidate in (*first, *more, *best)}
    return tuple(sorted([*kept.values()][: len(best)], key=lambda c: -c.score))


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
    if read is None or gate.max_wrong_agent_rate is not None:
        threshold = np.full(len(vectors), gate.threshold)
        return gate.probabilities(seen), gate.fits.probabilities(seen), threshold
    cold = ColdView.of(_evidence(best, read, turns, rows, catalog), read.asked)
    known = int(snapshot.n_examples.sum()), catalog.negatives.n_given
    return with_cold_view(gate, seen, cold, read.share, known)


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

    def kinds(
        self, rows: npt.NDArray[np.intp]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return rows with and without examples apart, whose logits are not on one scale."""
        if not self._any_examples:
            return rows[:0], rows
        known = self.snapshot.n_examples[rows] > 0
        return rows[known], rows[~known]

    @cached_property
    def _any_examples(self) -> bool:
        return bool(self.snapshot.n_examples.any())

    def features(self, texts: Sequence[str], vectors: FloatArray) -> Features:
        """Return n texts and their unit vectors (n, d) as the ranker sees them.

        By descriptions alone, the n-grams of a text in another language than the cards' weigh
        little: those that both share are names at best.
        """
        seen = self.trained.ranker.features(texts, vectors)
        if self.many_languages and not self._any_examples:
            same = np.array([in_english(text) == self._in_english for text in texts], dtype=bool)
            return seen.downweighted(np.where(same, np.float32(1.0), np.float32(_TRANSLATED)))
        return seen

    @cached_property
    def _in_english(self) -> bool:
        """Whether most cards are."""
        said = [card_text(record.card) for record in self.snapshot.records]
        return 2 * sum(map(in_english, said)) > len(said)

    @cached_property
    def described(self) -> Columns:
        """The columns that all agents would have by their descriptions alone."""
        texts = [card_text(record.card) for record in self.snapshot.records]
        idf = self.trained.ranker.idf
        return description_columns(Features.of(texts, self.snapshot.descriptions, idf))

    @cached_property
    def _usual(self) -> np.float32:
        """The median of how near the packaged queries come, a cosine."""
        _, nearest = self._reached
        return np.float32(np.median(nearest)) if nearest.size else np.float32(0.0)

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
        if not self.many_languages or not nearest.size:
            return np.full(len(vectors), self._usual, dtype=np.float32)
        alike = np.argpartition(-(vectors @ known.T), _ALIKE - 1, axis=1)[:, :_ALIKE]
        level: FloatArray = nearest[alike].mean(axis=1)
        return level


_ALIKE = 8
_TRANSLATED = 0.25  # share of their weight that n-grams of another language keep; benchmarks/LOG.md


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
    listed = rows[np.take_along_axis(best.agents, places, axis=1)]
    near = [_cosines(snapshot, *each) for each in zip(listed, vectors, strict=True)]
    cosines = np.array(near, dtype=np.float32)
    said = np.take_along_axis(read.logits, places, axis=1)
    said = np.clip(np.where(np.isfinite(said), said, -LOUDEST), -_HEARD, _HEARD)
    nearest = cosines.max(axis=1)
    foreign = np.full(n, -1.0, dtype=np.float32)
    if len(catalog.negatives.vectors):
        foreign = (vectors @ catalog.negatives.vectors.T).max(axis=1)
    above = nearest - catalog.background(vectors)
    alone = ranked.shape[1] == 1
    same = np.where(foreign > nearest, (foreign - _LIKE) / (_SAME - _LIKE), 0.0)
    return Evidence(
        above=above,
        foreign=foreign - nearest,
        cosine_lead=cosines[:, 0] - (_NEAR if alone else cosines[:, 1:].max(axis=1)),
        log_share=np.maximum(refined[pick] - logsumexp(refined), -5.0),
        lead=np.minimum(ranked[:, 0] - (_NOBODY if alone else ranked[:, 1]), 3.0),
        read_lead=said[:, 0] - (-_HEARD if alone else said[:, 1:].max(axis=1)),
        read=said[:, 0],
        refused=np.minimum(said[:, 0], 0.0) * np.maximum(above, 0.0),
        general=_general(turns, snapshot, rows[best.agents[pick[0], places[:, 0]]]),
        negative=np.clip(same, 0.0, 1.0).astype(np.float32),
    )


_TELLING = 8  # examples that tell how general an agent is


def _general(turns: EncodedTurns, snapshot: Snapshot, chosen: npt.NDArray[np.intp]) -> FloatArray:
    """Return `Evidence.general` of n queries with the rows of their best agents, shape (n,)."""
    asked = generality([reading.text for reading in turns.readings])
    cards = [snapshot.records[row].card for row in chosen]
    own = [_own_generality((card.description, *card.examples[:_TELLING])) for card in cards]
    more: FloatArray = np.clip(np.minimum(asked, asked - np.array(own)), 0.0, _MOST_GENERAL)
    return more


@lru_cache(10_000)
def _own_generality(texts: tuple[str, ...]) -> float:
    """Return the largest generality of what an agent says and is asked."""
    return float(generality(texts).max())


_MOST_GENERAL = 3.0


_LIKE, _SAME = 0.85, 0.95  # cosines between which a query becomes one that no agent should take
_NEAR = 0.1  # cosine that somebody reaches for any query
_HEARD = 6.0  # log-odds of the reranker beyond which the gate is no surer
_NOBODY = 0.5  # logit that somebody reaches for any query


def _cosines(snapshot: Snapshot, listed: npt.NDArray[np.intp], vector: FloatArray) -> FloatArray:
    """Return the largest cosine of a vector (d,) with what k rows say or are asked, shape (k,)."""
    largest: FloatArray = snapshot.descriptions[listed] @ vector
    for i in np.flatnonzero(snapshot.n_examples[listed]):
        nearest = (snapshot.records[listed[i]].example_vectors @ vector).max()
        largest[i] = max(largest[i], nearest)
    return largest


def _scores(field: _Field, catalog: Fitted) -> tuple[FloatArray, FloatArray | None, FloatArray]:
    """Return logits (n, n_rows), where fitted those of being in scope (n,), and `_on_one_scale`'s.

    A follow-up goes also by its joined text, and by that alone where scope is concerned.
    """
    snapshot, trained = catalog.snapshot, catalog.trained
    request, seen, rows = field.request, field.alone, field.rows
    ranker, readings = trained.ranker, request.turns.readings
    logits = ranker.scores(seen, rows)
    scope = trained.scope.logits(seen) if trained.scope else None
    leaning = [i for i, reading in enumerate(readings) if reading.follows]
    if not leaning:
        kept = logits if rows.size == logits.shape[1] else logits[:, rows]
        level, raised = _on_one_scale(kept, seen, rows, catalog)
        return level, scope, raised
    after, after_scope = iter(()), iter(())
    if field.joined is not None:
        after = iter(ranker.scores(field.joined, rows))
        after_scope = iter(trained.scope.logits(field.joined)) if trained.scope else after_scope
    previous = snapshot.position.get(request.state.last_target or "")
    by_llm = request.state.last_target is not None and previous is None
    for i in leaning:
        row = next(after, None) if readings[i].joined is not None else None
        logits[i] = in_context(logits[i], row, previous, by_llm=by_llm)
        if scope is not None and trained.scope is not None:
            scope[i] = trained.scope.usual if row is None else next(after_scope)
    level, raised = _on_one_scale(logits[:, rows], seen, rows, catalog)
    return level, scope, raised


_TRUSTED = 0.55  # of what examples add to a description's logit, beside agents without any
_HANDICAP = 2.0  # logit that an agent of very many examples gives to agents without any
_HALF_KNOWN = 6.0  # examples at which it gives half of that


def _on_one_scale(
    logits: FloatArray, seen: Features, rows: npt.NDArray[np.intp], catalog: Fitted
) -> tuple[FloatArray, FloatArray]:
    """Return logits (n, n_rows) in which agents with and without examples compete fairly.

    A column fitted to examples speaks louder than a description. Where both kinds are eligible, an
    agent of m examples scores ``c + 0.55 (f - c) - 2 m / (m + 6)``, with f its fitted logit and c
    what its description alone says; an agent without examples scores c. With them comes what all
    were raised by, (n,), so that the best fitted one stays where it was.
    """
    known = catalog.snapshot.n_examples[rows]
    fitted = np.flatnonzero(known)
    if fitted.size in (0, rows.size):
        return logits, np.zeros(len(logits), dtype=np.float32)
    described = catalog.described.rows(rows[fitted]).logits(seen)
    handicap = (_HANDICAP * known[fitted] / (known[fitted] + _HALF_KNOWN)).astype(np.float32)
    level: FloatArray = logits.copy()
    level[:, fitted] = described + _TRUSTED * (logits[:, fitted] - described) - handicap
    # The gate knows fitted logits: all move so that the best of them stays where it was.
    raised: FloatArray = logits[:, fitted].max(axis=1) - level[:, fitted].max(axis=1)
    level += raised[:, None]
    return level, raised


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
    if second.score < first.score * np.exp(-_UNSURE):
        return outcome
    cards = [snapshot.records[snapshot.position[c.name]].card for c in (first, second)]
    if [effect_of(card) for card in cards] != ["destroys", "reads"]:
        return outcome
    probability = outcome.probability * second.score / first.score
    even = (first.score + second.score) / 2
    candidates = (replace(second, score=even), replace(first, score=even), *rest)
    if probability >= threshold:
        return Handled((second.name,), probability, candidates, outcome.some_fits)
    reason = f"unsure whether {second.name!r} is to read or {first.name!r} to destroy"
    return Deferred(reason, probability, candidates, outcome.some_fits)


Effect = Literal["reads", "destroys", "unknown"]

_READS = frozenset({"get", "list", "read", "show", "find", "search", "view", "fetch", "describe"})
_DESTROYS = frozenset(
    {"delete", "remove", "destroy", "drop", "erase", "wipe", "purge", "cancel", "terminate"}
)


def effect_of(card: AgentCard) -> Effect:
    """Return whether a tool reads, destroys or may do either, as far as its card says.

    MCP's annotations (``readOnlyHint``, ``destructiveHint``) count, as cards keep them in
    ``metadata["annotations"]``; without them the first word of the name.

    Example:
        >>> effect_of(AgentCard("delete_file", "Deletes a file")), effect_of(AgentCard("a", "b"))
        ('destroys', 'unknown')
        >>> safe = {"annotations": {"readOnlyHint": True}}
        >>> effect_of(AgentCard("drop_rate", "How many packets are lost", metadata=safe))
        'reads'
    """
    hints = card.metadata.get("annotations")
    if isinstance(hints, Mapping):
        if hints.get("readOnlyHint") is True:
            return "reads"
        if isinstance(hints.get("destructiveHint"), bool):
            return "destroys" if hints["destructiveHint"] else "unknown"
    return effect_said(readable(card.name))


def effect_said(text: str) -> Effect:
    """Return what the first word says: "Deletes a file" destroys.

    Example:
        >>> effect_said("Deletes a file"), effect_said("search files"), effect_said("")
        ('destroys', 'reads', 'unknown')
    """
    verb = re.sub(r"\W*(\w*).*", r"\1", text, count=1, flags=re.S).lower()
    forms = {verb, verb.removesuffix("s"), verb.removesuffix("es")}
    if forms & _DESTROYS:
        return "destroys"
    return "reads" if forms & _READS else "unknown"
