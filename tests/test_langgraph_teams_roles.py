"""LLMs for the roles of somebody's own graph: the assignment, the chat models, what it saves."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from langchain_moma import Telemetry, role_llms
from langchain_moma.teams.roles import RoleChat, RoleShare, assign
from langchain_moma.testing import ScriptedChat
from moma_core import Candidate, InvalidInputError, MoMARouter, UnknownNameError
from moma_core.errors import InvalidPreferenceError
from moma_core.health import Health

EXAMPLES = Path(__file__).parent.parent / "examples"
STRONG, MIDDLE, CHEAP = (
    "claude-3-5-sonnet-20241022",
    "gpt-4o-mini-2024-07-18",
    "Meta-Llama-3.1-8B-Instruct",
)
ASK = "Write a function that checks Luhn numbers."
ROUTER = MoMARouter.from_cards()


def scripted(*names: str, **options: Any) -> dict[str, ScriptedChat]:
    return {name: ScriptedChat(name=name, **options) for name in names or (STRONG, MIDDLE, CHEAP)}


def total(plan: dict[str, Candidate], calls: dict[str, float] | None = None) -> float:
    return sum((llm.cost or 0.0) * (calls or {}).get(role, 1.0) for role, llm in plan.items())


# The assignment


def pool(rng: np.random.Generator, n: int) -> list[Candidate]:
    costs, scores = rng.lognormal(-7, 1.5, n), rng.uniform(0.3, 0.95, n)
    return [Candidate(f"l{i}", float(scores[i]), float(costs[i])) for i in range(n)]


@pytest.mark.parametrize("seed", range(20))
def test_the_assignment_is_near_the_best_there_is_and_within_the_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    llms = pool(rng, 5)
    roles = {
        f"r{i}": RoleShare(float(rng.uniform(0.2, 4)), int(rng.integers(1, 4))) for i in range(4)
    }
    least = sum(r.calls for r in roles.values()) * min(llm.cost or 0 for llm in llms)
    most = sum(r.calls for r in roles.values()) * max(llm.cost or 0 for llm in llms)
    budget = least + float(rng.uniform()) * (most - least)

    def spent(chosen: Any) -> float:
        return sum(
            llm.cost * share.calls for llm, share in zip(chosen, roles.values(), strict=True)
        )

    def worth(chosen: Any) -> float:
        return sum(llm.score * s.weight for llm, s in zip(chosen, roles.values(), strict=True))

    every = [one for one in itertools.product(llms, repeat=4) if spent(one) <= budget]
    found = list(assign(llms, roles, budget).values())
    assert spent(found) <= budget * (1 + 1e-9)
    assert worth(found) >= 0.93 * max(worth(one) for one in every)


def test_without_money_everybody_gets_the_cheapest_and_with_it_the_best() -> None:
    llms = pool(np.random.default_rng(1), 6)
    roles = {"a": RoleShare(), "b": RoleShare(9.0)}
    cheapest, best = min(llms, key=lambda c: c.cost or 0), max(llms, key=lambda c: c.score)
    assert set(assign(llms, roles, 0.0).values()) == {cheapest}
    assert set(assign(llms, roles, 1e9).values()) == {best}


def test_weight_and_calls_say_who_gets_the_better_llm() -> None:
    llms = [Candidate("small", 0.6, 0.001), Candidate("large", 0.9, 0.01)]
    by_weight = assign(llms, {"a": RoleShare(1.0), "b": RoleShare(2.0)}, 0.012)
    assert {role: llm.name for role, llm in by_weight.items()} == {"a": "small", "b": "large"}
    by_calls = assign(llms, {"a": RoleShare(calls=5), "b": RoleShare(calls=1)}, 0.02)
    assert {role: llm.name for role, llm in by_calls.items()} == {"a": "small", "b": "large"}


def test_equal_prices_are_no_trouble() -> None:
    llms = [Candidate("x", 0.6, 0.0), Candidate("y", 0.9, 0.0), Candidate("z", 0.7, 0.0)]
    assert assign(llms, {"a": RoleShare()}, 0.0)["a"].name == "y"


# Chat models by role


def test_one_budget_covers_all_roles() -> None:
    weights = {"planner": 1.0, "coder": 5.0, "reviewer": 1.0}
    for budget in (1e-4, 5e-4, 1e-3, 2e-3, 1.0):
        chats = role_llms(ROUTER, scripted(), weights, preference=f"cost:{budget}")
        plan = chats.plan(ASK)
        assert total(plan) <= budget
        assert plan["coder"].score >= max(plan["planner"].score, plan["reviewer"].score)
    names = [
        role_llms(ROUTER, scripted(), weights, preference=p).plan(ASK)["coder"].name
        for p in ("cost:0.00001", "cost:0.001", "cost:1")
    ]
    assert names[0] == CHEAP
    assert names[-1] == STRONG


@pytest.mark.parametrize("preference", ["performance", "auto", "cost"])
def test_without_a_budget_the_roles_cost_no_more_than_that_llm_in_all_of_them(
    preference: str,
) -> None:
    chats = role_llms(ROUTER, scripted(), {"a": 4.0, "b": 0.5}, preference=preference)
    table = ROUTER.llms.score(ASK, ROUTER.encoder.encode([ASK])[0])
    out = set(table.names) - {STRONG, MIDDLE, CHEAP}
    single = ROUTER.llms.select(table, preference, out)[1][0]
    plan = chats.plan(ASK)
    assert total(plan) <= 2 * single.cost * (1 + 1e-9)
    assert 4 * plan["a"].score + 0.5 * plan["b"].score >= 4.5 * single.score - 1e-9
    if preference == "performance":
        assert {llm.name for llm in plan.values()} == {single.name}


def test_each_role_asks_its_own_llm() -> None:
    llms = scripted()
    telemetry = Telemetry()
    chats = role_llms(
        ROUTER, llms, {"coder": 5.0, "tester": 0.5}, preference="cost:0.001", telemetry=telemetry
    )
    plan = chats.plan(ASK)
    assert plan["coder"].name != plan["tester"].name
    for role, chat in chats.items():
        answer = chat.invoke([("system", f"You are the {role}."), ("human", ASK)])
        assert answer.response_metadata["moma_llm"] == plan[role].name
    assert telemetry.counts()["routes"] == 2
    assert list(chats) == ["coder", "tester"]
    assert isinstance(chats["coder"], RoleChat)


def test_a_budget_can_be_given_for_one_call() -> None:
    chats = role_llms(ROUTER, scripted(), ["coder"], preference="cost:0.00001")
    rich = {"configurable": {"moma_preference": "performance"}}
    assert chats["coder"].invoke(ASK).response_metadata["moma_llm"] == CHEAP
    assert chats["coder"].invoke(ASK, rich).response_metadata["moma_llm"] == STRONG
    assert chats.plan(ASK, "performance")["coder"].name == STRONG


async def test_a_failing_llm_is_followed_by_one_that_costs_no_more() -> None:
    for sync in (True, False):
        llms = {**scripted(), STRONG: ScriptedChat(name=STRONG, failures=9)}
        health = Health(failures=1)
        chats = role_llms(ROUTER, llms, ["coder"], preference="performance", health=health)
        answer = chats["coder"].invoke(ASK) if sync else await chats["coder"].ainvoke(ASK)
        assert answer.response_metadata["moma_llm"] == MIDDLE
        assert health.is_open(STRONG)


def test_tools_and_streams_work_as_in_chat_moma() -> None:
    @tool
    def luhn(number: str) -> bool:
        """Check a Luhn number."""
        return number == "59"

    profile = {"tool_calling": True}
    llms = {
        **scripted(STRONG, MIDDLE, profile=profile),
        **scripted(CHEAP, profile={"tool_calling": False}),
    }
    chats = role_llms(ROUTER, llms, ["checker"], preference="cost:0.00001")
    agent = create_agent(chats["checker"], [luhn])
    end = agent.invoke({"messages": [("human", "Is 59 a Luhn number?")]})
    assert [message.type for message in end["messages"]] == ["human", "ai", "tool", "ai"]
    assert not llms[CHEAP].calls, "it cannot call tools"
    assert len([chunk for chunk in chats["checker"].stream(ASK) if chunk.text]) > 1


def test_it_works_from_an_llm_router_and_from_anything_with_llms() -> None:
    class Teams:
        encoder, llms = ROUTER.encoder, ROUTER.llms

    plans = [
        role_llms(source, scripted(), ["coder"], encoder=ROUTER.encoder).plan(ASK)
        for source in (ROUTER, ROUTER.llms, Teams())
    ]
    assert plans[0] == plans[1] == plans[2]


def test_bad_roles_and_names_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="name the roles, got \\[\\]"):
        role_llms(ROUTER, scripted(), [])
    assert list(role_llms(ROUTER, scripted(), "coder")) == ["coder"]
    with pytest.raises(InvalidInputError, match="'coder' needs a weight"):
        role_llms(ROUTER, scripted(), {"coder": 0.0})
    with pytest.raises(UnknownNameError, match="no LLM is called 'gpt'"):
        role_llms(ROUTER, {"gpt": ScriptedChat()}, ["coder"])
    with pytest.raises(InvalidInputError, match="no LLMs to choose from"):
        role_llms(MoMARouter.from_cards(llms=None), scripted(), ["coder"])
    with pytest.raises(InvalidPreferenceError):
        role_llms(ROUTER, scripted(), ["coder"]).plan(ASK, "cheap")


# The examples


def example(name: str) -> dict[str, Any]:
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
    return runpy.run_path(str(path))


def test_the_debate_example_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    example("langgraph_debate")["main"]()
    assert "Answer: 0.05: agreement after 6 calls" in capsys.readouterr().out


def test_the_supervisor_example_saves_money_and_keeps_the_strong_coder(
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = example("langgraph_supervisor_llms")
    program["main"]()
    plan, one, by_role = capsys.readouterr().out.splitlines()
    assert f"'coder': '{STRONG}'" in plan
    assert "'supervisor': 'gpt-4o-mini" in plan
    before, after = (float(line.partition("$")[2]) for line in (one, by_role))
    assert after < 0.7 * before


def test_the_same_graph_runs_on_either(capsys: pytest.CaptureFixture[str]) -> None:
    program = example("langgraph_supervisor_llms")
    llms = {name: ScriptedChat(name=name, reply=program["scripted"]) for name in program["NAMES"]}
    chats = role_llms(ROUTER, llms, program["ROLES"], preference="cost:0.0015")
    counter = UsageMetadataCallbackHandler()
    end = program["app"](chats).invoke(
        {"messages": [("human", program["ASK"])]}, {"callbacks": [counter]}
    )
    assert [message.name for message in end["messages"]] == [None, "researcher", "coder"]
    assert all(isinstance(message, AIMessage) for message in end["messages"][1:])
    asked = {name: len(llm.calls) for name, llm in llms.items()}
    assert sum(asked.values()) == 5
    assert asked[STRONG] == 1
