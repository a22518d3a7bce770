# ruff: noqa: ARG002, D102  # frameworks call these by name
"""What a user sees when a provider fails, in ten ways, through ChatMoMA and MoMALLM.

    python benchmarks/failures.py

Three scripted providers; the one that is asked first fails as its SDK would: the same errors,
statuses and headers. Each way is tried by a call and by a stream; what is shown is the answer and
who gave it, or the error; how often each was asked in that call and in four calls; and which
circuits are open after these four. Writes benchmarks/results/failures.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, ConfigDict

from langchain_moma import ChatMoMA
from llamaindex_moma import MoMALLM
from moma_core import LLMCard, MoMARouter

CARDS = (
    LLMCard("small", 0.1, 0.4, context_window=8_000),
    LLMCard("middle", 1.0, 4.0, context_window=32_000),
    LLMCard("large", 2.0, 8.0, context_window=128_000),
)
ROUTER = MoMARouter.from_cards(llms=CARDS)
RESULT = Path(__file__).parent / "results" / "failures.json"
SLOW = 0.05  # seconds to the slow first token


class APIStatusError(Exception):
    """An error with a status, headers and words, as SDKs made from OpenAI's raise it."""

    def __init__(self, status: int, words: str, **headers: str) -> None:
        super().__init__(f"Error code: {status} - {words}")
        self.status_code = status
        self.response = SimpleNamespace(status_code=status, headers=headers)


class Weather(BaseModel):
    """A town's weather."""

    town: str
    degrees: int


@dataclass
class Provider:
    """A provider's end: fails, or says what it is to say, piece by piece."""

    name: str
    fail: Callable[[], None] = lambda: None
    pieces: tuple[str, ...] = ("sunny ", "in Rome")
    breaks: Callable[[], None] | None = None  # after the first piece
    args: dict[str, Any] = field(default_factory=lambda: {"town": "Rome", "degrees": 20})
    asked: int = 0

    def answer(self) -> Iterator[str]:
        self.asked += 1
        self.fail()
        for place, piece in enumerate(self.pieces):
            if place == 1 and self.breaks is not None:
                self.breaks()
            yield piece


def raises(status: int, words: str, **headers: str) -> Callable[[], None]:
    def fail() -> None:
        raise APIStatusError(status, words, **headers)

    return fail


def times_out() -> None:
    raise TimeoutError("Request timed out.")


WAYS: dict[str, dict[str, Any]] = {
    "429 with retry-after": {"fail": raises(429, "Rate limit reached", **{"retry-after": "20"})},
    "429 without": {"fail": raises(429, "Rate limit reached")},
    "400": {"fail": raises(400, "Invalid value: 'bot'. Supported values are: 'user'.")},
    "policy": {"fail": raises(400, "The response was filtered: content_policy_violation")},
    "overflow": {"fail": raises(400, "This model's maximum context length is 8000 tokens.")},
    "timeout": {"fail": times_out},
    "529 mid-stream": {"breaks": raises(529, "Overloaded")},
    "empty stream": {"pieces": ()},
    "wrong JSON": {"args": {"town": "Rome", "degrees": "warm"}},
    "refused tool": {"fail": raises(400, "small does not support tools")},
    "slow first token": {"fail": lambda: time.sleep(SLOW)},
}
OF_A_CALL = {"wrong JSON": "structured", "refused tool": "tools", "529 mid-stream": "stream"}


