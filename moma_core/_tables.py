"""Tables in files: CSV, TSV, JSON lines and parquet, by the name's ending.

One reader and one writer for all that a user hands over; an error names the line as an editor
counts it. Only parquet needs the ``train`` extra.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._checks import did_you_mean, parse_json
from moma_core._store import write_whole
from moma_core.errors import InvalidDataError, needs_extra

__all__ = [
    "ENDINGS",
    "Table",
    "column_names",
    "is_parquet",
    "names_in",
    "read_table",
    "rows_in",
    "write_table",
]

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
_PARQUET = ".parquet"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LONGEST_CELL = 1 << 24  # characters; an answer of an LLM may be long


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of a file, and where each row stands in it.

    Args:
        path: The file, for errors.
        columns: Values by name, all of one length; None where there is none.
        lines: Line of each row; for parquet its number from 1 on.
        unit: What is counted: ``"line"``, or ``"row"`` of parquet.
    """

    path: Path
    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int]
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """Return the place of a row, as ``agents.csv, line 7``."""
        return f"{self.path}, {self.unit} {self.lines[row]}"

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of a column, all None where there is none of this name."""
        return self.columns.get(name, [None] * len(self))

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """Return a column as numbers, NaN where there is no value, shape (n,).

        Raises:
            InvalidDataError: A value is no number.
        """
        values = [np.nan if value is None else value for value in self.column(name)]
        try:
            return np.array(values, np.float64)
        except (TypeError, ValueError) as error:
            row = next(row for row, value in enumerate(values) if not _is_numeric(value))
            raise InvalidDataError(
                f"{self.where(row)}: the column {name!r} must hold numbers, got "
                f"{values[row]!r:.40}."
            ) from error


def _is_numeric(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _kind(path: str | Path) -> str:
    """Return the ending that says how a file is read: parquet may be called anything."""
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ENDINGS and path.is_file():
        with path.open("rb") as file:
            return _PARQUET if file.read(4) == b"PAR1" else ending
    return ending


def is_parquet(path: str | Path) -> bool:
    """Say whether a file is read as parquet."""
    return _kind(path) == _PARQUET


def names_in(value: object) -> list[str] | None:
    """Return the names of a cell: a list, a JSON list in a text, or one name; None for others.

    Example:
        >>> names_in('["a", "b"]'), names_in("weather"), names_in(None), names_in(3)
        (['a', 'b'], ['weather'], [], None)
    """
    if isinstance(value, str) and value.startswith("["):
        try:
            value = parse_json(value, any_number=True)
        except ValueError:
            value = [value]
    found = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        return None
    return found


def rows_in(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a text file, each with the line on which it begins.

    An empty cell of CSV or TSV is no value, and all others are texts.

    Raises:
        InvalidDataError: The file cannot be read, or a row does not fit it.
    """
    path = Path(path)
    rows = {".jsonl": _json_rows, ".csv": _cells, ".tsv": _cells}.get(_kind(path))
    if rows is None:
        raise InvalidDataError(
            f"{path} is no table that can be read. Give a file that ends in {', '.join(ENDINGS)}."
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from rows(path, file)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidDataError(
            f"cannot read {path} ({error}). Check the path, and save the file as UTF-8."
        ) from error


def _json_rows(path: Path, file: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, any_number=True)
        except ValueError as error:
            raise InvalidDataError(f"{path}, line {number} is not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise InvalidDataError(
                f"{path}, line {number} is no JSON object, got {line.strip()[:40]!r}. Write "
                '{"query": "..."} on each line.'
            )
        yield number, row


def _cells(path: Path, file: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(file, delimiter=_DELIMITERS[_kind(path)], strict=True)
    head: list[str] = []
    start = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InvalidDataError(f"{path}, line {start} cannot be read ({error}).") from error
        if cells is None:
            return
        if cells and not head:
            head = cells
            if len(set(head)) < len(head):
                raise InvalidDataError(f"{path} has a column twice among {head!r:.300}.")
        elif cells:
            if len(cells) != len(head):
                raise InvalidDataError(
                    f"{path}, line {start} has {len(cells)} cells and the header {len(head)}. "
                    "Put double quotes around a text that holds the delimiter."
                )
            yield start, {name: cell or None for name, cell in zip(head, cells, strict=True)}
        start = reader.line_num + 1


def column_names(path: str | Path) -> list[str]:
    """Return the names of a file's columns, of JSON lines those of the first one; none unread."""
    path = Path(path)
    try:
        if _kind(path) in _DELIMITERS:
            with path.open(encoding="utf-8-sig", newline="") as file:
                return next(csv.reader(file, delimiter=_DELIMITERS[_kind(path)]), [])
        if _kind(path) == _PARQUET:
            return list(_opened(path).schema_arrow.names)
        return list(next(rows_in(path))[1])
    except (OSError, StopIteration, csv.Error, UnicodeDecodeError):
        return []
    except InvalidDataError:
        return []


def read_table(
    path: str | Path,
    needed: Sequence[str] = (),
    wanted: Callable[[str], bool] = lambda _: True,
) -> Table:
    """Read a whole file.

    Args:
        path: Ends in one of `ENDINGS`.
        needed: Columns that must be there.
        wanted: Says of any other column whether to read it.

    Raises:
        InvalidDataError: It cannot be read, or a column is missing.
        MissingExtraError: It is parquet, and pyarrow is not installed.
    """
    path = Path(path)
    if _kind(path) == _PARQUET:
        return _read_parquet(path, needed, wanted)
    lines, rows = [], []
    for line, row in rows_in(path):
        lines.append(line)
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row)) or column_names(path)
    _check_columns(path, names, needed)
    kept = [name for name in names if name in needed or wanted(name)]
    return Table(path, {name: [row.get(name) for row in rows] for name in kept}, lines)


