"""Runs a team as a LangGraph: a node a member, one node that closes the round, one that answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import merge_configs
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.constants import TAG_NOSTREAM
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Overwrite

from langchain_moma.calls import check_chat_models, window_of
from langchain_moma.decision import FALLBACK_EVENT, adispatch, dispatch, names_of
from langchain_moma.messages import (
    LLM_KEY,
    marked,
    some_query_of,
)
from langchain_moma.portable import portable_messages, portable_options
from langchain_moma.teams.flow import (
    Check,
    Equal,
    Escalating,
    Flow,
    Forecast,
    Mode,
    Repair,
    Second,
    Speak,
    Stage,
    Stop,
    messages_for,
    same_answer,
    stages_of,
)
from langchain_moma.teams.transcript import (
    Limits,
    TeamOutput,
    TeamRecord,
    TeamState,
    Turn,
    Usage,
    answer_message,
    message_of,
    said,
    total,
)
from langchain_moma.telemetry import Telemetry
from moma_core import InvalidInputError, LLMCard, NoTargetError, TeamPlan, UnknownNameError
from moma_core.errors import InvalidQueryError
from moma_core.fallback import Fallback, FallbackOn, check_fallback_on
from moma_core.health import Health
from moma_core.teams.router import Signal
from moma_core.types import did_you_mean

__all__ = [
    "ANSWER",
    "BEGIN",
    "CHECK",
    "FINAL",
    "REPAIR",
    "ROUND",
    "Members",
    "Nodes",
    "Seat",
    "Team",
    "UnansweredError",
    "build",
    "silent",
    "with_options",
]

_OPTIONS = "moma_options"
"""Key under ``config["configurable"]`` with options for each LLM's call."""


class Seat(NamedTuple):
    """Who is to speak, and where that goes in the transcript."""

    stage: int
    seat: int
    role: str
    llm: str
    kind: str


class UnansweredError(Exception):
    """None of the LLMs that a seat may ask answered.

    Args:
        fallback: Whom it asked, and what each of them raised.
    """

    def __init__(self, fallback: Fallback) -> None:
        super().__init__("no LLM answered")
        self.fallback = fallback


@dataclass(frozen=True)
class Members:
    """The LLMs of a team.

    Args:
        llms: Chat models by the names in the plan.
        fallbacks: Names to ask, in order, when a seat's own LLM fails.
        cards: Prices by the LLMs' names.
        health: Circuit breakers.
        telemetry: Counts failures.
        fallback_on: As in `Fallback`.
    """

    llms: Mapping[str, BaseChatModel]
    fallbacks: tuple[str, ...] = ()
    cards: Mapping[str, LLMCard] = field(default_factory=dict)
    health: Health = field(default_factory=Health)
    telemetry: Telemetry = field(default_factory=Telemetry)
    fallback_on: FallbackOn | None = None

    def ask(self, seat: Seat, messages: Sequence[BaseMessage], config: RunnableConfig) -> Turn:
        """Return what the first LLM says that answers.

        Raises:
            UnansweredError: None did.
        """
        fallback = self._fallback(seat)
        for attempt in fallback:
            with attempt:
                llm, sent, own = self._call(attempt.name, messages, config)
                answer = llm.invoke(sent, own, **_options_in(config, llm))
                return self._spoken(seat, attempt.name, messages, answer, fallback)
            dispatch(_event(seat, fallback), config, FALLBACK_EVENT)
        raise UnansweredError(fallback)

    async def aask(
        self, seat: Seat, messages: Sequence[BaseMessage], config: RunnableConfig
    ) -> Turn:
        """Await what the first LLM says that answers.

        Raises:
            UnansweredError: None did.
        """
        fallback = self._fallback(seat)
        for attempt in fallback:
            with attempt:
                llm, sent, own = self._call(attempt.name, messages, config)
                answer = await llm.ainvoke(sent, own, **_options_in(config, llm))
                return self._spoken(seat, attempt.name, messages, answer, fallback)
            await adispatch(_event(seat, fallback), config, FALLBACK_EVENT)
        raise UnansweredError(fallback)

    def _fallback(self, seat: Seat) -> Fallback:
        windows = {name: window_of(llm, self.cards.get(name)) for name, llm in self.llms.items()}
        return Fallback(
            dict.fromkeys((seat.llm, *self.fallbacks)),
            self.health,
            windows=windows,
            fallback_on=self.fallback_on,
            passing=(GraphBubbleUp,),
            on_failure=self.telemetry.failure,
        )

    def _call(
        self, name: str, messages: Sequence[BaseMessage], config: RunnableConfig
    ) -> tuple[BaseChatModel, list[BaseMessage], RunnableConfig]:
        llm = self.llms[name]
        own = merge_configs(config, {"metadata": {LLM_KEY: name}})
        return llm, portable_messages(messages, llm, name), own

    def _spoken(
        self,
        seat: Seat,
        name: str,
        asked: Sequence[BaseMessage],
        answer: AIMessage,
        fallback: Fallback,
    ) -> Turn:
        read, wrote, estimated = _tokens(asked, answer)
        card = self.cards.get(name)
        cost = None if card is None else card.usd(read, wrote)
        return {
            **silent(seat, fallback),
            "llm": name,
            "text": str(answer.text),
            "message": message_of(marked(answer, {LLM_KEY: name})),
            "input_tokens": read,
            "output_tokens": wrote,
            "estimated": estimated,
            "cost": cost,
        }


