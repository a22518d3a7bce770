"""Cards of LLMs by name, from litellm's table of prices and windows where that package is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from moma_core.errors import InvalidCardError
from moma_core.types import LLMCard

__all__ = ["listed_card", "price_table"]

_TABLE = "model_prices_and_context_window_backup.json"
_MILLION = 1e6
_PRICES = {"input_cost_per_token", "output_cost_per_token"}


def listed_card(name: str, *listed: str, **known: Any) -> LLMCard:
    """Return the card of an LLM with the prices and the window that litellm lists.

    Args:
        name: As litellm writes it, such as ``"gpt-5-mini"`` or ``"deepseek/deepseek-chat"``.
        listed: Where ``name`` is a name of your own: what litellm may call it, the first that it
            knows.
        known: What else is known: any argument of `LLMCard`; it wins over the table.

    Raises:
        InvalidCardError: litellm is not installed, or its table has no price for the name.
    """
    table = price_table()
    priced = (table[key] for key in (*listed, name) if table.get(key, {}).keys() >= _PRICES)
    entry = next(priced, None)
    if entry is None:
        where = "litellm's table has none" if table else "litellm is not installed"
        raise InvalidCardError(
            f"the price of LLM {name!r} is not known: it was not given and {where}. Give USD per "
            f"million input and output tokens: LLMCard({name!r}, 0.25, 2.0); a local LLM costs 0."
        )
    cached = entry.get("cache_read_input_token_cost")
    window = entry.get("max_input_tokens")
    card = LLMCard(
        name,
        _usd(entry["input_cost_per_token"]),
        _usd(entry["output_cost_per_token"]),
        context_window=int(window) if isinstance(window, int | float) else None,
        cached_input_price=None if cached is None else _usd(cached),
        metadata={"price": "litellm's table"},
    )
    return replace(card, **known)


def _usd(by_token: float) -> float:
    return float(f"{float(by_token) * _MILLION:.6g}")


@cache
def price_table() -> Mapping[str, Mapping[str, Any]]:
    """Return litellm's table by the names of LLMs; an empty one where litellm is not installed."""
    # Read from the package's file: importing litellm takes seconds and asks the network.
    found = find_spec("litellm")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        file = Path(folder) / _TABLE
        if file.exists():
            table: Mapping[str, Mapping[str, Any]] = json.loads(file.read_bytes())
            return table
    return {}
