"""Agent routing: catalog -> categories -> states -> ranker -> gate -> Handled or Deferred."""

from moma_core.agent_routing.catalog import AgentCatalog
from moma_core.agent_routing.categories import Category, Taxonomy
from moma_core.agent_routing.health import Health
from moma_core.agent_routing.negatives import Negatives
from moma_core.agent_routing.router import AgentRouter
from moma_core.agent_routing.states import State, StateMachine

__all__ = [
    "AgentCatalog",
    "AgentRouter",
    "Category",
    "Health",
    "Negatives",
    "State",
    "StateMachine",
    "Taxonomy",
]
