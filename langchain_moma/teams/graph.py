"""Runs a team as a LangGraph: a node a member, one node that closes the round, one that answers.

Which nodes there are and how they are joined comes from the mode's stages; who speaks next is
`Flow`'s to say, from the transcript in the graph's state.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph

from langchain_moma.teams.agreement import Equal, same_answer
from langchain_moma.teams.escalation import Check, Escalating, Repair
from langchain_moma.teams.flow import Flow
from langchain_moma.teams.forecast import Forecast
from langchain_moma.teams.limits import Limits
from langchain_moma.teams.members import Members
from langchain_moma.teams.nodes import ANSWER, BEGIN, CHECK, REPAIR, ROUND, Nodes
from langchain_moma.teams.stages import Mode, Stage, stages_of
from langchain_moma.teams.transcript import TeamOutput, TeamState
from langchain_moma.telemetry import Telemetry
from moma_core import Health, InvalidInputError, LLMCard, TeamPlan, UnknownNameError

__all__ = ["Team", "build"]

Team = CompiledStateGraph[TeamState, None, MessagesState, TeamOutput]
"""A compiled graph from messages to messages and a `TeamRecord`."""


def build(
    plan: TeamPlan,
    llms: Mapping[str, BaseChatModel],
    *,
    cards: Iterable[LLMCard] = (),
    limits: Limits | None = None,
    equal: Equal | None = same_answer,
    check: Check | None = None,
    repair: Repair | None = None,
    fallbacks: Sequence[str] = (),
    modes: Mapping[str, Mode] | None = None,
    stream: Literal["answer", "members"] = "answer",
    health: Health | None = None,
    telemetry: Telemetry | None = None,
    checkpointer: BaseCheckpointSaver[Any] | bool | None = None,
    interrupt_before: Sequence[str] | None = None,
    interrupt_after: Sequence[str] | None = None,
    name: str = "team",
) -> Team:
    """Return a compiled graph in which the members of ``plan`` work together.

    It takes ``{"messages": [...]}`` and adds the team's answer to them, so it fits wherever a graph
    over messages does: alone, as a node of another graph, as a target of `RunnableRouter`.
    ``state["team"]`` says how the answer came about, in plain data (`TeamRecord`). Nodes bear the
    names of the roles. LangGraph drops options of a call; `Answering` hands them to every member,
    and so does ``config={"configurable": {"moma_options": {"stop": ["END"]}}}``.

    Args:
        plan: Mode, members and rounds.
        llms: Chat models by the names in the plan.
        cards: Prices; without them costs are None.
        limits: The most to spend. When one is reached, the best answer so far is given and
            ``state["team"]["stopped"]`` names the limit.
        equal: Says when two answers agree, which ends a debate; None lets every mode run to its
            end.
        check: From the question and the answer to False (wrong) or a confidence in [0, 1].
        repair: From the plan, a `Signal` (check, confidence, agreement of the members) and the
            question to a better plan; asked at most once, when ``signal.trouble`` says something.
            `TeamRouter.repair` fits.
        fallbacks: LLMs to ask, in order, when a member's own fails. A member without any that
            answers is dropped while others remain.
        modes: Your own modes, by name.
        stream: ``"answer"`` streams the last word alone under ``stream_mode="messages"``;
            ``"members"`` everyone's. Metadata: ``langgraph_node``, ``moma_llm``, ``moma_final``.
        health: Circuit breakers; share one between objects that ask the same LLMs.
        telemetry: Counters; share one likewise.
        checkpointer: As in ``StateGraph.compile``.
        interrupt_before: As in ``StateGraph.compile``.
        interrupt_after: As in ``StateGraph.compile``.
        name: Name of the graph.

    Raises:
        UnknownNameError: No such mode, or an LLM of the plan or of the fallbacks is not in
            ``llms``.
        InvalidInputError: That is no plan, the mode cannot work with these members, or a limit in
            USD lacks prices.
        NoTargetError: At a call: nobody answered.

    Example:
        >>> from langchain_moma.testing import ScriptedChat
        >>> from moma_core import TeamMember
        >>> plan = TeamPlan("chain", (TeamMember("planner", "a"), TeamMember("writer", "b")))
        >>> say = {n: ScriptedChat(name=n, reply=lambda m, t, c: "done") for n in ("a", "b")}
        >>> end = build(plan, say).invoke({"messages": [("human", "write a poem")]})
        >>> end["messages"][-1].text, end["team"]["total"]["calls"]
        ('b heard: done', 2)
    """
    if not isinstance(plan, TeamPlan):
        raise InvalidInputError(
            f"expected a TeamPlan, got {type(plan).__name__}. Take TeamRouter.plan(query), or "
            "decision.team where decision.kind is 'team'."
        )
    limits = limits or Limits()
    stages = stages_of(plan, modes, limits.rounds)
    prices = {card.name: card for card in cards}
    members = Members(llms, tuple(fallbacks), prices, health or Health(), telemetry or Telemetry())
    _check_llms(plan, members, limits)
    again = partial(
        build,
        llms=llms,
        cards=tuple(prices.values()),
        equal=equal,
        fallbacks=fallbacks,
        modes=modes,
        stream=stream,
        health=members.health,
        telemetry=members.telemetry,
    )
    nodes = Nodes(
        plan=plan,
        roles=_node_names(plan),
        flow=Flow(stages, equal, limits, Forecast(plan, prices)),
        members=members,
        capped=stages != stages_of(plan, modes),
        stream=stream,
        escalating=Escalating(check, repair, again) if check or repair else None,
    )
    return _wired(nodes).compile(
        checkpointer,
        interrupt_before=None if interrupt_before is None else list(interrupt_before),
        interrupt_after=None if interrupt_after is None else list(interrupt_after),
        name=name,
    )


def _wired(nodes: Nodes) -> StateGraph[Any, Any, Any, Any]:
    """Join the nodes: along a line where one speaks at a time, else through the round's node."""
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(
        TeamState, input_schema=MessagesState, output_schema=TeamOutput
    )
    stages = nodes.flow.stages
    seats = sorted({seat for stage in stages for seat in stage.seats})
    graph.add_node(BEGIN, nodes.begin)
    for seat in seats:
        graph.add_node(nodes.roles[seat], nodes.member(seat))
    graph.add_edge(START, BEGIN)
    end = _close(graph, nodes)
    if any(len(stage.seats) > 1 for stage in stages):
        graph.add_node(ROUND, nodes.turn_over)
        graph.add_edge(BEGIN, ROUND)
        graph.add_conditional_edges(ROUND, nodes.following(end), _named(nodes, seats, end))
        for seat in seats:
            graph.add_edge(nodes.roles[seat], ROUND)
        return graph
    graph.add_edge(BEGIN, nodes.roles[stages[0].seats[0]])
    for seat in seats:
        after = _successors(stages, seat, len(seats))
        if after:
            paths = _named(nodes, after, end)
            graph.add_conditional_edges(nodes.roles[seat], nodes.following(end), paths)
        else:
            graph.add_edge(nodes.roles[seat], end)
    return graph


