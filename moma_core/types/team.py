"""What MasRouter decides for one query: a mode, roles in order, an LLM for each (sect. 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moma_core.errors import InvalidInputError
from moma_core.types.checks import rebuilding

__all__ = ["TeamMember", "TeamPlan"]


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
