"""A trained team router on disk: ``teams.json`` beside ``teams.safetensors``; no pickle, no code.

The LLMs are not kept here: they are the router's that is passed at load.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import ArtifactError, MoMAError
from moma_core.teams.features import Tables
from moma_core.teams.modes import ModeCard
from moma_core.teams.options import TeamOptions
from moma_core.teams.policy import Policy
from moma_core.teams.roles import RoleCard
from moma_core.teams.value import TeamValue

__all__ = ["CONFIG_FILE", "FORMAT", "WEIGHTS_FILE", "TeamParts", "read", "write"]

FORMAT = 1
CONFIG_FILE = "teams.json"
WEIGHTS_FILE = "teams.safetensors"
_REMEDY = "Train it anew (moma train teams --data D.parquet --out DIR) or restore it from a copy."


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TeamParts:
    """What training produced and a directory holds.

    Args:
        options: Modes and roles with their vectors.
        policy: The cascade.
        value: Predicts a plan's quality.
        metadata: What it was trained on, JSON-like.
    """

    options: TeamOptions
    policy: Policy
    value: TeamValue
    metadata: dict[str, Any]

    def rounded(self) -> TeamParts:
        """Return the parts in single precision, as a file keeps them: plans agree after a load."""
        params = {name: _single(values) for name, values in self.policy.params.items()}
        policy = Policy(params, _single(self.policy.projection), self.policy.unit)
        value = TeamValue(**{name: _single(v) for name, v in self.value.arrays().items()})
        return dataclasses.replace(self, policy=policy, value=value)


def write(parts: TeamParts, directory: str | Path) -> None:
    """Save the parts into ``directory``, which is made if absent; the config goes last.

    Raises:
        ArtifactError: The directory cannot be written.
    """
    from safetensors.numpy import save

    arrays: dict[str, npt.NDArray[Any]] = {
        "mode_vectors": parts.options.mode_vectors,
        "role_vectors": parts.options.role_vectors,
        "projection": parts.policy.projection,
        **{f"policy.{name}": values for name, values in parts.policy.params.items()},
        **{f"value.{name}": values for name, values in parts.value.arrays().items()},
    }
    weights = save({k: np.ascontiguousarray(v, dtype=np.float32) for k, v in arrays.items()})
    config = {
        "format": FORMAT,
        "encoder": parts.options.fingerprint,
        "modes": [dataclasses.asdict(mode) for mode in parts.options.modes],
        "roles": [dataclasses.asdict(role) for role in parts.options.roles],
        "unit": parts.policy.unit,
        "training": parts.metadata,
        "weights": {"file": WEIGHTS_FILE, "sha256": hashlib.sha256(weights).hexdigest()},
    }
    target = Path(directory)
    try:
        target.mkdir(parents=True, exist_ok=True)
        _replace(target / WEIGHTS_FILE, weights)
        _replace(target / CONFIG_FILE, (json.dumps(config, indent=1) + "\n").encode())
    except OSError as error:
        raise ArtifactError(f"cannot save the team router to {str(target)!r} ({error}).") from error


def read(directory: str | Path) -> TeamParts:
    """Return what `write` wrote.

    Raises:
        ArtifactError: A file is missing, truncated, changed, or of another version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    source = Path(directory)
    try:
        config = json.loads((source / CONFIG_FILE).read_bytes())
        weights = (source / WEIGHTS_FILE).read_bytes()
        if config["format"] != FORMAT:
            raise ValueError(f"format {config['format']!r}, this version reads {FORMAT}")
        if hashlib.sha256(weights).hexdigest() != config["weights"]["sha256"]:
            raise ValueError(f"{WEIGHTS_FILE} is truncated or changed")
        parts = _build(config, load(weights))
        _probe(parts)
    except (
        OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError, MoMAError
    ) as error:  # fmt: skip
        raise ArtifactError(
            f"no team router can be read from {str(source)!r} ({type(error).__name__}: {error}). "
            f"{_REMEDY}"
        ) from error
    return parts


def _build(config: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> TeamParts:
    options = TeamOptions(
        tuple(ModeCard(**card) for card in config["modes"]),
        tuple(RoleCard(**card) for card in config["roles"]),
        arrays["mode_vectors"],
        arrays["role_vectors"],
        config["encoder"],
    )
    unit = float(config["unit"])
    if not 0.0 < unit < np.inf:
        raise ValueError(f"unit must be positive, got {unit}")
    policy = Policy(_under("policy.", arrays), arrays["projection"].astype(np.float64), unit)
    value = TeamValue.from_arrays(_under("value.", arrays))
    return TeamParts(options, policy, value, dict(config["training"]))


def _probe(parts: TeamParts) -> None:
    """Plan once, so that parts of unlike shapes are found at load and not in use."""
    from moma_core.teams.features import TeamInputs

    dimension = parts.policy.projection.shape[0]
    inputs = TeamInputs(np.zeros((1, dimension)), np.full((1, 2), 0.5), np.full((1, 2), 1e-4))
    tables = Tables.of(parts.options, parts.policy.projection)
    walk = parts.policy.walk(tables, inputs, np.full(1, 0.1))
    if not np.isfinite(parts.value.predict(tables, inputs, walk.plans)).all():
        raise ValueError("predictions are not finite")


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def _single(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return values.astype(np.float32).astype(np.float64)


def _under(prefix: str, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    return {
        name[len(prefix) :]: values.astype(np.float64)
        for name, values in arrays.items()
        if name.startswith(prefix)
    }
