"""Plans a team for a query (MasRouter, sect. 4): one plan a rate -> predicted front -> preference.

The planner proposes one for each rate of `RATES`; the plans so found compete as LLMs do: Pareto
front, TOPSIS, budgets. Receives an LLM router by protocol and asks no LLM; whoever holds the
clients runs the plan.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np

from moma_core.errors import ArtifactError, InvalidCardError, InvalidQueryError, NoTargetError
from moma_core.protocols import Encoder
from moma_core.selection import choose, parse_preference, preference_name
from moma_core.teams.candidates import Candidates, explain, team_plan
from moma_core.teams.checkpoint import TeamParts, read_teams, write_teams
from moma_core.teams.escalation import MARK, next_on_front
from moma_core.teams.features import QualitySource, TeamInputs
from moma_core.teams.modes import ModeCard
from moma_core.teams.planner import TeamPlanner
from moma_core.teams.roles import RoleCard
from moma_core.teams.signals import Signal
from moma_core.teams.steps import Allowed, allowed_without
from moma_core.types import Auto, Cost, FloatArray, Performance, Preference, TeamPlan
from moma_core.types.checks import is_text

__all__ = ["TeamRouter"]


@dataclass(frozen=True, eq=False)
class TeamRouter:
    """Decides for each query who answers it together, and how.

    Args:
        encoder: The one it was trained with.
        llms: Predicts each LLM's quality and cost; an `LLMRouter`.
        parts: What training produced.
        worth: Quality that a team must add to one LLM's answer for each `unit` of cost it adds, for
            `improves` to say yes under `Auto`.

    Raises:
        ArtifactError: The encoder is another one than in training.
    """

    encoder: Encoder
    llms: QualitySource
    parts: TeamParts
    worth: float = 0.02

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
            preference: See `selection.parse_preference`; None means auto. With a budget, the plan's
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
        best = int(choose(found.costs[None], found.quality[None], wanted)[0])
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
        - `Auto`: the gain is at least `worth` for each `unit` of cost added.
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
            case Auto():
                return gain > 0.0 and gain >= self.worth * added / self.parts.policy.unit
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
    def load(cls, directory: str | Path, encoder: Encoder, llms: QualitySource) -> TeamRouter:
        """Read what `save` wrote; the LLMs may be others than in training.

        Raises:
            ArtifactError: A file is missing, truncated, changed, or of another encoder.
        """
        return cls(encoder, llms, read_teams(directory))

    @classmethod
    def packaged(cls, encoder: Encoder, llms: QualitySource) -> TeamRouter:
        """Return the router that ships here, trained in the simulator, over any LLM router.

        Its rates refer to what ``llms`` predicts its best LLM to cost on the roles' descriptions.

        Raises:
            ArtifactError: The encoder is not the packaged MiniLM.
        """
        folder = resources.files("moma_core.teams") / "packaged"
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
