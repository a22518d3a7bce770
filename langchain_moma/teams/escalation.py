"""What speaks against a team's answer, and the one better team that is asked for it then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langchain_moma.teams.transcript import Escalation, TeamRecord, Turn
from moma_core import InvalidInputError, Signal, TeamPlan

__all__ = ["Check", "Escalating", "Repair", "Second"]

Check = Callable[[str, str], bool | float]
"""From the question and the answer to False (wrong), True, or a confidence in [0, 1]."""

Repair = Callable[[TeamPlan, Signal, str], TeamPlan | None]
"""From a plan, what it tells of its answer, and the question to a better plan; None, or the plan
itself: there is none. `TeamRouter.repair` is one."""


@dataclass(frozen=True, slots=True)
class Escalating:
    """Judges an answer and builds the team that is asked once more.

    Args:
        check: Judges an answer.
        repair: Gives a better plan.
        build: Makes that plan's graph from ``(plan, limits=what_is_left)``; it repairs nothing
            itself.

    Example:
        >>> judge = Escalating(lambda question, answer: answer == "4", None, build=print)
        >>> judge.signal("2 + 2", "5", agreement=1.0).trouble
        'a check failed'
    """

    check: Check | None
    repair: Repair | None
    build: Callable[..., Any]

    def signal(self, question: str, answer: str, agreement: float | None) -> Signal:
        """Return what the answer tells of itself; where there is a check, that alone decides.

        Raises:
            InvalidInputError: The check gave neither a bool nor a number in [0, 1].
        """
        if self.check is None:
            return Signal(agreement=agreement)
        verdict: object = self.check(question, answer)
        if isinstance(verdict, bool):
            return Signal(passed=verdict)
        if not isinstance(verdict, int | float) or not 0 <= verdict <= 1:
            raise InvalidInputError(
                f"check returns True, False or a confidence in [0, 1], got {verdict!r:.40}."
            )
        return Signal(confidence=float(verdict))


@dataclass(frozen=True, slots=True)
class Second:
    """The better team, and what it leaves in the first one's state.

    Args:
        doubt: What spoke against the first answer.
        plan: The better plan.
        graph: Compiles its graph.
    """

    doubt: str
    plan: TeamPlan
    graph: Callable[[], Any]

    def answered(self, record: TeamRecord) -> dict[str, Escalation]:
        """Return the state's update after an answer."""
        return self._update(record["transcript"], record["stopped"], record["answer"], "")

    def failed(self, error: Exception) -> dict[str, Escalation]:
        """Return the state's update when nobody answered."""
        return self._update([], "", None, repr(error))

    def _update(
        self, transcript: list[Turn], stopped: str, answer: int | None, error: str
    ) -> dict[str, Escalation]:
        return {
            "escalation": {
                "doubt": self.doubt,
                "plan": self.plan.to_dict(),
                "transcript": transcript,
                "stopped": stopped,
                "answer": answer,
                "error": error,
            }
        }
