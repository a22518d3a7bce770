"""Saves and loads what agent routing learnt: JSON beside safetensors, each checked at load."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from moma_core.agent_routing.gate import Gate
from moma_core.agent_routing.negatives import Negatives
from moma_core.agent_routing.ranker import LinearRanker
from moma_core.agent_routing.scope import Scope
from moma_core.agent_routing.training import Trained
from moma_core.errors import ArtifactError

__all__ = ["exists", "read", "write", "write_whole"]

_VERSION = 1
_JSON, _ARRAYS = "ranker.json", "ranker.safetensors"


def write(directory: Path, trained: Trained, negatives: Negatives, encoder: str) -> None:
    """Write two files into ``directory``, each whole or not at all.

    Raises:
        ArtifactError: The disk is full or not writable; what was there before is intact.
    """
    from safetensors.numpy import save

    scope = trained.scope.arrays() if trained.scope else {}
    arrays = {**trained.ranker.arrays(), **scope, "negative_vectors": negatives.vectors}
    packed = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    document = {
        "format": _VERSION,
        "encoder": encoder,
        "sha256": hashlib.sha256(packed).hexdigest(),
        "agents": list(trained.ranker.names),
        "gate": trained.gate.to_dict(),
        "sources": dict(trained.sources),
        "changes": trained.changes,
        "exemplar_weight": trained.exemplar_weight,
        "fresh": sorted(trained.fresh),
        "negatives": list(negatives.texts),
        "negatives_given": negatives.n_given,
    }
    write_whole(directory / _ARRAYS, packed)
    write_whole(directory / _JSON, json.dumps(document, indent=1).encode())


def exists(directory: Path) -> bool:
    """Say whether any part of a saved ranker is there."""
    return (directory / _JSON).exists() or (directory / _ARRAYS).exists()


def read(directory: Path, encoder: str) -> tuple[Trained, Negatives]:
    """Read what `write` wrote.

    Raises:
        ArtifactError: A file is missing, truncated, changed, of another version or encoder.
    """
    from safetensors.numpy import load

    try:
        document: dict[str, Any] = json.loads((directory / _JSON).read_bytes())
        packed = (directory / _ARRAYS).read_bytes()
        if document["format"] != _VERSION:
            raise ValueError(f"format {document['format']}, this version reads {_VERSION}")
        if hashlib.sha256(packed).hexdigest() != document["sha256"]:
            raise ValueError(f"{_ARRAYS} is truncated or changed")
        if document["encoder"] != encoder:
            raise ValueError(f"fitted with encoder {document['encoder']!r}, not {encoder!r}")
        arrays = load(packed)
        vectors = arrays.pop("negative_vectors")
        ranker = LinearRanker.from_arrays(document["agents"], arrays)
        trained = Trained(
            ranker,
            Gate.from_dict(document["gate"]),
            document["sources"],
            document["changes"],
            document["exemplar_weight"],
            Scope.from_arrays(arrays),
            frozenset(document.get("fresh", ())),
        )
        texts = tuple(document["negatives"])
        return trained, Negatives(texts, vectors, document["negatives_given"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"the agents' ranker in {directory} cannot be used: {error}. Delete {_JSON} and "
            f"{_ARRAYS} there: it is fitted again from the registered agents, "
            "and your own negatives are to be given again."
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        ArtifactError: The disk is full or not writable; what was there before is intact.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ArtifactError(
            f"cannot write {path} ({error}). Free some space or save elsewhere; what was saved "
            "before is intact."
        ) from error
