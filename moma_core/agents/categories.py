"""Builds the categories of a catalog, and lets agents join them as they come (eq. 13-16, A.2.5).

`collect` looks at all agents; `follow` takes over what is known and looks only at new ones, so
that adding an agent is a matter of milliseconds. Both give the same result every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agent_routing.catalog import Snapshot
from moma_core.agent_routing.categories import CATCH_ALL, Categories, Taxonomy
from moma_core.agent_routing.category_names import name_groups, unused
from moma_core.agent_routing.clustering import group, near_duplicates, unit
from moma_core.agent_routing.retrieval import Retrieval, fit_retrieval
from moma_core.types import FloatArray
from moma_core.words import readable

if TYPE_CHECKING:
    import numpy.typing as npt
    from scipy.sparse import csr_matrix

__all__ = ["collect", "fit_categories", "follow"]

_SAME = 0.85  # cosine from which two categories are near-duplicates
_JOIN = 0.5  # cosine from which an agent joins, where no groups tell how close members are
_LOOSEST = 0.05  # share of members left outside by the cosine that groups give
_MOST_EXAMPLES = 4_000
_JOINED = 2  # categories that a new agent joins at most beside those on its card


def collect(snapshot: Snapshot, taxonomy: Taxonomy | None = None, seed: int = 0) -> Categories:
    """Return the categories of all agents: named ones, found ones, less near-duplicates.

    Args:
        snapshot: The agents.
        taxonomy: The user's list, and whether to look for groups; by default only what cards name.
        seed: Of k-means.
    """
    taxonomy = taxonomy or Taxonomy()
    n = len(snapshot.records)
    named = [c.name for c in taxonomy.given]
    names = list(dict.fromkeys([*named, *(c for r in snapshot.records for c in r.card.categories)]))
    index = {name: i for i, name in enumerate(names)}
    pairs = [(index[c], i) for i, r in enumerate(snapshot.records) for c in r.card.categories]
    belongs = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    join, found = _JOIN, taxonomy.discover_from is not None and n >= max(taxonomy.discover_from, 2)
    if found:
        labels, centres = group(snapshot.descriptions, seed)
        cards = [record.card for record in snapshot.records]
        new = name_groups(cards, labels, names, taxonomy.name_category)
        belongs = np.concatenate([belongs, np.stack([labels + len(names), np.arange(n)], axis=1)])
        names += new
        own = np.einsum("nd,nd->n", snapshot.descriptions, centres[labels])
        join = float(np.quantile(own, _LOOSEST))
    if not names:
        return _everybody(snapshot)
    vectors = _means(_matrix(belongs, len(names), n), snapshot, taxonomy)
    owner = near_duplicates(vectors, _SAME)
    kept, place = np.unique(owner, return_inverse=True)
    belongs[:, 0] = place[belongs[:, 0]]
    if kept.size < len(names):
        vectors = unit(_matrix(belongs, kept.size, n) @ snapshot.descriptions + vectors[kept])
    aliases = {name: int(place[i]) for i, name in enumerate(names)}
    joined = _joining(belongs, vectors, snapshot, join)
    merged = _build([names[i] for i in kept], vectors, np.concatenate([belongs, joined]), n)
    merged = replace(merged, aliases=aliases, join=join, discovered=found)
    return fit_categories(merged, snapshot) if taxonomy.restrict else merged


def follow(known: Categories, before: Snapshot, snapshot: Snapshot) -> Categories:
    """Return the categories after agents came, changed or went; the others stay where they were.

    A new agent joins the categories on its card and its closest ones; where none is as close as
    ``known.join``, it opens one, named after itself (A.2.5).

    Args:
        known: Categories of ``before``.
        before: The catalog as it was.
        snapshot: The catalog as it is.
    """
    if known.names == (CATCH_ALL,):
        return collect(snapshot)
    place, fresh = _moved(before, snapshot)
    category = np.repeat(np.arange(len(known.names)), known.sizes)
    stays = place[known.agents] >= 0
    belongs = np.stack([category[stays], place[known.agents[stays]]], axis=1)
    names, aliases = list(known.names), dict(known.aliases)
    vectors, new = list(known.vectors), []
    for row in fresh:
        record = snapshot.records[row]
        vector = record.description_vector
        for name in record.card.categories:
            if name not in aliases:
                _open(name, vector, names, vectors, aliases)
        cosines = np.asarray(vectors) @ vector
        close = np.argsort(-cosines, kind="stable")[:_JOINED]
        chosen = {aliases[name] for name in record.card.categories}
        chosen |= {int(i) for i in close if cosines[i] >= known.join}
        if not chosen:
            name = unused(readable(record.card.name) or record.card.name, aliases)
            chosen = {_open(name, vector, names, vectors, aliases)}
        new += [(i, row) for i in sorted(chosen)]
    if new:
        belongs = np.concatenate([belongs, np.array(new, dtype=np.intp)])
    built = _build(names, np.array(vectors, dtype=np.float32), belongs, len(snapshot.records))
    return replace(
        built,
        aliases=aliases,
        join=known.join,
        discovered=known.discovered,
        retrieval=known.retrieval,
    )


def fit_categories(categories: Categories, snapshot: Snapshot, share: float = 0.99) -> Categories:
    """Return the categories with k and threshold fitted to the agents' examples (eq. 19-20).

    An example that several agents have counts as found with the first of them.

    Args:
        categories: Of the agents in ``snapshot``.
        snapshot: The agents with their examples; with too few, nothing is restricted.
        share: Of queries whose category must be among the retrieved ones.
    """
    wanted: dict[str, tuple[FloatArray, list[int]]] = {}
    for row, record in enumerate(snapshot.records):
        for text, vector in zip(record.card.examples, record.example_vectors, strict=True):
            wanted.setdefault(text, (vector, []))[1].append(row)
    if not wanted:
        return replace(categories, retrieval=None)
    picked = np.random.default_rng(0).permutation(len(wanted))[:_MOST_EXAMPLES]
    queries = list(wanted.values())
    vectors = np.array([queries[i][0] for i in picked], dtype=np.float32)
    agents = [queries[i][1] for i in picked]
    return replace(categories, retrieval=_retrieval(categories, vectors, agents, share))


def _retrieval(
    categories: Categories, vectors: FloatArray, agents: Sequence[Sequence[int]], share: float
) -> Retrieval | None:
    k, m = len(categories.names), len(vectors)
    category = np.repeat(np.arange(k), categories.sizes)
    belongs = np.stack([category, categories.agents], axis=1)
    of_agent = _matrix(belongs, k, categories.n_agents).T.tocsr()  # (n, k)
    wanted = np.zeros((m, k), dtype=bool)
    for i, rows in enumerate(agents):
        wanted[i, of_agent[list(rows)].indices] = True
    return fit_retrieval(vectors @ categories.vectors.T, wanted, categories.sizes, share)


def _everybody(snapshot: Snapshot) -> Categories:
    n = len(snapshot.records)
    vectors = unit(snapshot.descriptions.sum(axis=0, keepdims=True))
    belongs = np.stack([np.zeros(n, dtype=np.intp), np.arange(n)], axis=1)
    return replace(_build([CATCH_ALL], vectors, belongs, n), aliases={CATCH_ALL: 0})


def _matrix(belongs: npt.NDArray[np.intp], k: int, n: int) -> csr_matrix:
    """Return (category, agent) pairs as a sparse matrix of ones, shape (k, n)."""
    from scipy.sparse import csr_matrix

    matrix = csr_matrix((np.ones(len(belongs), np.float32), belongs.T), shape=(k, n))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0  # a pair given twice counts once
    return matrix


def _means(matrix: csr_matrix, snapshot: Snapshot, taxonomy: Taxonomy) -> FloatArray:
    """Return the unit mean of each category's agents and, if given, its own words (eq. 17)."""
    sums: FloatArray = matrix @ snapshot.descriptions
    if taxonomy.given and taxonomy.vectors is not None:
        sums[: len(taxonomy.given)] += taxonomy.vectors
    return unit(sums)