def silent(seat: Seat, fallback: Fallback) -> Turn:
    """Return the turn of a seat of which nobody could speak."""
    return {
        "stage": seat.stage,
        "seat": seat.seat,
        "role": seat.role,
        "llm": "",
        "kind": seat.kind,
        "text": "",
        "message": {},
        "input_tokens": 0,
        "output_tokens": 0,
        "estimated": False,
        "cost": None,
        "failures": [failure.to_dict() for failure in fallback.failures],
    }


def _event(seat: Seat, fallback: Fallback) -> dict[str, str]:
    return {"role": seat.role, **fallback.failures[-1].to_dict()}


def with_options(config: RunnableConfig, options: Mapping[str, Any]) -> RunnableConfig:
    """Return the config that hands the options of one call to each LLM of a team."""
    if not options:
        return config
    return merge_configs(config, {"configurable": {_OPTIONS: dict(options)}})


def _options_in(config: RunnableConfig, llm: BaseChatModel) -> dict[str, Any]:
    return portable_options((config.get("configurable") or {}).get(_OPTIONS) or {}, llm)


def _tokens(asked: Sequence[BaseMessage], answer: AIMessage) -> tuple[int, int, bool]:
    """Return input and output tokens, and whether they are guessed from characters."""
    usage = answer.usage_metadata
    if usage is not None:
        return usage["input_tokens"], usage["output_tokens"], False
    read = sum(len(str(message.text)) for message in asked) // 4
    return read, len(str(answer.text)) // 4 + 1, True


FINAL = "moma_final"
"""Key in a call's metadata: whether nobody speaks after it."""

BEGIN, ROUND, CHECK, REPAIR, ANSWER = "begin", "round", "check", "repair", "answer"


