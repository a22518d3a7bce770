"""The values that pass between the parts: cards, queries, states, preferences, decisions.

Frozen dataclasses, checked when they are made; each has a plain-dict form where it is saved.
"""

from __future__ import annotations

import dataclasses
import reprlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from moma_core._checks import (
    MAX_NAME_CHARS,
    Words,
    check_name,
    check_names,
    did_you_mean,
    half_character,
    is_finite,
    is_json_object,
    is_number,
    is_text,
    is_visible,
    joined,
    nearest,
    printable,
    rebuilding,
)
from moma_core._html import html_table
from moma_core.errors import (
    InvalidCardError,
    InvalidInputError,
    InvalidPreferenceError,
    InvalidQueryError,
    ScoreError,
)

__all__ = [
    "MAX_DESCRIPTION_CHARS",
    "MAX_EXAMPLE_CHARS",
    "MAX_NAME_CHARS",
    "AgentCard",
    "AgentOutcome",
    "Auto",
    "Candidate",
    "Cost",
    "Deferred",
    "FloatArray",
    "Handled",
    "LLMCard",
    "Part",
    "Performance",
    "Preference",
    "Query",
    "Ranking",
    "RoutingDecision",
    "RoutingState",
    "ScoreTable",
    "TeamMember",
    "TeamPlan",
    "Topsis",
    "Trace",
    "TraceStep",
    "Trial",
    "Words",
    "check_names",
    "did_you_mean",
    "is_number",
    "is_text",
    "is_visible",
    "joined",
    "nearest",
    "printable",
]


FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Performance:
    """Prefer the best score; cost only breaks ties (5.2.3).

    Tied are scores whose difference per USD is noise on queries the head did not see
    (`llms.training.fit_min_gain`; where that was not measured, equal scores).
    """


@dataclass(frozen=True, slots=True)
class Auto:
    """Balance score and cost: halving the cost is worth ``points`` of score.

    The choice has the largest ``score - points * log2(cost)``, so an LLM that is not chosen changes
    nothing, and no unit or range of costs matters.

    Args:
        points: Score, in [0, 1], that halving the cost is worth; None: what held-out queries of
            the pool said, or 0.02.
    """

    points: float | None = None

    def __post_init__(self) -> None:
        if self.points is not None and not (is_number(self.points) and 0.0 <= self.points <= 1.0):
            raise InvalidPreferenceError(
                f"points of score for half the cost lie in [0, 1], got {self.points!r}. Write "
                "'auto:0.02', or 'auto'."
            )


@dataclass(frozen=True, slots=True)
class Topsis:
    """Balance score and cost by TOPSIS on the Pareto front, as the paper does (eq. 8-11).

    Its min-max over the front lets an LLM that is never chosen change who is (docs/llms.md).

    Args:
        w_score: Weight of the score, in [0, 1]; the cost weighs ``1 - w_score``.
    """

    w_score: float = 0.5

    def __post_init__(self) -> None:
        if not is_number(self.w_score) or not 0.0 <= self.w_score <= 1.0:
            raise InvalidPreferenceError(f"w_score must lie in [0, 1], got {self.w_score!r}.")


@dataclass(frozen=True, slots=True)
class Cost:
    """Prefer the best score within a budget (5.2.3).

    Args:
        budget: USD that one query may cost; None means the router's default share of what its
            strongest LLM would cost on this query.
    """

    budget: float | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and not (is_number(self.budget) and self.budget >= 0.0):
            raise InvalidPreferenceError(
                f"a budget is USD per query, zero or more, got {self.budget!r}."
            )


Preference = Performance | Auto | Cost | Topsis


@dataclass(frozen=True, slots=True)
class Query:
    """What a user asked, with what came before it.

    Args:
        text: The words to route. Only the first few thousand characters are looked at.
        history: Earlier turns of the conversation, oldest first.
        events: System events since the last turn, such as ``"file_uploaded:pdf"``.
        tokens: Tokens of all that an LLM would read (system prompt, history, tools, images), where
            the caller counted them; None: ``text`` and ``history`` are counted.

    Raises:
        InvalidQueryError: ``text`` is empty, blank, not a string, or holds half a character.

    Example:
        >>> Query("will it rain tomorrow?").text
        'will it rain tomorrow?'
    """

    text: str
    history: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    tokens: int | None = None

    def __post_init__(self) -> None:
        half = half_character(self.text) if isinstance(self.text, str) else None
        if half is not None:
            raise InvalidQueryError(
                f"a query holds half a character, {self.text[half]!r} at position {half} (a lone "
                "surrogate, as cutting a text in the middle of an emoji leaves). Repair it: "
                "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
            )
        if not is_text(self.text):
            raise InvalidQueryError(
                f"a query must be text with at least one visible character, got {self.text!r:.40}. "
                "Pass the user's words, for example router.route('will it rain tomorrow?')."
            )
        for field_name in ("history", "events"):
            values = getattr(self, field_name)
            if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
                raise InvalidQueryError(
                    f"{field_name} of a query is a list of texts, got {values!r:.40}. "
                    f"Write {field_name}=['...']."
                )
            object.__setattr__(self, field_name, tuple(values))
        tokens = self.tokens
        if tokens is not None and not (is_finite(tokens) and tokens >= 0):
            raise InvalidQueryError(
                f"tokens of a query is a number of zero or more, got {tokens!r:.40}. Leave it out "
                "to have text and history counted."
            )

    @classmethod
    def of(cls, query: str | Query) -> Query:
        """Return ``query`` itself, or a `Query` around a plain string."""
        return query if isinstance(query, Query) else cls(query)


