"""From a file of judged pairs to an `LLMRouter`, in bounded memory (eq. 1-6, A.3, A.4)."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._numerics import sigmoid
from moma_core.errors import InvalidDataError, InvalidInputError
from moma_core.llms.costs import PricedCosts
from moma_core.llms.heads.judged import (
    JudgedHead,
    Outcomes,
    log_outcomes,
    outcome_loss,
)
from moma_core.llms.heads.moe import MoEConfig, MoEHead, train_mixture
from moma_core.llms.router import LLMRouter
from moma_core.protocols import Encoder, Progress
from moma_core.training.bradley_terry import Levels, count_five, fit_levels
from moma_core.training.devices import launched, processes
from moma_core.training.judgements import elo_of_counts
from moma_core.training.pair_store import PairStore
from moma_core.types import LLMCard

__all__ = [
    "PAIR_HEADS",
    "PairConfig",
    "PairTask",
    "fit_pairs",
    "train_pairs",
]

_ADVANTAGE = np.array([0.0, 0.5, -0.5, 1.0, -1.0])
_POINTS = np.array([0.5, 1.0, 0.0, 1.0, 0.0])
_PAIRS = 200_000
_Array = npt.NDArray[np.float64]
_Floats = npt.NDArray[np.float32]
_Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class PairConfig:
    """How to train on pairs.

    Args:
        net: The mixture; ``batch`` counts queries.
        tried: Nets among which held-out log loss chooses (preference head); empty: ``net`` alone.
        form: Outcome probabilities of the preference head; None: fitted to the pairs.
        pairs_per_batch: The batch is cut to about so many pairs, so that memory stays bounded
            where a query has hundreds.
        sample: Queries on which the values are calibrated.
    """

    net: MoEConfig = field(default_factory=lambda: MoEConfig(experts=4, top=2, width=32, epochs=6))
    tried: tuple[MoEConfig, ...] = ()
    form: Outcomes | None = None
    pairs_per_batch: int = 65_536
    sample: int = 8_192


_Loss = Callable[[PairStore, Outcomes, _Rows, _Array], _Array]
"""Gradient (B, outputs) of the pairs of some queries by the raw values (B, outputs)."""


def fit_pairs(
    kind: str,
    store: PairStore,
    llms: tuple[LLMCard, ...],
    config: PairConfig | None = None,
    seed: int = 0,
    tell: Progress | None = None,
) -> JudgedHead:
    """Fit a head to all pairs of a store.

    Args:
        kind: ``"preference"``, ``"contrastive"`` or ``"classifier"``.
        store: The pairs.
        llms: Cards in the order of ``store.llms``.
        config: Net, form, batch.
        seed: Of every random choice.
        tell: Called with what is done, queries seen, and queries in all epochs.

    Raises:
        InvalidInputError: The kind is none of `PAIR_HEADS`.
    """
    return _fitted(PairTask.of(kind, store, config, seed), store, llms, tell)


def _fitted(
    task: PairTask, store: PairStore, llms: tuple[LLMCard, ...], tell: Progress | None
) -> JudgedHead:
    mean, spread = store.moments.astype(np.float32)
    net = train_mixture(
        store.inputs,  # type: ignore[arg-type]
        task.start(),
        task.grad(store, tell),
        llms,
        task.config.net,
        np.random.default_rng(task.seed),
        moments=(mean, spread),
    )
    return task.head(net, store)


@dataclass(frozen=True, slots=True)
class PairTask:
    """What is trained, whichever processes train it.

    Args:
        kind: One of `PAIR_HEADS`.
        config: Net, form, batch, as bounded for the store.
        seed: Of every random choice.
        levels: Of the LLMs without a look at the query: where training starts.
        kept: Share of the net's departure from the levels that held-out queries bear out.
        across: Share of the part of it that may change who is ahead of whom: what is not along the
            levels, which only spreads LLMs or brings them together.
    """

    kind: str
    config: PairConfig
    seed: int
    levels: Levels
    kept: float = 1.0
    across: float = 1.0

    @classmethod
    def of(cls, kind: str, store: PairStore, config: PairConfig | None, seed: int) -> PairTask:
        """Check the kind, and bound the batch to what the store's queries hold.

        Raises:
            InvalidInputError: The kind is none of `PAIR_HEADS`.
        """
        if kind not in PAIR_HEADS:
            raise InvalidInputError(
                f"judged pairs train {', '.join(PAIR_HEADS)}, got {kind!r}. Other heads need "
                "scored queries: score|LLM and cost|LLM."
            )
        given = config or PairConfig(tried=_TRIED)
        task = cls(kind, _bounded(given, store), seed, fit_levels(count_five(store)))
        return task.tried(store) if kind == "preference" else task

    @property
    def form(self) -> Outcomes:
        """Outcome probabilities, as given or as fitted."""
        return self.config.form or self.levels.form

    def start(self) -> _Array:
        """Return the first output of every expert, shape (outputs,): the levels, where they fit."""
        if self.kind == "classifier":
            return np.zeros(len(self.levels.values))
        tie = [self.levels.eta] if self.kind == "preference" else []
        return np.append(self.levels.values, tie)

    def tried(self, store: PairStore) -> PairTask:
        """Return the task with the net, and the shares of it that are kept, by held-out queries.

        Each quarter of at most `PairConfig.sample` queries, or 200,000 pairs, is held out in turn.
        The least log loss counts, among what names more winners than the levels alone, by more than
        the standard error, or keeps their order. Where log loss is not less than theirs by as much,
        nothing of the net is kept: a head is not worse than its floor, which knows more than the
        frequencies of outcomes.
        """
        rows = np.random.default_rng([self.seed, 2]).permutation(len(store.inputs))
        rows = rows[: min(self.config.sample, _PAIRS * len(rows) // max(len(store), 1) + 1)]
        if len(rows) < _FEWEST:
            return replace(self, kept=0.0, across=0.0)
        every = self.config.tried or (self.config.net,)
        gains = np.zeros((2, len(every), len(_SHARES), len(rows)))  # less loss, more winners
        for fold in range(_FOLDS):
            held, seen = rows[fold::_FOLDS], np.sort(np.delete(rows, np.s_[fold::_FOLDS]))
            task = replace(self, levels=fit_levels(count_five(store, store.pairs_of(seen)[1])))
            floor = _judged(task, None, store, held)
            for row, each in enumerate(every):
                net = task.of_net(each, store).trained(store, seen)
                for column, (kept, across) in enumerate(_SHARES):
                    drawn = replace(task, kept=kept, across=across).drawn(net)
                    gains[:, row, column, fold::_FOLDS] = _judged(task, drawn, store, held) - floor
        sure = gains.sum(axis=3) > gains.std(axis=3) * np.sqrt(len(rows))
        orderly = np.array([across == 0.0 for _, across in _SHARES])
        less = np.where(sure[1] | orderly, gains[0].sum(axis=2), -np.inf)
        row, column = divmod(int(less.argmax()), len(_SHARES))
        kept, across = _SHARES[column] if sure[0, row, column] else (0.0, 0.0)
        return replace(self.of_net(every[row], store), kept=kept, across=across)

    def drawn(self, net: MoEHead) -> MoEHead:
        """Return the net with the kept shares of its departure: linear, as gates add to 1."""
        values, weights = self.levels.values, dict(net.weights)
        first, m = self.start(), len(values)
        along = np.outer(values, values) / max(float(values @ values), 1e-12)
        share = self.kept * np.eye(len(first))
        share[:m, :m] = self.across * np.eye(m) + (self.kept - self.across) * along
        bias = first + (weights["output_bias"] - first) @ share
        weights["output"] = (weights["output"] @ share).astype(np.float32)
        return replace(net, weights={**weights, "output_bias": bias.astype(np.float32)})

    def of_net(self, net: MoEConfig, store: PairStore) -> PairTask:
        """Return the task with another net, its batch bounded for the store."""
        return replace(self, config=_bounded(replace(self.config, net=net), store))

    def trained(self, store: PairStore, rows: _Rows) -> MoEHead:
        """Return a net trained on the pairs of some queries, copied into memory."""
        loss, pairs = PAIR_HEADS[self.kind], len(store.pairs_of(rows)[1])
        scale = len(rows) / pairs

        def grad(batch: _Rows, raw: _Floats) -> _Floats:
            gradient = loss(store, self.form, rows[batch], raw.astype(np.float64))
            return (gradient * scale).astype(np.float32)

        mean, spread = store.moments.astype(np.float32)
        llms = tuple(LLMCard(name, 0.0, 0.0) for name in store.llms)
        rng = np.random.default_rng(self.seed)
        inputs = store.inputs[rows].astype(np.float32)
        net = train_mixture(
            inputs, self.start(), grad, llms, self.config.net, rng, moments=(mean, spread)
        )
        return _levelled(net, self.start(), inputs)

    def grad(
        self, store: PairStore, tell: Progress | None, processes: int = 1
    ) -> Callable[[_Rows, _Floats], _Floats]:
        """Return the gradient of a query's loss by the net's outputs, see `train_mixture`.

        Args:
            store: The pairs.
            tell: Called as by `fit_pairs`.
            processes: How many train as many queries each at the same time.
        """
        loss, scale = PAIR_HEADS[self.kind], len(store.inputs) / len(store)
        seen, total = [0], self.config.net.epochs * len(store.inputs)

        def grad(rows: _Rows, raw: _Floats) -> _Floats:
            if tell is not None:
                seen[0] += len(rows) * processes
                tell(f"train {self.kind}", min(seen[0], total), total)
            gradient = loss(store, self.form, rows, raw.astype(np.float64))
            return (gradient * scale).astype(np.float32)

        return grad

    def head(self, net: MoEHead, store: PairStore) -> JudgedHead:
        """Return the head of a trained net, calibrated on a sample of the queries."""
        rng = np.random.default_rng([self.seed, 1])
        if self.kind != "classifier":  # whose values are no levels
            inputs = store.inputs[: self.config.sample].astype(np.float32)
            net = _levelled(net, self.start(), inputs)
        net = _centred(self.drawn(net))
        head = _calibrated(self.kind, net, store, self.config.sample, rng)
        return replace(head, form=self.form)


_TRIED = (
    MoEConfig(experts=1, top=1, width=32, epochs=15),
    MoEConfig(experts=4, top=2, width=32, epochs=6),
    MoEConfig(experts=4, top=2, width=32, epochs=15),
)
_SHARES = tuple((kept, part * kept) for kept in (0.25, 0.5, 0.75, 1.0) for part in (0.0, 0.5, 1.0))
"""Shares tried, of all and across the levels."""
_FOLDS, _FEWEST = 4, 40
"""Queries below which nothing but the levels is believed."""


def _judged(task: PairTask, net: MoEHead | None, store: PairStore, rows: _Rows) -> _Array:
    """Return log likelihood and winners named, added up by query, shape (2, rows)."""
    local, pairs = store.pairs_of(rows)
    raw = np.tile(task.start(), (len(rows), 1))
    if net is not None:
        raw = net.outputs(store.inputs[rows].astype(np.float32)).astype(np.float64)
    a, b = store.first[pairs].astype(np.intp), store.second[pairs].astype(np.intp)
    outcome = store.outcome[pairs].astype(np.intp)
    logs = log_outcomes(raw[local, a], raw[local, b], raw[local, -1], task.form)
    won = np.sign(raw[local, a] - raw[local, b]) * np.sign(_ADVANTAGE[outcome])
    likely = np.bincount(local, logs[np.arange(len(pairs)), outcome], len(rows))
    return np.array([likely, np.bincount(local, won, len(rows)) / 2.0])


def _levelled(net: MoEHead, start: _Array, inputs: _Floats) -> MoEHead:
    """Return the net whose mean output over some queries is ``start``."""
    weights = dict(net.weights)
    departure = net.outputs(inputs).mean(axis=0) - start.astype(np.float32)
    weights["output_bias"] = weights["output_bias"] - departure
    return replace(net, weights=weights)


def _bounded(config: PairConfig, store: PairStore) -> PairConfig:
    queries = max(16, int(config.pairs_per_batch * len(store.inputs) / len(store)))
    return replace(config, net=replace(config.net, batch=min(config.net.batch, queries)))


def _preference(store: PairStore, form: Outcomes, rows: _Rows, raw: _Array) -> _Array:
    """Cross-entropy over five outcomes (eq. 1-6)."""
    gradient = np.zeros(raw.shape)
    local, pairs = store.pairs_of(rows)
    if len(pairs):
        a, b, eta = store.first[pairs], store.second[pairs], raw[local, -1]
        values = raw[local, a], raw[local, b]
        _, by_a, by_b, by_eta = outcome_loss(*values, eta, store.outcome[pairs], form)
        for column, each in ((a, by_a), (b, by_b), (np.full(len(a), raw.shape[1] - 1), by_eta)):
            _add(gradient, local, column, each * len(pairs))
    return gradient


def _contrastive(store: PairStore, form: Outcomes, rows: _Rows, raw: _Array) -> _Array:
    """-log sigmoid(f_a - f_b) of the winner, a strong win twice a weak one (eq. 31-33)."""
    del form
    gradient = np.zeros(raw.shape)
    local, pairs = store.pairs_of(rows)
    a, b = store.first[pairs], store.second[pairs]
    advantage = _ADVANTAGE[store.outcome[pairs]]
    gap = np.sign(advantage) * (raw[local, a] - raw[local, b])
    by_a = -advantage * sigmoid(-gap)
    _add(gradient, local, a, by_a)
    _add(gradient, local, b, -by_a)
    return gradient


def _classifier(store: PairStore, form: Outcomes, rows: _Rows, raw: _Array) -> _Array:
    """Cross-entropy to the best LLM among those compared on the query (eq. 27-29)."""
    del form
    won, met = np.zeros(raw.shape), np.zeros(raw.shape)
    local, pairs = store.pairs_of(rows)
    advantage = _ADVANTAGE[store.outcome[pairs]]
    for column, each in ((store.first[pairs], advantage), (store.second[pairs], -advantage)):
        _add(won, local, column, each)
        _add(met, local, column, np.ones(len(each)))
    known = met > 0
    standing = np.where(known, won / np.maximum(met, 1.0), -np.inf)
    best = known & (standing == standing.max(axis=1, keepdims=True))
    target = best / np.maximum(best.sum(axis=1, keepdims=True), 1)
    values = np.where(known, raw, -np.inf)
    top = np.where(known.any(axis=1, keepdims=True), values.max(axis=1, keepdims=True), 0.0)
    shares = np.exp(values - top)
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-300)
    gradient: _Array = (shares - target) * known.sum(axis=1, keepdims=True)
    return gradient


PAIR_HEADS: Mapping[str, _Loss] = {
    "classifier": _classifier,
    "contrastive": _contrastive,
    "preference": _preference,
}
"""Heads that judged pairs can train."""


def _add(gradient: _Array, rows: _Rows, columns: npt.NDArray[np.integer], values: _Array) -> None:
    width = gradient.shape[1]
    flat = np.bincount(rows * width + columns, values, minlength=gradient.size)
    gradient += flat.reshape(gradient.shape)


def _centred(net: MoEHead) -> MoEHead:
    """Return the net with the LLMs' values summing to zero: their level is not in the pairs."""
    m, weights = len(net.llms), dict(net.weights)
    for name in ("output", "output_bias"):
        values = weights[name].copy()
        values[..., :m] -= values[..., :m].mean(axis=-1, keepdims=True)
        weights[name] = values
    return replace(net, weights=weights)


