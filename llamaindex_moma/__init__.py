"""MoMA in LlamaIndex: a selector that never points past its choices, an LLM that routes, tools.

The core decides, these adapters invoke. Needs ``pip install "moma-router[llamaindex]"``.
"""

try:
    import llama_index.core  # noqa: F401  # asked for here, so that the error can say what to type
except ModuleNotFoundError as error:
    from moma_core import MissingExtraError

    raise MissingExtraError(
        f'llamaindex_moma needs LlamaIndex ({error}). Type: pip install "moma-router[llamaindex]"'
    ) from error

from llamaindex_moma.cards import (
    MoMAToolMetadata,
    agent_cards_from_function_tools,
    agent_cards_from_query_engine_tools,
    agent_cards_from_workflow,
    register_cards,
)
from llamaindex_moma.events import MoMAEngineFailureEvent, MoMALLMFailureEvent, MoMARouteEvent
from llamaindex_moma.llm import MoMALLM
from llamaindex_moma.query_engines import MoMARouterQueryEngine, MoMAToolRouterQueryEngine
from llamaindex_moma.selector import MoMASelector, ScoredSelection
from llamaindex_moma.tools import MoMAToolRetriever
from llamaindex_moma.workflow import MoMAWorkflowRouter

__all__ = [
    "MoMAEngineFailureEvent",
    "MoMALLM",
    "MoMALLMFailureEvent",
    "MoMARouteEvent",
    "MoMARouterQueryEngine",
    "MoMASelector",
    "MoMAToolMetadata",
    "MoMAToolRetriever",
    "MoMAToolRouterQueryEngine",
    "MoMAWorkflowRouter",
    "ScoredSelection",
    "agent_cards_from_function_tools",
    "agent_cards_from_query_engine_tools",
    "agent_cards_from_workflow",
    "register_cards",
]
