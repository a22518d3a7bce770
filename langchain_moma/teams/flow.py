"""A team as a state machine: from the stages and what was said to who speaks next."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from langchain_moma.teams.transcript import (
    Escalation,
    Limits,
    TeamRecord,
    Turn,
    Usage,
    called,
    dropped,
    total,
)
from moma_core import InvalidInputError, LLMCard, TeamPlan, UnknownNameError
from moma_core.decision import TeamMember
from moma_core.llms.answers import normalise_answer
from moma_core.teams.router import Signal
from moma_core.types import did_you_mean

__all__ = [
    "APPROVED",
    "MODES",
    "Check",
    "Equal",
    "Escalating",
    "Flow",
    "Forecast",
    "Mode",
    "Repair",
    "Second",
    "Speak",
    "Stage",
    "Step",
    "Stop",
    "agreeing",
    "comparable",
    "final_answer",
    "messages_for",
    "same_answer",
    "stages_of",
]

Equal = Callable[[str, str], bool]
"""Says whether two answers mean the same."""

_MARKED = re.compile(r"(?:^|\n)[\s*_#>]*answer[*_]*\s*:[*_]*\s*(.+?)\s*(?=\n|$)", re.IGNORECASE)
_FENCE = "*_` "
_SHORT = 80


def final_answer(text: str) -> str:
    r"""Return what stands after the last ``Answer:`` at the start of a line, else the whole text.

    Example:
        >>> final_answer("17 * 23 = 391, so\n**Answer:** 391")
        '391'
        >>> final_answer("It is Paris.")
        'It is Paris.'
    """
    found = _MARKED.findall(text)
    return str(found[-1]).strip(_FENCE) if found else text.strip()


def same_answer(left: str, right: str) -> bool:
    r"""Say whether two final answers are equal once capitals, spaces and number formats are gone.

    Example:
        >>> same_answer("I add them.\nAnswer: $1,200.00", "answer: 1200")
        True
        >>> same_answer("Answer: 12", "Answer: 13")
        False
    """
    return normalise_answer(final_answer(left)) == normalise_answer(final_answer(right))


def agreeing(texts: Sequence[str], equal: Equal) -> list[list[int]]:
    """Return the places of texts that say the same, the largest group first, then the latest.

    Args:
        texts: One answer a member.
        equal: Compared with the first text of each group.

    Example:
        >>> agreeing(["4", "5", "4.0"], same_answer)
        [[0, 2], [1]]
    """
    groups: list[list[int]] = []
    for i, text in enumerate(texts):
        home = next((group for group in groups if equal(texts[group[0]], text)), None)
        if home is None:
            groups.append([i])
        else:
            home.append(i)
    return sorted(groups, key=lambda group: (len(group), group[-1]), reverse=True)


def comparable(text: str) -> bool:
    """Say whether a text has a short final answer, so that two of them can be compared as texts.

    Example:
        >>> comparable("Answer: 42"), comparable("It depends on what you mean. " * 9)
        (True, False)
    """
    return len(final_answer(text)) <= _SHORT


APPROVED = "APPROVED"
"""First word of a critique that finds nothing to change."""

_BRIEF = "If the result is short, end with a line 'Answer: ...' that holds nothing else."


@dataclass(frozen=True, slots=True)
class Stage:
    """Seats that speak at once. Each sees its own last words and what the stage before said.

    Args:
        seats: Places in ``plan.members``, from 0.
        note: What they are asked to do, after the others' words.
        kind: A critique is never the team's answer; one that begins with ``APPROVED`` ends the
            work. Answers of several seats that agree end it, too.
        closing: The last word: when its seat has been dropped, the last seat that is left speaks.

    Raises:
        InvalidInputError: It has no seat, or one twice.

    Example:
        >>> Stage((0, 1), "Answer on your own.").kind
        'answer'
    """

    seats: tuple[int, ...]
    note: str = ""
    kind: Literal["answer", "critique"] = "answer"
    closing: bool = False

    def __post_init__(self) -> None:
        if not self.seats or len(set(self.seats)) != len(self.seats):
            raise InvalidInputError(
                f"a stage needs seats, each once, got {self.seats!r}. Write Stage((0, 1))."
            )


Mode = Callable[[TeamPlan], Sequence[Stage]]
"""From a plan to what happens, stage by stage; reads ``plan.members`` and ``plan.rounds``."""


def _alone(plan: TeamPlan) -> list[Stage]:
    return [Stage((0,), f"Think step by step. {_BRIEF}" if plan.mode == "cot" else "")]


def _chain(plan: TeamPlan) -> list[Stage]:
    last = len(plan.members) - 1
    return [
        Stage(
            (seat,),
            f"{'Do your part' if seat < last else 'Give the final answer'}"
            f"{', building on this' if seat else ''}. {_BRIEF if seat == last else ''}".strip(),
        )
        for seat in range(last + 1)
    ]


def _full(plan: TeamPlan) -> list[Stage]:
    everybody, last = tuple(range(len(plan.members))), len(plan.members) - 1
    first = Stage(everybody, f"Contribute what your role knows. {_BRIEF}")
    later = Stage(everybody, f"Use what helps, say what is wrong, and go on. {_BRIEF}")
    close = f"Now write the team's final answer to the user. {_BRIEF}"
    return [first, *[later] * (plan.rounds - 1), Stage((last,), close, closing=True)]


def _debate(plan: TeamPlan) -> list[Stage]:
    everybody, last = tuple(range(len(plan.members))), len(plan.members) - 1
    alone = Stage(everybody, f"Answer on your own. {_BRIEF}")
    again = Stage(
        everybody,
        f"Weigh these answers against your own: keep yours if it stands, else correct it. {_BRIEF}",
    )
    judge = f"You are the judge now. Decide which answer is right, and give it. {_BRIEF}"
    return [alone, *[again] * plan.rounds, Stage((last,), judge, closing=True)]


def _reflection(plan: TeamPlan) -> list[Stage]:
    if len(plan.members) > 2:
        raise InvalidInputError(
            f"reflection takes an author and a critic, got {len(plan.members)} members. "
            "Leave two, or take mode 'chain' or 'debate'."
        )
    critic = len(plan.members) - 1  # a single member criticises itself
    criticise = Stage(
        (critic,),
        "This is a draft of the answer. Say what is wrong or missing. If nothing has to change, "
        f"write only {APPROVED}.",
        "critique",
    )
    revise = Stage((0,), f"This is criticism of your draft. Give the corrected answer. {_BRIEF}")
    return [Stage((0,), _BRIEF), *[criticise, revise] * plan.rounds]


MODES: Mapping[str, Mode] = MappingProxyType(
    {
        "io": _alone,
        "cot": _alone,
        "chain": _chain,
        "full": _full,
        "debate": _debate,
        "reflection": _reflection,
    }
)
"""MasRouter's six modes."""


