"""The demo's agents, by category. Each truly does its job, offline and without an LLM."""

from __future__ import annotations

from moma_demo.agents import (
    colours,
    conversion,
    dates,
    documents,
    mathematics,
    money,
    security,
    tables,
    text,
)
from moma_demo.agents.agent import DemoAgent, UnclearError
from moma_demo.agents.planning import planning_agents

__all__ = ["DemoAgent", "UnclearError", "demo_agents"]

_MODULES = (mathematics, money, conversion, dates, text, tables, documents, security, colours)


def demo_agents() -> tuple[DemoAgent, ...]:
    """Return every agent, with fresh lists and notes.

    Example:
        >>> calculator = demo_agents()[0]
        >>> calculator.answer("what is 6 times 7?")
        '6 * 7 = 42'
    """
    return tuple(agent for module in _MODULES for agent in module.AGENTS) + planning_agents()
