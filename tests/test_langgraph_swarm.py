"""Agents of a swarm (langgraph-swarm) behind a routing node."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph_swarm import SwarmState, create_handoff_tool

from langchain_moma import MoMARecord, as_node, decision_in
from langchain_moma.testing import ScriptedChat
from moma_core import AgentCard, MoMARouter

CARDS = (
    AgentCard(
        "alice",
        "Adds and multiplies numbers",
        examples=("what is 12 times 7?", "compute 3 + 4 * 2", "add 17 and 25"),
    ),
    AgentCard(
        "bob",
        "Speaks of the sea like a pirate",
        examples=("sing a shanty", "talk like a pirate", "tell me of the sea"),
    ),
)


class Swarm(SwarmState):
    """A swarm's state with what the router last decided."""

    moma: MoMARecord


@pytest.fixture(scope="module")
def router() -> MoMARouter:
    return MoMARouter.from_cards(CARDS, llms=None)


def hands_over_to(name: str) -> Any:
    """Hand the conversation over once when asked to, else answer."""

    def reply(messages: Any, tools: Any, choice: Any) -> AIMessage | str:
        if isinstance(messages[-1], HumanMessage) and name in messages[-1].text:
            tool = tools[0]["function"]["name"]
            call = {"name": tool, "args": {}, "id": "1", "type": "tool_call"}
            return AIMessage("", tool_calls=[call])
        return str(messages[-1].text)

    return reply


def agent(name: str, other: str) -> Any:
    llm = ScriptedChat(name=name, reply=hands_over_to(other))
    return create_agent(llm, [create_handoff_tool(agent_name=other)], name=name)


def swarm(router: MoMARouter) -> Any:
    builder = StateGraph(Swarm)
    builder.add_node(as_node(router, ["alice", "bob"], active_agent="active_agent"))
    builder.add_node("alice", agent("alice", "bob"), destinations=("bob",))
    builder.add_node("bob", agent("bob", "alice"), destinations=("alice",))
    return builder.add_edge(START, "router").compile(InMemorySaver())


def ask(graph: Any, text: str) -> dict[str, Any]:
    return graph.invoke({"messages": [("human", text)]}, {"configurable": {"thread_id": "1"}})


async def test_the_router_wakes_the_right_agent_without_an_llm_call(router: MoMARouter) -> None:
    graph = swarm(router)
    end = ask(graph, "what is 5 times 4?")
    assert (end["active_agent"], end["messages"][-1].name) == ("alice", "alice")
    end = ask(graph, "now talk like a pirate")
    assert (end["active_agent"], end["messages"][-1].name) == ("bob", "bob")
    assert decision_in(end["moma"]).target == "bob"
    config = {"configurable": {"thread_id": "2"}}
    end = await graph.ainvoke({"messages": [("human", "add 5 and 4")]}, config)
    assert end["active_agent"] == "alice"


def test_agents_still_hand_over_to_each_other(router: MoMARouter) -> None:
    end = ask(swarm(router), "talk like a pirate, then let alice speak")
    assert decision_in(end["moma"]).target == "bob"
    assert (end["active_agent"], end["messages"][-1].name) == ("alice", "alice")
