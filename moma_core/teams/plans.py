"""Many team plans at once as index arrays: what the policy writes and a simulator reads.

Knows positions in lists of modes, roles and LLMs; not what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["PlanBatch"]

_Index = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class PlanBatch:
    """B plans; S is the most members that any of them has.

    Args:
        domain: Task domain, shape (B,).
        mode: Mode, shape (B,).
        size: Number of members, shape (B,).
        rounds: Number of rounds, shape (B,).
        roles: Role of each member, -1 beyond ``size``, shape (B, S).
        llms: LLM of each member, -1 beyond ``size``, shape (B, S).
        calls: Calls of each member, 0 beyond ``size``, shape (B, S).
        length: Cost of one call beside a step-by-step answer, shape (B,).
    """

    domain: _Index
    mode: _Index
    size: _Index
    rounds: _Index
    roles: _Index
    llms: _Index
    calls: _Index
    length: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.mode)

    @property
    def seated(self) -> npt.NDArray[np.bool_]:
        """Which seats are taken, shape (B, S)."""
        return self.llms >= 0

    def take(self, rows: npt.ArrayLike) -> PlanBatch:
        """Return the plans of these rows, given as indices or as a mask."""
        kept = np.asarray(rows)
        return PlanBatch(*(getattr(self, name)[kept] for name in self.__slots__))

    @classmethod
    def joined(cls, parts: Sequence[PlanBatch]) -> PlanBatch:
        """Return the plans of several batches one after the other."""
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__)
        )

    def cost(self, costs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return USD of each plan, shape (B,).

        Args:
            costs: USD of one step-by-step answer of each LLM on each plan's query, shape (B, m).
        """
        each = costs[np.arange(len(self))[:, None], np.maximum(self.llms, 0)] * self.calls
        total: npt.NDArray[np.float64] = each.sum(axis=1) * self.length
        return total
