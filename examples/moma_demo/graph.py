"""The demo's application: a real LangGraph with the router, a node an agent, and one for LLMs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from langchain_moma import MoMAState, agent_cards_from_tools, as_node
from langchain_moma.messages import query_of
from moma_core import MoMARouter
from moma_demo.agents.agent import DemoAgent
from moma_demo.chat import llm_node
from moma_demo.queries import NEGATIVES

__all__ = ["build_graph", "build_router"]


class _Node(Protocol):
    def __call__(self, state: MoMAState) -> dict[str, Any]: ...


def build_router(agents: Sequence[DemoAgent], path: Path | None) -> MoMARouter:
    """Register the agents; with ``path`` they live in Chroma there."""
    cards = agent_cards_from_tools(
        [agent.tool for agent in agents],
        {agent.name: agent.examples for agent in agents},
        categories={agent.name: [agent.category] for agent in agents},
    )
    router = MoMARouter.from_cards(cards, path=path, negatives=NEGATIVES)
    router.fit()
    return router


def build_graph(
    router: MoMARouter, agents: Sequence[DemoAgent]
) -> CompiledStateGraph[MoMAState, None, MoMAState, MoMAState]:
    """Compile START -> router -> one agent's node, or the LLM node -> END."""
    builder = StateGraph(MoMAState)
    builder.add_node("router", as_node(router, [agent.name for agent in agents], llm="llm"))
    builder.add_edge(START, "router")
    for agent in agents:
        builder.add_node(agent.name, _agent_node(agent))
        builder.add_edge(agent.name, END)
    builder.add_node("llm", llm_node)
    builder.add_edge("llm", END)
    return builder.compile()


def _agent_node(agent: DemoAgent) -> _Node:
    def node(state: MoMAState) -> dict[str, Any]:
        text = query_of({"messages": state["messages"]}).text
        return {"messages": [AIMessage(agent.answer(text))]}

    return node
