"""How each mode changes correctness: the assumptions of the SIMULATED outcomes, one function each.

Nothing here was measured on real teams. Every number sits in `Assumptions`, is modest, and can be
changed to see what a result hangs on. Free functions on arrays; the random generator is an
argument. Rows are runs, columns are seats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["MECHANICS", "Assumptions", "Runs"]

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
