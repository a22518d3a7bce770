"""Slips of the pen: what is refused when it is given, in words that say what to write."""

import json
import re

import pytest
from langchain_core.messages import HumanMessage

from langchain_moma import (
    ChatMoMA,
    MoMAMiddleware,
    RouteTool,
    RunnableRouter,
    as_edge,
    as_node,
    create_moma_agent,
)
from langchain_moma.testing import ScriptedChat
from moma_core import (
    AgentCard,
    ArtifactError,
    InvalidInputError,
    MoMARouter,
    NoTargetError,
    RoutingDecision,
    TeamPlan,
    UnknownNameError,
)
from moma_core.decision import TeamMember, Trial
from moma_core.decoding.decider import FusionWeights
from moma_core.errors import InvalidCardError, InvalidPreferenceError, InvalidQueryError
from moma_core.testing import HashEncoder

DECISION = RoutingDecision("agent", ("weather",), 0.9).to_dict()
PLAN = TeamPlan("io", (TeamMember("solver", "small"),)).to_dict()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"teams": "x"}, r"TeamRouter\.load"),
        ({"llms": "foo"}, r"LLMRouter\.load"),
        ({"llms": 3}, r"LLMRouter\.load"),
        ({"decider": "gpt-4o"}, "FusedDecider"),
        ({"encoder": "bert"}, "there are.*multilingual"),
        ({"encoder": 3}, "without 'encode'"),
        ({"agents": AgentCard("weather", "Forecast")}, r"from_cards\(\[AgentCard"),
        ({"agents": "weather"}, r"from_cards\(\[AgentCard"),
    ],
)
def test_a_router_refuses_parts_that_it_could_not_ask(given, says):
    with pytest.raises(InvalidInputError, match=says):
        MoMARouter.from_cards(**{"encoder": HashEncoder(), "llms": None, **given})


def test_names_come_one_by_one(hashing):
    router = MoMARouter.from_cards([AgentCard("a", "b")], encoder=hashing, llms=None)
    with pytest.raises(InvalidInputError, match="leave it out"):
        router.route("hello", exclude=None)
    with pytest.raises(InvalidInputError, match=r"unpack lists with \*"):
        router.agents.remove(["a"])
    assert router.agents.names == ("a",)
    with pytest.raises(InvalidInputError, match="is a pool of LLMs"):
        MoMARouter(hashing, router.agent_router, "foo")


@pytest.mark.parametrize("missing", ["kind", "targets", "probability", "state", "cost"])
def test_a_decisions_dict_without_a_key(missing):
    junk = {key: value for key, value in DECISION.items() if key != missing}
    with pytest.raises(InvalidInputError, match=rf"RoutingDecision lacks '{missing}'.*to_dict"):
        RoutingDecision.from_dict(junk)


@pytest.mark.parametrize("junk", [[], None, "x", {**DECISION, "candidates": [3]}])
def test_a_decisions_dict_of_other_types(junk):
    with pytest.raises(InvalidInputError, match="RoutingDecision does not hold together"):
        RoutingDecision.from_dict(junk)


def test_a_plans_dict():
    for missing in ("members", "mode"):
        junk = {key: value for key, value in PLAN.items() if key != missing}
        with pytest.raises(InvalidInputError, match=f"TeamPlan lacks '{missing}'"):
            TeamPlan.from_dict(junk)
    with pytest.raises(InvalidInputError, match="'agents'"):
        TeamPlan.from_dict({**PLAN, "agents": 1})
    with pytest.raises(InvalidInputError, match="TeamPlan lacks 'mode'"):
        RoutingDecision.from_dict({**DECISION, "team": {"members": []}})
    with pytest.raises(InvalidInputError, match="Trial lacks 'safe'"):
        Trial.from_dict({})


def test_half_a_character_is_called_that():
    with pytest.raises(InvalidQueryError, match=r"half a character, '\\ud83c' at position 9"):
        small_router().route("will it r\ud83cain?")
    repaired = "\ud83c\udf27".encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert small_router().route(f"rain {repaired}").target == "weather"


def small_router():
    card = AgentCard("weather", "rain forecast", examples=("rain",))
    return MoMARouter.from_cards([card, AgentCard("b", "c")], encoder=HashEncoder(), llms=None)


def test_weights_that_are_not_all_there(tmp_path):
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"format": 1}))
    with pytest.raises(ArtifactError, match="lacks choice, evidence, gain, n_cases, noisy_channel"):
        FusionWeights.load(path)


@pytest.fixture(scope="module")
def with_llms():
    cards = [
        AgentCard("clock", "Tells the time", examples=("what time is it?", "how late is it?")),
        AgentCard("weather", "Weather forecast", examples=("will it rain?", "is it warm?")),
    ]
    return MoMARouter.from_cards(cards)


