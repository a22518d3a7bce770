"""RunnableRouter with real LangChain targets and a real router."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph

from langchain_moma import RunnableRouter, ToolArgumentsError
from langchain_moma.testing import ScriptedChat
from moma_core import (
    AgentCard,
    InvalidInputError,
    MoMARouter,
    NoTargetError,
    RoutingDecision,
    UnknownNameError,
)
from moma_core.errors import InvalidQueryError
from moma_core.health import Health

WEATHER = AgentCard(
    "weather",
    "Weather forecast for a place",
    examples=(
        "will it rain tomorrow?",
        "weather in Paris",
        "how hot will it be on Sunday",
        "forecast for the weekend",
        "is there snow in Oslo this week",
    ),
)
CALCULATOR = AgentCard(
    "calculator",
    "Work out an arithmetic expression",
    examples=(
        "what is 12 times 7?",
        "compute 3 + 4 * 2",
        "144 divided by 12",
        "square root of 81",
        "add 17 and 25",
    ),
)
CARDS = (WEATHER, CALCULATOR)
ASK_WEATHER = "will it rain in Paris tomorrow?"
ASK_SUM = "compute 5 + 4 * 3"


@tool
def weather(place: str) -> str:
    """Weather forecast for a place."""
    return f"sunny: {place}"


@tool
def calculate(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


class Recorder:
    """Passes calls on to a router and keeps what it was asked."""

    def __init__(self, router: MoMARouter) -> None:
        self.agents, self.llms, self.calls = router.agents, router.llms, []
        self._route = router.route

    def route(self, query, preference=None, state=None, **options) -> RoutingDecision:
        self.calls.append((query, preference, frozenset(options["exclude"])))
        return self._route(query, preference, state, **options)


class Rogue:
    """Answers with a name that nobody knows."""

    def __init__(self, router: MoMARouter) -> None:
        self.agents, self.llms = router.agents, router.llms

    def route(self, *args: Any, **kwargs: Any) -> RoutingDecision:
        return RoutingDecision("agent", ("ghost",), 1.0)


class Trace(BaseCallbackHandler):
    """Keeps the runs that start and the custom events."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, UUID | None, UUID]] = []
        self.events: list[tuple[str, Any, UUID]] = []

    def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id=None, **kwargs) -> None:
        self.runs.append((kwargs.get("name", ""), parent_run_id, run_id))

    def on_tool_start(self, serialized, input_str, *, run_id, parent_run_id=None, **kwargs) -> None:
        self.runs.append(("tool", parent_run_id, run_id))

    def on_custom_event(self, name, data, *, run_id, **kwargs) -> None:
        self.events.append((name, data, run_id))


@pytest.fixture(scope="module")
def built() -> tuple[MoMARouter, MoMARouter]:
    """With the packaged LLMs, and without: fitted once."""
    return MoMARouter.from_cards(CARDS), MoMARouter.from_cards(CARDS, llms=None)


@pytest.fixture
def router(built: tuple[MoMARouter, MoMARouter]) -> Iterator[MoMARouter]:
    yield built[0]
    enable_all(built[0])


@pytest.fixture
def agents_only(built: tuple[MoMARouter, MoMARouter]) -> Iterator[MoMARouter]:
    yield built[1]
    enable_all(built[1])


def enable_all(router: MoMARouter) -> None:
    for name in router.agents.names:
        router.agents.enable(name)


def chat(words: str = "an LLM answers you") -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage(words)] * 50))


def llm_targets(router: MoMARouter) -> dict[str, GenericFakeChatModel]:
    return {card.name: chat() for card in router.llms.cards}


@pytest.mark.parametrize(
    "value",
    [
        ASK_WEATHER,
        [("human", ASK_WEATHER)],
        [HumanMessage([{"type": "text", "text": ASK_WEATHER}])],
        {"messages": [{"role": "user", "content": ASK_WEATHER}]},
        {"input": ASK_WEATHER},
        {"query": ASK_WEATHER},
        ChatPromptTemplate.from_messages([("human", "{q}")]).invoke({"q": ASK_WEATHER}),
    ],
)
def test_a_tool_with_one_text_gets_the_words(agents_only: MoMARouter, value: Any) -> None:
    chain = RunnableRouter(router=agents_only, targets={"weather": weather})
    assert chain.invoke(value) == f"sunny: {ASK_WEATHER}"


