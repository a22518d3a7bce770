"""Learning from use: tries safe LLMs now and then, remembers what feedback says of them."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._checks import parse_json
from moma_core._store import read_pair, write_pair
from moma_core.decision import Candidate, RoutingDecision, ScoreTable, Trial
from moma_core.errors import ArtifactError, InvalidInputError
from moma_core.llms.selection import POINTS, rank, value
from moma_core.locks import Lock
from moma_core.types import Auto, Cost, FloatArray, Preference, preference_text

__all__ = [
    "FILES",
    "FeedbackLog",
    "FeedbackRecord",
    "Learning",
    "LearningConfig",
    "Memory",
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
    def vector(self) -> FloatArray:
        """Of the query, shape (d,); empty where the decision did not keep it.

        Raises:
            InvalidInputError: It is no vector.
        """
        try:
            kept = np.frombuffer(base64.b64decode(self.trial.vector), np.int8)
        except (ValueError, TypeError) as error:
            raise InvalidInputError(
                f"a trial's vector is bytes as text, got {self.trial.vector!r:.40}. Keep decisions "
                "whole: decision.to_dict()."
            ) from error
        return kept.astype(np.float32) / 127.0

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
                plain = parse_json(line, any_number=True) if line else None
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
        dearest: And when it costs at most so many times as much as that choice; under `Auto`, when
            it is worth its price but for ``delta``.
        apply: Whether what was learnt changes choices; else it is only collected.
        caution: Standard deviations by which an LLM must be better before it is chosen instead.
        mean_prior: Rewards' worth of belief that the head's mean for an LLM is right.
        nearby_prior: The same for what it is in general, where rewards near a query differ.

    Raises:
        InvalidInputError: A number is out of bounds.
    """

    explore: float = 0.05
    delta: float = 0.05
    dearest: float = 2.0
    apply: bool = False
    caution: float = 1.0
    mean_prior: float = 100.0
    nearby_prior: float = 5.0

    def __post_init__(self) -> None:
        numbers = (self.explore, self.delta, self.dearest, self.caution)
        priors = (self.mean_prior, self.nearby_prior)
        if not all(isinstance(value, int | float) for value in (*numbers, *priors)):
            raise InvalidInputError(f"all but apply are numbers, got {self}.")
        if not isinstance(self.apply, bool):
            raise InvalidInputError(f"apply is True or False, got {self.apply!r:.40}.")
        if not (0.0 <= self.explore <= 1.0 and 0.0 <= self.delta <= 1.0):
            raise InvalidInputError(f"explore and delta lie in [0, 1], got {self}.")
        if not (self.dearest >= 1.0 and self.caution >= 0.0):
            raise InvalidInputError(f"dearest is 1 or more and caution 0 or more, got {self}.")
        if not (self.mean_prior > 0.0 and self.nearby_prior > 0.0):
            raise InvalidInputError(f"priors are positive, got {self}.")


_Beliefs = Mapping[str, tuple[float, float]]
_REMEMBERED, _NEAREST, _FADES, _SURE = 4_000, 200, 3_000.0, 2.0
"""Outcomes kept with their queries; how many of them are near a query; newer ones after which one
counts half; standard errors by which those near must differ from the rest."""


