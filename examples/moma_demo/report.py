"""What the demo prints: a line a query, a table of all, a summary in words."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from moma_demo.story import Outcome, Reckoning

__all__ = ["show_outcome", "show_summary", "show_table"]

# In the table an LLM's name goes without its release date: it must fit.
_DATE = re.compile(r"-\d{4}-?\d\d-?\d\d$")
_MAX_OUTPUT = 88
_MAX_CELL = 60
_MIN_CELL = 14
_FIXED_COLUMNS = 52


def show_outcome(console: Console, outcome: Outcome) -> None:
    """Print one query, where it went, and what came back."""
    sign = "[green]✓[/]" if outcome.right else "[red]✗[/]"
    console.print(f"{sign} [bold]{escape(_short(outcome.query.text, _MAX_OUTPUT))}[/]")
    sure = f"{outcome.decision.probability:.0%}"
    words = "sure" if outcome.decision.kind == "agent" else "predicted quality"
    console.print(f"   → [cyan]{escape(outcome.went_to)}[/], {sure} {words}, {outcome.ms:.0f} ms")
    console.print(f"   {escape(_short(outcome.output, _MAX_OUTPUT))}", style="dim")


def show_table(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print all queries in one table."""
    table = Table(title="Every query of this demo", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # One line a query, also on 80 columns: what is long gives way, what was decided does not.
    rest = max(console.width - _FIXED_COLUMNS, 2 * _MIN_CELL)
    table.add_column("query", no_wrap=True, width=rest // 2)
    table.add_column("right?", width=6)
    table.add_column("went to", overflow="fold", width=22)
    table.add_column("prob.", justify="right", no_wrap=True, width=5)
    table.add_column("ms", justify="right", no_wrap=True, width=5)
    table.add_column("output", no_wrap=True, width=rest // 2)
    for outcome in outcomes:
        wanted = "" if outcome.right else f" (wanted: {outcome.query.expected})"
        table.add_row(
            escape(_short(outcome.query.text, _MAX_CELL)),
            "✓" if outcome.right else "✗",
            escape(_DATE.sub("", outcome.went_to) + wanted),
            f"{outcome.decision.probability:.2f}",
            f"{outcome.ms:.1f}",
            escape(_short(outcome.output, _MAX_CELL)),
        )
    console.print(table)


def show_summary(console: Console, outcomes: Sequence[Outcome], costs: Reckoning) -> None:
    """Say in words what came of it."""
    right = sum(outcome.right for outcome in outcomes)
    agents = sum(outcome.decision.kind == "agent" for outcome in outcomes)
    mean = statistics.fmean(outcome.ms for outcome in outcomes)
    console.print(
        f"[bold]{right} of {len(outcomes)}[/] went where they belong, in {mean:.1f} ms a decision "
        "on average. No LLM was called to decide."
    )
    console.print(
        f"{agents} were done by an agent, at no LLM cost. The other {len(outcomes) - agents} went "
        f"to LLMs for an expected ${costs.chosen:.4f}; always taking the strongest, "
        f"{escape(costs.strongest)}, would cost ${costs.strongest_same:.4f} for these "
        f"({_saved(costs.chosen, costs.strongest_same)}), and ${costs.strongest_all:.4f} for all "
        f"{len(outcomes)} ({_saved(costs.chosen, costs.strongest_all)})."
    )


def _saved(cost: float, instead_of: float) -> str:
    return f"{1 - cost / instead_of:.0%} saved" if instead_of > 0 else "nothing to save"


def _short(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
