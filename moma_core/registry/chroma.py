"""Agent records in Chroma: in a directory, or on a server that many processes share.

An agent is one record of the collection ``agents``: the vector of its description for Chroma's
index, and card and vectors whole as a JSON text beside it. A record is never changed. Its id is
``NUMBER#NAME``, and Chroma keeps the first record that is added under an id, so of two processes
that write the same next number one wins and the other reads that it did not. Whether an agent is
enabled is a small record of its own in the collection ``switches``: new texts never undo it.

A directory is opened for each change under a lock between processes, and closed: nothing is held
open between changes, so there is nothing to leak or to break in a fork, and what another process
wrote is always seen. The only file that imports chromadb.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import random
import re
import shutil
import threading
import time
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from moma_core._checks import parse_json
from moma_core._store import write_whole
from moma_core.errors import ArtifactError, MoMAError, RegistryError
from moma_core.locks import Lock, locked
from moma_core.protocols import AgentRecord, Switches, Version
from moma_core.registry.chroma_records import TRIES, Head, Row, Store, digest, next_rows
from moma_core.registry.forked import ask_fresh_process
from moma_core.registry.location import ChromaServer, place_of
from moma_core.registry.record_json import from_plain, version_of
from moma_core.registry.versions import check_versions, conflict

__all__ = [
    "ChromaRegistry",
]

_jitter = random.Random()  # noqa: S311 - of its own: others may seed theirs

Result = TypeVar("Result")

_DATABASE, _LOCK, _STAMP, _WRITING = "chroma.sqlite3", ".lock", ".changed", ".writing"
_SWITCHES = ".switches"  # beside Chroma, for those who cannot wait for the lock
_TOMBSTONE_SECONDS = 7 * 86_400.0  # how long a process may be away and still learn of a removal
_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, MoMAError)


Method = TypeVar("Method", bound=Callable[..., Any])


def _healing(method: Method) -> Method:
    """Call a method again where only Chroma's index was damaged, which is then made anew."""

    @functools.wraps(method)
    def called(self: ChromaRegistry, *args: Any, **named: Any) -> Any:
        try:
            return method(self, *args, **named)
        except RegistryError:
            if not self._place.damaged:
                raise
        return method(self, *args, **named)

    return cast("Method", called)


