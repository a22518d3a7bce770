"""bind="deferred": tools are revealed behind the messages, by Anthropic's own payloads."""

from __future__ import annotations

import asyncio
import json
import random
from itertools import pairwise
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.memory import InMemorySaver

from langchain_moma import MoMAMiddleware, agent_cards_from_tools
from langchain_moma.testing import ScriptedChat
from moma_core import LLMCard, MoMARouter

anthropic = pytest.importorskip("langchain_anthropic")

WORDS = {
    "weather": "Weather forecast for a place.",
    "clock": "Tell the time in a place.",
    "translate": "Translate a text into another language.",
    "invoice": "Write an invoice for a customer.",
    "stocks": "Price of a share on the stock exchange.",
    "recipes": "Find a recipe for ingredients in the kitchen.",
}
TURNS = {
    "weather": "will it rain in Oslo tomorrow?",
    "translate": "translate 'good morning' into French",
    "recipes": "what can I cook with eggs and rice?",
    "stocks": "what is a share of Siemens worth on the stock exchange?",
}


def stub(name: str) -> BaseTool:
    return StructuredTool.from_function(
        lambda text: f"{name} done", name=name, description=WORDS[name]
    )


TOOLS = [stub(name) for name in WORDS]
CARDS = (LLMCard("claude", 0.1, 0.4, quality=0.6), LLMCard("other", 2.0, 8.0, quality=0.9))


class Claude(anthropic.ChatAnthropic):
    """Anthropic's chat model up to the wire: keeps its payloads, and answers as it is told."""

    payloads: list[Any]
    calls: list[Any]  # (tool, arguments) to call, one a turn

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any):
        payload = self._get_request_payload(messages, stop=stop, **kwargs)
        self.payloads.append(json.loads(json.dumps(payload, default=str)))
        message = AIMessage("done")
        if self.calls and (not isinstance(messages[-1], ToolMessage) or _is_ours(messages[-1])):
            name, args = self.calls.pop(0)
            call = {"name": name, "args": args, "id": f"toolu_{len(self.payloads)}"}
            message = AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kw: Any):
        return self._generate(messages, stop, **kw)


def _is_ours(message: Any) -> bool:
    return isinstance(message, ToolMessage) and message.tool_call_id.startswith("moma_")


def claude(*calls: Any, **options: Any) -> Any:
    options.setdefault("model", "claude-sonnet-4-5")
    return Claude(api_key="x", payloads=[], calls=[*calls], **options)


ROUTER = MoMARouter.from_cards(agent_cards_from_tools(TOOLS), llms=None)


def talking(llm: Any, *middleware: Any, router: Any = ROUTER, **options: Any) -> tuple[Any, Any]:
    moma = MoMAMiddleware(router, max_tools=1, bind="deferred", **options)
    agent = create_agent(
        llm,
        TOOLS,
        middleware=[moma, *middleware],
        system_prompt="Be kind.",
        checkpointer=InMemorySaver(),
    )

    def say(text: str) -> Any:
        return agent.invoke({"messages": text}, {"configurable": {"thread_id": "1"}})

    return say, moma


def flat(payload: dict[str, Any]) -> list[str]:
    """Return what the provider reads, in its order: what is deferred counts where it is shown."""
    shown = [json.dumps(t) for t in payload["tools"] if not t.get("defer_loading")]
    blocks = (
        (m["role"], block)
        for m in payload["messages"]
        for block in (m["content"] if isinstance(m["content"], list) else [m["content"]])
    )
    return [*shown, json.dumps(payload["system"]), *(json.dumps(each) for each in blocks)]


def references(payload: dict[str, Any]) -> list[str]:
    text = json.dumps(payload["messages"])
    return [name for name in WORDS if f'"tool_name": "{name}"' in text]


def test_what_is_picked_is_revealed_and_the_prompt_before_it_never_changes() -> None:
    llm = claude(*((name, {"text": "x"}) for name in TURNS))
    say, _ = talking(llm)
    for name, text in TURNS.items():
        end = say(text)
        assert [m.content for m in end["messages"][-2:]] == [f"{name} done", "done"]
    deferred = {t["name"]: t.get("defer_loading") for t in llm.payloads[0]["tools"]}
    assert deferred == {"find_tools": None, **dict.fromkeys(WORDS, True)}
    assert all(payload["tools"] == llm.payloads[0]["tools"] for payload in llm.payloads)
    for before, after in pairwise(llm.payloads):
        assert flat(after)[: len(flat(before))] == flat(before)
    assert references(llm.payloads[0]) == ["weather"]
    assert set(references(llm.payloads[-1])) == set(TURNS)
    use, result = llm.payloads[0]["messages"][1:3]
    assert use["content"][0]["id"] == result["content"][0]["tool_use_id"]
    assert result["content"][0]["content"] == [{"type": "tool_reference", "tool_name": "weather"}]
    assert not any(_is_ours(m) for m in end["messages"])  # none of it lies in the conversation


