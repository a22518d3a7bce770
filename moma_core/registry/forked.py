"""Lets a forked process use a directory all the same: a fresh process does the work for it.

Chroma computes in threads that a fork does not copy, so a child of a process that used it would
wait for them for ever. ``python -m moma_core.registry.forked`` reads one call as JSON and answers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moma_core import errors
from moma_core.errors import MoMAError, RegistryError
from moma_core.protocols import AgentRecord
from moma_core.registry.record_json import from_plain, to_plain

__all__ = ["ask_fresh_process"]

_PATIENCE = 120.0  # seconds, for many thousands of agents


def ask_fresh_process(
    opened: tuple[str, str, int, str], verb: str, *arguments: Any
) -> list[AgentRecord]:
    """Return what a registry's method returns in a process of its own.

    Args:
        opened: Directory, fingerprint, dimension and prefix that the registry was opened with.
        verb: ``open``, ``put``, ``delete``, ``enable``, ``disable`` or ``load``.
        arguments: Of the method: records, or names.

    Raises:
        RegistryError: What the method raised there, or no process could be started.
    """
    [given] = arguments or ([],)
    plain = [to_plain(each) if isinstance(each, AgentRecord) else each for each in given]
    call = json.dumps({"opened": opened, "verb": verb, "given": plain})
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", __name__],
            input=call,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        answer = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error)[-300:]
        raise RegistryError(
            f"this process was forked from one that used Chroma, and cannot {verb} the agents "
            f"through a fresh one ({said}). Open the router after the fork, start the workers "
            "with multiprocessing's 'spawn', or keep the agents on a server: chroma run."
        ) from error
    if "error" in answer:
        kind = getattr(errors, answer["error"], RegistryError)
        raise kind(answer["message"])
    return [from_plain(each, opened[2]) for each in answer["records"]]


def _answer(call: dict[str, Any]) -> dict[str, Any]:
    from moma_core.registry.chroma import ChromaRegistry

    path, fingerprint, dimension, prefix = call["opened"]
    verb, given = call["verb"], call["given"]
    found: Sequence[AgentRecord] = ()
    try:
        registry = ChromaRegistry(Path(path), fingerprint, dimension, prefix, make=verb == "open")
        if verb == "put":
            found = registry.put([from_plain(each, dimension) for each in given])
        elif verb == "load":
            found = registry.load()
        elif verb == "delete":
            registry.delete(given)
        elif verb != "open":
            registry.switch(given, enabled=verb == "enable")
    except MoMAError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"records": [to_plain(record) for record in found]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_answer(json.loads(sys.stdin.read()))))
