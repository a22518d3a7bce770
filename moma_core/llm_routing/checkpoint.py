"""A trained router on disk: ``head.json`` and ``head.safetensors``; no pickle, no code.

The JSON names the sha256 of the weights and is written last, each file by rename: a crash leaves
the old pair, or a pair that refuses to load, never a mixture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moma_core._store import prefixed, read_pair, under, write_pair
from moma_core.errors import ArtifactError, MoMAError
from moma_core.llm_routing.costs import build_costs
from moma_core.llm_routing.features import FEATURES, QueryFeatures
from moma_core.llm_routing.heads import build_head
from moma_core.types import LLMCard

if TYPE_CHECKING:
    from moma_core.llm_routing.router import LLMRouter

__all__ = ["read_llms", "write_llms"]

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
        "thrift": router.thrift,
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
            "metadata": config["training"],
            "thrift": _thrift(config.get("thrift", 0.0)),  # absent in older files
        }
        _probe(parts, config["features"]["names"], len(llms))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, MoMAError) as error:
        raise ArtifactError(
            f"{str(source)!r} does not hold together ({error!r}). {_REMEDY}"
        ) from error
    return parts






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


def _thrift(value: Any) -> float:
    if not 0.0 <= float(value) < np.inf:
        raise ValueError(f"expected a thrift of zero or more, got {value!r}")
    return float(value)