class ChromaRegistry:
    """Keeps agent records in Chroma, one atomic record an agent.

    ``location`` is the directory, or the URL without secrets.

    Args:
        place: A directory, a server, or a Chroma client of your own.
        fingerprint: The encoder's; vectors of another encoder are refused.
        dimension: Length d of a vector.
        prefix: First part of the collections' names.
        make: Whether to make the store where there is none.

    Raises:
        RegistryError: The store does not answer or cannot be read.
        ArtifactError: The store was written with another encoder.
    """

    def __init__(
        self,
        place: Any,
        fingerprint: str,
        dimension: int,
        prefix: str = "moma",
        *,
        make: bool = True,
    ) -> None:
        self._place = _opened_place(place)
        self.location = self._place.location
        self._fingerprint = fingerprint
        self._dimension = dimension
        self._names = f"{prefix}_agents", f"{prefix}_switches"
        self._prefix = prefix
        if self._forked:
            self._in_fresh_process("open" if make else "load")
            return
        with self._opened("open", make=make):
            pass

    @classmethod
    def open(
        cls, location: str | Path | ChromaServer, fingerprint: str, dimension: int
    ) -> ChromaRegistry:
        """Open a directory, or a server by its URL such as ``http://localhost:8000``.

        Raises:
            RegistryError: The directory cannot be written or the server does not answer.
            ArtifactError: The store was written with another encoder.
        """
        return cls(place_of(location), fingerprint, dimension)

    @_healing
    def put(self, records: Sequence[AgentRecord]) -> Sequence[AgentRecord]:
        """Store records over the versions they were read from, and return them as stored.

        Raises:
            ConflictError: Another process wrote a name since; nothing of it was overwritten.
            RegistryError: Chroma does not answer or cannot write; an error that says so leaves
                open whether it was written. To put it again is safe.
        """
        if not records:
            return []
        if self._forked:
            return self._in_fresh_process("put", records)
        with self._opened("write") as store:
            heads = store.heads([record.card.name for record in records])
            check_versions(self._live(store, heads, records), records)
            rows = next_rows(records, heads)
            with store.changing():
                store.add([row.chroma() for row in rows])
                lost = store.lost(rows)
            store.forget_older([row for row in rows if row.name not in lost], heads)
            by_name = {record.card.name: record for record in records}
            again = [r for name, r in by_name.items() if name in lost and r.version is None]
            refused = [name for name in lost if by_name[name].version is not None]
            if refused:
                raise conflict(refused[0], lost[refused[0]].version)
            switches = store.switches([row.name for row in rows])
        stored = {r.card.name: r for r in (self.put(again) if again else ())}
        for row in rows:
            if row.name not in stored:
                card = by_name[row.name].card
                enabled = switches.get((row.name, row.version.born), row.enabled)
                stored[row.name] = dataclasses.replace(
                    by_name[row.name],
                    card=dataclasses.replace(card, enabled=enabled),
                    version=row.version,
                )
        return list(stored.values())

    @_healing
    def delete(self, names: Sequence[str]) -> None:
        """Forget these names; unknown ones are ignored.

        Raises:
            RegistryError: Chroma does not answer or cannot write.
        """
        if not names:
            return
        if self._forked:
            self._in_fresh_process("delete", list(names))
            return
        with self._opened("write") as store:
            left = list(dict.fromkeys(names))
            for _ in range(TRIES):
                heads = {n: head for n, head in store.heads(left).items() if not head.gone}
                rows = [Row.gone_after(head, self._dimension) for head in heads.values()]
                with store.changing():
                    store.add([row.chroma() for row in rows])
                    lost = store.lost(rows)
                done = [row for row in rows if row.name not in lost]
                store.forget_older(done, heads)
                store.forget_switches(done)
                left = list(lost)
                if not left:
                    store.forget_tombstones(time.time() - _TOMBSTONE_SECONDS)
                    return
        raise RegistryError(f"{left[0]!r} is being written all the time. Remove it again.")

    @_healing
    def switch(self, names: Sequence[str], *, enabled: bool) -> None:
        """Set whether these may be chosen, whatever it was; unknown ones are ignored.

        Raises:
            RegistryError: Chroma does not answer or cannot write; to repeat it is safe.
        """
        if not names:
            return
        if self._forked:
            self._in_fresh_process("enable" if enabled else "disable", list(names))
            return
        with self._opened("write") as store:
            heads = [head for head in store.heads(names).values() if not head.gone]
            store.announce(heads, enabled=enabled)
            with store.changing():
                store.switch(heads, enabled=enabled)

    @_healing
    def load(self) -> Sequence[AgentRecord]:
        """Return every record in the order in which its name was first stored.

        A damaged record is left out, with a warning that names it.

        Raises:
            RegistryError: Chroma does not answer, or the store is gone.
        """
        if self._forked:
            return self._in_fresh_process("load")
        with self._opened("read") as store:
            rows = store.newest()
            switches = store.switches()
        records, damaged = self._sorted_out(rows, switches)
        if damaged:
            shown = [f"{key!r:.80} ({error!s:.80})" for key, error in damaged.items()]
            warnings.warn(
                f"{len(damaged)} damaged records at {self.location!r:.200} were set aside: "
                f"{', '.join(shown[:3])}. The other {len(records)} agents are loaded; register "
                "these again with agents.put(card), or forget them: moma agents repair.",
                RuntimeWarning,
                stacklevel=2,
            )
        return sorted(records, key=lambda r: (r.version.born if r.version else 0, r.card.name))

    @_healing
    def repair(self) -> Sequence[str]:
        """Delete the records that `load` sets aside, and make Chroma's index anew.

        Returns:
            The ids of the records, which hold the agents' names.

        Raises:
            RegistryError: Chroma does not answer or cannot write.
        """
        with self._opened("write") as store:
            damaged = list(self._sorted_out(store.newest(), {})[1])
            with store.changing():
                store.delete(damaged)
        self._place.doubt_index()
        return damaged

    def switches(self) -> Switches:
        """Return who was switched on or off, by name and birth, without waiting for others.

        Raises:
            RegistryError: The server does not answer.
        """
        if self._place.exclusive:
            return self._place.switches() or {}
        with self._opened("read") as store:
            return store.switches()

    def _sorted_out(
        self, rows: Sequence[Mapping[str, Any]], switches: Switches
    ) -> tuple[list[AgentRecord], dict[str, Exception]]:
        """Return the records that are whole, and why the others are not, by their ids."""
        records: list[AgentRecord] = []
        damaged: dict[str, Exception] = {}
        for row in rows:
            try:
                records.append(self._record(row, switches))
            except _DAMAGED as error:
                damaged[row["id"]] = error
        return records, damaged

    def stamp(self) -> str:
        """Return a text that is another after every change: a look at a file, or one request."""
        seen = self._place.stamp()
        if seen is None:
            with self._opened("read") as store:
                return store.stamp
        return seen

    @property
    def last_change(self) -> tuple[str, str] | None:
        """The stamps before and after the last change made here; None on a server."""
        return self._place.last_change

    def close(self) -> None:
        """Let go of the connection; the next call opens another."""
        self._place.close()

    @property
    def _forked(self) -> bool:
        """Whether a parent of this process used Chroma, whose threads a fork does not copy."""
        return isinstance(self._place, _Directory) and _used_in not in (None, os.getpid())

    def _in_fresh_process(self, verb: str, *given: Any) -> list[AgentRecord]:
        opened = (self.location, self._fingerprint, self._dimension, self._prefix)
        return ask_fresh_process(opened, verb, *given)

    def _live(
        self, store: Store, heads: Mapping[str, Head], records: Sequence[AgentRecord]
    ) -> dict[str, Version]:
        """Return the versions that are there; what is damaged counts as absent."""
        live = {name: head.version for name, head in heads.items() if not head.gone}
        new = [r.card.name for r in records if r.version == Version() and r.card.name in live]
        for row in store.rows_of([heads[name].ids[-1] for name in new])[0]:
            try:
                self._record(row, {})
            except _DAMAGED:
                live.pop(row["id"].partition("#")[2])
        return live

    def _record(self, row: Mapping[str, Any], switches: Switches) -> AgentRecord:
        meta, payload = row["meta"], row["payload"]
        if meta["digest"] != digest(payload):
            raise ValueError("its content is not what was written")
        content = {**parse_json(payload, any_number=True), "version": meta}
        version = version_of(meta)
        record = from_plain(content, self._dimension)
        if record.card.name != meta["agent"]:
            raise ValueError("its content is another agent's")
        enabled = switches.get((meta["agent"], version.born), record.card.enabled)
        return dataclasses.replace(record, card=dataclasses.replace(record.card, enabled=enabled))

    @contextmanager
    def _opened(self, verb: str, *, make: bool = False) -> Iterator[Store]:
        with _as_registry_errors(verb, self._place), self._place.session(verb, make=make) as client:
            store = Store(client, self._names, self._place)
            written_by = store.open(self._fingerprint, make=make)
            if written_by != self._fingerprint:
                raise ArtifactError(
                    f"these agents were stored with encoder {written_by!r}, this router has "
                    f"{self._fingerprint!r}. Open them with the first, or register the agents in "
                    "a new place."
                )
            yield store