def stages_of(
    plan: TeamPlan, modes: Mapping[str, Mode] | None = None, rounds: int | None = None
) -> tuple[Stage, ...]:
    """Return the stages of a plan.

    Args:
        plan: Names the mode.
        modes: The user's own, by name; they come before those of `MODES`.
        rounds: Most rounds.

    Raises:
        UnknownNameError: No such mode.
        InvalidInputError: The mode cannot work with these members.

    Example:
        >>> from moma_core.decision import TeamMember
        >>> plan = TeamPlan("reflection", (TeamMember("coder", "a"), TeamMember("tester", "b")), 2)
        >>> [stage.seats for stage in stages_of(plan)]
        [(0,), (1,), (0,), (1,), (0,)]
        >>> [stage.seats for stage in stages_of(plan, rounds=1)]
        [(0,), (1,), (0,)]
    """
    known = {**MODES, **(modes or {})}
    if plan.mode not in known:
        raise UnknownNameError(
            f"no mode {plan.mode!r}; there are {sorted(known)!r}. "
            + did_you_mean(plan.mode, known)
            + f"Give your own: modes={{{plan.mode!r}: lambda plan: [Stage((0,)), ...]}}."
        )
    capped = plan if rounds is None else replace(plan, rounds=min(plan.rounds, rounds))
    stages = tuple(known[plan.mode](capped))
    seats = {seat for stage in stages for seat in stage.seats}
    if not stages or not seats <= set(range(len(plan.members))):
        raise InvalidInputError(
            f"mode {plan.mode!r} gave stages with the seats {sorted(seats)!r} for "
            f"{len(plan.members)} members. A stage names seats from 0 to {len(plan.members) - 1}."
        )
    if all(stage.kind == "critique" for stage in stages):
        raise InvalidInputError(f"mode {plan.mode!r} has no stage that answers. Add a Stage((0,)).")
    return stages


