"""Published scores of well-known LLMs, by the name on a card."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources

__all__ = ["published_scores"]

_DATE = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")


def published_scores(name: str) -> Mapping[str, float]:
    """Return an LLM's published scores by benchmark, empty where the packaged table has none.

    They stand in ``packaged/llms/published.toml`` with the address and date of their source.

    Args:
        name: Of the LLM; a provider before it and a date behind it do not count.

    Example:
        >>> published_scores("anthropic/claude-sonnet-4-20250514")["mmlu_pro"]
        0.837
        >>> published_scores("my-own")
        {}
    """
    plain = _DATE.sub("", name.rsplit("/", 1)[-1].lower())
    return {"mmlu_pro": _table()[plain]} if plain in _table() else {}


@cache
def _table() -> Mapping[str, float]:
    file = resources.files("moma_core") / "packaged" / "llms" / "published.toml"
    sources = tomllib.loads(file.read_text(encoding="utf-8"))["source"]
    return {name: score for source in sources for name, score in source["scores"].items()}
