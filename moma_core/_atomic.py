"""Many files of a directory change at once: all of them, or none, whenever the process dies.

They are written beside the old ones, put on disk, and declared ready by one rename. From then on
they are the directory's content: moving them to their places can be done again and again, by the
next process if this one dies.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from moma_core._checks import parse_json
from moma_core._store import write_whole
from moma_core.errors import ArtifactError, MoMAError
from moma_core.locks import locked

__all__ = ["finish", "replacing"]

_NEW, _READY, _GONE = ".new-", ".ready", ".gone.json"


@contextmanager
def replacing(folder: Path, gone: Sequence[str] = ()) -> Iterator[Path]:
    """Give an empty directory; what the body writes there replaces the folder's files at the end.

    Other files of the folder stay. A symbolic link in a file's way is replaced, not followed.

    Args:
        folder: Made if absent; one process at a time may replace its files.
        gone: Files, relative to it, that are deleted in the same step.

    Raises:
        ArtifactError: It cannot be written; what was there before is intact.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder) as new:
        ...     _ = (new / "a.txt").write_text("new")
        >>> (folder / "a.txt").read_text()
        'new'
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            _install(folder)
            for left in folder.glob(f"{_NEW}*"):  # of a process that died
                shutil.rmtree(left)
            new = folder / f"{_NEW}{secrets.token_hex(4)}"
            new.mkdir()
            try:
                yield new
                write_whole(new / _GONE, json.dumps(list(gone)).encode())
                _check_places(new, folder)
                for each in (new, *(path for path in new.rglob("*") if path.is_dir())):
                    _sync(each)
                new.rename(folder / _READY)
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise
            _sync(folder)
            _install(folder)
    except MoMAError:
        raise
    except OSError as error:
        raise ArtifactError(
            f"cannot write in {str(folder)!r} ({error}). Free some space, make it writable or save "
            "elsewhere; what was saved before is intact."
        ) from error


def finish(folder: Path) -> bool:
    """Move files to their places that a process declared ready before it died.

    Returns:
        Whether there were any.

    Raises:
        ArtifactError: They cannot be moved.
    """
    if not (folder / _READY).exists():
        return False
    try:
        with locked(folder):
            _install(folder)
    except MoMAError:
        raise
    except OSError as error:
        raise ArtifactError(
            f"{str(folder)!r} was saved by a process that died, and what it left in {_READY!r} "
            f"cannot be moved to its place ({error}). Make the directory writable and try again."
        ) from error
    return True


def _check_places(new: Path, folder: Path) -> None:
    """Refuse, while nothing has changed yet, files that something is in the way of."""
    for file in _files(new):
        place = folder / file.relative_to(new)
        for path in (place, *place.parents):
            if path == folder:
                break
            if not path.is_symlink() and path.exists() and path.is_dir() != (path != place):
                raise OSError(f"{str(path)!r} is in the way")


def _install(folder: Path) -> None:
    ready = folder / _READY
    if not ready.is_dir():
        return
    gone: list[str] = []
    if (ready / _GONE).exists():
        try:
            gone = [str(name) for name in parse_json((ready / _GONE).read_bytes())]
        except (ValueError, TypeError) as error:
            raise OSError(f"{_GONE} is damaged") from error
    for file in _files(ready):
        place = folder / file.relative_to(ready)
        for parent in reversed(place.relative_to(folder).parents[:-1]):
            if (folder / parent).is_symlink():
                (folder / parent).unlink()
            (folder / parent).mkdir(exist_ok=True)
        file.replace(place)
        _sync(place.parent)
    for name in gone:
        if ".." not in Path(name).parts and not Path(name).is_absolute():
            (folder / name).unlink(missing_ok=True)
    shutil.rmtree(ready)
    _sync(folder)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / _GONE)


def _sync(folder: Path) -> None:
    """Put a directory's entries on disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
