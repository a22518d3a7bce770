"""Chooses an LLM for a query (4.1): head, score table, preference; add, remove, reprice, save."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._store import prefixed, read_pair, under, write_pair
from moma_core.errors import (
    ArtifactError,
    DuplicateNameError,
    InvalidDataError,
    MoMAError,
    NoTargetError,
    ScoreError,
    UnknownNameError,
)
from moma_core.llms.costs import (
    TYPICAL_INPUT_TOKENS,
    TYPICAL_OUTPUT_TOKENS,
    AdaptedCosts,
    CostEstimator,
    build_costs,
)
from moma_core.llms.data import LLMDataset
from moma_core.llms.features import FEATURES, QueryFeatures
from moma_core.llms.heads import build_head
from moma_core.llms.heads.adapted import GAMMA, AdaptedHead, Blend, fit_blend
from moma_core.llms.heads.contract import Head
from moma_core.llms.selection import (
    POINTS,
    check_latency,
    in_time,
    parse_preference,
    preference_name,
    rank,
)
from moma_core.protocols import Encoder
from moma_core.types import Auto, Candidate, Cost, FloatArray, LLMCard, Preference, ScoreTable

__all__ = [
    "MIN_SCORED",
    "LLMRouter",
    "read_llms",
    "write_llms",
]

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
        min_gain_per_usd: Score that one more USD must bring under `Performance`; see
            `selection.choose`.
        points: Score that halving the cost is worth under ``auto``, learnt from held-out rows where
            there were any.

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
    min_gain_per_usd: float = 0.0
    points: float = POINTS

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
        wanted = self.resolved(preference)
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
            for i in rank(
                left,
                wanted,
                self.best_single,
                min_gain_per_usd=self.min_gain_per_usd,
                points=self.points,
            )
        )
        return candidates[0].name, candidates

    def resolved(self, preference: str | Preference | None) -> Preference:
        """Return the preference with what this router learnt filled in: what halving is worth.

        Raises:
            InvalidPreferenceError: No such preference.
        """
        wanted = parse_preference(preference)
        return Auto(self.points) if wanted == Auto() else wanted

    def reason(self, chosen: Candidate, preference: str | Preference | None) -> str:
        """Return in words why a preference picks an LLM.

        Example:
            >>> router = LLMRouter.packaged()
            >>> router.reason(Candidate("small", 0.8, 0.001), "auto:0.03")
            "auto picks 'small': score 0.80 at $0.001000; halving the cost is worth 0.03 of score"
        """
        wanted, cost = self.resolved(preference), chosen.cost or 0.0
        said = f"{preference_name(wanted)} picks {chosen.name!r}: score {chosen.score:.2f} at "
        said += f"${cost:.6f}"
        match wanted:
            case Auto(points=points):
                return f"{said}; halving the cost is worth {points:.3g} of score"
            case Cost(budget=float() | int() as budget) if cost > budget:
                return (
                    f"{said}; no LLM is within the budget of ${budget:.3g}, so the cheapest is "
                    "taken"
                )
        return said

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

    def add(
        self,
        card: LLMCard,
        scored: LLMDataset | None = None,
        encoder: Encoder | None = None,
        vectors: FloatArray | None = None,
    ) -> LLMRouter:
        """Return the router with one LLM more.

        With scored queries, quality and cost are blends of the other LLMs' predictions, fitted to
        them in milliseconds. From a card alone, the LLM of the nearest price stands in: a little
        below its quality (or at ``card.metadata["quality"]``, a published mean score in [0, 1],
        taken with the same caution), at its cost times the ratio of prices.

        Args:
            card: The new LLM.
            scored: Some 50 to 200 queries with ``score|<name>`` and ``cost|<name>``. Columns of
                LLMs of the pool sharpen the comparison: draw the queries from those it was trained
                on.
            encoder: Encodes ``scored``; the one that the router was trained with.
            vectors: The queries' vectors when already encoded, shape (n, d).

        Raises:
            DuplicateNameError: The name is in the pool.
            InvalidDataError: Too few queries are scored, or neither encoder nor vectors are given.
            ArtifactError: The encoder is another one than in training.
        """
        if card.name in self.names:
            raise DuplicateNameError(
                f"LLM {card.name!r} is in the pool. Remove it first, or give another name."
            )
        head, costs = _adapted(self)
        if scored is None:
            blend, by_cost, cost_bias = _from_card(self, head, costs, card)
        else:
            data, known = _measured(scored, card.name, self, encoder, vectors)
            inputs = self.features.join(data.queries, known)
            own = data.pool([card.name])
            predicted = head.base.predict(inputs).astype(np.float64)
            measured = _of_others(head, data, predicted)
            blend = fit_blend(inputs, predicted, own.scores[:, 0], measured)
            by_cost, cost_bias = costs.fit_column(data.queries, inputs, own.costs[:, 0])
        return replace(
            self,
            head=_with_column(head, (*self.cards, card), blend),
            costs=AdaptedCosts(
                costs.base,
                np.column_stack([costs.weights, by_cost]),
                np.append(costs.bias, cost_bias),
            ),
        )

    def remove(self, name: str) -> LLMRouter:
        """Return the router without one LLM.

        Raises:
            UnknownNameError: It is not in the pool.
            NoTargetError: It is the last one.
        """
        self.card(name)
        if len(self.names) == 1:
            raise NoTargetError(f"{name!r} is the last LLM of the pool. Add another one first.")
        head, costs = _adapted(self)
        kept = [column for column, each in enumerate(self.names) if each != name]
        kernel_weights = head.kernel_weights[:, kept]
        used = kernel_weights.any(axis=1)
        changed = replace(
            self,
            head=replace(
                head,
                llms=tuple(self.cards[column] for column in kept),
                weights=head.weights[:, kept],
                bias=head.bias[kept],
                points=head.points[used],
                kernel_weights=kernel_weights[used],
            ),
            costs=AdaptedCosts(costs.base, costs.weights[:, kept], costs.bias[kept]),
        )
        if name != self.best_single:
            return changed
        dearest = max(changed.cards, key=lambda card: (card.output_price, card.name))
        return replace(changed, best_single=dearest.name)

    def reprice(
        self,
        name: str,
        input_price: float,
        output_price: float,
        latency: float | None = None,
    ) -> LLMRouter:
        """Return the router with other prices of one LLM, in USD per million tokens.

        Args:
            name: The LLM.
            input_price: Of tokens read.
            output_price: Of tokens written.
            latency: Typical seconds to an answer; None keeps what its card says.

        Raises:
            UnknownNameError: It is not in the pool.
            InvalidCardError: A price is negative or not finite.
        """
        old = self.card(name)
        new = dataclasses.replace(
            old,
            input_price=input_price,
            output_price=output_price,
            latency=old.latency if latency is None else latency,
        )
        head, costs = _adapted(self)
        column = self.names.index(name)
        bias = costs.bias.copy()
        bias[column] += np.log(_price(new)) - np.log(_price(old))
        cards = tuple(new if card.name == name else card for card in self.cards)
        return replace(
            self,
            head=replace(head, llms=cards),
            costs=AdaptedCosts(costs.base, costs.weights, bias),
        )

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
        folder = resources.files("moma_core") / "packaged" / "llms"
        with resources.as_file(folder) as directory:
            return cls.load(directory)


MIN_SCORED = 10
_CAUTION = 0.05
"""How far below its likes an LLM is put of which nothing was measured."""

_DOUBT = 0.5
"""Standard errors by which a level measured on few queries is lowered: the best of many LLMs on a
small sample is the luckiest one."""


def _adapted(router: LLMRouter) -> tuple[AdaptedHead, AdaptedCosts]:
    m = len(router.cards)
    head, costs = router.head, router.costs
    if not isinstance(head, AdaptedHead):
        head = AdaptedHead.over(head, router.cards)
    if not isinstance(costs, AdaptedCosts):
        costs = AdaptedCosts(costs, np.eye(m), np.zeros(m))
    return head, costs


def _with_column(head: AdaptedHead, cards: tuple[LLMCard, ...], blend: Blend) -> AdaptedHead:
    """Return the head with one LLM more, a little below what the blend expects of it."""
    old, new = len(head.points), len(blend.points)
    kernel_weights = np.zeros((old + new, len(cards)))
    kernel_weights[:old, :-1] = head.kernel_weights
    kernel_weights[old:, -1] = blend.kernel_weights
    return AdaptedHead(
        cards,
        head.base,
        np.column_stack([head.weights, blend.weights]),
        np.append(head.bias, blend.bias - _DOUBT * blend.error),
        np.concatenate([head.points, blend.points]) if old else blend.points,
        kernel_weights,
        GAMMA,
    )


def _measured(
    scored: LLMDataset,
    name: str,
    router: LLMRouter,
    encoder: Encoder | None,
    vectors: FloatArray | None,
) -> tuple[LLMDataset, FloatArray]:
    own = scored.pool([name])
    rows = ~(np.isnan(own.scores) | np.isnan(own.costs))[:, 0]
    if rows.sum() < MIN_SCORED:
        raise InvalidDataError(
            f"{int(rows.sum())} scored queries of LLM {name!r} are too few; give {MIN_SCORED} or "
            "more (100 are good), or add it from its card alone."
        )
    if vectors is not None:
        return scored.take(rows), vectors[rows]
    if encoder is None:
        raise InvalidDataError("give the encoder, or the vectors of the scored queries.")
    router.check_encoder(encoder.fingerprint)
    return scored.take(rows), encoder.encode(scored.take(rows).queries)


def _of_others(head: AdaptedHead, data: LLMDataset, predicted: _Array) -> _Array:
    """Return how good the base's LLMs were there: measured where known, else as predicted."""
    quality = predicted.copy()
    for column, card in enumerate(head.base.llms):
        if card.name in data.llms:
            measured = data.scores[:, data.llms.index(card.name)]
            quality[:, column] = np.where(np.isnan(measured), quality[:, column], measured)
    return quality


