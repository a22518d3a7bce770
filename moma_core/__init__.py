"""Routes each query to an agent or tool or, when none fits, to the LLM worth its price.

Start with `MoMARouter.from_cards`. Names load on first use, so importing this package is quick and
brings in neither torch nor chromadb.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moma_core.agents.categories import Category
    from moma_core.agents.states import State, StateMachine
    from moma_core.decision import Candidate, RoutingDecision, ScoreTable, TeamPlan
    from moma_core.encoder import MiniLMEncoder, RoutingEncoder
    from moma_core.errors import (
        ArtifactError,
        InvalidInputError,
        MissingExtraError,
        MoMAError,
        NoTargetError,
        RegistryError,
        UnknownNameError,
    )
    from moma_core.llms.cascade import CascadeRouter
    from moma_core.llms.data import LLMDataset
    from moma_core.llms.feedback import Learning
    from moma_core.llms.router import LLMRouter
    from moma_core.protocols import Encoder, FinalDecider, Registry
    from moma_core.router import MoMARouter
    from moma_core.teams.router import TeamRouter
    from moma_core.training.collect import collect
    from moma_core.training.judge import Judge
    from moma_core.types import (
        AgentCard,
        Auto,
        Cost,
        LLMCard,
        Performance,
        Preference,
        Query,
        RoutingState,
    )

_HOMES = {
    "moma_core.agents.categories": ("Category",),
    "moma_core.agents.states": ("State", "StateMachine"),
    "moma_core.decision": ("Candidate", "RoutingDecision", "ScoreTable", "TeamPlan"),
    "moma_core.encoder": ("MiniLMEncoder", "RoutingEncoder"),
    "moma_core.errors": (
        "ArtifactError",
        "InvalidInputError",
        "MissingExtraError",
        "MoMAError",
        "NoTargetError",
        "RegistryError",
        "UnknownNameError",
    ),
    "moma_core.llms.cascade": ("CascadeRouter",),
    "moma_core.llms.data": ("LLMDataset",),
    "moma_core.llms.feedback": ("Learning",),
    "moma_core.llms.router": ("LLMRouter",),
    "moma_core.protocols": ("Encoder", "FinalDecider", "Registry"),
    "moma_core.router": ("MoMARouter",),
    "moma_core.teams.router": ("TeamRouter",),
    "moma_core.training.collect": ("collect",),
    "moma_core.training.judge": ("Judge",),
    "moma_core.types": (
        "AgentCard",
        "Auto",
        "Cost",
        "LLMCard",
        "Performance",
        "Preference",
        "Query",
        "RoutingState",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AgentCard",
    "ArtifactError",
    "Auto",
    "Candidate",
    "CascadeRouter",
    "Category",
    "Cost",
    "Encoder",
    "FinalDecider",
    "InvalidInputError",
    "Judge",
    "LLMCard",
    "LLMDataset",
    "LLMRouter",
    "Learning",
    "MiniLMEncoder",
    "MissingExtraError",
    "MoMAError",
    "MoMARouter",
    "NoTargetError",
    "Performance",
    "Preference",
    "Query",
    "Registry",
    "RegistryError",
    "RoutingDecision",
    "RoutingEncoder",
    "RoutingState",
    "ScoreTable",
    "State",
    "StateMachine",
    "TeamPlan",
    "TeamRouter",
    "UnknownNameError",
    "collect",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("moma-router")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
