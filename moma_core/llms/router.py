"""Chooses an LLM for a query (4.1): head, score table, preference; add, remove, reprice, save."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._store import prefixed, read_pair, under, write_pair
from moma_core.decision import Candidate, ScoreTable
from moma_core.errors import (
    ArtifactError,
    DuplicateNameError,
    InvalidCardError,
    InvalidDataError,
    InvalidInputError,
    MoMAError,
    NoTargetError,
    ScoreError,
    UnknownNameError,
)
from moma_core.llms.abilities import AbilityScale
from moma_core.llms.costs import (
    TYPICAL_INPUT_TOKENS,
    TYPICAL_OUTPUT_TOKENS,
    AdaptedCosts,
    CostEstimator,
    PricedCosts,
    Sent,
    Usage,
    build_costs,
    count_tokens,
)
from moma_core.llms.data import LLMDataset
from moma_core.llms.features import FEATURES, QueryFeatures
from moma_core.llms.heads import build_head
from moma_core.llms.heads.ability import AbilityHead
from moma_core.llms.heads.adapted import GAMMA, AdaptedHead, Blend, fit_blend
from moma_core.llms.heads.contract import Head
from moma_core.llms.heads.joined import JoinedHead
from moma_core.llms.prices import listed_card
from moma_core.llms.selection import POINTS, check_latency, in_time, rank
from moma_core.protocols import Encoder
from moma_core.types import (
    Auto,
    Cost,
    FloatArray,
    LLMCard,
    Preference,
    nearest,
    parse_preference,
    preference_name,
)

__all__ = [
    "MIN_SCORED",
    "LLMRouter",
    "pool_for",
    "pool_of",
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
        usage: Factors of the costs, learnt from real usage.
        margin: Predicted lead that another LLM must have over the best single one under
            ``performance``, learnt from held-out rows.

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
    usage: Usage = field(default_factory=Usage)
    margin: float = 0.0

    @classmethod
    def from_cards(
        cls, cards: Iterable[LLMCard | str], scale: AbilityScale | None = None
    ) -> LLMRouter:
        """Return a pool of your own LLMs, known by their cards alone.

        Each is placed on a scale of abilities by subject by what its card tells: published scores
        (``quality``), an LLM that it resembles (``like``), else its price. The query's subject and
        difficulty are predicted, so that hard queries go to able LLMs on the first day; quality is
        the probability to be right, averaged over what is not known (`spread`).

        Args:
            cards: The LLMs; a text is a name in litellm's table of prices (`listed_card`).
            scale: By default the packaged one.

        Raises:
            InvalidInputError: There is no card, or something else than a card or a name.
            InvalidCardError: A card is like an unknown LLM, or names an unknown benchmark; or the
                price of a name is not listed.
            DuplicateNameError: Two LLMs share a name.

        Example:
            >>> pool = LLMRouter.from_cards([
            ...     LLMCard("small", 0.1, 0.4, quality={"mmlu_pro": 0.55}),
            ...     LLMCard("large", 2.0, 8.0, quality={"mmlu_pro": 0.85, "math": 0.95}),
            ... ])
            >>> pool.names, pool.best_single
            (('small', 'large'), 'large')
        """
        known = scale or AbilityScale.packaged()
        pool = _checked_cards(cards)
        head = AbilityHead.place(pool, known)
        return cls(
            head=head,
            costs=PricedCosts(pool, length=known.model.length),
            features=known.features,
            encoder_fingerprint=known.encoder_fingerprint,
            dimension=known.dimension,
            best_single=head.best(),
            metadata={"placed": "by cards alone", "scale": dict(known.metadata)},
        )

    @property
    def cards(self) -> tuple[LLMCard, ...]:
        """The LLMs, in the order of scores and costs."""
        return self.head.llms

    @property
    def names(self) -> tuple[str, ...]:
        """Names of `cards`."""
        return tuple(card.name for card in self.head.llms)

    def predict(
        self,
        texts: Sequence[str],
        vectors: FloatArray,
        sent: Sequence[Sent] | None = None,
    ) -> tuple[_Array, _Array]:
        """Return quality in [0, 1] and USD, both of shape (n, m).

        Args:
            texts: The queries' words, length n.
            vectors: Their unit vectors, shape (n, d).
            sent: What the LLM would read with each query; None: the query alone.

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
        quality = self.head.predict(inputs).astype(np.float64)
        costs = np.maximum(self.costs.predict(texts, inputs) + self._beyond(texts, sent), 0.0)
        return quality, costs * self.usage.factors(self.names)

    def _beyond(self, texts: Sequence[str], sent: Sequence[Sent] | None) -> _Array:
        """Return USD of the tokens that `costs` does not see, at the cards' prices, (n, m)."""
        own = np.array([count_tokens(text) for text in texts], np.float64)
        read = own if sent is None else np.maximum([each.tokens for each in sent], own)
        price = np.array([card.input_price for card in self.cards]) / 1e6
        usd = (read - np.minimum(own, self.costs.longest))[:, None] * price
        for row, each in enumerate(sent or ()):
            if each.cached and each.last in self.names:
                card = self.card(each.last)
                saved = card.usd(each.cached, 0.0) - card.usd(each.cached, 0.0, each.cached)
                usd[row, self.names.index(each.last)] -= saved
        return usd

    def spread(self, texts: Sequence[str], vectors: FloatArray) -> _Array:
        """Return how uncertain quality is where LLMs are known by their cards alone, (n, m).

        Standard deviations; zero for LLMs that were trained on scores.
        """
        inputs = self.features.join(texts, vectors)
        doubt = np.zeros((len(texts), len(self.names)))
        for part in _placing(self.head):
            for card, values in zip(part.llms, part.spread(inputs).T, strict=True):
                if card.name in self.names:
                    doubt[:, self.names.index(card.name)] = values
        return doubt

    def observe(self, name: str, expected: float, real: float) -> None:
        """Learn what a call really cost: later costs of this LLM are corrected by the usual ratio.

        Args:
            name: The LLM that was asked, ``decision.target``.
            expected: USD that was expected, ``decision.cost``.
            real: USD that was paid.

        Raises:
            UnknownNameError: It is not in the pool.
            InvalidInputError: A cost is negative or no number.
        """
        self.card(name)
        self.usage.observe(name, expected, real)

    def paid(
        self,
        name: str,
        input_tokens: float,
        output_tokens: float,
        cached_tokens: float = 0.0,
        *,
        expected: float | None = None,
    ) -> float | None:
        """Return USD of a call by its tokens; `observe` it where it was expected to cost something.

        Args:
            name: The LLM that was asked.
            input_tokens: Tokens read, those from the cache among them.
            output_tokens: Tokens written.
            cached_tokens: Tokens read from the provider's cache.
            expected: USD that was expected, None where nobody asked.

        Returns:
            None where the card has no price list's prices.

        Raises:
            UnknownNameError: It is not in the pool.

        Example:
            >>> pool = LLMRouter.from_cards([LLMCard("small", 1.0, 2.0)])
            >>> pool.paid("small", 1_000, 500, expected=0.001)
            0.002
            >>> pool.usage.factors(["small"]).round(2).tolist()
            [1.12]
        """
        card = self.card(name)
        if card.metadata.get("price") == "indicative":
            return None
        real = card.usd(input_tokens, output_tokens, cached_tokens)
        if expected is not None:
            self.observe(name, expected, real)
        return real

    def score(self, query_text: str, vector: FloatArray, sent: Sent | None = None) -> ScoreTable:
        """Return predicted quality and cost of each LLM on one query; vector of shape (d,)."""
        return self.score_batch(
            [query_text], np.asarray(vector)[None], None if sent is None else [sent]
        )[0]

    def score_batch(
        self, texts: Sequence[str], vectors: FloatArray, sent: Sequence[Sent] | None = None
    ) -> list[ScoreTable]:
        """Return one table a query; vectors of shape (n, d), ``sent`` as in `predict`."""
        scores, costs = self.predict(texts, vectors, sent)
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
            preference: See `types.parse_preference`; None means auto.
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
                margin=self.margin,
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
        if any(card.name == chosen.name for part in _placing(self.head) for card in part.llms):
            said += " by its card alone"
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

    def too_small(self, tokens: float) -> frozenset[str]:
        """Return the LLMs whose known window holds fewer tokens; none where all are too small.

        Example:
            >>> pool = LLMRouter.from_cards([
            ...     LLMCard("short", 0.1, 0.4, context_window=8_000), LLMCard("long", 0.2, 0.8)
            ... ])
            >>> pool.too_small(10_000), pool.too_small(1_000)
            (frozenset({'short'}), frozenset())
        """
        found = {
            card.name
            for card in self.cards
            if card.context_window is not None and card.context_window < tokens
        }
        return frozenset() if len(found) == len(self.cards) else frozenset(found)

    def card(self, name: str) -> LLMCard:
        """Return the card of an LLM.

        Raises:
            UnknownNameError: It is not in the pool.
        """
        for card in self.cards:
            if card.name == name:
                return card
        raise UnknownNameError(f"no LLM {name!r} is in the pool. {nearest(name, self.names)}")

    def add(
        self,
        card: LLMCard | str,
        scored: LLMDataset | None = None,
        encoder: Encoder | None = None,
        vectors: FloatArray | None = None,
    ) -> LLMRouter:
        """Return the router with one LLM more.

        With scored queries, quality and cost are blends of the other LLMs' predictions, fitted to
        them in milliseconds. From a card alone, published scores by benchmark place it on the scale
        of abilities (`from_cards`). A card that says less stands a little below the LLM of the pool
        that it is ``like``, else of the nearest price; one number for its quality, a mean score on
        queries like the pool's, is taken with the same caution. Its cost is that LLM's times the
        ratio of prices.

        Args:
            card: The new LLM, or a name in litellm's table of prices.
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
        card = listed_card(card) if isinstance(card, str) else card
        if card.name in self.names:
            raise DuplicateNameError(
                f"LLM {card.name!r} is in the pool. Remove it first, or give another name."
            )
        if scored is None and (placed := _placed(self, card)) is not None:
            return placed
        head = _adapted(self)
        cards = (*self.cards, card)
        if scored is None:
            like = _alike(self, card)
            blend = _from_card(head, card, like)
            return replace(
                self, head=_with_column(head, cards, blend), costs=_costs_like(self, card, like)
            )
        data, known = _measured(scored, card.name, self, encoder, vectors)
        inputs = self.features.join(data.queries, known)
        own = data.pool([card.name])
        predicted = head.base.predict(inputs).astype(np.float64)
        blend = fit_blend(inputs, predicted, own.scores[:, 0], _of_others(head, data, predicted))
        costs, usage = _measured_costs(self, cards, data.queries, inputs, own.costs[:, 0])
        return replace(self, head=_with_column(head, cards, blend), costs=costs, usage=usage)

    def remove(self, name: str) -> LLMRouter:
        """Return the router without one LLM.

        Raises:
            UnknownNameError: It is not in the pool.
            NoTargetError: It is the last one.
        """
        self.card(name)
        if len(self.names) == 1:
            raise NoTargetError(f"{name!r} is the last LLM of the pool. Add another one first.")
        kept = [column for column, each in enumerate(self.names) if each != name]
        cards = tuple(self.cards[column] for column in kept)
        head, costs = _changeable(self).only(kept, cards), _costs_of(self, kept, cards)
        changed = replace(self, head=head, costs=costs)
        if name != self.best_single:
            return changed
        dearest = max(changed.cards, key=lambda card: (card.output_price, card.name)).name
        best = head.best() if isinstance(head, AbilityHead) else dearest
        return replace(changed, best_single=best, margin=0.0)

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
        column = self.names.index(name)
        cards = tuple(new if card.name == name else card for card in self.cards)
        costs = _costs_of(self, range(len(cards)), cards)
        if isinstance(costs, AdaptedCosts):
            costs.bias[column] += np.log(_price(new)) - np.log(_price(old))
        head = _changeable(self).only(range(len(cards)), cards)
        return replace(self, head=head, costs=costs)

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


def _placing(head: Head) -> list[AbilityHead]:
    """Return the parts of a head that know LLMs by their cards alone."""
    base = head.base if isinstance(head, AdaptedHead) else head
    parts = base.parts if isinstance(base, JoinedHead) else (base,)
    return [part for part in parts if isinstance(part, AbilityHead)]


def _adapted(router: LLMRouter) -> AdaptedHead:
    if isinstance(router.head, AdaptedHead):
        return router.head
    return AdaptedHead.over(router.head, router.cards)


def _changeable(router: LLMRouter) -> AdaptedHead | AbilityHead:
    return router.head if isinstance(router.head, AbilityHead) else _adapted(router)


def _placed(router: LLMRouter, card: LLMCard) -> LLMRouter | None:
    """Return the pool with a card placed on the scale of abilities, None where it says too little.

    In a pool of cards every card is placed; beside trained LLMs, one with scores by benchmark or
    like a well-known LLM, where the scale is of the pool's encoder.
    """
    if isinstance(router.head, AbilityHead):
        head = router.head.with_card(card)
        costs = _costs_like(router, card, 0)
        return replace(router, head=head, costs=costs, best_single=head.best())
    adapted = _adapted(router)
    base = _with_placed(adapted.base, card, router)
    if base is None:
        return None
    return replace(
        router,
        head=adapted.over_more(base, (*router.cards, card)),
        costs=_costs_like(router, card, _alike(router, card)),
    )


def _with_placed(base: Head, card: LLMCard, router: LLMRouter) -> Head | None:
    """Return a base head with a card placed after its LLMs, None where that cannot be."""
    if isinstance(base, AbilityHead):
        return base.with_card(card)
    parts = base.parts if isinstance(base, JoinedHead) else (base,)
    last = parts[-1] if isinstance(parts[-1], AbilityHead) else None
    scale = AbilityScale.packaged() if last is None else last.scale
    known = {*scale.population.names, *(each.name for each in (last.llms if last else ()))}
    if not isinstance(card.quality, Mapping) and card.like not in known:
        return None
    if scale.encoder_fingerprint != router.encoder_fingerprint:
        return None
    told = card if card.like in known else replace(card, like=None)
    if last is not None:
        return JoinedHead((*parts[:-1], last.with_card(told)))
    return JoinedHead((*parts, AbilityHead.place((told,), scale.reading(router.features))))


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


def _alike(router: LLMRouter, card: LLMCard) -> int:
    """Return the column of the LLM that a card is like, else of the nearest price.

    Raises:
        InvalidCardError: It is like an LLM that is nowhere known.
    """
    if card.like in router.names:
        return router.names.index(card.like)
    if card.like is not None and card.like not in AbilityScale.packaged().population.names:
        raise InvalidCardError(
            f"LLM {card.name!r} is like {card.like!r}, which is unknown. Name one of the pool: "
            f"{', '.join(router.names)}."
        )
    gaps = [abs(np.log(_price(card)) - np.log(_price(other))) for other in router.cards]
    return int(np.argmin(gaps))


def _from_card(head: AdaptedHead, card: LLMCard, like: int) -> Blend:
    like_it = head.kernel_weights[:, like]
    weights, bias = head.weights[:, like], float(head.bias[like])
    published = card.metadata.get("quality") if card.quality is None else card.quality
    if isinstance(published, Mapping):
        published = sum(published.values()) / len(published)
    if published is not None:
        weights, bias, like_it = np.zeros(len(weights)), float(published), np.zeros(len(like_it))
    used = like_it != 0.0
    return Blend(weights, bias - _CAUTION, head.points[used], like_it[used], error=0.0)


def _costs_of(
    router: LLMRouter, kept: Sequence[int], cards: tuple[LLMCard, ...]
) -> PricedCosts | AdaptedCosts:
    """Return the costs of some columns under new cards; prices in an `AdaptedCosts` stay."""
    costs = router.costs
    if isinstance(costs, PricedCosts):
        return replace(costs, llms=cards)
    if not isinstance(costs, AdaptedCosts):
        m = len(router.cards)
        costs = AdaptedCosts(costs, np.eye(m), np.zeros(m))
    return AdaptedCosts(costs.base, costs.weights[:, list(kept)], costs.bias[list(kept)].copy())


def _costs_like(router: LLMRouter, card: LLMCard, like: int) -> CostEstimator:
    """Return the costs with a column more: another one's, at the ratio of prices."""
    costs = _costs_of(router, range(len(router.cards)), (*router.cards, card))
    if isinstance(costs, PricedCosts):
        return costs
    bias = costs.bias[like] + np.log(_price(card)) - np.log(_price(router.cards[like]))
    return AdaptedCosts(
        costs.base,
        np.column_stack([costs.weights, costs.weights[:, like]]),
        np.append(costs.bias, bias),
    )