def messages_for(
    conversation: Sequence[BaseMessage],
    member: TeamMember,
    seat: int,
    stage: Stage,
    transcript: Sequence[Turn],
) -> list[BaseMessage]:
    r"""Return what the member on ``seat`` is given in ``stage``.

    Args:
        conversation: The user's, as it came.
        member: Whose role prompt goes to the system message, after the conversation's own.
        seat: Its place in the plan.
        stage: What it is asked to do.
        transcript: What the stages before said.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> member = TeamMember("solver", "small", "You solve equations.")
        >>> asked = [HumanMessage("x + 1 = 3")]
        >>> given = messages_for(asked, member, 0, Stage((0,), "Be brief."), [])
        >>> [(message.type, message.text) for message in given]
        [('system', 'You solve equations.'), ('human', 'x + 1 = 3\n\nBe brief.')]
    """
    spoken = called(transcript)
    own = next((turn for turn in reversed(spoken) if turn["seat"] == seat and turn["text"]), None)
    before = max((turn["stage"] for turn in spoken), default=-1)
    others = [turn for turn in spoken if turn["stage"] == before and turn is not own]
    note = "\n\n".join([*map(_quoted, sorted(others, key=lambda turn: turn["seat"])), stage.note])
    asked = _with_role(conversation, member.prompt)
    if own is not None:
        return [*asked, AIMessage(own["text"]), HumanMessage(note)]
    return _with_note(asked, note.strip())


def _quoted(turn: Turn) -> str:
    return f"[{turn['role']}]\n{turn['text']}"


def _with_role(conversation: Sequence[BaseMessage], prompt: str) -> list[BaseMessage]:
    """Join the role's prompt to the conversation's own system message, if it has one."""
    if not prompt:
        return list(conversation)
    if conversation and conversation[0].type == "system":
        joined = f"{conversation[0].text}\n\n{prompt}"
        return [SystemMessage(joined), *conversation[1:]]
    return [SystemMessage(prompt), *conversation]


def _with_note(messages: list[BaseMessage], note: str) -> list[BaseMessage]:
    """Append the note to the last human message, or as one after anybody else's."""
    if not note:
        return messages
    last = messages[-1] if messages else None
    if not isinstance(last, HumanMessage):
        return [*messages, HumanMessage(note)]
    content: Any = last.content
    if isinstance(content, str):
        content = f"{content}\n\n{note}"
    else:
        content = [*content, {"type": "text", "text": note}]
    return [*messages[:-1], last.model_copy(update={"content": content})]


_CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Forecast:
    """Expects tokens and USD of a stage.

    Args:
        plan: Its members' prompts and LLMs.
        cards: Prices by the LLMs' names; a call without one counts as free.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> from moma_core.decision import TeamMember
        >>> plan = TeamPlan("io", (TeamMember("solver", "a"),))
        >>> forecast = Forecast(plan, {"a": LLMCard("a", 2.0, 2.0)})
        >>> forecast.of(Stage((0,)), (0,), [HumanMessage("What is 2 + 2?" * 2)], [])
        {'calls': 1, 'input_tokens': 7, 'output_tokens': 0, 'cost': 1.4e-05}
    """

    plan: TeamPlan
    cards: Mapping[str, LLMCard]

    def of(
        self,
        stage: Stage,
        seats: Sequence[int],
        conversation: Sequence[BaseMessage],
        transcript: Sequence[Turn],
    ) -> Usage:
        """Return what ``stage`` will use when ``seats`` speak.

        Args:
            stage: What they are asked to do.
            seats: Places in ``plan.members``.
            conversation: The user's.
            transcript: What was said so far; the longest answer stands for those to come.
        """
        wrote = max((turn["output_tokens"] for turn in transcript), default=0)
        reads, cost = 0, 0.0
        for seat in seats:
            member = self.plan.members[seat]
            given = messages_for(conversation, member, seat, stage, transcript)
            read = sum(len(str(message.text)) for message in given) // _CHARS_PER_TOKEN
            card = self.cards.get(member.llm)
            cost += 0.0 if card is None else card.usd(read, wrote)
            reads += read
        return {
            "calls": len(seats),
            "input_tokens": reads,
            "output_tokens": wrote * len(seats),
            "cost": cost,
        }