def _joining(
    belongs: npt.NDArray[np.intp], vectors: FloatArray, snapshot: Snapshot, join: float
) -> npt.NDArray[np.intp]:
    """Return the pairs of agents that name no category and come close enough to one."""
    alone = np.setdiff1d(np.arange(len(snapshot.records)), belongs[:, 1])
    cosines = snapshot.descriptions[alone] @ vectors.T
    best = cosines.argmax(axis=1)
    close = cosines[np.arange(alone.size), best] >= join
    return np.stack([best[close], alone[close]], axis=1)


def _build(
    names: Sequence[str], vectors: FloatArray, belongs: npt.NDArray[np.intp], n: int
) -> Categories:
    matrix = _matrix(belongs, len(names), n)
    agents, starts = matrix.indices.astype(np.intp), matrix.indptr.astype(np.intp)
    return Categories(tuple(names), vectors, agents, starts, n)


def _moved(before: Snapshot, snapshot: Snapshot) -> tuple[npt.NDArray[np.intp], list[int]]:
    """Return the new row of each old agent, -1 where it changed or went; and the new rows."""
    place = np.full(len(before.records), -1, dtype=np.intp)
    fresh = []
    for row, record in enumerate(snapshot.records):
        old = before.position.get(record.card.name)
        if old is not None and _same(before, old, snapshot, row):
            place[old] = row
        else:
            fresh.append(row)
    return place, fresh


def _same(before: Snapshot, old: int, snapshot: Snapshot, row: int) -> bool:
    first, second = before.records[old], snapshot.records[row]
    return first is second or (
        first.card.categories == second.card.categories
        and np.array_equal(first.description_vector, second.description_vector)
    )


def _open(
    name: str,
    vector: FloatArray,
    names: list[str],
    vectors: list[FloatArray],
    aliases: dict[str, int],
) -> int:
    aliases[name] = len(names)
    names.append(name)
    vectors.append(vector)
    return aliases[name]
