"""One agent of the demo: a tool, how to read its arguments, and the queries it should take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langchain_core.tools import BaseTool

__all__ = ["DemoAgent", "UnclearError"]


class UnclearError(ValueError):
    """The query does not hold the arguments that the tool needs."""


@dataclass(frozen=True)
class DemoAgent:
    """A tool that does its job offline, with what lets it be found and run without an LLM.

    Args:
        tool: Does the job.
        category: What it belongs to.
        parse: Reads the tool's arguments out of a query; raises `UnclearError`.
        needs: What it asks for when it cannot.
        examples: Queries that it should take, each in other words.
    """

    tool: BaseTool
    category: str
    parse: Callable[[str], dict[str, Any]]
    needs: str
    examples: tuple[str, ...]

    @property
    def name(self) -> str:
        """The tool's name."""
        return self.tool.name

    def answer(self, text: str) -> str:
        """Do the job, or say politely what is missing or wrong."""
        try:
            arguments = self.parse(text)
        except UnclearError:
            return f"I need {self.needs}"
        try:
            return str(self.tool.invoke(arguments))
        except (ValueError, ArithmeticError) as error:
            return f"Sorry, {error}"
