"""What has been asked and answered, one JSON line each, on disk before the next question.

A process may be killed at any moment: every line is synced, a torn last line is cut off when the
file is opened again, and what stands in it is never asked again. Knows no LLM.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moma_core.errors import ArtifactError

__all__ = ["Journal", "call_key"]

_FORMAT = 1


def call_key(*parts: str) -> str:
    """Return a short name of a call that depends on all parts: who is asked, and every word.

    Example:
        >>> call_key("answer", "small", "2+2?") == call_key("answer", "small", "2+2 ?")
        False
    """
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "replace")).hexdigest()[:32]


class Journal:
    """Appends records to a file and remembers the answered ones by their key.

    Args:
        path: The file; made if absent, continued if there.

    Raises:
        ArtifactError: It cannot be read or written, is damaged before its last line, or another
            process writes it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "journal.jsonl"
        >>> with Journal(path) as journal:
        ...     journal.append("k", {"text": "4", "cost": 0.5})
        >>> with Journal(path) as journal:
        ...     journal.answered["k"]["text"], journal.spent
        ('4', 0.5)
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.answered: dict[str, dict[str, Any]] = {}
        """Records of answered calls by key."""
        self.spent = 0.0
        """USD of all calls in the file, failed ones included."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b")
        except OSError as error:
            raise ArtifactError(f"cannot write {path} ({error}). Choose another --out.") from error
        try:
            self._lock()
            self._replay()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def append(self, key: str, record: Mapping[str, Any]) -> None:
        """Write an answered call; it is on disk when this returns.

        Raises:
            ArtifactError: The disk is full, or the file cannot be written.
        """
        self._write({"key": key, **record})

    def failed(self, record: Mapping[str, Any]) -> None:
        """Write a failed call: it counts for the money spent, and will be asked again.

        Raises:
            ArtifactError: The disk is full, or the file cannot be written.
        """
        self._write({"failed": True, **record})

    def _write(self, record: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ArtifactError(
                f"cannot write {self._path} ({error}). Make room and run again: it goes on there."
            ) from error
        self._remember(record)

    def _remember(self, record: dict[str, Any]) -> None:
        self.spent += float(record.get("cost", 0.0))
        if "key" in record:
            self.answered[record["key"]] = record

    def _replay(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # killed while writing
            self._file.truncate(whole)
        lines = content[:whole].splitlines()
        if not lines:
            self._write({"format": _FORMAT})
            return
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                if number == 1 and record["format"] != _FORMAT:
                    raise ValueError(f"format {record['format']!r}")
                self._remember(record)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ArtifactError(
                    f"line {number} of {self._path} is damaged ({error}). Delete that line, or "
                    "name another --out."
                ) from error

    def _lock(self) -> None:
        with contextlib.suppress(ImportError):  # no fcntl on Windows: nobody guards there
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ArtifactError(
                    f"another process writes {self._path}. Wait for it, or name another --out."
                ) from error
