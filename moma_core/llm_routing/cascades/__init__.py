"""Cascades: ask a cheap LLM, look at its answer, accept or ask another.

After "cascade routing" (arXiv 2410.10347): the optimal strategy from quality and cost estimates
before and after each call. Agreement between LLMs is the signal after a call (arXiv 2509.21837).
"""

from moma_core.llm_routing.cascades.plan import Accept, Ask, CascadePlan, CascadeStep, Weigh
from moma_core.llm_routing.cascades.router import CascadeRouter

__all__ = ["Accept", "Ask", "CascadePlan", "CascadeRouter", "CascadeStep", "Weigh"]
