"""create_moma_agent: an agent with hundreds of tools, in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware.types import AgentMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool
from langgraph.graph.state import CompiledStateGraph

from langchain_moma.middleware import MoMAMiddleware
from langchain_moma.tools import agent_cards_from_tools
from moma_core import InvalidInputError, MoMARouter, Preference
from moma_core.words import Words

__all__ = ["create_moma_agent"]


def create_moma_agent(
    llms: BaseChatModel | Mapping[str, BaseChatModel],
    tools: Sequence[BaseTool | Callable[..., Any] | dict[str, Any]],
    *,
    router: MoMARouter | None = None,
    max_tools: int = 8,
    examples: Words | None = None,
    preference: str | Preference | None = None,
    middleware: Sequence[AgentMiddleware[Any, Any, Any]] = (),
    **options: Any,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return an agent that binds, for each turn, only the tools that matter.

    Args:
        llms: One chat model, or several by the names of the router's LLMs.
        tools: Any number of tools, functions, or provider tools (dicts).
        router: Decides; by default one is built from the tools, with the packaged LLMs when
            several chat models are given.
        max_tools: Most tools to bind for a turn.
        examples: Queries that each tool should take, by tool name, for the router built here.
        preference: As in `ChatMoMA`.
        middleware: Further middleware, inside ours.
        **options: As in LangChain's ``create_agent``: ``system_prompt``, ``checkpointer``, ...

    Raises:
        InvalidInputError: ``examples`` are given beside a router.
        InvalidCardError: A tool has no description.
        UnknownNameError: A name in ``llms`` is not among the router's LLMs.

    Example:
        >>> from langchain_moma.testing import ScriptedChat
        >>> def clock(place: str) -> str:
        ...     "Tell the time in a place."
        ...     return "noon"
        >>> def weather(place: str) -> str:
        ...     "Tell the weather in a place."
        ...     return "sunny"
        >>> agent = create_moma_agent(ScriptedChat(), [clock, weather], max_tools=1)
        >>> agent.invoke({"messages": "weather in Oslo?"})["messages"][-1].text
        'scripted heard: sunny'
    """
    several = isinstance(llms, Mapping)
    if router is not None and examples is not None:
        raise InvalidInputError(
            "examples belong to the router that is built here, but one was given. Put them into "
            "its cards: agent_cards_from_tools(tools, examples)."
        )
    if router is None:
        own = [tool for tool in tools if not isinstance(tool, dict)]
        cards = agent_cards_from_tools(own, examples)
        router = MoMARouter.from_cards(cards, llms="packaged" if several else None)
    moma = MoMAMiddleware(
        router,
        max_tools=max_tools,
        llms=llms if isinstance(llms, Mapping) else None,
        preference=preference,
    )
    first = next(iter(llms.values())) if isinstance(llms, Mapping) else llms
    return create_agent(first, tools, middleware=[moma, *middleware], **options)
