"""Places LLMs that nobody scored on a scale of abilities, so that they route by difficulty.

Item response style: an LLM of ability u, one number a subject, is right on query q with probability
``sigmoid(a(q) * u(subject of q) - b(q))``. Subject, steepness a and difficulty b are predicted from
the query; abilities are normal variables, known from published scores, a likeness, or the price.
The scale was fitted to scored pools (``benchmarks/fit_abilities.py``; explanatory item response
models: De Boeck and Wilson, 2004).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._numerics import sigmoid
from moma_core._store import read_pair, write_pair
from moma_core.errors import ArtifactError, InvalidCardError
from moma_core.llms.features import FEATURES, QueryFeatures
from moma_core.llms.published import published_scores
from moma_core.types import FloatArray, LLMCard, did_you_mean

__all__ = [
    "Ability",
    "AbilityScale",
    "Exams",
    "Population",
    "QueryModel",
]

_Array = npt.NDArray[np.float64]
_FILES = "abilities.json", "abilities.safetensors"
_REMEDY = "Install the package again, or fit the scale: python benchmarks/fit_abilities.py."
_STEEPEST = 2.0
_NODES, _MASSES = np.array([-np.sqrt(3.0), 0.0, np.sqrt(3.0)]), np.array([1.0, 4.0, 1.0]) / 6.0
"""Gauss-Hermite nodes: three points that stand for a standard normal."""


@dataclass(frozen=True, slots=True, eq=False)
class Ability:
    """What is known of an LLM's abilities: a normal distribution.

    Args:
        mean: Ability by subject, in logits, shape (k,).
        covariance: Shape (k, k).
    """

    mean: _Array
    covariance: _Array


@dataclass(frozen=True, slots=True, eq=False)
class QueryModel:
    """Reads subject, steepness, difficulty and the length of answers off a query's inputs.

    Args:
        subject: Weights of the subjects' logits, the last row their bias, shape (d + 1, k).
        difficulty: Weights of b, of the inputs and then of the subjects, shape (d + k,).
        steepness: Weights of log a, likewise.
        length: Weights of the log of an answer's tokens and a bias, shape (d + 1,).
    """

    subject: _Array
    difficulty: _Array
    steepness: _Array
    length: _Array

    def read(self, inputs: FloatArray) -> tuple[_Array, _Array, _Array]:
        """Return subjects' probabilities (n, k), steepness (n,) and difficulty (n,)."""
        x = np.asarray(inputs, np.float64)
        logits = x @ self.subject[:-1] + self.subject[-1]
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        both = np.concatenate([x, shares], axis=1)
        steepness = np.exp(np.clip(both @ self.steepness, -_STEEPEST, _STEEPEST))
        return shares, steepness, both @ self.difficulty

    def rescaled(self, ratio: _Array, offset: _Array) -> QueryModel:
        """Return the model that reads inputs x as this one reads ``x * ratio + offset``, (d,)."""
        d = len(ratio)

        def with_bias(weights: _Array) -> _Array:
            constant = weights[-1] + offset @ weights[:-1]
            return np.concatenate([(weights[:-1].T * ratio).T, constant[None]])

        def with_shares(weights: _Array) -> _Array:
            return np.concatenate([weights[:d] * ratio, weights[d:] + offset @ weights[:d]])

        return QueryModel(
            with_bias(self.subject),
            with_shares(self.difficulty),
            with_shares(self.steepness),
            with_bias(self.length),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Exams:
    """Queries of benchmarks whose scores are published, as the scale reads them.

    Args:
        parts: The parts of ``part`` that make up a benchmark, by the benchmark's name.
        part: Which part a query is of, shape (i,).
        subjects: Shape (i, k).
        steepness: Shape (i,).
        difficulty: Shape (i,).
    """

    parts: Mapping[str, tuple[int, ...]]
    part: npt.NDArray[np.int32]
    subjects: _Array
    steepness: _Array
    difficulty: _Array

    def weights(self, name: str) -> _Array:
        """Return what each query counts in a benchmark, parts alike, shape (i,).

        Raises:
            InvalidCardError: No such benchmark.
        """
        if name not in self.parts:
            raise InvalidCardError(
                f"quality names {name!r}, which the scale does not know; it knows "
                f"{', '.join(sorted(self.parts))}. Give one number for anything else: quality=0.7."
            )
        weights = np.zeros(len(self.part))
        for part in self.parts[name]:
            own = self.part == part
            weights[own] = 1.0 / (own.sum() * len(self.parts[name]))
        return weights

    def score(self, mean: _Array, weights: _Array) -> tuple[float, _Array]:
        """Return the expected score at an ability and its slope, shape (k,)."""
        right = sigmoid(self.steepness * (self.subjects @ mean) - self.difficulty)
        slope = (weights * right * (1.0 - right) * self.steepness) @ self.subjects
        return float(weights @ right), slope


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """How abilities are spread over LLMs, before anything is known of one but its price.

    Args:
        mean: Shape (k,).
        covariance: Around what the price tells, shape (k, k).
        by_price: Ability that doubling the price brings.
        price: Typical price, log2 of USD per million tokens.
        names: LLMs whose abilities were measured.
        means: Theirs, shape (m, k).
        errors: Standard errors, shape (m, k).
    """

    mean: _Array
    covariance: _Array
    by_price: float
    price: float
    names: tuple[str, ...]
    means: _Array
    errors: _Array

    def at_price(self, card: LLMCard) -> Ability:
        """Return what the price tells."""
        paid = np.log2(max((card.input_price + 3.0 * card.output_price) / 4.0, _FREE))
        return Ability(self.mean + self.by_price * (paid - self.price), self.covariance)

    def measured(self, name: str) -> Ability | None:
        """Return the ability of an LLM that the scale was fitted with, None of another."""
        if name not in self.names:
            return None
        row = self.names.index(name)
        return Ability(self.means[row], np.diag(self.errors[row] ** 2))


_FREE = 0.05
"""USD per million tokens: an LLM that costs less, or nothing, is as able as one of this price."""

_UNLIKE, _ALIKE = 0.25, 0.25
"""Share of the population's variance by which LLMs that are called alike differ, and of strengths
by subject that they have in common: mostly it is the level that is alike."""

_PUBLISHED, _MEAN_SCORE, _SETTING = 0.15, 0.4, 0.08
"""Standard error, in logits, of a published score, and of one number for everything; and of what
all scores of an LLM share, being measured in another setting than it will be used in."""

_LOWEST, _STEPS = 0.01, 30


@dataclass(frozen=True, slots=True, eq=False)
class AbilityScale:
    """Places LLMs by what is known of them and predicts how good they are on a query.

    Args:
        subjects: Names of the k subjects.
        model: Reads a query.
        exams: Benchmarks whose published scores it understands.
        population: Abilities of LLMs in general, and of those that were measured.
        features: Joins vectors and text features into inputs.
        encoder_fingerprint: The encoder whose vectors it was fitted on.
        metadata: What it was fitted on, JSON-like.

    Example:
        >>> scale = AbilityScale.packaged()
        >>> weak, strong = (
        ...     scale.place(LLMCard("new", 1.0, 1.0, quality={"mmlu_pro": each}))
        ...     for each in (0.4, 0.8)
        ... )
        >>> bool((strong.mean > weak.mean).all())
        True
    """

    subjects: tuple[str, ...]
    model: QueryModel
    exams: Exams
    population: Population
    features: QueryFeatures
    encoder_fingerprint: str
    metadata: Mapping[str, Any]

    @property
    def dimension(self) -> int:
        """Length of the encoder's vectors."""
        return len(self.model.subject) - 1 - len(FEATURES)

    def reading(self, features: QueryFeatures) -> AbilityScale:
        """Return the scale for inputs that other features joined."""
        own, new = self.features, features
        ratio = new.scale / own.scale * (own.weight / new.weight)
        offset = own.weight * (new.mean - own.mean) / own.scale
        vector = self.dimension
        model = self.model.rescaled(
            np.concatenate([np.ones(vector), ratio]), np.concatenate([np.zeros(vector), offset])
        )
        return replace(self, model=model, features=features)

    def place(self, card: LLMCard, others: Mapping[str, Ability] | None = None) -> Ability:
        """Return what a card tells of an LLM's abilities.

        It starts from the LLM it is called like, else from its own name where that was measured,
        else from its price; published scores then sharpen it: the card's, or where it has neither
        these nor a likeness, those of the packaged table.

        Args:
            card: With ``quality`` or ``like``, or neither.
            others: LLMs of the pool that ``like`` may name, beside those that were measured.

        Raises:
            InvalidCardError: ``like`` names an unknown LLM, or ``quality`` an unknown benchmark.
        """
        start, quality = self._start(card, others or {}), card.quality
        if quality is None and card.like is None:
            quality = published_scores(card.name) or None
        if quality is None:
            return start
        if isinstance(quality, Mapping):
            scores = [(self.exams.weights(name), score) for name, score in quality.items()]
            return self._updated(start, scores, _PUBLISHED)
        alike = np.full(len(self.exams.part), 1.0 / len(self.exams.part))
        return self._updated(start, [(alike, quality)], _MEAN_SCORE)

    def _start(self, card: LLMCard, others: Mapping[str, Ability]) -> Ability:
        if card.like is None:
            return self.population.measured(card.name) or self.population.at_price(card)
        like = others.get(card.like) or self.population.measured(card.like)
        if like is None:
            known = sorted({*others, *self.population.names})
            raise InvalidCardError(
                f"LLM {card.name!r} is like {card.like!r}, which is unknown. "
                f"{did_you_mean(card.like, known)}Name one of "
                f"{', '.join(known)}, or give quality=... instead."
            )
        covariance = like.covariance + _UNLIKE * self.population.covariance
        firm = 1.0 / np.diag(covariance)
        above = like.mean - self.population.mean
        level = float(firm @ above / firm.sum())
        mean = self.population.mean + level + _ALIKE * (above - level)
        return Ability(mean, covariance)

    def _updated(self, start: Ability, scores: list[tuple[_Array, float]], error: float) -> Ability:
        """Return the normal around the most probable ability (Laplace; damped Gauss-Newton).

        Each published score is seen in logits: ``logit(score) = logit(expected) + noise``, the
        noise being the score's own and what all scores share.
        """
        seen = np.clip([score for _, score in scores], _LOWEST, 1.0 - _LOWEST)
        target, firm = np.log(seen / (1.0 - seen)), np.linalg.inv(start.covariance)
        mean, n = start.mean, len(scores)
        white = np.linalg.inv(np.linalg.cholesky(error**2 * np.eye(n) + _SETTING**2))

        def look(at: _Array) -> tuple[float, _Array, _Array]:
            logits, slopes = self._logits(at, scores)
            rest, away = white @ (target - logits), at - start.mean
            return float(rest @ rest + away @ firm @ away), rest, white @ slopes

        loss, rest, slopes = look(mean)
        for _ in range(_STEPS):
            curve = firm + slopes.T @ slopes
            step = np.linalg.solve(curve, slopes.T @ rest - firm @ (mean - start.mean))
            size = 1.0
            while size > 1e-3 and (tried := look(mean + size * step))[0] > loss:
                size /= 2.0
            if size <= 1e-3:
                break
            mean = mean + size * step
            loss, rest, slopes = tried
        covariance = np.asarray(np.linalg.inv(firm + slopes.T @ slopes), np.float64)
        return Ability(mean, covariance)

    def _logits(
        self, mean: _Array, scores: list[tuple[_Array, float]]
    ) -> tuple[_Array, npt.NDArray[np.float64]]:
        logits, slopes = np.empty(len(scores)), np.empty((len(scores), len(mean)))
        for row, (weights, _) in enumerate(scores):
            expected, slope = self.exams.score(mean, weights)
            held = min(max(expected, 1e-6), 1.0 - 1e-6)
            logits[row] = np.log(held / (1.0 - held))
            slopes[row] = slope / (held * (1.0 - held))
        return logits, slopes

    def predict(
        self, inputs: FloatArray, means: _Array, covariances: _Array
    ) -> tuple[_Array, _Array]:
        """Return the probability to be right and its standard deviation, both of shape (n, m).

        Args:
            inputs: Shape (n, d).
            means: Of m LLMs, shape (m, k).
            covariances: Shape (m, k, k).
        """
        shares, steepness, difficulty = self.model.read(inputs)
        logits = steepness[:, None] * (shares @ means.T) - difficulty[:, None]
        variance = np.einsum("nk,mkl,nl->nm", shares, covariances, shares)
        spread = steepness[:, None] * np.sqrt(variance)
        at = sigmoid(logits + _NODES[:, None, None] * spread)  # (3, n, m)
        quality = np.einsum("s,snm->nm", _MASSES, at)
        squares = np.einsum("s,snm->nm", _MASSES, (at - quality) ** 2)
        return quality, np.sqrt(squares)

    def level(self, ability: Ability) -> float:
        """Return the expected mean score over all benchmarks, parts alike."""
        alike = np.full(len(self.exams.part), 1.0 / len(self.exams.part))
        return self.exams.score(ability.mean, alike)[0]

    @classmethod
    @cache
    def packaged(cls) -> AbilityScale:
        """Return the scale that ships here; its ``metadata`` says what it was fitted on."""
        folder = resources.files("moma_core") / "packaged" / "llms"
        with resources.as_file(folder) as directory:
            config, arrays = read_pair(Path(directory), _FILES, _REMEDY)
        return cls.from_parts(config, arrays)

    def save(self, directory: str | Path) -> None:
        """Write ``abilities.json`` and ``abilities.safetensors``.

        Raises:
            ArtifactError: It cannot be written.
        """
        write_pair(Path(directory), _FILES, self.config(), self.arrays())

    def config(self) -> dict[str, Any]:
        """Return what JSON keeps beside `arrays`."""
        return {
            "encoder": self.encoder_fingerprint,
            "subjects": list(self.subjects),
            "exams": {name: list(parts) for name, parts in self.exams.parts.items()},
            "features": {"names": list(FEATURES), "weight": self.features.weight},
            "llms": list(self.population.names),
            "by_price": self.population.by_price,
            "price": self.population.price,
            "training": dict(self.metadata),
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what safetensors keeps."""
        kept = {
            "subject": self.model.subject,
            "difficulty": self.model.difficulty,
            "steepness": self.model.steepness,
            "length": self.model.length,
            "exams.subjects": self.exams.subjects,
            "exams.steepness": self.exams.steepness,
            "exams.difficulty": self.exams.difficulty,
            "mean": self.population.mean,
            "covariance": self.population.covariance,
            "means": self.population.means,
            "errors": self.population.errors,
            **{f"features.{name}": each for name, each in self.features.arrays().items()},
        }
        single = {name: np.asarray(values, np.float32) for name, values in kept.items()}
        return {**single, "exams.part": self.exams.part}

    @classmethod
    def from_parts(cls, config: Mapping[str, Any], arrays: Mapping[str, Any]) -> AbilityScale:
        """Rebuild from `config` and `arrays`.

        Raises:
            ArtifactError: They do not hold together.
        """
        try:
            if tuple(config["features"]["names"]) != FEATURES:
                raise ValueError("fitted with other text features")
            wide = {n: v.astype(np.float64) for n, v in arrays.items() if n != "exams.part"}
            exams = Exams(
                {name: tuple(parts) for name, parts in config["exams"].items()},
                arrays["exams.part"],
                *(wide[f"exams.{name}"] for name in ("subjects", "steepness", "difficulty")),
            )
            population = Population(
                wide["mean"], wide["covariance"], float(config["by_price"]),
                float(config["price"]), tuple(config["llms"]), wide["means"], wide["errors"],
            )  # fmt: skip
            means = {name: wide[f"features.{name}"] for name in ("mean", "scale")}
            return cls(
                tuple(config["subjects"]),
                QueryModel(**{name: wide[name] for name in QueryModel.__slots__}),
                exams,
                population,
                QueryFeatures.from_arrays(means, config["features"]["weight"]),
                str(config["encoder"]),
                config["training"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"the scale of abilities does not hold together ({error!r}). {_REMEDY}"
            ) from error
