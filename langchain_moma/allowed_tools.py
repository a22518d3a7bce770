"""OpenAI's ``allowed_tools``: all tools stay declared, and a call may use only some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain.agents.middleware.types import ModelRequest
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool

__all__ = ["allowed_choice"]

_OPENAI = ("openai-chat", "azure-openai-chat")


def allowed_choice(
    llm: BaseChatModel, request: ModelRequest[Any], tools: Sequence[BaseTool | dict[str, Any]]
) -> dict[str, Any] | None:
    """Return the tool choice that leaves ``tools``; None where the LLM or the request has no place.

    A choice of the user's own stays, and so does the one that structured output makes. Chat
    Completions and the Responses API write it each in its own way.
    """
    said = request.tool_choice not in (None, "auto") or request.response_format is not None
    if llm._llm_type not in _OPENAI or said or not tools:  # noqa: SLF001
        return None
    payload = {"tools": [_named(tool) for tool in tools], **request.model_settings}
    if llm._use_responses_api(payload):  # type: ignore[attr-defined]  # noqa: SLF001
        return {"type": "allowed_tools", "mode": "auto", "tools": payload["tools"]}
    names = [{"type": "function", "function": {"name": each["name"]}} for each in payload["tools"]]
    return {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": names}}


def _named(tool: BaseTool | dict[str, Any]) -> dict[str, Any]:
    """Return what names a tool to the Responses API; a provider's own tool names itself."""
    if isinstance(tool, BaseTool):
        return {"type": "function", "name": tool.name}
    if "function" in tool:
        return {"type": "function", "name": tool["function"]["name"]}
    return {key: tool[key] for key in ("type", "name", "server_label") if key in tool}
