"""A graph for LangGraph Studio: in this folder, type `langgraph dev`.

pip install "moma-router[langchain]" "langgraph-cli[inmem]"
"""

from typing import Any

from langgraph.graph import START, StateGraph

from langchain_moma import ChatMoMA, MoMAState, as_node
from langchain_moma.testing import ScriptedChat
from moma_core import AgentCard, MoMARouter

LLMS = ("gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06")
CARDS = (
    AgentCard(
        "shout",
        "Put text in capitals",
        examples=("write hello in capitals", "make it LOUD", "upper case please"),
    ),
    AgentCard(
        "count",
        "Count the words of a text",
        examples=("how many words is this?", "count the words", "length of my text"),
    ),
)

router = MoMARouter.from_cards(CARDS)
chat = ChatMoMA(router=router, llms={name: ScriptedChat(name=name) for name in LLMS})


def shout(state: MoMAState) -> dict[str, Any]:
    return {"messages": [("ai", state["messages"][-1].text.upper())]}


def count(state: MoMAState) -> dict[str, Any]:
    return {"messages": [("ai", f"{len(state['messages'][-1].text.split())} words")]}


def llm(state: MoMAState) -> dict[str, Any]:
    return {"messages": chat.invoke(state["messages"])}


builder = StateGraph(MoMAState)
builder.add_node(as_node(router, ["shout", "count"], llm="llm"))
builder.add_node("shout", shout).add_node("count", count).add_node("llm", llm)
graph = builder.add_edge(START, "router").compile(name="moma")
