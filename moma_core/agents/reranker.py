"""A second look at the best agents: beside their own examples, and read together with the query.

`shortlist` keeps the best agents by the ranker. Where few examples are known, `rerank` asks the
`Reranker`: a cross-encoder on MiniLM, int8 ONNX, trained on tools and what people ask of them
(``benchmarks/weights``). Words that are quoted, negated or only talked about fool a
sentence vector, and not a reader.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from moma_core._checks import readable
from moma_core.agents.catalog import Snapshot, says_only_its_name
from moma_core.agents.conversation import generality
from moma_core.agents.gate import Signals
from moma_core.agents.ranker import N_WORD_FEATURES, Columns, logsumexp
from moma_core.encoder import WordEmbeddings, Wordpieces, open_session, packaged, padded
from moma_core.protocols import AgentRecord
from moma_core.types import AgentCard, FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "LENGTH",
    "LOUDEST",
    "Read",
    "Reranker",
    "Shortlist",
    "closeness",
    "cold_start_features",
    "downweight_ngrams",
    "exemplars",
    "rerank",
    "shortlist",
]

LENGTH = 16
"""Agents in a shortlist, where there are so many."""

_LEAST = -50.0  # stands for the logit of nobody
_GAMMA = 20.0  # how much the nearest examples outweigh the mean one


@dataclass(frozen=True, slots=True, eq=False)
class Shortlist:
    """The k best agents of each of n queries, unordered.

    Args:
        agents: Column of each in the logits it was made from, shape (n, k).
        logits: Theirs, shape (n, k).
        closeness: Theirs, at most 1, shape (n, k).
        rest: Log-sum-exp of the logits of all other agents, shape (n,).
    """

    agents: npt.NDArray[np.intp]
    logits: FloatArray
    closeness: FloatArray
    rest: FloatArray

    def refined(self, weight: float) -> FloatArray:
        """Return logits with the examples' say, shape (n, k)."""
        return self.logits + np.float32(weight) * self.closeness

    def total(self, weight: float) -> FloatArray:
        """Return the log-sum-exp over all agents, those off the list as far as the list's last."""
        others = self.rest + np.float32(weight) * self.closeness.min(axis=1)
        total: FloatArray = np.logaddexp(logsumexp(self.refined(weight)), others)
        return total

    def best(self, weight: float) -> npt.NDArray[np.intp]:
        """Return the column of the best agent, shape (n,)."""
        first = self.refined(weight).argmax(axis=1)[:, None]
        chosen: npt.NDArray[np.intp] = np.take_along_axis(self.agents, first, axis=1)[:, 0]
        return chosen

    def signals(self, weight: float, scope: FloatArray | None = None) -> Signals:
        """Return what the gate sees, ``scope`` (n,) beside the logits."""
        top = np.maximum(self.refined(weight).max(axis=1), _LEAST)
        total = np.maximum(self.total(weight), _LEAST)
        return Signals(top, np.minimum(top - total, 0.0), scope)

    def without(self, y: npt.NDArray[np.intp]) -> Shortlist:
        """Return the list as if each query's owner (n,) were not eligible."""
        gone = np.where(self.agents == y[:, None], np.float32(-np.inf), self.logits)
        return Shortlist(self.agents, gone, self.closeness, self.rest)


def shortlist(
    logits: FloatArray,
    vectors: FloatArray,
    exemplars_of: Callable[[int], FloatArray | None] | None,
    length: int = LENGTH,
) -> Shortlist:
    """Return the best agents of each query with their closeness.

    Args:
        logits: Shape (n, c), c at least 1.
        vectors: The queries' unit vectors, shape (n, d).
        exemplars_of: Column -> the agent's exemplars, shape (m, d), or None where it has none: it
            is taken to be as close as the closest agent. None where closeness has no say: it is 0.
        length: Agents to keep, where more than usual are wanted.
    """
    n, c = logits.shape
    k = min(max(length, LENGTH), c)
    agents = np.argpartition(-logits, k - 1, axis=1)[:, :k]
    chosen = np.take_along_axis(logits, agents, axis=1)
    others = np.full(n, -np.inf, dtype=np.float32)
    if c > k:
        remaining = logits.copy()
        np.put_along_axis(remaining, agents, -np.inf, axis=1)
        others = logsumexp(remaining)
    if exemplars_of is None:
        return Shortlist(agents, chosen, np.zeros((n, k), dtype=np.float32), others)
    close = _all_close(agents, vectors, exemplars_of)
    nearest = np.where(np.isnan(close), -1.0, close).max(axis=1, keepdims=True)
    return Shortlist(agents, chosen, np.where(np.isnan(close), nearest, close), others)