@dataclass(frozen=True)
class Nodes:
    """One team's nodes, as functions of the state.

    Args:
        plan: Mode and members.
        roles: Name of each member's node.
        flow: Says who speaks next.
        members: Asks the LLMs.
        capped: Whether a limit took rounds away.
        stream: ``"answer"`` or ``"members"``.
        escalating: Judges the answer; None takes it as it is.
    """

    plan: TeamPlan
    roles: tuple[str, ...]
    flow: Flow
    members: Members
    capped: bool
    stream: str
    escalating: Escalating | None

    def begin(self, state: TeamState) -> dict[str, Any]:
        """Forget what the turn before left in a checkpoint."""
        if not state.get("messages"):
            raise InvalidQueryError(
                "a team needs a question. Invoke it with {'messages': [('human', 'Why?')]}."
            )
        return {"transcript": Overwrite([]), "signal": None, "escalation": None}

    def turn_over(self, state: TeamState) -> dict[str, Any]:  # noqa: ARG002  # LangGraph's name
        """Close a round: where all branches meet before anybody speaks again."""
        return {}

    def member(self, seat: int) -> Runnable[Any, Any]:
        """Return the node of one member."""

        def speak(state: TeamState, config: RunnableConfig) -> dict[str, list[Turn]]:
            who, messages, own = self._asked(seat, state, config)
            try:
                return {"transcript": [self.members.ask(who, messages, own)]}
            except UnansweredError as error:
                return {"transcript": [self._dropped(who, error, state)]}

        async def aspeak(state: TeamState, config: RunnableConfig) -> dict[str, list[Turn]]:
            who, messages, own = self._asked(seat, state, config)
            try:
                return {"transcript": [await self.members.aask(who, messages, own)]}
            except UnansweredError as error:
                return {"transcript": [self._dropped(who, error, state)]}

        return RunnableLambda(speak, aspeak, name=self.roles[seat])

    def following(self, end: str) -> Callable[[TeamState], list[str]]:
        """Return the path to those who speak next, or to ``end``."""

        def who_is_next(state: TeamState) -> list[str]:
            match self.flow.next(state["transcript"], state["messages"]):
                case Speak(seats=seats):
                    return [self.roles[seat] for seat in seats]
                case Stop():
                    return [end]

        return who_is_next

    def check(self, state: TeamState) -> dict[str, Any]:
        """Judge the best answer."""
        best = self._best(state)
        if self.escalating is None:
            return {}
        question = some_query_of(state["messages"]).text
        agreement = self.flow.agreement(state["transcript"])
        return {"signal": asdict(self.escalating.signal(question, best["text"], agreement))}

    def doubted(self, state: TeamState) -> str:
        """Go to the repair when something speaks against the answer."""
        return REPAIR if _doubt(state) else ANSWER

    @property
    def repair(self) -> Runnable[Any, Any]:
        """The node that asks a better team, once."""

        def ask(state: TeamState, config: RunnableConfig) -> dict[str, Any]:
            second = self._second(state)
            if second is None:
                return {}
            try:
                end = second.graph().invoke({"messages": state["messages"]}, config)
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001  # the first team's answer stands
                return second.failed(error)
            return second.answered(end["team"])

        async def aask(state: TeamState, config: RunnableConfig) -> dict[str, Any]:
            second = await asyncio.to_thread(self._second, state)
            if second is None:
                return {}
            try:
                end = await second.graph().ainvoke({"messages": state["messages"]}, config)
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001  # the first team's answer stands
                return second.failed(error)
            return second.answered(end["team"])

        return RunnableLambda(ask, aask, name=REPAIR)

    def answer(self, state: TeamState) -> dict[str, Any]:
        """Give the best answer, and say how it came about."""
        first = self._best(state)
        escalation = state.get("escalation")
        best = first
        if escalation is not None and escalation["answer"] is not None:
            best = escalation["transcript"][escalation["answer"]]
        record = self._record(state, first, best)
        return {"messages": [answer_message(best)], "team": record}

    def _asked(
        self, seat: int, state: TeamState, config: RunnableConfig
    ) -> tuple[Seat, list[BaseMessage], RunnableConfig]:
        """Return who speaks, what it is given, and the config of its call."""
        step = self.flow.next(state["transcript"], state["messages"])
        if not isinstance(step, Speak):
            raise InvalidInputError(
                f"the transcript leaves {self.roles[seat]!r} nothing to say. After update_state, "
                "go on with invoke(None, config), not with a node of your choice."
            )
        stage, member = self.flow.stages[step.stage], self.plan.members[seat]
        messages = messages_for(state["messages"], member, seat, stage, state["transcript"])
        repairs = self.escalating is not None and self.escalating.repair is not None
        final = self.flow.is_last(step) and not repairs
        quiet = [] if final or self.stream == "members" else [TAG_NOSTREAM]
        own = merge_configs(config, {"tags": quiet, "metadata": {FINAL: final}})
        who = Seat(step.stage, seat, self.roles[seat], member.llm, stage.kind)
        return who, messages, own

    def _dropped(self, who: Seat, error: UnansweredError, state: TeamState) -> Turn:
        turn = silent(who, error.fallback)
        step = self.flow.next(state["transcript"], state["messages"])
        if step == Speak(who.stage, (who.seat,)) and self.flow.hopeless(
            [*state["transcript"], turn]
        ):
            raise error.fallback.error()
        return turn

    def _best(self, state: TeamState) -> Turn:
        best = self.flow.best(state["transcript"])
        if best is None:
            errors = [
                f"{turn['role']}: {failure['llm']!r} failed with {failure['error']}"
                for turn in state["transcript"]
                for failure in turn["failures"]
            ]
            raise NoTargetError(
                f"no member of the team answered. {'; '.join(errors)}. Give fallbacks=['name'] "
                "of LLMs that work."
            )
        return best

    def _second(self, state: TeamState) -> Second | None:
        """Return the better team, if there is one and the limits leave room for it."""
        judge, signal = self.escalating, state.get("signal")
        left = self.flow.limits.without(total(state["transcript"]))
        if judge is None or judge.repair is None or signal is None or left is None:
            return None
        question = some_query_of(state["messages"]).text
        better = judge.repair(self.plan, Signal(**signal), question)
        if better is None or better == self.plan:
            return None
        return Second(_doubt(state), better, partial(judge.build, better, limits=left))

    def _record(self, state: TeamState, first: Turn, best: Turn) -> TeamRecord:
        transcript = sorted(state["transcript"], key=lambda turn: (turn["stage"], turn["seat"]))
        escalation = state.get("escalation")
        stop = self.flow.next(transcript, state["messages"])
        reason = stop.reason if isinstance(stop, Stop) else ""
        capped = said(self.flow.limits.rounds or 0, "round") if self.capped else ""
        second = escalation["transcript"] if escalation is not None else []
        usage = _by_role(transcript)
        usage |= {f"{REPAIR}/{role}": used for role, used in _by_role(second).items()}
        return {
            "plan": self.plan.to_dict(),
            "role": best["role"],
            "llm": best["llm"],
            "transcript": transcript,
            "answer": transcript.index(first),
            "stopped": reason or capped,
            "signal": state.get("signal"),
            "doubt": _doubt(state),
            "escalation": escalation,
            "usage": usage,
            "total": total([*transcript, *second]),
        }


