"""OpenAI's ways to restrict and reveal tools, by the payloads of LangChain's own package."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any, Literal

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from langchain_moma import MoMAMiddleware, agent_cards_from_tools
from langchain_moma.testing import ScriptedChat
from moma_core import LLMCard, MoMARouter

openai = pytest.importorskip("langchain_openai")

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
SEARCH = {"query": "price of a share on the stock exchange"}


def stub(name: str) -> BaseTool:
    return StructuredTool.from_function(
        lambda text: f"{name} done", name=name, description=WORDS[name]
    )


TOOLS = [stub(name) for name in WORDS]
ROUTER = MoMARouter.from_cards(agent_cards_from_tools(TOOLS), llms=None)


class GPT(openai.ChatOpenAI):
    """OpenAI's chat model up to the wire: keeps its payloads, and answers as it is told."""

    payloads: list[Any]
    answers: list[Any]  # (tool, arguments) to call, one a turn; a whole message

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any):
        payload = self._get_request_payload(messages, stop=stop, **kwargs)
        self.payloads.append(json.loads(json.dumps(payload, default=str)))
        message = AIMessage("done")
        if self.answers and not isinstance(messages[-1], ToolMessage):
            answer = self.answers.pop(0)
            if isinstance(answer, AIMessage):
                message = answer
            else:
                call = {"name": answer[0], "args": answer[1], "id": f"call_{len(self.payloads)}"}
                message = AIMessage("", tool_calls=[call])
        message.response_metadata["model_provider"] = "openai"
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kw: Any):
        return self._generate(messages, stop, **kw)


def gpt(*answers: Any, model: str = "gpt-5.4", **options: Any) -> Any:
    options.setdefault("use_responses_api", True)
    return GPT(model=model, api_key="x", payloads=[], answers=[*answers], **options)


def talking(llm: Any, bind: Any = "deferred", **options: Any) -> Any:
    moma = MoMAMiddleware(ROUTER, max_tools=1, bind=bind, **options)
    saver = InMemorySaver()
    agent = create_agent(
        llm, TOOLS, middleware=[moma], system_prompt="Be kind.", checkpointer=saver
    )

    def say(text: str) -> Any:
        return agent.invoke({"messages": text}, {"configurable": {"thread_id": "1"}})

    return say


def revealed(payload: dict[str, Any]) -> list[str]:
    """Return the tools that are defined behind the messages, in order."""
    kinds = ("tool_search_output", "additional_tools")
    return [
        tool["name"] for item in payload["input"] if item["type"] in kinds for tool in item["tools"]
    ]


@pytest.mark.parametrize("model", ["gpt-5.4", "gpt-4.1", "gpt-6-sol"])
def test_what_is_picked_is_revealed_and_the_prompt_before_it_never_changes(model: str) -> None:
    llm = gpt(*((name, {"text": "x"}) for name in TURNS), model=model)
    say = talking(llm)
    for name, text in TURNS.items():
        end = say(text)
        assert [m.text for m in end["messages"][-2:]] == [f"{name} done", "done"]
    for before, after in pairwise(llm.payloads):
        assert after["tools"] == before["tools"]
        assert after["input"][: len(before["input"])] == before["input"]
    assert revealed(llm.payloads[0]) == ["weather"]
    assert set(revealed(llm.payloads[-1])) == set(TURNS)
    assert not any(m.type == "system" or m.name == "find_tools" for m in end["messages"])


def test_newer_models_are_told_by_their_own_search_and_others_by_additional_tools() -> None:
    newer, older = gpt(), gpt(model="gpt-4.1")
    for llm in (newer, older):
        talking(llm)(TURNS["weather"])
    [payload] = newer.payloads
    [tool] = payload["tools"]
    assert (tool["type"], tool["execution"]) == ("tool_search", "client")
    assert tool["parameters"]["required"] == ["query"]
    call, output = payload["input"][2:]
    assert call["type"] == "tool_search_call"
    assert call["call_id"] == output["call_id"]
    assert call["arguments"] == {"query": TURNS["weather"]}
    assert output["tools"][0]["parameters"]["required"] == ["text"]
    [payload] = older.payloads
    assert [tool["name"] for tool in payload["tools"]] == ["find_tools"]
    assert payload["input"][2]["type"] == "additional_tools"
    assert payload["input"][2]["role"] == "developer"


@pytest.mark.parametrize("version", ["v0", "responses/v1", "v1"])
def test_its_own_search_is_answered_by_the_router(version: str) -> None:
    asked = {"type": "tool_search_call", "id": "tsc_1", "execution": "client", "call_id": "call_s"}
    asked |= {"status": "completed", "arguments": SEARCH}
    block = {"type": "non_standard", "value": asked} if version == "v1" else asked
    llm = gpt(AIMessage([block]), output_version=version)
    end = talking(llm)(TURNS["weather"])
    found = next(m for m in end["messages"] if isinstance(m, ToolMessage))
    assert found.content == [{"type": "tool_reference", "tool_name": "stocks"}]
    assert revealed(llm.payloads[-1]) == ["weather", "stocks"]
    call, output = llm.payloads[-1]["input"][-2:]
    assert call == asked
    assert output["call_id"] == "call_s"
    assert llm.payloads[-1]["input"][:-2] == llm.payloads[0]["input"]


