"""What each stage of the cascade sees: numbers of a query, of an option, of the seats so far.

Texts enter by one fixed random projection of their vectors, so that an option added later is seen
like the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moma_core.teams.cards import ModeCard, TeamOptions, calls_by_member

__all__ = [
    "Tables",
    "TeamInputs",
    "query_numbers",
]

_Array = npt.NDArray[np.float64]
NUMBERS = 5
SEAT_NUMBERS = 3
MODE_NUMBERS, SIZE_NUMBERS, ROLE_NUMBERS, LLM_NUMBERS = 4, 4, 3, 5


@dataclass(frozen=True, slots=True, eq=False)
class TeamInputs:
    """What is known of n queries before a team is planned.

    Args:
        vectors: Unit vectors, shape (n, d).
        quality: Predicted quality of each LLM, in [0, 1], shape (n, m).
        costs: Expected USD of each LLM, shape (n, m).
    """

    vectors: _Array
    quality: _Array
    costs: _Array

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: npt.ArrayLike) -> TeamInputs:
        """Return these queries, given as indices (repeats allowed) or as a mask."""
        kept = np.asarray(rows)
        return TeamInputs(self.vectors[kept], self.quality[kept], self.costs[kept])

    @property
    def difficulty(self) -> _Array:
        """Share of the pool that is expected to fail, shape (n,)."""
        share: _Array = 1.0 - self.quality.mean(axis=1)
        return share


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """The options as the scorers see them, computed once and kept.

    Args:
        options: Modes and roles.
        modes: Projected vectors, shape (M, p).
        roles: Shape (R, p).
        domains: Shape (D, p).
        whole: Vectors of domains, modes and roles as they are, for cosines; double precision.
        role_likeness: Cosines of roles, shape (R, R).
        sizes: Members and rounds of each team size, shape (G, 2).
        fits: Which sizes a mode takes, shape (M, G).
        calls: Calls of each member, shape (M, G, S).
        lengths: Cost of one call of each mode, shape (M,).
    """

    options: TeamOptions
    modes: _Array
    roles: _Array
    domains: _Array
    whole: Mapping[str, _Array]
    role_likeness: _Array
    sizes: npt.NDArray[np.intp]
    fits: npt.NDArray[np.bool_]
    calls: npt.NDArray[np.intp]
    lengths: _Array

    @classmethod
    def of(cls, options: TeamOptions, projection: _Array) -> Tables:
        """Project the options' vectors by ``projection``, shape (d, p)."""
        most = options.most_members
        sizes = np.array(
            [(n, r) for n in range(1, most + 1) for r in range(1, options.most_rounds + 1)]
        )
        fits = np.array([[_takes(mode, n, r) for n, r in sizes] for mode in options.modes])
        calls = np.zeros((*fits.shape, most), np.intp)
        for i, j in zip(*np.nonzero(fits), strict=True):
            n, r = sizes[j].tolist()
            calls[i, j, :n] = calls_by_member(options.modes[i], n, r)
        whole = {
            "domain": options.domain_vectors.astype(np.float64),
            "mode": options.mode_vectors.astype(np.float64),
            "role": options.role_vectors.astype(np.float64),
        }
        return cls(
            options,
            whole["mode"] @ projection,
            whole["role"] @ projection,
            whole["domain"] @ projection,
            whole,
            whole["role"] @ whole["role"].T,
            sizes,
            fits,
            calls,
            np.array([mode.length for mode in options.modes]),
        )

    def mode_numbers(self, inputs: TeamInputs, burden: _Array) -> _Array:
        """Return likeness to the query, several members or one, least cost, and what it burdens.

        Args:
            inputs: B queries.
            burden: Rate times the typical cost of a call, shape (B,).

        Returns:
            Shape (B, M, 4).
        """
        least = np.where(self.fits, self.calls.sum(axis=2), np.iinfo(np.intp).max).min(axis=1)
        factor = least * self.lengths  # (M,)
        alone = np.array([float(mode.max_members == 1) for mode in self.options.modes])
        columns = np.broadcast_arrays(
            inputs.vectors @ self.whole["mode"].T,
            alone,
            np.log(factor),
            np.minimum(burden[:, None] * factor, 2.0),
        )
        return np.stack(columns, axis=2)

    def size_numbers(self, modes: npt.NDArray[np.intp], burden: _Array) -> _Array:
        """Return members, rounds, calls and what they burden, shape (B, G, 4)."""
        factor = self.calls[modes].sum(axis=2) * self.lengths[modes, None]  # (B, G)
        columns = np.broadcast_arrays(
            self.sizes[:, 0] / 5.0,
            self.sizes[:, 1] / 2.0,
            np.log(np.maximum(factor, 0.1)) / 2.0,
            np.minimum(burden[:, None] * factor, 2.0),
        )
        return np.stack(columns, axis=2)

    def role_numbers(self, likeness: _Array, taken: npt.NDArray[np.intp]) -> _Array:
        """Return likeness to the query, taken already, and likeness to those taken, (B, R, 3).

        Args:
            likeness: Cosines of queries and roles, shape (B, R).
            taken: Roles of the seats so far, shape (B, i).
        """
        used, nearest = np.zeros(likeness.shape), np.zeros(likeness.shape)
        rows = np.arange(len(likeness))
        for column in taken.T:
            used[rows, column] = 1.0
            nearest = np.maximum(nearest, self.role_likeness[column])
        return np.stack([likeness, used, nearest], axis=2)


def llm_numbers(
    inputs: TeamInputs, relative: _Array, weight: _Array, taken: npt.NDArray[np.intp]
) -> _Array:
    """Return quality, cost, utility, whether taken, and burden of each LLM, shape (B, m, 5).

    Args:
        inputs: B queries.
        relative: Their costs in units, shape (B, m).
        weight: Rate times calls times length of the seat, shape (B,).
        taken: LLMs of the seats so far, shape (B, i).
    """
    burden = np.minimum(weight[:, None] * relative, 3.0)
    used = np.zeros(burden.shape)
    rows = np.arange(len(inputs))
    for column in taken.T:
        used[rows, column] = 1.0
    around = inputs.quality - inputs.quality.mean(axis=1, keepdims=True)
    return np.stack(
        [around, np.log(relative + 1e-4) / 3.0, inputs.quality - burden, used, burden], axis=2
    )


def query_numbers(inputs: TeamInputs, rates: _Array) -> _Array:
    """Return one, the rate, difficulty, best quality and its spread, each about -1 to 1, (B, 5)."""
    return np.stack(
        [
            np.ones(len(inputs)),
            (np.log(rates) + 3.7) / 2.0,
            2.0 * inputs.difficulty - 1.0,
            2.0 * inputs.quality.max(axis=1) - 1.0,
            4.0 * inputs.quality.std(axis=1),
        ],
        axis=1,
    )


def _takes(mode: ModeCard, members: int, rounds: int) -> bool:
    return mode.min_members <= members <= mode.max_members and rounds <= mode.max_rounds