def _doubt(state: TeamState) -> str:
    signal = state.get("signal")
    return "" if signal is None else Signal(**signal).trouble


def _by_role(turns: Sequence[Turn]) -> dict[str, Usage]:
    roles = dict.fromkeys(turn["role"] for turn in turns)
    return {role: total([turn for turn in turns if turn["role"] == role]) for role in roles}


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
    fallbacks: Sequence[str] | str = (),
    fallback_on: FallbackOn | None = None,
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
        fallback_on: As in `ChatMoMA`.
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
        >>> from moma_core.decision import TeamMember
        >>> plan = TeamPlan("chain", (TeamMember("planner", "a"), TeamMember("writer", "b")))
        >>> say = {n: ScriptedChat(name=n, reply=lambda m, t, c: "done") for n in ("a", "b")}
        >>> end = build(plan, say).invoke({"messages": [("human", "write a poem")]})
        >>> end["messages"][-1].text, end["team"]["total"]["calls"]
        ('b heard: done', 2)
    """
    limits = limits or Limits()
    prices = {card.name: card for card in cards}
    members = Members(
        llms,
        names_of(fallbacks, "fallbacks"),
        prices,
        health or Health(),
        telemetry or Telemetry(),
        fallback_on,
    )
    _check(plan, members, limits)
    stages = stages_of(plan, modes, limits.rounds)
    again = partial(
        build,
        llms=llms,
        cards=tuple(prices.values()),
        equal=equal,
        fallbacks=fallbacks,
        fallback_on=fallback_on,
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


def _check(plan: TeamPlan, members: Members, limits: Limits) -> None:
    """Refuse what could never answer."""
    if not isinstance(plan, TeamPlan):
        raise InvalidInputError(
            f"expected a TeamPlan, got {type(plan).__name__}. Take TeamRouter.plan(query), or "
            "decision.team where decision.kind is 'team'."
        )
    check_fallback_on(members.fallback_on)
    asked = (*plan.llms, *members.fallbacks)
    for llm in asked:
        if llm not in members.llms:
            raise UnknownNameError(
                f"there is no chat model for LLM {llm!r}; llms has {sorted(members.llms)!r}. "
                f"{did_you_mean(llm, members.llms)}Give it: llms={{{llm!r}: ChatOpenAI(...)}}."
            )
    check_chat_models({llm: members.llms[llm] for llm in asked})
    unpriced = [llm for llm in asked if llm not in members.cards]
    if limits.usd is not None and unpriced:
        raise InvalidInputError(
            f"a limit in USD needs prices, {unpriced!r} have none. Give them: "
            "cards=llm_cards_from_chat_models(llms, {'name': (0.15, 0.6)})."
        )