class Chat(BaseChatModel):
    """LangChain's end."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    provider: Any

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any) -> Any:
        return self.bind(tools=tools, tool_choice=tool_choice)

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        message = AIMessage("".join(self.provider.answer()))
        if kwargs.get("tools"):
            call = {"name": "Weather", "args": self.provider.args, "id": "1"}
            message = AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for piece in self.provider.answer():
            yield ChatGenerationChunk(message=AIMessageChunk(piece))


class Index(FunctionCallingLLM):
    """LlamaIndex's end."""

    provider: Any

    @property
    def metadata(self) -> LLMMetadata:
        card = next(card for card in CARDS if card.name == self.provider.name)
        return LLMMetadata(
            context_window=card.context_window or 0, num_output=100, is_function_calling_model=True
        )

    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        said = "".join(self.provider.answer())
        return ChatResponse(message=ChatMessage(said, role="assistant"))

    def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
        def pieces() -> Iterator[ChatResponse]:
            said = ""
            for piece in self.provider.answer():
                said += piece
                yield ChatResponse(message=ChatMessage(said, role="assistant"), delta=piece)

        return pieces()

    def _prepare_chat_with_tools(self, tools: Any, user_msg: Any = None, **kwargs: Any) -> Any:
        return {"messages": [ChatMessage(user_msg) if isinstance(user_msg, str) else user_msg]}

    def get_tool_calls_from_response(self, response: Any, **kwargs: Any) -> list[ToolSelection]:
        return [ToolSelection(tool_id="1", tool_name="Weather", tool_kwargs=self.provider.args)]

    async def achat(self, *args: Any, **kwargs: Any) -> Any:
        return self.chat(*args, **kwargs)

    async def astream_chat(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def complete(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    acomplete = astream_complete = stream_complete = complete


ASK = "what is the weather in Rome?"


def by_chat(chat: ChatMoMA, way: str, seen: list[str]) -> None:
    """Ask ChatMoMA, and note what the user sees as it comes."""
    if way == "structured":
        seen.append(str(chat.with_structured_output(Weather).invoke(ASK)))
    elif way == "tools":
        seen.append(str(chat.bind_tools([Weather]).invoke(ASK).tool_calls[0]["args"]))
    elif way == "stream":
        seen.extend(str(chunk.text) for chunk in chat.stream(ASK))
    else:
        seen.append(str(chat.invoke(ASK).text))


def by_index(llm: MoMALLM, way: str, seen: list[str]) -> None:
    """Ask MoMALLM likewise."""
    if way == "structured":
        seen.append(str(llm.structured_predict(Weather, PromptTemplate("{query}"), query=ASK)))
    elif way == "tools":
        tool = FunctionTool.from_defaults(lambda town: town, name="Weather", description="Weather")
        response = llm.chat_with_tools([tool], user_msg=ASK)
        seen.append(str(llm.get_tool_calls_from_response(response)[0].tool_kwargs))
    elif way == "stream":
        seen.extend(piece.delta or "" for piece in llm.stream_chat([ChatMessage(ASK)]))
    else:
        seen.append(str(llm.chat([ChatMessage(ASK)]).message.content))


SURFACES: dict[str, tuple[Any, Any, Callable[..., None]]] = {
    "ChatMoMA": (ChatMoMA, Chat, by_chat),
    "MoMALLM": (MoMALLM, Index, by_index),
}


def trial(surface: str, way: str, form: str) -> dict[str, Any]:
    """Return what one way of failing looks like through one surface."""
    outer, inner, ask = SURFACES[surface]
    providers = {card.name: Provider(card.name) for card in CARDS}
    providers["small"] = Provider("small", **WAYS[way])
    llms = {name: inner(provider=each) for name, each in providers.items()}
    llm = outer(llms=llms, router=ROUTER, preference="cost")
    shown: list[dict[str, Any]] = []
    for _ in range(4):
        seen: list[str] = []
        before = {name: each.asked for name, each in providers.items()}
        start, error = time.perf_counter(), ""
        try:
            ask(llm, form, seen)
        except Exception as raised:  # noqa: BLE001 - what the user sees
            error = f"{type(raised).__name__}: {str(raised)[:70]}"
        asked = {
            n: each.asked - before[n] for n, each in providers.items() if each.asked > before[n]
        }
        shown.append(
            {
                "sees": "".join(seen),
                "error": error,
                "asked": {n: count for n, count in asked.items() if count},
                "seconds": round(time.perf_counter() - start, 2),
            }
        )
    circuits = {name: llm.health.circuit(name) for name in providers}
    waits = [n for n, c in circuits.items() if c == "closed" and not llm.health.may_be_asked(n)]
    four = {name: each.asked for name, each in providers.items()}
    return {
        **shown[0],
        "asked in four calls": four,
        "not closed": {n: c for n, c in circuits.items() if c != "closed"},
        "waits": waits,
    }


def main() -> None:
    rows = []
    for surface in SURFACES:
        for way in WAYS:
            own = OF_A_CALL.get(way)
            for form in (own,) if own else ("call", "stream"):
                row = {
                    "surface": surface,
                    "failure": way,
                    "form": form,
                    **trial(surface, way, form),
                }
                rows.append(row)
                what = row["error"] or row["sees"]
                if row["error"] and row["sees"]:
                    what = f"{row['sees']!r}, then {row['error']}"
                asked = "+".join(f"{name} {n}" for name, n in row["asked"].items())
                four = "/".join(str(n) for n in row["asked in four calls"].values())
                state = ", ".join([*map(" ".join, row["not closed"].items()), *row["waits"]])
                print(
                    f"{surface:9} {way:21} {form:10} {asked:24} {four:8} {state or '-':12} {what}"
                )
    RESULT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
