"""Decisions for a team of LLMs, wherever one may come."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import START, StateGraph

from langchain_moma import (
    ChatMoMA,
    MoMAState,
    RouteTool,
    RunnableRouter,
    as_node,
    decision_in,
    llm_node,
)
from langchain_moma.testing import ScriptedChat
from moma_core import (
    Candidate,
    InvalidInputError,
    MoMARouter,
    RoutingDecision,
    TeamPlan,
    UnknownNameError,
)
from moma_core.decision import TeamMember

SMALL, LARGE = "gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06"
PLAN = TeamPlan("chain", (TeamMember("planner", SMALL), TeamMember("writer", LARGE)))
ASK = "write a poem about rain"


class TeamUp:
    """Answers each query with a team."""

    def __init__(self, router: MoMARouter) -> None:
        self.agents, self.llms = router.agents, router.llms
        self.choose_llm = router.choose_llm

    def route(self, *args: Any, **options: Any) -> RoutingDecision:
        best = (Candidate(LARGE, 0.8, 0.01), Candidate(SMALL, 0.7, 0.001))
        return RoutingDecision("team", PLAN.llms, 0.9, best, cost=0.02, team=PLAN)


@pytest.fixture(scope="module")
def router() -> TeamUp:
    return TeamUp(MoMARouter.from_cards())


def chats() -> dict[str, ScriptedChat]:
    return {name: ScriptedChat(name=name, reply=lambda *_: "done") for name in (SMALL, LARGE)}


async def test_a_runnable_gives_the_teams_answer(router: TeamUp) -> None:
    llms = chats()
    chain = RunnableRouter(router=router, targets=llms)
    for answer in (chain.invoke(ASK), await chain.ainvoke([("human", ASK)])):
        assert isinstance(answer, AIMessage)
        assert answer.text == f"{LARGE} heard: done"
    assert [len(llm.calls) for llm in llms.values()] == [2, 2]
    chunks = [chunk.text for chunk in chain.stream(ASK)]
    assert len(chunks) > 2
    assert "".join(chunks) == f"{LARGE} heard: done"
    named = RunnableRouter(router=router, targets=llms, several="in_order")
    assert named.invoke(ASK)["team"].text == f"{LARGE} heard: done"


def test_a_team_needs_chat_models(router: TeamUp) -> None:
    chain = RunnableRouter(
        router=router, targets={**chats(), SMALL: chats()[SMALL].bind(stop=["."])}
    )
    with pytest.raises(InvalidInputError, match="must be a chat model itself"):
        chain.invoke(ASK)


async def test_a_graph_goes_to_its_llm_node(router: TeamUp) -> None:
    builder = StateGraph(MoMAState).add_node(as_node(router, [], llm="llm"))
    builder.add_node(llm_node(chats(), cards=router.llms.cards))
    graph = builder.add_edge(START, "router").compile()
    asked = {"messages": [("human", ASK)]}
    for end in (graph.invoke(asked), await graph.ainvoke(asked)):
        assert end["messages"][-1].text == f"{LARGE} heard: done"
        assert decision_in(end["moma"]).team == PLAN
        assert json.loads(json.dumps(end["moma"])) == end["moma"]
    bare = as_node(router, [SMALL, LARGE])
    with pytest.raises(UnknownNameError, match="llm_node"):
        bare(asked, {})


def test_a_chat_model_stays_one_llm(router: TeamUp) -> None:
    llms = chats()
    chat = ChatMoMA(router=router, llms=llms, preference="performance")
    assert chat.invoke(ASK).response_metadata["moma_llm"] == LARGE
    assert [len(llm.calls) for llm in llms.values()] == [0, 1]


def test_the_llm_node_alone() -> None:
    node = llm_node(chats())
    with pytest.raises(InvalidInputError, match="got none"):
        node.invoke({"messages": [("human", ASK)]})
    decided = RoutingDecision("agent", ("clock",), 0.9).to_dict()
    with pytest.raises(InvalidInputError, match="agent 'clock'"):
        node.invoke({"messages": [("human", ASK)], "moma": {"decision": decided}})
    decided = RoutingDecision("llm", ("ghost",), 0.9).to_dict()
    with pytest.raises(UnknownNameError, match="ghost"):
        node.invoke({"messages": [("human", ASK)], "moma": {"decision": decided}})


def test_a_supervisor_is_told_all_llms_of_a_team(router: TeamUp) -> None:
    told = RouteTool(router=router).invoke(ASK)
    assert told.startswith(f"{', '.join(PLAN.llms)} (team, 0.90)")
