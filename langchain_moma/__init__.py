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

from langchain_moma.cascade import ChatCascade
from langchain_moma.chat_model import ChatMoMA
from langchain_moma.collecting import collect
from langchain_moma.decisions import MoMARecord, decision_in
from langchain_moma.feedback import feedback_from_scores
from langchain_moma.final_decision import ChatDecider, FinalChoice
from langchain_moma.graphs import agent_cards_from_graphs
from langchain_moma.llm_cards import llm_cards_from_chat_models
from langchain_moma.llm_node import llm_node
from langchain_moma.local_chat import LocalChat
from langchain_moma.mcp import agent_cards_from_mcp
from langchain_moma.middleware import MoMAAgentState, MoMAMiddleware
from langchain_moma.node import MoMAState, as_edge, as_node
from langchain_moma.prebuilt import create_moma_agent
from langchain_moma.route_tool import RouteTool
from langchain_moma.runnable import RunnableRouter
from langchain_moma.sync import Synced, sync_agents
from langchain_moma.targets import ToolArgumentsError
from langchain_moma.teams import role_llms
from langchain_moma.telemetry import Telemetry
from langchain_moma.tools import agent_cards_from_tools

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
    "collect",
    "create_moma_agent",
    "decision_in",
    "feedback_from_scores",
    "llm_cards_from_chat_models",
    "llm_node",
    "role_llms",
    "sync_agents",
]
