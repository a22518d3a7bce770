"""SIMULATED team outcomes for training, tests and comparisons; no LLM is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError, UnknownNameError
from moma_core.teams.cards import TeamOptions
from moma_core.teams.policy import PlanBatch

__all__ = [
    "MECHANICS",
    "Assumptions",
    "Outcomes",
    "Runs",
    "TeamSimulator",
]

_Array = npt.NDArray[np.float64]
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What the simulator takes for granted (simulated, not measured).

    Args:
        repeat: Chance that another call of an LLM on a query repeats its recorded result; else it
            is right as often as its mean and the query's difficulty suggest.
        bare: Logit lost at full difficulty when a member answers without steps (``io``), times
            how much the domain needs reasoning.
        right_domain: Logit gained by a role of the query's domain.
        wrong_domain: Logit lost by a role of another domain.
        right_duty: Logit gained by a role whose duty suits the seat.
        wrong_duty: Logit lost by one that does not.
        specialist: Logit gained by the role that is named as the query's specialist, if one is.
        copied: Chance that a member adds nothing to an earlier one in the same role.
        persuaded: Chance that a wrong member adopts a right answer that all others give.
        misled: Chance that an unable, right member adopts a wrong answer that all others give.
        rescued: Chance, times its ability, that a later member of a chain mends a wrong draft.
        spoiled: Chance, times its inability, that it breaks a right one.
        noticed: Chance, times its ability, that a critic sees a mistake.
        noticed_code: The same in code, whose mistakes are easier to see.
        false_alarm: Chance, times its inability, that it sees one where there is none.
        repaired: Chance, times the better of the two abilities, that a mistake seen is mended.
        judged: Weight of the last member's own ability, beside the majority, in a verdict.
    """

    repeat: float = 0.6
    bare: float = 1.2
    right_domain: float = 0.15
    wrong_domain: float = 0.35
    right_duty: float = 0.1
    wrong_duty: float = 0.3
    specialist: float = 0.25
    copied: float = 0.3
    persuaded: float = 0.5
    misled: float = 0.5
    rescued: float = 0.3
    spoiled: float = 0.25
    noticed: float = 0.55
    noticed_code: float = 0.8
    false_alarm: float = 0.2
    repaired: float = 0.65
    judged: float = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Runs of one mode that are to be drawn.

    Args:
        ability: Chance that each member alone is right, 0 beyond its team, shape (B, S).
        seated: Which seats are taken, shape (B, S).
        same_role: Whether an earlier seat has this seat's role, shape (B, S).
        rounds: Shape (B,).
        code: Whether the query is about code, shape (B,).
    """

    ability: _Array
    seated: _Bools
    same_role: _Bools
    rounds: npt.NDArray[np.intp]
    code: _Bools

    @property
    def members(self) -> npt.NDArray[np.intp]:
        """How many seats are taken, shape (B,)."""
        count: npt.NDArray[np.intp] = self.seated.sum(axis=1)
        return count


def _first_answers(runs: Runs, how: Assumptions, rng: np.random.Generator) -> _Bools:
    """Every member answers alone; one in a role that was there before may only repeat it."""
    right = rng.random(runs.ability.shape) < runs.ability
    echo = runs.same_role & (rng.random(right.shape) < how.copied)
    for seat in range(1, right.shape[1]):
        right[:, seat] = np.where(echo[:, seat], right[:, seat - 1], right[:, seat])
    return right & runs.seated


def _alone(runs: Runs, how: Assumptions, rng: np.random.Generator) -> tuple[_Bools, _Array]:
    """One member: its own answer; nothing to agree with."""
    del how
    right = rng.random(len(runs.ability)) < runs.ability[:, 0]
    return right, np.ones(len(right))


def _chain(runs: Runs, how: Assumptions, rng: np.random.Generator) -> tuple[_Bools, _Array]:
    """Each mends or spoils what it was handed; agreement is the share that left it as it was."""
    right = rng.random(len(runs.ability)) < runs.ability[:, 0]
    changed = np.zeros(len(right))
    for seat in range(1, runs.ability.shape[1]):
        ability = runs.ability[:, seat]
        echo = runs.same_role[:, seat] & (rng.random(len(right)) < how.copied)
        here = runs.seated[:, seat] & ~echo
        flip = np.where(right, how.spoiled * (1.0 - ability), how.rescued * ability)
        flips = here & (rng.random(len(right)) < flip)
        right, changed = right ^ flips, changed + flips
    return right, 1.0 - changed / runs.members


def _debate(runs: Runs, how: Assumptions, rng: np.random.Generator) -> tuple[_Bools, _Array]:
    """Answers alone, then ``rounds`` revisions, then a verdict."""
    first = _first_answers(runs, how, rng)
    return _settle(first, runs, runs.rounds, how, rng)


def _full(runs: Runs, how: Assumptions, rng: np.random.Generator) -> tuple[_Bools, _Array]:
    """As a debate, but the first round has nothing to see yet: one revision fewer."""
    first = _first_answers(runs, how, rng)
    return _settle(first, runs, runs.rounds - 1, how, rng)


def _settle(
    first: _Bools,
    runs: Runs,
    revisions: npt.NDArray[np.intp],
    how: Assumptions,
    rng: np.random.Generator,
) -> tuple[_Bools, _Array]:
    """Revise, then judge: part majority, part the last member's own ability.

    Agreement is the share of members on the side of most first answers.
    """
    right, others = first, np.maximum(runs.members - 1, 1)[:, None]
    for turn in range(int(revisions.max(initial=0))):
        for_it = (right.sum(axis=1, keepdims=True) - right) / others
        against = 1.0 - for_it
        flip = np.where(right, how.misled * against * (1.0 - runs.ability), how.persuaded * for_it)
        active = runs.seated & (turn < revisions)[:, None]
        right = right ^ (active & (rng.random(right.shape) < flip))
    count, members = right.sum(axis=1), runs.members
    judge = runs.ability[np.arange(len(members)), members - 1]
    majority = np.where(2 * count == members, 0.5, 2 * count > members)
    verdict = (1.0 - how.judged) * majority + how.judged * judge
    verdict = np.where(count == members, 0.98, np.where(count == 0, 0.15 * judge, verdict))
    share = first.sum(axis=1) / members
    return rng.random(len(verdict)) < verdict, np.maximum(share, 1.0 - share)


def _reflection(runs: Runs, how: Assumptions, rng: np.random.Generator) -> tuple[_Bools, _Array]:
    """Draft, then critique and revision; agreement is 1 when the last critique found nothing."""
    author, critic = runs.ability[:, 0], runs.ability[:, 1]
    right = rng.random(len(author)) < author
    content, noticed = np.ones(len(right)), np.where(runs.code, how.noticed_code, how.noticed)
    for turn in range(int(runs.rounds.max(initial=0))):
        active = turn < runs.rounds
        alarm = np.where(right, how.false_alarm * (1.0 - critic), noticed * critic)
        alarmed = active & (rng.random(len(right)) < alarm)
        mend = how.repaired * np.maximum(author, critic)
        flip = alarmed & (rng.random(len(right)) < np.where(right, 0.5 * (1.0 - author), mend))
        right = right ^ flip
        content = np.where(active, 1.0 - alarmed, content)
    return right, content


MECHANICS: Mapping[
    str, Callable[[Runs, Assumptions, np.random.Generator], tuple[_Bools, _Array]]
] = {
    "io": _alone,
    "cot": _alone,
    "chain": _chain,
    "full": _full,
    "debate": _debate,
    "reflection": _reflection,
}
"""Draws whether the final answer is right, and how far the members agreed, both of shape (B,)."""


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
        """Return how probably each member alone is right, 0 beyond the team, shape (B, S)."""
        how, seats = self.assumptions, np.maximum(plans.llms, 0)
        ease = self.scores[rows].mean(axis=1, keepdims=True)
        mean = self.scores.mean(axis=0)
        again = np.clip(ease + mean[seats] - mean.mean(), 0.02, 0.98)
        recorded = np.take_along_axis(self.scores[rows], seats, axis=1)
        probability = np.clip(how.repeat * recorded + (1.0 - how.repeat) * again, 0.03, 0.97)
        shift = self._role_shift(rows, plans) - self._bare_shift(rows, plans, 1.0 - ease)
        odds = probability / (1.0 - probability) * np.exp(shift)
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
