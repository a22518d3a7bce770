"""What comes out of a route: decisions, rankings, plans of teams, and the steps to them.

Frozen dataclasses; each has a plain-dict form where it is saved.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from moma_core._checks import rebuilding
from moma_core._html import html_table
from moma_core.errors import InvalidInputError, ScoreError
from moma_core.types import RoutingState

__all__ = [
    "AgentOutcome",
    "Candidate",
    "Deferred",
    "Handled",
    "Part",
    "Ranking",
    "RoutingDecision",
    "ScoreTable",
    "TeamMember",
    "TeamPlan",
    "Trace",
    "TraceStep",
    "Trial",
]


@dataclass(frozen=True, slots=True)
class TeamMember:
    """One seat of a team.

    Args:
        role: Name of the role it plays, such as ``"code_reviewer"``.
        llm: Name of the LLM that plays it.
        prompt: The role's system prompt.
    """

    role: str
    llm: str
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class TeamPlan:
    """Who answers one query together, and how.

    Args:
        mode: Collaboration mode, such as ``"io"`` or ``"debate"``.
        members: Seats in the order in which they speak; never empty.
        rounds: How often the members speak; 1 for modes without rounds.
        quality: Predicted chance that the team's answer is right, in [0, 1].
        cost: Expected USD for the query, every member's calls counted.
        domain: Task domain whose roles were considered, such as ``"code"``.
        difficulty: Predicted difficulty, in [0, 1].
        reason: Why this plan, in words.

    Raises:
        InvalidInputError: The plan has no members or no round.

    Example:
        >>> plan = TeamPlan("io", (TeamMember("solver", "small"),))
        >>> TeamPlan.from_dict(plan.to_dict()) == plan
        True
    """

    mode: str
    members: tuple[TeamMember, ...]
    rounds: int = 1
    quality: float = 0.0
    cost: float = 0.0
    domain: str = ""
    difficulty: float = 0.0
    reason: str = ""

    def __post_init__(self) -> None:
        if not self.members or self.rounds < 1:
            raise InvalidInputError(
                f"a team plan needs a member and a round, got {len(self.members)} members and "
                f"{self.rounds} rounds. Write TeamPlan('io', (TeamMember('solver', 'my-llm'),))."
            )

    def __repr__(self) -> str:
        seats = ", ".join(f"{member.role}: {member.llm}" for member in self.members)
        return f"<TeamPlan {self.mode} x {self.rounds}, {seats}, ${self.cost:.6f}>"

    def _repr_html_(self) -> str:
        title = f"{self.mode}, {self.rounds} rounds, quality {self.quality:.2f}, ${self.cost:.6f}"
        return html_table(title, ["role", "LLM"], [(m.role, m.llm) for m in self.members])

    @property
    def llms(self) -> tuple[str, ...]:
        """The LLMs at work, each once, in order of first appearance."""
        return tuple(dict.fromkeys(member.llm for member in self.members))

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts, strings and numbers, fit for JSON and checkpoints."""
        plain = dataclasses.asdict(self)
        return {**plain, "members": list(plain["members"])}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TeamPlan:
        """Rebuild a plan from `to_dict`, also after a trip through JSON.

        Raises:
            InvalidInputError: A key is missing, or a value has a wrong type.
        """
        with rebuilding("a TeamPlan"):
            members = tuple(TeamMember(**member) for member in data["members"])
            return cls(**{"mode": data["mode"], **data, "members": members})


@dataclass(frozen=True, slots=True)
class Trial:
    """How an LLM was chosen while learning from use is on.

    Args:
        id: Unique; feedback on it counts once.
        propensity: Chance with which this LLM was chosen.
        baseline: What would have been chosen without learning.
        safe: The LLMs among which was chosen.
        preference: ``"performance"``, ``"auto:0.5"``, ``"cost"`` or ``"cost:0.002"``.
        anchor: The LLM whose cost sets the default budget.
        vector: The query's unit vector as text, a byte a number, for the memory of outcomes.

    Example:
        >>> trial = Trial("1", 0.9, "small", ("small", "big"), "auto:0.5", "big")
        >>> import dataclasses, json
        >>> Trial.from_dict(json.loads(json.dumps(dataclasses.asdict(trial)))) == trial
        True
    """

    id: str
    propensity: float
    baseline: str
    safe: tuple[str, ...]
    preference: str
    anchor: str
    vector: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trial:
        """Rebuild from a plain dict, also after a trip through JSON.

        Raises:
            InvalidInputError: A key is missing, or a value has a wrong type.
        """
        with rebuilding("a Trial"):
            return cls(**{**data, "safe": tuple(data["safe"])})


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

    def _rows(self) -> list[tuple[str, str, str]]:
        order = np.argsort(-self.scores, kind="stable").tolist()
        return [(self.names[i], f"{self.scores[i]:.3f}", f"{self.costs[i]:.6f}") for i in order]

    def __repr__(self) -> str:
        shown = [f"{name} {score} at ${usd}" for name, score, usd in self._rows()]
        return f"<ScoreTable {', '.join(shown[:3])}{' ...' if len(shown) > 3 else ''}>"

    def _repr_html_(self) -> str:
        return html_table("Predicted for one query", ["LLM", "score", "USD"], self._rows())


