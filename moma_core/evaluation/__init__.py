"""Measures routers on labelled data: agents, LLMs, and the figures both share."""

from moma_core.evaluation.agents import evaluate_agents
from moma_core.evaluation.llms import evaluate_llms

__all__ = ["evaluate_agents", "evaluate_llms"]
