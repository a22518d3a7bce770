"""Plans a cascade for a query: predictions -> beliefs -> one plan a rate -> preference.

The plans at a ladder of rates are candidates like LLMs are: Pareto front, TOPSIS and budgets choose
among them. Decides only; whoever holds the clients asks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import NoTargetError
from moma_core.llm_routing.cascades.checkpoint import read_cascade, write_cascade
from moma_core.llm_routing.cascades.difficulty import WEIGHTS, SharedDifficulty
from moma_core.llm_routing.cascades.lattice import Level, build_lattice
from moma_core.llm_routing.cascades.plan import CascadePlan, slowest
from moma_core.llm_routing.cascades.planner import Outlook, Policy, solve
from moma_core.llm_routing.cascades.tree import Watch, build_plan, single_plan
from moma_core.llm_routing.router import LLMRouter
from moma_core.selection import (
    check_latency,
    choose,
    in_time,
    parse_preference,
    preference_name,
)
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
        watch: Whose answer's length the plans look at.
    """

    names: tuple[str, ...]
    anchor: str
    levels: tuple[Level, ...]
    policy: Policy
    scores: _Array
    costs: _Array
    watch: Watch | None = None

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
        watched: The LLM whose answer's length, seen by its cost, plans look at too.
        metadata: What it was trained on, JSON-like.
    """

    base: LLMRouter
    difficulty: SharedDifficulty
    shortlist: tuple[str, ...]
    depth: int
    unit: float
    watched: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def plan(
        self,
        text: str,
        vector: FloatArray,
        preference: str | Preference | None = None,
        exclude: Collection[str] = (),
        max_latency: float | None = None,
    ) -> CascadePlan:
        """Return what to ask for one query.

        Args:
            text: The query's words.
            vector: Its unit vector, shape (d,).
            preference: See `selection.parse_preference`; None means auto.
            exclude: LLMs that may not be asked now.
            max_latency: Most seconds of all calls, one after the other, by `LLMCard.latency`. The
                fastest LLM alone where none is in time; an unknown latency counts as none.

        Raises:
            InvalidPreferenceError: No such preference, or a latency that is no number.
            NoTargetError: No LLM is left.
        """
        wanted = parse_preference(preference)
        limit = check_latency(max_latency)
        planned = self.predict([text], np.asarray(vector)[None], exclude, limit)
        column = int(planned.choose(wanted)[0])
        score, cost = float(planned.scores[0, column]), float(planned.costs[0, column])
        label = preference_name(wanted)
        if column == len(RATES):
            root = single_plan(planned.anchor)
        else:
            root = build_plan(
                planned.levels, planned.names, planned.policy, 0, column, planned.watch
            )
        names = self.base.names
        seconds = dict(zip(names, self.base.latencies(names), strict=True))
        return CascadePlan(root, score, cost, label, slowest(root, seconds))

    def predict(
        self,
        texts: Sequence[str],
        vectors: FloatArray,
        exclude: Collection[str] = (),
        limit: float = np.inf,
    ) -> Planned:
        """Return the candidate plans of n queries; vectors of shape (n, d).

        Raises:
            NoTargetError: No LLM is left.
        """
        quality, costs = self.base.predict(texts, vectors)
        return self.plan_predicted(quality, costs, exclude, limit=limit)

    def plan_predicted(
        self,
        quality: _Array,
        costs: _Array,
        exclude: Collection[str] = (),
        rates: Sequence[float] = RATES,
        limit: float = np.inf,
    ) -> Planned:
        """Return the candidate plans from predicted quality and USD of the whole pool, (n, m)."""
        names = self._allowed(exclude, limit)
        columns = [self.base.names.index(name) for name in names]
        watched = names.index(self.watched) if self.watched in names else None
        lengths = self.difficulty.lengths[columns]
        bins = 1 if watched is None else lengths.shape[1]
        levels = build_lattice(len(names), self.depth, watched, bins)
        usd_rates = np.array(rates) / max(self.unit, 1e-12)
        kept = self.difficulty.only(columns)
        chances = kept.chances(quality[:, columns])
        spending = kept.spending(costs[:, columns])
        mistake = self.difficulty.popular_mistake(quality)
        seconds = np.array([each or 0.0 for each in self.base.latencies(names)])
        parts = []
        for start in range(0, len(quality), _CHUNK):
            rows = slice(start, start + _CHUNK)
            outlook = Outlook(
                chances[rows],
                spending[rows],
                kept.unreadable,
                mistake[rows],
                watched,
                np.ones((1, 2, 1)) if watched is None else lengths[watched],
                seconds,
                limit,
            )
            parts.append(solve(levels, outlook, usd_rates))
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
            None if watched is None else Watch(watched, kept.limits(costs[:, columns])[:, watched]),
        )

    def _allowed(self, exclude: Collection[str], limit: float) -> tuple[str, ...]:
        left = tuple(name for name in self.shortlist if name not in exclude)
        left = left or tuple(n for n in self.base.names if n not in exclude)[-1:]
        if not left:
            raise NoTargetError(
                f"none of the {len(self.base.names)} LLMs may be asked. Enable one, or train a "
                "pool with moma train llms --strategy cascade."
            )
        fits = in_time(self.base.latencies(left), limit)
        return tuple(name for name, kept in zip(left, fits, strict=True) if kept)

    def over(self, base: LLMRouter) -> CascadeRouter:
        """Return the cascade over a pool changed by `pool.add_llm`, `remove_llm`, `reprice_llm`.

        An LLM that left is asked no more. A new one is on no plan, because nobody knows yet whom
        it agrees with: train anew for that. Prices hold at once.
        """
        old = self.base.names
        places = [old.index(name) if name in old else None for name in base.names]
        shortlist = tuple(name for name in self.shortlist if name in base.names)
        return replace(
            self,
            base=base,
            difficulty=self.difficulty.only(places),
            shortlist=shortlist or (base.best_single,),
            watched=self.watched if self.watched in base.names else None,
        )

    def save(self, directory: str | Path) -> None:
        """Write the base router's files, ``cascade.json`` and ``cascade.safetensors``.

        Raises:
            ArtifactError: They cannot be written.
        """
        self.base.save(directory)
        config = {
            "shortlist": list(self.shortlist),
            "depth": self.depth,
            "watched": self.watched,
            "unit": self.unit,
            "training": dict(self.metadata),
        }
        write_cascade(directory, config, self.difficulty.arrays())

    @classmethod
    def load(cls, directory: str | Path) -> CascadeRouter:
        """Read what `save` wrote.

        Raises:
            ArtifactError: A file is missing, truncated, changed, or of another version.
        """
        base = LLMRouter.load(directory)
        return cls(base, **read_cascade(directory, base.names))


def _joined(parts: Sequence[Policy]) -> Policy:
    if len(parts) == 1:
        return parts[0]
    return Policy(
        tuple(np.concatenate(level) for level in zip(*(p.choices for p in parts), strict=True)),
        np.concatenate([p.scores for p in parts]),
        np.concatenate([p.costs for p in parts]),
    )
