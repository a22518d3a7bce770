"""``moma feedback``: what learning from use would bring, before it is switched on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from moma_core.cli.terminal import console

if TYPE_CHECKING:
    from moma_core.llm_routing.learning import Estimate, Estimates

__all__ = ["feedback_app"]

feedback_app = typer.Typer(no_args_is_help=True, help="Look at what feedback says before learning from it.")


@feedback_app.callback()
def _group() -> None:
    """Look at what feedback says before learning from it."""


@feedback_app.command(name="estimate", epilog="Example: moma feedback estimate feedback.jsonl")
def estimate_log(
    log: Annotated[
        Path,
        typer.Argument(help="What Learning(log=...) wrote.", exists=True, dir_okay=False),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Of the folds.")] = 0,
) -> None:
    """Estimate rewards without and with what was learnt, from choices that were logged."""
    from moma_core.llm_routing.learning import FeedbackLog, estimate

    found = estimate(FeedbackLog.read(log), seed=seed)
    table = Table(
        "policy", "IPS", "SNIPS", "doubly robust", "USD a query", "matched",
        title="Mean reward with 95 % intervals",
    )  # fmt: skip
    _row(table, "without learning", found.static)
    _row(table, "with what was learnt", found.learnt)
    console.print(table)
    low, high = found.gain_range
    console.print(
        f"{found.lines} feedbacks, mean reward {found.logged:.3f}. Gain of learning: "
        f"{found.gain:+.4f} ({low:+.4f} to {high:+.4f}).",
        highlight=False,
    )
    console.print(_advice(found), highlight=False)


def _row(table: Table, name: str, found: Estimate) -> None:
    cells = (
        (found.ips, found.ips_range),
        (found.snips, found.snips_range),
        (found.dr, found.dr_range),
    )
    shown = [f"{value:.3f} ({low:.3f} to {high:.3f})" for value, (low, high) in cells]
    table.add_row(name, *shown, f"{found.cost:.6f}", str(found.matched))


def _advice(found: Estimates) -> str:
    if found.worthwhile:
        return "It pays: router.learning.configure(apply=True)"
    if found.gain_range[1] < 0.0:
        return "It would cost quality: leave apply=False."
    return "Not certain yet: collect more feedback before apply=True."
