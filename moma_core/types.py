"""What comes out of a route: what was considered, what was chosen, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from moma_core.errors import ScoreError
from moma_core.types.checks import rebuilding
from moma_core.types.query import RoutingState
from moma_core.types.team import TeamPlan
from moma_core.types.trial import Trial

__all__ = [
    "AgentOutcome",
    "Candidate",
    "Deferred",
    "Handled",
    "RoutingDecision",
    "ScoreTable",
    "Step",
]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One name that was considered, with the score it got.

    Args:
        name: Agent or LLM.
        score: Agents: probability among the eligible ones. LLMs: predicted quality in [0, 1].
        cost: Expected USD for this query; None for agents.
    """

    name: str
    score: float
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Predicted quality and cost of each LLM for one query.

    Args:
        names: The LLMs, length n.
        scores: Quality in [0, 1], shape (n,).
        costs: Expected USD of the query, shape (n,).

    Raises:
        ScoreError: A score or cost is NaN or infinite.
    """

    names: tuple[str, ...]
    scores: npt.NDArray[np.float64]
    costs: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float64))
        object.__setattr__(self, "costs", np.asarray(self.costs, dtype=np.float64))
        shapes = (len(self.names),)
        if self.scores.shape != shapes or self.costs.shape != shapes:
            raise ScoreError(
                f"expected one score and one cost for each of {len(self.names)} LLMs, got shapes "
                f"{self.scores.shape} and {self.costs.shape}."
            )
        for label, values in (("score", self.scores), ("cost", self.costs)):
            if not np.isfinite(values).all():
                bad = self.names[int(np.flatnonzero(~np.isfinite(values))[0])]
                raise ScoreError(f"the {label} of LLM {bad!r} is not finite. Train the head anew.")


@dataclass(frozen=True, slots=True)
class Handled:
    """Agents take the query.

    Args:
        agents: Chosen names, in the order in which they should run.
        probability: Calibrated chance that the first one is right.
        candidates: What else was considered, best first.
    """

    agents: tuple[str, ...]
    probability: float
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Deferred:
    """No agent fits; an LLM should answer.

    Args:
        reason: Why, in words.
        probability: Calibrated chance that the best agent would have been right.
        candidates: The agents considered, best first.
    """

    reason: str
    probability: float = 0.0
    candidates: tuple[Candidate, ...] = ()


AgentOutcome = Handled | Deferred


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a route: its name, its milliseconds, and what came out in words."""

    name: str
    ms: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RoutingDecision:
    """Where a query goes and why.

    Args:
        kind: ``"agent"``, ``"llm"``, or ``"team"`` where a router was given teams.
        targets: Names to invoke, in order; never empty. A team's are its LLMs, each once.
        probability: Agents: calibrated chance of being right. LLMs, teams: predicted quality.
        candidates: What was considered, best first.
        preference: ``"performance"``, ``"auto"`` or ``"cost"``.
        reason: Why, in words.
        state: Conversation state to pass to the next ``route``.
        steps: Encode, categories, state, eligible, rank, gate, score, select with their times.
        cost: Expected USD, for LLMs and teams.
        team: Who answers together and how, for teams.
        trial: How an LLM was chosen, while learning from use is on.

    Example:
        >>> decision = RoutingDecision("agent", ("weather",), 0.97)
        >>> RoutingDecision.from_dict(decision.to_dict()) == decision
        True
    """

    kind: Literal["agent", "llm", "team"]
    targets: tuple[str, ...]
    probability: float
    candidates: tuple[Candidate, ...] = ()
    preference: str = "auto"
    reason: str = ""
    state: RoutingState = field(default_factory=RoutingState)
    steps: tuple[Step, ...] = ()
    cost: float | None = None
    team: TeamPlan | None = None
    trial: Trial | None = None

    @property
    def target(self) -> str:
        """The first, and mostly only, name to invoke."""
        return self.targets[0]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts, strings and numbers, fit for JSON and checkpoints."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RoutingDecision:
        """Rebuild a decision from `to_dict`, also after a trip through JSON.

        Dicts of versions that knew no teams are read too.

        Raises:
            InvalidInputError: A key is missing, or a value has a wrong type.
        """
        with rebuilding("a RoutingDecision"):
            team, trial = data.get("team"), data.get("trial")
            return cls(
                kind=data["kind"],
                targets=tuple(data["targets"]),
                probability=data["probability"],
                candidates=tuple(Candidate(**c) for c in data["candidates"]),
                preference=data["preference"],
                reason=data["reason"],
                state=RoutingState.of(data["state"]),
                steps=tuple(Step(**s) for s in data["steps"]),
                cost=data["cost"],
                team=None if team is None else TeamPlan.from_dict(team),
                trial=None if trial is None else Trial.from_dict(trial),
            )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
