"""From predicted quality and cost to one LLM: Pareto front, TOPSIS, three preferences (4.1.3)."""

from moma_core.selection.latency import check_latency, in_time
from moma_core.selection.pareto import front_mask, pareto_front
from moma_core.selection.preference import (
    PREFERENCES,
    choose,
    choose_at_rate,
    parse_preference,
    preference_name,
    rank,
    select,
)
from moma_core.selection.stream import StreamBudget
from moma_core.selection.topsis import topsis

__all__ = [
    "PREFERENCES",
    "StreamBudget",
    "check_latency",
    "choose",
    "choose_at_rate",
    "front_mask",
    "in_time",
    "pareto_front",
    "parse_preference",
    "preference_name",
    "rank",
    "select",
    "topsis",
]
