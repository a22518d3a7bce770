"""The demo, from an empty registry to a picture; ``moma demo`` runs it.

Registers the agents in Chroma, compiles a LangGraph around them, sends queries through it, runs
what was chosen, and tells what happened in words.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from langgraph.graph.state import CompiledStateGraph
from rich.console import Console
from rich.markup import escape

from moma_core import MoMARouter
from moma_demo.agents import demo_agents
from moma_demo.agents.agent import DemoAgent
from moma_demo.chat import how_to_set_a_key, provider_at_hand
from moma_demo.graph import build_graph, build_router
from moma_demo.picture import draw
from moma_demo.queries import SCENES, SWITCHED
from moma_demo.report import show_outcome, show_summary, show_table
from moma_demo.story import Outcome, ask, llms_for, reckon

__all__ = ["run"]

_PICTURE = "score-and-cost.png"
_Graph = CompiledStateGraph[Any, Any, Any, Any]


def run(path: Path | None = None, console: Console | None = None, plot: Path | None = None) -> None:
    """Show the whole product once, offline.

    Args:
        path: Folder that keeps the router and the picture; a passing one by default.
        console: Where to print.
        plot: PNG to write; ``score-and-cost.png`` in that folder by default.
    """
    console = console or Console()
    start = time.perf_counter()
    if path is not None:
        _show(path, console, plot or path / _PICTURE)
        console.print(
            'Ask it yourself: [bold]moma route "how far is 5 km in miles?" --explain '
            f"--router {escape(str(path))}[/]"
        )
    else:
        # Chroma keeps its files open until the process ends, which must not spoil the clean-up.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            _show(Path(folder), console, plot or Path(folder) / _PICTURE)
    console.print(f"That took {time.perf_counter() - start:.0f} s. Thank you for watching!")


def _show(path: Path, console: Console, plot: Path) -> None:
    agents = demo_agents()
    router, graph = _set_up(path, agents, console)
    outcomes = _scenes(graph, console)
    outcomes += _switch(router, graph, console)
    _real_answer(outcomes, graph, console)
    console.rule("[bold]What came of it")
    show_table(console, outcomes)
    show_summary(console, outcomes, reckon(router, outcomes))
    _picture(router, outcomes, console, plot)
    router.save(path)


def _set_up(path: Path, agents: Sequence[DemoAgent], console: Console) -> tuple[MoMARouter, _Graph]:
    console.rule("[bold]MoMA: the right agent or, when none fits, the right LLM for the money")
    categories = sorted({agent.category for agent in agents})
    console.print(
        f"Here are {len(agents)} small agents in {len(categories)} categories "
        f"({', '.join(categories)}). Each is a LangChain tool that truly does its job on this "
        "computer. Each comes with a sentence on what it does and a few queries it should take."
    )
    with console.status("Registering them ..."):
        start = time.perf_counter()
        router = build_router(agents, path)
        seconds = time.perf_counter() - start
    console.print(
        f"They are registered in Chroma now ({seconds:.1f} s, in {escape(str(path))}): a sentence "
        "encoder on the CPU turned their words into vectors, and nothing left this computer."
    )
    graph = build_graph(router, agents)
    llms = len(router.llms.cards) if router.llms is not None else 0
    console.print(
        f"They became the nodes of a LangGraph: a router, {len(agents)} agents, and one node for "
        f"LLMs. There are {llms} of those to choose from, with their prices."
    )
    return router, graph


def _scenes(graph: _Graph, console: Console) -> list[Outcome]:
    outcomes = []
    for scene in SCENES:
        console.rule(f"[bold]{scene.title}", align="left")
        console.print(scene.words)
        for query in scene.queries:
            outcomes.append(ask(graph, query, real=False))
            show_outcome(console, outcomes[-1])
    return outcomes


def _switch(router: MoMARouter, graph: _Graph, console: Console) -> list[Outcome]:
    console.rule("[bold]An agent goes off duty", align="left")
    before, after = SWITCHED
    first = ask(graph, before, real=False)
    show_outcome(console, first)
    router.agents.disable(before.expected)
    console.print(
        f"Now [cyan]{before.expected}[/] is disabled: one call, no training, no restart. The very "
        "next decision avoids it."
    )
    try:
        second = ask(graph, after, real=False)
    finally:
        router.agents.enable(before.expected)
    show_outcome(console, second)
    return [first, second]


def _real_answer(outcomes: Sequence[Outcome], graph: _Graph, console: Console) -> None:
    console.rule("[bold]A real answer", align="left")
    provider = provider_at_hand()
    if provider is None:
        console.print(
            "So far the LLMs were chosen but not called: no provider's key is set. "
            f"{escape(how_to_set_a_key())}"
        )
        return
    query = next(outcome.query for outcome in outcomes if outcome.decision.kind != "agent")
    console.print(f"{provider.key} is set, so one query gets its answer: {escape(query.text)}")
    answer = ask(graph, replace(query, preference="cost"), real=True)
    console.print(escape(answer.output), style="dim")


def _picture(router: MoMARouter, outcomes: Sequence[Outcome], console: Console, plot: Path) -> None:
    hard = list(SCENES[-1].queries)
    choices = {
        outcome.query.preference: outcome.decision.target
        for outcome in outcomes
        if outcome.query in hard and outcome.decision.kind != "agent"
    }
    try:
        drawn = draw(llms_for(router, hard[0].text), choices, hard[0].text, plot)
    except ModuleNotFoundError:
        console.print('For a picture of it: pip install "moma-router[plots]"', markup=False)
        return
    console.print(
        f"A picture of the hard question, with every LLM's predicted score and cost: {drawn}"
    )