def _calibrated(
    kind: str, net: MoEHead, store: PairStore, sample: int, rng: np.random.Generator
) -> JudgedHead:
    """Return a head whose quality is the expected share of points against the rest of the pool."""
    n, m = len(store.inputs), len(net.llms)
    rows = np.sort(rng.permutation(n)[:sample])
    inputs = store.inputs[rows].astype(np.float32)
    raw = net.outputs(inputs)[:, :m].astype(np.float64)
    local, pairs = (each[:: len(store) // _PAIRS + 1] for each in store.pairs_of(rows))
    gap = raw[local, store.first[pairs]] - raw[local, store.second[pairs]]
    steepness = max(_logistic_slope(gap, _POINTS[store.outcome[pairs]]), _LEAST)
    return JudgedHead(kind, net.llms, net, 1.0, np.zeros(m), steepness=steepness)


_LEAST = 1e-3


def _logistic_slope(gap: _Array, points: _Array) -> float:
    """Return k of points = sigmoid(k gap) by Newton steps, with a weak prior around 1."""
    slope = 1.0
    for _ in range(25):
        probability = sigmoid(slope * gap)
        residual = float(((probability - points) * gap).sum()) + slope - 1.0
        curve = float((probability * (1.0 - probability) * gap**2).sum()) + 1.0
        slope = max(slope - float(np.clip(residual / curve, -0.5, 0.5)), 0.0)
    return slope


def train_pairs(
    path: str | Path,
    encoder: Encoder,
    *,
    head: str = "auto",
    seed: int = 0,
    prices: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
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
            return train_pairs(
                path,
                encoder,
                head=head,
                seed=seed,
                prices=prices,
                progress=progress,
                folder=own,
                config=config,
                devices=devices,
            )
    kind, place = "preference" if head == "auto" else head, Path(folder)

    def build() -> PairStore:
        return PairStore.build(path, place, encoder, progress)

    if devices is None:
        store = build()
        cards = _cards(store, prices or {})
        task = PairTask.of(kind, store, config, seed)
        fitted = _fitted(task, store, cards, progress)
    else:
        several = processes(devices)
        store = several.store(build, place)
        cards, task = _cards(store, prices or {}), PairTask.of(kind, store, config, seed)
        fitted = task.head(several.train(task, place, cards, progress), store)
    return _router(store, fitted, encoder, task)


def _router(store: PairStore, head: JudgedHead, encoder: Encoder, task: PairTask) -> LLMRouter:
    cards, seed = head.llms, task.seed
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
            "levels": task.levels.to_dict(),
            "kept": task.kept,
            "across": task.across,
            "net": {"experts": task.config.net.experts, "epochs": task.config.net.epochs},
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
