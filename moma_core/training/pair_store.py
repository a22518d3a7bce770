"""Judged pairs for training out of core: nine bytes a pair in memory, vectors on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core._checks import parse_json
from moma_core._store import write_whole
from moma_core.errors import ArtifactError, InvalidDataError
from moma_core.llms.costs import CHARS_PER_TOKEN, TYPICAL_OUTPUT_TOKENS
from moma_core.llms.features import FEATURES, QueryFeatures, text_features
from moma_core.protocols import Encoder, Progress
from moma_core.training.judgements import Judgements, count_outcomes, read_judgements

__all__ = [
    "INPUTS_FILE",
    "PairStore",
    "QueryStore",
    "block_moments",
]

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
            write_whole(path, (json.dumps(wanted) + "\n").encode())
            return
        try:
            found = parse_json(path.read_text(encoding="utf-8"), any_number=True)
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


_STORE = "pairs.json"
_ARRAYS = ("moments", "starts", "first", "second", "outcome", "counts", "prices")


@dataclass(frozen=True, slots=True, eq=False)
class PairStore:
    """Judged pairs sorted by query, over inputs on disk.

    Args:
        llms: Names, sorted, length m.
        inputs: The heads' inputs of each query, memory-mapped, shape (n, d + f), float16.
        features: Scaling of the text features among them.
        moments: Mean and standard deviation of the inputs, shape (2, d + f).
        starts: Where each query's pairs begin, shape (n + 1,).
        first: Column of each pair's first LLM, shape (pairs,).
        second: Column of its second one, shape (pairs,).
        outcome: Codes 0 to 4, shape (pairs,).
        counts: Outcomes of each pair of LLMs, see `elo.count_outcomes`.
        prices: Indicative USD per million tokens of each LLM, from measured costs; NaN where none.
        fingerprint: sha256 of queries, names and outcomes.
    """

    llms: tuple[str, ...]
    inputs: npt.NDArray[np.float16]
    features: QueryFeatures
    moments: npt.NDArray[np.float64]
    starts: npt.NDArray[np.int64]
    first: npt.NDArray[np.uint16]
    second: npt.NDArray[np.uint16]
    outcome: npt.NDArray[np.uint8]
    counts: npt.NDArray[np.int64]
    prices: npt.NDArray[np.float64]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.outcome)

    @classmethod
    def build(
        cls, path: str | Path, folder: str | Path, encoder: Encoder, tell: Progress | None = None
    ) -> PairStore:
        """Read a file of pairs once, encoding what ``folder`` does not hold yet.

        Args:
            path: Pairs, see `judgements.PAIRS`.
            folder: Where vectors are kept between runs.
            encoder: Turns queries into vectors.
            tell: Called with what is done, pairs read, and 0 (their number is not known before).

        Raises:
            InvalidDataError: The file cannot be read, or holds one LLM only.
            ArtifactError: ``folder`` cannot be written, or is another encoder's.
        """
        queries, reading = QueryStore(folder, encoder), _Reading()
        for part in read_judgements(path):
            reading.add(part, queries.rows_of(part.queries)[part.query])
            if tell is not None:
                tell("reading and encoding", reading.rows, 0)
        return reading.finished(queries)

    def save(self, folder: str | Path) -> None:
        """Write all but the inputs beside them, so that other processes can `open` the store.

        Raises:
            ArtifactError: ``folder`` cannot be written.
        """
        target = Path(folder)
        meta = {
            "llms": self.llms,
            "shape": self.inputs.shape,
            "features": {
                "mean": self.features.mean.tolist(),
                "scale": self.features.scale.tolist(),
                "weight": self.features.weight,
            },
            "fingerprint": self.fingerprint,
        }
        try:
            for name in _ARRAYS:
                np.save(target / f"{name}.npy", getattr(self, name), allow_pickle=False)
        except OSError as error:
            raise ArtifactError(f"cannot write {folder} ({error}). Choose another.") from error
        write_whole(target / _STORE, (json.dumps(meta) + "\n").encode())

    @classmethod
    def open(cls, folder: str | Path) -> PairStore:
        """Map what `save` wrote; a process reads from disk only what it looks at.

        Raises:
            ArtifactError: Nothing, or something damaged, lies in ``folder``.
        """
        source = Path(folder)
        try:
            meta = parse_json((source / _STORE).read_text(encoding="utf-8"), any_number=True)
            shape = tuple(meta["shape"])
            arrays: dict[str, Any] = {
                name: np.load(source / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                for name in _ARRAYS
            }
            arrays["inputs"] = np.memmap(source / INPUTS_FILE, np.float16, "r", shape=shape)
            scaling = meta["features"]
            features = QueryFeatures(
                np.array(scaling["mean"]), np.array(scaling["scale"]), scaling["weight"]
            )
            return cls(
                tuple(meta["llms"]), features=features, fingerprint=meta["fingerprint"], **arrays
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{folder} holds no pairs to train on ({error!r}). Delete it and train again."
            ) from error

    def pairs_of(
        self, rows: npt.NDArray[np.intp]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return the pairs of some queries: position within ``rows``, and index of the pair."""
        begin = self.starts[rows]
        lengths = self.starts[rows + 1] - begin
        local = np.repeat(np.arange(len(rows)), lengths)
        within = np.arange(len(local)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return local, (begin[local] + within).astype(np.intp)


@dataclass(slots=True)
class _Reading:
    """What is kept of the pairs while a file is read: a few bytes a pair."""

    rows: int = 0
    names: dict[str, int] = field(default_factory=dict)
    parts: list[npt.NDArray[Any]] = field(default_factory=list)
    usd: dict[int, float] = field(default_factory=dict)
    tokens: dict[int, float] = field(default_factory=dict)

    def add(self, part: Judgements, rows: npt.NDArray[np.intp]) -> None:
        kept = np.zeros(
            len(part), [("query", "<u4"), ("a", "<u2"), ("b", "<u2"), ("outcome", "u1")]
        )
        kept["query"], kept["outcome"] = rows, part.outcome
        codes = np.array([self.names.setdefault(name, len(self.names)) for name in part.llms])
        kept["a"], kept["b"] = codes[part.first], codes[part.second]
        lengths = np.array([len(text) for text in part.queries], np.float64)[part.query]
        self._price(codes[part.first], part.cost_a, lengths)
        self._price(codes[part.second], part.cost_b, lengths)
        self.parts.append(kept)
        self.rows += len(part)

    def _price(
        self,
        codes: npt.NDArray[np.intp],
        usd: npt.NDArray[np.float64],
        lengths: npt.NDArray[np.float64],
    ) -> None:
        known = ~np.isnan(usd)
        for code in np.unique(codes[known]).tolist():
            own = known & (codes == code)
            tokens = _tokens(lengths[own])
            self.usd[code] = self.usd.get(code, 0.0) + float(usd[own].sum())
            self.tokens[code] = self.tokens.get(code, 0.0) + tokens

    def finished(self, queries: QueryStore) -> PairStore:
        if len(self.names) < 2:
            raise InvalidDataError(f"pairs of two LLMs or more are needed, got {list(self.names)}.")
        pairs = np.concatenate(self.parts)
        pairs = pairs[np.argsort(pairs["query"], kind="stable")]
        llms = tuple(sorted(self.names))
        column = np.zeros(len(llms), np.uint16)  # from the order of the file to that of names
        column[[self.names[name] for name in llms]] = np.arange(len(llms))
        first, second = column[pairs["a"]], column[pairs["b"]]
        starts = np.searchsorted(pairs["query"], np.arange(len(queries) + 1))
        prices = np.full(len(llms), np.nan)
        for code, usd in self.usd.items():
            prices[column[code]] = usd / self.tokens[code] * 1e6
        inputs, features = queries.finish()
        outcome = np.ascontiguousarray(pairs["outcome"])
        return PairStore(
            llms=llms,
            inputs=inputs,
            features=features,
            moments=np.stack(block_moments(inputs)),
            starts=starts.astype(np.int64),
            first=first,
            second=second,
            outcome=outcome,
            counts=count_outcomes(first, second, outcome, len(llms)),
            prices=prices,
            fingerprint=_fingerprint(llms, pairs["query"], first, second, outcome, queries),
        )


def _fingerprint(llms: tuple[str, ...], *parts: Any) -> str:
    digest = hashlib.sha256("\n".join(llms).encode())
    for part in parts:
        values = part.hashes if isinstance(part, QueryStore) else part
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _tokens(lengths: npt.NDArray[np.float64]) -> float:
    return float((lengths / CHARS_PER_TOKEN + TYPICAL_OUTPUT_TOKENS).sum())
