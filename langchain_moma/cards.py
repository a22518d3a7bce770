"""LLM cards from chat models: what each can do from its profile, what it costs from a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel

from moma_core import InvalidCardError, LLMCard

__all__ = ["llm_cards_from_chat_models"]

_TABLE = "model_prices_and_context_window_backup.json"
_MILLION = 1e6
_ABILITIES = (
    "tool_calling",
    "tool_choice",
    "structured_output",
    "image_inputs",
    "audio_inputs",
    "pdf_inputs",
    "video_inputs",
    "reasoning_output",
    "max_output_tokens",
)


def llm_cards_from_chat_models(
    llms: Mapping[str, BaseChatModel],
    prices: Mapping[str, tuple[float, float]] | None = None,
) -> list[LLMCard]:
    """Describe chat models to the router.

    Args:
        llms: Chat models by the names they are to have.
        prices: USD per million input and output tokens, by name. What is missing is read from
            litellm's table when that package is installed, by the chat model's own name.

    Returns:
        One card a chat model, in order; abilities are in ``metadata`` under the keys of a LangChain
        `ModelProfile`.

    Raises:
        InvalidCardError: No price is known.

    Example:
        >>> from langchain_moma.testing import ScriptedChat
        >>> small = ScriptedChat(profile={"tool_calling": True, "max_input_tokens": 8000})
        >>> [card] = llm_cards_from_chat_models({"small": small}, {"small": (0.15, 0.6)})
        >>> card.output_price, card.context_window, card.metadata["tool_calling"]
        (0.6, 8000, True)
    """
    return [_card(name, llm, (prices or {}).get(name)) for name, llm in llms.items()]


def _card(name: str, llm: BaseChatModel, price: tuple[float, float] | None) -> LLMCard:
    profile: dict[str, Any] = dict(llm.profile or {})
    read, write = price or _listed_price(name, llm)
    return LLMCard(
        name=name,
        input_price=read,
        output_price=write,
        context_window=profile.get("max_input_tokens"),
        metadata={key: profile[key] for key in _ABILITIES if key in profile},
    )


def _listed_price(name: str, llm: BaseChatModel) -> tuple[float, float]:
    table = _price_table()
    own = getattr(llm, "model_name", None) or getattr(llm, "model", None)
    for key in (own, name):
        listed = table.get(str(key), {})
        if "input_cost_per_token" in listed and "output_cost_per_token" in listed:
            read, write = listed["input_cost_per_token"], listed["output_cost_per_token"]
            return float(read) * _MILLION, float(write) * _MILLION
    where = "litellm's table has none for it" if table else "litellm is not installed"
    raise InvalidCardError(
        f"the price of LLM {name!r} is not known: it was not given and {where}. Give USD per "
        f"million input and output tokens: prices={{{name!r}: (0.15, 0.6)}}; a local LLM costs 0."
    )


@cache
def _price_table() -> Mapping[str, Mapping[str, Any]]:
    # Read from the package's file: importing litellm takes seconds and asks the network.
    found = find_spec("litellm")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        file = Path(folder) / _TABLE
        if file.exists():
            table: Mapping[str, Mapping[str, Any]] = json.loads(file.read_bytes())
            return table
    return {}
