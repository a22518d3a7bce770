"""Names for groups of agents that nobody named: the words that set a group apart.

Knows cards and labels, no vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agent_routing.wording import card_text
from moma_core.types import AgentCard

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["NameCategory", "distinctive_terms", "name_groups", "unused"]

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
    shares = (group @ holds).tocsr()  # (k, t)
    found = []
    for label in range(k):
        part = slice(shares.indptr[label], shares.indptr[label + 1])
        terms = shares.indices[part]
        weights = shares.data[part] / sizes[label] * rarity[terms]
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