def _from_card(
    router: LLMRouter, head: AdaptedHead, costs: AdaptedCosts, card: LLMCard
) -> tuple[Blend, _Array, float]:
    gaps = [abs(np.log(_price(card)) - np.log(_price(other))) for other in router.cards]
    like = int(np.argmin(gaps))
    cost_bias = costs.bias[like] + np.log(_price(card)) - np.log(_price(router.cards[like]))
    like_it = head.kernel_weights[:, like]
    weights, bias = head.weights[:, like], float(head.bias[like])
    published = card.metadata.get("quality")
    if published is not None:
        weights, bias, like_it = np.zeros(len(weights)), float(published), np.zeros(len(like_it))
    used = like_it != 0.0
    blend = Blend(weights, bias - _CAUTION, head.points[used], like_it[used], error=0.0)
    return blend, costs.weights[:, like], float(cost_bias)


def _price(card: LLMCard) -> float:
    return max(card.usd(TYPICAL_INPUT_TOKENS, TYPICAL_OUTPUT_TOKENS), 1e-9)


_FILES = "head.json", "head.safetensors"
_REMEDY = "Train it anew (moma train llms --data D.parquet --out DIR) or restore it from a copy."


def write_llms(router: LLMRouter, directory: str | Path) -> None:
    """Save a router into ``directory``, which is made if absent.

    Raises:
        ArtifactError: The directory cannot be written.
    """
    arrays = {
        **prefixed("head.", router.head.arrays()),
        **prefixed("costs.", router.costs.arrays()),
        **prefixed("features.", router.features.arrays()),
    }
    config = {
        "encoder": {"fingerprint": router.encoder_fingerprint, "dimension": router.dimension},
        "llms": [dataclasses.asdict(_plain(card)) for card in router.cards],
        "best_single": router.best_single,
        "min_gain_per_usd": router.min_gain_per_usd,
        "points": router.points,
        "head": {"kind": router.head.kind, **router.head.config()},
        "costs": {"kind": router.costs.kind, **router.costs.config()},
        "features": {"names": list(FEATURES), "weight": router.features.weight},
        "training": dict(router.metadata),
    }
    write_pair(Path(directory), _FILES, config, arrays)