def test_earlier_human_turns_are_the_history(agents_only: MoMARouter) -> None:
    recorder = Recorder(agents_only)
    chain = RunnableRouter(router=recorder, targets={"weather": weather})
    chain.invoke([("human", "hi"), ("ai", "hello"), ("human", ASK_WEATHER)])
    [(query, _, _)] = recorder.calls
    assert query.text == ASK_WEATHER
    assert query.history == ("hi",)


@pytest.mark.parametrize(
    "value", ["", "  ", [], [("ai", "hello")], {"other": 1}, 7, [HumanMessage("")], [object()]]
)
def test_input_without_human_text_is_a_typed_error(agents_only: MoMARouter, value: Any) -> None:
    chain = RunnableRouter(router=agents_only, targets={"weather": weather})
    with pytest.raises(InvalidQueryError):
        chain.invoke(value)


def test_chat_model_gets_messages_and_streams_its_tokens_once(router: MoMARouter) -> None:
    chain = RunnableRouter(router=router, targets=llm_targets(router))
    question = {"messages": [("human", "why do cats purr?")]}
    assert chain.invoke(question).text == "an LLM answers you"
    chunks = [chunk.text for chunk in chain.stream(question)]
    assert len(chunks) > 3
    assert "".join(chunks) == "an LLM answers you"


async def test_async_twins_do_the_same(router: MoMARouter) -> None:
    chain = RunnableRouter(router=router, targets=llm_targets(router))
    assert (await chain.ainvoke("why do cats purr?")).text == "an LLM answers you"
    chunks = [chunk.text async for chunk in chain.astream("why do cats purr?")]
    assert "".join(chunks) == "an LLM answers you"
    assert len(chunks) > 3


def test_graph_target_gets_messages_even_from_text(agents_only: MoMARouter) -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("echo", lambda state: {"messages": f"echo {state['messages'][-1].text}"})
    graph = builder.add_edge(START, "echo").compile()
    chain = RunnableRouter(router=agents_only, targets={"weather": graph})
    assert chain.invoke(ASK_WEATHER)["messages"][-1].text == f"echo {ASK_WEATHER}"


def test_other_targets_get_the_input_as_it_came(agents_only: MoMARouter) -> None:
    chain = RunnableRouter(router=agents_only, targets={"weather": lambda value: value["place"]})
    assert chain.invoke({"input": ASK_WEATHER, "place": "Oslo"}) == "Oslo"


def test_tool_with_several_arguments_says_what_to_do(agents_only: MoMARouter) -> None:
    with pytest.raises(ToolArgumentsError, match=r"arguments=chat_model.*arguments=\{'calculator'"):
        RunnableRouter(router=agents_only, targets={"calculator": calculate})
    read = {"calculator": lambda text: {"left": 1, "right": len(text)}}
    chain = RunnableRouter(
        router=agents_only, targets={"calculator": calculate.with_retry()}, arguments=read
    )
    assert chain.invoke(ASK_SUM) == 1 + len(ASK_SUM)
    chain = RunnableRouter(
        router=agents_only, targets={"calculator": calculate}, arguments={"calculator": str.split}
    )
    with pytest.raises(ToolArgumentsError, match="must return a dict"):
        chain.invoke(ASK_SUM)


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "in_order"])
def test_an_llm_fills_in_arguments_from_the_conversation(agents_only: MoMARouter, way: str) -> None:
    def fill(messages: Any, tools: Any, choice: Any) -> AIMessage:
        numbers = [int(n) for m in messages for n in re.findall(r"\d+", m.text)]
        call = {"name": choice, "args": {"left": numbers[0], "right": numbers[-1]}, "id": "1"}
        return AIMessage("", tool_calls=[call])

    llm = ScriptedChat(reply=fill)
    several = "in_order" if way == "in_order" else "first"
    chain = RunnableRouter(
        router=agents_only,
        targets={"calculator": calculate.with_retry(), "weather": weather},
        arguments=llm,
        several=several,
    )
    asked = [("human", "we have 7 apples"), ("ai", "fine"), ("human", "what is that plus 35?")]
    if way == "ainvoke":
        assert asyncio.run(chain.ainvoke(asked)) == 42
    elif way == "stream":
        assert list(chain.stream(asked)) == [42]
    else:
        assert chain.invoke(asked) == ({"calculator": 42} if way == "in_order" else 42)
    assert [call.tools for call in llm.calls] == [("calculate",)]
    if several == "first":
        assert chain.invoke(ASK_WEATHER) == weather.invoke(ASK_WEATHER)  # one text needs no LLM
    assert len(llm.calls) == 1
    by_name = RunnableRouter(
        router=agents_only, targets={"calculator": calculate}, arguments={"calculator": llm}
    )
    assert by_name.invoke(asked) == 42


