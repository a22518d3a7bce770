"""MoMA in LangChain and LangGraph: a chat model, middleware, a node, a Runnable, cards.

The core decides, these adapters invoke: nothing here scores, and nothing in `moma_core` calls a
chat model. Needs ``pip install "moma-router[langchain]"``.
"""

try:
    import langchain.agents  # noqa: F401  # asked for here, so that the error can say what to type
    import langchain_core  # noqa: F401
    import langgraph.graph  # noqa: F401
except ModuleNotFoundError as error:
    from moma_core import MissingExtraError

    raise MissingExtraError(
        f"langchain_moma needs LangChain and LangGraph ({error}). "
        'Type: pip install "moma-router[langchain]"'
    ) from error

from langchain_moma.cards import (
    Synced,
    agent_cards_from_graphs,
    agent_cards_from_mcp,
    agent_cards_from_tools,
    llm_cards_from_chat_models,
    sync_agents,
)
from langchain_moma.cascade import ChatCascade
from langchain_moma.chat import ChatMoMA
from langchain_moma.collect import collect, feedback_from_scores
from langchain_moma.decider import ChatDecider, FinalChoice
from langchain_moma.decision import MoMARecord, decision_in
from langchain_moma.graph import MoMAState, as_edge, as_node, llm_node
from langchain_moma.local_chat import LocalChat
from langchain_moma.middleware import MoMAAgentState, MoMAMiddleware, create_moma_agent
from langchain_moma.openapi import cards_from_openapi
from langchain_moma.route_tool import RouteTool
from langchain_moma.runnable import RunnableRouter, ToolArgumentsError
from langchain_moma.teams.roles import role_llms
from langchain_moma.telemetry import Telemetry
from langchain_moma.waiting import waits

__all__ = [
    "ChatCascade",
    "ChatDecider",
    "ChatMoMA",
    "FinalChoice",
    "LocalChat",
    "MoMAAgentState",
    "MoMAMiddleware",
    "MoMARecord",
    "MoMAState",
    "RouteTool",
    "RunnableRouter",
    "Synced",
    "Telemetry",
    "ToolArgumentsError",
    "agent_cards_from_graphs",
    "agent_cards_from_mcp",
    "agent_cards_from_tools",
    "as_edge",
    "as_node",
    "cards_from_openapi",
    "collect",
    "create_moma_agent",
    "decision_in",
    "feedback_from_scores",
    "llm_cards_from_chat_models",
    "llm_node",
    "role_llms",
    "sync_agents",
    "waits",
]
