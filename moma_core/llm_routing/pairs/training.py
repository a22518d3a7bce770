"""From a file of judged pairs to an `LLMRouter`, in bounded memory.

The file is read a part at a time, vectors lie on disk, and what is held of a pair is nine bytes.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moma_core.errors import InvalidDataError, InvalidInputError
from moma_core.llm_routing.costs import PricedCosts
from moma_core.llm_routing.elo import elo_of_counts
from moma_core.llm_routing.heads.judged import JudgedHead
from moma_core.llm_routing.pairs.devices import launched, processes
from moma_core.llm_routing.pairs.fitting import PairConfig, PairTask, Tell, fit_pairs
from moma_core.llm_routing.pairs.store import PairStore
from moma_core.llm_routing.router import LLMRouter
from moma_core.protocols import Encoder
from moma_core.types import LLMCard

__all__ = ["train_pairs"]


def train_pairs(
    path: str | Path,
    encoder: Encoder,
    head: str = "auto",
    seed: int = 0,
    prices: Mapping[str, Any] | None = None,
    progress: Tell | None = None,
    folder: str | Path | None = None,
    config: PairConfig | None = None,
    devices: str | int | None = None,
) -> LLMRouter:
    """Train a router on judged pairs; quality is the expected share of points against the pool.

    Args:
        path: ``.parquet`` or ``.jsonl`` of pairs, see `judgements.PAIRS`.
        encoder: Turns queries into vectors; each distinct query is encoded once.
        head: ``"preference"`` (also ``"auto"``), ``"contrastive"`` or ``"classifier"``.
        seed: Of every random choice; the same file and seed give the same router.
        prices: USD per million tokens by LLM, ``[input, output]`` or one number; what is missing
            is derived from the columns ``cost_a`` and ``cost_b``.
        progress: Called with what is done, how much, and of how much (0: not known yet).
        folder: Where vectors are kept, so that a killed run need not encode again; None: a
            temporary directory.
        config: Net, form, batch.
        devices: None trains in numpy, here. Else torch and accelerate do: ``"auto"``, ``"cpu"``,
            ``"cpu:N"`` or a number of GPUs, see `devices.processes`. The net is the same to
            rounding on one process; with more, each seed and number of them has its own.

    Raises:
        InvalidDataError: The file cannot be read, or an LLM has neither price nor cost.
        InvalidInputError: Pairs cannot train such a head, or there are no such devices.
        ArtifactError: ``folder`` cannot be written, or is another encoder's.
        MissingExtraError: ``devices`` without the ``[llm]`` extra.
    """
    if folder is None:
        if devices is not None and launched():
            raise InvalidInputError(
                "the processes of accelerate launch share their vectors: give the folder for them."
            )
        with tempfile.TemporaryDirectory(prefix="moma-pairs-") as own:
            return train_pairs(path, encoder, head, seed, prices, progress, own, config, devices)
    kind, place = "preference" if head == "auto" else head, Path(folder)

    def build() -> PairStore:
        return PairStore.build(path, place, encoder, progress)

    if devices is None:
        store = build()
        cards = _cards(store, prices or {})
        fitted = fit_pairs(kind, store, cards, config, seed, progress)
    else:
        several = processes(devices)
        store = several.store(build, place)
        cards, task = _cards(store, prices or {}), PairTask.of(kind, store, config, seed)
        fitted = task.head(several.train(task, place, cards, progress), store)
    return _router(store, cards, fitted, encoder, seed)


def _router(
    store: PairStore, cards: tuple[LLMCard, ...], head: JudgedHead, encoder: Encoder, seed: int
) -> LLMRouter:
    ratings = elo_of_counts(store.llms, store.counts, seed=seed)
    return LLMRouter(
        head=head,
        costs=PricedCosts(cards),
        features=store.features,
        encoder_fingerprint=encoder.fingerprint,
        dimension=encoder.dimension,
        best_single=ratings[0].name,
        metadata={
            "seed": seed,
            "pairs": len(store),
            "queries": len(store.inputs),
            "data_sha256": store.fingerprint,
            "elo": {rating.name: round(rating.elo, 1) for rating in ratings},
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    )


def _cards(store: PairStore, prices: Mapping[str, Any]) -> tuple[LLMCard, ...]:
    cards = []
    for name, measured in zip(store.llms, store.prices.tolist(), strict=True):
        given = prices.get(name)
        if given is None and np.isnan(measured):
            raise InvalidDataError(
                f"neither a price nor a cost of LLM {name!r} is known. Give --prices, a JSON of "
                f'USD per million tokens: {{"{name}": [0.15, 0.6]}}, or the columns cost_a, cost_b.'
            )
        note = {} if given is not None else {"price": "indicative"}
        both = given if given is not None else float(f"{measured:.3g}")
        read, write = both if isinstance(both, list | tuple) else (both, both)
        cards.append(LLMCard(name, read, write, metadata=note))
    return tuple(cards)