def test_an_llm_that_cannot_fill_in_arguments_says_so(agents_only: MoMARouter) -> None:
    targets = {"calculator": calculate}
    with pytest.raises(InvalidInputError, match="cannot call tools"):
        RunnableRouter(
            router=agents_only, targets=targets, arguments=FakeListChatModel(responses=["hi"])
        )
    mute = ScriptedChat(reply=lambda *_: "I would rather not")
    chain = RunnableRouter(router=agents_only, targets=targets, arguments=mute)
    with pytest.raises(ToolArgumentsError, match=r"'calculate' did not call it; it said.*rather"):
        chain.invoke(ASK_SUM)


def test_config_and_keyword_arguments_reach_the_target(agents_only: MoMARouter) -> None:
    seen: dict[str, Any] = {}

    def target(value: str, config: RunnableConfig, **kwargs: Any) -> str:
        seen.update(config["metadata"], tags=config["tags"], **kwargs)
        return value

    chain = RunnableRouter(router=agents_only, targets={"weather": RunnableLambda(target)})
    chain.invoke(ASK_WEATHER, {"metadata": {"user": "ann"}, "tags": ["x"]}, style="short")
    assert seen["user"] == "ann"
    assert seen["style"] == "short"
    assert "x" in seen["tags"]


def check_trace(trace: Trace) -> None:
    (name, parent, own), *children = trace.runs
    assert (name, parent) == ("RunnableRouter", None)
    assert [run[:2] for run in children] == [("tool", own)]
    [(event, data, run_id)] = trace.events
    assert (event, run_id) == ("moma.route", own)
    assert data["targets"] == ["weather"]


async def test_one_run_of_its_own_and_one_event(agents_only: MoMARouter) -> None:
    chain = RunnableRouter(router=agents_only, targets={"weather": weather})
    for call in (chain.invoke, lambda *a: list(chain.stream(*a))):
        trace = Trace()
        call(ASK_WEATHER, {"callbacks": [trace]})
        check_trace(trace)
    trace = Trace()
    await chain.ainvoke(ASK_WEATHER, {"callbacks": [trace]})
    check_trace(trace)
    trace = Trace()
    _ = [chunk async for chunk in chain.astream(ASK_WEATHER, {"callbacks": [trace]})]
    check_trace(trace)


async def test_event_shows_in_astream_events(agents_only: MoMARouter) -> None:
    chain = RunnableRouter(router=agents_only, targets={"weather": weather})
    events = [event async for event in chain.astream_events(ASK_WEATHER, version="v2")]
    assert [e["name"] for e in events if e["event"] == "on_custom_event"] == ["moma.route"]


def test_batch_honours_return_exceptions(agents_only: MoMARouter) -> None:
    chain = RunnableRouter(router=agents_only, targets={"weather": weather})
    first, second, third = chain.batch([ASK_WEATHER, "", ASK_WEATHER], return_exceptions=True)
    assert first == third == f"sunny: {ASK_WEATHER}"
    assert isinstance(second, InvalidQueryError)
    with pytest.raises(InvalidQueryError):
        chain.batch([ASK_WEATHER, ""])


async def test_many_calls_share_one_router(agents_only: MoMARouter) -> None:
    chain = RunnableRouter(
        router=agents_only, targets={"weather": weather, "calculator": lambda text: "sum"}
    )
    answers = await asyncio.gather(
        *(chain.ainvoke(ASK_SUM if i % 2 else ASK_WEATHER) for i in range(30))
    )
    assert answers == [f"sunny: {ASK_WEATHER}", "sum"] * 15


def test_preference_for_one_call(router: MoMARouter) -> None:
    recorder = Recorder(router)
    chain = RunnableRouter(router=recorder, targets=llm_targets(router), preference="performance")
    question = "why do cats purr?"
    chain.invoke(question)
    chain.invoke(question, {"configurable": {"moma_preference": "cost"}})
    chain.with_config(configurable={"moma_preference": "auto"}).invoke(question)
    field = chain.configurable_fields(preference=ConfigurableField(id="purse"))
    field.invoke(question, {"configurable": {"purse": "cost"}})
    assert [call[1] for call in recorder.calls] == ["performance", "cost", "auto", "cost"]
    assert "moma_preference" in {spec.id for spec in chain.config_specs}