_used_in: int | None = None  # the process that used Chroma's threads


class _Directory:
    """A directory, which one session at a time has open."""

    exclusive = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)
        self.last_change: tuple[str, str] | None = None

    @contextmanager
    def session(self, verb: str, *, make: bool) -> Iterator[Any]:
        """Open the directory under its lock, with all that other processes wrote."""
        if make:
            self.path.mkdir(parents=True, exist_ok=True)
        elif not (self.path / _DATABASE).exists():
            raise self.gone()
        with locked(self.path / _LOCK):
            global _used_in  # noqa: PLW0603 - what a fork breaks is the process's, not an object's
            _used_in = os.getpid()
            if self.damaged:
                self._drop_index()
            if verb == "write":
                (self.path / _WRITING).touch()
            # Chroma holds one client a path for all that use it: this spelling is our own.
            client = _chroma().PersistentClient(
                path=f"{self.path}{os.sep}{os.curdir}", settings=_settings()
            )
            try:
                yield client
            except Exception as error:
                if "hnsw" in str(error):
                    self.doubt_index()
                    verb = "read"  # it stays damaged
                raise
            finally:
                client.close()
                if verb == "write":
                    (self.path / _WRITING).unlink(missing_ok=True)

    @property
    def damaged(self) -> bool:
        """Whether a process died as it wrote, or found the index damaged."""
        return (self.path / _WRITING).exists()

    def doubt_index(self) -> None:
        """Let the next session make the index anew."""
        (self.path / _WRITING).touch()

    def _drop_index(self) -> None:
        """Remove the files of Chroma's index, which may be half written; nothing is read from them.

        The agents themselves are in the database, whose changes are whole.
        """
        for folder in self.path.glob("*-*-*-*-*"):
            shutil.rmtree(folder, ignore_errors=True)
        (self.path / _WRITING).unlink(missing_ok=True)

    def restamp(self) -> bool:
        """Write the stamp: who sees it waits for the lock, and so for the change."""
        before, after = self.stamp() or "", uuid.uuid4().hex
        fresh = self.path / f"{_STAMP}.new"
        fresh.write_text(after)
        fresh.replace(self.path / _STAMP)
        self.last_change = before, after
        return True

    def stamp(self) -> str | None:
        """Return what the last change left."""
        with suppress(OSError):
            return (self.path / _STAMP).read_text()
        return ""

    def switches(self) -> Switches | None:
        """Return what `announce` wrote last; None where that cannot be read: Chroma has it too."""
        try:
            told = list(parse_json((self.path / _SWITCHES).read_bytes())["switches"])
            return {(str(name), int(born)): bool(enabled) for name, born, enabled in told}
        except (OSError, *_DAMAGED):
            return None

    def announce(self, switches: Switches) -> None:
        """Write who is on or off where it is read without the lock."""
        told = [[name, born, enabled] for (name, born), enabled in switches.items()]
        try:
            write_whole(self.path / _SWITCHES, json.dumps({"switches": told}).encode())
        except ArtifactError as error:
            raise RegistryError(str(error)) from error

    def again(self, ask: Callable[[], Result]) -> Result:
        """Ask once: a directory does not answer better the second time."""
        return ask()

    def gone(self) -> RegistryError:
        return RegistryError(
            f"the agents in {self.location!r} are gone: somebody deleted the directory. Those in "
            "memory stay as they are. Write them again with router.save(dir), or register them: "
            "MoMARouter.from_cards(cards, path=dir)."
        )

    def remedy(self, error: BaseException) -> str:
        """Return what to do about an error."""
        if _no_descriptors(error):
            return (
                "This process has too many files open; nothing is damaged. Close some, or allow "
                "more: ulimit -n 4096."
            )
        if _no_room(error, self.path):
            return (
                "No room is left on the disk or for this user, or the disk fails; what was written "
                "before is whole and nothing in memory was lost. Free some, then do it again."
            )
        if type(error).__name__ == "PanicException":  # of Chroma's Rust core
            return "The directory is damaged; restore it from a backup or register the agents anew."
        return "Check that the directory is writable and undamaged; nothing in memory was lost."

    def close(self) -> None:
        """Nothing is open between changes."""


