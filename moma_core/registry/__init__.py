"""Registries keep agent records across restarts; a new one is one file that meets the protocol."""

from typing import TYPE_CHECKING

from moma_core.registry.memory import MemoryRegistry

if TYPE_CHECKING:
    from moma_core.registry.chroma import ChromaRegistry

__all__ = ["ChromaRegistry", "MemoryRegistry"]


def __getattr__(name: str) -> object:
    # chromadb takes two seconds to import; a router without a directory never needs it.
    if name == "ChromaRegistry":
        from moma_core.registry.chroma import ChromaRegistry

        return ChromaRegistry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
