"""Saves and loads what agent routing learnt: JSON beside safetensors, each checked at load."""

from __future__ import annotations

from pathlib import Path

from moma_core._store import read_pair, write_pair
from moma_core.agent_routing.gate import Gate
from moma_core.agent_routing.negatives import Negatives
from moma_core.agent_routing.ranker import LinearRanker
from moma_core.agent_routing.scope import Scope
from moma_core.agent_routing.training import Trained
from moma_core.errors import ArtifactError

__all__ = ["read_trained", "trained_exists", "write_trained"]

_FILES = "ranker.json", "ranker.safetensors"
_REMEDY = (
    f"Delete {_FILES[0]} and {_FILES[1]} there: they are fitted again from the registered agents, "
    "and your own negatives are to be given again."
)


def write_trained(directory: Path, trained: Trained, negatives: Negatives, encoder: str) -> None:
    """Write two files into ``directory``, each whole or not at all.

    Raises:
        ArtifactError: The disk is full or not writable; what was there before is intact.
    """
    scope = trained.scope.arrays() if trained.scope else {}
    arrays = {**trained.ranker.arrays(), **scope, "negative_vectors": negatives.vectors}
    document = {
        "encoder": encoder,
        "agents": list(trained.ranker.names),
        "gate": trained.gate.to_dict(),
        "sources": dict(trained.sources),
        "changes": trained.changes,
        "exemplar_weight": trained.exemplar_weight,
        "fresh": sorted(trained.fresh),
        "negatives": list(negatives.texts),
        "negatives_given": negatives.n_given,
    }
    write_pair(directory, _FILES, document, arrays)


def trained_exists(directory: Path) -> bool:
    """Say whether any part of a saved ranker is there."""
    return any((directory / name).exists() for name in _FILES)


def read_trained(directory: Path, encoder: str) -> tuple[Trained, Negatives]:
    """Read what `write_trained` wrote.

    Raises:
        ArtifactError: A file is missing, truncated, changed, of another version or encoder.
    """
    document, arrays = read_pair(directory, _FILES, _REMEDY)
    try:
        if document["encoder"] != encoder:
            raise ValueError(f"fitted with encoder {document['encoder']!r}, not {encoder!r}")
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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"the agents' ranker in {str(directory)!r} cannot be used: {error}. {_REMEDY}"
        ) from error