Check = Callable[[str, str], bool | float]
"""From the question and the answer to False (wrong), True, or a confidence in [0, 1]."""

Repair = Callable[[TeamPlan, Signal, str], TeamPlan | None]
"""From a plan, what it tells of its answer, and the question to a better plan; None, or the plan
itself: there is none. `TeamRouter.repair` is one."""


@dataclass(frozen=True, slots=True)
class Escalating:
    """Judges an answer and builds the team that is asked once more.

    Args:
        check: Judges an answer.
        repair: Gives a better plan.
        build: Makes that plan's graph from ``(plan, limits=what_is_left)``; it repairs nothing
            itself.

    Example:
        >>> judge = Escalating(lambda question, answer: answer == "4", None, build=print)
        >>> judge.signal("2 + 2", "5", agreement=1.0).trouble
        'a check failed'
    """

    check: Check | None
    repair: Repair | None
    build: Callable[..., Any]

    def signal(self, question: str, answer: str, agreement: float | None) -> Signal:
        """Return what the answer tells of itself; where there is a check, that alone decides.

        Raises:
            InvalidInputError: The check gave neither a bool nor a number in [0, 1].
        """
        if self.check is None:
            return Signal(agreement=agreement)
        verdict: object = self.check(question, answer)
        if isinstance(verdict, bool):
            return Signal(passed=verdict)
        if not isinstance(verdict, int | float) or not 0 <= verdict <= 1:
            raise InvalidInputError(
                f"check returns True, False or a confidence in [0, 1], got {verdict!r:.40}."
            )
        return Signal(confidence=float(verdict))


@dataclass(frozen=True, slots=True)
class Second:
    """The better team, and what it leaves in the first one's state.

    Args:
        doubt: What spoke against the first answer.
        plan: The better plan.
        graph: Compiles its graph.
    """

    doubt: str
    plan: TeamPlan
    graph: Callable[[], Any]

    def answered(self, record: TeamRecord) -> dict[str, Escalation]:
        """Return the state's update after an answer."""
        return self._update(record["transcript"], record["stopped"], record["answer"], "")

    def failed(self, error: Exception) -> dict[str, Escalation]:
        """Return the state's update when nobody answered."""
        return self._update([], "", None, repr(error))

    def _update(
        self, transcript: list[Turn], stopped: str, answer: int | None, error: str
    ) -> dict[str, Escalation]:
        return {
            "escalation": {
                "doubt": self.doubt,
                "plan": self.plan.to_dict(),
                "transcript": transcript,
                "stopped": stopped,
                "answer": answer,
                "error": error,
            }
        }


@dataclass(frozen=True, slots=True)
class Speak:
    """These seats speak next, at once."""

    stage: int
    seats: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Nobody speaks any more; ``reason`` is "" at the mode's own end."""

    reason: str = ""


Step = Speak | Stop


