"""What a call asks of an LLM (tools, images, room for its words), and which LLMs lack it.

An LLM lacks something only when its card or its profile says so: what nobody states is given the
benefit of the doubt. Words are counted as characters / 4, so the room is approximate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.messages.utils import count_tokens_approximately

from moma_core import LLMCard

__all__ = ["Needs"]

_TOKENS_A_TOOL = 150
_MEDIA = {
    "image": "image_inputs",
    "image_url": "image_inputs",
    "input_image": "image_inputs",
    "audio": "audio_inputs",
    "input_audio": "audio_inputs",
    "file": "pdf_inputs",
    "input_file": "pdf_inputs",
    "document": "pdf_inputs",
    "video": "video_inputs",
}
_FREE_CHOICE = (None, "auto", "none", False)


@dataclass(frozen=True, slots=True)
class Needs:
    """What one call asks of whoever answers it.

    Args:
        features: Keys of a LangChain `ModelProfile`; of each tuple at least one must be there.
        tokens: About how long the input is.
    """

    features: frozenset[tuple[str, ...]] = frozenset()
    tokens: int = 0

    @classmethod
    def of(
        cls,
        messages: Sequence[BaseMessage],
        options: Mapping[str, Any],
        *,
        structured: bool = False,
    ) -> Needs:
        """Read the needs out of a call's messages and keyword arguments.

        Example:
            >>> from langchain_core.messages import HumanMessage
            >>> Needs.of([HumanMessage("hi")], {"tools": [{"name": "clock"}]}).features
            frozenset({('tool_calling',)})
        """
        features: set[tuple[str, ...]] = {
            (key,) for message in messages for key in _media_in(message)
        }
        tools = options.get("tools") or ()
        if tools:
            features.add(("tool_calling",))
            if options.get("tool_choice") not in _FREE_CHOICE:
                features.add(("tool_choice", "tool_calling"))
        if options.get("response_format") is not None:
            features.add(("structured_output",))
        if structured:
            features.add(("structured_output", "tool_calling"))
        tokens = count_tokens_approximately(messages) + _TOKENS_A_TOOL * len(tools)
        return cls(frozenset(features), tokens)

    def lacking(self, llm: BaseChatModel, card: LLMCard | None) -> str | None:
        """Return what this LLM lacks, in words; None when nothing is known to be missing."""
        stated: dict[str, Any] = dict(llm.profile or {})
        window = stated.get("max_input_tokens")
        if card is not None:
            stated.update(card.metadata)
            window = card.context_window or window
        for choice in sorted(self.features):
            if all(stated.get(key) is False for key in choice):
                return " or ".join(choice)
        if window is not None and self.tokens > window:
            return f"room for {self.tokens:,} tokens"
        return None


def _media_in(message: BaseMessage) -> set[str]:
    if isinstance(message.content, str):
        return set()
    kinds = (block.get("type") for block in message.content if isinstance(block, dict))
    return {_MEDIA[kind] for kind in kinds if kind in _MEDIA}
