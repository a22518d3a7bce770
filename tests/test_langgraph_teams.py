"""Teams as LangGraphs: each mode's exact messages, calls, answers, usage and drawing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph

from langchain_moma import MoMAState, RunnableRouter, decision_in
from langchain_moma.teams.flow import APPROVED, MODES, Stage, final_answer, same_answer
from langchain_moma.teams.graph import build
from langchain_moma.teams.transcript import Limits
from langchain_moma.testing import ScriptedChat
from moma_core import (
    AgentCard,
    InvalidInputError,
    LLMCard,
    MoMARouter,
    RoutingDecision,
    TeamPlan,
    UnknownNameError,
)
from moma_core.decision import TeamMember
from moma_core.errors import InvalidQueryError
from moma_core.teams.cards import calls

QUESTION = "What is 6 times 7?"
SIZES = {"io": 1, "cot": 1, "chain": 3, "full": 3, "debate": 3, "reflection": 2}
ROLES = ("solver", "checker", "judge")
Given = list[tuple[str, str]]


def says(*texts: str) -> Callable[..., AIMessage]:
    """Say these one after the other, then the last one again."""
    left = list(texts)

    def reply(messages: Sequence[BaseMessage], tools: Any, choice: Any) -> AIMessage:
        return AIMessage(left.pop(0) if len(left) > 1 else left[0])

    return reply


def cast_of(mode: str, rounds: int = 1, **words: Sequence[str]) -> tuple[TeamPlan, dict[str, Any]]:
    """Return a plan whose members have the LLMs a, b, c, and those LLMs."""
    names = "abc"[: SIZES[mode]]
    members = tuple(
        TeamMember(role, name, f"You are the {role}.")
        for role, name in zip(ROLES, names, strict=False)
    )
    llms = {
        name: ScriptedChat(
            name=name, reply=says(*words.get(name, [f"{name}{i}" for i in range(9)]))
        )
        for name in names
    }
    return TeamPlan(mode, members, rounds), llms


def given(llm: ScriptedChat) -> list[Given]:
    return [[(message.type, message.text) for message in call.messages] for call in llm.calls]


def ask(graph: Any, config: Any = None) -> dict[str, Any]:
    end: dict[str, Any] = graph.invoke({"messages": [HumanMessage(QUESTION)]}, config)
    return end


def all_calls(llms: Mapping[str, ScriptedChat]) -> int:
    return sum(len(llm.calls) for llm in llms.values())


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_mode_makes_the_calls_that_the_plan_was_priced_with(mode: str, rounds: int) -> None:
    plan, llms = cast_of(mode, rounds)
    end = ask(build(plan, llms))
    expected = calls(mode, SIZES[mode], rounds)
    assert all_calls(llms) == expected
    assert end["team"]["total"]["calls"] == expected
    assert end["team"]["stopped"] == ""
    assert [message.type for message in end["messages"]] == ["human", "ai"]


def test_io_adds_nothing_but_the_role() -> None:
    plan, llms = cast_of("io")
    assert ask(build(plan, llms))["messages"][-1].text == "a0"
    assert given(llms["a"]) == [[("system", "You are the solver."), ("human", QUESTION)]]


def test_cot_asks_for_steps() -> None:
    plan, llms = cast_of("cot")
    ask(build(plan, llms))
    [[_, (_, asked)]] = given(llms["a"])
    assert asked.startswith(f"{QUESTION}\n\nThink step by step.")


def test_chain_hands_on_the_output_before() -> None:
    plan, llms = cast_of("chain")
    end = ask(build(plan, llms))
    [[_, (_, second)]] = given(llms["b"])
    [[system, (_, third)]] = given(llms["c"])
    assert second == f"{QUESTION}\n\n[solver]\na0\n\nDo your part, building on this."
    assert third.startswith(f"{QUESTION}\n\n[checker]\nb0\n\nGive the final answer, building")
    assert "a0" not in third
    assert system == ("system", "You are the judge.")
    assert end["messages"][-1].text == "c0"
    assert (end["team"]["role"], end["team"]["llm"]) == ("judge", "c")


def test_full_shows_everybody_the_round_before() -> None:
    plan, llms = cast_of("full", rounds=2)
    end = ask(build(plan, llms))
    first, second = given(llms["a"])
    assert first[1][1].startswith(f"{QUESTION}\n\nContribute what your role knows.")
    assert second[1][1] == QUESTION
    assert second[2] == ("ai", "a0")
    assert second[3][1].startswith("[checker]\nb0\n\n[judge]\nc0\n\nUse what helps")
    closing = given(llms["c"])[-1]
    assert closing[2] == ("ai", "c1")
    assert closing[3][1].startswith("[solver]\na1\n\n[checker]\nb1\n\nNow write the team's final")
    assert end["messages"][-1].text == "c2"


def test_debate_answers_alone_then_revises_then_judges() -> None:
    plan, llms = cast_of("debate", rounds=1)
    end = ask(build(plan, llms))
    alone, again = given(llms["b"])
    assert "a0" not in str(alone)
    assert alone[1][1].startswith(f"{QUESTION}\n\nAnswer on your own.")
    assert again[2:3] == [("ai", "b0")]
    assert again[3][1].startswith("[solver]\na0\n\n[judge]\nc0\n\nWeigh these answers")
    judging = given(llms["c"])[-1]
    assert judging[3][1].startswith("[solver]\na1\n\n[checker]\nb1\n\nYou are the judge now.")
    assert end["messages"][-1].text == "c2"


def test_reflection_drafts_criticises_and_revises() -> None:
    plan, llms = cast_of("reflection", rounds=2)
    end = ask(build(plan, llms))
    draft, revised, again = given(llms["a"])
    assert draft[1][1].startswith(QUESTION)
    assert revised[2] == ("ai", "a0")
    assert revised[3][1].startswith("[checker]\nb0\n\nThis is criticism of your draft.")
    assert again[2:3] == [("ai", "a1")]
    first, second = given(llms["b"])
    assert first[1][1].startswith(f"{QUESTION}\n\n[solver]\na0\n\nThis is a draft")
    assert second[2] == ("ai", "b0")
    assert second[3][1].startswith("[solver]\na1\n\nThis is a draft")
    assert end["messages"][-1].text == "a2"


def test_a_single_member_criticises_itself() -> None:
    plan, llms = cast_of("io")
    end = ask(build(TeamPlan("reflection", plan.members), llms))
    assert len(llms["a"].calls) == 3
    assert end["messages"][-1].text == "a2"


def test_the_conversation_stays_in_front() -> None:
    plan, llms = cast_of("chain")
    said = [
        SystemMessage("Answer in French."),
        HumanMessage("hi"),
        AIMessage("salut"),
        HumanMessage([{"type": "text", "text": "and this?"}]),
    ]
    build(plan, llms).invoke({"messages": said})
    [call] = llms["b"].calls
    assert [message.type for message in call.messages] == ["system", "human", "ai", "human"]
    assert call.messages[0].text == "Answer in French.\n\nYou are the checker."
    assert call.messages[3].content[0] == {"type": "text", "text": "and this?"}
    assert call.messages[3].content[1]["text"].startswith("[solver]\na0")


def test_a_conversation_that_ends_with_the_assistant_gets_a_human_turn() -> None:
    plan, llms = cast_of("cot")
    build(plan, llms).invoke({"messages": [HumanMessage("go"), AIMessage("well")]})
    assert [kind for kind, _ in given(llms["a"])[0]] == ["system", "human", "ai", "human"]


def test_usage_and_cost_are_the_llms_own() -> None:
    plan, llms = cast_of("debate")
    cards = [LLMCard("a", 1.0, 2.0), LLMCard("b", 10.0, 20.0), LLMCard("c", 100.0, 200.0)]
    counter = UsageMetadataCallbackHandler()
    end = ask(build(plan, llms, cards=cards), {"callbacks": [counter]})
    usage = end["team"]["usage"]
    assert set(usage) == {"solver", "checker", "judge"}
    for card, role in zip(cards, ROLES, strict=True):
        counted = counter.usage_metadata[card.name]
        read, wrote = counted["input_tokens"], counted["output_tokens"]
        assert (usage[role]["input_tokens"], usage[role]["output_tokens"]) == (read, wrote)
        expected = (read * card.input_price + wrote * card.output_price) / 1e6
        assert usage[role]["cost"] == pytest.approx(expected)
    assert end["team"]["total"]["cost"] == pytest.approx(sum(u["cost"] for u in usage.values()))


def test_without_a_card_a_cost_is_unknown_rather_than_zero() -> None:
    plan, llms = cast_of("chain")
    end = ask(build(plan, llms, cards=[LLMCard("a", 1.0, 2.0)]))
    assert end["team"]["usage"]["solver"]["cost"] > 0
    assert end["team"]["usage"]["judge"]["cost"] is None
    assert end["team"]["total"]["cost"] is None


class Unmetered(ScriptedChat):
    """Reports no usage, as many local servers do."""

    def _answer(self, messages: list[BaseMessage], options: dict[str, Any]) -> AIMessage:
        return super()._answer(messages, options).model_copy(update={"usage_metadata": None})


def test_unreported_tokens_are_estimated_and_marked() -> None:
    plan, _ = cast_of("io")
    end = ask(build(plan, {"a": Unmetered(name="a")}))
    [turn] = end["team"]["transcript"]
    assert turn["estimated"]
    assert turn["input_tokens"] == (len("You are the solver.") + len(QUESTION)) // 4


@pytest.mark.parametrize(
    ("mode", "drawn"),
    [
        ("io", ["begin --> solver", "solver --> answer"]),
        ("chain", ["solver -.-> checker", "checker -.-> judge", "judge --> answer"]),
        ("debate", ["round -.-> solver", "judge --> round", "round -.-> answer"]),
        ("full", ["begin --> round", "round -.-> checker", "checker --> round"]),
        ("reflection", ["solver -.-> checker", "checker -.-> solver", "solver -.-> answer"]),
    ],
)
def test_the_drawing_shows_the_mode(mode: str, drawn: list[str]) -> None:
    plan, llms = cast_of(mode)
    picture = build(plan, llms).get_graph().draw_mermaid()
    for edge in drawn:
        assert f"{edge};" in picture
    assert len([line for line in picture.splitlines() if "->" in line]) <= 12


def test_roles_of_one_name_or_with_odd_signs_get_nodes_of_their_own() -> None:
    members = (TeamMember("a|b:c", "a"), TeamMember("solver", "a"), TeamMember("solver", "a"))
    graph = build(
        TeamPlan("chain", (*members, TeamMember("answer", "a"))), {"a": ScriptedChat(name="a")}
    )
    assert {"a_b_c", "solver", "solver_2", "answer_2"} <= set(graph.get_graph().nodes)
    assert [turn["role"] for turn in ask(graph)["team"]["transcript"]] == [
        "a_b_c",
        "solver",
        "solver_2",
        "answer_2",
    ]


def test_a_mode_of_ones_own_is_a_list_of_stages() -> None:
    def panel(plan: TeamPlan) -> list[Stage]:
        last = len(plan.members) - 1
        return [
            Stage(tuple(range(last)), "Give your view."),
            Stage((last,), "Sum up.", closing=True),
        ]

    plan, llms = cast_of("chain")
    graph = build(TeamPlan("panel", plan.members), llms, modes={"panel": panel})
    end = ask(graph)
    assert given(llms["c"])[0][1][1] == f"{QUESTION}\n\n[solver]\na0\n\n[checker]\nb0\n\nSum up."
    assert end["messages"][-1].text == "c0"
    assert end["team"]["total"]["calls"] == 3


def test_a_line_of_ones_own_goes_on_past_a_member_that_was_dropped() -> None:
    def there_and_back(plan: TeamPlan) -> list[Stage]:
        return [Stage((0,)), Stage((1,)), Stage((0,)), Stage((1,)), Stage((2,))]

    plan, llms = cast_of("chain")
    llms["b"] = ScriptedChat(name="b", failures=9)
    graph = build(TeamPlan("walk", plan.members), llms, modes={"walk": there_and_back})
    end = ask(graph)
    assert [turn["role"] for turn in end["team"]["transcript"] if turn["llm"]] == [
        "solver",
        "solver",
        "judge",
    ]
    assert end["messages"][-1].text == "c0"


def test_bad_plans_are_refused_when_built() -> None:
    plan, llms = cast_of("chain")
    with pytest.raises(UnknownNameError, match="Did you mean 'debate'"):
        build(TeamPlan("debat", plan.members), llms)
    with pytest.raises(UnknownNameError, match="no chat model for LLM 'b'"):
        build(plan, {"a": llms["a"], "c": llms["c"]})
    with pytest.raises(UnknownNameError, match="no chat model for LLM 'd'"):
        build(plan, llms, fallbacks=["d"])
    with pytest.raises(InvalidInputError, match="author and a critic, got 3"):
        build(TeamPlan("reflection", plan.members), llms)
    with pytest.raises(InvalidInputError, match="needs prices, \\['a', 'b', 'c'\\]"):
        build(plan, llms, limits=Limits(usd=1.0))
    with pytest.raises(InvalidInputError, match="must be a chat model, got str"):
        build(plan, {**llms, "a": "gpt"})
    with pytest.raises(InvalidInputError, match="seats \\[0, 3\\] for 3 members"):
        build(TeamPlan("odd", plan.members), llms, modes={"odd": lambda p: [Stage((0, 3))]})
    with pytest.raises(InvalidInputError, match="no stage that answers"):
        build(
            TeamPlan("odd", plan.members),
            llms,
            modes={"odd": lambda p: [Stage((0,), kind="critique")]},
        )
    with pytest.raises(InvalidInputError, match="each once"):
        Stage((1, 1))
    with pytest.raises(InvalidQueryError, match="needs a question"):
        build(plan, llms).invoke({"messages": []})


def test_a_team_is_a_node_of_another_graph_and_a_target_of_a_router() -> None:
    plan, llms = cast_of("debate")
    team = build(plan, llms)
    builder = StateGraph(MessagesState)
    builder.add_node("team", team)
    end = builder.add_edge(START, "team").compile().invoke({"messages": [("human", QUESTION)]})
    assert [message.text for message in end["messages"]] == [QUESTION, "c2"]
    card = AgentCard("shout", "Put text in capitals", examples=("write hello in capitals",))
    router = MoMARouter.from_cards([card], llms=None)
    chain = RunnableRouter(router=router, targets={"shout": team})
    assert chain.invoke("write hello in capitals")["messages"][-1].text == "c5"


def test_a_node_runs_the_team_of_a_decision_in_the_graphs_state() -> None:
    plan, llms = cast_of("debate")
    decision = RoutingDecision("team", plan.llms, 0.9, team=plan)
    record = json.loads(json.dumps({"decision": decision.to_dict()}))

    def team(state: MoMAState, config: RunnableConfig) -> Any:
        decided = decision_in(state["moma"])
        return build(decided.team, llms).invoke({"messages": state["messages"]}, config)

    graph = StateGraph(MoMAState).add_node("team", team).add_edge(START, "team").compile()
    end = graph.invoke({"messages": [("human", QUESTION)], "moma": record})
    assert [message.text for message in end["messages"]] == [QUESTION, "c2"]
    assert all_calls(llms) == calls("debate", 3)


def test_final_answers_are_compared_without_their_dress() -> None:
    assert final_answer("so\n**Answer:** 42\n\nAnswer: **43**") == "43"
    assert final_answer("The answer: it depends\non much") == "The answer: it depends\non much"
    assert same_answer("Because.\nANSWER: 1,000.0", "Answer: 1000")
    assert same_answer("Paris.", "paris")
    assert not same_answer("Answer: 42", "Answer: 43")
    assert APPROVED in MODES["reflection"](cast_of("reflection")[0])[1].note


@pytest.mark.parametrize("junk", [RoutingDecision("llm", ("a",), 0.5), "debate", None])
def test_what_is_no_plan_says_where_plans_come_from(junk: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"expected a TeamPlan.*decision\.team"):
        build(junk, {"a": ScriptedChat(name="a")})
