"""What a query's letters say beside its sentence vector: length, code and maths cues.

The encoder truncates long texts and blurs form; these counts see all of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moma_core.types import FloatArray

__all__ = [
    "FEATURES",
    "QueryFeatures",
    "text_features",
]

FEATURES = (
    "log_chars", "log_words", "log_lines", "word_length", "digits", "capitals", "operators",
    "brackets", "backslashes", "dollars", "non_ascii", "numbers", "questions", "ends_asking",
    "options", "code", "negation",
)  # fmt: skip
"""Columns of `text_features`."""

MAX_CHARS = 8_192
_CLASSES = (
    b"0123456789",
    bytes(range(65, 91)),
    b"+-*/=<>^",
    b"(){}[]",
    b"\\",
    b"$",
    b"\n",
    b" \t\r\n",
    b"?",
)
_OPTION = re.compile(rb"^\(?[A-J][.):]", re.MULTILINE)
_CODE = re.compile(rb"\bdef |\breturn\b|```|\bclass |#include|\bassert\b")
_NEGATION = re.compile(rb"\b(?:not|except|never|least|false)\b", re.IGNORECASE)
_CODE_WORDS = (b"def ", b"return", b"```", b"class ", b"#include", b"assert")
_NEGATIONS = (b"not", b"except", b"never", b"least", b"false")
_CLIP = 4.0


def _membership() -> npt.NDArray[np.float64]:
    table = np.zeros((256, len(_CLASSES) + 1))
    for column, members in enumerate(_CLASSES):
        table[list(members), column] = 1.0
    table[128:, -1] = 1.0
    return table


_MEMBERSHIP = _membership()


def text_features(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return counts and cues of each text, shape (n, len(FEATURES)).

    Lengths count the whole text; all else looks at its first 8,192 characters.

    Example:
        >>> dict(zip(FEATURES, text_features(["What is 2+2?"])[0]))["ends_asking"]
        np.float64(1.0)
    """
    return np.array([_row(text) for text in texts], np.float64).reshape(len(texts), len(FEATURES))


def _row(text: str) -> tuple[float, ...]:
    raw = text[:MAX_CHARS].encode("utf-8", "replace")
    codes = np.frombuffer(raw, np.uint8)
    size = max(len(raw), 1)
    counts = (np.bincount(codes, minlength=256) @ _MEMBERSHIP).tolist()
    digits, capitals, operators, brackets, backslashes, dollars, lines, blanks, asks, wide = counts
    is_digit = (codes >= 48) & (codes <= 57)
    numbers = int(np.count_nonzero(is_digit[1:] > is_digit[:-1])) + int(is_digit[:1].sum())
    words = blanks + 1.0
    return (
        float(np.log1p(len(text))),
        float(np.log1p(words * len(text) / max(len(text[:MAX_CHARS]), 1))),
        float(np.log1p(lines)),
        (size - blanks) / words / 10,
        digits / size,
        capitals / size,
        operators / size,
        brackets / size,
        backslashes / size,
        dollars / size,
        wide / size,
        float(np.sqrt(numbers)),
        float(np.log1p(asks)),
        float(b"?" in raw[-40:]),
        float(min(len(_OPTION.findall(raw)), 12)),
        float(_has(raw, _CODE_WORDS) and _CODE.search(raw) is not None),
        float(_has(raw.lower(), _NEGATIONS) and _NEGATION.search(raw) is not None),
    )


def _has(raw: bytes, words: tuple[bytes, ...]) -> bool:
    """Say whether a pattern over these words may match: substrings are found much faster."""
    return any(word in raw for word in words)


@dataclass(frozen=True, slots=True, eq=False)
class QueryFeatures:
    """Joins sentence vectors and standardised text features into the heads' inputs.

    Args:
        mean: Mean of each feature over the training queries, shape (f,).
        scale: Its standard deviation, shape (f,), positive.
        weight: What one standard deviation counts beside a vector of length one.
    """

    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    weight: float = 0.2

    @classmethod
    def fit(cls, texts: Sequence[str], weight: float = 0.2) -> QueryFeatures:
        """Take mean and spread from the training queries."""
        raw = text_features(texts)
        spread = raw.std(axis=0)
        return cls(raw.mean(axis=0), np.where(spread > 1e-6, spread, 1.0), weight)

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, npt.NDArray[np.float64]], weight: float
    ) -> QueryFeatures:
        """Rebuild from `arrays`."""
        return cls(arrays["mean"], arrays["scale"], weight)

    def arrays(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return what a checkpoint stores."""
        return {"mean": self.mean, "scale": self.scale}

    def join(self, texts: Sequence[str], vectors: FloatArray) -> FloatArray:
        """Return the heads' inputs, shape (n, d + f): vectors (n, d) beside clipped z-scores."""
        z = (text_features(texts) - self.mean) / self.scale
        held = np.minimum(np.maximum(z, -_CLIP), _CLIP)  # np.clip is slow on one row
        extra = (held * self.weight).astype(np.float32)
        return np.concatenate([np.asarray(vectors, np.float32), extra], axis=1)
