"""Modes as stages: which seats speak at once, in which order, and what they are asked to do.

A mode is a function from a plan to its stages, so a user's own needs no graph code. Knows no LLM.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from moma_core import InvalidInputError, TeamPlan, UnknownNameError

__all__ = ["APPROVED", "MODES", "Mode", "Stage", "stages_of"]

APPROVED = "APPROVED"
"""First word of a critique that finds nothing to change."""

_SHORT = "If the result is short, end with a line 'Answer: ...' that holds nothing else."


@dataclass(frozen=True, slots=True)
class Stage:
    """Seats that speak at once. Each sees its own last words and what the stage before said.

    Args:
        seats: Places in ``plan.members``, from 0.
        note: What they are asked to do, after the others' words.
        kind: A critique is never the team's answer; one that begins with ``APPROVED`` ends the
            work. Answers of several seats that agree end it, too.
        closing: The last word: when its seat has been dropped, the last seat that is left speaks.

    Raises:
        InvalidInputError: It has no seat, or one twice.

    Example:
        >>> Stage((0, 1), "Answer on your own.").kind
        'answer'
    """

    seats: tuple[int, ...]
    note: str = ""
    kind: Literal["answer", "critique"] = "answer"
    closing: bool = False

    def __post_init__(self) -> None:
        if not self.seats or len(set(self.seats)) != len(self.seats):
            raise InvalidInputError(
                f"a stage needs seats, each once, got {self.seats!r}. Write Stage((0, 1))."
            )


Mode = Callable[[TeamPlan], Sequence[Stage]]
"""From a plan to what happens, stage by stage; reads ``plan.members`` and ``plan.rounds``."""


def _alone(plan: TeamPlan) -> list[Stage]:
    return [Stage((0,), f"Think step by step. {_SHORT}" if plan.mode == "cot" else "")]


def _chain(plan: TeamPlan) -> list[Stage]:
    last = len(plan.members) - 1
    return [
        Stage(
            (seat,),
            f"{'Do your part' if seat < last else 'Give the final answer'}"
            f"{', building on this' if seat else ''}. {_SHORT if seat == last else ''}".strip(),
        )
        for seat in range(last + 1)
    ]


def _full(plan: TeamPlan) -> list[Stage]:
    everybody, last = tuple(range(len(plan.members))), len(plan.members) - 1
    first = Stage(everybody, f"Contribute what your role knows. {_SHORT}")
    later = Stage(everybody, f"Use what helps, say what is wrong, and go on. {_SHORT}")
    close = f"Now write the team's final answer to the user. {_SHORT}"
    return [first, *[later] * (plan.rounds - 1), Stage((last,), close, closing=True)]


def _debate(plan: TeamPlan) -> list[Stage]:
    everybody, last = tuple(range(len(plan.members))), len(plan.members) - 1
    alone = Stage(everybody, f"Answer on your own. {_SHORT}")
    again = Stage(
        everybody,
        f"Weigh these answers against your own: keep yours if it stands, else correct it. {_SHORT}",
    )
    judge = f"You are the judge now. Decide which answer is right, and give it. {_SHORT}"
    return [alone, *[again] * plan.rounds, Stage((last,), judge, closing=True)]


def _reflection(plan: TeamPlan) -> list[Stage]:
    if len(plan.members) > 2:
        raise InvalidInputError(
            f"reflection takes an author and a critic, got {len(plan.members)} members. "
            "Leave two, or take mode 'chain' or 'debate'."
        )
    critic = len(plan.members) - 1  # a single member criticises itself
    criticise = Stage(
        (critic,),
        "This is a draft of the answer. Say what is wrong or missing. If nothing has to change, "
        f"write only {APPROVED}.",
        "critique",
    )
    revise = Stage((0,), f"This is criticism of your draft. Give the corrected answer. {_SHORT}")
    return [Stage((0,), _SHORT), *[criticise, revise] * plan.rounds]


MODES: Mapping[str, Mode] = MappingProxyType(
    {
        "io": _alone,
        "cot": _alone,
        "chain": _chain,
        "full": _full,
        "debate": _debate,
        "reflection": _reflection,
    }
)
"""MasRouter's six modes."""


def stages_of(
    plan: TeamPlan, modes: Mapping[str, Mode] | None = None, rounds: int | None = None
) -> tuple[Stage, ...]:
    """Return the stages of a plan.

    Args:
        plan: Names the mode.
        modes: The user's own, by name; they come before those of `MODES`.
        rounds: Most rounds.

    Raises:
        UnknownNameError: No such mode.
        InvalidInputError: The mode cannot work with these members.

    Example:
        >>> from moma_core import TeamMember
        >>> plan = TeamPlan("reflection", (TeamMember("coder", "a"), TeamMember("tester", "b")), 2)
        >>> [stage.seats for stage in stages_of(plan)]
        [(0,), (1,), (0,), (1,), (0,)]
        >>> [stage.seats for stage in stages_of(plan, rounds=1)]
        [(0,), (1,), (0,)]
    """
    known = {**MODES, **(modes or {})}
    if plan.mode not in known:
        close = difflib.get_close_matches(plan.mode, known, n=1)
        raise UnknownNameError(
            f"no mode {plan.mode!r}; there are {sorted(known)!r}. "
            + (f"Did you mean {close[0]!r}? " if close else "")
            + f"Give your own: modes={{{plan.mode!r}: lambda plan: [Stage((0,)), ...]}}."
        )
    capped = plan if rounds is None else replace(plan, rounds=min(plan.rounds, rounds))
    stages = tuple(known[plan.mode](capped))
    seats = {seat for stage in stages for seat in stage.seats}
    if not stages or not seats <= set(range(len(plan.members))):
        raise InvalidInputError(
            f"mode {plan.mode!r} gave stages with the seats {sorted(seats)!r} for "
            f"{len(plan.members)} members. A stage names seats from 0 to {len(plan.members) - 1}."
        )
    if all(stage.kind == "critique" for stage in stages):
        raise InvalidInputError(f"mode {plan.mode!r} has no stage that answers. Add a Stage((0,)).")
    return stages
