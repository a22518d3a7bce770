"""Teams that meet trouble: early stops, limits, failures, repair, streams, checkpoints, crowds."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, Overwrite, interrupt

from langchain_moma import Telemetry
from langchain_moma.teams.answering import Answering
from langchain_moma.teams.flow import APPROVED, Stage
from langchain_moma.teams.graph import build
from langchain_moma.teams.transcript import Limits
from langchain_moma.testing import ScriptedChat
from moma_core import InvalidInputError, LLMCard, NoTargetError, TeamPlan
from moma_core.decision import TeamMember
from moma_core.health import Health
from moma_core.teams.cards import calls
from moma_core.teams.router import Signal

QUESTION = "What is 6 times 7?"
SIZES = {"io": 1, "cot": 1, "chain": 3, "full": 3, "debate": 3, "reflection": 2}
ROLES = ("solver", "checker", "judge")
CARDS = [LLMCard(name, 1.0, 1.0) for name in "abcd"]


def says(*texts: str) -> Any:
    left = list(texts)
    return lambda messages, tools, choice: AIMessage(left.pop(0) if len(left) > 1 else left[0])


def scripted(name: str, *texts: str, **options: Any) -> ScriptedChat:
    texts = texts or tuple(f"{name}{i}" for i in range(9))
    return ScriptedChat(name=name, reply=says(*texts), **options)


def plan_of(mode: str, rounds: int = 1) -> TeamPlan:
    names = "abc"[: SIZES[mode]]
    members = (TeamMember(role, name) for role, name in zip(ROLES, names, strict=False))
    return TeamPlan(mode, tuple(members), rounds)


def three(**words: tuple[str, ...]) -> dict[str, Any]:
    return {name: scripted(name, *words.get(name, ())) for name in "abc"}


def ask(graph: Any, config: Any = None) -> dict[str, Any]:
    end: dict[str, Any] = graph.invoke({"messages": [HumanMessage(QUESTION)]}, config)
    return end


def spoke(end: dict[str, Any]) -> list[str]:
    return [turn["text"] for turn in end["team"]["transcript"] if turn["llm"]]


# Early stops


def test_agreement_at_once_saves_the_rounds_and_the_judge() -> None:
    same = {"a": ("so\nAnswer: 42",), "b": ("Answer: **42**",), "c": ("answer: 42.0",)}
    end = ask(build(plan_of("debate", 3), three(**same)))
    assert end["team"]["stopped"] == "agreement"
    assert end["team"]["total"]["calls"] == 3
    assert end["messages"][-1].text == "answer: 42.0"


def test_agreement_after_a_round_saves_the_judge() -> None:
    words = {"a": ("41", "42"), "b": ("42", "42"), "c": ("43", "42")}
    end = ask(build(plan_of("debate", 2), three(**words)))
    assert (end["team"]["stopped"], end["team"]["total"]["calls"]) == ("agreement", 6)


def test_agreement_is_the_callers_to_define() -> None:
    words = {"a": ("forty-two",), "b": ("42",), "c": ("XLII",)}
    end = ask(build(plan_of("debate"), three(**words), equal=lambda left, right: True))
    assert end["team"]["total"]["calls"] == 3
    same = {"a": ("42",), "b": ("42",), "c": ("42",)}
    end = ask(build(plan_of("debate"), three(**same), equal=None))
    assert (end["team"]["stopped"], end["team"]["total"]["calls"]) == ("", 7)


def test_a_critic_that_approves_ends_the_work() -> None:
    llms = {"a": scripted("a"), "b": scripted("b", "the sign is wrong", f"**{APPROVED}**")}
    end = ask(build(plan_of("reflection", 3), llms))
    assert end["team"]["stopped"] == "approved"
    assert spoke(end) == ["a0", "the sign is wrong", "a1", f"**{APPROVED}**"]
    assert end["messages"][-1].text == "a1"


# Limits


def test_a_limit_on_calls_gives_the_majority_so_far() -> None:
    words = {"a": ("42",), "b": ("42",), "c": ("41",)}
    end = ask(build(plan_of("debate", 2), three(**words), limits=Limits(calls=5)))
    assert end["team"]["stopped"] == "limit: 5 calls"
    assert end["team"]["total"]["calls"] == 3
    assert end["messages"][-1].text == "42"


def test_equal_votes_go_to_the_last_seat() -> None:
    end = ask(build(plan_of("debate"), three(), limits=Limits(calls=3)))
    assert end["messages"][-1].text == "c0"


@pytest.mark.parametrize("mode", ["chain", "debate", "full", "reflection"])
@pytest.mark.parametrize("field", ["tokens", "usd"])
def test_a_limit_on_spending_holds(field: str, mode: str) -> None:
    def spent(used: dict[str, Any]) -> float:
        tokens = used["input_tokens"] + used["output_tokens"]
        return float({"tokens": tokens, "usd": used["cost"]}[field])

    whole = spent(ask(build(plan_of(mode, 2), three(), cards=CARDS))["team"]["total"])
    calls = set()
    for share in (0.3, 0.5, 0.7, 0.9):
        limits = Limits(**{field: whole * share})
        team = ask(build(plan_of(mode, 2), three(), cards=CARDS, limits=limits))["team"]
        assert team["stopped"].startswith("limit: ")
        began = {turn["stage"] for turn in team["transcript"]}
        assert began == {0} or spent(team["total"]) <= whole * share
        calls.add(team["total"]["calls"])
    assert len(calls) > 1


def test_a_dear_judge_is_not_asked_on_a_cheap_budget() -> None:
    cards = [LLMCard("a", 0.1, 0.1), LLMCard("b", 0.1, 0.1), LLMCard("c", 50.0, 50.0)]
    members = (TeamMember("solver", "a"), TeamMember("checker", "b"), TeamMember("judge", "c"))
    plan = TeamPlan("chain", members)
    end = ask(build(plan, three(), cards=cards, limits=Limits(usd=1e-4)))
    assert (spoke(end), end["team"]["stopped"]) == (["a0", "b0"], "limit: 0.0001 USD")


def test_a_limit_below_the_first_call_still_gets_an_answer() -> None:
    end = ask(build(plan_of("reflection"), three(), cards=CARDS, limits=Limits(usd=1e-9)))
    assert (end["team"]["stopped"], end["messages"][-1].text) == ("limit: 1e-09 USD", "a0")


def test_a_limit_on_rounds_takes_the_place_of_the_plans() -> None:
    end = ask(build(plan_of("debate", 3), three(), limits=Limits(rounds=1)))
    assert (end["team"]["stopped"], end["team"]["total"]["calls"]) == ("limit: 1 round", 7)
    end = ask(build(plan_of("debate", 1), three(), limits=Limits(rounds=1)))
    assert end["team"]["stopped"] == ""


def test_a_critique_is_never_the_answer() -> None:
    end = ask(build(plan_of("reflection", 2), three(), limits=Limits(calls=2)))
    assert (spoke(end), end["messages"][-1].text) == (["a0", "b0"], "a0")


@pytest.mark.parametrize("field", ["rounds", "calls", "tokens", "usd"])
def test_a_limit_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(InvalidInputError, match=f"limit {field} must be more than zero, got 'x'"):
        Limits(**{field: "x"})
    with pytest.raises(InvalidInputError, match=r"rounds are whole, got 1\.5"):
        Limits(rounds=1.5)
    with pytest.raises(InvalidInputError, match=f"limit {field} must be more than zero, got 0"):
        Limits(**{field: 0})


# Failures


class Events(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.seen.append((name, data))


def test_a_failing_member_is_replaced_and_the_breaker_told() -> None:
    llms = {**three(), "b": scripted("b", failures=9), "d": scripted("d")}
    health, telemetry, events = Health(failures=1, cooldown=60), Telemetry(), Events()
    graph = build(plan_of("chain"), llms, fallbacks=["d", "a"], health=health, telemetry=telemetry)
    end = ask(graph, {"callbacks": [events]})
    assert spoke(end) == ["a0", "d0", "c0"]
    turn = end["team"]["transcript"][1]
    assert (turn["role"], turn["llm"]) == ("checker", "d")
    assert turn["failures"] == [{"llm": "b", "error": "TimeoutError('b does not answer')"}]
    assert health.is_open("b")
    assert telemetry.counts()["fallbacks"] == {"b": 1}
    assert ("moma.fallback", {"role": "checker", **turn["failures"][0]}) in events.seen
    ask(graph)
    assert len(llms["b"].calls) == 1, "an open circuit is asked last"


class Asking(ScriptedChat):
    """Asks a human first, as a chat model behind an approval would."""

    def _answer(self, messages: Any, options: Any) -> AIMessage:
        return AIMessage(str(interrupt("may I?")))


def test_an_interrupt_inside_a_member_is_no_failure() -> None:
    health, thread = Health(failures=1), {"configurable": {"thread_id": "1"}}
    llms = {"a": Asking(name="a"), "d": scripted("d")}
    graph = build(plan_of("io"), llms, fallbacks=["d"], health=health, checkpointer=InMemorySaver())
    held = ask(graph, thread)
    assert held["__interrupt__"][0].value == "may I?"
    assert not health.is_open("a")
    assert graph.invoke(Command(resume="yes"), thread)["messages"][-1].text == "yes"
    assert not llms["d"].calls


def test_a_member_that_nobody_replaces_is_dropped_and_not_asked_again() -> None:
    llms = {**three(), "a": scripted("a", failures=9)}
    end = ask(build(plan_of("debate", 2), llms))
    assert len(llms["a"].calls) == 1
    assert end["team"]["total"]["calls"] == 2 + 2 + 2 + 1
    assert end["messages"][-1].text == "c3"
    assert end["team"]["usage"]["solver"]["calls"] == 0


def test_without_its_judge_the_last_one_left_has_the_last_word() -> None:
    llms = {**three(), "c": scripted("c", failures=9)}
    end = ask(build(plan_of("full"), llms))
    assert (end["team"]["role"], end["messages"][-1].text) == ("checker", "b1")


@pytest.mark.parametrize(
    ("mode", "failing", "answer"),
    [
        ("chain", "b", "c0"),
        ("chain", "c", "b0"),
        ("chain", "ab", "c0"),
        ("debate", "bc", "a0"),
        ("reflection", "b", "a0"),
    ],
)
def test_whoever_is_left_answers(mode: str, failing: str, answer: str) -> None:
    llms = {**three(), **{name: scripted(name, failures=9) for name in failing}}
    assert ask(build(plan_of(mode), llms))["messages"][-1].text == answer


def test_an_empty_answer_gives_way_to_one_with_words() -> None:
    llms = three(b=("",), c=("",))
    assert ask(build(plan_of("debate"), llms))["messages"][-1].text == "a1"
    read = [message for call in llms["b"].calls for message in call.messages]
    assert "ai" not in [message.type for message in read], "many providers refuse empty messages"
    assert ask(build(plan_of("io"), three(a=("",))))["messages"][-1].text == ""


class Moody(ScriptedChat):
    """Fails on the calls that a plan says."""

    moods: list[bool] = []  # noqa: RUF012  # a pydantic field

    def _answer(self, messages: Any, options: Any) -> AIMessage:
        if len(self.calls) < len(self.moods) and self.moods[len(self.calls)]:
            self.failures = 1
        return super()._answer(messages, options)


@given(
    mode=st.sampled_from([*SIZES, "walk"]),
    rounds=st.integers(1, 3),
    moods=st.lists(st.lists(st.booleans(), max_size=6), min_size=3, max_size=3),
)
def test_whatever_fails_there_is_an_answer_or_an_error(
    mode: str, rounds: int, moods: list[list[bool]]
) -> None:
    seats = [(0,), (1,), (0,), (2,), (1,), (0, 2)][: 3 + rounds]
    members = plan_of("chain").members[: SIZES.get(mode, 3)]
    llms = {name: Moody(name=name, moods=m) for name, m in zip("abc", moods, strict=True)}
    walk = {"walk": lambda plan: [Stage(seat) for seat in seats]}
    graph = build(TeamPlan(mode, members, rounds), llms, modes=walk, equal=None)
    try:
        end = ask(graph)
    except (TimeoutError, NoTargetError):
        assert any(any(m) for m in moods[: len(members)])
        return
    turns = end["team"]["transcript"]
    assert end["messages"][-1].text
    assert sum(len(llm.calls) for llm in llms.values()) == len(turns)
    for i, turn in enumerate(turns):
        later = [other["seat"] for other in turns[i + 1 :] if other["stage"] > turn["stage"]]
        assert turn["llm"] or turn["seat"] not in later, "asked again after it was dropped"
    if mode != "walk" and not any(any(m) for m in moods):
        assert len(turns) == calls(mode, len(members), rounds)


def test_one_member_left_needs_no_debate() -> None:
    llms = {**three(), "a": scripted("a", failures=9), "b": scripted("b", failures=9)}
    end = ask(build(plan_of("debate", 3), llms))
    assert (end["team"]["stopped"], end["team"]["total"]["calls"]) == ("one member left", 1)


def test_a_lone_members_error_is_the_callers_to_see() -> None:
    llms = {"a": scripted("a", failures=9), "d": scripted("d", failures=9)}
    with pytest.raises(TimeoutError, match="a does not answer") as caught:
        ask(build(plan_of("io"), llms, fallbacks=["d"]))
    assert "'d', asked in its place, failed" in "\n".join(caught.value.__notes__)
    with pytest.raises(TimeoutError, match="a does not answer"):
        ask(build(plan_of("reflection"), {"a": llms["a"], "b": scripted("b")}))


def test_when_all_fail_the_error_says_who_and_what_to_do() -> None:
    llms = {name: scripted(name, failures=9) for name in "abc"}
    with pytest.raises(NoTargetError, match=r"checker: 'b' failed with TimeoutError.*fallbacks="):
        ask(build(plan_of("debate"), llms))


# Repair

DEBATE = plan_of("debate")


def better(plan: TeamPlan, signal: Signal, question: str) -> TeamPlan:
    assert (plan.mode, question) == ("io", QUESTION)
    assert signal.trouble
    return DEBATE


def test_a_failing_check_escalates_once_and_counts_all_calls() -> None:
    signals: list[Signal] = []

    def repair(plan: TeamPlan, signal: Signal, question: str) -> TeamPlan:
        signals.append(signal)
        return better(plan, signal, question)

    judged: list[tuple[str, str]] = []

    def check(question: str, answer: str) -> bool:
        judged.append((question, answer))
        return False

    graph = build(plan_of("io"), three(), cards=CARDS, check=check, repair=repair)
    end = ask(graph)
    assert signals == [Signal(passed=False)]
    assert judged == [(QUESTION, "a0")]
    assert end["messages"][-1].text == "c2"
    record = end["team"]
    assert (record["plan"]["mode"], record["escalation"]["plan"]["mode"]) == ("io", "debate")
    assert record["total"]["calls"] == 1 + 7
    assert record["usage"]["repair/judge"]["calls"] == 3
    assert record["total"]["cost"] == pytest.approx(
        sum(used["cost"] for used in record["usage"].values())
    )
    assert (record["doubt"], record["role"]) == ("a check failed", "judge")
    assert "check -.-> repair" in graph.get_graph().draw_mermaid()


def test_a_good_answer_is_not_repaired() -> None:
    graph = build(plan_of("io"), three(), check=lambda q, a: 0.9, repair=better)
    end = ask(graph)
    assert (end["team"]["doubt"], end["team"]["escalation"]) == ("", None)
    assert end["messages"][-1].text == "a0"


@pytest.mark.parametrize(
    ("verdict", "doubt"), [(0.2, "the answer's confidence is 0.20"), (0.9, "")]
)
def test_confidence_decides(verdict: float, doubt: str) -> None:
    graph = build(plan_of("io"), three(), check=lambda q, a: verdict, repair=better)
    assert ask(graph)["team"]["doubt"] == doubt


def test_members_who_stay_divided_are_repaired() -> None:
    wanted = plan_of("io")
    end = ask(build(DEBATE, three(), repair=lambda plan, signal, question: wanted))
    assert end["team"]["doubt"] == "only 0 % of the members agree"
    assert end["messages"][-1].text == "a2"
    agreed = three(a=("42",), b=("42",), c=("41", "42", "42"))
    end = ask(build(DEBATE, agreed, repair=lambda plan, signal, question: wanted))
    assert (end["team"]["signal"]["agreement"], end["team"]["escalation"]) == (1.0, None)


def test_long_texts_are_not_called_divided() -> None:
    essays = {name: (f"{name} thinks that " + "it depends on much, and " * 9,) for name in "abc"}
    seen: list[Signal] = []
    graph = build(DEBATE, three(**essays), repair=lambda p, signal, q: seen.append(signal))
    assert (ask(graph)["team"]["signal"]["agreement"], seen) == (None, [])
    graph = build(
        DEBATE,
        three(**essays),
        repair=lambda p, signal, q: seen.append(signal),
        equal=lambda left, right: left == right,
    )
    assert ask(graph)["team"]["signal"]["agreement"] == pytest.approx(1 / 3)
    assert len(seen) == 1


def test_a_check_alone_only_tells() -> None:
    end = ask(build(plan_of("io"), three(), check=lambda q, a: False))
    assert (end["team"]["doubt"], end["messages"][-1].text) == ("a check failed", "a0")
    with pytest.raises(InvalidInputError, match="confidence in"):
        ask(build(plan_of("io"), three(), check=lambda q, a: 7))


def test_a_repair_that_fails_leaves_the_first_answer() -> None:
    llms = {**three(), "c": scripted("c", failures=99)}
    worse = TeamPlan("io", (TeamMember("judge", "c"),))
    end = ask(build(plan_of("io"), llms, check=lambda q, a: False, repair=lambda p, s, q: worse))
    assert end["messages"][-1].text == "a0"
    assert end["team"]["escalation"]["answer"] is None
    assert "c does not answer" in end["team"]["escalation"]["error"]


def test_a_repair_with_an_llm_that_is_not_here_leaves_the_first_answer() -> None:
    foreign = TeamPlan("io", (TeamMember("judge", "gpt-9"),))
    end = ask(
        build(plan_of("io"), three(), check=lambda q, a: False, repair=lambda p, s, q: foreign)
    )
    assert end["messages"][-1].text == "a0"
    assert "no chat model for LLM 'gpt-9'" in end["team"]["escalation"]["error"]


@pytest.mark.parametrize("limits", [None, Limits(calls=1)])
def test_no_better_plan_or_no_money_left_means_no_repair(limits: Limits | None) -> None:
    repair = better if limits else lambda plan, signal, question: plan
    graph = build(plan_of("io"), three(), check=lambda q, a: False, repair=repair, limits=limits)
    end = ask(graph)
    assert (end["team"]["escalation"], end["team"]["total"]["calls"]) == (None, 1)


def test_a_repair_works_within_what_is_left() -> None:
    limits = Limits(calls=5)
    graph = build(plan_of("io"), three(), check=lambda q, a: False, repair=better, limits=limits)
    end = ask(graph)
    assert end["team"]["total"]["calls"] == 1 + 3
    assert end["team"]["escalation"]["stopped"] == "limit: 4 calls"


async def test_a_repair_is_awaited_too() -> None:
    graph = build(plan_of("io"), three(), check=lambda q, a: False, repair=better)
    end = await graph.ainvoke({"messages": [("human", QUESTION)]})
    assert end["team"]["total"]["calls"] == 8


# Streams


def streamed(graph: Any, **options: Any) -> list[tuple[str, Any]]:
    value = {"messages": [("human", QUESTION)]}
    return list(graph.stream(value, stream_mode="messages", **options))


@pytest.mark.parametrize("mode", sorted(SIZES))
def test_the_final_answer_is_streamed_once_in_tokens(mode: str) -> None:
    words = "one two three"
    llms = {name: scripted(name, *[f"{name}{i} {words}" for i in range(9)]) for name in "abc"}
    parts = streamed(build(plan_of(mode), llms))
    texts = [chunk.text for chunk, _ in parts if chunk.text]
    assert len(texts) == 4
    assert "".join(texts).endswith(words)
    last = {"reflection": "solver", "io": "solver", "cot": "solver"}.get(mode, "judge")
    assert {meta["langgraph_node"] for _, meta in parts} == {last}
    assert {meta["moma_llm"] for _, meta in parts} == {"a" if last == "solver" else "c"}


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_an_answer_that_ends_the_work_early_is_streamed_once(mode: str) -> None:
    graph = build(plan_of("debate"), three(a=("42",), b=("42",), c=("42",)))
    value = {"messages": [("human", QUESTION)]}
    if mode == "sync":
        parts = list(graph.stream(value, stream_mode="messages"))
    else:
        parts = [part async for part in graph.astream(value, stream_mode="messages")]
    assert [(chunk.text, meta["langgraph_node"]) for chunk, meta in parts] == [("42", "answer")]


def test_a_repaired_answer_is_streamed_once() -> None:
    graph = build(plan_of("io"), three(), check=lambda q, a: False, repair=better)
    assert [chunk.text for chunk, _ in streamed(graph)] == ["c2"]
    parts = streamed(
        build(plan_of("io"), three(), check=lambda q, a: False, repair=better), subgraphs=True
    )
    assert "".join(chunk.text for _, (chunk, _) in parts) == "c2"


def test_everybody_can_be_streamed_and_the_end_is_marked() -> None:
    parts = streamed(build(plan_of("chain"), three(), stream="members"))
    said = [(c.text, m["langgraph_node"], m["moma_final"]) for c, m in parts if c.text]
    assert said == [("a0", "solver", False), ("b0", "checker", False), ("c0", "judge", True)]


def test_inside_another_graph_the_answer_comes_once() -> None:
    builder = StateGraph(MessagesState).add_node("team", build(plan_of("debate"), three()))
    graph = builder.add_edge(START, "team").compile()
    assert [chunk.text for chunk, _ in streamed(graph)] == ["c2"]
    parts = streamed(graph, subgraphs=True)
    assert len([chunk for _, (chunk, _) in parts if chunk.text]) == 1


def test_updates_show_who_spoke_in_which_order() -> None:
    graph = build(plan_of("chain"), three())
    value = {"messages": [("human", QUESTION)]}
    nodes = [node for part in graph.stream(value, stream_mode="updates") for node in part]
    assert nodes == ["begin", "solver", "checker", "judge", "answer"]


@pytest.mark.parametrize("mode", sorted(SIZES))
async def test_a_team_can_answer_as_a_chat_model_does(mode: str) -> None:
    def one() -> Answering:
        words = {name: tuple(f"{name}{i} one two" for i in range(9)) for name in "abc"}
        return Answering(build(plan_of(mode), three(**words), cards=CARDS))

    answer = one().invoke(QUESTION)
    record = answer.response_metadata["moma_team"]
    assert (record["plan"]["mode"], record["total"]["calls"] > 0) == (mode, True)
    assert (await one().ainvoke([HumanMessage(QUESTION)])).text == answer.text
    chunks = list(one().stream({"input": QUESTION}))
    assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)
    assert len([chunk for chunk in chunks if chunk.text]) == 3
    assert "".join(chunk.text for chunk in chunks) == answer.text
    assert "".join([chunk.text async for chunk in one().astream(QUESTION)]) == answer.text
    piped = one() | (lambda message: message.text.upper())
    assert piped.invoke(QUESTION) == answer.text.upper()


def test_an_early_answer_is_one_chunk() -> None:
    same = three(a=("42",), b=("42",), c=("42",))
    [chunk] = Answering(build(plan_of("debate"), same)).stream(QUESTION)
    assert isinstance(chunk, AIMessageChunk)
    assert chunk.text == "42"


# Parallel, async, crowds


class Slow(ScriptedChat):
    """Takes its time, and tells how many were at work at once."""

    def _answer(self, messages: Any, options: Any) -> AIMessage:
        with LOCK:
            BUSY["now"] += 1
            BUSY["most"] = max(BUSY["most"], BUSY["now"])
        time.sleep(0.05)
        with LOCK:
            BUSY["now"] -= 1
        return super()._answer(messages, options)


LOCK, BUSY = threading.Lock(), {"now": 0, "most": 0}


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_members_of_a_round_work_at_once(mode: str) -> None:
    BUSY.update(now=0, most=0)
    graph = build(plan_of("debate"), {name: Slow(name=name) for name in "abc"})
    value = {"messages": [("human", QUESTION)]}
    end = graph.invoke(value) if mode == "sync" else await graph.ainvoke(value)
    assert BUSY["most"] == 3
    assert end["team"]["total"]["calls"] == 7


def echo(messages: Any, tools: Any, choice: Any) -> AIMessage:
    return AIMessage(str(messages[-1].text).splitlines()[0])


async def test_twenty_at_once_do_not_mix() -> None:
    llms = {name: ScriptedChat(name=name, reply=echo) for name in "ab"}
    graph = build(plan_of("reflection"), llms)

    def value(i: int) -> dict[str, Any]:
        return {"messages": [("human", f"question {i}")]}

    ends = await asyncio.gather(*(graph.ainvoke(value(i)) for i in range(20)))
    with ThreadPoolExecutor(20) as pool:
        ends += list(pool.map(lambda i: graph.invoke(value(i)), range(20)))
    for i, end in enumerate(ends):
        assert end["messages"][0].text == f"question {i % 20}"
        assert end["team"]["transcript"][0]["text"] == f"question {i % 20}"
        assert end["team"]["total"]["calls"] == 3


async def test_async_answers_as_sync_does() -> None:
    for mode in SIZES:
        plan = plan_of(mode)
        llms = {**three(), "b": scripted("b", failures=1), "d": scripted("d")}
        other = {**three(), "b": scripted("b", failures=1), "d": scripted("d")}
        left = ask(build(plan, llms, fallbacks=["d"]))
        right = await build(plan, other, fallbacks=["d"]).ainvoke(
            {"messages": [HumanMessage(QUESTION)]}
        )
        assert [t["llm"] for t in left["team"]["transcript"]] == [
            t["llm"] for t in right["team"]["transcript"]
        ]
        assert left["messages"][-1].text == right["messages"][-1].text
    with pytest.raises(TimeoutError):
        await build(plan_of("io"), {"a": scripted("a", failures=9)}).ainvoke(
            {"messages": [("human", QUESTION)]}
        )


# Checkpoints


def test_a_team_stops_between_members_and_goes_on_in_another_process() -> None:
    serde = JsonPlusSerializer(allowed_msgpack_modules=[])  # refuses classes of our own
    saver, thread = InMemorySaver(serde=serde), {"configurable": {"thread_id": "1"}}
    options: dict[str, Any] = {"checkpointer": saver, "interrupt_before": ["judge"]}
    first, second = three(), three()
    graph = build(plan_of("chain"), first, **options)
    graph.invoke({"messages": [("human", QUESTION)]}, thread)
    state = graph.get_state(thread)
    assert state.next == ("judge",)
    assert [turn["text"] for turn in state.values["transcript"]] == ["a0", "b0"]
    json.dumps(state.values["transcript"])
    end = build(plan_of("chain"), second, **options).invoke(None, thread)
    assert end["messages"][-1].text == "c0"
    assert not second["a"].calls
    assert "b0" in second["c"].calls[0].messages[-1].text


def test_inside_another_graph_it_stops_and_goes_on_too() -> None:
    llms, thread = three(), {"configurable": {"thread_id": "1"}}
    team = build(plan_of("debate"), llms, interrupt_before=["round"])
    builder = StateGraph(MessagesState).add_node("team", team).add_edge(START, "team")
    graph = builder.compile(InMemorySaver())
    graph.invoke({"messages": [("human", QUESTION)]}, thread)
    spoken = []
    while graph.get_state(thread).next:
        spoken.append(sum(len(llm.calls) for llm in llms.values()))
        end = graph.invoke(None, thread)
    assert spoken == [0, 3, 6, 7]
    assert end["messages"][-1].text == "c2"


def test_a_human_may_correct_a_member() -> None:
    saver, thread = InMemorySaver(), {"configurable": {"thread_id": "1"}}
    llms = three()
    graph = build(plan_of("chain"), llms, checkpointer=saver, interrupt_before=["checker"])
    graph.invoke({"messages": [("human", QUESTION)]}, thread)
    [turn] = graph.get_state(thread).values["transcript"]
    graph.update_state(thread, {"transcript": Overwrite([{**turn, "text": "a, corrected"}])})
    graph.invoke(None, thread)
    assert "a, corrected" in llms["b"].calls[0].messages[-1].text


def test_the_next_question_of_a_thread_starts_afresh() -> None:
    saver, thread = InMemorySaver(), {"configurable": {"thread_id": "1"}}
    llms = three()
    graph = build(plan_of("chain"), llms, checkpointer=saver)
    ask(graph, thread)
    end = ask(graph, thread)
    assert [message.text for message in end["messages"]] == [QUESTION, "c0", QUESTION, "c1"]
    assert spoke(end) == ["a1", "b1", "c1"]
    assert "c0" in [message.text for message in llms["a"].calls[1].messages]


def test_records_are_plain_json() -> None:
    graph = build(plan_of("io"), three(), cards=CARDS, check=lambda q, a: False, repair=better)
    record = ask(graph)["team"]
    assert json.loads(json.dumps(record)) == record
    assert TeamPlan.from_dict(record["escalation"]["plan"]) == DEBATE


# Options of one call


class Heard(ScriptedChat):
    """Keeps the options of its calls."""

    options: list[Any]

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **given: Any):
        self.options.append((stop, given))
        return super()._generate(messages, stop=stop, run_manager=run_manager, **given)

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **given: Any):
        self.options.append((stop, given))
        yield from super()._stream(messages, stop=stop, run_manager=run_manager, **given)


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
async def test_options_of_a_call_reach_every_member(way: str) -> None:
    llms = {name: Heard(name=name, reply=says("x"), options=[]) for name in "abc"}
    team: Any = Answering(build(plan_of("chain"), llms))
    for options in ({"stop": ["END"], "seed": 7, "tools": []}, {}):
        given = getattr(team, way)(QUESTION, **options)
        if way == "ainvoke":
            await given
        elif way == "astream":
            assert [chunk async for chunk in given]
        elif way == "stream":
            assert list(given)
    config = {"configurable": {"moma_options": {"stop": ["."]}}}
    await team.team.ainvoke({"messages": [("human", QUESTION)]}, config)
    for llm in llms.values():
        assert llm.options == [(["END"], {"seed": 7}), (None, {}), (["."], {})]


def test_a_team_that_is_given_tools_says_why_not() -> None:
    team = Answering(build(plan_of("chain"), three()))
    with pytest.raises(InvalidInputError, match="it takes no 'tools'"):
        team.invoke(QUESTION, tools=[{"name": "add"}])
