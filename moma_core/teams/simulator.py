"""SIMULATED team outcomes for training, tests and comparisons; no LLM is asked.

What is real: each LLM's score and USD on each query, from a table of scored queries. What is
assumed: how working together changes correctness (`mechanics`), how a role's domain and duty
matter, and that calls are independent given the query's recorded scores. Errors of members are
correlated as far as the recorded scores are: two LLMs that failed the query in the table both
mostly fail here, and the same LLM asked twice mostly repeats itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError, UnknownNameError
from moma_core.teams.mechanics import MECHANICS, Assumptions, Runs
from moma_core.teams.options import TeamOptions
from moma_core.teams.plans import PlanBatch

__all__ = ["Outcomes", "TeamSimulator"]

_Array = npt.NDArray[np.float64]
_Bools = npt.NDArray[np.bool_]

_SEAT_DUTIES = {
    "io": ({"solve"}, {"solve"}, {"solve"}),
    "cot": ({"solve"}, {"solve"}, {"solve"}),
    "chain": ({"plan", "solve"}, {"solve"}, {"solve", "check"}),
    "full": ({"plan", "solve"}, {"solve", "check"}, {"judge", "solve"}),
    "debate": ({"solve"}, {"solve"}, {"judge", "solve"}),
    "reflection": ({"solve"}, {"check"}, {"check"}),
}
"""Duties that suit the first, a middle, and the last seat of a mode (assumed)."""

_REASONING = {"maths": 1.0, "code": 1.0, "business": 0.6}
_OTHER_REASONING = 0.3
_SURE_RIGHT, _SURE_WRONG, _SURE_NOISE = 0.8, 0.6, 0.15
_CHECK_FINDS, _CHECK_ERRS = 0.6, 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What became of B plans, simulated.

    Args:
        right: Whether the final answer is right, as 0 or 1, shape (B,).
        cost: USD, shape (B,).
        agreement: How far the members agreed, in [0, 1]; 1 for one member, shape (B,).
        confidence: What the answerer says of itself: 0.8 when right, 0.6 when wrong, with noise of
            0.15, shape (B,).
        passed: Verdict of an outside check that finds 6 of 10 mistakes and errs once in 10 right
            answers, shape (B,).
    """

    right: _Array
    cost: _Array
    agreement: _Array
    confidence: _Array
    passed: _Bools


