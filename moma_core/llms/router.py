"""Changing a trained pool without retraining: add an LLM, remove one, change a price.

Each function returns a new router that holds from the next query on; no other LLM's predictions
change. Knows no file and no preference.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from moma_core.errors import DuplicateNameError, InvalidDataError, NoTargetError
from moma_core.llm_routing.costs import (
    TYPICAL_INPUT_TOKENS,
    TYPICAL_OUTPUT_TOKENS,
    AdaptedCosts,
)
from moma_core.llm_routing.dataset import LLMDataset
from moma_core.llm_routing.heads.adapted import AdaptedHead
from moma_core.llm_routing.heads.blend import SHARPNESS, Blend, fit_blend
from moma_core.llm_routing.router import LLMRouter
from moma_core.protocols import Encoder
from moma_core.types import FloatArray, LLMCard

__all__ = ["MIN_SCORED", "add_llm", "remove_llm", "reprice_llm"]

MIN_SCORED = 10
_CAUTION = 0.05
"""How far below its likes an LLM is put of which nothing was measured."""

_DOUBT = 0.5
"""Standard errors by which a level measured on few queries is lowered: the best of many LLMs on a
small sample is the luckiest one."""

_Array = npt.NDArray[np.float64]


def add_llm(
    router: LLMRouter,
    card: LLMCard,
    scored: LLMDataset | None = None,
    encoder: Encoder | None = None,
    vectors: FloatArray | None = None,
) -> LLMRouter:
    """Return the router with one LLM more.

    With scored queries, quality and cost are blends of the other LLMs' predictions, fitted to them
    in milliseconds. From a card alone, the LLM of the nearest price stands in: a little below its
    quality (or at ``card.metadata["quality"]``, a published mean score in [0, 1], taken with the
    same caution), at its cost times the ratio of prices.

    Args:
        router: Trained on other LLMs.
        card: The new LLM.
        scored: Some 50 to 200 queries with ``score|<name>`` and ``cost|<name>``. Columns of LLMs
            of the pool sharpen the comparison: draw the queries from those it was trained on.
        encoder: Encodes ``scored``; the one that the router was trained with.
        vectors: The queries' vectors when already encoded, shape (n, d).

    Raises:
        DuplicateNameError: The name is in the pool.
        InvalidDataError: Too few queries are scored, or neither encoder nor vectors are given.
        ArtifactError: The encoder is another one than in training.
    """
    if card.name in router.names:
        raise DuplicateNameError(
            f"LLM {card.name!r} is in the pool. Remove it first, or give another name."
        )
    head, costs = _adapted(router)
    if scored is None:
        blend, by_cost, cost_bias = _from_card(router, head, costs, card)
    else:
        data, known = _measured(scored, card.name, router, encoder, vectors)
        inputs = router.features.join(data.queries, known)
        own = data.pool([card.name])
        predicted = head.base.predict(inputs).astype(np.float64)
        measured = _of_others(head, data, predicted)
        blend = fit_blend(inputs, predicted, own.scores[:, 0], measured)
        by_cost, cost_bias = costs.fit_column(data.queries, inputs, own.costs[:, 0])
    return replace(
        router,
        head=_with_column(head, (*router.cards, card), blend),
        costs=AdaptedCosts(
            costs.base,
            np.column_stack([costs.weights, by_cost]),
            np.append(costs.bias, cost_bias),
        ),
    )


def remove_llm(router: LLMRouter, name: str) -> LLMRouter:
    """Return the router without one LLM.

    Raises:
        UnknownNameError: It is not in the pool.
        NoTargetError: It is the last one.
    """
    router.card(name)
    if len(router.names) == 1:
        raise NoTargetError(f"{name!r} is the last LLM of the pool. Add another one first.")
    head, costs = _adapted(router)
    kept = [column for column, each in enumerate(router.names) if each != name]
    pull = head.pull[:, kept]
    used = pull.any(axis=1)
    changed = replace(
        router,
        head=replace(
            head,
            llms=tuple(router.cards[column] for column in kept),
            weights=head.weights[:, kept],
            bias=head.bias[kept],
            points=head.points[used],
            pull=pull[used],
        ),
        costs=AdaptedCosts(costs.base, costs.weights[:, kept], costs.bias[kept]),
    )
    if name != router.best_single:
        return changed
    dearest = max(changed.cards, key=lambda card: (card.output_price, card.name))
    return replace(changed, best_single=dearest.name)


def reprice_llm(
    router: LLMRouter,
    name: str,
    input_price: float,
    output_price: float,
    latency: float | None = None,
) -> LLMRouter:
    """Return the router with other prices of one LLM, in USD per million tokens.

    Args:
        router: With the LLM in its pool.
        name: The LLM.
        input_price: Of tokens read.
        output_price: Of tokens written.
        latency: Typical seconds to an answer; None keeps what its card says.

    Raises:
        UnknownNameError: It is not in the pool.
        InvalidCardError: A price is negative or not finite.
    """
    old = router.card(name)
    new = dataclasses.replace(
        old,
        input_price=input_price,
        output_price=output_price,
        latency=old.latency if latency is None else latency,
    )
    head, costs = _adapted(router)
    column = router.names.index(name)
    bias = costs.bias.copy()
    bias[column] += np.log(_price(new)) - np.log(_price(old))
    cards = tuple(new if card.name == name else card for card in router.cards)
    return replace(
        router, head=replace(head, llms=cards), costs=AdaptedCosts(costs.base, costs.weights, bias)
    )


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
    pull = np.zeros((old + new, len(cards)))
    pull[:old, :-1] = head.pull
    pull[old:, -1] = blend.pull
    return AdaptedHead(
        cards,
        head.base,
        np.column_stack([head.weights, blend.weights]),
        np.append(head.bias, blend.bias - _DOUBT * blend.error),
        np.concatenate([head.points, blend.points]) if old else blend.points,
        pull,
        SHARPNESS,
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
    like_it = head.pull[:, like]
    weights, bias = head.weights[:, like], float(head.bias[like])
    published = card.metadata.get("quality")
    if published is not None:
        weights, bias, like_it = np.zeros(len(weights)), float(published), np.zeros(len(like_it))
    used = like_it != 0.0
    blend = Blend(weights, bias - _CAUTION, head.points[used], like_it[used], error=0.0)
    return blend, costs.weights[:, like], float(cost_bias)


def _price(card: LLMCard) -> float:
    return max(card.usd(TYPICAL_INPUT_TOKENS, TYPICAL_OUTPUT_TOKENS), 1e-9)
