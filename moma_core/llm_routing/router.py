"""Chooses an LLM for a query (4.1): head -> score table -> Pareto front -> preference.

Receives the query's vector; encodes nothing itself, and knows no agent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import ArtifactError, NoTargetError, ScoreError, UnknownNameError
from moma_core.llm_routing.checkpoint import read_llms, write_llms
from moma_core.llm_routing.costs import CostEstimator
from moma_core.llm_routing.features import QueryFeatures
from moma_core.llm_routing.heads.contract import Head
from moma_core.selection import check_latency, in_time, parse_preference, rank
from moma_core.types import Candidate, FloatArray, LLMCard, Preference, ScoreTable

__all__ = ["LLMRouter"]

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LLMRouter:
    """Scores every LLM of its pool on a query and picks one by preference.

    Args:
        head: Predicts quality from the query's inputs.
        costs: Expects USD from the same inputs.
        features: Joins vectors and text features into inputs.
        encoder_fingerprint: The encoder whose vectors it was trained on.
        dimension: Length of those vectors.
        best_single: The LLM that was best on the training data; sets the default cost budget.
        metadata: What it was trained on, JSON-like.
        thrift: Score that one more USD must bring under `Performance`; see `selection.choose`.

    Example:
        >>> router = LLMRouter.packaged()
        >>> table = router.score("What is 17 * 23?", np.zeros(router.dimension, np.float32))
        >>> name, candidates = router.select(table, "performance")
        >>> name == candidates[0].name
        True
    """

    head: Head
    costs: CostEstimator
    features: QueryFeatures
    encoder_fingerprint: str
    dimension: int
    best_single: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    thrift: float = 0.0

    @property
    def cards(self) -> tuple[LLMCard, ...]:
        """The LLMs, in the order of scores and costs."""
        return self.head.llms

    @property
    def names(self) -> tuple[str, ...]:
        """Names of `cards`."""
        return tuple(card.name for card in self.head.llms)

    def predict(self, texts: Sequence[str], vectors: FloatArray) -> tuple[_Array, _Array]:
        """Return quality in [0, 1] and USD, both of shape (n, m).

        Args:
            texts: The queries' words, length n.
            vectors: Their unit vectors, shape (n, d).

        Raises:
            ScoreError: The vectors are not of this router's encoder, or not finite.
        """
        vectors = np.asarray(vectors, np.float32)
        if vectors.shape != (len(texts), self.dimension):
            raise ScoreError(
                f"expected vectors of shape {(len(texts), self.dimension)} from encoder "
                f"{self.encoder_fingerprint!r}, got {vectors.shape}. Pass that encoder's vectors."
            )
        if not np.isfinite(vectors).all():
            raise ScoreError("a query's vector is not finite. Check the encoder that made it.")
        inputs = self.features.join(texts, vectors)
        return self.head.predict(inputs).astype(np.float64), self.costs.predict(texts, inputs)

    def score(self, query_text: str, vector: FloatArray) -> ScoreTable:
        """Return predicted quality and cost of each LLM on one query; vector of shape (d,)."""
        return self.score_batch([query_text], np.asarray(vector)[None])[0]

    def score_batch(self, texts: Sequence[str], vectors: FloatArray) -> list[ScoreTable]:
        """Return one table a query; vectors of shape (n, d)."""
        scores, costs = self.predict(texts, vectors)
        names = self.names
        return [ScoreTable(names, *row) for row in zip(scores, costs, strict=True)]

    def select(
        self,
        table: ScoreTable,
        preference: str | Preference | None = None,
        exclude: Collection[str] = (),
        max_latency: float | None = None,
    ) -> tuple[str, tuple[Candidate, ...]]:
        """Return the chosen LLM and every candidate in order of preference, the chosen one first.

        Args:
            table: From `score`.
            preference: See `selection.parse_preference`; None means auto.
            exclude: Names that may not be chosen now (disabled, failing); others are ignored.
            max_latency: Most seconds, by `LLMCard.latency`; the fastest LLM where none is in time.

        Raises:
            InvalidPreferenceError: No such preference, or a latency that is no number.
            NoTargetError: No LLM is left.
        """
        wanted = parse_preference(preference)
        limit = check_latency(max_latency)
        kept = [i for i, name in enumerate(table.names) if name not in exclude]
        if not kept:
            raise NoTargetError(
                f"none of the {len(table.names)} LLMs may be chosen. Enable one, or train a pool "
                "with moma train llms."
            )
        seconds = self.latencies([table.names[i] for i in kept])
        kept = [i for i, fits in zip(kept, in_time(seconds, limit), strict=True) if fits]
        left = ScoreTable(
            tuple(table.names[i] for i in kept), table.scores[kept], table.costs[kept]
        )
        candidates = tuple(
            Candidate(left.names[i], float(left.scores[i]), float(left.costs[i]))
            for i in rank(left, wanted, self.best_single, self.thrift)
        )
        return candidates[0].name, candidates

    def latencies(self, names: Sequence[str]) -> list[float | None]:
        """Return the typical seconds of LLMs by their cards, None where not known."""
        known = {card.name: card.latency for card in self.cards}
        return [known.get(name) for name in names]

    def card(self, name: str) -> LLMCard:
        """Return the card of an LLM.

        Raises:
            UnknownNameError: It is not in the pool.
        """
        for card in self.cards:
            if card.name == name:
                return card
        raise UnknownNameError(f"no LLM {name!r} in the pool; there are {list(self.names)}.")

    def check_encoder(self, fingerprint: str) -> None:
        """Refuse another encoder than the one this router was trained with.

        Raises:
            ArtifactError: The fingerprints differ.
        """
        if fingerprint != self.encoder_fingerprint:
            raise ArtifactError(
                f"this LLM router was trained on vectors of {self.encoder_fingerprint!r}, the "
                f"encoder is {fingerprint!r}. Use that encoder, or train anew: moma train llms."
            )

    def save(self, directory: str | Path) -> None:
        """Write ``head.json`` and ``head.safetensors`` into ``directory``.

        Raises:
            ArtifactError: It cannot be written.
        """
        write_llms(self, directory)

    @classmethod
    def load(cls, directory: str | Path) -> LLMRouter:
        """Read what `save` wrote.

        Raises:
            ArtifactError: A file is missing, truncated, changed, or of another version.
        """
        return cls(**read_llms(directory))

    @classmethod
    def packaged(cls) -> LLMRouter:
        """Return the router that ships here; its ``metadata`` says what it learnt from."""
        folder = resources.files("moma_core.llm_routing") / "packaged"
        with resources.as_file(folder) as directory:
            return cls.load(directory)