def _read_parquet(path: Path, needed: Sequence[str], wanted: Callable[[str], bool]) -> Table:
    file = _opened(path)
    names = file.schema_arrow.names
    _check_columns(path, names, needed)
    kept = [name for name in names if name in needed or wanted(name)]
    try:
        columns = file.read(columns=kept).to_pydict()
    except (OSError, ValueError) as error:  # pyarrow's own are both
        raise InvalidDataError(f"cannot read {path} as parquet ({error}).") from error
    return Table(path, columns, range(1, file.metadata.num_rows + 1), "row")


def _opened(path: Path) -> Any:
    with needs_extra("train"):
        import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise InvalidDataError(
            f"cannot read {path} as parquet ({error}). Check the path and the file."
        ) from error


def _check_columns(path: Path, names: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in names]
    if missing:
        raise InvalidDataError(
            f"{path} has columns {list(names)!r:.300}, but {missing} are missing; needed are "
            f"{list(needed)}. {did_you_mean(missing[0], names)}".rstrip()
        )


def write_table(path: str | Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of one length, whole or not at all; None is no value.

    Raises:
        InvalidDataError: The name ends otherwise.
        ArtifactError: The file cannot be written.
        MissingExtraError: It is parquet, and pyarrow is not installed.
    """
    path = Path(path)
    if _kind(path) == _PARQUET:
        content = _as_parquet(columns)
    elif _kind(path) == ".jsonl":
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    elif _kind(path) in _DELIMITERS:
        text = io.StringIO()
        writer = csv.writer(text, delimiter=_DELIMITERS[_kind(path)], lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(map(_as_cell, row) for row in zip(*columns.values(), strict=True))
        content = text.getvalue().encode()
    else:
        raise InvalidDataError(
            f"{path} is no table that can be written. Let it end in {', '.join(ENDINGS)}."
        )
    write_whole(path, content)


def _as_cell(value: Any) -> Any:
    return json.dumps(list(value), ensure_ascii=False) if isinstance(value, list | tuple) else value


def _as_parquet(columns: Mapping[str, Sequence[Any]]) -> bytes:
    with needs_extra("train"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    arrays = {name: pa.array(list(values)) for name, values in columns.items()}
    texts = {n: a.cast(pa.string()) if pa.types.is_null(a.type) else a for n, a in arrays.items()}
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(texts), buffer)
    return bytes(buffer.getvalue().to_pybytes())
