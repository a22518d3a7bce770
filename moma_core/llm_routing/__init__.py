"""LLM routing (4.1): quality heads, expected costs, training, checkpoints, the router.

Receives vectors; imports neither an encoder nor an agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moma_core.llm_routing.cascades import Accept, Ask, CascadePlan, CascadeRouter
from moma_core.llm_routing.dataset import LLMDataset
from moma_core.llm_routing.router import LLMRouter

if TYPE_CHECKING:
    from moma_core.llm_routing.cascades.training import train_cascade
    from moma_core.llm_routing.training import train

__all__ = [
    "Accept",
    "Ask",
    "CascadePlan",
    "CascadeRouter",
    "LLMDataset",
    "LLMRouter",
    "train",
    "train_cascade",
]


def __getattr__(name: str) -> Any:
    if name == "train":
        from moma_core.llm_routing.training import train

        return train
    if name == "train_cascade":
        from moma_core.llm_routing.cascades.training import train_cascade

        return train_cascade
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
