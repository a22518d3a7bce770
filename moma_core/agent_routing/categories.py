"""Categories (eq. 13-20, A.2.5): the first layer, groups of agents that a query is looked up in.

Top-down: what cards and the user's list name. Bottom-up: k-means over description vectors. Their
union, less near-duplicates, is searched before agents are, so that a large catalog need not be
scored as a whole. It saves work and does not raise accuracy (benchmarks/categories.py): nothing is
restricted unless examples have fitted how far to look. Knows no states and no scores of agents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from moma_core.agent_routing.category_names import NameCategory
from moma_core.agent_routing.retrieval import Retrieval
from moma_core.agent_routing.wording import readable
from moma_core.protocols import Encoder
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["CATCH_ALL", "Categories", "Category", "Taxonomy"]

CATCH_ALL = "all"


@dataclass(frozen=True, slots=True)
class Category:
    """A category that the user names.

    Args:
        name: As cards name it.
        description: What its agents are about, in a sentence; helps agents without a category.
    """

    name: str
    description: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Taxonomy:
    """What the user says of categories, and when the layer works.

    Args:
        given: The top-down list, beside what cards name.
        vectors: Unit vectors of ``given``, shape (len(given), d); `of` encodes them.
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
        texts = [f"{readable(c.name)}: {c.description}".rstrip(": ") for c in given]
        return cls(tuple(given), encoder.encode(texts), name_category, discover_from, restrict)


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
