"""Categories (eq. 13-20, first layer): groups of agents by what the user says they are about.

First version: the categories named on the cards, or one that holds every agent. A category's
vector is the mean of its members' description vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moma_core.agent_routing.catalog import Snapshot
from moma_core.types import FloatArray

__all__ = ["CATCH_ALL", "Categories"]

CATCH_ALL = "all"


@dataclass(frozen=True, slots=True, eq=False)
class Categories:
    """Names of k categories beside their unit vectors, shape (k, d)."""

    names: tuple[str, ...]
    vectors: FloatArray

    @classmethod
    def of(cls, snapshot: Snapshot) -> Categories:
        """Collect the categories of all agents in order of first mention."""
        names = dict.fromkeys(c for r in snapshot.records for c in r.card.categories)
        rows = [snapshot.descriptions[snapshot.members([name])].mean(axis=0) for name in names]
        if not rows:
            rows, names = [np.zeros(snapshot.dimension, dtype=np.float32)], {CATCH_ALL: None}
        vectors = np.array(rows, dtype=np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return cls(tuple(names), vectors / np.maximum(norms, 1e-12))

    def nearest(self, vector: FloatArray) -> tuple[str, float]:
        """Return the category closest to a query vector (d,), with its cosine (eq. 18)."""
        cosines = self.vectors @ vector
        best = int(cosines.argmax())
        return self.names[best], float(cosines[best])
