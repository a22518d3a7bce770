"""Categories (eq. 13-20, A.2.5): the first layer, groups of agents that a query is looked up in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core._checks import check_name, readable
from moma_core.agents.catalog import Snapshot, card_text
from moma_core.errors import DuplicateNameError, InvalidCardError, InvalidInputError
from moma_core.protocols import Encoder
from moma_core.types import AgentCard, FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt
    from scipy.sparse import csr_matrix

__all__ = [
    "CATCH_ALL",
    "Categories",
    "Category",
    "NameCategory",
    "Retrieval",
    "Taxonomy",
    "collect",
    "distinctive_terms",
    "fit_categories",
    "fit_retrieval",
    "follow",
    "group",
    "name_groups",
    "near_duplicates",
    "nearest",
    "unit",
    "unused",
]

NameCategory = Callable[[Sequence[AgentCard]], str]

_TERMS = 3
_SHOWN = 20  # agents that a `NameCategory` gets to see
_WORD = r"(?u)\b[^\W\d_]{3,}\b"


def distinctive_terms(
    texts: Sequence[str], labels: npt.NDArray[np.intp], count: int = _TERMS
) -> list[tuple[str, ...]]:
    """Return the words that each group has and the others lack, by class-wise TF-IDF.

    A word's weight in a group is the share of the group's texts that hold it, times the logarithm
    of n over the number of texts that hold it anywhere.

    Args:
        texts: n texts.
        labels: Group of each, in [0, k), shape (n,).
        count: Words a group, at most.

    Example:
        >>> texts = ["football match", "football score", "rain tonight", "rain in Oslo"]
        >>> distinctive_terms(texts, np.array([0, 0, 1, 1]), count=1)
        [('football',), ('rain',)]
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import CountVectorizer

    n, k = len(texts), int(labels.max()) + 1
    counter = CountVectorizer(binary=True, token_pattern=_WORD, max_features=50_000)
    try:
        holds = counter.fit_transform(texts)  # (n, t)
    except ValueError:  # no text holds a word
        return [()] * k
    words = counter.get_feature_names_out()
    group = csr_matrix((np.ones(n), (labels, np.arange(n))), shape=(k, n))
    sizes = np.maximum(np.bincount(labels, minlength=k), 1)
    rarity = np.log((1.0 + n) / np.asarray(holds.sum(axis=0)).ravel())
    probabilities = (group @ holds).tocsr()  # (k, t)
    found = []
    for label in range(k):
        part = slice(probabilities.indptr[label], probabilities.indptr[label + 1])
        terms = probabilities.indices[part]
        weights = probabilities.data[part] / sizes[label] * rarity[terms]
        best = np.lexsort((words[terms], -weights))[:count]
        found.append(tuple(str(words[terms[i]]) for i in best))
    return found


def name_groups(
    cards: Sequence[AgentCard],
    labels: npt.NDArray[np.intp],
    taken: Collection[str] = (),
    name_category: NameCategory | None = None,
) -> list[str]:
    """Return one new name a group.

    Args:
        cards: n agents.
        labels: Group of each, in [0, k), every group used; shape (n,).
        taken: Names that categories have already.
        name_category: Names a group from its cards, for example by an LLM; None takes the
            distinctive terms.
    """
    if name_category is None:
        terms = distinctive_terms([card_text(card) for card in cards], labels)
        wanted = [", ".join(words) for words in terms]
    else:
        order = np.argsort(labels, kind="stable")
        parts = np.split(order, np.cumsum(np.bincount(labels))[:-1])
        wanted = [name_category([cards[i] for i in part[:_SHOWN]]).strip() for part in parts]
    names: list[str] = []
    used = set(taken)
    for name in wanted:
        names.append(unused(name or "unnamed", used))
        used.add(names[-1])
    return names


def unused(name: str, taken: Collection[str]) -> str:
    """Return the name, or the name with the first free number.

    Example:
        >>> unused("rain", {"rain", "rain (2)"})
        'rain (3)'
    """
    number, free = 2, name
    while free in taken:
        free = f"{name} ({number})"
        number += 1
    return free


_SAMPLE = 4_000  # vectors that k-means looks at; the others join the nearest centre
_SILHOUETTE_SAMPLE = 1_000
_ITERATIONS = 15
_PARTS = (0.5, 0.7, 1.0, 1.4, 2.0)  # of the square root of n: the groups tried
_BLOCK = 1_024  # rows of a cosine matrix held at once


