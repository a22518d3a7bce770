"""What a stage will probably use: what its members read, and answers as long as so far.

Prices differ a hundredfold between members, so an average over the calls so far would not do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage

from langchain_moma.teams.stages import Stage
from langchain_moma.teams.transcript import Turn, Usage
from langchain_moma.teams.views import messages_for
from moma_core import LLMCard, TeamPlan

__all__ = ["Forecast"]

_CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Forecast:
    """Expects tokens and USD of a stage.

    Args:
        plan: Its members' prompts and LLMs.
        cards: Prices by the LLMs' names; a call without one counts as free.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> from moma_core import TeamMember
        >>> plan = TeamPlan("io", (TeamMember("solver", "a"),))
        >>> forecast = Forecast(plan, {"a": LLMCard("a", 2.0, 2.0)})
        >>> forecast.of(Stage((0,)), (0,), [HumanMessage("What is 2 + 2?" * 2)], [])
        {'calls': 1, 'input_tokens': 7, 'output_tokens': 0, 'cost': 1.4e-05}
    """

    plan: TeamPlan
    cards: Mapping[str, LLMCard]

    def of(
        self,
        stage: Stage,
        seats: Sequence[int],
        conversation: Sequence[BaseMessage],
        transcript: Sequence[Turn],
    ) -> Usage:
        """Return what ``stage`` will use when ``seats`` speak.

        Args:
            stage: What they are asked to do.
            seats: Places in ``plan.members``.
            conversation: The user's.
            transcript: What was said so far; the longest answer stands for those to come.
        """
        wrote = max((turn["output_tokens"] for turn in transcript), default=0)
        reads, cost = 0, 0.0
        for seat in seats:
            member = self.plan.members[seat]
            given = messages_for(conversation, member, seat, stage, transcript)
            read = sum(len(str(message.text)) for message in given) // _CHARS_PER_TOKEN
            card = self.cards.get(member.llm)
            cost += 0.0 if card is None else card.usd(read, wrote)
            reads += read
        return {
            "calls": len(seats),
            "input_tokens": reads,
            "output_tokens": wrote * len(seats),
            "cost": cost,
        }
