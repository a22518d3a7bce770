"""Plain routers to compare with: heads on sentence vectors alone, as the literature has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from moma_core.llms.data import LLMDataset
from moma_core.llms.heads import (
    ClustersConfig,
    Head,
    LinearConfig,
    LogisticConfig,
    NeighboursConfig,
    fit_head,
)
from moma_core.llms.router import LLMRouter
from moma_core.llms.training import fill_scores
from moma_core.types import FloatArray

__all__ = ["BASELINES", "fit_baselines"]

BASELINES: Mapping[str, tuple[str, Any]] = {
    "neighbours 100": ("neighbours", NeighboursConfig(k=100, near=0)),
    "clusters 32": ("clusters", ClustersConfig(k=32, prior=0.0)),
    "ridge": ("linear", LinearConfig()),
    "logistic": ("logistic", LogisticConfig()),
}
"""Kind of head and its config, by the name that a report gives it."""


def fit_baselines(
    router: LLMRouter, data: LLMDataset, vectors: FloatArray, seed: int = 0
) -> dict[str, Head]:
    """Return the baselines, fitted to what the router was trained on.

    Args:
        router: Its pool is theirs.
        data: Scored queries.
        vectors: Of these queries, shape (n, d).
        seed: Of every random choice.

    Raises:
        InvalidDataError: An LLM of the pool has no column.
    """
    plain = np.asarray(vectors, np.float32)
    scores = fill_scores(data.pool(router.names).scores, plain, seed)
    return {
        name: fit_head(kind, plain, scores, router.cards, seed, config)
        for name, (kind, config) in BASELINES.items()
    }