@dataclass(frozen=True, slots=True)
class RoutingState:
    """Where a conversation stands: the active states and how long they have held.

    Args:
        active: Names of the active states; several make a composite state (sect. 4.2).
        turns: Turns for which ``active`` has stayed without a rule or its meaning confirming it.
        last_target: Name that took the previous turn, if any.
        topic: The last query that stood by itself; follow-ups are read after it.
        ages: Turns since each of ``active`` was entered; empty means ``turns`` for all.
        waiting_for: The agent that asked something and waits for the answer, if one does: the next
            turn is its, unless it is a request of another kind. Whoever runs the agents says so.

    Example:
        >>> state = RoutingState(last_target="book_hotel", topic="a room in Rome")
        >>> state.asks("book_hotel").waiting_for  # it said: "For which nights?"
        'book_hotel'
    """

    active: tuple[str, ...] = ()
    turns: int = 0
    last_target: str | None = None
    topic: str = ""
    ages: tuple[int, ...] = ()
    waiting_for: str | None = None

    def asks(self, agent: str) -> RoutingState:
        """Return this state after an agent has asked the user something."""
        return replace(self, last_target=agent, waiting_for=agent)

    @classmethod
    def of(cls, state: RoutingState | Mapping[str, Any] | None) -> RoutingState:
        """Return a state itself, one rebuilt from its plain dict, or for None a fresh one.

        Raises:
            InvalidInputError: It is neither.
        """
        if isinstance(state, RoutingState):
            return state
        try:
            plain = dict(state or {})
            return cls(
                active=tuple(plain.get("active", ())),
                turns=int(plain.get("turns", 0)),
                last_target=plain.get("last_target"),
                topic=str(plain.get("topic", "")),
                ages=tuple(plain.get("ages", ())),
                waiting_for=plain.get("waiting_for"),
            )
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"state is the previous decision's state or its plain dict, got {state!r:.60}. "
                "Write router.route(text, state=decision.state)."
            ) from error


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


MAX_DESCRIPTION_CHARS = 8_192
MAX_EXAMPLE_CHARS = 4_096


@dataclass(frozen=True, slots=True)
class AgentCard:
    """What the router knows of one agent or tool (A.2.5: name, description, parameters, few-shots).

    Args:
        name: Unique; the adapter resolves it to something that runs.
        description: What the agent does, in a sentence or two.
        input_schema: JSON schema of its arguments.
        output_schema: JSON schema of its result.
        categories: Names of the categories it belongs to.
        examples: Queries that it should take; repeated ones count once.
        enabled: Whether it may be chosen now.
        metadata: Anything JSON-like that the caller wants back.

    Raises:
        InvalidCardError: A name, description or example is empty or too long.

    Example:
        >>> AgentCard("weather", "Forecast for a place", examples=("will it rain?",)).enabled
        True
    """

    name: str
    description: str
    input_schema: Mapping[str, Any] = field(default_factory=dict)
    output_schema: Mapping[str, Any] = field(default_factory=dict)
    categories: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    enabled: bool = True
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name, "agent")
        if not is_text(self.description):
            raise InvalidCardError(
                f"agent {self.name!r} needs a description, got {self.description!r}. Say in one "
                "sentence what it does: it is what the router compares queries with."
            )
        if len(self.description) > MAX_DESCRIPTION_CHARS:
            raise InvalidCardError(
                f"agent {self.name!r} has a description of {len(self.description):,} characters; "
                f"at most {MAX_DESCRIPTION_CHARS:,} fit. Keep what tells it from other agents."
            )
        for field_name in ("examples", "categories"):
            values = getattr(self, field_name)
            if not isinstance(values, list | tuple):
                raise InvalidCardError(
                    f"{field_name} of agent {self.name!r} is a list of texts, got {values!r:.40}. "
                    f"Write {field_name}=['...']."
                )
            object.__setattr__(self, field_name, tuple(values))
        self._check_values()
        for category in self.categories:
            check_name(category, f"category of agent {self.name!r}:")
        for example in self.examples:
            if not is_text(example):
                raise InvalidCardError(
                    f"agent {self.name!r} has an example that is empty or no text, got "
                    f"{example!r:.40}; leave it out."
                )
            if len(example) > MAX_EXAMPLE_CHARS:
                raise InvalidCardError(
                    f"an example of agent {self.name!r} has {len(example):,} characters, at most "
                    f"{MAX_EXAMPLE_CHARS:,} fit. Give the question without its attachments."
                )
        object.__setattr__(self, "examples", tuple(dict.fromkeys(self.examples)))

    def _check_values(self) -> None:
        for field_name in ("input_schema", "output_schema", "metadata"):
            if not is_json_object(getattr(self, field_name)):
                raise InvalidCardError(
                    f"{field_name} of agent {self.name!r} must be a dict of JSON values, got "
                    f"{reprlib.repr(getattr(self, field_name)):.60}."
                )
        if not isinstance(self.enabled, bool):
            raise InvalidCardError(
                f"enabled of agent {self.name!r} is True or False, got {self.enabled!r:.40}."
            )