class _Server:
    """A server, with one connection pool a process."""

    exclusive = damaged = False
    last_change = None

    def __init__(self, server: ChromaServer) -> None:
        self.server = server
        self.location = server.location
        self._lock = Lock()
        self._client: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}  # a copy opens its own

    @contextmanager
    def session(self, verb: str, *, make: bool) -> Iterator[Any]:  # noqa: ARG002 - as below
        """Give the client of this process: a child does not use its parent's connections."""
        with self._lock:
            if self._client is None or self._client[0] != os.getpid():
                opened = _http_client(self.server)
                self._client = os.getpid(), opened
                weakref.finalize(self, _close_own, *self._client)
            client = self._client[1]
        yield client

    def doubt_index(self) -> None:
        """The index is the server's own affair."""

    def restamp(self) -> bool:
        return False

    def stamp(self) -> str | None:
        return None

    def switches(self) -> Switches | None:
        return None

    def again(self, ask: Callable[[], Result]) -> Result:
        """Ask up to three times where no connection is to be had or the server is overloaded."""
        import httpx

        for pause in (0.05, 0.25):
            try:
                return ask()
            except httpx.TimeoutException:
                raise
            except Exception as error:
                busy = _status(error) in (429, 502, 503, 504)
                if not (busy or isinstance(error, httpx.TransportError)):
                    raise
                time.sleep(pause * _jitter.uniform(0.5, 1.5))  # only spreads
        return ask()

    def gone(self) -> RegistryError:
        return RegistryError(
            f"the server {self.location} has no agents: it lost its data, or another prefix is "
            "meant. Those in memory stay as they are. Register them again: "
            f"MoMARouter.from_cards(cards, path={self.location!r})."
        )

    def remedy(self, error: BaseException) -> str:
        """Return what to do about an error, without a secret."""
        if _no_descriptors(error):
            return "This process has too many files open. Close some, or type: ulimit -n 4096."
        status = _status(error)
        if "Timeout" in type(error).__name__:
            return (
                f"{self.location} said nothing for {self.server.timeout:g} s. A change may have "
                "been made: type router.agents.refresh() to see; to repeat it is safe. Give it "
                "longer with '?timeout=20'."
            )
        if status in (401, 403):
            return (
                f"{self.location} refuses these credentials (HTTP {status}). Give the right ones: "
                "path=ChromaServer(url, headers={'X-Chroma-Token': ...}), from "
                "moma_core.registry.location import ChromaServer."
            )
        if status is not None:
            return (
                f"{self.location} answers with HTTP {status}. Check the URL's port and prefix, and "
                "that tenant and database exist; nothing in memory was lost."
            )
        return (
            f"Check that a Chroma server is running at {self.location} (chroma run --path DIR); "
            "nothing in memory was lost."
        )

    def close(self) -> None:
        """Close the connections, unless they are a parent process's."""
        client, self._client = self._client, None
        if client is not None:
            _close_own(*client)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status behind one of Chroma's errors, where there is one."""
    for each in (error, error.__context__, error.__cause__):
        response = getattr(each, "response", None)
        if response is not None:
            return int(response.status_code)
    return None