@dataclass(frozen=True, slots=True)
class Flow:
    """Says who speaks next.

    Args:
        stages: Of the mode.
        equal: Says when answers agree; None never ends the work early.
        limits: The most to spend.
        forecast: Expects what a stage will use; None limits nothing.

    Example:
        >>> flow = Flow((Stage((0, 1)), Stage((1,), closing=True)))
        >>> flow.next([])
        Speak(stage=0, seats=(0, 1))
    """

    stages: tuple[Stage, ...]
    equal: Equal | None = same_answer
    limits: Limits = field(default_factory=Limits)
    forecast: Forecast | None = None

    def next(self, transcript: Sequence[Turn], conversation: Sequence[BaseMessage] = ()) -> Step:
        """Return the next step; the conversation is what the members read, for the forecast."""
        reason = self._settled(transcript)
        if reason:
            return Stop(reason)
        step, used = self._following(transcript), total(transcript)
        if self.forecast is None or isinstance(step, Stop) or not used["calls"]:
            return step
        stage = self.stages[step.stage]
        coming = self.forecast.of(stage, step.seats, conversation, transcript)
        reached = self.limits.reached(used, coming)
        return step if reached is None else Stop(reached)

    def is_last(self, step: Speak) -> bool:
        """Say whether this one seat has the last word of the mode."""
        return step.stage == len(self.stages) - 1 and len(step.seats) == 1

    def best(self, transcript: Sequence[Turn]) -> Turn | None:
        """Return the best answer so far: of the last stage that answered, by majority.

        Equal votes go to the group with the last seat. None when nobody answered.
        """
        answers = self._last_answers(transcript)
        if not answers:
            return None
        groups = agreeing([turn["text"] for turn in answers], self.equal or same_answer)
        return answers[groups[0][-1]]

    def hopeless(self, transcript: Sequence[Turn]) -> bool:
        """Say whether nobody answered and nobody will."""
        return self.best(transcript) is None and self._following(transcript) == Stop()

    def agreement(self, transcript: Sequence[Turn]) -> float | None:
        """Return the share of the last several answers that say what the best one says.

        None when nobody spoke beside another, and when long texts can only be compared as texts.
        """
        best, equal = self.best(transcript), self.equal or same_answer
        for stage in range(len(self.stages) - 1, -1, -1):
            texts = [turn["text"] for turn in _answers(transcript) if turn["stage"] == stage]
            if best is None or len(texts) < 2:
                continue
            if equal is same_answer and not all(map(comparable, (best["text"], *texts))):
                return None
            return sum(equal(best["text"], text) for text in texts) / len(texts)
        return None

    def _following(self, transcript: Sequence[Turn]) -> Step:
        gone = dropped(transcript)
        begin = max((turn["stage"] for turn in transcript), default=-1) + 1
        answered = bool(self._last_answers(transcript))
        for i in range(begin, len(self.stages)):
            seats = self._speakers(self.stages[i], gone)
            if seats and (answered or self.stages[i].kind == "answer"):
                return Speak(i, seats)
        return Stop()

    def _speakers(self, stage: Stage, gone: frozenset[int]) -> tuple[int, ...]:
        left = tuple(seat for seat in stage.seats if seat not in gone)
        if not left and stage.closing:
            return tuple(sorted(self._everybody - gone))[-1:]
        return left

    @property
    def _everybody(self) -> frozenset[int]:
        return frozenset(seat for stage in self.stages for seat in stage.seats)

    def _settled(self, transcript: Sequence[Turn]) -> str:
        """Return why more words would not change the answer."""
        if not transcript or self._following(transcript) == Stop():
            return ""
        left = self._everybody - dropped(transcript)
        answers = self._last_answers(transcript)
        alone = len(left) == 1 < len(self._everybody)
        if alone and any(turn["seat"] in left for turn in answers):
            return "one member left"
        if self.equal is None:
            return ""
        stage = transcript[-1]["stage"]
        said = [turn for turn in called(transcript) if turn["stage"] == stage]
        if self.stages[stage].kind == "critique":
            approved = bool(said) and all(_approves(turn["text"]) for turn in said)
            return "approved" if approved else ""
        texts = [turn["text"] for turn in said]
        agree = len(texts) > 1 and len(agreeing(texts, self.equal)) == 1
        return "agreement" if agree else ""

    def _last_answers(self, transcript: Sequence[Turn]) -> list[Turn]:
        last = max((turn["stage"] for turn in _answers(transcript)), default=-1)
        return [turn for turn in _answers(transcript) if turn["stage"] == last]


def _answers(transcript: Sequence[Turn]) -> list[Turn]:
    """Return the answers by seat; empty ones count only where there are no others."""
    said = [turn for turn in called(transcript) if turn["kind"] == "answer"]
    worded = [turn for turn in said if turn["text"].strip()]
    return sorted(worded or said, key=lambda turn: turn["seat"])


def _approves(text: str) -> bool:
    return text.strip().strip("*_'\"` ").startswith(APPROVED)
