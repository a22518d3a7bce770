"""RouteTool in an agent's hands."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_moma import RouteTool, decision_in
from langchain_moma.testing import ScriptedChat
from moma_core import AgentCard, MoMARouter

CARDS = (
    AgentCard("weather", "Weather forecast for a place", examples=("will it rain tomorrow?",)),
    AgentCard("calculator", "Work out an arithmetic expression", examples=("what is 12 * 7?",)),
)
ASK = "will it rain in Paris tomorrow?"


@pytest.fixture(scope="module")
def tool() -> RouteTool:
    return RouteTool(router=MoMARouter.from_cards(CARDS, llms=None))


def call(query: str) -> dict[str, Any]:
    return {"name": "find_agent", "args": {"query": query}, "id": "1", "type": "tool_call"}


async def test_it_names_who_and_keeps_the_decision(tool: RouteTool) -> None:
    for message in (tool.invoke(call(ASK)), await tool.ainvoke(call(ASK))):
        assert message.text.startswith("weather: Weather forecast for a place (agent, ")
        assert message.text.endswith("also considered: calculator")
        assert decision_in({"decision": message.artifact}).target == "weather"


@pytest.mark.parametrize(
    ("query", "config", "words"),
    [
        ("", {}, "must be text"),
        (ASK, {"configurable": {"moma_exclude": ["weather", "calculator"]}}, "no LLMs"),
        (ASK, {"configurable": {"moma_preference": "fast"}}, "preference"),
    ],
)
def test_what_cannot_be_routed_is_told_to_the_llm(
    tool: RouteTool, query: str, config: Any, words: str
) -> None:
    message = tool.invoke(call(query), config)
    assert message.status == "error"
    assert words in message.text


def test_an_agent_asks(tool: RouteTool) -> None:
    def reply(messages: Any, tools: Any, choice: Any) -> AIMessage | str:
        if isinstance(messages[-1], HumanMessage):
            return AIMessage("", tool_calls=[call(messages[-1].text)])
        return f"ask {messages[-1].text.partition(':')[0]}"

    agent = create_agent(ScriptedChat(reply=reply), [tool])
    end = agent.invoke({"messages": [("human", ASK)]})
    assert end["messages"][-1].text.endswith("ask weather")
    assert [m.status for m in end["messages"] if isinstance(m, ToolMessage)] == ["success"]
