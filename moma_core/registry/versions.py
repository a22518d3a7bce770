"""Who wrote a name, and that nobody writes over what he has not read."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from moma_core.errors import ConflictError
from moma_core.protocols import AgentRecord, Version

__all__ = ["check_versions", "conflict", "numbered", "who", "written"]


def who() -> str:
    """Return host and process, by which others know this one."""
    return f"{socket.gethostname()}:{os.getpid()}"


def check_versions(stored: Mapping[str, Version], records: Sequence[AgentRecord]) -> None:
    """Refuse records whose names somebody wrote since they were read.

    Args:
        stored: The version of every name that is stored now.
        records: What is to be written over them.

    Raises:
        ConflictError: Somebody was first; the message says who.

    Example:
        >>> import numpy as np
        >>> from moma_core import AgentCard
        >>> mine = AgentRecord(AgentCard("a", "adds"), np.ones(2), np.ones((0, 2)), Version())
        >>> check_versions({}, [mine])
        >>> check_versions({"a": Version(1, 5, "ada:42", 0.0)}, [mine])
        Traceback (most recent call last):
        moma_core.errors.ConflictError: agent 'a' was written by ada:42 at ...
    """
    for record in records:
        based_on, now = record.version, stored.get(record.card.name, Version())
        if based_on is not None and based_on != now:
            raise conflict(record.card.name, now)


def conflict(name: str, now: Version) -> ConflictError:
    """Return the error that says who wrote a name since this process read it."""
    if now.number == 0:
        what = "removed by another process"
    else:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now.at))
        what = f"written by {now.by} at {at} UTC"
    return ConflictError(
        f"agent {name!r} was {what}, after this process read it. Nothing was written over that. "
        f"Read it again with router.agents.refresh() and repeat the change."
    )


def numbered(number: int, born: int) -> Version:
    """Return a version that this process writes now."""
    return Version(number, born, who(), time.time())


def written(
    stored: Mapping[str, AgentRecord], numbers: Mapping[str, int], records: Sequence[AgentRecord]
) -> dict[str, AgentRecord]:
    """Return what a store in memory writes: the records with their next versions.

    Args:
        stored: What is there by name, each with a version.
        numbers: The last version's number of every name, also of forgotten ones.
        records: What is to be written; of a known name, ``enabled`` stays.

    Raises:
        ConflictError: Somebody wrote a name since it was read.
    """
    check_versions({name: r.version or Version() for name, r in stored.items()}, records)
    rows: dict[str, AgentRecord] = {}
    start = time.time_ns()
    for i, record in enumerate(records):
        name = record.card.name
        known, card = stored.get(name), record.card
        born = start + i
        if known is not None:
            born = (known.version or Version()).born
            card = replace(card, enabled=known.card.enabled)
        rows[name] = replace(record, card=card, version=numbered(numbers.get(name, 0) + 1, born))
    return rows