def unit(rows: FloatArray) -> FloatArray:
    """Return rows (n, d) at unit length; rows of zeros stay zeros."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: FloatArray = (rows / np.maximum(norms, 1e-12)).astype(np.float32)
    return scaled


def nearest(vectors: FloatArray, centres: FloatArray) -> npt.NDArray[np.intp]:
    """Return the centre of largest cosine for each vector, (n, d) and (k, d) to (n,)."""
    parts = [
        (vectors[start : start + _BLOCK] @ centres.T).argmax(axis=1)
        for start in range(0, len(vectors), _BLOCK)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.intp)


def group(vectors: FloatArray, seed: int = 0) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Return the group of each vector and the groups' unit centres (eq. 14-15).

    k-means runs for half to twice the square root of n groups, so that finding a group costs
    about as much as looking through it; the best silhouette wins.

    Args:
        vectors: Unit vectors, shape (n, d), n at least 2.
        seed: Of the sample and of k-means.

    Returns:
        Labels, shape (n,), each in [0, k), and centres, shape (k, d). No group is empty.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> corners = np.repeat(np.eye(4, dtype=np.float32), 9, axis=0)
        >>> labels, centres = group(unit(corners + 0.05 * rng.standard_normal((36, 4))))
        >>> len(centres), len(set(labels[:9].tolist()))
        (4, 1)
    """
    generator = np.random.default_rng(seed)
    n = len(vectors)
    picked = np.sort(generator.permutation(n)[:_SAMPLE])
    sample = vectors[picked]
    tried = [_kmeans(sample, k, seed) for k in _grid(n, len(sample))]
    scores = [_silhouette(sample, labels, seed) for labels, _ in tried]
    centres = unit(tried[int(np.argmax(scores))][1])
    labels = nearest(vectors, centres)
    used, labels = np.unique(labels, return_inverse=True)
    return labels.astype(np.intp), centres[used]