def test_names_without_a_target_are_never_chosen(router: MoMARouter) -> None:
    recorder = Recorder(router)
    chain = RunnableRouter(router=recorder, targets={"calculator": len}, default=str.upper)
    assert chain.invoke(ASK_WEATHER) == ASK_WEATHER.upper()
    [(_, _, excluded)] = recorder.calls
    assert excluded == {"weather", *llm_targets(router)}


def test_default_takes_what_nothing_fits(agents_only: MoMARouter) -> None:
    trace = Trace()
    chain = RunnableRouter(router=agents_only, targets={"weather": weather}, default=len)
    agents_only.agents.disable("weather")
    assert chain.invoke(ASK_WEATHER, {"callbacks": [trace]}) == len(ASK_WEATHER)
    assert trace.events[0][1]["kind"] == "default"
    bare = RunnableRouter(router=agents_only, targets={"weather": weather})
    with pytest.raises(NoTargetError):
        bare.invoke(ASK_WEATHER)


def test_a_disabled_agent_is_avoided_at_once(router: MoMARouter) -> None:
    targets = {"weather": weather, **llm_targets(router)}
    chain = RunnableRouter(router=router, targets=targets)
    assert chain.invoke(ASK_WEATHER) == f"sunny: {ASK_WEATHER}"
    router.agents.disable("weather")
    assert chain.invoke(ASK_WEATHER).text == "an LLM answers you"
    router.agents.enable("weather")
    assert chain.invoke(ASK_WEATHER) == f"sunny: {ASK_WEATHER}"


def test_names_that_nobody_registered(agents_only: MoMARouter) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'weather'"):
        RunnableRouter(router=agents_only, targets={"wether": weather})
    chain = RunnableRouter(router=Rogue(agents_only), targets={"weather": weather})
    with pytest.raises(UnknownNameError, match="ghost"):
        chain.invoke(ASK_WEATHER)


def test_agents_may_leave_while_the_program_runs(agents_only: MoMARouter) -> None:
    agents_only.agents.add(AgentCard("jokes", "Tells a joke about anything"))
    chain = RunnableRouter(router=agents_only, targets={"weather": weather, "jokes": len})
    field = chain.configurable_fields(preference=ConfigurableField(id="purse"))
    agents_only.agents.remove("jokes")
    answer = field.invoke(ASK_WEATHER, {"configurable": {"purse": "cost"}})
    assert answer == f"sunny: {ASK_WEATHER}"


