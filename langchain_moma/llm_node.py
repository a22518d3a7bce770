"""The node that asks the LLM, or the team, that a routing node chose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from langchain_moma.conversation import messages_in
from langchain_moma.decisions import decision_in
from langchain_moma.node import MoMAState
from langchain_moma.team_target import team_answer
from moma_core import InvalidInputError, LLMCard, UnknownNameError

__all__ = ["llm_node"]


def llm_node(
    llms: Mapping[str, BaseChatModel], *, cards: Iterable[LLMCard] = (), name: str = "llm"
) -> Runnable[MoMAState, dict[str, Any]]:
    """Return a node for ``as_node(..., llm="llm")``: it asks whom ``state["moma"]`` names.

    Args:
        llms: Chat models by the names of the router's LLMs.
        cards: Prices, ``router.llms.cards``, where teams are to count their cost.
        name: Name of the node when it is added without one.

    Raises:
        InvalidInputError: At a call: no routing node came before, or it chose an agent.
        UnknownNameError: At a call: the chosen LLM is not in ``llms``.

    Example:
        >>> from langgraph.graph import START, StateGraph
        >>> from langchain_moma import as_node
        >>> from langchain_moma.testing import ScriptedChat
        >>> from moma_core import AgentCard, MoMARouter
        >>> router = MoMARouter.from_cards([AgentCard("clock", "Tell the time")])
        >>> llms = {card.name: ScriptedChat(name=card.name) for card in router.llms.cards}
        >>> builder = StateGraph(MoMAState).add_node(as_node(router, [], llm="llm"))
        >>> graph = builder.add_node(llm_node(llms)).add_edge(START, "router").compile()
        >>> graph.invoke({"messages": "why do cats purr?"})["messages"][-1].text
        '... heard: why do cats purr?'
    """
    prices = tuple(cards)

    def chosen(state: Any) -> Runnable[Any, Any]:
        decision = decision_in(state.get("moma"))
        if decision is None or decision.kind == "agent":
            what = "none" if decision is None else f"the agent {decision.target!r}"
            raise InvalidInputError(
                f"node {name!r} asks the LLM that a routing node chose, got {what}. Go to it by "
                f"as_node(router, [...], llm={name!r})."
            )
        if decision.team is not None:
            return team_answer(decision.team, llms, prices)
        if decision.target not in llms:
            raise UnknownNameError(
                f"the router chose {decision.target!r}, but the chat models are {sorted(llms)!r}. "
                "Add it to the llms of llm_node."
            )
        return llms[decision.target]

    def ask(state: MoMAState, config: RunnableConfig) -> dict[str, Any]:
        return {"messages": [chosen(state).invoke(messages_in(state), config)]}

    async def aask(state: MoMAState, config: RunnableConfig) -> dict[str, Any]:
        return {"messages": [await chosen(state).ainvoke(messages_in(state), config)]}

    return RunnableLambda(ask, afunc=aask, name=name)
