"""The saved form of every part: a JSON file beside safetensors, whole or not at all; no pickle.

The JSON names the sha256 of the weights and is written last, each file by rename and on disk before
the rename: a crash leaves the old pair, or a pair that refuses to load, never a mixture.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._checks import parse_json
from moma_core.errors import ArtifactError

__all__ = [
    "FORMAT",
    "prefixed",
    "read_pair",
    "under",
    "write_pair",
    "write_whole",
]

FORMAT = 1

Arrays = Mapping[str, npt.NDArray[Any]]


def write_pair(
    folder: Path, files: tuple[str, str], config: Mapping[str, Any], arrays: Arrays
) -> None:
    """Write weights, then the config that names their hash, each by rename.

    Args:
        folder: Directory, made if absent.
        files: Names of the config and of the weights.
        config: JSON-like; ``format`` and ``weights`` are added.
        arrays: What safetensors keeps.

    Raises:
        ArtifactError: The directory cannot be written; what was there before is intact.
    """
    from safetensors.numpy import save

    weights = save({name: np.ascontiguousarray(values) for name, values in arrays.items()})
    digest = {"file": files[1], "sha256": hashlib.sha256(weights).hexdigest()}
    document = {"format": FORMAT, **config, "weights": digest}
    write_whole(folder / files[1], weights)
    write_whole(folder / files[0], (json.dumps(document, indent=1) + "\n").encode())


def read_pair(
    folder: Path, files: tuple[str, str], remedy: str, *, any_number: bool = False
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return the config and the arrays that `write_pair` wrote.

    Args:
        folder: The directory.
        files: Names of the config and of the weights; where the config names another file in the
            folder, that one is read.
        remedy: What an error tells the user to do.
        any_number: Whether numbers may be infinite, none or huge, as in what users keep there.

    Raises:
        ArtifactError: A file is missing, truncated, changed, or of another version.
    """
    config = _read_config(folder / files[0], remedy, any_number=any_number)
    try:
        digest = str(config["weights"]["sha256"])
        name = Path(str(config["weights"].get("file", files[1]))).name
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{str(folder / files[0])!r} names no weights. {remedy}") from error
    return config, _read_weights(folder / (name or files[1]), digest, remedy)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, on disk before it takes its name.

    Raises:
        ArtifactError: The disk is full or not writable; what was there before is intact.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        handle = os.open(beside, flags, 0o666)  # less the umask; a link in its place is refused
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ArtifactError(
            f"cannot write {str(path)!r} ({error}). Free some space or save elsewhere; what was "
            "saved before is intact."
        ) from error


def prefixed(prefix: str, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays under names that begin with ``prefix``."""
    return {prefix + name: values for name, values in arrays.items()}


def under(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays whose names begin with ``prefix``, without it."""
    return {name[len(prefix) :]: v for name, v in arrays.items() if name.startswith(prefix)}


def _read_config(path: Path, remedy: str, *, any_number: bool) -> dict[str, Any]:
    try:
        config = parse_json(path.read_bytes(), any_number=any_number)
    except OSError as error:
        raise ArtifactError(f"no {str(path)!r} ({error.strerror}). {remedy}") from error
    except ValueError as error:
        raise ArtifactError(
            f"{str(path)!r} is not JSON, or is cut off ({error}). {remedy}"
        ) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise ArtifactError(f"{str(path)!r} has format {found!r:.40}, expected {FORMAT}. {remedy}")
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
