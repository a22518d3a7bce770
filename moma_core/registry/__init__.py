"""Where agents are kept: in memory, in two files, or in Chroma on disk or on a server.

A new registry is a file beside `memory` and a case in `open_registry`.
"""

from __future__ import annotations

from pathlib import Path

from moma_core.protocols import Encoder, Registry
from moma_core.registry.files import FileRegistry
from moma_core.registry.location import ChromaServer, place_of
from moma_core.registry.memory import MemoryRegistry

__all__ = ["FOLDER", "open_registry"]

FOLDER = "registry"
"""Of a router's directory, where its agents are."""


def open_registry(path: str | Path | ChromaServer | None, encoder: Encoder) -> Registry:
    """Open the registry of a router's directory, of a Chroma server's URL, or in memory for None.

    A directory that a router in memory was saved to keeps its two files; others have Chroma.

    Raises:
        RegistryError: Chroma does not answer or cannot write.
    """
    if path is None:
        return MemoryRegistry()
    place = place_of(path)
    if isinstance(place, Path):
        place = place / FOLDER
        if FileRegistry.is_at(place):
            return FileRegistry(place, encoder.fingerprint)
    from moma_core.registry.chroma import ChromaRegistry  # a router in memory needs no Chroma

    return ChromaRegistry.open(place, encoder.fingerprint, encoder.dimension)
