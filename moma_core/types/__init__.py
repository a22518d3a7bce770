"""The values that flow through a router: frozen, validated once, free of behaviour.

Nothing here knows how a score is computed or where a card is stored.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moma_core.types.cards import MAX_DESCRIPTION_CHARS, MAX_EXAMPLE_CHARS, AgentCard, LLMCard
from moma_core.types.checks import MAX_NAME_CHARS, is_number, is_text, is_visible
from moma_core.types.decisions import (
    AgentOutcome,
    Candidate,
    Deferred,
    Handled,
    RoutingDecision,
    ScoreTable,
    Step,
)
from moma_core.types.preferences import Auto, Cost, Performance, Preference
from moma_core.types.query import Query, RoutingState
from moma_core.types.team import TeamMember, TeamPlan

__all__ = [
    "MAX_DESCRIPTION_CHARS",
    "MAX_EXAMPLE_CHARS",
    "MAX_NAME_CHARS",
    "AgentCard",
    "AgentOutcome",
    "Auto",
    "Candidate",
    "Cost",
    "Deferred",
    "FloatArray",
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
    "is_number",
    "is_text",
    "is_visible",
]

FloatArray = npt.NDArray[np.float32]
