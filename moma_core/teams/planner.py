"""A trained team router on disk: ``teams.json`` beside ``teams.safetensors``; no pickle, no code.

The LLMs are not kept here: they are the router's that is passed at load.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._store import read_pair, under, write_pair
from moma_core.errors import ArtifactError, MoMAError
from moma_core.teams.features import Tables
from moma_core.teams.modes import ModeCard
from moma_core.teams.options import TeamOptions
from moma_core.teams.policy import Policy
from moma_core.teams.roles import RoleCard
from moma_core.teams.value import TeamValue

__all__ = ["TEAM_FILES", "TeamParts", "read_teams", "write_teams"]

TEAM_FILES = "teams.json", "teams.safetensors"
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


def write_teams(parts: TeamParts, directory: str | Path) -> None:
    """Save the parts into ``directory``, which is made if absent; the config goes last.

    Raises:
        ArtifactError: The directory cannot be written.
    """
    arrays: dict[str, npt.NDArray[Any]] = {
        "mode_vectors": parts.options.mode_vectors,
        "role_vectors": parts.options.role_vectors,
        "projection": parts.policy.projection,
        **{f"policy.{name}": values for name, values in parts.policy.params.items()},
        **{f"value.{name}": values for name, values in parts.value.arrays().items()},
    }
    config = {
        "encoder": parts.options.fingerprint,
        "modes": [dataclasses.asdict(mode) for mode in parts.options.modes],
        "roles": [dataclasses.asdict(role) for role in parts.options.roles],
        "unit": parts.policy.unit,
        "training": parts.metadata,
    }
    singles = {name: values.astype(np.float32) for name, values in arrays.items()}
    write_pair(Path(directory), TEAM_FILES, config, singles)


def read_teams(directory: str | Path) -> TeamParts:
    """Return what `write_teams` wrote.

    Raises:
        ArtifactError: A file is missing, truncated, changed, or of another version.
    """
    config, arrays = read_pair(Path(directory), TEAM_FILES, _REMEDY)
    try:
        parts = _build(config, arrays)
        _probe(parts)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, MoMAError) as error:
        raise ArtifactError(
            f"no team router can be read from {str(directory)!r} ({type(error).__name__}: "
            f"{error}). {_REMEDY}"
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
    policy = Policy(_doubles("policy.", arrays), arrays["projection"].astype(np.float64), unit)
    value = TeamValue.from_arrays(_doubles("value.", arrays))
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




def _single(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return values.astype(np.float32).astype(np.float64)




def _doubles(prefix: str, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    return {name: values.astype(np.float64) for name, values in under(prefix, arrays).items()}
