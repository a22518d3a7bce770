"""Quality heads: from query inputs to the quality of each LLM. Alike siblings behind one protocol.

A head is finished parts; its ``fit_*`` function does the work. A new head is its own file and one
line in `HEADS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import InvalidInputError
from moma_core.llms.heads.ability import AbilityHead
from moma_core.llms.heads.adapted import AdaptedHead, Blend, fit_blend
from moma_core.llms.heads.clusters import ClustersConfig, ClustersHead, fit_clusters
from moma_core.llms.heads.contract import Head
from moma_core.llms.heads.joined import JoinedHead
from moma_core.llms.heads.judged import (
    JudgedConfig,
    JudgedHead,
    fit_classifier,
    fit_contrastive,
    fit_preference,
)
from moma_core.llms.heads.kernel import KernelConfig, KernelHead, fit_kernel
from moma_core.llms.heads.linear import LinearConfig, LinearHead, fit_linear
from moma_core.llms.heads.logistic import LogisticConfig, LogisticHead, fit_logistic
from moma_core.llms.heads.moe import MoEConfig, MoEHead, fit_moe
from moma_core.llms.heads.neighbours import NeighboursConfig, NeighboursHead, fit_neighbours
from moma_core.llms.heads.stack import StackedHead, StackWeights, fit_weights
from moma_core.llms.heads.tasks import TasksConfig, TasksHead, fit_tasks
from moma_core.types import FloatArray, LLMCard, did_you_mean

__all__ = [
    "FEW",
    "HEADS",
    "STACKED",
    "AbilityHead",
    "AdaptedHead",
    "Blend",
    "ClustersConfig",
    "ClustersHead",
    "Head",
    "JoinedHead",
    "JudgedConfig",
    "JudgedHead",
    "KernelConfig",
    "KernelHead",
    "LinearConfig",
    "LinearHead",
    "LogisticConfig",
    "LogisticHead",
    "MoEConfig",
    "MoEHead",
    "NeighboursConfig",
    "NeighboursHead",
    "StackWeights",
    "StackedHead",
    "TasksConfig",
    "TasksHead",
    "build_head",
    "fit_blend",
    "fit_head",
    "fit_weights",
    "head_choices",
]


_Fit = Callable[
    [FloatArray, npt.NDArray[np.float64], tuple[LLMCard, ...], Any, np.random.Generator], Head
]
_Build = Callable[[tuple[LLMCard, ...], Mapping[str, Any], Mapping[str, Any]], Head]


@dataclass(frozen=True, slots=True)
class HeadKind:
    """How one kind of head is fitted and rebuilt; ``config`` is its default."""

    config: Any
    fit: _Fit
    build: _Build


HEADS: Mapping[str, HeadKind] = {
    "classifier": HeadKind(JudgedConfig(), fit_classifier, JudgedHead.from_parts),
    "clusters": HeadKind(ClustersConfig(), fit_clusters, ClustersHead.from_parts),
    "contrastive": HeadKind(JudgedConfig(), fit_contrastive, JudgedHead.from_parts),
    "kernel": HeadKind(KernelConfig(), fit_kernel, KernelHead.from_parts),
    "linear": HeadKind(LinearConfig(), fit_linear, LinearHead.from_parts),
    "logistic": HeadKind(LogisticConfig(), fit_logistic, LogisticHead.from_parts),
    "mlp": HeadKind(MoEConfig(experts=1, top=1, width=64, nets=5), fit_moe, MoEHead.from_parts),
    "moe": HeadKind(MoEConfig(nets=2), fit_moe, MoEHead.from_parts),
    "neighbours": HeadKind(NeighboursConfig(), fit_neighbours, NeighboursHead.from_parts),
    "preference": HeadKind(
        JudgedConfig(MoEConfig(experts=4, top=2, width=32)), fit_preference, JudgedHead.from_parts
    ),
    "tasks": HeadKind(TasksConfig(), fit_tasks, TasksHead.from_parts),
}
"""Every head that is fitted on its own."""

STACKED = ("kernel", "moe", "mlp", "clusters")
"""Members of the stacked head, which is what ``auto`` trains; ``tasks`` joins where it pays, and
``neighbours``, which keep every row, up to `FEW` rows."""

FEW = 2_000
"""Rows up to which looking through all of them is fast, and tells what the other members miss."""


def head_choices() -> tuple[str, ...]:
    """Return what ``--head`` accepts."""
    return ("auto", *sorted(HEADS))


def fit_head(
    kind: str,
    inputs: FloatArray,
    scores: npt.NDArray[np.float64],
    llms: tuple[LLMCard, ...],
    seed: int = 0,
    config: Any = None,
) -> Head:
    """Fit one head.

    Args:
        kind: Key of `HEADS`.
        inputs: Query inputs, shape (n, d).
        scores: Complete scores in [0, 1], shape (n, m); see `completion.fill_scores`.
        llms: Cards of the columns.
        seed: Of every random choice.
        config: The kind's own config; None means its default.

    Raises:
        InvalidInputError: No such kind, or a score is missing.
    """
    if kind not in HEADS:
        raise InvalidInputError(
            f"unknown head {kind!r}. {did_you_mean(kind, head_choices())}"
            f"Choose one of {', '.join(head_choices())}."
        )
    if np.isnan(scores).any():
        raise InvalidInputError("scores are missing. Fill them with completion.fill_scores first.")
    entry = HEADS[kind]
    return entry.fit(inputs, scores, llms, config or entry.config, np.random.default_rng(seed))


def build_head(
    config: Mapping[str, Any], llms: tuple[LLMCard, ...], arrays: Mapping[str, Any]
) -> Head:
    """Rebuild a head from its kind and config, and its arrays.

    Raises:
        KeyError: The kind or an array is unknown; a checkpoint turns it into an `ArtifactError`.
    """
    if config["kind"] == AdaptedHead.kind:
        base = build_head(config["base"], _unpriced(config["base_llms"]), _under("base.", arrays))
        return AdaptedHead.from_parts(llms, base, config, arrays)
    if config["kind"] == JoinedHead.kind:
        return JoinedHead(
            [
                build_head(entry, _unpriced(entry["llms"]), _under(f"{position}.", arrays))
                for position, entry in enumerate(config["parts"])
            ]
        )
    if config["kind"] == AbilityHead.kind:
        return AbilityHead.from_parts(llms, config, arrays)
    if config["kind"] != StackedHead.kind:
        return HEADS[config["kind"]].build(llms, config, arrays)
    members = [
        build_head(entry, llms, _under(f"{position}.", arrays))
        for position, entry in enumerate(config["members"])
    ]
    weights = StackWeights(**{name: arrays[name] for name in StackWeights.__slots__})
    return StackedHead(llms, members, weights)


def _unpriced(names: Sequence[str]) -> tuple[LLMCard, ...]:
    return tuple(LLMCard(name, 0.0, 0.0) for name in names)


def _under(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name[len(prefix) :]: v for name, v in arrays.items() if name.startswith(prefix)}
