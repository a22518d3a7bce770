"""From scored queries with answers to a `CascadeRouter`: head, hidden difficulty, shortlist.

The difficulty is fitted on held-out predictions, so it knows how far the head can be trusted. The
shortlist holds LLMs worth their money; of many, those whose cascades are expected to earn most.
Looking at the length of an LLM's answer is kept where it has earned something on training queries,
and so is asking more than once: where answers tell nothing, the result asks one LLM a query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidDataError, InvalidInputError
from moma_core.llm_routing.cascades.difficulty import SharedDifficulty
from moma_core.llm_routing.cascades.router import RATES, CascadeRouter
from moma_core.llm_routing.cascades.tree import replay
from moma_core.llm_routing.dataset import LLMDataset
from moma_core.llm_routing.training import Progress, Trained, train_pool
from moma_core.protocols import Encoder
from moma_core.types import FloatArray

__all__ = ["MAX_DEPTH", "MAX_SHORTLIST", "check_answers", "train_cascade"]

MAX_DEPTH = 4
MAX_SHORTLIST = 5
_JUDGED = 300
_REPLAYED = 20_000
_TRIED, _NOISE = 3, 2.0
_PAYS = 1.0
"""Standard errors by which cascades must beat one call; `_NOISE` guards the best of several."""
_TOLERANCE = 0.02
_WEAKEST = 0.6
_CHEAP = 0.3
_WITNESS = 0.55
_JUDGED_RATES = (2, 4, 6, 8)
"""Columns of `RATES` at which shortlists are compared."""
_REPLAYED_RATES = range(1, 11)
"""Columns of `RATES` at which plans are replayed: all but the ends, since few rates are noisy."""

_Array = npt.NDArray[np.float64]


def train_cascade(
    dataset: LLMDataset,
    encoder: Encoder,
    head: str = "auto",
    seed: int = 0,
    prices: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    vectors: FloatArray | None = None,
    depth: int = MAX_DEPTH,
) -> CascadeRouter:
    """Train a router that plans cascades for the dataset's pool of LLMs.

    Args:
        dataset: Scored queries with answers (columns ``answer|<llm>``).
        encoder: Turns queries into vectors.
        head: As for `training.train`.
        seed: Of every random choice.
        prices: As for `training.train`.
        progress: Called after each step.
        vectors: The queries' vectors when already encoded, shape (n, d).
        depth: Most calls of a plan, 1 to 4; 1 is a plain choice.

    Returns:
        The router; its ``metadata["held_out_gain"]`` is the mean and standard error of what
        cascades earn over one call on queries that the head did not see (score - rate * cost, mean
        of rates). Where the mean is not above the error, it has ``depth`` 1 and all LLMs.

    Raises:
        InvalidInputError: No such head, or a depth out of bounds.
        InvalidDataError: The table has no answers, or too few queries.
    """
    if not 1 <= depth <= MAX_DEPTH:
        raise InvalidInputError(f"a cascade asks 1 to {MAX_DEPTH} LLMs, got depth={depth!r}.")
    check_answers(dataset)
    trained = train_pool(dataset, encoder, head, seed, prices, progress, vectors)
    answers = trained.data.answers
    assert answers is not None  # noqa: S101 - checked above
    difficulty = SharedDifficulty.fit(
        trained.held_out, trained.expected, trained.data.scores, trained.costs, answers
    )
    names = trained.router.names
    single = names.index(trained.router.best_single)
    unit = float(trained.costs[:, single].mean())
    facts = {"strategy": "cascade", "seed": seed, "rates": list(RATES)}
    everyone = tuple(names[llm] for llm in _by_cost(range(len(names)), trained.costs.mean(axis=0)))
    once = CascadeRouter(trained.router, difficulty, everyone, 1, unit, metadata=facts)
    return once if depth == 1 else _with_calls(once, depth, trained)


def _with_calls(once: CascadeRouter, depth: int, trained: Trained) -> CascadeRouter:
    """Return the router with cascades over the same pool, or as it is where they earn no more."""
    single = once.base.best_single
    router = replace(once, depth=depth, shortlist=(single,))
    router = replace(router, shortlist=_shortlist(router, trained, once.base.names.index(single)))
    watched, earned = _watched(router, trained)
    gain = earned - _earned(once, trained)
    mean, noise = float(gain.mean()), float(gain.std()) / np.sqrt(len(gain))
    facts = {**once.metadata, "held_out_gain": [round(mean, 5), round(noise, 5)]}
    if mean > _PAYS * noise:
        return replace(router, watched=watched, metadata=facts)
    return replace(once, metadata=facts)


def check_answers(dataset: LLMDataset) -> None:
    """Refuse a dataset without answers.

    Raises:
        InvalidDataError: It has none.
    """
    if dataset.answers is None or (dataset.answers < 0).all():
        raise InvalidDataError(
            "a cascade looks at answers, but the table has no readable column 'answer|<llm>'. Add "
            "the final answer of each LLM, or choose one LLM a query: --strategy single."
        )


def _shortlist(router: CascadeRouter, trained: Trained, single: int) -> tuple[str, ...]:
    """Return the LLMs that cascades may ask, cheapest first.

    Worth asking is what scores at least 0.6 of the best and at most 0.02 below every LLM that costs
    no more (a strict front would leave out an equal, whose second opinion counts). Free places go
    to LLMs of at most 0.3 of the best single LLM's cost and 0.55 of its score: weak, but whether
    they agree tells much for little. Where there are too many, the best are picked greedily by
    expected score - rate * cost.
    """
    names, cost = router.base.names, trained.costs.mean(axis=0)
    score = np.nanmean(trained.data.scores, axis=0)
    best_for_less = np.array([score[cost <= each].max() for each in cost])
    worth = (score >= best_for_less - _TOLERANCE) & (score >= _WEAKEST * score.max())
    cheap = (cost <= _CHEAP * cost[single]) & (score >= _WITNESS * score.max())
    chosen = [single]
    for tier in (worth, cheap):
        rest = [llm for llm in np.flatnonzero(tier).tolist() if llm not in chosen]
        if len(chosen) + len(rest) <= MAX_SHORTLIST:
            chosen, rest = [*chosen, *rest], []
        while rest and len(chosen) < MAX_SHORTLIST:
            llm = max(rest, key=lambda e: _value(router, trained, _by_cost([*chosen, e], cost)))
            chosen.append(llm)
            rest.remove(llm)
    return tuple(names[llm] for llm in _by_cost(chosen, cost))


def _watched(router: CascadeRouter, trained: Trained) -> tuple[str | None, _Array]:
    """Return whose answer's length is worth looking at (None: no one's), and what is earned so.

    Tried are the cheapest ones, which are asked first. What counts is score - rate * cost as
    replayed on training queries, by more than two standard errors: the best of three is lucky.
    """
    plain = _earned(router, trained)
    earned = {
        name: _earned(replace(router, watched=name), trained) for name in router.shortlist[:_TRIED]
    }
    best = max(earned, key=lambda name: float(earned[name].mean()))
    gain = earned[best] - plain
    noise = _NOISE * float(gain.std()) / np.sqrt(len(plain))
    return (best, earned[best]) if float(gain.mean()) > noise else (None, plain)


def _earned(router: CascadeRouter, trained: Trained) -> _Array:
    """Return measured score - rate * cost of training queries, mean over some rates, shape (n,)."""
    rows, kept = slice(0, _REPLAYED), [RATES[column] for column in _REPLAYED_RATES]
    planned = router.plan_predicted(trained.held_out[rows], trained.expected[rows], rates=kept)
    columns = [router.base.names.index(name) for name in planned.names]
    assert trained.data.answers is not None  # noqa: S101 - checked above
    scores = np.nan_to_num(trained.data.scores[rows][:, columns])
    spent = trained.costs[rows][:, columns]
    known = trained.data.answers[rows][:, columns]
    earned = np.zeros(len(scores))
    for column, rate in enumerate(kept):
        plan = np.full(len(scores), column)
        score, cost, _ = replay(
            planned.levels, planned.policy, plan, known, scores, spent, planned.watch
        )
        earned += (score - rate / max(router.unit, 1e-12) * cost) / len(kept)
    return earned


def _by_cost(llms: Sequence[int], level: _Array) -> list[int]:
    return sorted(llms, key=lambda llm: (level[llm], llm))


def _value(router: CascadeRouter, trained: Trained, columns: list[int]) -> float:
    """Return the mean expected score - rate * cost over some rates, with this shortlist."""
    names = tuple(router.base.names[column] for column in columns)
    planned = replace(router, shortlist=names).plan_predicted(
        trained.held_out[:_JUDGED], trained.expected[:_JUDGED]
    )
    rates = np.array([RATES[column] for column in _JUDGED_RATES]) / max(router.unit, 1e-12)
    kept = list(_JUDGED_RATES)
    return float((planned.scores[:, kept] - rates * planned.costs[:, kept]).mean())
