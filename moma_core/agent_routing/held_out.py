"""Shortlists with the ranker's log probabilities, of new queries and of examples held out.

What a final decision is fitted on: for an example that the ranker had not seen, which agents it
would have listed and how sure of each it would have been. Knows the ranker, no LLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moma_core.agent_routing.catalog import Snapshot
from moma_core.agent_routing.lexical import document_frequencies, inverse_frequencies
from moma_core.agent_routing.negatives import Negatives
from moma_core.agent_routing.ranker import Features, description_columns
from moma_core.agent_routing.shortlist import exemplars, shortlist
from moma_core.agent_routing.task import FOLDS, Task
from moma_core.agent_routing.training import Trained, train
from moma_core.agent_routing.wording import card_text
from moma_core.types import FloatArray

__all__ = ["RankedList", "held_out_lists", "ranked_lists"]

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
            wanted = snapshot.names[task.active[task.owners[example]]]
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
