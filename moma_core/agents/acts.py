"""What a sentence does: ask for something, answer or go on with what was said, or just tell.

A linear model over words, trained on what people ask of tools and on written replies and statements
(``benchmarks/weights/train_acts.py``). It looks at how things are said, an encoder at what about.
Words that it never saw say nothing: then the length decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from zlib import crc32

import numpy as np

from moma_core.types import FloatArray

__all__ = ["ACTS", "act_terms", "acts", "generality"]

ACTS = ("request", "reply", "statement")
N_TERMS = 2**14
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d[\d.,:/-]*|[?!]")
_MOST_WORDS = 60


def act_terms(text: str) -> list[int]:
    """Return which terms a text holds: words, pairs, how it begins and ends, and its length.

    Numbers count as one word whatever they are, as do names: words with a capital inside a text.

    Example:
        >>> act_terms("order 4471") == act_terms("order 12")
        True
    """
    words = [_masked(word, i) for i, word in enumerate(_WORD.findall(text)[:_MOST_WORDS])]
    length = min(len(words), 12)
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    terms = [
        *words,
        *pairs,
        f"length {length}",
        f"^{' '.join(words[:1])}",
        f"^{' '.join(words[:2])}",
    ]
    terms += [f"^{' '.join(words[:3])}", f"{' '.join(words[-1:])}$", f"{' '.join(words[-2:])}$"]
    if length <= 6:
        terms.append(f"all {' '.join(words)}")
    return [crc32(term.encode()) % N_TERMS for term in dict.fromkeys(terms)]


def _masked(word: str, place: int) -> str:
    if word[0].isdigit():
        return "#"
    if place and word[0].isupper() and word not in ("I", "I'm", "I'd", "I'll", "I've"):
        return "Name"
    return word.lower()


def acts(texts: Sequence[str]) -> FloatArray:
    """Return how probable each of `ACTS` is of n texts, shape (n, 3), rows adding up to 1.

    Example:
        >>> request, reply, statement = acts(["book a flight to Rome", "yes, go ahead", "Hi team,"])
        >>> bool(request[0] > 0.5), bool(reply[1] > 0.5), bool(statement[2] > 0.5)
        (True, True, True)
    """
    weights, bias = _model("weights", "bias")
    logits = np.array([weights[act_terms(text)].sum(axis=0) for text in texts]).reshape(-1, 3)
    logits = logits + bias
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: FloatArray = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def generality(texts: Sequence[str]) -> FloatArray:
    """Return log-odds that texts ask for what any LLM does rather than one tool, shape (n,).

    By how they ask: to explain, to write, to translate, what a word means; not by what about.

    Example:
        >>> poem, flight = generality(["Write a poem about a flight", "book a flight to Rome"])
        >>> bool(poem > 0 > flight)
        True
    """
    weights, bias = _model("general", "general_bias")
    odds = [float(weights[act_terms(text)].sum()) for text in texts]
    found: FloatArray = (np.array(odds) + bias[0]).astype(np.float32)
    return found


@cache
def _model(weights: str, bias: str) -> tuple[FloatArray, FloatArray]:
    from safetensors.numpy import load

    tensors = load((files("moma_core") / "packaged" / "acts.safetensors").read_bytes())
    return tensors[weights].astype(np.float32), tensors[bias].astype(np.float32)
