"""The final decision by chat models that misbehave: a valid name comes out whatever goes in."""

import asyncio
import json
import time

import numpy as np
import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage

from langchain_moma import ChatDecider, FinalChoice
from langchain_moma.testing import ScriptedChat
from moma_core import AgentCard, InvalidInputError, Query

CARDS = [
    AgentCard("weather", "Weather forecast for a place", input_schema={"properties": {"city": {}}}),
    AgentCard("radar", "Rain right now"),
    AgentCard("calculator", "Works out sums"),
]
PRIOR = [-0.4, -1.5, -2.5]


def call(**arguments):
    return AIMessage(
        "",
        tool_calls=[{"name": "final_decision", "args": arguments, "id": "1", "type": "tool_call"}],
    )


def invalid_call(text):
    bad = {"name": "final_decision", "args": text, "id": "1", "error": "no JSON"}
    return AIMessage("", invalid_tool_calls=[{**bad, "type": "invalid_tool_call"}])


def scripted(*answers):
    """A chat model that gives one answer after another; an exception is raised."""
    left = list(answers)

    def reply(_messages, _tools, _choice):
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, AIMessage) else AIMessage(answer)

    return ScriptedChat(reply=reply)


def test_a_good_answer_is_taken_in_one_call():
    llm = scripted(call(agents=["a2"]))
    assert ChatDecider(llm).choose("is it raining?", CARDS, PRIOR) == FinalChoice(("radar",), "llm")
    assert len(llm.calls) == 1


READ_AT_ONCE = {
    "wrong case": (call(agents=["A2"]), "radar"),
    "name instead of id": (call(agents=["calculator"]), "calculator"),
    "name in the other case is an id's only if it is one": (call(agents=[" a3 "]), "calculator"),
    "several ids, best first": (call(agents=["a3", "a1"]), "calculator"),
    "the same id twice": (call(agents=["a2", "a2"]), "radar"),
    "one text for a list": (call(agents="a2"), "radar"),
    "markdown fence": ('```json\n{"agents": ["a2"]}\n```', "radar"),
    "fence without a language": ("```\na3\n```", "calculator"),
    "prose around one id": ("I would ask a2, since it is about rain now.", "radar"),
    "JSON in words": ('{"agents": ["a3"]}', "calculator"),
    "JSON cut off after its only id": ('{"agents": ["a3"', "calculator"),
    "bare list": ('["a2"]', "radar"),
    "bare name": ("radar", "radar"),
    "the same id in prose twice": ("a2! Definitely a2.", "radar"),
}


@pytest.mark.parametrize("case", READ_AT_ONCE)
def test_what_can_be_read_needs_no_repair(case):
    answer, name = READ_AT_ONCE[case]
    llm = scripted(answer)
    assert ChatDecider(llm).choose("rain?", CARDS, PRIOR) == FinalChoice((name,), "llm")


MISBEHAVIOURS = {
    "empty": "",
    "blank": "  \n ",
    "prose without an id": "The weather is a fascinating subject.\nLet me tell you more.",
    "refuses": "I'm sorry, but I can't help with that.",
    "unknown id": call(agents=["a9"]),
    "id of a place nobody has": call(agents=["a16"]),
    "id zero": call(agents=["a0"]),
    "invented name": call(agents=["oracle"]),
    "one good id and one bad": call(agents=["a1", "a9"]),
    "two ids in prose": "Either a1 or a2.",
    "malformed JSON": '{"agents": a1, a2}',
    "JSON cut off after two": '{"agents": ["a1", "a2"',
    "wrong key": call(agent="a1"),
    "numbers": call(agents=[1]),
    "no ids": call(agents=[]),
    "null": call(agents=None),
    "nested": call(agents=[["a1"]]),
    "another tool": AIMessage(
        "", tool_calls=[{"name": "x", "args": {"agents": ["a1"]}, "id": "1"}]
    ),
    "invalid tool call": invalid_call('{"agents": [a1'),
    "JSON of something else": "42",
    "an injected id": call(agents=["a1; DROP TABLE agents"]),
    "very long": "a" * 20_000,
}