def _measured_costs(
    router: LLMRouter,
    cards: tuple[LLMCard, ...],
    texts: Sequence[str],
    inputs: FloatArray,
    spent: _Array,
) -> tuple[CostEstimator, Usage]:
    """Return the costs of the pool with one LLM more whose costs were measured, and its usage."""
    costs = _costs_of(router, range(len(router.cards)), cards)
    if isinstance(costs, AdaptedCosts):
        by_cost, bias = costs.fit_column(texts, inputs, spent)
        weights = np.column_stack([costs.weights, by_cost])
        return AdaptedCosts(costs.base, weights, np.append(costs.bias, bias)), router.usage
    usage = Usage(router.usage.to_dict())
    usage.expect(cards[-1].name, costs.predict(texts, inputs)[:, -1], spent)
    return costs, usage


def pool_of(llms: Any) -> Any:
    """Return the pool of a list of cards or names; anything else as it is."""
    if isinstance(llms, str | LLMRouter) or not isinstance(llms, Iterable):
        return llms
    return LLMRouter.from_cards(llms)


def pool_for(
    names: Collection[str], cards: Iterable[LLMCard | str], describe: Callable[[str], LLMCard]
) -> LLMRouter:
    """Return a pool for LLMs that somebody has clients of: known by cards, or the packaged one.

    Args:
        names: Of the clients.
        cards: What is known of them.
        describe: Returns the card of one that has none, or raises `InvalidCardError`.

    Raises:
        InvalidCardError: Too little is known of one.
        UnknownNameError: A card's name is none of the clients'.
    """
    given = {card.name: card for card in _checked_cards(cards)} if cards else {}
    for name in given:
        if name not in names:
            raise UnknownNameError(
                f"there is a card of LLM {name!r}, but no such LLM; there are {sorted(names)}. "
                "Give them the same name."
            )
    if not given and (packaged := LLMRouter.packaged()) and set(names) <= set(packaged.names):
        return packaged
    return LLMRouter.from_cards([given.get(name) or describe(name) for name in names])