def test_beside_anthropics_caching_middleware_no_deferred_tool_is_marked() -> None:
    llm = claude()
    caching = pytest.importorskip("langchain_anthropic.middleware").AnthropicPromptCachingMiddleware
    say, _ = talking(llm, caching(min_messages_to_cache=0))
    say(TURNS["weather"])
    marked = [tool["name"] for tool in llm.payloads[0]["tools"] if "cache_control" in tool]
    assert marked == ["find_tools"]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_llm_searches_for_itself(way: str) -> None:
    search = ("find_tools", {"query": "price of a share on the stock exchange"})
    llm = claude(search)
    moma = MoMAMiddleware(ROUTER, max_tools=1, bind="deferred")
    agent = create_agent(llm, TOOLS, middleware=[moma])
    asked = {"messages": TURNS["weather"]}
    end = asyncio.run(agent.ainvoke(asked)) if way == "async" else agent.invoke(asked)
    found = next(m for m in end["messages"] if isinstance(m, ToolMessage))
    assert found.content == [{"type": "tool_reference", "tool_name": "stocks"}]
    assert references(llm.payloads[-1]) == ["weather", "stocks"]
    refused = create_agent(claude(("clock", {"text": "x"})), TOOLS, middleware=[moma])
    said = refused.invoke(asked)["messages"][-2]
    assert said.status == "error"
    assert "weather" in said.content
    empty = create_agent(claude(("find_tools", {"query": ""})), TOOLS, middleware=[moma])
    assert empty.invoke(asked)["messages"][-2].content == "No tool fits."


def test_a_tool_that_is_switched_off_is_neither_declared_nor_referred_to() -> None:
    llm = claude()
    own = MoMARouter.from_cards(agent_cards_from_tools(TOOLS), llms=None)
    say, _ = talking(llm, router=own)
    say(TURNS["weather"])
    own.agents.disable("weather")
    say(TURNS["recipes"])
    assert "weather" not in {tool["name"] for tool in llm.payloads[-1]["tools"]}
    assert references(llm.payloads[-1]) == ["recipes"]


def test_a_turn_that_was_trimmed_away_still_reveals() -> None:
    llm = claude()
    moma = MoMAMiddleware(ROUTER, max_tools=1, bind="deferred")
    agent = create_agent(llm, TOOLS, middleware=[moma], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    first = agent.invoke({"messages": TURNS["weather"]}, config)
    gone = [RemoveMessage(id=m.id) for m in first["messages"]]
    agent.invoke({"messages": [*gone, HumanMessage(TURNS["recipes"])]}, config)
    assert set(references(llm.payloads[-1])) == {"weather", "recipes"}
    assert llm.payloads[-1]["messages"][0]["content"] == TURNS["recipes"]


def test_others_and_thinking_llms_bind_what_was_revealed() -> None:
    other = ScriptedChat(name="other", reply=lambda *_: "done")
    say, _ = talking(other)
    for text in TURNS.values():
        say(text)
    assert other.calls[0].tools == ("find_tools", "weather")
    assert other.calls[-1].tools[:3] == ("find_tools", "weather", "translate")
    thinking = claude(thinking={"type": "enabled", "budget_tokens": 2_000}, max_tokens=4_000)
    say, _ = talking(thinking)
    say(TURNS["weather"])
    assert [tool["name"] for tool in thinking.payloads[0]["tools"]] == ["find_tools", "weather"]
    assert not references(thinking.payloads[0])


def test_an_llm_that_thinks_is_told_by_system_messages_where_it_knows_them() -> None:
    options = {"thinking": {"type": "adaptive"}, "max_tokens": 4_000}
    search = ("find_tools", {"query": "price of a share on the stock exchange"})
    llm = claude(search, model="claude-opus-5-5", **options)
    say, _ = talking(llm)
    say(TURNS["weather"])
    say(TURNS["recipes"])
    for before, after in pairwise(llm.payloads):
        assert flat(after)[: len(flat(before))] == flat(before)
    last = llm.payloads[-1]
    added = [m["content"] for m in last["messages"] if m["role"] == "system"]
    block = {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "weather"}}
    assert added[0] == [block]
    assert references(last) == ["stocks"]  # by its own search, which begins with its own thought
    assert not [m for m in last["messages"] if "moma_" in json.dumps(m)]


def test_an_llm_in_anothers_place_reads_searches_as_words() -> None:
    search = ("find_tools", {"query": "price of a share on the stock exchange"})
    first, other = claude(search), ScriptedChat(name="other", reply=lambda *_: "done")
    say, moma = talking(first, llms={"claude": first, "other": other}, cards=CARDS)
    say(TURNS["weather"])
    assert first.payloads
    moma._calls.health.leave_alone("claude", 60)  # type: ignore[union-attr]
    say(TURNS["recipes"])
    [call] = other.calls
    assert set(call.tools) == {"find_tools", "weather", "stocks", "recipes"}
    assert "Found: stocks" in [message.text for message in call.messages]


def test_beside_summaries_the_prompt_stays_fit() -> None:
    llm = claude()
    tidy = SummarizationMiddleware(ScriptedChat(), trigger=("messages", 5), keep=("messages", 2))
    say, _ = talking(llm, tidy)
    said = [*TURNS.values()] * 2
    random.Random(0).shuffle(said)
    for text in said:
        say(text)
    for payload in llm.payloads:
        declared = {tool["name"] for tool in payload["tools"]}
        assert set(references(payload)) <= declared
        assert payload["messages"][0]["role"] == "user"
        roles = [message["role"] for message in payload["messages"]]
        assert all(a != b for a, b in pairwise(roles))
