"""Learning from use: tries safe LLMs now and then, keeps what feedback says of them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._store import read_pair, write_pair
from moma_core.decision import Candidate, RoutingDecision, ScoreTable, Trial
from moma_core.errors import ArtifactError, InvalidInputError
from moma_core.llms.selection import rank
from moma_core.locks import Lock
from moma_core.types import Cost, FloatArray, Preference, preference_text

__all__ = [
    "FILES",
    "Arm",
    "Directions",
    "FeedbackLog",
    "FeedbackRecord",
    "Learning",
    "LearningConfig",
    "cautious",
    "corrected",
    "learnt_choice",
    "safe_set",
]


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


_Array = npt.NDArray[np.float64]
_NOISE = 0.4
"""Standard deviation of a reward around its expectation; at most 0.5 in [0, 1]."""


@dataclass(frozen=True, slots=True)
class LearningConfig:
    """How carefully to learn.

    Args:
        explore: Share of queries on which any safe LLM is tried, each with the same probability.
        delta: An LLM is safe when its predicted quality is at most this much below that of the
            choice without learning.
        dearest: And when it costs at most so many times as much as that choice.
        apply: Whether what was learnt changes choices; else it is only collected.
        caution: Standard deviations by which an LLM must be better before it is chosen instead.
        mean_prior: Rewards' worth of belief that the head's mean for an LLM is right.
        weight_prior: The same for each direction of the context.

    Raises:
        InvalidInputError: A number is out of bounds.
    """

    explore: float = 0.05
    delta: float = 0.05
    dearest: float = 2.0
    apply: bool = False
    caution: float = 1.0
    mean_prior: float = 100.0
    weight_prior: float = 300.0

    def __post_init__(self) -> None:
        numbers = (self.explore, self.delta, self.dearest, self.caution)
        priors = (self.mean_prior, self.weight_prior)
        if not all(isinstance(value, int | float) for value in (*numbers, *priors)):
            raise InvalidInputError(f"all but apply are numbers, got {self}.")
        if not isinstance(self.apply, bool):
            raise InvalidInputError(f"apply is True or False, got {self.apply!r:.40}.")
        if not (0.0 <= self.explore <= 1.0 and 0.0 <= self.delta <= 1.0):
            raise InvalidInputError(f"explore and delta lie in [0, 1], got {self}.")
        if not (self.dearest >= 1.0 and self.caution >= 0.0):
            raise InvalidInputError(f"dearest is 1 or more and caution 0 or more, got {self}.")
        if not (self.mean_prior > 0.0 and self.weight_prior > 0.0):
            raise InvalidInputError(f"priors are positive, got {self}.")


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """What is known of one LLM's correction.

    Args:
        spread: Inverse of prior and observed squares, shape (k, k).
        moment: Sum of context times surprise, shape (k,).
        rewards: How many rewards were seen.
    """

    spread: _Array
    moment: _Array
    rewards: int = 0

    @classmethod
    def blank(cls, config: LearningConfig, k: int) -> Arm:
        """Return an LLM without rewards; the first number of a context is 1, for its mean."""
        prior = np.array([config.mean_prior, *[config.weight_prior] * (k - 1)])
        return cls(np.diag(1.0 / prior), np.zeros(k))

    def correction(self, context: _Array) -> float:
        """Return how much better than predicted the LLM is expected to be; context (k,)."""
        return float(self.moment @ self.spread @ context)

    def variance(self, context: _Array) -> float:
        """Return the variance of that expectation, for rewards in [0, 1]."""
        return _NOISE**2 * float(context @ self.spread @ context)

    def after(self, context: _Array, surprise: float) -> Arm:
        """Return what is known after a reward that was ``surprise`` above the prediction."""
        step = self.spread @ context
        shrunk = self.spread - np.outer(step, step) / (1.0 + float(context @ step))
        return Arm(shrunk, self.moment + context * surprise, self.rewards + 1)


def safe_set(
    candidates: Sequence[Candidate],
    baseline: Candidate,
    preference: Preference,
    config: LearningConfig,
) -> tuple[str, ...]:
    """Return the LLMs that may be chosen: the baseline, and what is hardly worse and not dear.

    Example:
        >>> from moma_core.types import Performance
        >>> small, big = Candidate("small", 0.80, 0.001), Candidate("big", 0.83, 0.01)
        >>> safe_set([small, big], big, Performance(), LearningConfig())
        ('small', 'big')
        >>> safe_set([small, big], small, Performance(), LearningConfig())
        ('small',)
    """  # fmt: skip
    most = (baseline.cost or 0.0) * config.dearest
    if isinstance(preference, Cost) and preference.budget is not None:
        most = min(most, max(preference.budget, baseline.cost or 0.0))
    return tuple(
        each.name
        for each in candidates
        if each.name == baseline.name
        or (each.score >= baseline.score - config.delta and (each.cost or 0.0) <= most)
    )


def corrected(
    candidates: Sequence[Candidate], arms: Mapping[str, Arm], context: _Array
) -> tuple[Candidate, ...]:
    """Return the candidates with their learnt corrections, held to [0, 1]."""
    return tuple(
        replace(each, score=float(np.clip(each.score + arms[each.name].correction(context), 0, 1)))
        if each.name in arms
        else each
        for each in candidates
    )


def cautious(
    candidates: Sequence[Candidate],
    arms: Mapping[str, Arm],
    context: _Array,
    baseline: str,
    config: LearningConfig,
) -> tuple[Candidate, ...]:
    """Return corrected candidates, those beside the baseline lowered by how uncertain that is."""
    blank = Arm.blank(config, len(context))
    own = arms.get(baseline, blank).variance(context)
    return tuple(
        each
        if each.name == baseline
        else replace(each, score=each.score - config.caution * float(np.sqrt(own + variance)))
        for each in corrected(candidates, arms, context)
        for variance in [arms.get(each.name, blank).variance(context)]
    )


def learnt_choice(
    candidates: Sequence[Candidate], safe: Sequence[str], preference: Preference, anchor: str
) -> str:
    """Return the safe LLM that the preference ranks first, by the scores of `cautious`."""
    table = ScoreTable(
        tuple(each.name for each in candidates),
        np.array([each.score for each in candidates]),
        np.array([each.cost or 0.0 for each in candidates]),
    )
    return next(table.names[i] for i in rank(table, preference, anchor) if table.names[i] in safe)


_CLIP = 3.0
_MEASURE = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """Turns a query's vector into the few numbers that corrections are linear in.

    Args:
        centre: Mean of the queries, shape (d,).
        weights: One column a direction, shape (d, k); k may be 0.

    Example:
        >>> Directions.none().context(np.ones(384, np.float32)).tolist()
        [1.0]
    """

    centre: _Array
    weights: _Array

    @classmethod
    def none(cls) -> Directions:
        """Return no direction: an LLM's correction is one number."""
        return cls(np.zeros(0), np.zeros((0, 0)))

    @classmethod
    def fit(cls, vectors: FloatArray, k: int = 8) -> Directions:
        """Return the k principal directions of typical queries' vectors, shape (n, d).

        Raises:
            InvalidInputError: There are fewer than k + 1 vectors.
        """
        points = np.asarray(vectors, np.float64)
        if points.ndim != 2 or not 0 < k < len(points):
            raise InvalidInputError(
                f"{k} directions need more than {k} vectors, got shape {points.shape}."
            )
        centre = points.mean(axis=0)
        _, values, rows = np.linalg.svd(points - centre, full_matrices=False)
        scale = np.maximum(values[:k] / np.sqrt(len(points)), 1e-6)
        return cls(centre, rows[:k].T / scale * _MEASURE)

    def context(self, vector: FloatArray) -> _Array:
        """Return 1 and the clipped coordinates of a vector (d,), shape (k + 1,)."""
        if not len(self.centre):
            return np.ones(1)
        places = (np.asarray(vector, np.float64) - self.centre) @ self.weights
        return np.concatenate([np.ones(1), np.clip(places, -_CLIP, _CLIP)])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""
        return {"centre": self.centre, "directions": self.weights}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Directions:
        """Rebuild from `arrays`."""
        return cls(arrays["centre"], arrays["directions"])


FILES = ("learning.json", "learning.safetensors")
_REMEDY = "Delete that directory, or restore it from a copy."
_REMEMBERED = 100_000


class Learning:
    """Chooses among safe LLMs, and learns from the rewards of what was chosen.

    Args:
        config: How carefully.
        log: File to which each feedback is appended as a line of JSON; None: not kept.
        directions: What, beside its mean, the correction of an LLM may depend on.
        seed: Of the random tries.

    Example:
        >>> from moma_core.types import Candidate, Performance
        >>> bold = LearningConfig(explore=0.0, apply=True, mean_prior=1.0, caution=0.1)
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
        self._lock = Lock()

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
        config, arrays = read_pair(Path(directory), FILES, _REMEDY)
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