def _all_close(
    agents: npt.NDArray[np.intp],
    vectors: FloatArray,
    exemplars_of: Callable[[int], FloatArray | None],
) -> FloatArray:
    """Return the closeness of n queries to k agents each, shape (n, k), NaN without exemplars.

    An agent's exemplars are multiplied once with all queries that list it, not once for each.
    """
    close = np.full(agents.size, np.nan, dtype=np.float32)
    if not len(agents):
        return close.reshape(agents.shape)
    if len(agents) == 1:  # the hot path
        owns = [exemplars_of(int(agent)) for agent in agents[0]]
        known = np.array([own is not None for own in owns])
        cosines = [own @ vectors[0] for own in owns if own is not None]
        if cosines:
            counts = np.array([each.size for each in cosines])
            weights = np.exp(_GAMMA * np.concatenate(cosines))
            sums = np.add.reduceat(weights, np.cumsum(counts) - counts)
            close[known] = np.log(sums / counts) / np.float32(_GAMMA)
        return close[None]
    order = np.argsort(agents, axis=None, kind="stable")
    listed, starts = np.unique(agents.ravel()[order], return_index=True)
    for agent, places in zip(listed, np.split(order, starts[1:]), strict=True):
        own = exemplars_of(int(agent))
        if own is None:
            continue
        step = max(_PRODUCTS // len(own), 1)
        for start in range(0, len(places), step):
            chosen = places[start : start + step]
            close[chosen] = closeness(own, vectors[chosen // agents.shape[1]])
    return close.reshape(agents.shape)


_PRODUCTS = 2_000_000  # cosines at a time


def closeness(exemplars: FloatArray, vectors: FloatArray) -> FloatArray:
    """Return a soft maximum of the cosines of exemplars (m, d) and each of n vectors, shape (n,).

    Example:
        >>> bool(closeness(np.eye(2, dtype=np.float32), np.array([[1.0, 0.0]]))[0] > 0.9)
        True
    """
    weights = np.exp(_GAMMA * (vectors @ exemplars.T))
    soft: FloatArray = np.log(weights.sum(axis=1) / len(exemplars)) / np.float32(_GAMMA)
    return soft


def exemplars(record: AgentRecord) -> FloatArray | None:
    """Return an agent's example vectors (m, d); None where it has none."""
    return record.example_vectors if len(record.example_vectors) else None


_NAMES_LEXICAL = 0.25  # share of the n-grams' weight that bare names keep; benchmarks/LOG.md
_LETTERS = 0.5  # share of theirs that n-grams of letters keep
_NOBODY = np.float32(0.5)  # logit that somebody reaches for any query: no lead over less


def downweight_ngrams(columns: Columns, cards: Sequence[AgentCard]) -> Columns:
    """Return columns in which the n-grams of letters weigh less, and all those of bare names.

    A name is two or three words, so one of them in a query makes up half its n-gram vector, whether
    or not it tells anything ("balance", "change"). Beside agents with examples, whose n-grams are
    fitted, the full weight is right.

    Args:
        columns: Of n agents, as `description_columns` makes them.
        cards: The n agents.
    """
    bare = np.array([says_only_its_name(card) for card in cards], dtype=bool)
    weights = np.where(bare, np.float32(_NAMES_LEXICAL), np.float32(1.0))
    lexical = columns.lexical.multiply(weights[:, None]).tocsr()
    lexical.data[lexical.indices >= N_WORD_FEATURES] *= np.float32(_LETTERS)
    return Columns(columns.dense, lexical, columns.bias)


def cold_start_features(
    best: Shortlist,
    weight: float,
    vectors: FloatArray,
    rows: npt.NDArray[np.intp],
    snapshot: Snapshot,
) -> FloatArray:
    """Return what `Signals.cold` holds of n queries, shape (n, 2).

    Args:
        best: Their shortlists.
        weight: Of the examples one by one, as in `Shortlist.refined`.
        vectors: Their unit vectors, shape (n, d).
        rows: Of the snapshot, what the list's agents are columns of.
        snapshot: All agents.

    Returns:
        How far the best logit leads the next one, or what anybody reaches, and the cosine of
        query and best agent's description.
    """
    refined = best.refined(weight)
    look = np.empty((len(refined), 2), dtype=np.float32)
    ranked = np.sort(refined, axis=1)
    rival = ranked[:, -2] if ranked.shape[1] > 1 else _NOBODY
    look[:, 0] = ranked[:, -1] - np.maximum(rival, _NOBODY)
    chosen = rows[best.best(weight)]
    for i, (row, vector) in enumerate(zip(chosen, vectors, strict=True)):
        look[i, 1] = snapshot.records[row].description_vector @ vector
    return look


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """What the reranker said of n shortlists of k agents.

    Args:
        logits: Shape (n, k); -inf where it was not asked.
        share: How much it, and what holds for all catalogs, counts beside examples, shape (n,).
    """

    logits: FloatArray
    share: FloatArray

    @property
    def asked(self) -> npt.NDArray[np.bool_]:
        """Which queries it read, shape (n,)."""
        read: npt.NDArray[np.bool_] = np.isfinite(self.logits).sum(axis=1) > 0
        return read

    @classmethod
    def nothing(
        cls, best: Shortlist, rows: npt.NDArray[np.intp], snapshot: Snapshot, weight: float
    ) -> Read:
        """Return what stands where no reranker is asked: the share alone."""
        said = np.full(best.logits.shape, -np.inf, dtype=np.float32)
        share = _share(best.refined(weight), best, rows, snapshot)
        return cls(said, np.where(share < _LEAST_SHARE, np.float32(0.0), share))


def _share(
    refined: FloatArray, best: Shortlist, rows: npt.NDArray[np.intp], snapshot: Snapshot
) -> FloatArray:
    """Return `Read.share` of n shortlists, also where it is too small to ask, shape (n,)."""
    order = np.argsort(-refined, axis=1, kind="stable")[:, :3]
    known = snapshot.n_examples[rows[np.take_along_axis(best.agents, order, axis=1)]].mean(axis=1)
    share: FloatArray = (1.0 / (1.0 + known / _FEW_EXAMPLES)).astype(np.float32)
    return share


_READ = 10  # agents that the reranker is asked about
_READ_WEIGHT = 0.15  # of its logit beside the ranker's, where no examples are known
_FEW_EXAMPLES = 3.0  # examples an agent at which the reranker counts half
_ALWAYS = 0.5  # share of its say from which it is asked whatever the ranker thinks
_SURE = 0.3  # share of the best agent from which it is not asked otherwise
_LEAST_SHARE = 0.25  # below it the reranker is not asked: ten examples an agent tell more
LOUDEST = 9.0
"""Largest log-odds that the reranker is believed."""


def rerank(
    best: Shortlist,
    texts: Sequence[str],
    vectors: FloatArray,
    rows: npt.NDArray[np.intp],
    known: tuple[Snapshot, float],
    reranker: Reranker,
) -> tuple[Shortlist, Read]:
    """Return the lists with the reranker's say, and what it said; it counts less among examples.

    With m examples an agent among the best three it counts ``1 / (1 + m / 3)``. With four to nine
    it is asked only where the ranker is not sure, or the words are such as an LLM is asked with;
    with more, not at all. The order within a list changes, not the probability that its agents
    hold together; among bare names, of which it has little to read, not even the order.

    Args:
        best: The ranker's, k agents a query.
        texts: The queries, length n.
        vectors: Their unit vectors, shape (n, d): what tells which examples it is shown.
        rows: Of the snapshot, what the list's agents are columns of.
        known: All agents, and the weight of examples one by one, as in `Shortlist.refined`.
        reranker: Reads a query and cards.
    """
    snapshot, weight = known
    refined = best.refined(weight)
    order = np.argsort(-refined, axis=1, kind="stable")
    share = _share(refined, best, rows, snapshot)
    asked = share >= _LEAST_SHARE
    if (maybe := np.flatnonzero(asked & (share < _ALWAYS))).size:
        sure = np.exp(refined.max(axis=1) - best.total(weight))[maybe] >= _SURE
        asked[maybe] = ~sure | (generality([texts[int(i)] for i in maybe]) >= 0.0)
    said = np.full(refined.shape, -np.inf, dtype=np.float32)
    moved = best.logits.copy()
    say = np.float32(0.0 if snapshot.names_only else _READ_WEIGHT)
    for i in np.flatnonzero(asked):
        places = order[i, :_READ]
        records = [snapshot.records[rows[agent]] for agent in best.agents[i, places]]
        shown = [_nearest_examples(record, vectors[i]) for record in records]
        found = reranker.logits(texts[int(i)], [record.card for record in records], shown)
        said[i, places] = np.clip(found, -LOUDEST, LOUDEST)
        moved[i, places] += say * share[i] * said[i, places]
        after = moved[i, places] + weight * best.closeness[i, places]
        moved[i, places] += logsumexp(refined[i, places]) - logsumexp(after)
    share[share < _LEAST_SHARE] = 0.0
    return replace(best, logits=moved), Read(said, share)


_SHOWN = 2  # examples of an agent that the reranker reads


def _nearest_examples(record: AgentRecord, vector: FloatArray) -> tuple[str, ...]:
    """Return an agent's examples that are nearest to a vector (d,), the nearest first."""
    if not len(record.example_vectors):
        return ()
    near = np.argsort(-(record.example_vectors @ vector), kind="stable")[:_SHOWN]
    return tuple(record.card.examples[i] for i in near)


_WEIGHTS = ("reranker.onnx", "e9364916cf89ba3ce4d6c2fa9d266c7b1bf8ebdc689aec234122f6d95b13a314")
_QUERY_TOKENS, _CARD_TOKENS = 40, 72
_SAID_TOKENS = 44  # of a card's, for name and description where examples follow
_DESCRIPTION_CHARS, _READ_IN = 420, 2_000  # blanks in a row, as of indented text, count as one
_AT_ONCE = 16
_KEPT = 20_000  # cards whose tokens are remembered


class Reranker:
    """Scores cards for a query with the packaged cross-encoder; safe to share between threads.

    Args:
        threads: CPU threads of a forward pass; None takes the cores at hand, 4 at most.

    Raises:
        ArtifactError: The weights are not the ones this version was measured with.

    Example:
        >>> reranker = Reranker()
        >>> weather = AgentCard("weather", "Weather forecast for a place")
        >>> asked, quoted = (
        ...     reranker.logits(query, [weather])[0]
        ...     for query in ("will it rain in Oslo?", "Translate 'will it rain?' to French")
        ... )
        >>> bool(asked > 0 > quoted)
        True
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._pieces = Wordpieces(512)
        self._words = WordEmbeddings.packaged()
        self._session = open_session(packaged(*_WEIGHTS), threads)
        self._cards: OrderedDict[str, list[int]] = OrderedDict()

    def __reduce__(self) -> tuple[type[Reranker], tuple[int | None]]:
        return Reranker, (self._threads,)  # a copy opens the weights anew

    @property
    def fingerprint(self) -> str:
        """Weights; what was fitted with one reranker does not go with another."""
        return f"reranker-{_WEIGHTS[1][:8]}"

    def logits(
        self, query: str, cards: Sequence[AgentCard], examples: Sequence[Sequence[str]] = ()
    ) -> FloatArray:
        """Return how well each card fits a query: log-odds, shape (n,).

        Args:
            query: The words; the first 40 wordpieces are read.
            cards: n agents. Their names and descriptions are read.
            examples: What to read of each one's examples, length n, a few each; none by default.
        """
        (asked,) = self._pieces.rows([query])
        asked = _cut(asked, _QUERY_TOKENS)
        said = self._rows_of([_text(card) for card in cards])
        such = iter(self._rows_of([f"such as: {'; '.join(each)}" for each in examples if each]))
        shown = [next(such) if each else [] for each in examples or [()] * len(said)]
        rows = [[*asked, *_card_row(*both)[1:]] for both in zip(said, shown, strict=True)]
        found = np.empty(len(rows), dtype=np.float32)
        order = np.argsort([len(row) for row in rows], kind="stable")
        for start in range(0, len(rows), _AT_ONCE):
            batch = order[start : start + _AT_ONCE]
            tokens, mask = padded([rows[i] for i in batch])
            kinds = mask.copy()
            kinds[:, : len(asked)] = 0
            feed = {"words": self._words.of(tokens), "mask": mask, "kinds": kinds}
            (found[batch],) = self._session.run(None, feed)
        return found

    def _rows_of(self, texts: Sequence[str]) -> list[list[int]]:
        known = {text: row for text in texts if (row := self._cards.get(text)) is not None}
        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        if fresh:
            new = [_cut(row, _CARD_TOKENS) for row in self._pieces.rows(fresh)]
            known.update(zip(fresh, new, strict=True))
            self._cards.update(zip(fresh, new, strict=True))
            while len(self._cards) > _KEPT:
                self._cards.popitem(last=False)
        return [known[text] for text in texts]


def _text(card: AgentCard) -> str:
    """Return a card as the reranker was trained on them: its name in words, and what it does."""
    name, said = readable(card.name).lower(), " ".join(card.description[:_READ_IN].split())
    said = said[:_DESCRIPTION_CHARS]
    return name if said.lower() == name else f"{name}: {said}"


def _card_row(said: list[int], such: list[int]) -> list[int]:
    """Return what is read of a card: what it says, and examples, if any, in its last third."""
    if not such:
        return said
    return [*[*said[:-1][: _SAID_TOKENS - 1], *such[1:-1]][: _CARD_TOKENS - 1], said[-1]]


def _cut(row: list[int], most: int) -> list[int]:
    """Return a row of at most so many tokens, the last one still [SEP]."""
    return row if len(row) <= most else [*row[: most - 1], row[-1]]
