"""A trained router on disk: ``head.json`` and ``head.safetensors``; no pickle, no code.

The JSON names the sha256 of the weights and is written last, each file by rename: a crash leaves
the old pair, or a pair that refuses to load, never a mixture.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import ArtifactError, MoMAError
from moma_core.llm_routing.costs import build_costs
from moma_core.llm_routing.features import FEATURES, QueryFeatures
from moma_core.llm_routing.heads import build_head
from moma_core.types import LLMCard

if TYPE_CHECKING:
    from moma_core.llm_routing.router import LLMRouter

__all__ = [
    "CONFIG_FILE",
    "FORMAT",
    "WEIGHTS_FILE",
    "read",
    "read_pair",
    "write",
    "write_pair",
]

FORMAT = 1
CONFIG_FILE = "head.json"
WEIGHTS_FILE = "head.safetensors"
_REMEDY = "Train it anew (moma train llms --data D.parquet --out DIR) or restore it from a copy."


def write(router: LLMRouter, directory: str | Path) -> None:
    """Save a router into ``directory``, which is made if absent.

    Raises:
        ArtifactError: The directory cannot be written.
    """
    arrays = {
        **_prefixed("head.", router.head.arrays()),
        **_prefixed("costs.", router.costs.arrays()),
        **_prefixed("features.", router.features.arrays()),
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
    write_pair(Path(directory), (CONFIG_FILE, WEIGHTS_FILE), config, arrays)


def write_pair(
    target: Path,
    files: tuple[str, str],
    config: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
) -> None:
    """Write weights, then the config that names their hash, each by rename.

    Args:
        target: Directory, made if absent.
        files: Names of the config and of the weights.
        config: JSON-like; ``format`` and ``weights`` are added.
        arrays: What safetensors keeps.

    Raises:
        ArtifactError: The directory cannot be written.
    """
    from safetensors.numpy import save

    weights = save({name: np.ascontiguousarray(values) for name, values in arrays.items()})
    digest = {"file": files[1], "sha256": hashlib.sha256(weights).hexdigest()}
    document = {"format": FORMAT, **config, "weights": digest}
    try:
        target.mkdir(parents=True, exist_ok=True)
        _replace(target / files[1], weights)
        _replace(target / files[0], (json.dumps(document, indent=1) + "\n").encode())
    except OSError as error:
        raise ArtifactError(f"cannot save the LLM router to {str(target)!r} ({error}).") from error


def read_pair(
    source: Path, files: tuple[str, str], remedy: str = _REMEDY
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the config and the arrays that `write_pair` wrote.

    Args:
        source: The directory.
        files: Names of the config and of the weights.
        remedy: What an error tells the user to do.

    Raises:
        ArtifactError: A file is missing, truncated, changed, or of another version.
    """
    config = _read_config(source / files[0], remedy)
    try:
        digest = str(config["weights"]["sha256"])
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{str(source / files[0])!r} names no weights. {remedy}") from error
    return config, _read_weights(source / files[1], digest, remedy)


def read(directory: str | Path) -> dict[str, Any]:
    """Return the keyword arguments of `LLMRouter` from ``directory``.

    Raises:
        ArtifactError: A file is missing, truncated, changed, or of another version.
    """
    source = Path(directory)
    config, arrays = read_pair(source, (CONFIG_FILE, WEIGHTS_FILE))
    try:
        llms = tuple(LLMCard(**card) for card in config["llms"])
        parts = {
            "head": build_head(config["head"], llms, _under("head.", arrays)),
            "costs": build_costs(config["costs"], llms, _under("costs.", arrays)),
            "features": QueryFeatures.from_arrays(
                _under("features.", arrays), config["features"]["weight"]
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


def _read_config(path: Path, remedy: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"no {str(path)!r} ({error.strerror}). {remedy}") from error
    except ValueError as error:
        raise ArtifactError(
            f"{str(path)!r} is not JSON, or is cut off ({error}). {remedy}"
        ) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise ArtifactError(f"{str(path)!r} has format {found!r}, expected {FORMAT}. {remedy}")
    return config


def _read_weights(path: Path, expected: str, remedy: str) -> dict[str, npt.NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"no weights at {str(path)!r} ({error.strerror}). {remedy}") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != expected:
        raise ArtifactError(
            f"{str(path)!r} is truncated or changed: sha256 {found[:12]}, expected "
            f"{expected[:12]}. {remedy}"
        )
    try:
        arrays: dict[str, npt.NDArray[Any]] = load(raw)
    except (SafetensorError, ValueError) as error:
        raise ArtifactError(f"{str(path)!r} is not safetensors ({error}). {remedy}") from error
    return arrays


def _probe(parts: Mapping[str, Any], feature_names: list[str], n_llms: int) -> None:
    """Predict for one query, so that parts of unlike shapes are found at load and not in use."""
    if tuple(feature_names) != FEATURES:
        raise ValueError("trained with other text features")
    inputs = parts["features"].join(["?"], np.zeros((1, parts["dimension"]), np.float32))
    for values in (parts["head"].predict(inputs), parts["costs"].predict(["?"], inputs)):
        if values.shape != (1, n_llms) or not np.isfinite(values).all():
            raise ValueError(f"expected finite predictions for {n_llms} LLMs, got {values!r}")


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _plain(card: LLMCard) -> LLMCard:
    return dataclasses.replace(card, metadata=dict(card.metadata))


def _thrift(value: Any) -> float:
    if not 0.0 <= float(value) < np.inf:
        raise ValueError(f"expected a thrift of zero or more, got {value!r}")
    return float(value)


def _prefixed(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {prefix + name: values for name, values in arrays.items()}


def _under(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name[len(prefix) :]: v for name, v in arrays.items() if name.startswith(prefix)}