def read_llms(directory: str | Path) -> dict[str, Any]:
    """Return the keyword arguments of `LLMRouter` from ``directory``.

    Raises:
        ArtifactError: A file is missing, truncated, changed, or of another version.
    """
    source = Path(directory)
    config, arrays = read_pair(source, _FILES, _REMEDY)
    try:
        llms = tuple(LLMCard(**card) for card in config["llms"])
        parts = {
            "head": build_head(config["head"], llms, under("head.", arrays)),
            "costs": build_costs(config["costs"], llms, under("costs.", arrays)),
            "features": QueryFeatures.from_arrays(
                under("features.", arrays), config["features"]["weight"]
            ),
            "encoder_fingerprint": config["encoder"]["fingerprint"],
            "dimension": config["encoder"]["dimension"],
            "best_single": config["best_single"],
            "metadata": dict(config["training"]),
            "min_gain_per_usd": _not_negative("min_gain_per_usd", config),
            "points": _not_negative("points", config),
        }
        _probe(parts, config["features"]["names"], len(llms))
    except _UNFIT as error:
        raise ArtifactError(
            f"{str(source)!r} does not hold together ({error!r}). {_REMEDY}"
        ) from error
    return parts


_UNFIT = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, MoMAError)


def _probe(parts: Mapping[str, Any], feature_names: list[str], n_llms: int) -> None:
    """Predict for one query, so that parts of unlike shapes are found at load and not in use."""
    if tuple(feature_names) != FEATURES:
        raise ValueError("trained with other text features")
    inputs = parts["features"].join(["?"], np.zeros((1, parts["dimension"]), np.float32))
    for values in (parts["head"].predict(inputs), parts["costs"].predict(["?"], inputs)):
        if values.shape != (1, n_llms) or not np.isfinite(values).all():
            raise ValueError(f"expected finite predictions for {n_llms} LLMs, got {values!r}")


def _plain(card: LLMCard) -> LLMCard:
    return dataclasses.replace(card, metadata=dict(card.metadata))


def _not_negative(name: str, config: Mapping[str, Any]) -> float:
    value = float(config[name])
    if not 0.0 <= value < np.inf:
        raise ValueError(f"expected {name} of zero or more, got {value!r}")
    return value