def test_it_draws_itself_and_composes(agents_only: MoMARouter) -> None:
    chain = RunnableRouter(router=agents_only, targets={"weather": weather}, default=len)
    names = {node.name for node in chain.get_graph().nodes.values()}
    assert {"RunnableRouter", "weather", "default"} <= names
    assert (chain | RunnableLambda(str.upper)).invoke(ASK_WEATHER).startswith("SUNNY")


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ({}, "at least one"),
        (["weather"], "under each name"),
        ({"weather": 5}, "target 'weather' must be a Runnable"),
        ({"weather": None}, "lambda text"),
    ],
)
def test_what_cannot_be_run_is_refused_when_built(
    agents_only: MoMARouter, targets: Any, words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        RunnableRouter(router=agents_only, targets=targets)
    with pytest.raises(InvalidInputError, match=r"MoMARouter\.from_cards"):
        RunnableRouter(router=None, targets=targets)


def test_exclusions_are_names(agents_only: MoMARouter) -> None:
    chain = RunnableRouter(router=agents_only, targets={"weather": weather}, default=len)
    for one_name in ("weather", ["weather"]):
        excluded = {"configurable": {"moma_exclude": one_name}}
        assert chain.invoke(ASK_WEATHER, excluded) == len(ASK_WEATHER)
    part_of_a_name = {"configurable": {"moma_exclude": "weather-v2"}}
    assert chain.invoke(ASK_WEATHER, part_of_a_name) == chain.invoke(ASK_WEATHER)
    with pytest.raises(InvalidInputError, match="moma_exclude takes names"):
        chain.invoke(ASK_WEATHER, {"configurable": {"moma_exclude": 5}})


ASK_LLM = "Why do cats purr?"


def scripted(router: MoMARouter) -> tuple[dict[str, ScriptedChat], list[str]]:
    assert router.llms is not None
    llms = {name: ScriptedChat(name=name, reply=lambda *_: "ok") for name in router.llms.names}
    return llms, [c.name for c in router.choose_llm(ASK_LLM).candidates]


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
@pytest.mark.parametrize("several", ["first", "in_order", "parallel"])
async def test_an_llm_that_fails_is_followed_by_the_next_best(
    router: MoMARouter, way: str, several: Any
) -> None:
    llms, (first, second, *_) = scripted(router)
    llms[first].failures = 9
    chain = RunnableRouter(router=router, targets=llms, several=several, health=Health(failures=2))
    for _ in range(3):
        if way == "invoke":
            answer = chain.invoke(ASK_LLM)
        elif way == "ainvoke":
            answer = await chain.ainvoke(ASK_LLM)
        elif way == "stream":
            answer = added(list(chain.stream(ASK_LLM)))
        else:
            answer = added([chunk async for chunk in chain.astream(ASK_LLM)])
        if several != "first":
            [answer] = answer.values()
        assert answer.text == f"{second} heard: ok"
        assert answer.response_metadata["moma_llm"] == second
    assert len(llms[first].calls) == 2  # then its circuit is open
    assert chain.health.unhealthy() == {first}
    assert chain.telemetry.counts()["fallbacks"] == {first: 2}


def added(chunks: list[Any]) -> Any:
    first, *more = chunks
    for chunk in more:
        first = first + chunk
    return first


def test_what_is_the_callers_fault_comes_back_and_fallback_on_says_otherwise(
    router: MoMARouter,
) -> None:
    class BadRequestError(Exception):
        status_code = 400

    def bad(*_: Any) -> str:
        raise BadRequestError("content policy")

    llms, (first, second, *_) = scripted(router)
    llms[first].reply = bad
    chain = RunnableRouter(router=router, targets=llms)
    with pytest.raises(BadRequestError):
        chain.invoke(ASK_LLM)
    assert not llms[second].calls
    assert not chain.health.unhealthy()
    anyway = RunnableRouter(router=router, targets=llms, fallback_on=BadRequestError)
    assert anyway.invoke(ASK_LLM).text == f"{second} heard: ok"
    with pytest.raises(InvalidInputError, match="fallback_on"):
        RunnableRouter(router=router, targets=llms, fallback_on="BadRequestError")
    nobody = {"configurable": {"moma_exclude": [name for name in llms if name != first]}}
    with pytest.raises(BadRequestError):
        anyway.invoke(ASK_LLM, nobody)


def test_windows_and_foreign_thoughts_of_llm_targets(router: MoMARouter) -> None:
    llms, (first, *_) = scripted(router)
    llms[first].profile = {"max_input_tokens": 500}
    chain = RunnableRouter(router=router, targets=llms)
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    said = AIMessage([thought, {"type": "text", "text": "yes?"}])
    asked = [HumanMessage("word " * 4_000), said, HumanMessage(ASK_LLM)]
    who = chain.invoke(asked).response_metadata["moma_llm"]
    assert who != first
    assert llms[who].calls[0].messages[1].content == [{"type": "text", "text": "yes?"}]


def test_a_turn_without_words_goes_to_an_llm_or_by_default(
    router: MoMARouter, agents_only: MoMARouter
) -> None:
    image = [{"type": "image", "url": "https://example.org/cat.png"}]
    asked = [("human", ASK_WEATHER), ("ai", "sunny"), ("human", image)]
    llms, _ = scripted(router)
    chain = RunnableRouter(router=router, targets={"weather": weather, **llms})
    assert chain.invoke(asked).text.endswith("heard: ok")
    shown = RunnableRouter(
        router=agents_only, targets={"weather": weather}, default=lambda value: "a cat"
    )
    assert shown.invoke(asked) == shown.invoke({"messages": asked}) == "a cat"
    nobody = RunnableRouter(
        router=router, targets={"weather": weather}, default=lambda value: "a cat"
    )
    assert nobody.invoke(asked) == "a cat"
    with pytest.raises(InvalidQueryError, match="default=chat_model"):
        RunnableRouter(router=agents_only, targets={"weather": weather}).invoke(asked)
