"""MoMA in LangChain and LangGraph: a Runnable that routes, a node, an edge, cards from tools.

The core decides, these adapters invoke: nothing here scores, and nothing in `moma_core` calls a
chat model. Needs ``pip install "moma-router[langchain]"``.
"""

try:
    import langchain_core  # noqa: F401  # asked for here, so that the error can say what to type
    import langgraph.graph  # noqa: F401
except ModuleNotFoundError as error:
    from moma_core import MissingExtraError

    raise MissingExtraError(
        f"langchain_moma needs LangChain and LangGraph ({error}). "
        'Type: pip install "moma-router[langchain]"'
    ) from error

from langchain_moma.decisions import MoMARecord, decision_in
from langchain_moma.node import MoMAState, as_edge, as_node
from langchain_moma.runnable import RunnableRouter
from langchain_moma.targets import ToolArgumentsError
from langchain_moma.tools import agent_cards_from_tools

__all__ = [
    "MoMARecord",
    "MoMAState",
    "RunnableRouter",
    "ToolArgumentsError",
    "agent_cards_from_tools",
    "as_edge",
    "as_node",
    "decision_in",
]