@pytest.mark.parametrize("case", MISBEHAVIOURS)
def test_one_repair_then_it_is_right(case):
    llm = scripted(MISBEHAVIOURS[case], call(agents=["a3"]))
    choice = ChatDecider(llm).choose("2 plus 2", CARDS, PRIOR)
    assert choice == FinalChoice(("calculator",), "repair")
    assert "a1 to a3" in llm.calls[1].messages[-1].text


@pytest.mark.parametrize("case", MISBEHAVIOURS)
def test_after_one_repair_the_ranker_decides(case):
    llm = scripted(MISBEHAVIOURS[case], MISBEHAVIOURS[case])
    choice = ChatDecider(llm).choose("2 plus 2", CARDS, PRIOR)
    assert choice.names == ("weather",)
    assert choice.by == "ranker"
    assert "two answers" in choice.reason
    assert len(llm.calls) == 2


@pytest.mark.parametrize(
    "error", [TimeoutError("slow"), ConnectionError("down"), ValueError("400")]
)
@pytest.mark.parametrize("first", [True, False])
def test_a_provider_that_fails_leaves_it_to_the_ranker(error, first):
    llm = scripted(error) if first else scripted("nothing", error)
    choice = ChatDecider(llm).choose("2 plus 2", CARDS, PRIOR)
    assert (choice.names, choice.by) == (("weather",), "ranker")
    assert type(error).__name__ in choice.reason
    assert len(llm.calls) == (1 if first else 2)


def test_a_provider_that_hangs_is_left_behind():
    def reply(_messages, _tools, _choice):
        time.sleep(0.6)
        return call(agents=["a2"])

    start = time.perf_counter()
    choice = ChatDecider(ScriptedChat(reply=reply), timeout=0.05).choose("rain?", CARDS, PRIOR)
    assert choice.by == "ranker"
    assert "TimeoutError" in choice.reason
    assert time.perf_counter() - start < 0.5
    slow = ScriptedChat(reply=lambda *_: call(agents=["a2"]))
    assert ChatDecider(slow, timeout=30.0).choose("rain?", CARDS, PRIOR).by == "llm"


async def test_a_provider_that_hangs_is_left_behind_asynchronously():
    class Hanging(ScriptedChat):
        async def _agenerate(self, *args, **kwargs):
            await asyncio.sleep(60)

    choice = await ChatDecider(Hanging(), timeout=0.05).achoose("rain?", CARDS, PRIOR)
    assert choice.by == "ranker"
    assert "TimeoutError" in choice.reason


@pytest.mark.parametrize("case", [*MISBEHAVIOURS, *READ_AT_ONCE])
async def test_asynchronously_as_synchronously(case):
    answer = MISBEHAVIOURS[case] if case in MISBEHAVIOURS else READ_AT_ONCE[case][0]
    sync = ChatDecider(scripted(answer, answer)).choose("rain?", CARDS, PRIOR)
    assert await ChatDecider(scripted(answer, answer)).achoose("rain?", CARDS, PRIOR) == sync


def test_an_agent_switched_off_meanwhile_is_not_named():
    off = {"radar"}
    llm = scripted(call(agents=["a1"]), call(agents=["a1"]))
    decider = ChatDecider(llm, alive=lambda name: name not in off)
    choice = decider.choose("rain?", CARDS, [-1.0, -0.1, -2.0])
    assert choice.names == ("weather",)  # radar led the ranker's list, too
    assert choice.by == "ranker"
    both = ChatDecider(scripted(call(agents=["a1", "a2"])), alive=lambda name: name not in off)
    assert both.choose("rain?", CARDS, PRIOR, count=2) == FinalChoice(("weather",), "llm")


