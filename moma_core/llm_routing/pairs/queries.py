"""Distinct queries encoded once, kept in memory-mapped files that survive a crash.

A run that was killed while encoding goes on after the last whole row. Knows no pair and no head.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import ArtifactError
from moma_core.llm_routing.features import FEATURES, QueryFeatures, text_features
from moma_core.protocols import Encoder

__all__ = ["INPUTS_FILE", "QueryStore", "block_moments"]

INPUTS_FILE = "inputs.f16"
_FEATURES, _HASHES, _META = "features.f32", "hashes.u64", "store.json"
_BLOCK = 2_048
_CLIP = 4.0
_ENCODED_AT_ONCE = 1_024


class QueryStore:
    """Vectors and text features of distinct queries in files of fixed-size rows, appended to.

    Args:
        folder: Where the files are; made if absent, continued if there.
        encoder: Encodes what is new.

    Raises:
        ArtifactError: The folder holds vectors of another encoder, or cannot be written.
    """

    def __init__(self, folder: str | Path, encoder: Encoder) -> None:
        self._folder, self._encoder = Path(folder), encoder
        self._width = encoder.dimension + len(FEATURES)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._check_encoder()
            rows = self._whole_rows()
            self._known = np.fromfile(self._folder / _HASHES, np.uint64) if rows else np.zeros(
                0, np.uint64
            )  # fmt: skip
        except OSError as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(f"cannot write {folder} ({error}). Choose another.") from error
        self._order = np.argsort(self._known, kind="stable")

    def __len__(self) -> int:
        return len(self._known)

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """Hash of each query, in the order of the rows, shape (n,)."""
        return self._known

    def rows_of(self, texts: Sequence[str]) -> npt.NDArray[np.intp]:
        """Return the row of each text, shape (n,); what is new is encoded and appended first.

        Raises:
            ArtifactError: The files cannot be written.
        """
        hashes = np.array([_hash(text) for text in texts], np.uint64)
        distinct, first = np.unique(hashes, return_index=True)
        new = np.sort(first[self._find(distinct) < 0])  # in the order of the file
        for start in range(0, len(new), _ENCODED_AT_ONCE):
            part = new[start : start + _ENCODED_AT_ONCE]
            self._append([texts[row] for row in part.tolist()], hashes[part])
        if len(new):
            self._order = np.argsort(self._known, kind="stable")
        return self._find(hashes)

    def finish(self) -> tuple[npt.NDArray[np.float16], QueryFeatures]:
        """Return the heads' inputs (n, d + f), memory-mapped, and the features' scaling."""
        raw: npt.NDArray[np.float32] = np.memmap(
            self._folder / _FEATURES, np.float32, "r", shape=(len(self), len(FEATURES))
        )
        mean, spread = block_moments(raw)
        features = QueryFeatures(mean, np.where(spread > 1e-6, spread, 1.0))
        shape = (len(self), self._width)
        inputs: npt.NDArray[np.float16] = np.memmap(
            self._folder / INPUTS_FILE, np.float16, "r+", shape=shape
        )
        for start in range(0, len(self), _BLOCK):
            z = (raw[start : start + _BLOCK] - features.mean) / features.scale
            scaled = np.clip(z, -_CLIP, _CLIP) * features.weight
            inputs[start : start + _BLOCK, self._encoder.dimension :] = scaled
        return inputs, features

    def _find(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
        """Return the row of each hash, -1 where it is new."""
        if not len(self._known):
            return np.full(len(hashes), -1, np.intp)
        ranked = self._known[self._order]
        place = np.minimum(np.searchsorted(ranked, hashes), len(ranked) - 1)
        return np.where(ranked[place] == hashes, self._order[place], -1)

    def _append(self, texts: list[str], hashes: npt.NDArray[np.uint64]) -> None:
        inputs = np.zeros((len(texts), self._width), np.float16)
        inputs[:, : self._encoder.dimension] = self._encoder.encode(texts)
        features = text_features(texts).astype(np.float32)
        try:
            # The hashes last: a row without one does not count.
            for name, rows in ((INPUTS_FILE, inputs), (_FEATURES, features), (_HASHES, hashes)):
                with (self._folder / name).open("ab") as file:
                    file.write(np.ascontiguousarray(rows).tobytes())
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise ArtifactError(
                f"cannot write {self._folder} ({error}). Make room and run again: it goes on there."
            ) from error
        self._known = np.concatenate([self._known, hashes])

    def _check_encoder(self) -> None:
        path, wanted = self._folder / _META, {"format": 1, "encoder": self._encoder.fingerprint}
        if not path.exists():
            path.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ArtifactError(f"{path} is damaged ({error}). Delete {self._folder}.") from error
        if found != wanted:
            raise ArtifactError(
                f"{self._folder} holds vectors of {found}, not of {wanted}. Delete it, or use "
                "another directory."
            )

    def _whole_rows(self) -> int:
        """Cut all files to the rows that all of them have; return how many."""
        sizes = {INPUTS_FILE: 2 * self._width, _FEATURES: 4 * len(FEATURES), _HASHES: 8}
        paths = {name: self._folder / name for name in sizes}
        rows = min(
            paths[name].stat().st_size // size if paths[name].exists() else 0
            for name, size in sizes.items()
        )
        for name, size in sizes.items():
            if paths[name].exists():
                os.truncate(paths[name], rows * size)
        return int(rows)


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def block_moments(
    rows: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation of each column, shape (d,), read block by block."""
    total, squares = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for start in range(0, len(rows), _BLOCK):
        block = np.asarray(rows[start : start + _BLOCK], np.float64)
        total += block.sum(axis=0)
        squares += (block**2).sum(axis=0)
    mean = total / len(rows)
    return mean, np.sqrt(np.maximum(squares / len(rows) - mean**2, 0.0))
