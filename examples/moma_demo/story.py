"""Asks the graph, keeps what came of it, and reckons what it cost."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.graph.state import CompiledStateGraph

from langchain_moma import decision_in
from langchain_moma.decision import PREFERENCE
from moma_core import Candidate, MoMARouter, RoutingDecision
from moma_demo.chat import ASK
from moma_demo.queries import LLM, DemoQuery

__all__ = ["Outcome", "Reckoning", "ask", "llms_for", "reckon"]


@dataclass(frozen=True)
class Outcome:
    """A query, what was decided, how long that took, and what came back."""

    query: DemoQuery
    decision: RoutingDecision
    ms: float
    output: str

    @property
    def went_to(self) -> str:
        """The target, with LLMs told from agents."""
        target = self.decision.target
        return target if self.decision.kind == "agent" else f"{LLM} {target}"

    @property
    def right(self) -> bool:
        """Whether it went where it belongs."""
        expected = self.query.expected
        if expected.startswith("not "):
            return self.decision.target != expected.removeprefix("not ")
        if expected == LLM:
            return self.decision.kind != "agent"
        return self.decision.target == expected


@dataclass(frozen=True)
class Reckoning:
    """What the LLMs cost, beside always taking the strongest one."""

    strongest: str
    chosen: float
    strongest_same: float
    strongest_all: float


def ask(graph: CompiledStateGraph[Any, Any, Any, Any], query: DemoQuery, *, real: bool) -> Outcome:
    """Run one query through the graph, from the router to the answer."""
    end = graph.invoke(
        {"messages": [("human", query.text)]},
        {"configurable": {PREFERENCE: query.preference, ASK: real}},
    )
    decision = decision_in(end["moma"])
    if decision is None:  # as_node without a default either decides or raises
        raise RuntimeError(f"no decision for {query.text!r}")
    return Outcome(query, decision, end["moma"]["ms"], end["messages"][-1].text)


def llms_for(router: MoMARouter, text: str) -> tuple[Candidate, ...]:
    """Return every LLM with its predicted score and cost for a query, agents left aside."""
    decision: RoutingDecision = router.route(text, "performance", exclude=router.agents.names)
    return decision.candidates


def reckon(router: MoMARouter, outcomes: Sequence[Outcome]) -> Reckoning:
    """Compare the cost of what was chosen with that of always taking the strongest LLM."""
    tables = [
        {candidate.name: candidate for candidate in llms_for(router, outcome.query.text)}
        for outcome in outcomes
    ]
    strongest = max(
        tables[0], key=lambda name: statistics.fmean(table[name].score for table in tables)
    )
    costs = [table[strongest].cost or 0.0 for table in tables]
    to_llms = [outcome.decision.kind != "agent" for outcome in outcomes]
    return Reckoning(
        strongest=strongest,
        chosen=sum(outcome.decision.cost or 0.0 for outcome in outcomes),
        strongest_same=sum(cost for cost, llm in zip(costs, to_llms, strict=True) if llm),
        strongest_all=sum(costs),
    )