def _grid(n: int, n_sample: int) -> list[int]:
    root = np.sqrt(n)
    most = max(n_sample // 2, 1)
    return sorted({int(np.clip(round(root * part), 2, max(most, 2))) for part in _PARTS})


def _kmeans(sample: FloatArray, k: int, seed: int) -> tuple[npt.NDArray[np.intp], FloatArray]:
    from sklearn.cluster import KMeans

    k = min(k, len(np.unique(sample, axis=0)))
    fitted = KMeans(k, n_init=1, max_iter=_ITERATIONS, random_state=seed).fit(sample)
    return fitted.labels_.astype(np.intp), fitted.cluster_centers_.astype(np.float32)


def _silhouette(sample: FloatArray, labels: npt.NDArray[np.intp], seed: int) -> float:
    """Return the mean silhouette of a part of the sample; -1 where it has no meaning."""
    from sklearn.metrics import silhouette_score

    picked = np.random.default_rng(seed).permutation(len(sample))[:_SILHOUETTE_SAMPLE]
    chosen = labels[picked]
    if not 2 <= len(np.unique(chosen)) < len(chosen):
        return -1.0
    return float(silhouette_score(sample[picked], chosen))


def near_duplicates(vectors: FloatArray, least: float) -> npt.NDArray[np.intp]:
    """Return for each vector the earlier one that it repeats, or itself (eq. 16).

    Args:
        vectors: Unit vectors, shape (k, d); the earlier of two near-duplicates is kept.
        least: Cosine from which two are the same.

    Returns:
        Shape (k,); an entry that is kept points to itself.

    Example:
        >>> near_duplicates(np.array([[1, 0], [0, 1], [0.98, 0.2]], np.float32), 0.9).tolist()
        [0, 1, 0]
    """
    owner = np.arange(len(vectors))
    for start in range(0, len(vectors), _BLOCK):
        cosines = vectors[start : start + _BLOCK] @ vectors[: start + _BLOCK].T
        for i in np.flatnonzero((np.tril(cosines, start - 1) >= least).any(axis=1)):
            before = cosines[i, : start + i]
            before = np.where(owner[: start + i] == np.arange(start + i), before, -1.0)
            best = int(before.argmax())
            if before[best] >= least:
                owner[start + i] = best
    return owner


_MOST_CANDIDATES = 24
_WORK_SAMPLE = 500


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Retrieves at most k categories whose cosine reaches a threshold, and always the nearest.

    Args:
        k: Most categories, at least 1.
        threshold: Least cosine.

    Example:
        >>> Retrieval(2, 0.3).of(np.array([0.1, 0.9, 0.2, 0.5], np.float32)).tolist()
        [1, 3]
    """

    k: int
    threshold: float

    def of(self, cosines: FloatArray) -> npt.NDArray[np.intp]:
        """Return the retrieved categories, nearest first, from all cosines (k_all,)."""
        k = min(self.k, cosines.size)
        best = np.argpartition(-cosines, k - 1)[:k]
        best = best[np.argsort(-cosines[best], kind="stable")]
        reached = int((cosines[best] >= self.threshold).sum())
        chosen: npt.NDArray[np.intp] = best[: max(reached, 1)]
        return chosen


def fit_retrieval(
    cosines: FloatArray,
    wanted: npt.NDArray[np.bool_],
    sizes: npt.NDArray[np.intp],
    share: float = 0.99,
) -> Retrieval | None:
    """Return the cheapest k and threshold that retrieve a wanted category often enough.

    Of m examples, ``ceil((m + 1) * share)`` must be found (the split-conformal quantile): then so
    is the next exchangeable query with probability ``share`` or more. That number of misses is
    given partly to k and partly to the threshold, whichever way leaves the fewest agents to score.

    Args:
        cosines: Of examples and categories, shape (m, k).
        wanted: Categories that hold a wanted agent, shape (m, k).
        sizes: Agents of each category, shape (k,).
        share: Of examples whose category must be retrieved, in (0, 1).

    Returns:
        None when so few examples cannot promise ``share``.

    Example:
        >>> cosines = np.tile(np.array([0.9, 0.5, 0.1], np.float32), (200, 1))
        >>> wanted = np.tile(np.array([False, True, False]), (200, 1))
        >>> fit_retrieval(cosines, wanted, np.array([5, 5, 5])).k
        2
    """
    m = len(cosines)
    needed = int(np.ceil((m + 1) * share))
    if needed > m:
        return None
    best = np.where(wanted, cosines, -np.inf).max(axis=1)  # (m,)
    ranks = (cosines > best[:, None]).sum(axis=1) + 1
    ordered = np.sort(ranks)
    step = max((m - needed) // _MOST_CANDIDATES, 1)
    lengths = sorted({int(ordered[i]) for i in range(needed - 1, m, step)})
    options = []
    for k in lengths:
        inside = np.sort(best[ranks <= k])
        options.append(Retrieval(k, float(inside[inside.size - needed])))
    seen = cosines[:: max(m // _WORK_SAMPLE, 1)]
    work = [_scored(seen, sizes, option) for option in options]
    return options[int(np.argmin(work))]


def _scored(cosines: FloatArray, sizes: npt.NDArray[np.intp], option: Retrieval) -> float:
    """Return how many agents the retrieved categories hold, on average."""
    return float(np.mean([sizes[option.of(row)].sum() for row in cosines]))


CATCH_ALL = "all"


@dataclass(frozen=True, slots=True)
class Category:
    """A category that the user names.

    Args:
        name: As cards name it.
        description: What its agents are about, in a sentence; helps agents without a category.

    Raises:
        InvalidCardError: The name cannot be used, or the description is no text.
    """

    name: str
    description: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "a category's")
        if not isinstance(self.description, str):
            raise InvalidCardError(
                f"the description of category {self.name!r} must be text, got "
                f"{self.description!r:.40}."
            )


@dataclass(frozen=True, slots=True, eq=False)
class Taxonomy:
    """What the user says of categories, and when the layer works.

    Args:
        given: The top-down list, beside what cards name.
        vectors: Unit vectors of ``given``, shape (len(given), d); `encoded` makes them.
        name_category: Names a bottom-up category from its cards, for example by an LLM; None takes
            its agents' distinctive terms.
        discover_from: So many agents and more are grouped bottom-up too; None leaves it at what is
            named.
        restrict: Whether only agents of the retrieved categories are scored, once examples have
            fitted which those are. Costs a little accuracy (benchmarks/categories.py).

    Example:
        >>> from moma_core.testing import HashEncoder
        >>> Taxonomy.of([Category("travel", "trips and hotels")], HashEncoder()).vectors.shape
        (1, 64)
    """

    given: tuple[Category, ...] = ()
    vectors: FloatArray | None = None
    name_category: NameCategory | None = None
    discover_from: int | None = None
    restrict: bool = False

    @classmethod
    def of(
        cls,
        given: Sequence[Category],
        encoder: Encoder,
        *,
        name_category: NameCategory | None = None,
        discover_from: int | None = 300,
        restrict: bool = False,
    ) -> Taxonomy:
        """Encode a user's list."""
        return cls(tuple(given), None, name_category, discover_from, restrict).encoded(encoder)

    @classmethod
    def from_given(cls, given: Taxonomy | Sequence[Category] | None, encoder: Encoder) -> Taxonomy:
        """Return what a user gave, encoded: a taxonomy, a list of categories, or nothing.

        Raises:
            InvalidInputError: It is neither.
            DuplicateNameError: Two categories share a name.
        """
        if given is None:
            return cls()
        if isinstance(given, Taxonomy):
            return given.encoded(encoder)
        if not isinstance(given, Sequence) or not all(isinstance(c, Category) for c in given):
            raise InvalidInputError(
                f"categories is a list of Category objects or a Taxonomy, got {given!r:.60}. "
                "Write categories=[Category('travel', 'trips and hotels')]."
            )
        return cls.of(given, encoder)

    def encoded(self, encoder: Encoder) -> Taxonomy:
        """Return the taxonomy with vectors of its categories.

        Raises:
            DuplicateNameError: Two categories share a name.
        """
        names = [category.name for category in self.given]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DuplicateNameError(f"two categories are named {twice!r}; give one another name.")
        if self.vectors is not None or not self.given:
            return self
        texts = [f"{readable(c.name)}: {c.description}".rstrip(": ") for c in self.given]
        return replace(self, vectors=encoder.encode(texts))

    def to_dict(self) -> dict[str, Any]:
        """Return a plain form for JSON, less the vectors and ``name_category``."""
        return {
            "given": [{"name": c.name, "description": c.description} for c in self.given],
            "discover_from": self.discover_from,
            "restrict": self.restrict,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Taxonomy:
        """Rebuild what `to_dict` gave; not encoded yet."""
        given = tuple(Category(**category) for category in plain["given"])
        least, restrict = plain["discover_from"], plain["restrict"]
        if not (least is None or type(least) is int) or not isinstance(restrict, bool):
            raise TypeError(f"discover_from is {least!r:.40}, restrict is {restrict!r:.40}")
        return cls(given, discover_from=least, restrict=restrict)


@dataclass(frozen=True, slots=True, eq=False)
class Categories:
    """k categories of n agents; an agent may be in several.

    Args:
        names: Shape (k,).
        vectors: Unit vectors, shape (k, d).
        agents: Rows of the agents, category after category, shape (m,).
        starts: Where each category begins in ``agents``, shape (k + 1,).
        n_agents: How many agents there are.
        aliases: Index of every known name, those merged into another one included.
        join: Cosine from which an agent belongs to a category that it does not name.
        discovered: Whether agents were grouped bottom-up too.
        retrieval: How far a query is looked up; None looks everywhere.
    """

    names: tuple[str, ...]
    vectors: FloatArray
    agents: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    n_agents: int
    aliases: Mapping[str, int] = field(default_factory=dict)
    join: float = 0.5
    discovered: bool = False
    retrieval: Retrieval | None = None

    @property
    def sizes(self) -> npt.NDArray[np.intp]:
        """Agents of each category, shape (k,)."""
        return np.diff(self.starts)

    def members(self, name: str) -> npt.NDArray[np.intp]:
        """Return the rows of a category's agents; none for an unknown name."""
        index = self.aliases.get(name)
        if index is None:
            return np.zeros(0, dtype=np.intp)
        return self.agents[self.starts[index] : self.starts[index + 1]]

    def nearest(self, vector: FloatArray) -> tuple[str, float]:
        """Return the category closest to a query vector (d,), with its cosine (eq. 18)."""
        cosines = self.vectors @ vector
        best = int(cosines.argmax())
        return self.names[best], float(cosines[best])

    def narrowed(self, vector: FloatArray, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Return those of ``rows`` whose category a query vector (d,) retrieves (eq. 17-20).

        All of them where nothing was fitted, or where none would be left. Agents without a
        category always stay.
        """
        if self.retrieval is None:
            return rows
        near = np.ones(self.n_agents, dtype=bool)
        near[self.agents] = False
        for index in self.retrieval.of(self.vectors @ vector):
            near[self.agents[self.starts[index] : self.starts[index + 1]]] = True
        left = rows[near[rows]]
        return left if left.size else rows


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
