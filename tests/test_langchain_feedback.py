"""What is learnt from use: a decision made through any surface goes through `router.feedback`."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, StateGraph

from langchain_moma import (
    ChatMoMA,
    MoMAState,
    RouteTool,
    RunnableRouter,
    agent_cards_from_tools,
    as_node,
    create_moma_agent,
    decision_in,
    llm_node,
    role_llms,
)
from langchain_moma.testing import ScriptedChat
from moma_core import Learning, MoMARouter, RoutingDecision

ASK = "Prove that there are infinitely many primes."


def clock(place: str) -> str:
    """Tell the time in a place."""
    return f"noon in {place}"


@pytest.fixture(scope="module")
def router() -> MoMARouter:
    made = MoMARouter.from_cards(agent_cards_from_tools([clock]))
    made.learn(Learning())
    return made


def chats(router: MoMARouter, **options: Any) -> dict[str, ScriptedChat]:
    return {name: ScriptedChat(name=name, **options) for name in router.llms.names}


class Events(BaseCallbackHandler):
    def __init__(self) -> None:
        self.routed: list[RoutingDecision] = []

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        if name == "moma.route":
            self.routed.append(RoutingDecision.from_dict(data))


def by_chat(router: MoMARouter) -> RoutingDecision | None:
    return decision_in(ChatMoMA(router=router, llms=chats(router)).invoke(ASK))


def by_stream(router: MoMARouter) -> RoutingDecision | None:
    first, *more = ChatMoMA(router=router, llms=chats(router)).stream(ASK)
    return decision_in(sum(more, first))


def by_generate(router: MoMARouter) -> RoutingDecision | None:
    chat = ChatMoMA(router=router, llms=chats(router))
    return decision_in(chat.generate([[HumanMessage(ASK)]]).generations[0][0].message)


def by_event(router: MoMARouter) -> RoutingDecision | None:
    events = Events()
    ChatMoMA(router=router, llms=chats(router)).invoke(ASK, {"callbacks": [events]})
    return events.routed[0]


def by_agent(router: MoMARouter) -> RoutingDecision | None:
    agent = create_moma_agent(chats(router, reply=lambda *_: "done"), [clock], router=router)
    return decision_in(agent.invoke({"messages": ASK})["messages"][-1])


def by_role(router: MoMARouter) -> RoutingDecision | None:
    return decision_in(role_llms(router, chats(router), ["coder", "tester"])["coder"].invoke(ASK))


def by_runnable(router: MoMARouter) -> RoutingDecision | None:
    events = Events()
    chain = RunnableRouter(router=router, targets={"clock": clock_of, **chats(router)})
    chain.invoke(ASK, {"callbacks": [events]})
    return events.routed[0]


def clock_of(text: str) -> str:
    return clock(text)


def by_node(router: MoMARouter) -> RoutingDecision | None:
    builder = StateGraph(MoMAState).add_node(as_node(router, [], llm="llm"))
    builder.add_node(llm_node(chats(router))).add_edge(START, "router")
    return decision_in(builder.compile().invoke({"messages": ASK})["moma"])


def by_tool(router: MoMARouter) -> RoutingDecision | None:
    call = {"name": "find_agent", "args": {"query": ASK}, "id": "1", "type": "tool_call"}
    return RoutingDecision.from_dict(RouteTool(router=router).invoke(call).artifact)


SURFACES = [
    by_chat,
    by_stream,
    by_generate,
    by_event,
    by_agent,
    by_role,
    by_runnable,
    by_node,
    by_tool,
]


@pytest.mark.parametrize("surface", SURFACES)
def test_a_decision_goes_through_feedback(router: MoMARouter, surface: Any) -> None:
    decision = surface(router)
    assert decision.kind == "llm"
    assert router.feedback(decision, 1.0)
    assert not router.feedback(decision, 1.0)  # counts once


def test_an_answer_of_another_llm_is_not_credited_to_the_chosen_one(router: MoMARouter) -> None:
    llms = chats(router)
    chosen = by_chat(router).target
    llms[chosen].failures = 1
    answer = ChatMoMA(router=router, llms=llms).invoke(ASK)
    assert answer.response_metadata["moma_llm"] != chosen
    assert decision_in(answer) is None


def test_a_router_that_does_not_learn_leaves_answers_small(router: MoMARouter) -> None:
    fixed = MoMARouter.from_cards()
    answer = ChatMoMA(router=fixed, llms=chats(fixed)).invoke(ASK)
    assert set(answer.response_metadata) == {"moma_llm", "moma_cost", "model_name"}
    assert decision_in(AIMessage("hi")) is None


GARDEN = "work on thing number 7 of the garden"


def garden() -> list[Any]:
    def stub(i: int) -> Any:
        def run(text: str) -> str:
            return text

        run.__name__, run.__doc__ = f"tool_{i}", f"Work on thing number {i} of the garden."
        return run

    return [stub(i) for i in range(40)]


@pytest.mark.parametrize("k", [3, 30])
def test_a_middlewares_candidates_sum_as_documented_whatever_k(k: int) -> None:
    tools = garden()
    router = MoMARouter.from_cards(agent_cards_from_tools(tools), llms=None)
    llm = ScriptedChat(reply=lambda *_: "done")
    agent = create_moma_agent(llm, tools, router=router, max_tools=k)
    decision = decision_in(agent.invoke({"messages": GARDEN})["moma_turn"])
    ranking = router.rank(GARDEN, k)
    assert decision.targets == ranking.names
    assert len(decision.candidates) == k
    scores = [candidate.score for candidate in decision.candidates]
    assert scores == pytest.approx([candidate.score for candidate in ranking], rel=1e-4)
    assert sum(scores) <= ranking.probability + 1e-6


def test_probabilities_do_not_depend_on_k() -> None:
    router = MoMARouter.from_cards(agent_cards_from_tools(garden()), llms=None)
    few, many = router.rank(GARDEN, 3), router.rank(GARDEN, 40)
    assert [c.score for c in few] == pytest.approx([c.score for c in many[:3]], rel=1e-4)


def test_excluded_names_are_whole_names_in_every_surface(router: MoMARouter) -> None:
    large, small = "gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18"
    llms = {name: ScriptedChat(name=name, reply=lambda *_: "done") for name in (large, small)}
    agent = create_moma_agent(llms, [clock], router=router)
    chat = ChatMoMA(router=router, llms=llms)
    role = role_llms(router, llms, "coder")["coder"]
    for excluded, left in ((large, {small}), ([small], {large}), ("gpt-4o", {large, small})):
        config = {"configurable": {"moma_exclude": excluded}}
        answers = [chat.invoke(ASK, config), role.invoke(ASK, config)]
        answers.append(agent.invoke({"messages": ASK}, config)["messages"][-1])
        assert {answer.response_metadata["moma_llm"] for answer in answers} <= left
