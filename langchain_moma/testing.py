"""A scripted chat model: answers offline, calls tools, streams, counts tokens, fails on demand.

For tests, examples and benchmarks of programs that would ask a paid LLM.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.tool import ToolCall, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, SkipValidation

__all__ = [
    "Reply",
    "ScriptedCall",
    "ScriptedChat",
    "scripted_reply",
]

# ruff: noqa: ARG002  # LangChain passes `run_manager` by its name, needed or not


Tool = Mapping[str, Any]

Reply = Callable[[Sequence[BaseMessage], Sequence[Tool], str | None], AIMessage | str]
"""From messages, tools in OpenAI's form, and a forced tool choice to the answer."""


class ScriptedCall(NamedTuple):
    """What one call of a `ScriptedChat` was given."""

    messages: list[BaseMessage]
    tools: tuple[str, ...]
    tool_tokens: int
    options: dict[str, Any]


class ScriptedChat(BaseChatModel):
    """A chat model that needs no network.

    Args:
        name: Of the LLM; it leads each answer.
        reply: What to answer; by default `scripted_reply`.
        failures: So many calls fail before the first answer.

    Example:
        >>> ScriptedChat(name="small").invoke("hello there").text
        'small heard: hello there'
    """

    name: str | None = "scripted"
    reply: SkipValidation[Reply | None] = Field(default=None, exclude=True, repr=False)
    failures: int = 0
    calls: list[Any] = Field(default_factory=list, exclude=True, repr=False)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools in OpenAI's form; provider tools (dicts without a function) pass."""
        converted = [tool if _is_foreign(tool) else convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=converted, tool_choice=tool_choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        message = self._answer(messages, {**kwargs, "stop": stop})
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        message = self._answer(messages, {**kwargs, "stop": stop})
        for word in re.findall(r"\S+\s*", str(message.text)):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word, id=message.id))
        chunks = [
            tool_call_chunk(
                name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=i
            )
            for i, call in enumerate(message.tool_calls)
        ]
        last = AIMessageChunk(
            content="",
            id=message.id,
            tool_call_chunks=chunks,
            usage_metadata=message.usage_metadata,
            response_metadata=message.response_metadata,
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=last)

    def _answer(self, messages: list[BaseMessage], options: dict[str, Any]) -> AIMessage:
        tools, choice = options.pop("tools", None) or [], options.pop("tool_choice", None)
        names = tuple(str(_function(tool)["name"]) for tool in tools if "function" in tool)
        tokens = sum(len(json.dumps(tool)) for tool in tools) // 4
        self.calls.append(ScriptedCall(list(messages), names, tokens, options))
        if self.failures > 0:
            self.failures -= 1
            raise TimeoutError(f"{self.name} does not answer")
        made = (self.reply or scripted_reply)(messages, tools, choice)
        message = AIMessage(f"{self.name} heard: {made}") if isinstance(made, str) else made
        read = tokens + sum(len(str(m.text)) for m in messages) // 4 + 3
        wrote = len(str(message.text)) // 4 + 20 * len(message.tool_calls) + 1
        usage = {"input_tokens": read, "output_tokens": wrote, "total_tokens": read + wrote}
        metadata = {"model_name": str(self.name)}
        return message.model_copy(
            update={"usage_metadata": usage, "response_metadata": metadata, "id": None}
        )


def scripted_reply(
    messages: Sequence[BaseMessage], tools: Sequence[Tool], choice: str | None
) -> AIMessage | str:
    """Call a tool once a human turn, then answer with the last words said.

    The tool is the one that ``choice`` names, else the first whose name is in the text, else the
    first. Its arguments are made up from the text and its schema.

    Example:
        >>> from langchain_core.utils.function_calling import convert_to_openai_tool
        >>> def add(left: int, right: int) -> int:
        ...     "Add two numbers."
        ...     return left + right
        >>> reply = scripted_reply([HumanMessage("2 plus 2")], [convert_to_openai_tool(add)], None)
        >>> reply.tool_calls[0]["args"]
        {'left': 2, 'right': 2}
    """
    text = str(messages[-1].text)
    functions = [_function(tool) for tool in tools if "function" in tool]
    if not functions or (not isinstance(messages[-1], HumanMessage) and not choice):
        return text
    wanted = str(_function(choice)["name"] if isinstance(choice, dict) else choice)
    by_name = {str(function["name"]): function for function in functions}
    named = next((f for name, f in by_name.items() if name in text), functions[0])
    function = by_name.get(wanted, named)
    arguments = _arguments(function.get("parameters", {}), text)
    call = ToolCall(name=function["name"], args=arguments, id=f"call_{len(messages)}")
    return AIMessage("", tool_calls=[{**call, "type": "tool_call"}])


def _is_foreign(tool: object) -> bool:
    # A JSON schema says "object", a tool in OpenAI's form "function"; the rest is a provider's own.
    return isinstance(tool, dict) and tool.get("type", "function") not in ("function", "object")


def _function(tool: Any) -> dict[str, Any]:
    function: dict[str, Any] = tool["function"]
    return function


def _arguments(schema: Mapping[str, Any], text: str) -> dict[str, Any]:
    properties: Mapping[str, Mapping[str, Any]] = schema.get("properties", {})
    needed = schema.get("required", list(properties))
    number = re.search(r"\d+", text)
    found = int(number.group()) if number else 1
    quoted = re.search(r"'([^']+)'", text)
    words = quoted.group(1) if quoted else text
    kinds: dict[str, Any] = {
        "integer": found,
        "number": float(found),
        "boolean": True,
        "array": [],
        "object": {},
    }
    return {name: kinds.get(properties[name].get("type", "string"), words) for name in needed}