@pytest.mark.parametrize(
    "build",
    [
        lambda router, typo: MoMAMiddleware(router, preference=typo),
        lambda router, typo: RunnableRouter(router=router, targets={"clock": str}, preference=typo),
        lambda router, typo: as_node(router, ["clock"], preference=typo),
        lambda router, typo: as_edge(router, ["clock"], preference=typo),
        lambda router, typo: RouteTool(router=router, preference=typo),
        lambda router, typo: ChatMoMA(
            router=router, llms={router.llms.names[0]: ScriptedChat()}, preference=typo
        ),
    ],
    ids=["middleware", "runnable", "node", "edge", "tool", "chat"],
)
def test_a_preference_is_checked_when_it_is_given(with_llms, build):
    with pytest.raises(InvalidPreferenceError, match="unknown preference 'typo'"):
        build(with_llms, "typo")
    assert build(with_llms, "cost:0.01")


def test_targets_without_an_llm_are_said_to_have_none(with_llms):
    ask, no_clock = "what time is it?", {"configurable": {"moma_exclude": ["clock"]}}
    chain = RunnableRouter(router=with_llms, targets={"clock": str})
    with pytest.raises(
        NoTargetError, match=r"\['clock'\] holds no LLM.*chat_model.*default="
    ) as caught:
        chain.invoke(ask, no_clock)
    [typed] = re.findall(r"targets={('[^']+'): chat_model}", str(caught.value))
    RunnableRouter(router=with_llms, targets={"clock": str, typed.strip("'"): ScriptedChat()})
    node = as_node(with_llms, ["clock"])
    with pytest.raises(NoTargetError, match=r"\['clock'\] holds no LLM.*llm_node\(llms\)"):
        node({"messages": [("human", ask)]}, no_clock)
    one = {with_llms.llms.names[0]: ScriptedChat()}
    chain = RunnableRouter(router=with_llms, targets={"clock": str, **one})
    with pytest.raises(NoTargetError) as caught:  # excluded by the caller: another reason
        chain.invoke(ask, {"configurable": {"moma_exclude": ["clock", *one]}})
    assert "holds no LLM" not in str(caught.value)
    bare = MoMARouter.from_cards([AgentCard("clock", "Tells the time")], llms=None)
    with pytest.raises(NoTargetError, match="this router has no LLMs"):
        RunnableRouter(router=bare, targets={"clock": str}).invoke(ask, no_clock)


def test_a_call_for_an_llm_that_is_not_there(with_llms):
    names = ("gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06")
    chat = ChatMoMA(router=with_llms, llms={name: ScriptedChat(name=name) for name in names})
    typo = "gpt-4o-mni-2024-07-18"
    with pytest.raises(UnknownNameError, match=f"{typo}.*Did you mean '{names[0]}'"):
        chat.invoke("hello", model=typo)
    with pytest.raises(UnknownNameError, match="names none of the LLMs here"):
        list(chat.stream("hello", model=[names[0]]))
    with pytest.raises(UnknownNameError, match="names none of the LLMs here"):
        chat.generate([[HumanMessage("hello")]], model="o3")
    for name in names:
        assert chat.invoke("hello", model=name).response_metadata["moma_llm"] == name
    assert chat.invoke("hello", model=None).response_metadata["moma_llm"] in names


def test_an_llm_that_the_router_does_not_score(with_llms):
    def clock(place: str) -> str:
        "Tell the time in a place."
        return place

    says = r"moma llms add 'gpt-5' --input USD --output USD --quality SCORE --router pool"
    with pytest.raises(UnknownNameError, match=says):
        ChatMoMA(router=with_llms, llms={"gpt-5": ScriptedChat()})
    # Without a pool they are known by cards, or by litellm's prices where that is installed.
    with pytest.raises(InvalidCardError, match=r"LLMCard\('gpt-5'"):
        create_moma_agent({"gpt-5": ScriptedChat()}, [clock])
    with pytest.raises(InvalidCardError, match=r"LLMCard\('gpt-5'"):
        ChatMoMA(router=small_router(), llms={"gpt-5": ScriptedChat()})


IMAGE = HumanMessage([{"type": "image", "url": "https://example.org/cat.png"}])


def test_a_turn_without_words_goes_past_the_agents(with_llms):
    turn, only = {"messages": [("human", "will it rain?"), ("ai", "no"), IMAGE]}, small_router()
    gone = as_node(with_llms, ["clock", "weather"], llm="llm", default="answer")(turn, {})
    assert gone.goto == "llm"
    assert gone.update["moma"]["decision"]["kind"] == "llm"
    assert as_node(only, ["weather"], default="answer")(turn, {}).goto == "answer"
    assert as_edge(only, ["weather"], default="answer")(turn, {}) == "answer"
    with pytest.raises(InvalidQueryError, match=r"no words to route by.*default='sorry'"):
        as_node(only, ["weather"])(turn, {})


def test_no_messages_are_called_that(with_llms):
    node = as_node(with_llms, ["clock"], default="answer")
    with pytest.raises(InvalidQueryError, match="'messages' in the input holds nothing"):
        node({"messages": []}, {})
    with pytest.raises(InvalidQueryError, match=r"expected a dict with.*\['text'\]"):
        node({"text": "hello"}, {})
