"""``moma route --batch``: parquet in bounded memory, where an ended run goes on; or any table."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from typing import Any

from moma_core._checks import is_text, parse_json
from moma_core._store import write_whole
from moma_core._tables import read_table, write_table
from moma_core.cli.terminal import HERE, open_router, progress_bar, router_exists
from moma_core.decision import RoutingDecision
from moma_core.errors import ArtifactError, InvalidDataError, NoTargetError, needs_extra

__all__ = ["route_file"]

ROWS = 4_096
"""Rows of a part: what an ended run loses at most of each worker, and what memory holds."""

_QUERY = "query"
_ADDED = ("kind", "target", "targets", "probability", "cost", "reason")
_WHOLE = {".csv", ".tsv", ".jsonl"}


def route_file(source: Path, out: Path, router: Path, preference: str, workers: int) -> int:
    """Route every row of a table with a column ``query`` and write them with the decisions.

    Where both are parquet, rows are decided in parts beside ``out``, put together at the end; a
    part that is there already is not decided again. Any other table is held whole. Added are the
    columns kind, target, targets, probability, cost and reason.
    A row without words has kind ``none``, one that nobody may take ``nobody``.

    Args:
        source: What to read.
        out: What to write, at once when all is decided.
        router: The router's directory; where there is none, a router without agents.
        preference: As in `MoMARouter.route`.
        workers: Processes; 1: this one.

    Returns:
        The number of rows.

    Raises:
        InvalidDataError: The file cannot be read or has no texts in ``query``.
        ArtifactError: ``out`` cannot be written, or parts of another file or router are beside it.
    """
    if {source.suffix.lower(), out.suffix.lower()} & _WHOLE:
        return _route_whole(source, out, router, preference)
    with needs_extra("train"):
        import pyarrow.parquet as pq
    n_rows = _checked(source)
    parts = out.with_name(f"{out.name}.parts")
    _begin(parts, _told(source, router, preference))
    n_parts = -(-n_rows // ROWS)
    with progress_bar(out, f"Parts are kept in {parts}; type the command again to go on.") as tell:
        done = sum(_part(parts, i).exists() for i in range(n_parts))
        tell("routing", min(done * ROWS, n_rows), n_rows)
        for _ in _decided(source, parts, str(router), preference, workers):
            done += 1
            tell("routing", min(done * ROWS, n_rows), n_rows)
        tell("putting together", n_rows, n_rows)
    fresh = out.with_name(f".{out.name}.new")
    try:
        schema = pq.read_schema(_part(parts, 0))
        with pq.ParquetWriter(fresh, schema) as writer:
            for i in range(n_parts):
                writer.write_table(pq.read_table(_part(parts, i), schema=schema))
        fresh.replace(out)
        shutil.rmtree(parts)
    except OSError as error:
        raise ArtifactError(f"cannot write {out} ({error}). Choose another --out.") from error
    return n_rows


def _route_whole(source: Path, out: Path, router: Path, preference: str) -> int:
    """Route a table that is held in memory."""
    columns = dict(read_table(source, (_QUERY,)).columns)
    texts = columns[_QUERY]
    _check_room(source, columns, len(texts))
    rows: list[dict[str, Any]] = []
    with progress_bar(out) as tell:
        tell("opening", 0, 0)
        opened = _opened(str(router))
        for start in range(0, len(texts), ROWS):
            rows += _rows(opened, texts[start : start + ROWS], preference)
            tell("routing", len(rows), len(texts))
    write_table(out, {**columns, **{name: [row[name] for row in rows] for name in _ADDED}})
    return len(rows)


def _checked(source: Path) -> int:
    """Return the number of rows.

    Raises:
        InvalidDataError: The file is no parquet, has no rows, or no texts in ``query``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source) as file:
            schema, n_rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise InvalidDataError(
            f"{source} cannot be read as parquet ({error}). Check the path and the file."
        ) from error
    kind = schema.field(_QUERY).type if _QUERY in schema.names else None
    if kind is None or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InvalidDataError(
            f"{source} needs a column {_QUERY!r} of texts; it has {schema.names!r:.200}."
        )
    _check_room(source, schema.names, n_rows)
    return int(n_rows)


def _check_room(source: Path, names: Iterable[str], n_rows: int) -> None:
    taken = sorted({*names} & {*_ADDED})
    if taken or not n_rows:
        why = f"has a column {taken[0]!r} already; rename it" if taken else "has no rows"
        raise InvalidDataError(f"{source} {why}.")