def test_an_older_model_searches_by_a_function() -> None:
    llm = gpt(("find_tools", SEARCH), model="gpt-4.1")
    moma = MoMAMiddleware(ROUTER, max_tools=1, bind="deferred")
    agent = create_agent(llm, TOOLS, middleware=[moma])
    asyncio.run(agent.ainvoke({"messages": TURNS["weather"]}))
    *_, call, output, added = llm.payloads[-1]["input"]
    assert (call["type"], output["output"]) == ("function_call", "Found: stocks")
    assert [tool["name"] for tool in added["tools"]] == ["stocks"]


def test_anothers_searches_are_read_in_its_own_form() -> None:
    def searches(messages: Any, tools: Any, choice: Any) -> Any:
        if isinstance(messages[-1], ToolMessage):
            return "done"
        call = {"name": "find_tools", "args": SEARCH, "id": "c1", "type": "tool_call"}
        return AIMessage("", tool_calls=[call])

    first, second = ScriptedChat(name="other", reply=searches), gpt()
    cards = (LLMCard("other", 0.1, 0.4, quality=0.6), LLMCard("gpt", 2.0, 8.0, quality=0.9))
    options = {"llms": {"other": first, "gpt": second}, "cards": cards, "preference": "cost"}
    moma = MoMAMiddleware(ROUTER, max_tools=1, bind="deferred", **options)
    agent = create_agent(first, TOOLS, middleware=[moma], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": TURNS["weather"]}, config)
    moma._calls.health.leave_alone("other", 60)  # type: ignore[union-attr]
    agent.invoke({"messages": TURNS["recipes"]}, config)
    [payload] = second.payloads
    assert revealed(payload) == ["weather", "stocks", "recipes"]
    assert not [i for i in payload["input"] if i["type"].startswith("function")]


@pytest.mark.parametrize(
    "llm",
    [
        gpt(use_responses_api=False),
        gpt(model="gpt-4o"),
        openai.AzureChatOpenAI(
            azure_deployment="gpt-5.4",
            api_version="1",
            api_key="x",
            azure_endpoint="https://x.test",
        ),
    ],
    ids=["chat completions", "an old model", "azure"],
)
def test_where_no_way_is_known_tools_are_bound(llm: Any) -> None:
    from langchain_moma.deferred_tools import form_of

    assert form_of(llm) is None


def allowed(payload: dict[str, Any]) -> list[str]:
    choice = payload["tool_choice"]
    assert choice["type"] == "allowed_tools"
    if "messages" in payload:
        assert choice["allowed_tools"]["mode"] == "auto"
        return [tool["function"]["name"] for tool in choice["allowed_tools"]["tools"]]
    assert choice["mode"] == "auto"
    return [tool.get("name", tool["type"]) for tool in choice["tools"]]


@pytest.mark.parametrize("responses", [False, True])
def test_all_tools_stay_declared_and_a_call_may_use_those_picked(responses: bool) -> None:
    llm = gpt(model="gpt-5", use_responses_api=responses)
    say = talking(llm, "allowed")
    for text in TURNS.values():
        say(text)
    assert all(payload["tools"] == llm.payloads[0]["tools"] for payload in llm.payloads)
    assert len(llm.payloads[0]["tools"]) == len(TOOLS)
    for payload, name in zip(llm.payloads, TURNS, strict=True):
        assert name in allowed(payload)
        assert len(allowed(payload)) < len(TOOLS)


def test_a_providers_own_tool_stays_allowed_and_a_masked_one_is_not_run() -> None:
    llm = gpt(("clock", {"text": "x"}), model="gpt-5", use_responses_api=None)
    moma = MoMAMiddleware(ROUTER, max_tools=1, bind="allowed")
    agent = create_agent(llm, [*TOOLS, {"type": "web_search"}], middleware=[moma])
    end = agent.invoke({"messages": TURNS["weather"]})
    assert allowed(llm.payloads[0]) == ["web_search", "weather"]
    assert "not available" in end["messages"][-2].content


def test_structured_output_and_others_llms_bind_as_stable_does() -> None:
    class Place(BaseModel):
        kind: Literal["city"]

    other = ScriptedChat(reply=lambda *_: "done")
    talking(other, "allowed")(TURNS["weather"])
    assert other.calls[0].tools == ("weather",)
    llm = gpt(("Place", {"kind": "city"}), model="gpt-4", use_responses_api=None)
    moma = MoMAMiddleware(ROUTER, max_tools=1, bind="allowed")
    agent = create_agent(llm, TOOLS, middleware=[moma], response_format=Place)
    end = agent.invoke({"messages": [HumanMessage(TURNS["weather"])]})
    assert end["structured_response"] == Place(kind="city")
    assert [t["function"]["name"] for t in llm.payloads[0]["tools"]] == ["weather", "Place"]
    assert llm.payloads[0]["tool_choice"] == "required"