def _checked_cards(cards: Iterable[LLMCard | str]) -> tuple[LLMCard, ...]:
    pool = tuple(listed_card(card) if isinstance(card, str) else card for card in cards)
    if not pool or not all(isinstance(card, LLMCard) for card in pool):
        raise InvalidInputError(
            f"a pool is a list of LLMCard, at least one, got {list(pool)!r:.60}. Write "
            "llms=[LLMCard('gpt-5-mini', 0.25, 2.0, quality={'mmlu_pro': 0.8})]."
        )
    for place, card in enumerate(pool):
        if card.name in {before.name for before in pool[:place]}:
            raise DuplicateNameError(f"two LLMs are called {card.name!r}. Rename one.")
    return pool


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
        "margin": router.margin,
        "usage": router.usage.to_dict(),
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
            "margin": _not_negative("margin", {"margin": 0.0, **config}),
            "usage": Usage(config.get("usage")),
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
    quality = dict(card.quality) if isinstance(card.quality, Mapping) else card.quality
    return dataclasses.replace(card, metadata=dict(card.metadata), quality=quality)


def _not_negative(name: str, config: Mapping[str, Any]) -> float:
    value = float(config[name])
    if not 0.0 <= value < np.inf:
        raise ValueError(f"expected {name} of zero or more, got {value!r}")
    return value
