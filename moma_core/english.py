"""Whether a text is English: what an encoder that was trained on English can read.

Two witnesses. A linear model over the letters of words, trained on queries in nine languages
(``benchmarks/weights/train_english.py``), knows those languages. For others there is how many
words are wordpieces of their own: of English ones nineteen in twenty.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from zlib import crc32

import numpy as np
import numpy.typing as npt

from moma_core.types import FloatArray

__all__ = ["is_english", "letter_terms"]

N_TERMS = 2**13
_LOOKED_AT = 400  # characters that tell a language
_WORD = re.compile(r"[^\W\d_]+")
_TELLING = 3  # words from which they tell it
_FOREIGN = 0.5  # log-odds from which the letters alone say that it is another language
_DOUBTFUL = -2.0  # log-odds from which the wordpieces are asked as well
_PIECES = 4  # words from which they tell
_WHOLE = 0.7  # share of whole words below which a doubtful text is foreign; benchmarks/LOG.md


def is_english(text: str, is_piece: Callable[[str], bool]) -> bool:
    """Say whether a text is English; below three words it is, if its script is Latin.

    Words with a capital inside a text are names, which tell no language.

    Args:
        text: Any; without letters it is English if it has digits.
        is_piece: Says whether a word, in small letters without accents, is one wordpiece.

    Example:
        >>> is_english("wird es morgen in Oslo regnen?", lambda word: word in ("in", "es"))
        False
        >>> is_english("will it rain in Oslo tomorrow?", lambda word: True)
        True
    """
    text = text[:_LOOKED_AT]
    letters = [letter for letter in text if letter.isalpha()]
    if not letters:
        return any(letter.isdigit() for letter in text)
    foreign = sum(not unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
    if foreign > len(letters) / 2:
        return False
    if len(_WORD.findall(text)) < _TELLING:
        return True
    words = _words(text)
    terms, values = letter_terms(text)
    weights, bias = _model()
    odds = float(weights[terms] @ values + bias[0])
    if odds > _FOREIGN:
        return False
    if odds < _DOUBTFUL or len(words) < _PIECES:
        return True
    return sum(is_piece(_plain(word)) for word in words) >= _WHOLE * len(words)


def letter_terms(text: str) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Return which runs of two to four letters a text holds, hashed, and how much of each.

    Returns:
        Terms, shape (t,), below `N_TERMS`, and their counts over the root of all of them, (t,).
    """
    found: list[str] = []
    for word in _words(text[:_LOOKED_AT]):
        padded = f" {word} "
        found += [padded[i : i + n] for n in (2, 3, 4) for i in range(len(padded) - n + 1)]
        if len(word) <= _SHORT:
            found.append(padded)
    counts = Counter(crc32(term.encode()) % N_TERMS for term in found)
    values = np.array(list(counts.values()), dtype=np.float32) / np.sqrt(max(len(found), 1))
    return np.array(list(counts), dtype=np.intp), values.astype(np.float32)


_SHORT = 4  # letters of the longest words that count whole as well


def _words(text: str) -> list[str]:
    words = _WORD.findall(text)
    return [word.lower() for i, word in enumerate(words) if not (i and word[0].isupper())]


def _plain(word: str) -> str:
    letters = unicodedata.normalize("NFD", word)
    return "".join(letter for letter in letters if unicodedata.category(letter) != "Mn")


@cache
def _model() -> tuple[FloatArray, FloatArray]:
    from safetensors.numpy import load

    tensors = load((files("moma_core") / "packaged" / "english.safetensors").read_bytes())
    return tensors["weights"].astype(np.float32), tensors["bias"].astype(np.float32)
