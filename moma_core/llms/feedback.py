"""Learning from use: tries safe LLMs now and then, keeps what feedback says of them.

Safe to share between threads. What was learnt changes choices only where ``config.apply`` says so,
and never beyond the safe floor. Knows decisions, not queries' words.
"""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moma_core.errors import ArtifactError, InvalidInputError
from moma_core._store import read_pair, write_pair
from moma_core.llm_routing.learning.bandit import (
    Arm,
    LearningConfig,
    cautious,
    learnt_choice,
    preference_text,
    safe_set,
)
from moma_core.llm_routing.learning.directions import Directions
from moma_core.llm_routing.learning.log import FeedbackLog, FeedbackRecord
from moma_core.types import FloatArray, Preference, RoutingDecision
from moma_core.types.trial import Trial

__all__ = ["FILES", "Learning"]

FILES = ("learning.json", "learning.safetensors")
_REMEMBERED = 100_000


class Learning:
    """Chooses among safe LLMs, and learns from the rewards of what was chosen.

    Args:
        config: How carefully.
        log: File to which each feedback is appended as a line of JSON; None: not kept.
        directions: What, beside its level, the correction of an LLM may depend on.
        seed: Of the random tries.

    Example:
        >>> from moma_core.types import Candidate, Performance
        >>> bold = LearningConfig(explore=0.0, apply=True, level_prior=1.0, caution=0.1)
        >>> learning = Learning(bold)
        >>> llms = (Candidate("big", 0.80, 0.002), Candidate("small", 0.78, 0.001))
        >>> plain = RoutingDecision("llm", ("big",), 0.80, llms, cost=0.002)
        >>> for _ in range(9):
        ...     tried = learning.instead(plain, np.zeros(3, np.float32), Performance(), "big")
        ...     _ = learning.feedback(tried, 0.3 if tried.target == "big" else 0.9)
        >>> learning.instead(plain, np.zeros(3, np.float32), Performance(), "big").target
        'small'
    """

    def __init__(
        self,
        config: LearningConfig | None = None,
        log: str | Path | None = None,
        directions: Directions | None = None,
        seed: int = 0,
    ) -> None:
        self._config = config or LearningConfig()
        self._log = None if log is None else FeedbackLog(log)
        self._directions = directions or Directions.none()
        self._rng = np.random.default_rng(seed)
        self._arms: dict[str, Arm] = {}
        self._seen: dict[str, None] = {}  # in order of arrival
        self._lock = threading.Lock()

    @property
    def config(self) -> LearningConfig:
        """How carefully it learns."""
        return self._config

    def configure(self, **changes: Any) -> None:
        """Change the configuration from the next query on: ``learning.configure(apply=True)``.

        Raises:
            InvalidInputError: A number is out of bounds.
        """
        with self._lock:
            self._config = dataclasses.replace(self._config, **changes)

    def rewards(self) -> dict[str, int]:
        """Return how many rewards were seen of each LLM."""
        with self._lock:
            return {name: arm.rewards for name, arm in self._arms.items()}

    def corrections(self, vector: FloatArray) -> dict[str, float]:
        """Return how much better than predicted each LLM is expected to be; vector (d,)."""
        context = self._directions.context(vector)
        with self._lock:
            return {name: arm.correction(context) for name, arm in self._arms.items()}

    def instead(
        self, decision: RoutingDecision, vector: FloatArray, preference: Preference, anchor: str
    ) -> RoutingDecision:
        """Return the decision with a perhaps other, safe LLM, and the trial to learn from.

        Args:
            decision: For an LLM, with every eligible LLM among its candidates.
            vector: The query's vector, shape (d,).
            preference: With which it was made.
            anchor: The LLM whose cost sets the default budget of `Cost`.
        """
        context = self._directions.context(vector)
        baseline = decision.candidates[0]
        with self._lock:
            config = self._config
            safe = safe_set(decision.candidates, baseline, preference, config)
            best = baseline.name
            if config.apply:
                scored = cautious(decision.candidates, self._arms, context, best, config)
                best = learnt_choice(scored, safe, preference, anchor)
            name = best
            if self._rng.random() < config.explore:
                name = safe[int(self._rng.integers(len(safe)))]
        share = config.explore / len(safe)
        trial = Trial(
            id=uuid.uuid4().hex,
            propensity=share + (1.0 - config.explore) * (name == best),
            baseline=baseline.name,
            safe=safe,
            context=tuple(round(float(value), 6) for value in context),
            preference=preference_text(preference),
            anchor=anchor,
        )
        return _moved(decision, name, "learnt from use" if name == best else "tried", trial)

    def feedback(self, decision: RoutingDecision, reward: float) -> bool:
        """Learn from one decision; return False where feedback on it came before.

        Args:
            decision: From a route while learning was on, also rebuilt from its dict.
            reward: How good the answer was, in [0, 1].

        Raises:
            InvalidInputError: The reward is out of bounds, or the decision holds no trial.
            ArtifactError: The log cannot be written.
        """
        record = FeedbackRecord.of(decision, reward)
        with self._lock:
            if record.id in self._seen:
                return False
            if self._log is not None:
                self._log.append(record)
            self._learn(record)
        return True

    def replay(self, path: str | Path) -> int:
        """Learn from a log, say another process's; return how many lines were new.

        Raises:
            ArtifactError: It cannot be read, or a line is damaged.
        """
        records = FeedbackLog.read(path)
        with self._lock:
            new = [record for record in records if record.id not in self._seen]
            for record in new:
                self._learn(record)
        return len(new)

    def _learn(self, record: FeedbackRecord) -> None:
        context = np.array(record.context, np.float64)
        arm = self._arms.get(record.chosen) or Arm.blank(self._config, len(context))
        if len(context) != len(arm.moment):
            raise InvalidInputError(
                f"feedback with {len(context)} numbers of context, expected {len(arm.moment)}: it "
                "is of a router with other directions. Start a new Learning."
            )
        surprise = record.reward - record.predicted(record.chosen)
        self._arms[record.chosen] = arm.after(context, surprise)
        self._seen[record.id] = None
        while len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def save(self, directory: str | Path) -> None:
        """Write ``learning.json`` and ``learning.safetensors`` into ``directory``.

        Raises:
            ArtifactError: It cannot be written.
        """
        with self._lock:
            names = sorted(self._arms)
            arms = [self._arms[name] for name in names]
            config: dict[str, Any] = {
                "config": dataclasses.asdict(self._config),
                "llms": names,
                "rewards": [arm.rewards for arm in arms],
                "log": None if self._log is None else str(self._log.path),
                "seen": list(self._seen),
            }
            arrays = dict(self._directions.arrays())
            for number, arm in enumerate(arms):
                arrays |= {f"spread.{number}": arm.spread, f"moment.{number}": arm.moment}
        write_pair(Path(directory), FILES, config, arrays)

    @classmethod
    def load(cls, directory: str | Path, seed: int | None = None) -> Learning:
        """Read what `save` wrote; random tries are fresh unless ``seed`` is given.

        Raises:
            ArtifactError: A file is missing, truncated, changed, or of another version.
        """
        config, arrays = read_pair(Path(directory), FILES)
        try:
            directions = Directions.from_arrays(arrays)
            learning = cls(LearningConfig(**config["config"]), config["log"], directions)
            learning._rng = np.random.default_rng(seed)
            learning._arms = _arms(config, arrays)
            learning._seen = dict.fromkeys(config["seen"])
        except (KeyError, TypeError, ValueError, InvalidInputError) as error:
            raise ArtifactError(
                f"what was learnt in {str(directory)!r} does not hold together ({error!r}). Delete "
                "that directory, or restore it from a copy."
            ) from error
        return learning


def _arms(config: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Arm]:
    if not all(isinstance(name, str) for name in config["llms"]):
        raise ValueError("an LLM's name is no text")
    return {
        name: Arm(arrays[f"spread.{number}"], arrays[f"moment.{number}"], int(rewards))
        for number, (name, rewards) in enumerate(
            zip(config["llms"], config["rewards"], strict=True)
        )
    }


def _moved(decision: RoutingDecision, name: str, why: str, trial: Trial) -> RoutingDecision:
    """Return the decision with this LLM first and the trial kept."""
    if name == decision.target:
        return dataclasses.replace(decision, trial=trial)
    chosen = next(each for each in decision.candidates if each.name == name)
    others = tuple(each for each in decision.candidates if each.name != name)
    return dataclasses.replace(
        decision,
        targets=(name,),
        probability=chosen.score,
        candidates=(chosen, *others),
        cost=chosen.cost,
        reason=f"{decision.reason}; {why}: {name!r} instead of {decision.target!r}",
        trial=trial,
    )