@dataclass(frozen=True, slots=True)
class Handled:
    """Agents take the query.

    Args:
        agents: Chosen names, in the order in which they should run.
        probability: Calibrated probability that the first one is right.
        candidates: What else was considered, best first.
        some_fits: Calibrated probability that some agent fits.
        goes_on: Whether the turn only goes on with what the agent was doing, as an answer does.
    """

    agents: tuple[str, ...]
    probability: float
    candidates: tuple[Candidate, ...] = ()
    some_fits: float = 0.0
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Deferred:
    """No agent fits; an LLM should answer.

    Args:
        reason: Why, in words.
        probability: Calibrated probability that the best agent would have been right.
        candidates: The agents considered, best first.
        some_fits: Calibrated probability that some agent fits.
        goes_on: Whether the turn only goes on with what an LLM was asked.
    """

    reason: str
    probability: float = 0.0
    candidates: tuple[Candidate, ...] = ()
    some_fits: float = 0.0
    goes_on: bool = False


AgentOutcome = Handled | Deferred


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One step of a route: its name, its milliseconds, and what came out in words."""

    name: str
    ms: float
    detail: str = ""


class Trace:
    """Collects the steps of one route with their times."""

    def __init__(self) -> None:
        self._steps: list[TraceStep] = []

    @contextmanager
    def timed(self, name: str) -> Iterator[list[str]]:
        """Time a step; what the body appends becomes its detail."""
        detail: list[str] = []
        start = time.perf_counter()
        yield detail
        self._steps.append(TraceStep(name, (time.perf_counter() - start) * 1e3, " ".join(detail)))

    def done(self) -> tuple[TraceStep, ...]:
        """Return the steps so far."""
        return tuple(self._steps)


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[Candidate]):
    """The best agents for one query, best first: what `MoMARouter.rank` returns.

    Args:
        candidates: Each with the probability that it is the one to take the query; together they
            come to at most ``probability``, whatever their number.
        probability: Calibrated probability that any of the agents asked about fits.
        best_probability: Calibrated probability that the first one is right: what
            `MoMARouter.route` compares with its threshold.
        fits: Whether `MoMARouter.route` would hand the query to the first of them.
        reason: Why not, in words; empty where it would.
        state: Conversation state to pass to the next ``rank`` or ``route``.

    Example:
        >>> ranking = Ranking((Candidate("weather", 0.7), Candidate("news", 0.1)), 0.9)
        >>> [candidate.name for candidate in ranking], ranking[0].score, len(ranking)
        (['weather', 'news'], 0.7, 2)
    """

    candidates: tuple[Candidate, ...]
    probability: float
    best_probability: float = 0.0
    fits: bool = True
    reason: str = ""
    state: RoutingState = field(default_factory=RoutingState)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the candidates, best first."""
        return tuple(candidate.name for candidate in self.candidates)

    @overload
    def __getitem__(self, index: int) -> Candidate: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Candidate, ...]: ...
    def __getitem__(self, index: int | slice) -> Candidate | tuple[Candidate, ...]:
        return self.candidates[index]

    def __len__(self) -> int:
        return len(self.candidates)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a query that asks for several things, and where it goes.

    Args:
        text: Its words.
        kind: Who takes it: ``"agent"``, ``"llm"``, or ``"nobody"`` where a router has no LLMs.
        target: Their name; empty for nobody.
        probability: As of a decision of that kind.
    """

    text: str
    kind: Literal["agent", "llm", "nobody"]
    target: str
    probability: float = 0.0


@dataclass(frozen=True, slots=True)
class RoutingDecision:
    """Where a query goes and why.

    Args:
        kind: ``"agent"``, ``"llm"``, or ``"team"`` where a router was given teams.
        targets: Names to invoke, in order; never empty. A team's are its LLMs, each once. Of a
            query that asks for several things the takers of its parts, LLMs among them.
        probability: Agents: calibrated probability of being right. LLMs, teams: predicted quality.
        candidates: What was considered, best first.
        preference: ``"performance"``, ``"auto"``, ``"cost"`` or ``"topsis"``.
        reason: Why, in words.
        state: Conversation state to pass to the next ``route``.
        trace: Encode, categories, state, eligible, rank, gate, score, select with their times.
        cost: Expected USD, for LLMs and teams.
        team: Who answers together and how, for teams.
        trial: How an LLM was chosen, while learning from use is on.
        nearest: Where an LLM or a team was chosen: the agents that came nearest, best first.
        nearest_probability: Calibrated probability that the first of them would have been right.
        parts: Of a query that asks for several things: each part and who takes it.

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
    trace: tuple[TraceStep, ...] = ()
    cost: float | None = None
    team: TeamPlan | None = None
    trial: Trial | None = None
    nearest: tuple[Candidate, ...] = ()
    nearest_probability: float = 0.0
    parts: tuple[Part, ...] = ()

    def kind_of(self, target: str) -> Literal["agent", "llm", "team"]:
        """Return whether one of the targets is an agent or an LLM."""
        kinds = {part.target: part.kind for part in self.parts if part.kind != "nobody"}
        return kinds.get(target, self.kind)

    @property
    def target(self) -> str:
        """The first, and mostly only, name to invoke."""
        return self.targets[0]

    def _headline(self) -> str:
        price = f", about ${self.cost:.6f}" if self.cost is not None else ""
        return f"{self.kind} {' then '.join(self.targets)} ({self.probability:.2f}{price})"

    def __repr__(self) -> str:
        return f"<RoutingDecision {self._headline()}>"

    def _repr_html_(self) -> str:
        rows = [(f"part: {part.text}", part.target or part.kind, "") for part in self.parts]
        for what, shown in (("considered", self.candidates), ("nearest agent", self.nearest)):
            for each in shown:
                usd = "" if each.cost is None else f", ${each.cost:.6f}"
                rows.append((what, each.name, f"{each.score:.3f}{usd}"))
        rows += [(f"step {step.name}", step.detail, f"{step.ms:.2f} ms") for step in self.trace]
        because = f" because {self.reason}" if self.reason else ""
        return html_table(self._headline() + because, ["", "what", "figure"], rows)

    def cost_of(self, name: str) -> float | None:
        """Return what asking an LLM was expected to cost, USD; None where it was not considered.

        Example:
            >>> both = (Candidate("large", 0.9, 0.02), Candidate("small", 0.7, 0.001))
            >>> RoutingDecision("llm", ("large",), 0.9, both).cost_of("small")
            0.001
        """
        return next((each.cost for each in self.candidates if each.name == name), None)

    def explain(self) -> str:
        """Return the decision as text: what was chosen and why, the candidates, the steps.

        Example:
            >>> print(RoutingDecision("agent", ("weather",), 0.97, reason="it fits").explain())
            agent weather (0.97)
            because it fits
        """
        lines = [self._headline()]
        lines += [f"because {self.reason}"] if self.reason else []
        lines += ["parts:"] if self.parts else []
        lines += [f"  {part.target or part.kind}: {part.text}" for part in self.parts]
        for title, shown in (("considered", self.candidates), ("nearest agents", self.nearest)):
            width = max((len(candidate.name) for candidate in shown), default=0)
            lines += [f"{title}:"] if shown else []
            for candidate in shown:
                usd = "" if candidate.cost is None else f"  ${candidate.cost:.6f}"
                lines.append(f"  {candidate.name:<{width}}  {candidate.score:.3f}{usd}")
        width = max((len(step.name) for step in self.trace), default=0)
        lines += ["steps:"] if self.trace else []
        lines += [f"  {s.name:<{width}}  {s.ms:8.2f} ms  {s.detail}".rstrip() for s in self.trace]
        return "\n".join(lines)

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
                trace=tuple(TraceStep(**s) for s in data["trace"]),
                cost=data["cost"],
                team=None if team is None else TeamPlan.from_dict(team),
                trial=None if trial is None else Trial.from_dict(trial),
                nearest=tuple(Candidate(**c) for c in data.get("nearest", ())),
                nearest_probability=data.get("nearest_probability", 0.0),
                parts=tuple(Part(**p) for p in data.get("parts", ())),
            )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
