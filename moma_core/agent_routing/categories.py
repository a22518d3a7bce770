"""Categories (eq. 13-20, A.2.5): the first layer, groups of agents that a query is looked up in.

Top-down: what cards and the user's list name. Bottom-up: k-means over description vectors. Their
union, less near-duplicates, is searched before agents are, so that a large catalog need not be
scored as a whole. It saves work and does not raise accuracy (benchmarks/categories.py): nothing is
restricted unless examples have fitted how far to look. Knows no states and no scores of agents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core.agent_routing.category_names import NameCategory
from moma_core.agent_routing.retrieval import Retrieval
from moma_core.errors import DuplicateNameError, InvalidCardError, InvalidInputError
from moma_core.protocols import Encoder
from moma_core.types import FloatArray
from moma_core.types.checks import check_name
from moma_core.words import readable

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
        return cls(given, discover_from=plain["discover_from"], restrict=plain["restrict"])


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
