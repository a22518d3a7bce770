"""Agents for fingerprints, encodings and secrets."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
import string
import uuid
from typing import Annotated, Any, Literal

from langchain_core.tools import tool

from moma_demo.agents.agent import DemoAgent
from moma_demo.agents.extract import labelled, numbers, payload, whole

__all__ = ["AGENTS"]

_SYMBOLS = "!#$%&*+-=?@_"
_PLAIN = re.compile(r"\b(?:no|without) (?:symbols|special|punctuation)|\bletters and digits\b")
_TOKEN = re.compile(r"(?<![\w+/])(?=\S*[A-Z0-9+/=])[A-Za-z0-9+/]{6,}={0,2}(?![\w+/])")
_DECODE = re.compile(r"\bdecod|\bunpack|\bread\b|\bback to\b|\bsay\b", re.IGNORECASE)


@tool
def text_hasher(text: str, algorithm: Literal["md5", "sha1", "sha256", "sha512"] = "sha256") -> str:
    """Compute the hash or checksum of a text: MD5, SHA-1, SHA-256, SHA-512."""
    digest = hashlib.new(algorithm, text.encode(), usedforsecurity=False).hexdigest()
    return f"{algorithm}({text!r}) = {digest}"


def _hash(text: str) -> dict[str, Any]:
    named = re.search(r"\b(md5|sha-?1|sha-?256|sha-?512)\b", text, re.I)
    algorithm = named.group(1).lower().replace("-", "") if named else "sha256"
    return {"text": payload(text, r"\b(?:of|for)\b"), "algorithm": algorithm}


@tool
def base64_coder(text: str, direction: Literal["encode", "decode"]) -> str:
    """Encode a text as Base64, or decode Base64 back to text."""
    if direction == "encode":
        return base64.b64encode(text.encode()).decode()
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError(f"{text!r} is not the Base64 of a text.") from None


def _coded(text: str) -> dict[str, Any]:
    direction = "decode" if _DECODE.search(text) else "encode"
    tokens = [token for token in _TOKEN.findall(text) if token.lower() != "base64"]
    if direction == "decode" and tokens:
        return {"text": tokens[-1], "direction": direction}
    return {
        "text": payload(text, r"\b(?:encode|base64 (?:of|for)|decode)\b"),
        "direction": direction,
    }


@tool
def password_generator(
    length: Annotated[int, "8 to 128 characters"] = 16, symbols: bool = True
) -> str:
    """Generate a strong random password."""
    if not 8 <= length <= 128:
        raise ValueError("a password here has 8 to 128 characters.")
    letters = string.ascii_letters + string.digits + (_SYMBOLS if symbols else "")
    return "".join(secrets.choice(letters) for _ in range(length))


def _password(text: str) -> dict[str, Any]:
    plain = _PLAIN.search(text)
    length = labelled(text, r"[\s-]*(?:characters?|chars|letters|long|digits|signs)")
    found = numbers(text)
    length = length if length is not None or not found else found[0]
    given: dict[str, Any] = {"symbols": plain is None}
    return given if length is None else {**given, "length": whole(length)}


@tool
def uuid_generator(count: Annotated[int, "1 to 20"] = 1) -> str:
    """Generate random UUIDs (unique identifiers)."""
    if not 1 <= count <= 20:
        raise ValueError("I make 1 to 20 at a time.")
    return " ".join(str(uuid.uuid4()) for _ in range(count))


def _count(text: str) -> dict[str, Any]:
    words = {"two": 2, "three": 3, "five": 5}
    word = next((number for name, number in words.items() if re.search(rf"\b{name}\b", text)), 1)
    found = numbers(text)
    return {"count": whole(found[0]) if found else word}


AGENTS = (
    DemoAgent(
        text_hasher,
        "security",
        _hash,
        "a text, such as the sha256 of 'hello'.",
        (
            "sha256 of 'hello'",
            "compute the md5 checksum for: invoice-2026-07",
            "hash the text 'open sesame'",
            "what is the SHA-1 fingerprint of 'abc'?",
            "sha512 digest: release notes",
        ),
    ),
    DemoAgent(
        base64_coder,
        "security",
        _coded,
        "a text, such as encode 'hello' as base64.",
        (
            "encode 'hello world' as base64",
            "decode aGVsbG8gd29ybGQ=",
            "what does the base64 string Zm9vYmFy say?",
            "base64 of: user:secret",
            "turn c2VjcmV0 back to plain text, it is base64: 'c2VjcmV0'",
        ),
    ),
    DemoAgent(
        password_generator,
        "security",
        _password,
        "nothing, or a length.",
        (
            "generate a password",
            "make me a 20 character password without symbols",
            "I need a strong random password of 24 signs",
            "new secure passphrase with 32 letters and digits",
            "suggest a safe login secret, 12 long",
        ),
    ),
    DemoAgent(
        uuid_generator,
        "security",
        _count,
        "nothing, or how many.",
        (
            "generate a uuid",
            "give me 3 random GUIDs",
            "new unique identifier please",
            "create 5 v4 uuids",
            "I need a unique id for a database row",
        ),
    ),
)
