"""Plans a cascade for a query: predictions -> beliefs -> one plan a rate -> preference.

The plans at a ladder of rates are candidates like LLMs are: Pareto front, TOPSIS and budgets choose
among them. Decides only; whoever holds the clients asks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import NoTargetError
from moma_core.llm_routing.cascades import checkpoint
from moma_core.llm_routing.cascades.difficulty import WEIGHTS, SharedDifficulty
from moma_core.llm_routing.cascades.lattice import Level, build_lattice
from moma_core.llm_routing.cascades.plan import CascadePlan
from moma_core.llm_routing.cascades.planner import Outlook, Policy, solve
from moma_core.llm_routing.cascades.tree import build_plan, single_plan
from moma_core.llm_routing.router import LLMRouter
from moma_core.selection import choose, parse_preference, preference_name
from moma_core.types import FloatArray, Preference

__all__ = ["RATES", "CascadeRouter", "Planned"]

RATES = (0.005, 0.01, 0.02, 0.03, 0.045, 0.06, 0.08, 0.11, 0.15, 0.2, 0.3, 0.5)
"""Score that must be gained for what the best single LLM costs on average, one plan each."""

_CHUNK = 32
_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """Candidate plans of n queries: one a rate, and the anchor LLM alone in the last column.

    Args:
        names: The LLMs that may be asked, cheapest first.
        anchor: The LLM that stands alone in the last column.
        levels: Their lattice.
        policy: What to do at each node.
        scores: Expected score, shape (n, R + 1).
        costs: Expected USD, shape (n, R + 1).
    """

    names: tuple[str, ...]
    anchor: str
    levels: tuple[Level, ...]
    policy: Policy
    scores: _Array
    costs: _Array

    def choose(self, preference: Preference) -> npt.NDArray[np.intp]:
        """Return the column of the chosen plan of each query, shape (n,)."""
        return choose(self.costs, self.scores, preference, anchor=self.scores.shape[1] - 1)


@dataclass(frozen=True, slots=True, eq=False)
class CascadeRouter:
    """Plans which LLMs to ask, in which order, and when to accept, from predicted quality and cost.

    Args:
        base: Predicts quality and cost of each LLM.
        difficulty: What the answers of some say about the others.
        shortlist: LLMs worth asking in a cascade, cheapest first.
        depth: Most calls of a plan; 1 makes it a plain choice.
        unit: USD that the rates refer to: the mean cost of the best single LLM in training.
        metadata: What it was trained on, JSON-like.
    """

    base: LLMRouter
    difficulty: SharedDifficulty
    shortlist: tuple[str, ...]
    depth: int
    unit: float
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def plan(
        self,
        text: str,
        vector: FloatArray,
        preference: str | Preference | None = None,
        exclude: Collection[str] = (),
    ) -> CascadePlan:
        """Return what to ask for one query.

        Args:
            text: The query's words.
            vector: Its unit vector, shape (d,).
            preference: See `selection.parse_preference`; None means auto.
            exclude: LLMs that may not be asked now.

        Raises:
            InvalidPreferenceError: No such preference.
            NoTargetError: No LLM is left.
        """
        wanted = parse_preference(preference)
        planned = self.predict([text], np.asarray(vector)[None], exclude)
        column = int(planned.choose(wanted)[0])
        score, cost = float(planned.scores[0, column]), float(planned.costs[0, column])
        label = preference_name(wanted)
        if column == len(RATES):
            return CascadePlan(single_plan(planned.anchor), score, cost, label)
        root = build_plan(planned.levels, planned.names, planned.policy, 0, column)
        return CascadePlan(root, score, cost, label)

    def predict(
        self, texts: Sequence[str], vectors: FloatArray, exclude: Collection[str] = ()
    ) -> Planned:
        """Return the candidate plans of n queries; vectors of shape (n, d).

        Raises:
            NoTargetError: No LLM is left.
        """
        quality, costs = self.base.predict(texts, vectors)
        return self.plan_predicted(quality, costs, exclude)

    def plan_predicted(
        self, quality: _Array, costs: _Array, exclude: Collection[str] = ()
    ) -> Planned:
        """Return the candidate plans from predicted quality and USD of the whole pool, (n, m)."""
        names = self._allowed(exclude)
        columns = [self.base.names.index(name) for name in names]
        levels = build_lattice(len(names), self.depth)
        rates = np.array(RATES) / max(self.unit, 1e-12)
        kept = self.difficulty.only(columns)
        chances = kept.chances(quality[:, columns])
        spending = kept.spending(costs[:, columns])
        mistake = self.difficulty.popular_mistake(quality)
        parts = []
        for start in range(0, len(quality), _CHUNK):
            rows = slice(start, start + _CHUNK)
            outlook = Outlook(chances[rows], spending[rows], kept.unreadable, mistake[rows])
            parts.append(solve(levels, outlook, rates))
        policy = _joined(parts)
        best = self.base.best_single
        anchor = names.index(best) if best in names else len(names) - 1
        alone = (chances[:, anchor] @ WEIGHTS)[:, None], (spending[:, anchor] @ WEIGHTS)[:, None]
        return Planned(
            names,
            names[anchor],
            levels,
            policy,
            np.concatenate([policy.scores, alone[0]], axis=1),
            np.concatenate([policy.costs, alone[1]], axis=1),
        )

    def _allowed(self, exclude: Collection[str]) -> tuple[str, ...]:
        left = tuple(name for name in self.shortlist if name not in exclude)
        left = left or tuple(n for n in self.base.names if n not in exclude)[-1:]
        if not left:
            raise NoTargetError(
                f"none of the {len(self.base.names)} LLMs may be asked. Enable one, or train a "
                "pool with moma train llms --strategy cascade."
            )
        return left

    def save(self, directory: str | Path) -> None:
        """Write the base router's files, ``cascade.json`` and ``cascade.safetensors``.

        Raises:
            ArtifactError: They cannot be written.
        """
        self.base.save(directory)
        config = {
            "shortlist": list(self.shortlist),
            "depth": self.depth,
            "unit": self.unit,
            "training": dict(self.metadata),
        }
        checkpoint.write(directory, config, self.difficulty.arrays())

    @classmethod
    def load(cls, directory: str | Path) -> CascadeRouter:
        """Read what `save` wrote.

        Raises:
            ArtifactError: A file is missing, truncated, changed, or of another version.
        """
        base = LLMRouter.load(directory)
        return cls(base, **checkpoint.read(directory, base.names))


def _joined(parts: Sequence[Policy]) -> Policy:
    if len(parts) == 1:
        return parts[0]
    return Policy(
        tuple(np.concatenate(level) for level in zip(*(p.choices for p in parts), strict=True)),
        np.concatenate([p.scores for p in parts]),
        np.concatenate([p.costs for p in parts]),
    )
