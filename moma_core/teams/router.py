"""Plans a team for a query (MasRouter, sect. 4): a plan a rate, predicted front, preference."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moma_core._checks import is_number, is_text
from moma_core.decision import RoutingDecision, TeamPlan
from moma_core.errors import (
    ArtifactError,
    InvalidCardError,
    InvalidInputError,
    InvalidQueryError,
    NoTargetError,
)
from moma_core.llms.router import LLMRouter
from moma_core.llms.selection import choose, pareto_front, value
from moma_core.protocols import Encoder
from moma_core.teams.cards import ModeCard, RoleCard
from moma_core.teams.features import TeamInputs
from moma_core.teams.planner import (
    Candidates,
    TeamParts,
    TeamPlanner,
    explain,
    read_teams,
    team_plan,
    write_teams,
)
from moma_core.teams.policy import Allowed, allowed_without
from moma_core.types import (
    Auto,
    Cost,
    FloatArray,
    Performance,
    Preference,
    Topsis,
    parse_preference,
    preference_name,
)

__all__ = [
    "DOUBT",
    "LEAST_AGREEMENT",
    "LEAST_CONFIDENCE",
    "MARK",
    "Signal",
    "TeamRouter",
    "doubted",
    "next_on_front",
    "team_instead",
]

DOUBT = 0.25
"""What a failed check or a low confidence does to the odds that an answer is right (assumed: a
check that finds 6 of 10 mistakes and errs once in 10 right answers would make it 1/6)."""

LEAST_AGREEMENT = 0.75
LEAST_CONFIDENCE = 0.6


@dataclass(frozen=True, slots=True)
class Signal:
    """How sure a team may be of its answer; None is not known.

    Args:
        agreement: Share of the members that agree with the answer, in [0, 1].
        confidence: The answer's own confidence, in [0, 1].
        passed: Whether a check (tests, a schema, a reviewer) passed.

    Raises:
        InvalidInputError: A share is out of [0, 1].

    Example:
        >>> Signal(agreement=0.5).trouble
        'only 50 % of the members agree'
        >>> Signal(passed=True).trouble
        ''
    """

    agreement: float | None = None
    confidence: float | None = None
    passed: bool | None = None

    def __post_init__(self) -> None:
        for name in ("agreement", "confidence"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and 0.0 <= value <= 1.0):
                raise InvalidInputError(
                    f"{name} lies in [0, 1], or is None when not known, got {value!r}. Write "
                    f"Signal({name}=0.8)."
                )

    @property
    def trouble(self) -> str:
        """What speaks against the answer, in words; empty when nothing does."""
        if self.passed is False:
            return "a check failed"
        if self.agreement is not None and self.agreement < LEAST_AGREEMENT:
            return f"only {self.agreement:.0%} of the members agree".replace("%", " %")
        if self.confidence is not None and self.confidence < LEAST_CONFIDENCE:
            return f"the answer's confidence is {self.confidence:.2f}"
        return ""

    @property
    def doubt(self) -> float:
        """What the trouble does to the odds that the answer is right; 1 is nothing.

        Disagreement alone leaves them: members disagree most where another mode fails too.
        """
        checked = self.passed is not False
        sure = self.confidence is None or self.confidence >= LEAST_CONFIDENCE
        return 1.0 if checked and sure else DOUBT


MARK = "escalated from"
"""How the reason of an escalated plan begins; such a plan is not escalated again."""


def doubted(quality: float, doubt: float) -> float:
    """Return the probability that an answer is right after a sign of trouble.

    Args:
        quality: The probability before.
        doubt: What the sign does to the odds; see `Signal.doubt`.

    Example:
        >>> round(doubted(0.8, 0.25), 3)
        0.5
    """
    odds = doubt * quality / max(1.0 - quality, 1e-9)
    return odds / (1.0 + odds)


def next_on_front(
    found: Candidates,
    other: npt.NDArray[np.bool_],
    quality: float,
    doubt: float,
    left: float = np.inf,
) -> int | None:
    """Return the cheapest plan of another mode on the front that is as good as was hoped for.

    Where there is none, the best one on the front, if it is better than the doubted answer.

    Args:
        found: The alternatives.
        other: Which of them use another mode than the plan that was run, shape (B,).
        quality: Predicted quality of the plan that was run, before its trouble.
        doubt: What the trouble does to the odds that its answer is right.
        left: USD that may be spent on the next plan.

    Returns:
        A position, or None when there is no such plan.
    """
    fits = np.flatnonzero(other & (found.costs <= left))
    if not len(fits):
        return None
    front = fits[pareto_front(found.costs[fits], found.quality[fits])]  # cheapest first
    hoped = front[found.quality[front] >= quality]
    if len(hoped):
        return int(hoped[0])
    best = int(front[-1])
    return best if found.quality[best] > doubted(quality, doubt) else None


@dataclass(frozen=True, eq=False)
class TeamRouter:
    """Decides for each query who answers it together, and how.

    Args:
        encoder: The one it was trained with.
        llms: Predicts each LLM's quality and cost; what halving the cost is worth.
        parts: What training produced.

    Raises:
        ArtifactError: The encoder is another one than in training.
    """

    encoder: Encoder
    llms: LLMRouter
    parts: TeamParts

    def __post_init__(self) -> None:
        if self.encoder.fingerprint != self.parts.options.fingerprint:
            raise ArtifactError(
                f"this team router was trained on vectors of {self.parts.options.fingerprint!r}, "
                f"the encoder is {self.encoder.fingerprint!r}. Use that encoder, or train anew: "
                "moma train teams."
            )

    @cached_property
    def planner(self) -> TeamPlanner:
        """Proposes plans."""
        return TeamPlanner(self.parts)

    def plan(
        self,
        query: str,
        preference: str | Preference | None = None,
        *,
        exclude: Collection[str] = (),
    ) -> TeamPlan:
        """Return the team for one query; asks no LLM.

        Args:
            query: The user's words.
            preference: See `types.parse_preference`; None means auto. With a budget, the plan's
                expected cost never exceeds it.
            exclude: LLMs, roles and modes that may not take part now.

        Raises:
            InvalidQueryError: The query is empty.
            InvalidPreferenceError: No such preference.
            NoTargetError: Nothing is left to choose from, or the budget is below the cheapest plan.
        """
        if not is_text(query):
            raise InvalidQueryError(f"a query is text with words in it, got {query!r:.40}.")
        vector = self.encoder.encode([query])[0]
        return self.plan_encoded(query, vector, preference, exclude=exclude)

    def plan_encoded(
        self,
        text: str,
        vector: FloatArray,
        preference: str | Preference | None = None,
        *,
        exclude: Collection[str] = (),
    ) -> TeamPlan:
        """Return the team for a query whose vector, shape (d,), is known; see `plan`."""
        wanted = parse_preference(preference)
        allowed = allowed_without(self.parts.options, self.llms.names, exclude)
        inputs = self.inputs([text], np.asarray(vector)[None])
        found = self.planner.candidates(inputs, allowed)
        if isinstance(wanted, Cost):
            found = self._within(found, wanted, inputs, allowed)
        costs, quality = found.costs[None], found.quality[None]
        best = int(choose(costs, quality, wanted, points=self.llms.points)[0])
        plan = team_plan(self.parts.options, self.llms.names, found, best, inputs)
        return replace(plan, reason=explain(plan, preference_name(wanted)))

    def inputs(self, texts: list[str], vectors: FloatArray) -> TeamInputs:
        """Return what is known of queries before planning; vectors of shape (n, d)."""
        quality, costs = self.llms.predict(texts, np.asarray(vectors, np.float32))
        return TeamInputs(np.asarray(vectors, np.float64), quality, costs)

    def repair(
        self,
        plan: TeamPlan,
        signal: Signal,
        query: str,
        preference: str | Preference | None = None,
        *,
        exclude: Collection[str] = (),
    ) -> TeamPlan:
        """Return the plan to run next when a team's answer is in doubt.

        Escalates once: to the cheapest plan of another mode on the predicted cost-quality front
        that is as good as ``plan`` was hoped to be; else to the best one there, if it is better
        than an answer in doubt (`Signal.doubt`). ``plan`` itself comes back (`is`) when nothing
        speaks against the answer, when it is an escalation already, when there is nothing better,
        or when a budget does not allow for both plans.

        Args:
            plan: What was run.
            signal: What it told about its answer.
            query: The user's words.
            preference: With a budget, both plans together stay within it.
            exclude: As for `plan`.

        Raises:
            InvalidQueryError: The query is empty.
            InvalidPreferenceError: No such preference.
            NoTargetError: Nothing is left to choose from.
        """
        wanted = parse_preference(preference)
        if not signal.trouble or plan.reason.startswith(MARK):
            return plan
        if not is_text(query):
            raise InvalidQueryError(f"a query is text with words in it, got {query!r:.40}.")
        inputs = self.inputs([query], self.encoder.encode([query]))
        options = self.parts.options
        found = self.planner.alternatives(
            inputs, allowed_without(options, self.llms.names, exclude)
        )
        left = np.inf
        if isinstance(wanted, Cost) and wanted.budget is not None:
            left = wanted.budget - plan.cost
        names = np.array([mode.name for mode in options.modes])[found.plans.mode]
        best = next_on_front(found, names != plan.mode, plan.quality, signal.doubt, left)
        if best is None:
            return plan
        other = team_plan(options, self.llms.names, found, best, inputs)
        why = f"{MARK} {plan.mode!r}, because {signal.trouble}"
        return replace(other, reason=f"{why}; {explain(other, preference_name(wanted))}")

    def alone(self, text: str, vector: FloatArray, llm: str) -> TeamPlan | None:
        """Return the best plan of one member on this LLM, priced as teams are.

        Its quality is what a team's should be compared with: both come from the same predictor.

        Args:
            text: The query's words.
            vector: Its vector, shape (d,).
            llm: Name of the LLM.

        Returns:
            A plan, or None when no mode takes one member or the pool has no such LLM.
        """
        modes = np.array([mode.min_members == 1 for mode in self.parts.options.modes])
        llms = np.array([name == llm for name in self.llms.names])
        if not modes.any() or not llms.any():
            return None
        inputs = self.inputs([text], np.asarray(vector)[None])
        found = self.planner.candidates(inputs, Allowed(modes=modes, llms=llms))
        fits = np.flatnonzero(found.plans.size == 1)
        if not len(fits):
            return None
        best = int(fits[found.quality[fits].argmax()])
        return team_plan(self.parts.options, self.llms.names, found, best, inputs)

    def improves(
        self, plan: TeamPlan, quality: float, cost: float, preference: str | Preference | None
    ) -> bool:
        """Say whether a team is worth its cost beside one LLM's answer.

        - `Performance`: it is predicted to be better.
        - `Auto`: it is predicted to be better, and worth its cost as LLMs are: halving the cost is
          worth some score.
        - `Cost`: it is predicted to be better, and within the budget; without a budget, no dearer.

        Args:
            plan: The team.
            quality: Predicted quality of the LLM alone.
            cost: Its expected USD.
            preference: As for `plan`.
        """
        gain, added = plan.quality - quality, plan.cost - cost
        match parse_preference(preference):
            case Performance():
                return gain > 0.0
            case Auto(points=given):
                costs, scores = np.array([plan.cost, cost]), np.array([plan.quality, quality])
                team, llm = value(costs, scores, self.llms.points if given is None else given)
                return bool(gain > 0.0 and team > llm)
            case Topsis(w_score=weight):
                costs, scores = np.array([plan.cost, cost]), np.array([plan.quality, quality])
                return bool(choose(costs[None], scores[None], Topsis(weight))[0] == 0)
            case Cost(budget=budget):
                return gain > 0.0 and (added <= 0.0 if budget is None else plan.cost <= budget)

    def adding(self, *cards: ModeCard | RoleCard) -> TeamRouter:
        """Return a router that also chooses among these modes and roles, without retraining.

        Raises:
            DuplicateNameError: A name is taken.
            InvalidCardError: One is neither a mode nor a role.
        """
        for card in cards:
            if not isinstance(card, ModeCard | RoleCard):
                raise InvalidCardError(
                    f"expected ModeCard(...) or RoleCard(...), got {card!r:.40}. Write "
                    "RoleCard(name, description, prompt, domain)."
                )
        options = self.parts.options.adding(self.encoder, *cards)
        return replace(self, parts=replace(self.parts, options=options))

    def save(self, directory: str | Path) -> None:
        """Write ``teams.json`` and ``teams.safetensors``; the LLM router is saved apart.

        Raises:
            ArtifactError: They cannot be written.
        """
        write_teams(self.parts, directory)

    @classmethod
    def load(cls, directory: str | Path, encoder: Encoder, llms: LLMRouter) -> TeamRouter:
        """Read what `save` wrote; the LLMs may be others than in training.

        Raises:
            ArtifactError: A file is missing, truncated, changed, or of another encoder.
        """
        return cls(encoder, llms, read_teams(directory))

    @classmethod
    def packaged(cls, encoder: Encoder, llms: LLMRouter) -> TeamRouter:
        """Return the router that ships here, trained in the simulator, over any LLM router.

        Its rates refer to what ``llms`` predicts its best LLM to cost on the roles' descriptions.

        Raises:
            ArtifactError: The encoder is not the packaged MiniLM.
        """
        folder = resources.files("moma_core") / "packaged" / "teams"
        with resources.as_file(folder) as directory:
            router = cls.load(directory, encoder, llms)
        options = router.parts.options
        texts = [role.description for role in options.roles]
        quality, costs = llms.predict(texts, options.role_vectors)
        unit = max(float(costs.mean(axis=0)[quality.mean(axis=0).argmax()]), 1e-9)
        policy = replace(router.parts.policy, unit=unit)
        return replace(router, parts=replace(router.parts, policy=policy))

    def _within(
        self, found: Candidates, wanted: Cost, inputs: TeamInputs, allowed: Allowed
    ) -> Candidates:
        """Return the candidates within the budget, else single members that are.

        Raises:
            NoTargetError: Not even one member on the cheapest LLM is within it.
        """
        if wanted.budget is None:
            return found
        fits = found.costs <= wanted.budget
        if fits.any():
            return found.take(fits)
        alone = self.planner.cheapest(inputs, allowed)
        fits = alone.costs <= wanted.budget
        if not fits.any():
            raise NoTargetError(
                f"a budget of ${_digits(wanted.budget)} is below the cheapest plan, "
                f"${_digits(alone.costs.min())}. Raise it, or plan without one: preference 'cost'."
            )
        return alone.take(fits)


def _digits(usd: float) -> str:
    return np.format_float_positional(usd, precision=2, fractional=False, trim="-")


def team_instead(
    teams: TeamRouter,
    decision: RoutingDecision,
    text: str,
    vector: FloatArray,
    preference: Preference,
    exclude: Collection[str] = (),
) -> RoutingDecision:
    """Return the decision for a team when `TeamRouter.improves` on the one for an LLM, else that.

    The team's targets are its LLMs, each once. A plan of one member is no team, and a budget below
    every team leaves the LLM.

    Args:
        teams: Plans.
        decision: For one LLM.
        text: The query's words.
        vector: Its vector, shape (d,).
        preference: What to optimise.
        exclude: LLMs that may not take part now; other names are ignored.
    """
    kept = [name for name in exclude if name in teams.llms.names]
    with suppress(NoTargetError):
        plan = teams.plan_encoded(text, vector, preference, exclude=kept)
        if len(plan.members) == 1:
            return decision
        single = teams.alone(text, vector, decision.target)
        quality = decision.probability if single is None else single.quality
        cost = decision.cost or 0.0
        if teams.improves(plan, quality, cost, preference):
            return replace(
                decision,
                kind="team",
                targets=plan.llms,
                probability=plan.quality,
                cost=plan.cost,
                team=plan,
                reason=f"a team adds {plan.quality - quality:.2f} of expected quality for "
                f"${plan.cost - cost:.6f} more than {decision.target!r}: {plan.reason}",
            )
    return decision
