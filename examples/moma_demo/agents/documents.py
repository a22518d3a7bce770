"""Agents for JSON documents: laying one out, and reading a value out of one."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from langchain_core.tools import tool

from moma_demo.agents.agent import DemoAgent, UnclearError

__all__ = ["AGENTS"]

_PATH = re.compile(r"\b[a-z_]\w*(?:\.\w+|\[\d+\])*", re.IGNORECASE)
_STEP = re.compile(r"[^.\[\]]+")


@tool
def json_formatter(
    document: Annotated[str, "A JSON document"],
    indent: int = 2,
) -> str:
    """Check a JSON document and lay it out with indentation (pretty print)."""
    return json.dumps(_loaded(document), indent=indent, ensure_ascii=False)


@tool
def json_reader(
    document: Annotated[str, "A JSON document"],
    path: Annotated[str, "Such as user.name or items[0].price"],
) -> str:
    """Read the value at a path or key of a JSON document."""
    value = _loaded(document)
    for step in _STEP.findall(path):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError(f"the document has nothing at {path!r}.") from None
    return f"{path} = {json.dumps(value, ensure_ascii=False)}"


def _loaded(document: str) -> Any:
    try:
        return json.loads(document)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"this is not JSON: {error}") from None


def _split(text: str) -> tuple[str, str]:
    """Return the document in a text, and the words around it."""
    start = re.search(r"(?<!\w)[{\[]\s*[\"{\[\d\]}tfn-]", text)
    if not start:
        raise UnclearError
    try:
        _, length = json.JSONDecoder().raw_decode(text[start.start() :])
        end = start.start() + length
    except (json.JSONDecodeError, RecursionError):
        end = len(text)
    return text[start.start() : end], f"{text[: start.start()]} {text[end:]}"


def _document(text: str) -> dict[str, Any]:
    document, words = _split(text)
    indent = re.search(r"\b([1-8])\s+(?:spaces|blanks)", words)
    return {"document": document, **({"indent": int(indent.group(1))} if indent else {})}


def _value(text: str) -> dict[str, Any]:
    document, words = _split(text)
    try:
        top = json.loads(document)
    except (json.JSONDecodeError, RecursionError):
        raise UnclearError from None
    keys = top if isinstance(top, dict) else {}
    for path in _PATH.findall(words):
        if re.split(r"[.\[]", path)[0] in keys:
            return {"document": document, "path": path}
    raise UnclearError


AGENTS = (
    DemoAgent(
        json_formatter,
        "data",
        _document,
        'a JSON document, such as {"a": 1}.',
        (
            'pretty print {"a": 1, "b": [1, 2]}',
            'format this JSON: {"name": "Ada", "born": 1815}',
            'is {"x": 1,} valid json?',
            'indent [1, {"k": null}] with 4 spaces',
            'make this json readable {"id":7,"tags":["x","y"]}',
        ),
    ),
    DemoAgent(
        json_reader,
        "data",
        _value,
        'a path and a JSON document, such as user.name in {"user": {"name": "Ada"}}.',
        (
            'get user.name from {"user": {"name": "Ada"}}',
            'what is the value of total in {"total": 12.5, "tax": 2}?',
            'read items[0].price of {"items": [{"price": 3}, {"price": 4}]}',
            'extract the key city: {"city": "Oslo", "zip": "0150"}',
            'which status does this json have {"status": "open", "id": 3}',
        ),
    ),
)