def _told(source: Path, router: Path, preference: str) -> str:
    """Return a digest of what decisions depend on: the input, the agents, LLMs and preference."""
    found, opened = source.stat(), _opened(str(router))
    llms = opened.llms.cards if opened.llms is not None else ()
    seen = (str(source.absolute()), found.st_size, found.st_mtime_ns, preference, llms)
    return hashlib.blake2b(repr((seen, list(opened.agents))).encode(), digest_size=16).hexdigest()


def _begin(parts: Path, told: str) -> None:
    """Make the directory of the parts, or go on in it.

    Raises:
        ArtifactError: It holds parts of something else, or cannot be made.
    """
    note = parts / "of.json"
    try:
        parts.mkdir(parents=True, exist_ok=True)
        known = parse_json(note.read_text(), any_number=True)["of"] if note.exists() else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"cannot go on in {parts} ({error}). Delete it.") from error
    if known not in (None, told):
        raise ArtifactError(
            f"{parts} holds parts of another file, router or preference, or these changed since. "
            "Delete it to begin anew, or choose another --out."
        )
    write_whole(note, json.dumps({"of": told}).encode())


def _part(parts: Path, i: int) -> Path:
    return parts / f"{i:06}.parquet"


def _decided(
    source: Path, parts: Path, router: str, preference: str, workers: int
) -> Iterator[None]:
    """Decide the parts that are not there, and yield after each."""
    left = ((i, batch) for i, batch in enumerate(_batches(source)) if not _part(parts, i).exists())
    if workers == 1:
        for i, batch in left:
            _route_part(router, preference, batch, str(_part(parts, i)))
            yield
        return
    context = multiprocessing.get_context("spawn")
    waiting: deque[Future[None]] = deque()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes share the cores
    try:
        with ProcessPoolExecutor(workers, context) as pool:
            for i, batch in left:
                part = str(_part(parts, i))
                waiting.append(pool.submit(_route_part, router, preference, batch, part))
                if len(waiting) > 2 * workers:  # else all of the file would wait in memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ArtifactError(
            "a worker was killed, perhaps for want of memory. Type the command again: it goes on "
            "where it was. Take fewer with --workers 1."
        ) from error


def _batches(source: Path) -> Iterator[Any]:
    """Yield tables of `ROWS` rows, whatever row groups the file has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kept: list[Any] = []
    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches(batch_size=ROWS):
            kept.append(batch)
            while sum(each.num_rows for each in kept) >= ROWS:
                table = pa.Table.from_batches(kept)
                yield table.slice(0, ROWS).combine_chunks()
                kept = table.slice(ROWS).to_batches()
    if sum(each.num_rows for each in kept):
        yield pa.Table.from_batches(kept)


@cache
def _opened(router: str) -> Any:
    from moma_core.router import MoMARouter

    folder = Path(router)
    known = folder != HERE or router_exists(folder)
    return open_router(folder) if known else MoMARouter.from_cards()


def _route_part(router: str, preference: str, table: Any, part: str) -> None:
    """Decide the rows of a table and write them as one part, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = table[_QUERY].to_pylist()
    rows = _rows(_opened(router), texts, preference)
    kinds = {"targets": pa.list_(pa.string()), "probability": pa.float64(), "cost": pa.float64()}
    for name in _ADDED:
        values = pa.array([row[name] for row in rows], kinds.get(name, pa.string()))
        table = table.append_column(name, values)
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    write_whole(Path(part), buffer.getvalue().to_pybytes())


def _rows(router: Any, texts: Sequence[str | None], preference: str) -> list[dict[str, Any]]:
    """Return the added columns' values of each text."""
    said = [i for i, text in enumerate(texts) if is_text(text)]
    rows = [_nobody("none", "the query is empty") for _ in texts]
    asked = [texts[i] for i in said]
    try:
        decisions = router.route_batch(asked, preference)
    except NoTargetError:  # of some query, in a router without LLMs
        decisions = [_one(router, text, preference) for text in asked]
    for i, decision in zip(said, decisions, strict=True):
        rows[i] = _plain(decision) if isinstance(decision, RoutingDecision) else decision
    return rows


def _one(router: Any, text: Any, preference: str) -> RoutingDecision | dict[str, Any]:
    try:
        [decision] = router.route_batch([text], preference)
    except NoTargetError as error:
        return _nobody("nobody", str(error))
    return decision  # type: ignore[no-any-return]


def _nobody(kind: str, reason: str) -> dict[str, Any]:
    return dict.fromkeys(("target", "targets", "probability", "cost")) | {
        "kind": kind,
        "reason": reason,
    }


def _plain(decision: RoutingDecision) -> dict[str, Any]:
    return {
        "kind": decision.kind,
        "target": decision.target,
        "targets": list(decision.targets),
        "probability": decision.probability,
        "cost": decision.cost,
        "reason": decision.reason,
    }
