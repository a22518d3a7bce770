"""Judged pairs made ready for training out of core: nine bytes a pair in memory, vectors on disk.

Knows no head.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moma_core.errors import ArtifactError, InvalidDataError
from moma_core.llm_routing.costs import CHARS_PER_TOKEN, TYPICAL_OUTPUT_TOKENS
from moma_core.llm_routing.elo import count_outcomes
from moma_core.llm_routing.features import QueryFeatures
from moma_core.llm_routing.pairs.judgements import Judgements, read_judgements
from moma_core.llm_routing.pairs.queries import INPUTS_FILE, QueryStore, block_moments
from moma_core.protocols import Encoder

__all__ = ["PairStore"]

Tell = Callable[[str, int, int], None]
_META = "pairs.json"
_ARRAYS = ("level", "starts", "first", "second", "outcome", "counts", "prices")


@dataclass(frozen=True, slots=True, eq=False)
class PairStore:
    """Judged pairs sorted by query, over inputs on disk.

    Args:
        llms: Names, sorted, length m.
        inputs: The heads' inputs of each query, memory-mapped, shape (n, d + f), float16.
        features: Scaling of the text features among them.
        level: Mean and standard deviation of the inputs, shape (2, d + f).
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
    level: npt.NDArray[np.float64]
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
        cls, path: str | Path, folder: str | Path, encoder: Encoder, tell: Tell | None = None
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
            (target / _META).write_text(json.dumps(meta) + "\n", encoding="utf-8")
        except OSError as error:
            raise ArtifactError(f"cannot write {folder} ({error}). Choose another.") from error

    @classmethod
    def open(cls, folder: str | Path) -> PairStore:
        """Map what `save` wrote; a process reads from disk only what it looks at.

        Raises:
            ArtifactError: Nothing, or something damaged, lies in ``folder``.
        """
        source = Path(folder)
        try:
            meta = json.loads((source / _META).read_text(encoding="utf-8"))
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
            level=np.stack(block_moments(inputs)),
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
