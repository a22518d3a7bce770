"""A team as a pure state machine: from the stages and what was said to who speaks next, or why not.

The transcript is the whole state, so a checkpoint, a resume or an edited transcript needs nothing
else. Knows no LLM and no graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from langchain_core.messages import BaseMessage

from langchain_moma.teams.agreement import Equal, agreeing, comparable, same_answer
from langchain_moma.teams.forecast import Forecast
from langchain_moma.teams.limits import Limits
from langchain_moma.teams.stages import APPROVED, Stage
from langchain_moma.teams.transcript import Turn, called, dropped, total

__all__ = ["Flow", "Speak", "Step", "Stop"]


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
