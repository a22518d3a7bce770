"""A decision for a team as a Runnable: the chat models at hand play the plan's roles.

Which team is the router's to say, and how its members talk `langchain_moma.teams`'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel

from langchain_moma.teams import Answering, build
from moma_core import InvalidInputError, LLMCard, TeamPlan

__all__ = ["team_answer"]


def team_answer(
    plan: TeamPlan, llms: Mapping[str, Any], cards: Iterable[LLMCard] = ()
) -> Answering:
    """Return what takes text or messages and gives the team's answer, as one LLM would.

    Args:
        plan: Who plays which role.
        llms: Chat models by name; others than the plan's may be among them.
        cards: Prices.

    Raises:
        InvalidInputError: An LLM of the plan is no chat model here.

    Example:
        >>> from langchain_moma.testing import ScriptedChat
        >>> from moma_core import TeamMember
        >>> plan = TeamPlan("chain", (TeamMember("planner", "a"), TeamMember("writer", "b")))
        >>> llms = {name: ScriptedChat(name=name, reply=lambda *_: "done") for name in ("a", "b")}
        >>> team_answer(plan, llms).invoke("write a poem").text
        'b heard: done'
    """
    for name in plan.llms:
        if not isinstance(llms.get(name), BaseChatModel):
            raise InvalidInputError(
                f"LLM {name!r} is in a team, so it must be a chat model itself, got "
                f"{type(llms.get(name)).__name__}. Write {{{name!r}: ChatOpenAI(...)}}."
            )
    own = {name: llms[name] for name in plan.llms}
    return Answering(build(plan, own, cards=[card for card in cards if card.name in own]))
