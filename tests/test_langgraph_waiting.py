"""An agent that asked, or was interrupted, is named to the router when the user answers."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from langchain_moma import (
    MoMAMiddleware,
    MoMAState,
    agent_cards_from_tools,
    as_edge,
    as_node,
    waits,
)
from langchain_moma.testing import ScriptedChat
from langchain_moma.waiting import asks, waiting_for
from moma_core import AgentCard, InvalidInputError, MoMARouter, RoutingDecision

CARDS = (
    AgentCard("hotel", "Book a hotel room", examples=("book a room in Rome", "a hotel for me")),
    AgentCard("refund", "Refund an order", examples=("refund order 12", "I want my money back")),
)
ROUTER = MoMARouter.from_cards(CARDS, llms=None)
THREAD = {"configurable": {"thread_id": "1"}}


class Recorder:
    """Passes calls on to a router and keeps the states it was given."""

    def __init__(self, router: MoMARouter) -> None:
        self._router, self.states_given = router, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._router, name)

    def route(self, query: Any, preference: Any = None, state: Any = None, **options: Any) -> Any:
        self.states_given.append(state)
        return self._router.route(query, preference, state, **options)

    def rank(self, query: Any, *args: Any, state: Any = None, **options: Any) -> Any:
        self.states_given.append(state)
        return self._router.rank(query, *args, state=state, **options)

    @property
    def waited_for(self) -> list[str | None]:
        """Who was said to wait, call by call."""
        plain = (s if isinstance(s, dict) else {} for s in self.states_given)
        return [state.get("waiting_for") for state in plain]


def desk(recorder: Recorder, hotel: Any) -> Any:
    builder = StateGraph(MoMAState).add_node(as_node(recorder, ["hotel", "refund"], default="end"))
    builder.add_node("hotel", hotel)
    builder.add_node("refund", lambda state: {"messages": "It is refunded."})
    builder.add_node("end", lambda state: {"messages": "Hm."})
    return builder.add_edge(START, "router").compile(InMemorySaver())


def say(graph: Any, text: str) -> dict[str, Any]:
    return graph.invoke({"messages": [("human", text)]}, THREAD)


@pytest.mark.parametrize(
    ("answer", "waited"),
    [
        ("Which city?", "hotel"),
        ("Gladly.\nWhich city? (Rome, Oslo)", "hotel"),
        ("\u54ea\u4e2a\u57ce\u5e02\uff1f", "hotel"),
        ("It is booked.", None),
        ("You asked: where?\nIt is booked.", None),
    ],
)
def test_a_question_is_waited_for(answer: str, waited: str | None) -> None:
    recorder = Recorder(ROUTER)
    graph = desk(recorder, lambda state: {"messages": [AIMessage(answer)]})
    first = say(graph, "book a room in Rome")
    assert first["moma"]["decision"]["targets"] == ["hotel"]
    say(graph, "I want my money back")
    assert recorder.waited_for == [None, waited]
    say(
        graph, "please refund my order 4471, I want my money back"
    )  # whoever waited before waits no more
    assert recorder.waited_for[-1] is None


def test_an_interrupted_agent_waits_and_a_resumed_one_does_not() -> None:
    def hotel(state: Any) -> dict[str, Any]:
        return {"messages": [AIMessage(f"It is booked in {interrupt('Which city?')}.")]}

    recorder = Recorder(ROUTER)
    graph = desk(recorder, hotel)
    assert say(graph, "book a room")["__interrupt__"]
    end = graph.invoke(Command(resume="Vienna"), THREAD)
    assert end["messages"][-1].text == "It is booked in Vienna."
    assert len(recorder.states_given) == 1  # the answer went straight to the agent
    say(graph, "book a room in Rome")
    assert recorder.waited_for == [None, None]
    say(graph, "I want my money back")  # a new message, while the second interrupt waits
    assert recorder.waited_for[-1] == "hotel"


def test_a_node_says_itself_that_it_waits() -> None:
    def hotel(state: Any) -> dict[str, Any]:
        return {"messages": [AIMessage("Please name the city.")], **waits(state)}

    recorder = Recorder(ROUTER)
    graph = desk(recorder, hotel)
    end = say(graph, "book a room")
    assert end["moma"]["state"]["waiting_for"] == "hotel"
    assert graph.get_state(THREAD).values["moma"]["state"]["waiting_for"] == "hotel"
    end = say(graph, "I want my money back")
    assert recorder.waited_for == [None, "hotel"]
    assert end["moma"]["decision"]["targets"] == ["refund"]  # a new request leaves
    assert end["moma"]["state"]["waiting_for"] is None
    with pytest.raises(InvalidInputError, match="waits"):
        waits({"messages": []})


def test_edges_read_what_a_node_left() -> None:
    recorder = Recorder(ROUTER)
    path = as_edge(recorder, ["hotel", "refund"])
    left = {
        "decision": RoutingDecision("agent", ("hotel",), 0.9).to_dict(),
        "state": {"last_target": "hotel"},
    }
    said = [("human", "book a room"), ("ai", "Which city?"), ("human", "refund order 12")]
    path({"messages": said, "moma": left}, {})
    assert recorder.waited_for == ["hotel"]


def test_of_several_in_order_the_last_one_that_was_visited_waits() -> None:
    decision = RoutingDecision("agent", ("hotel", "refund"), 0.9).to_dict()
    said = [HumanMessage("a room, then a refund"), AIMessage("Which city?"), HumanMessage("Rome")]
    for pending, waited in (([], "refund"), (["refund"], "hotel")):
        before = {"decision": decision, "state": {}, "pending": pending}
        assert waiting_for(said, before) == waited
    by_llm = {"decision": RoutingDecision("llm", ("gpt",), 0.9).to_dict(), "state": {}}
    assert waiting_for(said, by_llm) is None
    assert waiting_for(said, None) is None


def test_calls_that_wait_for_approval_are_work_that_goes_on() -> None:
    call = {"name": "hotel", "args": {}, "id": "1", "type": "tool_call"}
    called = [HumanMessage("a room"), AIMessage("", tool_calls=[call])]
    assert asks([*called, HumanMessage("in Rome")])
    assert not asks([*called, ToolMessage("is it?", tool_call_id="1"), HumanMessage("yes")])


def test_the_middleware_says_which_tool_waits() -> None:
    tools = [
        StructuredTool.from_function(
            lambda x="": "ok", name=card.name, description=card.description
        )
        for card in CARDS
    ]
    recorder = Recorder(MoMARouter.from_cards(agent_cards_from_tools(tools), llms=None))
    said = iter(["Which city?", "It is booked.", "Bye."])
    llm = ScriptedChat(reply=lambda *_: AIMessage(next(said)))
    moma = MoMAMiddleware(recorder, max_tools=1)
    agent = create_agent(llm, tools, middleware=[moma], checkpointer=InMemorySaver())
    for text in ("book a hotel room", "Vienna", "thanks"):
        say(agent, text)
    assert recorder.waited_for == [None, "hotel", None]


def test_an_answer_goes_to_whoever_asked() -> None:
    answers = iter(["Which city?", "It is booked in Vienna."])
    graph = desk(ROUTER, lambda state: {"messages": [AIMessage(next(answers))]})
    say(graph, "book a room")
    assert say(graph, "Vienna")["messages"][-1].text == "It is booked in Vienna."