def _close(graph: StateGraph[Any, Any, Any, Any], nodes: Nodes) -> str:
    """Add what comes after the last word; return the name of its first node."""
    graph.add_node(ANSWER, nodes.answer)
    graph.add_edge(ANSWER, END)
    if nodes.escalating is None:
        return ANSWER
    graph.add_node(CHECK, nodes.check)
    if nodes.escalating.repair is None:
        graph.add_edge(CHECK, ANSWER)
        return CHECK
    graph.add_node(REPAIR, nodes.repair)
    graph.add_conditional_edges(CHECK, nodes.doubted, [REPAIR, ANSWER])
    graph.add_edge(REPAIR, ANSWER)
    return CHECK


def _named(nodes: Nodes, seats: Iterable[int], end: str) -> list[str]:
    return [*(nodes.roles[seat] for seat in seats), end]


def _successors(stages: Sequence[Stage], seat: int, seats: int) -> list[int]:
    """Return the seats that may speak after ``seat``, one at a time."""
    found: dict[int, None] = {}
    for i, stage in enumerate(stages):
        if seat not in stage.seats:
            continue
        for later in range(i + 1, len(stages)):
            [following] = stages[later].seats
            found[following] = None
            # A stage is skipped only when its seat was dropped earlier; of two seats, one left ends
            # the work.
            spoken = {s for before in stages[:later] for s in before.seats}
            if seats <= 2 or following not in spoken:
                break
    return list(found)


def _node_names(plan: TeamPlan) -> tuple[str, ...]:
    """Return a node's name for each member: its role, with a number where one is taken."""
    taken = {BEGIN, ROUND, ANSWER, CHECK, REPAIR, START, END}
    names = []
    for member in plan.members:
        plain = re.sub(r"[|:]", "_", member.role).strip() or "member"
        free = (f"{plain}_{i}" if i > 1 else plain for i in range(1, len(plan.members) + 8))
        names.append(next(name for name in free if name not in taken))
        taken.add(names[-1])
    return tuple(names)


def _check_llms(plan: TeamPlan, members: Members, limits: Limits) -> None:
    asked = (*plan.llms, *members.fallbacks)
    for llm in asked:
        if llm not in members.llms:
            close = difflib.get_close_matches(llm, members.llms, n=1)
            raise UnknownNameError(
                f"there is no chat model for LLM {llm!r}; llms has {sorted(members.llms)!r}. "
                + (f"Did you mean {close[0]!r}? " if close else "")
                + f"Give it: llms={{{llm!r}: ChatOpenAI(...)}}."
            )
        if not isinstance(members.llms[llm], BaseChatModel):
            raise InvalidInputError(
                f"LLM {llm!r} must be a chat model, got {type(members.llms[llm]).__name__}. Give "
                "the chat model itself; options go to its constructor."
            )
    unpriced = [llm for llm in asked if llm not in members.cards]
    if limits.usd is not None and unpriced:
        raise InvalidInputError(
            f"a limit in USD needs prices, {unpriced!r} have none. Give them: "
            "cards=llm_cards_from_chat_models(llms, {'name': (0.15, 0.6)})."
        )