def _close_own(process: int, client: Any) -> None:
    if process == os.getpid():  # else a TLS goodbye would end the parent's connection
        client.close()


class _Given:
    """A client of the user's own, which the user closes."""

    exclusive = damaged = False
    last_change = None

    def __init__(self, client: Any) -> None:
        self._client = client
        self.location = ""

    @contextmanager
    def session(self, verb: str, *, make: bool) -> Iterator[Any]:  # noqa: ARG002 - as below
        yield self._client

    def doubt_index(self) -> None:
        """The index is the server's own affair."""

    def restamp(self) -> bool:
        return False

    def stamp(self) -> str | None:
        return None

    def switches(self) -> Switches | None:
        return None

    def again(self, ask: Callable[[], Result]) -> Result:
        return ask()

    def gone(self) -> RegistryError:
        return RegistryError("the client's store has no agents any more. Register them again.")

    def remedy(self, error: BaseException) -> str:  # noqa: ARG002 - as a directory's
        return "Check the client that the registry was given; nothing in memory was lost."

    def close(self) -> None:
        """It is not ours."""


_Place = _Directory | _Server | _Given


def _opened_place(place: Any) -> _Place:
    if isinstance(place, ChromaServer):
        return _Server(place)
    if isinstance(place, Path):
        return _Directory(place)
    return _Given(place)