@dataclass(frozen=True, slots=True, eq=False)
class TeamSimulator:
    """Draws outcomes of team plans from recorded scores of single LLMs.

    Args:
        scores: Recorded score of each LLM on each query, in [0, 1], no gaps, shape (n, m).
        costs: Recorded USD of a step-by-step answer, no gaps, shape (n, m).
        domains: The queries' true task domains, length n.
        options: Modes and roles that plans point to.
        assumptions: What is taken for granted.
        specialists: Name of the role that knows the query's subject best, length n; empty when
            roles of one domain are alike.

    Raises:
        InvalidDataError: Shapes differ or a number is missing.
        UnknownNameError: A mode has no mechanics here.
    """

    scores: _Array
    costs: _Array
    domains: Sequence[str]
    options: TeamOptions
    assumptions: Assumptions = field(default_factory=Assumptions)
    specialists: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.scores.shape != self.costs.shape or len(self.domains) != len(self.scores):
            raise InvalidDataError(
                f"expected scores and costs of one shape and a domain a query, got "
                f"{self.scores.shape}, {self.costs.shape} and {len(self.domains)} domains."
            )
        if self.specialists and len(self.specialists) != len(self.scores):
            raise InvalidDataError(
                f"expected a specialist for each of {len(self.scores)} queries, or none at all, "
                f"got {len(self.specialists)}."
            )
        if np.isnan(self.scores).any() or np.isnan(self.costs).any():
            raise InvalidDataError(
                "the simulator needs every score and cost. Give it complete rows only."
            )
        unknown = [mode.name for mode in self.options.modes if mode.name not in MECHANICS]
        if unknown:
            raise UnknownNameError(
                f"no simulated mechanics for mode {unknown[0]!r}; there are {list(MECHANICS)}. "
                "Train on logged outcomes of it instead (imitate)."
            )

    def run(
        self, rows: npt.NDArray[np.intp], plans: PlanBatch, rng: np.random.Generator
    ) -> Outcomes:
        """Draw one outcome a plan.

        Args:
            rows: The query of each plan, shape (B,).
            plans: B plans.
            rng: Draws.
        """
        ability = self.ability(rows, plans)
        same = np.zeros(plans.roles.shape, bool)
        for seat in range(1, plans.roles.shape[1]):
            same[:, seat] = (plans.roles[:, :seat] == plans.roles[:, seat : seat + 1]).any(axis=1)
        code = np.array([self.domains[row] == "code" for row in rows.tolist()], bool)
        right, agreement = np.zeros(len(plans)), np.ones(len(plans))
        for number, mode in enumerate(self.options.modes):
            kept = np.flatnonzero(plans.mode == number)
            if len(kept):
                runs = Runs(
                    ability[kept], plans.seated[kept], same[kept], plans.rounds[kept], code[kept]
                )
                drawn, agreed = MECHANICS[mode.name](runs, self.assumptions, rng)
                right[kept], agreement[kept] = drawn, agreed
        sure = np.where(right > 0, _SURE_RIGHT, _SURE_WRONG)
        sure = sure + _SURE_NOISE * rng.standard_normal(len(right))
        finds = np.where(right > 0, _CHECK_ERRS, _CHECK_FINDS)
        passed = rng.random(len(right)) >= finds
        cost = plans.cost(self.costs[rows])
        return Outcomes(right, cost, agreement, np.clip(sure, 0.0, 1.0), passed)

    def ability(self, rows: npt.NDArray[np.intp], plans: PlanBatch) -> _Array:
        """Return the chance that each member alone is right, 0 beyond the team, shape (B, S)."""
        how, seats = self.assumptions, np.maximum(plans.llms, 0)
        level = self.scores[rows].mean(axis=1, keepdims=True)
        mean = self.scores.mean(axis=0)
        again = np.clip(level + mean[seats] - mean.mean(), 0.02, 0.98)
        recorded = np.take_along_axis(self.scores[rows], seats, axis=1)
        chance = np.clip(how.repeat * recorded + (1.0 - how.repeat) * again, 0.03, 0.97)
        shift = self._role_shift(rows, plans) - self._bare_shift(rows, plans, 1.0 - level)
        odds = chance / (1.0 - chance) * np.exp(shift)
        return np.where(plans.seated, odds / (1.0 + odds), 0.0)

    def _bare_shift(
        self, rows: npt.NDArray[np.intp], plans: PlanBatch, difficulty: _Array
    ) -> _Array:
        """Logit lost by answering without steps, shape (B, 1); 0 in other modes than ``io``."""
        bare = np.array([mode.name == "io" for mode in self.options.modes])[plans.mode]
        need = [_REASONING.get(self.domains[row], _OTHER_REASONING) for row in rows.tolist()]
        lost: _Array = self.assumptions.bare * difficulty * (bare * np.array(need))[:, None]
        return lost

    def _role_shift(self, rows: npt.NDArray[np.intp], plans: PlanBatch) -> _Array:
        """Logit that each member's role brings, by domain and by duty, shape (B, S)."""
        how, roles = self.assumptions, np.maximum(plans.roles, 0)
        names = list(self.options.domains)
        true = np.array([names.index(d) if d in names else -1 for d in self.domains])[rows]
        fits = self.options.role_domains[roles] == true[:, None]
        suits = self._duty_table()[plans.mode[:, None], self._places(plans), roles]
        domain = np.where(fits, how.right_domain, -how.wrong_domain)
        duty = np.where(suits, how.right_duty, -how.wrong_duty)
        if not self.specialists:
            return np.asarray(domain + duty)
        called = np.array([role.name for role in self.options.roles])[roles]
        named = np.array(self.specialists)[rows, None]
        return np.asarray(domain + duty + how.specialist * (called == named))

    @staticmethod
    def _places(plans: PlanBatch) -> npt.NDArray[np.intp]:
        """0 for the first seat, 2 for the last of several, 1 between, shape (B, S)."""
        seats = np.arange(plans.roles.shape[1])
        return np.where(seats == 0, 0, np.where(seats == plans.size[:, None] - 1, 2, 1))

    def _duty_table(self) -> _Bools:
        """Whether a role's duty suits a mode's place; one without duty suits all, (M, 3, R)."""
        return np.array(
            [
                [
                    [not role.duty or role.duty in suited for role in self.options.roles]
                    for suited in _SEAT_DUTIES[mode.name]
                ]
                for mode in self.options.modes
            ]
        )
