"""RouteTool: lets an agent ask the router who should take a request.

For supervisors that hand work on, and for agents beside more tools than they can be shown. It
answers; it invokes nobody.
"""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, ToolException
from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from langchain_moma.decision import check_router, check_wish, excluded_in, preference_in
from moma_core import MoMAError, MoMARouter, Preference, RoutingDecision

__all__ = [
    "RouteTool",
]

_SHOWN = 3


class _Request(BaseModel):
    """What `RouteTool` is asked."""

    query: str = Field(description="The request in the user's words, complete in itself.")


class RouteTool(BaseTool):
    """Names the agent, or the LLM when none fits, that should take a request.

    The answer is text for an LLM: the name first (of a team, all its LLMs), with its description
    and how sure the router is.
    The artifact is `RoutingDecision.to_dict`. What cannot be routed is an error message, so that
    the asking LLM can go on.

    Args:
        router: Decides.
        preference: As in `MoMARouter.route`; for one call:
            ``config={"configurable": {"moma_preference": "cost"}}``, likewise ``moma_exclude``.
        max_latency: As in `MoMARouter.route`.

    Raises:
        InvalidInputError: There is no router.

    Example:
        >>> from moma_core import AgentCard
        >>> cards = [AgentCard("clock", "Tell the time"), AgentCard("weather", "Weather forecast")]
        >>> ask = RouteTool(router=MoMARouter.from_cards(cards, llms=None))
        >>> print(ask.invoke("what will the weather be like?").partition(" (")[0])
        weather: Weather forecast
    """

    name: str = "find_agent"
    description: str = (
        "Find out which agent or tool should take a request. Call it before handing work on, or "
        "when no tool at hand fits."
    )
    args_schema: Any = _Request
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: Any = True
    model_config = ConfigDict(arbitrary_types_allowed=True)

    router: SkipValidation[MoMARouter] = Field(exclude=True, repr=False)
    preference: SkipValidation[str | Preference | None] = None
    max_latency: float | None = None

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        check_router(self.router)
        check_wish(self.preference, self.max_latency)

    def _run(self, query: str, config: RunnableConfig) -> tuple[str, dict[str, Any]]:
        preference, out = preference_in(config, self.preference), excluded_in(config)
        try:
            decision = self.router.route(
                query, preference, exclude=out, max_latency=self.max_latency
            )
        except MoMAError as error:
            raise ToolException(str(error)) from error
        return self._words(decision), decision.to_dict()

    def _words(self, decision: RoutingDecision) -> str:
        others = [c for c in decision.candidates if c.name not in decision.targets][:_SHOWN]
        also = f"\nalso considered: {', '.join(c.name for c in others)}" if others else ""
        about = ""
        if decision.kind == "agent":
            about = f": {self.router.agents.get(decision.target).description}"
        names = ", ".join(decision.targets)
        return f"{names}{about} ({decision.kind}, {decision.probability:.2f}){also}"
