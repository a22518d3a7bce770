"""How many tokens a text is, for LLMs whose tokeniser is not at hand.

A rule over character classes, right for Latin and other scripts, for code and for Chinese alike.
Its weights were fitted to the mean of four LLMs' tokenisers (``benchmarks/fit_tokens.py``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = [
    "TOKEN_CLASSES",
    "count_tokens",
    "token_features",
]

_STARTS = np.array(
    [
        0x0000, 0x000A, 0x000B, 0x0020, 0x0021, 0x0030, 0x003A, 0x0041, 0x005B, 0x0061, 0x007B,
        0x00C0, 0x0370, 0x0530, 0x0900, 0x1100, 0x1200, 0x1E00, 0x2000, 0x2E80, 0x3040, 0x3100,
        0x3400, 0xA000, 0xAC00, 0xD800, 0xF900, 0xFB00, 0xFE30, 0x10000, 0x20000, 0x30000,
    ],
    np.uint32,
)  # fmt: skip
_MARK, _LINE, _BLANK, _DIGIT, _UPPER, _LOWER, _LATIN, _GREEK = range(8)
_EAST, _SOUTH, _HANGUL, _KANA, _HAN, _OTHER = range(8, 14)
_KINDS = np.array(
    [
        _BLANK, _LINE, _BLANK, _BLANK, _MARK, _DIGIT, _MARK, _UPPER, _MARK, _LOWER, _MARK,
        _LATIN, _GREEK, _EAST, _SOUTH, _HANGUL, _SOUTH, _LATIN, _OTHER, _HAN, _KANA, _HAN,
        _HAN, _OTHER, _HANGUL, _OTHER, _HAN, _EAST, _HAN, _OTHER, _HAN, _OTHER,
    ],
    np.int64,
)  # fmt: skip
TOKEN_CLASSES = (
    "mark", "line", "blank", "digit", "upper", "lower", "latin", "greek", "east", "south",
    "hangul", "kana", "han", "other", "number",
)  # fmt: skip
"""What is counted: characters by class, then numbers."""

_WEIGHTS = np.array(
    [
        0.385, 1.312, 0.0, 0.372, 0.281, 0.265, 1.612, 0.395, 0.75, 0.75,
        1.078, 0.808, 0.806, 1.626, 1.360,
    ]
)  # fmt: skip
"""As fitted; "east" (Armenian, Hebrew, Arabic) and "south" (India to Ethiopia) had too few texts:
they are what a first fit with 20 Arabic ones said."""


def token_features(text: str) -> npt.NDArray[np.float64]:
    """Return the counts of `TOKEN_CLASSES` in a text, shape (15,)."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _KINDS[np.searchsorted(_STARTS, codes, side="right") - 1]
    counts = np.bincount(kinds, minlength=_OTHER + 1)
    digit = kinds == _DIGIT
    numbers = np.count_nonzero(digit[1:] & ~digit[:-1]) + np.count_nonzero(digit[:1])
    return np.append(counts, numbers).astype(np.float64)


def count_tokens(text: str) -> int:
    """Return about how many tokens a text is, at least one for each text that is not empty.

    Example:
        >>> [count_tokens(text) for text in ("How warm is it in Oslo?", "奥斯陆今天暖和吗", "")]
        [5, 6, 0]
    """
    if not text:
        return 0
    return max(round(float(token_features(text) @ _WEIGHTS)), 1)
