"""The nodes of a team's graph: they read the state, ask, and write plain data back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import merge_configs
from langgraph.constants import TAG_NOSTREAM
from langgraph.errors import GraphBubbleUp
from langgraph.types import Overwrite

from langchain_moma.conversation import some_query_of
from langchain_moma.teams.escalation import Escalating, Second
from langchain_moma.teams.flow import Flow, Speak, Stop
from langchain_moma.teams.limits import said
from langchain_moma.teams.members import Members, Seat, UnansweredError, silent
from langchain_moma.teams.transcript import (
    TeamRecord,
    TeamState,
    Turn,
    Usage,
    answer_message,
    total,
)
from langchain_moma.teams.views import messages_for
from moma_core import InvalidInputError, InvalidQueryError, NoTargetError, Signal, TeamPlan

__all__ = ["ANSWER", "BEGIN", "CHECK", "FINAL", "REPAIR", "ROUND", "Nodes"]

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
        turn = silent(who, error.failures)
        step = self.flow.next(state["transcript"], state["messages"])
        if step == Speak(who.stage, (who.seat,)) and self.flow.hopeless(
            [*state["transcript"], turn]
        ):
            raise error.failures.final()
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
