"""A registry that forgets everything when the process ends: for tests and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moma_core.locks import Lock
from moma_core.protocols import AgentRecord
from moma_core.registry.versions import written

__all__ = [
    "MemoryRegistry",
]


class MemoryRegistry:
    """Keeps agent records in a dict; several catalogs may share it.

    Example:
        >>> MemoryRegistry().load()
        []
    """

    def __init__(self) -> None:
        self._records: dict[str, AgentRecord] = {}
        self._numbers: dict[str, int] = {}
        self._lock = Lock()

    def put(self, records: Sequence[AgentRecord]) -> Sequence[AgentRecord]:
        """Store records over the versions they were read from, and return them as stored.

        Raises:
            ConflictError: Somebody else wrote a name since.
        """
        with self._lock:
            rows = written(self._records, self._numbers, records)
            self._records.update(rows)
            self._numbers.update((name, r.version.number) for name, r in rows.items() if r.version)
            return list(rows.values())

    def delete(self, names: Sequence[str]) -> None:
        """Forget these names; unknown ones are ignored."""
        with self._lock:
            for name in names:
                if self._records.pop(name, None) is not None:
                    self._numbers[name] += 1

    def switch(self, names: Sequence[str], *, enabled: bool) -> None:
        """Set whether these may be chosen; unknown ones are ignored."""
        with self._lock:
            for name in names:
                record = self._records.get(name)
                if record is not None:
                    card = replace(record.card, enabled=enabled)
                    self._records[name] = replace(record, card=card)

    def load(self) -> Sequence[AgentRecord]:
        """Return every record in the order in which its name was first stored."""
        return list(self._records.values())
