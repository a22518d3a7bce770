"""A graph for LangGraph Studio: in this folder, type `langgraph dev`.

pip install "moma-router[langchain]" "langgraph-cli[inmem]"
"""

from typing import Any

from langgraph.graph import START, StateGraph

from langchain_moma import MoMAState, as_node, llm_node
from langchain_moma.testing import ScriptedChat
from moma_core import AgentCard, LLMCard, MoMARouter

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
LLMS = (LLMCard("small", 0.1, 0.4, quality=0.6), LLMCard("large", 5.0, 20.0, quality=0.8))

router = MoMARouter.from_cards(CARDS, llms=LLMS)
chats = {card.name: ScriptedChat(name=card.name) for card in LLMS}  # your chat models


def shout(state: MoMAState) -> dict[str, Any]:
    return {"messages": [("ai", state["messages"][-1].text.upper())]}


def count(state: MoMAState) -> dict[str, Any]:
    return {"messages": [("ai", f"{len(state['messages'][-1].text.split())} words")]}


builder = StateGraph(MoMAState)
builder.add_node(as_node(router, ["shout", "count"], llm="llm"))
builder.add_node("shout", shout).add_node("count", count).add_node("llm", llm_node(chats))
graph = builder.add_edge(START, "router").compile(name="moma")