def test_an_ordered_list_of_agents():
    llm = scripted(call(agents=["a3", "a1", "a2"]))
    choice = ChatDecider(llm).choose("sum, then rain", CARDS, PRIOR, count=2)
    assert choice.names == ("calculator", "weather")
    assert "at most 2 ids" in llm.calls[0].messages[0].text


def test_the_schema_does_not_depend_on_the_agents():
    few, many = scripted(call(agents=["a1"])), scripted(call(agents=["a1"]))
    more = [AgentCard(f"agent{i}", "Does something") for i in range(40)]
    ChatDecider(few).choose("rain?", CARDS, PRIOR)
    ChatDecider(many).choose("rain?", more, np.linspace(0.0, -4.0, 40))
    assert few.calls[0].tool_tokens == many.calls[0].tool_tokens
    shown = many.calls[0].messages[1].text
    assert "agent15" in shown
    assert "agent16" not in shown


def test_the_prompt_shows_inputs_history_and_the_best_first():
    llm = scripted(call(agents=["a1"]))
    ChatDecider(llm).choose(Query("and tomorrow?", history=("rain in Oslo?",)), CARDS, [-3, -2, -1])
    lines = llm.calls[0].messages[1].text.splitlines()
    assert json.loads(lines[1]) == {"id": "a1", "name": "calculator", "does": "Works out sums"}
    assert json.loads(lines[3])["inputs"] == ["city"]
    assert lines[-2:] == ["Earlier: rain in Oslo?", "Request: and tomorrow?"]


def test_vllm_gets_its_choices():
    llm = scripted("a2")
    choice = ChatDecider(llm, method="choice").choose("rain?", CARDS, PRIOR)
    assert choice == FinalChoice(("radar",), "llm")
    wanted = {"structured_outputs": {"choice": ["a1", "a2", "a3"]}}
    assert llm.calls[0].options["extra_body"] == wanted


@pytest.mark.parametrize("method", ["schema", "words"])
def test_a_chat_model_without_tools_is_asked_in_words(method):
    llm = FakeListChatModel(responses=['{"agents": ["a2"]}'])
    choice = ChatDecider(llm, method=method).choose("rain?", CARDS, PRIOR)
    assert choice == FinalChoice(("radar",), "llm")


def test_probabilities_mix_trust_and_ranker():
    llm = scripted(call(agents=["a2"]))
    chances = ChatDecider(llm, trust=0.8).decide("rain?", CARDS, PRIOR)
    assert chances.sum() == pytest.approx(1.0)
    assert chances.argmax() == 1
    assert chances[1] > 0.8
    shares = np.exp(PRIOR) / np.exp(PRIOR).sum()
    ranked = ChatDecider(scripted(ValueError("down"))).decide("rain?", CARDS, PRIOR)
    assert ranked == pytest.approx(shares)


def test_one_agent_needs_no_call():
    llm = scripted()
    assert ChatDecider(llm).choose("rain?", CARDS[:1], [-0.1]).names == ("weather",)
    assert not llm.calls


@pytest.mark.parametrize(
    "options", [{"shortlist": 0}, {"shortlist": 251}, {"trust": 1.5}, {"method": "guess"}]
)
def test_options_out_of_bounds_are_refused(options):
    with pytest.raises(InvalidInputError, match="got"):
        ChatDecider(scripted(), **options)


def test_unfit_shortlists_are_refused():
    decider = ChatDecider(scripted())
    for cards, prior, count in [([], [], 1), (CARDS, [0.0], 1), (CARDS, PRIOR, 0)]:
        with pytest.raises(InvalidInputError, match="got"):
            decider.choose("rain?", cards, prior, count=count)
    with pytest.raises(InvalidInputError):
        decider.choose("rain?", CARDS, [0.0, np.nan, 0.0])


@pytest.mark.parametrize("wrong", [{"llm": "gpt-4o"}, {"timeout": -1.0}, {"timeout": 0}])
def test_what_would_let_the_ranker_decide_for_ever_is_refused(wrong):
    with pytest.raises(InvalidInputError):
        ChatDecider(**{"llm": ScriptedChat(), **wrong})