def _http_client(server: ChromaServer) -> Any:
    """Return a Chroma client whose requests all end; Chroma's own waits for ever."""
    settings = _settings(
        chroma_api_impl="chromadb.api.fastapi.FastAPI",
        chroma_server_host=server.url,  # a whole URL: port and prefix are taken from it
        chroma_server_http_port=1,  # required, and not looked at beside a whole URL
        chroma_server_headers=dict(server.headers),
    )
    from chromadb.api.client import Client
    from chromadb.api.fastapi import FastAPI
    from chromadb.config import System

    api: Any = System(settings).instance(FastAPI)
    api._session.timeout = server.timeout  # noqa: SLF001 - no setting of Chroma's sets it

    class Timed(Client):
        def __init__(self) -> None:  # without the requests that Chroma makes here
            self.tenant, self.database, self._server = server.tenant, server.database, api

        def close(self) -> None:
            api._session.close()  # noqa: SLF001 - Chroma closes what it shares; this is not

    return Timed()


_importing = threading.Lock()


def _chroma() -> Any:
    """Import Chroma, which reads the environment and ``.env`` as it is imported."""
    with _importing:
        try:
            import chromadb
        except ValueError:  # pydantic's: settings of another program cannot be those of Chroma
            with _no_environment():
                import chromadb
    return chromadb


@contextmanager
def _no_environment() -> Iterator[None]:
    from pydantic_settings import BaseSettings

    settings: Any = BaseSettings
    before = settings.settings_customise_sources
    settings.settings_customise_sources = classmethod(_only_given)
    try:
        yield
    finally:
        settings.settings_customise_sources = before


def _only_given(_: Any, __: Any, /, **sources: Any) -> tuple[Any, ...]:
    return (sources["init_settings"],)


def _settings(**given: Any) -> Any:
    """Return Chroma's settings as given: what other programs set for Chroma is not for us."""
    _chroma()
    from chromadb.config import Settings

    ours: Any = type("Ours", (Settings,), {"settings_customise_sources": classmethod(_only_given)})
    return ours(anonymized_telemetry=False, **given)


def _no_descriptors(error: BaseException) -> bool:
    """Say whether this process can open no further file."""
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
        return True
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as failed:
        return failed.errno in (errno.EMFILE, errno.ENFILE)
    return False


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SAID = re.compile(r"disk is full|No space left|\(code: (?:13|778)\)", re.IGNORECASE)
_PROBE = 64 * 1024  # bytes, more than a database's page


def _no_room(error: BaseException, folder: Path) -> bool:
    """Say whether nothing more can be written in a directory: SQLite says so as 13 or 778."""
    if getattr(error, "errno", None) in _FULL or _SAID.search(str(error)):
        return True
    probe = folder / f".{uuid.uuid4().hex}"
    try:
        probe.write_bytes(bytes(_PROBE))
    except OSError as failed:
        return failed.errno in _FULL
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return False


@contextmanager
def _as_registry_errors(verb: str, place: _Place) -> Iterator[None]:
    """Turn whatever Chroma raises into a RegistryError that says what to do."""
    try:
        yield
    except (RegistryError, ArtifactError):
        raise
    except BaseException as error:
        # Chroma's Rust core raises PanicException, which is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())[:300] or "no reason given"
        raise RegistryError(
            f"Chroma could not {verb} the agents: {type(error).__name__}: {said}. "
            f"{place.remedy(error)}"
        ) from error
