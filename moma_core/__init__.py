"""Routes each query to an agent or tool or, when none fits, to the LLM worth its price.

Start with `MoMARouter.from_cards`. Names load on first use, so importing this package is quick and
brings in neither torch nor chromadb.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moma_core.agent_routing import (
        AgentCatalog,
        AgentRouter,
        Category,
        Health,
        State,
        StateMachine,
        Taxonomy,
    )
    from moma_core.decoding import FusedDecider, LocalLLM
    from moma_core.encoders import MiniLMEncoder
    from moma_core.errors import (
        ArtifactError,
        DuplicateNameError,
        InvalidCardError,
        InvalidDataError,
        InvalidInputError,
        InvalidPreferenceError,
        InvalidQueryError,
        InvalidStatesError,
        MissingExtraError,
        MoMAError,
        NoTargetError,
        RegistryError,
        ScoreError,
        UnknownNameError,
    )
    from moma_core.llm_routing import (
        Accept,
        Ask,
        CascadePlan,
        CascadeRouter,
        LLMRouter,
    )
    from moma_core.llm_routing.answers import normalise_answer
    from moma_core.llm_routing.collection import (
        AskLLM,
        CollectConfig,
        Collected,
        Judge,
        Questions,
        Reply,
        Scorer,
        collect,
        final_answer,
    )
    from moma_core.llm_routing.learning import (
        Directions,
        Learning,
        LearningConfig,
    )
    from moma_core.protocols import (
        AgentRecord,
        Encoder,
        FinalDecider,
        QualityHead,
        Registry,
        Router,
    )
    from moma_core.registry import ChromaRegistry, MemoryRegistry
    from moma_core.router import MoMARouter
    from moma_core.selection import parse_preference, preference_name
    from moma_core.teams import (
        ModeCard,
        RoleCard,
        Signal,
        TeamOptions,
        TeamRouter,
        calls,
    )
    from moma_core.types import (
        AgentCard,
        Auto,
        Candidate,
        Cost,
        Deferred,
        Handled,
        LLMCard,
        Performance,
        Preference,
        Query,
        RoutingDecision,
        RoutingState,
        ScoreTable,
        Step,
        TeamMember,
        TeamPlan,
    )

_HOMES = {
    "moma_core.agent_routing": (
        "AgentCatalog",
        "AgentRouter",
        "Category",
        "Health",
        "State",
        "StateMachine",
        "Taxonomy",
    ),
    "moma_core.decoding": ("FusedDecider", "LocalLLM"),
    "moma_core.encoders": ("MiniLMEncoder",),
    "moma_core.errors": (
        "ArtifactError",
        "DuplicateNameError",
        "InvalidCardError",
        "InvalidDataError",
        "InvalidInputError",
        "InvalidPreferenceError",
        "InvalidQueryError",
        "InvalidStatesError",
        "MissingExtraError",
        "MoMAError",
        "NoTargetError",
        "RegistryError",
        "ScoreError",
        "UnknownNameError",
    ),
    "moma_core.llm_routing": ("Accept", "Ask", "CascadePlan", "CascadeRouter", "LLMRouter"),
    "moma_core.llm_routing.answers": ("normalise_answer",),
    "moma_core.llm_routing.collection": (
        "AskLLM",
        "CollectConfig",
        "Collected",
        "Judge",
        "Questions",
        "Reply",
        "Scorer",
        "collect",
        "final_answer",
    ),
    "moma_core.llm_routing.learning": (
        "Directions",
        "Learning",
        "LearningConfig",
    ),
    "moma_core.protocols": (
        "AgentRecord",
        "Encoder",
        "FinalDecider",
        "QualityHead",
        "Registry",
        "Router",
    ),
    "moma_core.registry": ("ChromaRegistry", "MemoryRegistry"),
    "moma_core.router": ("MoMARouter",),
    "moma_core.selection": ("parse_preference", "preference_name"),
    "moma_core.teams": (
        "ModeCard",
        "RoleCard",
        "Signal",
        "TeamOptions",
        "TeamRouter",
        "calls",
    ),
    "moma_core.types": (
        "AgentCard",
        "Auto",
        "Candidate",
        "Cost",
        "Deferred",
        "Handled",
        "LLMCard",
        "Performance",
        "Preference",
        "Query",
        "RoutingDecision",
        "RoutingState",
        "ScoreTable",
        "Step",
        "TeamMember",
        "TeamPlan",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Accept",
    "AgentCard",
    "AgentCatalog",
    "AgentRecord",
    "AgentRouter",
    "ArtifactError",
    "Ask",
    "AskLLM",
    "Auto",
    "Candidate",
    "CascadePlan",
    "CascadeRouter",
    "Category",
    "ChromaRegistry",
    "CollectConfig",
    "Collected",
    "Cost",
    "Deferred",
    "Directions",
    "DuplicateNameError",
    "Encoder",
    "FinalDecider",
    "FusedDecider",
    "Handled",
    "Health",
    "InvalidCardError",
    "InvalidDataError",
    "InvalidInputError",
    "InvalidPreferenceError",
    "InvalidQueryError",
    "InvalidStatesError",
    "Judge",
    "LLMCard",
    "LLMRouter",
    "Learning",
    "LearningConfig",
    "LocalLLM",
    "MemoryRegistry",
    "MiniLMEncoder",
    "MissingExtraError",
    "MoMAError",
    "MoMARouter",
    "ModeCard",
    "NoTargetError",
    "Performance",
    "Preference",
    "QualityHead",
    "Query",
    "Questions",
    "Registry",
    "RegistryError",
    "Reply",
    "RoleCard",
    "Router",
    "RoutingDecision",
    "RoutingState",
    "ScoreError",
    "ScoreTable",
    "Scorer",
    "Signal",
    "State",
    "StateMachine",
    "Step",
    "Taxonomy",
    "TeamMember",
    "TeamOptions",
    "TeamPlan",
    "TeamRouter",
    "UnknownNameError",
    "calls",
    "collect",
    "final_answer",
    "normalise_answer",
    "parse_preference",
    "preference_name",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
