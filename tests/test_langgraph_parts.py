"""A query with a request for an agent and one for an LLM, in a graph."""

from typing import Any

import pytest
from langgraph.graph import START, StateGraph

from langchain_moma import MoMAState, RunnableRouter, as_node, llm_node
from langchain_moma.testing import ScriptedChat
from moma_core import AgentCard, MoMARouter

CARDS = (
    AgentCard("hotel", "Book a hotel room", examples=("book a room in Rome", "a hotel for me")),
    AgentCard("refund", "Refund an order", examples=("refund order 12", "I want my money back")),
)
ROUTER = MoMARouter.from_cards(CARDS)
BOTH = "Book a hotel room in Rome. Then explain why the sky is blue."


@pytest.mark.parametrize("several", ["parallel", "in_order"])
def test_each_request_goes_to_its_taker(several: Any) -> None:
    asked = ScriptedChat(reply=lambda *_: "because of the air")
    llms = dict.fromkeys(ROUTER.llms.names, asked)
    builder = StateGraph(MoMAState)
    builder.add_node(as_node(ROUTER, ["hotel", "refund"], llm="llm", several=several))
    builder.add_node("hotel", lambda state: {"messages": [("ai", "It is booked.")]})
    builder.add_node("refund", lambda state: {"messages": [("ai", "It is refunded.")]})
    builder.add_node(llm_node(llms)).add_edge(START, "router")
    if several == "in_order":
        for name in ("hotel", "refund", "llm"):
            builder.add_edge(name, "router")
    end = builder.compile().invoke({"messages": [("human", BOTH)]})
    said = {message.text for message in end["messages"][1:]}
    assert said == {"It is booked.", "scripted heard: because of the air"}


def test_a_runnable_gives_both_answers() -> None:
    llms = {name: ScriptedChat(name=name, reply=lambda *_: "air") for name in ROUTER.llms.names}
    chain = RunnableRouter(
        router=ROUTER, targets={"hotel": lambda _: "booked", **llms}, several="in_order"
    )
    first, second = chain.invoke(BOTH).items()
    assert first == ("hotel", "booked")
    assert second[1].text.endswith("heard: air")
