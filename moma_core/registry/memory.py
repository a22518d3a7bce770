"""A registry that forgets everything when the process ends: for tests and notebooks."""

from __future__ import annotations

from collections.abc import Sequence

from moma_core.protocols import AgentRecord

__all__ = [
    "MemoryRegistry",
]


class MemoryRegistry:
    """Keeps agent records in a dict.

    Example:
        >>> MemoryRegistry().load()
        []
    """

    def __init__(self) -> None:
        self._records: dict[str, AgentRecord] = {}

    def put(self, records: Sequence[AgentRecord]) -> None:
        """Store records, replacing those of the same name."""
        self._records.update((record.card.name, record) for record in records)

    def delete(self, names: Sequence[str]) -> None:
        """Forget these names; unknown ones are ignored."""
        for name in names:
            self._records.pop(name, None)

    def load(self) -> Sequence[AgentRecord]:
        """Return every record in the order in which its name was first stored."""
        return list(self._records.values())
