"""A trained cascade on disk: ``cascade.json``, ``cascade.safetensors`` beside the head's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import ArtifactError
from moma_core.llm_routing.cascades.difficulty import SharedDifficulty
from moma_core._store import read_pair, write_pair

__all__ = ["CASCADE_FILES", "forget_cascade", "read_cascade", "write_cascade"]

CASCADE_FILES = "cascade.json", "cascade.safetensors"
_CASCADE_REMEDY = (
    "Train it anew (moma train llms --strategy cascade --data D.parquet --out DIR) or restore it "
    "from a copy."
)


def write_cascade(
    directory: str | Path, config: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Save config and weights.

    Raises:
        ArtifactError: The directory cannot be written.
    """
    write_pair(Path(directory), CASCADE_FILES, config, arrays)


def forget_cascade(directory: str | Path) -> None:
    """Delete the cascade of a folder whose LLMs were trained anew to be asked once."""
    for name in CASCADE_FILES:
        (Path(directory) / name).unlink(missing_ok=True)


def read_cascade(directory: str | Path, names: Sequence[str]) -> dict[str, Any]:
    """Return the keyword arguments of `CascadeRouter` beside its base.

    Args:
        directory: Where it was saved.
        names: LLMs of the base router.

    Raises:
        ArtifactError: A file is missing, truncated, changed, or does not fit the base router.
    """
    config, arrays = read_pair(Path(directory), CASCADE_FILES, _CASCADE_REMEDY)
    try:
        difficulty = SharedDifficulty.from_arrays(arrays)
        shortlist = tuple(config["shortlist"])
        if not shortlist or not set(shortlist) <= set(names):
            raise ValueError(f"expected a shortlist among {list(names)}, got {list(shortlist)}")
        for name, values in difficulty.arrays().items():
            expected = SharedDifficulty.shapes(len(names))[name]
            if values.shape != expected or not np.isfinite(values).all():
                raise ValueError(f"{name} has shape {values.shape}, expected {expected}, finite")
        if config["watched"] not in (None, *shortlist):
            raise ValueError(f"watches {config['watched']!r}, which is not on the shortlist")
        return {
            "difficulty": difficulty,
            "shortlist": shortlist,
            "watched": config["watched"],
            "depth": int(config["depth"]),
            "unit": float(config["unit"]),
            "metadata": dict(config["training"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{str(directory)!r} does not hold together ({error!r}). {_CASCADE_REMEDY}"
        ) from error
