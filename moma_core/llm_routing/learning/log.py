"""Feedback on disk, one JSON line each: what was chosen, how probably, and how good it was."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moma_core.errors import ArtifactError, InvalidInputError
from moma_core.types import Candidate, RoutingDecision
from moma_core.types.trial import Trial

__all__ = ["FeedbackLog", "FeedbackRecord"]


@dataclass(frozen=True, slots=True)
class FeedbackRecord:
    """One decision with its reward.

    Args:
        trial: How it was made.
        candidates: Every eligible LLM with predicted quality and cost.
        chosen: The LLM.
        reward: How good its answer was, in [0, 1].

    Raises:
        InvalidInputError: The reward or the propensity is out of bounds, or ``chosen`` unknown.
    """

    trial: Trial
    candidates: tuple[Candidate, ...]
    chosen: str
    reward: float

    def __post_init__(self) -> None:
        reward = self.reward
        try:
            value = math.nan if isinstance(reward, str) else float(reward)
        except (TypeError, ValueError):
            value = math.nan
        object.__setattr__(self, "reward", value)
        if not 0.0 <= value <= 1.0:
            raise InvalidInputError(
                f"a reward lies in [0, 1], 1 for the best answer, got {reward!r:.40}."
            )
        names = {each.name for each in self.candidates}
        if not {self.chosen, self.trial.baseline, *self.trial.safe} <= names:
            raise InvalidInputError("a decision's trial names LLMs that were no candidates.")
        if not 0.0 < self.trial.propensity <= 1.0 + 1e-9:
            raise InvalidInputError(f"a propensity lies in (0, 1], got {self.trial.propensity!r}.")

    @property
    def id(self) -> str:
        """Of the trial."""
        return self.trial.id

    @property
    def context(self) -> tuple[float, ...]:
        """Of the trial."""
        return self.trial.context

    def predicted(self, name: str) -> float:
        """Return the head's prediction for an LLM."""
        return next(each.score for each in self.candidates if each.name == name)

    def cost(self, name: str) -> float:
        """Return the expected USD of an LLM."""
        return next(each.cost or 0.0 for each in self.candidates if each.name == name)

    @classmethod
    def of(cls, decision: RoutingDecision, reward: float) -> FeedbackRecord:
        """Take a decision that was made while learning was on.

        Raises:
            InvalidInputError: It was not, or is no decision for an LLM, or the reward is bad.
        """
        if not isinstance(decision, RoutingDecision):
            raise InvalidInputError(
                f"expected the RoutingDecision that route gave, got {type(decision).__name__}. "
                "From its dict: RoutingDecision.from_dict(kept)."
            )
        if decision.kind != "llm":
            raise InvalidInputError(
                f"feedback is learnt for LLMs, got a decision for the {decision.kind} "
                f"{decision.target!r}. Teach an agent by examples: router.agents.update(card)."
            )
        if decision.trial is None:
            raise InvalidInputError(
                "this decision was made before learning was on, so how probable it was is not "
                "known. Type router.learn(Learning(...)) before routing."
            )
        return cls(decision.trial, decision.candidates, decision.target, reward)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, fit for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FeedbackRecord:
        """Rebuild from `to_dict`."""
        return cls(
            Trial.from_dict(data["trial"]),
            tuple(Candidate(**each) for each in data["candidates"]),
            data["chosen"],
            data["reward"],
        )


class FeedbackLog:
    """Appends records to a file.

    Args:
        path: The file; its folder is made if absent.

    Raises:
        ArtifactError: The folder cannot be made, or the file is a folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"cannot write {path} ({error}). Choose another log.") from error
        if self.path.is_dir():
            raise ArtifactError(f"the feedback log {path} is a folder. Name a file in it.")

    def append(self, record: FeedbackRecord) -> None:
        """Write one line, whole; what a crash left of the one before stays a line of its own.

        Raises:
            ArtifactError: It cannot be written.
        """
        line = json.dumps(record.to_dict()).encode() + b"\n"
        try:
            with self.path.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line)
        except OSError as error:
            raise ArtifactError(f"cannot write {self.path} ({error}). Make room.") from error

    @staticmethod
    def read(path: str | Path) -> list[FeedbackRecord]:
        """Return every record; lines that a crash cut off are left out, with a warning.

        Raises:
            ArtifactError: It cannot be read, or a line is something else.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise ArtifactError(f"no feedback log at {path} ({error}).") from error
        records = []
        for number, line in enumerate(content.split(b"\n"), 1):
            try:
                plain = json.loads(line) if line else None
            except ValueError as error:  # also half a character
                if not line.startswith(b"{"):  # every record does, whole or cut off
                    raise ArtifactError(
                        f"{path} is no feedback log: line {number} is no record. Name the file "
                        "that Learning(log=...) wrote."
                    ) from error
                warnings.warn(
                    f"line {number} of {path} was cut off, as by a crash; it is left out.",
                    stacklevel=2,
                )
                continue
            if plain is None:
                continue
            try:
                records.append(FeedbackRecord.from_dict(plain))
            except (ValueError, KeyError, TypeError) as error:
                raise ArtifactError(
                    f"line {number} of {path} is no feedback ({error}). Delete that line."
                ) from error
        return records