@dataclass(frozen=True, slots=True)
class LLMCard:
    """What the router knows of one LLM.

    Args:
        name: Unique; the adapter resolves it to a client.
        input_price: USD per million input tokens.
        output_price: USD per million output tokens.
        latency: Typical seconds to an answer, when known.
        context_window: Most tokens it takes, when known.
        metadata: Anything JSON-like that the caller wants back.
        quality: Published scores in [0, 1] by benchmark or subject, such as
            ``{"mmlu_pro": 0.78, "math": 0.9}``, or one number for everything; see docs/llms.md.
        like: An LLM that it resembles: one of the pool, or a well-known one.
        cached_input_price: USD per million input tokens read from the provider's cache.
        reasoning_tokens: Tokens that it thinks, beside the answer, on a typical query.

    Raises:
        InvalidCardError: The name is empty, a price is negative or not finite, or a score is not in
            [0, 1].

    Example:
        >>> LLMCard("small", input_price=0.15, output_price=0.6).output_price
        0.6
    """

    name: str
    input_price: float
    output_price: float
    latency: float | None = None
    context_window: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    quality: float | Mapping[str, float] | None = None
    like: str | None = None
    cached_input_price: float | None = None
    reasoning_tokens: float = 0.0

    def __post_init__(self) -> None:
        check_name(self.name, "LLM")
        cached = 0.0 if self.cached_input_price is None else self.cached_input_price
        for label, value in (
            ("input_price", self.input_price),
            ("output_price", self.output_price),
            ("cached_input_price", cached),
        ):
            if not is_finite(value) or value < 0:
                raise InvalidCardError(
                    f"{label} of LLM {self.name!r} must be USD per million tokens, zero or more, "
                    f"got {value!r:.40}. A local LLM costs 0."
                )
        if not (is_finite(self.reasoning_tokens) and self.reasoning_tokens >= 0):
            raise InvalidCardError(
                f"reasoning_tokens of LLM {self.name!r} is a number of zero or more, got "
                f"{self.reasoning_tokens!r:.40}."
            )
        window = self.context_window
        if window is not None and not (is_finite(window) and window > 0):
            raise InvalidCardError(
                f"context_window of LLM {self.name!r} is tokens, 1 or more, got {window!r:.40}. "
                "Leave it out where it is not known."
            )
        latency = self.latency
        if latency is not None and not (is_finite(latency) and latency >= 0):
            raise InvalidCardError(
                f"latency of LLM {self.name!r} is seconds, zero or more, got {latency!r:.40}. "
                "Leave it out where it is not known."
            )
        if not isinstance(self.metadata, Mapping):
            raise InvalidCardError(
                f"metadata of LLM {self.name!r} is a dict, got {self.metadata!r:.40}. Write "
                "metadata={'family': 'small'}."
            )
        self._check_quality()

    def _check_quality(self) -> None:
        if self.like is not None and not is_text(self.like):
            raise InvalidCardError(
                f"like of LLM {self.name!r} is the name of an LLM, got {self.like!r:.40}."
            )
        if self.quality is None:
            return
        by_name = self.quality if isinstance(self.quality, Mapping) else {"": self.quality}
        fits = all(is_number(score) and 0.0 <= score <= 1.0 for score in by_name.values())
        if not by_name or not fits or not all(isinstance(name, str) for name in by_name):
            raise InvalidCardError(
                f"quality of LLM {self.name!r} is a score in [0, 1] or several by benchmark, got "
                f"{self.quality!r:.60}. Write quality={{'mmlu_pro': 0.78}}, or leave it out."
            )

    def usd(self, input_tokens: float, output_tokens: float, cached_tokens: float = 0.0) -> float:
        """Return USD of a call with so many tokens.

        Args:
            input_tokens: Tokens read, those from the cache among them.
            output_tokens: Tokens written, thoughts among them.
            cached_tokens: Tokens read from the provider's cache.

        Example:
            >>> LLMCard("small", input_price=0.15, output_price=0.6).usd(2_000, 500)
            0.0006
        """
        cached = self.input_price if self.cached_input_price is None else self.cached_input_price
        read = self.input_price * (input_tokens - cached_tokens) + cached * cached_tokens
        return (read + self.output_price * output_tokens) / 1e6


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