class Memory:
    """How much better than predicted LLMs turned out, in general and near a query.

    In general it is the mean surprise, shrunk towards nothing. Where an LLM's surprises among the
    outcomes of the nearest queries, recent ones counting more, differ from that significantly, it
    is theirs, shrunk towards the general one.

    Args:
        config: Its priors.

    Example:
        >>> memory = Memory(LearningConfig(mean_prior=9.0))
        >>> here, there = np.eye(2, dtype=np.float32)
        >>> memory.learn("small", here, 0.5)
        >>> memory.beliefs(there)["small"][0]
        0.05
    """

    def __init__(self, config: LearningConfig) -> None:
        self.config = config
        self.levels: dict[str, tuple[int, float]] = {}  # rewards, sum of surprises
        self._outcomes: list[tuple[str, float]] = []  # LLM, surprise
        self._vectors = np.zeros((0, 0), np.float32)  # one row an outcome, then free ones

    @classmethod
    def of(cls, records: Iterable[FeedbackRecord], config: LearningConfig) -> Memory:
        """Return what records say, in their order."""
        memory = cls(config)
        for record in records:
            memory.take(record)
        return memory

    def take(self, record: FeedbackRecord) -> None:
        """Learn from a record.

        Raises:
            InvalidInputError: Its query's vector is of another length than those before.
        """
        name = record.chosen
        self.learn(name, record.vector, record.reward - record.predicted(name))

    def learn(self, name: str, vector: FloatArray, surprise: float) -> None:
        """Learn that an LLM was better than predicted by so much on a query, vector (d,).

        Raises:
            InvalidInputError: The vector is of another length than those before.
        """
        rewards, total = self.levels.get(name, (0, 0.0))
        if len(vector):
            self._keep(vector, (name, surprise))
        self.levels[name] = (rewards + 1, total + surprise)

    def _keep(self, vector: FloatArray, outcome: tuple[str, float]) -> None:
        if self._outcomes and len(vector) != self._vectors.shape[1]:
            raise InvalidInputError(
                f"feedback on a query with a vector of {len(vector)} numbers, expected "
                f"{self._vectors.shape[1]}: it is of another encoder. Start a new Learning."
            )
        if len(self._outcomes) == len(self._vectors):
            self._outcomes = self._outcomes[-_REMEMBERED:]
            kept = self._vectors[len(self._vectors) - len(self._outcomes) :]
            self._vectors = np.zeros((2 * _REMEMBERED, len(vector)), np.float32)
            if len(kept):
                self._vectors[: len(kept)] = kept
        self._vectors[len(self._outcomes)] = vector
        self._outcomes.append(outcome)

    def _level(self, name: str) -> tuple[float, float]:
        rewards, total = self.levels.get(name, (0, 0.0))
        spread = 1.0 / (rewards + self.config.mean_prior)
        return total * spread, _NOISE**2 * spread

    def beliefs(self, vector: FloatArray, names: Iterable[str] = ()) -> _Beliefs:
        """Return the correction near a vector (d,) and its variance of LLMs seen, and of others."""
        found = {name: self._level(name) for name in (*self.levels, *names)}
        start = max(len(self._outcomes) - _REMEMBERED, 0)
        n = len(self._outcomes) - start
        if n <= _NEAREST:
            return found
        cosines = self._vectors[start : start + n] @ np.asarray(vector, np.float32)
        rows = np.argpartition(-cosines, _NEAREST)[:_NEAREST]
        weights = 0.5 ** ((n - 1 - rows) / _FADES)
        near: dict[str, list[tuple[float, float]]] = {}
        for row, weight in zip(rows.tolist(), weights.tolist(), strict=True):
            name, surprise = self._outcomes[start + row]
            near.setdefault(name, []).append((weight, surprise))
        for name, told in near.items():
            mass = sum(weight for weight, _ in told)
            pull = sum(weight * surprise for weight, surprise in told)
            (level, variance), square = found[name], sum(weight**2 for weight, _ in told)
            error = _NOISE * float(np.sqrt(square)) / mass
            if abs(pull / mass - level) > _SURE * np.sqrt(error**2 + variance):
                own = mass / (mass + self.config.nearby_prior)
                found[name] = (
                    own * pull / mass + (1.0 - own) * level,
                    (own * error) ** 2 + (1.0 - own) ** 2 * variance,
                )
        return found

    def config_and_arrays(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Return what JSON and what safetensors keep."""
        outcomes = self._outcomes[-_REMEMBERED:]
        start = len(self._outcomes) - len(outcomes)
        vectors = self._vectors[start : len(self._outcomes)]
        plain = {"levels": self.levels, "outcomes": [list(each) for each in outcomes]}
        return plain, {"vectors": vectors.copy()}

    @classmethod
    def from_parts(
        cls, config: LearningConfig, plain: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> Memory:
        """Rebuild from `config_and_arrays`.

        Raises:
            ValueError: They do not hold together.
        """
        memory, vectors = cls(config), arrays["vectors"]
        memory.levels = {str(name): (int(n), float(t)) for name, (n, t) in plain["levels"].items()}
        memory._outcomes = [(str(name), float(each)) for name, each in plain["outcomes"]]
        if len(vectors) != len(memory._outcomes) or not np.isfinite(vectors).all():
            raise ValueError("not a vector for each outcome")
        memory._vectors = vectors.astype(np.float32)
        return memory


def _packed(vector: FloatArray) -> str:
    """Return a unit vector as text, a byte a number."""
    return base64.b64encode(np.rint(np.asarray(vector) * 127.0).astype(np.int8).tobytes()).decode()


def safe_set(
    candidates: Sequence[Candidate],
    baseline: Candidate,
    preference: Preference,
    config: LearningConfig,
) -> tuple[str, ...]:
    """Return the LLMs that may be chosen: the baseline, and what is hardly worse and not dear.

    Example:
        >>> from moma_core import Performance
        >>> small, big = Candidate("small", 0.80, 0.001), Candidate("big", 0.83, 0.01)
        >>> safe_set([small, big], big, Performance(), LearningConfig())
        ('small', 'big')
        >>> safe_set([small, big], small, Performance(), LearningConfig())
        ('small',)
    """  # fmt: skip
    most = (baseline.cost or 0.0) * config.dearest
    if isinstance(preference, Cost) and preference.budget is not None:
        most = min(most, max(preference.budget, baseline.cost or 0.0))

    def is_safe(each: Candidate) -> bool:
        if isinstance(preference, Auto):
            costs, scores = np.array([[c.cost or 0.0, c.score] for c in (each, baseline)]).T
            worth = value(costs, scores, POINTS if preference.points is None else preference.points)
            affordable = bool(worth[0] >= worth[1] - config.delta)
        else:
            affordable = (each.cost or 0.0) <= most
        return each.score >= baseline.score - config.delta and affordable

    return tuple(each.name for each in candidates if each.name == baseline.name or is_safe(each))


def corrected(candidates: Sequence[Candidate], beliefs: _Beliefs) -> tuple[Candidate, ...]:
    """Return the candidates with their learnt corrections, held to [0, 1]."""
    return tuple(
        replace(each, score=float(np.clip(each.score + beliefs[each.name][0], 0, 1)))
        if each.name in beliefs
        else each
        for each in candidates
    )


def cautious(
    candidates: Sequence[Candidate], beliefs: _Beliefs, baseline: str, config: LearningConfig
) -> tuple[Candidate, ...]:
    """Return corrected candidates, those beside the baseline lowered by how uncertain that is."""
    return tuple(
        each
        if each.name == baseline
        else replace(
            each,
            score=each.score
            - config.caution * float(np.sqrt(beliefs[each.name][1] + beliefs[baseline][1])),
        )
        for each in corrected(candidates, beliefs)
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


FILES = ("learning.json", "learning.safetensors")
_REMEDY = "Delete that directory, or restore it from a copy."
_KNOWN = 100_000


class Learning:
    """Chooses among safe LLMs, and learns from the rewards of what was chosen.

    Args:
        config: How carefully.
        log: File to which each feedback is appended as a line of JSON; None: not kept.
        seed: Of the random tries.

    Example:
        >>> from moma_core.decision import Candidate
        >>> from moma_core import Performance
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
        seed: int = 0,
    ) -> None:
        self._config = config or LearningConfig()
        self._log = None if log is None else FeedbackLog(log)
        self._rng = np.random.default_rng(seed)
        self._memory = Memory(self._config)
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
            self._config = self._memory.config = dataclasses.replace(self._config, **changes)

    def rewards(self) -> dict[str, int]:
        """Return how many rewards were seen of each LLM."""
        with self._lock:
            return {name: rewards for name, (rewards, _) in self._memory.levels.items()}

    def corrections(self, vector: FloatArray) -> dict[str, float]:
        """Return how much better than predicted each LLM is expected to be; vector (d,)."""
        with self._lock:
            return {name: mean for name, (mean, _) in self._memory.beliefs(vector).items()}

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
        baseline = decision.candidates[0]
        with self._lock:
            config = self._config
            safe = safe_set(decision.candidates, baseline, preference, config)
            best = baseline.name
            if config.apply:
                beliefs = self._memory.beliefs(vector, [each.name for each in decision.candidates])
                scored = cautious(decision.candidates, beliefs, best, config)
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
            preference=preference_text(preference),
            anchor=anchor,
            vector=_packed(vector),
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
        self._memory.take(record)
        self._seen[record.id] = None
        while len(self._seen) > _KNOWN:
            del self._seen[next(iter(self._seen))]

    def save(self, directory: str | Path) -> None:
        """Write ``learning.json`` and ``learning.safetensors`` into ``directory``.

        Raises:
            ArtifactError: It cannot be written.
        """
        with self._lock:
            memory, arrays = self._memory.config_and_arrays()
            config: dict[str, Any] = {
                "config": dataclasses.asdict(self._config),
                "memory": memory,
                "log": None if self._log is None else str(self._log.path),
                "seen": list(self._seen),
            }
        write_pair(Path(directory), FILES, config, arrays)

    @classmethod
    def load(cls, directory: str | Path, seed: int | None = None) -> Learning:
        """Read what `save` wrote; random tries are fresh unless ``seed`` is given.

        Raises:
            ArtifactError: A file is missing, truncated, changed, or of another version.
        """
        config, arrays = read_pair(Path(directory), FILES, _REMEDY)
        try:
            learning = cls(LearningConfig(**config["config"]), config["log"])
            learning._rng = np.random.default_rng(seed)
            learning._memory = Memory.from_parts(learning._config, config["memory"], arrays)
            learning._seen = dict.fromkeys(config["seen"])
        except (KeyError, TypeError, ValueError, AttributeError, InvalidInputError) as error:
            raise ArtifactError(
                f"what was learnt in {str(directory)!r} does not hold together ({error!r}). Delete "
                "that directory, or restore it from a copy."
            ) from error
        return learning


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
