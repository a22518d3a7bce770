"""MoMAMiddleware and create_moma_agent in real agents, with scripted chat models."""

from __future__ import annotations

import asyncio
import json
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelRequest,
    ModelRetryMiddleware,
    SummarizationMiddleware,
    TodoListMiddleware,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel

from langchain_moma import (
    MoMAMiddleware,
    Synced,
    Telemetry,
    agent_cards_from_tools,
    create_moma_agent,
    decision_in,
)
from langchain_moma.testing import ScriptedChat
from moma_core import InvalidInputError, LLMCard, MoMARouter, Query, UnknownNameError
from moma_core.errors import DuplicateNameError

SMALL, LARGE = "gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06"
ABOUT = {
    "weather": "Weather forecast for a place",
    "calculator": "Work out an arithmetic expression",
    "translator": "Translate text into another language",
    "jokes": "Tell a joke about anything",
    "stocks": "Price of a share on the stock exchange",
    "recipes": "Cooking recipes for a dish",
    "flights": "Find flights between two airports",
    "news": "Latest news headlines",
}
RAN: list[str] = []


def stub(name: str, about: str) -> BaseTool:
    def run(text: str) -> str:
        RAN.append(name)
        return f"{name} did it"

    return StructuredTool.from_function(run, name=name, description=about)


TOOLS = [stub(name, about) for name, about in ABOUT.items()]
EXTRA = stub("audit", "Keep a record")
ASK = "will it rain in Paris tomorrow? ask the weather"


@pytest.fixture(scope="module")
def built() -> MoMARouter:
    return MoMARouter.from_cards(agent_cards_from_tools(TOOLS))


@pytest.fixture
def router(built: MoMARouter) -> MoMARouter:
    built.agents.enable(*built.agents.names)
    RAN.clear()
    return built


def calls(name: str) -> Any:
    """Name a tool first, then speak."""

    def reply(messages: Any, tools: Any, choice: Any) -> AIMessage | str:
        if isinstance(messages[-1], HumanMessage):
            call = {"name": name, "args": {"text": "x"}, "id": "1", "type": "tool_call"}
            return AIMessage("", tool_calls=[call])
        return str(messages[-1].text)

    return reply


def ask(agent: Any, text: str = ASK, config: Any = None) -> dict[str, Any]:
    return agent.invoke({"messages": [("human", text)]}, config)


def test_few_tools_are_bound_and_the_decision_is_plain_data(router: MoMARouter) -> None:
    llm, telemetry = ScriptedChat(), Telemetry()
    moma = MoMAMiddleware(router, max_tools=2, telemetry=telemetry)
    end = ask(create_agent(llm, TOOLS, middleware=[moma]))
    assert RAN == ["weather"]
    assert [len(call.tools) for call in llm.calls] == [2, 2]
    turn = end["moma_turn"]
    assert turn["tools"][0] == "weather"
    assert decision_in(turn).target == "weather"
    assert json.loads(json.dumps(turn)) == turn
    assert telemetry.counts()["routes"] == 1


async def test_async_agents_too(router: MoMARouter) -> None:
    agent = create_agent(ScriptedChat(), TOOLS, middleware=[MoMAMiddleware(router, max_tools=2)])
    texts = [f"{text}: ask the {name}" for name, text in ABOUT.items()] * 7
    ends = await asyncio.gather(
        *(agent.ainvoke({"messages": [("human", text)]}) for text in texts[:50])
    )
    assert [end["moma_turn"]["tools"][0] for end in ends] == (list(ABOUT) * 7)[:50]
    assert all(end["messages"][-1].text.endswith("did it") for end in ends)


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_masked_tool_is_never_executed(router: MoMARouter, mode: str) -> None:
    moma = MoMAMiddleware(router, max_tools=1)
    agent = create_agent(ScriptedChat(reply=calls("stocks")), TOOLS, middleware=[moma])
    value = {"messages": [("human", ASK)]}
    end = agent.invoke(value) if mode == "sync" else await agent.ainvoke(value)
    assert RAN == []
    [refusal] = [m for m in end["messages"] if isinstance(m, ToolMessage)]
    assert refusal.status == "error"
    assert "weather" in refusal.text
    assert moma.telemetry.counts()["refused"] == {"stocks": 1}


def test_a_thousand_adversarial_calls(router: MoMARouter) -> None:
    moma, draw = MoMAMiddleware(router, max_tools=2), random.Random(0)
    wanted: list[str] = []

    def reply(messages: Any, tools: Any, choice: Any) -> AIMessage | str:
        if not isinstance(messages[-1], HumanMessage):
            return "done"
        bound = {tool["function"]["name"] for tool in tools}
        masked = [name for name in ABOUT if name not in bound]
        names = [draw.choice(masked) for _ in range(20)]
        names = [draw.choice([n, n, n.upper(), f" {n}", f"{n}\u0301"]) for n in names]
        wanted.extend(names)
        made = [
            {"name": n, "args": {"text": "x"}, "id": str(i), "type": "tool_call"}
            for i, n in enumerate(names)
        ]
        return AIMessage("", tool_calls=made)

    agent = create_agent(ScriptedChat(reply=reply), TOOLS, middleware=[moma])
    for name, text in [*ABOUT.items()] * 7:
        ask(agent, f"{text} {name}")
    assert len(wanted) >= 1_000
    assert RAN == []


def test_an_invented_tool_gets_the_frameworks_answer(router: MoMARouter) -> None:
    llm = ScriptedChat(reply=calls("no_such_tool"))
    end = ask(create_agent(llm, TOOLS, middleware=[MoMAMiddleware(router)]))
    [answer] = [m for m in end["messages"] if isinstance(m, ToolMessage)]
    assert "not a valid tool" in answer.text


def test_unknown_provider_and_chosen_tools_are_always_bound(router: MoMARouter) -> None:
    llm = ScriptedChat()
    search = {"type": "web_search_20250305", "name": "web_search"}
    moma = MoMAMiddleware(router, max_tools=1, always=["news"])
    ask(create_agent(llm, [*TOOLS, EXTRA, search], middleware=[moma]))
    assert set(llm.calls[0].tools) == {"weather", "news", "audit"}
    assert llm.calls[0].tool_tokens > 0


def test_a_disabled_tool_is_masked_at_once_even_within_a_turn(router: MoMARouter) -> None:
    def reply(messages: Any, tools: Any, choice: Any) -> AIMessage | str:
        router.agents.disable("weather")
        return calls("weather")(messages, tools, choice)

    agent = create_agent(
        ScriptedChat(reply=reply), TOOLS, middleware=[MoMAMiddleware(router, max_tools=2)]
    )
    assert "not available" in ask(agent)["messages"][-1].text
    assert RAN == []
    router.agents.disable(*ABOUT)
    end = ask(agent)
    assert end["moma_turn"]["tools"] == []
    assert end["moma_turn"]["decision"] is None


def test_tools_that_answered_stay_for_the_next_turn(router: MoMARouter) -> None:
    llm = ScriptedChat()
    agent = create_agent(
        llm, TOOLS, middleware=[MoMAMiddleware(router, max_tools=1)], checkpointer=InMemorySaver()
    )
    thread = {"configurable": {"thread_id": "1"}}
    ask(agent, config=thread)
    end = ask(agent, "tell me jokes about cats", thread)
    assert end["moma_turn"]["tools"] == ["jokes", "weather"]
    assert ask(agent, "tell me jokes about dogs", thread)["moma_turn"]["tools"] == ["jokes"]


def test_a_refused_tool_is_not_let_in_by_asking_again(router: MoMARouter) -> None:
    moma = MoMAMiddleware(router, max_tools=1)
    agent = create_agent(
        ScriptedChat(reply=calls("stocks")), TOOLS, middleware=[moma], checkpointer=InMemorySaver()
    )
    thread = {"configurable": {"thread_id": "1"}}
    ask(agent, config=thread)
    assert "stocks" not in ask(agent, config=thread)["moma_turn"]["tools"]
    assert RAN == []


def test_the_state_survives_a_new_process(router: MoMARouter) -> None:
    saver, thread = InMemorySaver(), {"configurable": {"thread_id": "1"}}

    def agent() -> Any:
        moma = MoMAMiddleware(router, max_tools=2)
        return create_agent(
            ScriptedChat(),
            TOOLS,
            middleware=[moma],
            checkpointer=saver,
            interrupt_before=["tools"],
        )

    first = ask(agent(), config=thread)
    end = agent().invoke(None, thread)
    assert end["moma_turn"] == first["moma_turn"]
    assert RAN == ["weather"]


def test_llm_and_tools_together(router: MoMARouter) -> None:
    llms = {SMALL: ScriptedChat(name=SMALL), LARGE: ScriptedChat(name=LARGE, failures=1)}
    moma = MoMAMiddleware(router, max_tools=2, llms=llms, preference="performance")
    agent = create_agent(ScriptedChat(name="own"), TOOLS, middleware=[moma])
    end = ask(agent)
    said = [m for m in end["messages"] if isinstance(m, AIMessage)]
    assert [m.response_metadata["moma_llm"] for m in said] == [SMALL, SMALL]
    end = ask(agent)
    assert end["messages"][-1].response_metadata["moma_llm"] == LARGE
    cheap = {"configurable": {"moma_preference": "cost:0"}}
    assert ask(agent, config=cheap)["messages"][-1].response_metadata["moma_llm"] == SMALL


async def test_llms_that_cannot_call_tools_are_left_out(router: MoMARouter) -> None:
    class Out(BaseModel):
        """What came out."""

        text: str

    unable = ScriptedChat(name=LARGE, profile={"tool_calling": False}, failures=9)
    llms = {SMALL: ScriptedChat(name=SMALL, failures=1), LARGE: unable}
    moma = MoMAMiddleware(router, llms=llms, preference="performance")
    agent = create_agent(llms[SMALL], TOOLS, middleware=[moma], response_format=ToolStrategy(Out))
    with pytest.raises(TimeoutError):
        await agent.ainvoke({"messages": [("human", ASK)]})
    assert not unable.calls


def test_other_middleware_sees_the_bound_tools(router: MoMARouter) -> None:
    seen: list[int] = []

    class Peek(AgentMiddleware):
        def wrap_model_call(self, request: ModelRequest, handler: Any) -> Any:
            seen.append(len(request.tools))
            return handler(request)

    ask(create_moma_agent(ScriptedChat(), TOOLS, router=router, max_tools=3, middleware=[Peek()]))
    assert seen == [3, 3]


def test_streaming_gives_each_token_once(router: MoMARouter) -> None:
    llms = {SMALL: ScriptedChat(name=SMALL)}
    agent = create_moma_agent(llms, TOOLS, router=router, max_tools=2)
    parts = agent.stream({"messages": [("human", ASK)]}, stream_mode="messages")
    text = "".join(str(part.text) for part, _ in parts if isinstance(part, AIMessage))
    assert text == f"{SMALL} heard: weather did it"


def test_prebuilt_builds_its_own_router() -> None:
    agent = create_moma_agent(
        {SMALL: ScriptedChat(name=SMALL)},
        TOOLS,
        max_tools=2,
        examples={"weather": ["is it sunny?"]},
        system_prompt="Be brief.",
    )
    assert ask(agent, "is it sunny?")["moma_turn"]["tools"][0] == "weather"
    with pytest.raises(InvalidInputError, match="agent_cards_from_tools"):
        create_moma_agent(ScriptedChat(), TOOLS, router=MoMARouter.from_cards(), examples={})


def test_what_cannot_work_is_refused_when_built(router: MoMARouter) -> None:
    with pytest.raises(InvalidInputError, match="max_tools"):
        MoMAMiddleware(router, max_tools=0)
    with pytest.raises(InvalidInputError, match="max_tools=8"):
        MoMAMiddleware(router, max_tools="8")
    with pytest.raises(InvalidInputError, match="always takes names"):
        MoMAMiddleware(router, always=5)
    with pytest.raises(InvalidInputError, match="chat models by name"):
        MoMAMiddleware(router, llms=[ScriptedChat()])
    with pytest.raises(InvalidInputError, match="must be a MoMARouter"):
        MoMAMiddleware(None)
    with pytest.raises(UnknownNameError):
        MoMAMiddleware(router, llms={"weather": ScriptedChat()})


def test_more_than_a_routes_candidates(router: MoMARouter) -> None:
    many = [stub(f"tool_{i}", f"Do the thing number {i} in the garden") for i in range(30)]
    agent = create_moma_agent(ScriptedChat(), many, max_tools=25)
    assert len(set(ask(agent)["moma_turn"]["tools"])) == 25


CONVERSATIONS = (
    ("find me a recipe for lasagne", "and for two people?", "and without cheese?"),
    ("flights from Rome to Oslo", "and on Friday?", "never mind, tell me a joke"),
    ("what does a share of Apple cost?", "and of Nvidia?", "what is 12 times 7?"),
)


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_follow_ups_are_read_like_a_route_reads_them(
    router: MoMARouter, turns: tuple[str, ...]
) -> None:
    llms = {SMALL: ScriptedChat(name=SMALL, reply=lambda *_: "fine")}
    moma = MoMAMiddleware(router, llms=llms)
    agent = create_agent(llms[SMALL], TOOLS, middleware=[moma], checkpointer=InMemorySaver())
    thread, state = {"configurable": {"thread_id": "1"}}, None
    for i, text in enumerate(turns):
        turn = ask(agent, text, thread)["moma_turn"]
        query = Query(text, history=turns[:i])
        ranking = router.rank(query, max(len(turn["tools"]), 1), state=state)
        assert turn["tools"] == list(ranking.names)
        before, state = state, decision_in(turn).state
        if before is not None and text.startswith("and"):
            assert state.topic == turns[0]
            assert turn["tools"][0] == before.last_target


def test_a_follow_up_leans_on_the_tool_that_answered(router: MoMARouter) -> None:
    agent = create_agent(
        ScriptedChat(reply=calls("jokes")),
        TOOLS,
        middleware=[MoMAMiddleware(router)],
        checkpointer=InMemorySaver(),
    )
    thread = {"configurable": {"thread_id": "1"}}
    first = ask(agent, "find me a recipe for lasagne", thread)["moma_turn"]
    assert (decision_in(first).target, RAN) == ("recipes", ["jokes"])
    shares = [shares_of(ask(agent, "and for two people?", thread))]
    alone = create_agent(
        ScriptedChat(reply=lambda *_: "none"),
        TOOLS,
        middleware=[MoMAMiddleware(router)],
        checkpointer=InMemorySaver(),
    )
    ask(alone, "find me a recipe for lasagne", thread)
    shares.append(shares_of(ask(alone, "and for two people?", thread)))
    assert shares[0]["jokes"] > shares[1]["jokes"]


def shares_of(end: dict[str, Any]) -> dict[str, float]:
    return {c["name"]: c["score"] for c in end["moma_turn"]["decision"]["candidates"]}


async def test_both_decisions_are_on_the_trace(router: MoMARouter) -> None:
    moma = MoMAMiddleware(router, llms={SMALL: ScriptedChat(name=SMALL)})
    agent = create_agent(ScriptedChat(), TOOLS, middleware=[moma])
    asked = {"messages": [("human", ASK)]}
    seen = [
        (event["data"]["kind"], event["data"]["targets"][0])
        async for event in agent.astream_events(asked, version="v2")
        if event["event"] == "on_custom_event" and event["name"] == "moma.route"
    ]
    assert seen == [("agent", "weather"), ("llm", SMALL)]


async def test_an_llm_that_failed_is_on_the_trace(router: MoMARouter) -> None:
    llms = {SMALL: ScriptedChat(name=SMALL), LARGE: ScriptedChat(name=LARGE, failures=1)}
    moma = MoMAMiddleware(router, llms=llms, preference="performance")
    agent = create_agent(ScriptedChat(), TOOLS, middleware=[moma])
    asked = {"messages": [("human", ASK)]}
    failed = [
        event["data"]["llm"]
        async for event in agent.astream_events(asked, version="v2")
        if event["event"] == "on_custom_event" and event["name"] == "moma.fallback"
    ]
    assert failed == [LARGE]


def test_a_summary_amid_a_turn_is_not_a_new_turn(router: MoMARouter) -> None:
    llm = ScriptedChat(reply=thrice("weather"))
    told = ScriptedChat(reply=lambda *_: "They spoke of recipes for a dish.")
    shorten = SummarizationMiddleware(told, trigger=("messages", 4), keep=("messages", 2))
    moma = MoMAMiddleware(router, max_tools=1)
    end = ask(create_agent(llm, TOOLS, middleware=[moma, shorten]))
    assert end["messages"][0].additional_kwargs == {"lc_source": "summarization"}
    assert [call.tools for call in llm.calls] == [("weather",)] * 4
    assert RAN == ["weather"] * 3
    assert moma.telemetry.counts()["routes"] == 1


def thrice(name: str) -> Any:
    """Call a tool three times, then speak; by its own count, since messages get lost."""
    calls = iter(range(1, 4))

    def reply(messages: Any, tools: Any, choice: Any) -> AIMessage | str:
        i = next(calls, None)
        if i is None:
            return "done"
        call = {"name": name, "args": {"text": "x"}, "id": str(i), "type": "tool_call"}
        return AIMessage("", tool_calls=[call])

    return reply


def test_a_record_that_somebody_cut_short_is_made_anew(router: MoMARouter) -> None:
    moma = MoMAMiddleware(router, max_tools=1)
    agent = create_agent(ScriptedChat(), TOOLS, middleware=[moma], checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    ask(agent, config=thread)
    agent.update_state(thread, {"moma_turn": {"tools": []}})
    assert ask(agent, "tell me jokes about cats", thread)["moma_turn"]["tools"][0] == "jokes"


class Rescue(AgentMiddleware):
    """A fallback as LangChain's: where the model fails, its own answers."""

    def __init__(self, llm: ScriptedChat) -> None:
        super().__init__()
        self.llm = llm

    def wrap_model_call(self, request: ModelRequest, handler: Any) -> Any:
        try:
            return handler(request)
        except TimeoutError:
            return handler(request.override(model=self.llm))

    async def awrap_model_call(self, request: ModelRequest, handler: Any) -> Any:
        try:
            return await handler(request)
        except TimeoutError:
            return await handler(request.override(model=self.llm))


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("own", [True, False])
async def test_a_fallback_beside_us_wins_and_is_named_truly(
    router: MoMARouter, outer: bool, mode: str, own: bool
) -> None:
    llms = {name: ScriptedChat(name=name, failures=9) for name in (SMALL, LARGE)}
    rescue = ScriptedChat(name="rescue", reply=lambda *_: "done")
    moma = MoMAMiddleware(router, llms=llms)
    around = [Rescue(rescue), moma] if outer else [moma, Rescue(rescue)]
    agent = create_agent(rescue if own else llms[SMALL], TOOLS, middleware=around)
    value = {"messages": [("human", ASK)]}
    end = agent.invoke(value) if mode == "sync" else await agent.ainvoke(value)
    answer = end["messages"][-1]
    assert answer.text == "rescue heard: done"
    assert "moma_llm" not in answer.response_metadata
    assert sum(len(llm.calls) for llm in llms.values()) == (2 if outer else 1)


def test_a_retry_around_us_asks_our_llms_again(router: MoMARouter) -> None:
    llms = {SMALL: ScriptedChat(name=SMALL, failures=1, reply=lambda *_: "done")}
    retry = ModelRetryMiddleware(max_retries=1, initial_delay=0)
    agent = create_agent(llms[SMALL], TOOLS, middleware=[retry, MoMAMiddleware(router, llms=llms)])
    assert ask(agent)["messages"][-1].response_metadata["moma_llm"] == SMALL


def test_a_removed_tool_is_neither_bound_nor_run() -> None:
    router = MoMARouter.from_cards(agent_cards_from_tools(TOOLS), llms=None)
    RAN.clear()
    llm = ScriptedChat(reply=calls("stocks"))
    agent = create_agent(llm, TOOLS, middleware=[MoMAMiddleware(router, max_tools=1)])
    ask(agent, "what does a share of Apple cost?")
    assert (RAN, llm.calls[0].tools) == (["stocks"], ("stocks",))
    router.agents.remove("stocks")
    end = ask(agent, "what does a share of Apple cost?")
    assert "stocks is not available" in end["messages"][-1].text
    assert RAN == ["stocks"]
    assert "stocks" not in llm.calls[-1].tools


def test_a_text_is_one_name(router: MoMARouter) -> None:
    llm = ScriptedChat()
    moma = MoMAMiddleware(router, max_tools=1, always="news")
    ask(create_agent(llm, TOOLS, middleware=[moma]))
    assert set(llm.calls[0].tools) == {"weather", "news"}
    for excluded in ("weather", ["weather"]):
        config = {"configurable": {"moma_exclude": excluded}}
        assert (
            "weather"
            not in ask(create_agent(llm, TOOLS, middleware=[moma]), config=config)["moma_turn"][
                "tools"
            ]
        )


def test_a_tool_removed_before_the_first_call_is_neither_bound_nor_run() -> None:
    router = MoMARouter.from_cards(agent_cards_from_tools(TOOLS), llms=None)
    RAN.clear()
    llm = ScriptedChat(reply=calls("stocks"))
    agent = create_agent(llm, TOOLS, middleware=[MoMAMiddleware(router)])
    router.agents.remove("stocks")
    assert "not available" in ask(agent)["messages"][-1].text
    assert "stocks" not in llm.calls[0].tools
    assert RAN == []


def talk(agent: Any, *texts: str) -> list[list[str]]:
    """Say one text after the other in one conversation; return what may run in each turn."""
    thread = {"configurable": {"thread_id": "1"}}
    return [ask(agent, text, thread)["moma_turn"]["bound"] for text in texts]


def conversation(router: MoMARouter, llm: Any = None, **options: Any) -> tuple[Any, ScriptedChat]:
    llm = llm or ScriptedChat()
    moma = MoMAMiddleware(router, **options)
    return create_agent(llm, TOOLS, middleware=[moma], checkpointer=InMemorySaver()), llm


@pytest.fixture(scope="module")
def quick() -> MoMARouter:
    return MoMARouter.from_cards(agent_cards_from_tools(TOOLS), reranker=None)


@given(order=st.permutations(sorted(ABOUT)), max_bound=st.integers(2, 8))
@settings(max_examples=5)
def test_a_stable_list_only_grows_at_its_end_until_the_budget(
    quick: MoMARouter, order: list[str], max_bound: int
) -> None:
    agent, llm = conversation(quick, max_tools=1, max_bound=max_bound)
    before: list[str] = []
    for bound in talk(agent, *(f"{ABOUT[name]}, ask the {name}" for name in order)):
        assert len(bound) <= max_bound
        assert bound[: len(before)] == before or len(before) == max_bound
        before = bound
    tools = [call.tools for call in llm.calls]
    assert tools[::2] == tools[1::2]  # within a turn nothing changes
    asked = [call.messages[-1].text for call in llm.calls[::2]]
    assert all(
        any(name in text for name in bound) for text, bound in zip(asked, tools[::2], strict=True)
    )


def test_a_tool_once_bound_stays_and_runs(router: MoMARouter) -> None:
    agent, _ = conversation(router, ScriptedChat(reply=calls("weather")), max_tools=1)
    bound = talk(agent, ASK, "tell me jokes about cats", "tell me jokes about dogs")
    assert bound == [["weather"], ["weather", "jokes"], ["weather", "jokes"]]
    assert RAN == ["weather"] * 3
    router.agents.disable("weather")
    assert talk(agent, "tell me jokes about men") == [["jokes"]]
    assert RAN == ["weather"] * 3
    thread = {"configurable": {"thread_id": "1"}}
    decision = ask(agent, "find flights to Oslo", thread)["moma_turn"]["decision"]
    assert re.search(r"; (\d) bound, \d more$", decision["reason"])


def test_a_list_that_grows_often_behind_much_that_was_said_grows_by_more(
    router: MoMARouter,
) -> None:
    topics = ("will it rain?", "tell me jokes about cats", "find flights to Oslo")
    short = conversation(router, ScriptedChat(reply=lambda *_: "Yes."), max_tools=1)[0]
    assert [len(bound) for bound in talk(short, *topics)] == [1, 2, 3]
    long = conversation(router, ScriptedChat(reply=lambda *_: "So it is. " * 300), max_tools=1)[0]
    one, more, most = talk(long, *topics)
    assert len(one) == 1
    assert more[:2] == [*one, "jokes"]
    assert most[: len(more)] == more
    assert len(ABOUT) >= len(most) > 3
    kept = conversation(
        router, ScriptedChat(reply=lambda *_: "So. " * 700), max_tools=1, max_bound=4
    )[0]
    assert [len(bound) for bound in talk(kept, *topics)] == [1, 3, 4]  # room was left for a pick
    card = LLMCard("one", 2.0, 8.0, quality=0.6, cached_input_price=2.0)  # nothing is cheaper
    one = {"one": ScriptedChat(reply=lambda *_: "So it is. " * 300)}
    bare = MoMARouter.from_cards(agent_cards_from_tools(TOOLS), llms=None)
    dear = conversation(bare, one["one"], max_tools=1, llms=one, cards=[card])[0]
    assert [len(bound) for bound in talk(dear, *topics)] == [1, 2, 3]


def test_what_bind_says_is_bound(router: MoMARouter) -> None:
    said = (ASK, "tell me jokes about cats")
    assert talk(conversation(router, max_tools=1, bind="turn")[0], *said) == [
        ["weather"],
        ["weather", "jokes"],  # it answered in the turn before
    ]
    silent = ScriptedChat(reply=lambda *_: "hm")
    assert talk(conversation(router, silent, max_tools=1, bind="turn")[0], *said)[1] == ["jokes"]
    agent, llm = conversation(router, max_tools=1, bind="all")
    assert talk(agent, *said) == [list(ABOUT)] * 2
    assert {call.tools for call in llm.calls} == {tuple(ABOUT)}
    agent, llm = conversation(router, ScriptedChat(), max_tools=2, bind="fitting")
    assert talk(agent, "asdf qwer zxcv", ASK)[0] == []
    assert llm.calls[0].tools == ()
    with pytest.raises(InvalidInputError, match="bind='stable'"):
        MoMAMiddleware(router, bind="some")
    with pytest.raises(InvalidInputError, match="max_bound=128"):
        MoMAMiddleware(router, max_bound=4)


def test_a_record_of_an_older_version_is_read(router: MoMARouter) -> None:
    agent, _ = conversation(router, max_tools=1)
    thread = {"configurable": {"thread_id": "1"}}
    old = {k: v for k, v in ask(agent, config=thread)["moma_turn"].items() if k != "bound"}
    agent.update_state(thread, {"moma_turn": old})
    assert talk(agent, "tell me jokes about cats") == [["weather", "jokes"]]


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_new_tools_are_bound_and_run_and_vanished_ones_neither(mode: str) -> None:
    router = MoMARouter.from_cards(agent_cards_from_tools(TOOLS[:2]), llms=None)
    RAN.clear()
    moma, llm = MoMAMiddleware(router, max_tools=1), ScriptedChat()
    agent = create_agent(llm, TOOLS[:2], middleware=[moma])
    plants = stub("gardener", "Water the plants in the garden")
    value = {"messages": [("human", "water my plants, gardener")]}

    async def go() -> Any:
        return agent.invoke(value) if mode == "sync" else await agent.ainvoke(value)

    assert moma.sync([plants], source="garden").added == ("gardener",)
    assert (await go())["messages"][-1].text.endswith("gardener did it")
    assert moma.sync([plants], source="garden") == Synced()
    moma.sync([], source="garden")
    llm.reply = calls("gardener")
    assert "gardener is not available" in (await go())["messages"][-1].text
    assert "gardener" not in llm.calls[-1].tools
    assert RAN == ["gardener"]
    with pytest.raises(DuplicateNameError, match="weather"):
        moma.sync([stub("weather", "Another forecast")], source="garden")


def test_tools_that_nobody_registered_are_told_of_once(
    router: MoMARouter, caplog: pytest.LogCaptureFixture
) -> None:
    others = [stub(f"other_{i}", f"Do the thing number {i}") for i in range(9)]
    moma = MoMAMiddleware(router, max_tools=1, always="audit")
    agent = create_agent(ScriptedChat(), [*TOOLS, *others, EXTRA], middleware=[moma])
    for _ in range(3):
        ask(agent)
    [told] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "does not know 9 tools" in told
    assert "other_0" in told
    assert "audit" not in told
    assert "router.agents.add(" in told


def test_what_can_only_be_awaited_says_so(router: MoMARouter) -> None:
    async def later(text: str) -> str:
        return "later"

    slow = StructuredTool.from_function(coroutine=later, name="weather", description="Weather")
    agent = create_agent(ScriptedChat(), [slow], middleware=[MoMAMiddleware(router, max_tools=1)])
    with pytest.raises(InvalidInputError, match=r"ainvoke\(\.\.\.\)"):
        ask(agent)
    end = asyncio.run(agent.ainvoke({"messages": [("human", ASK)]}))
    assert end["messages"][-1].text == "scripted heard: later"


def test_a_dead_servers_tool_goes_out_and_comes_back(router: MoMARouter) -> None:
    def dead(text: str) -> str:
        raise ConnectionError("the server is gone")

    gone = StructuredTool.from_function(dead, name="weather", description="Weather")
    agent = create_agent(
        ScriptedChat(reply=calls("weather")),
        [gone, *TOOLS[1:]],
        middleware=[MoMAMiddleware(router, max_tools=1)],
    )
    for _ in range(3):
        with pytest.raises(ConnectionError):
            ask(agent)
    assert "weather" not in ask(agent)["moma_turn"]["bound"]
    router.health.report_success("weather")
    with pytest.raises(ConnectionError):
        ask(agent)
    router.health.report_success("weather")


def test_the_parts_of_a_query_share_the_places(router: MoMARouter) -> None:
    both = "What is the weather forecast for Rome? Then find flights from Rome to Oslo."
    agent, _ = conversation(router, max_tools=2)
    turn = ask(agent, both, {"configurable": {"thread_id": "1"}})["moma_turn"]
    assert set(turn["tools"]) == {"weather", "flights"}
    assert turn["decision"]["reason"].startswith("2 requests; 2 of 8 tools")


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_decisions_are_stream_events(router: MoMARouter, mode: str) -> None:
    moma = MoMAMiddleware(router, llms={SMALL: ScriptedChat(name=SMALL)})
    agent = create_agent(ScriptedChat(), TOOLS, middleware=[moma])
    asked = {"messages": [("human", ASK)]}
    if mode == "sync":
        parts = list(agent.stream(asked, stream_mode="custom"))
    else:
        parts = [part async for part in agent.astream(asked, stream_mode="custom")]
    seen = [part["moma.route"] for part in parts]
    assert [(each["kind"], each["targets"][0]) for each in seen] == [
        ("agent", "weather"),
        ("llm", SMALL),
    ]


class Verdict(BaseModel):
    """What came out."""

    text: str


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("bind", ["stable", "turn", "fitting", "all"])
def test_langchains_own_middleware_beside_it(
    router: MoMARouter, ours_first: bool, bind: Any
) -> None:
    steps = iter(("write_todos", "weather", "Verdict"))
    arguments: dict[str, Any] = {
        "write_todos": {"todos": [{"content": "ask", "status": "in_progress"}]},
        "weather": {"text": "Paris"},
        "Verdict": {"text": "sunny"},
    }

    def reply(messages: Any, tools: Any, choice: Any) -> AIMessage | str:
        name = next(steps)
        assert name in {tool["function"]["name"] for tool in tools}
        call = {"name": name, "args": arguments[name], "id": name, "type": "tool_call"}
        return AIMessage("", tool_calls=[call])

    told = ScriptedChat(reply=lambda *_: "They spoke.")
    around = [
        TodoListMiddleware(),
        SummarizationMiddleware(told, trigger=("messages", 5), keep=("messages", 2)),
        HumanInTheLoopMiddleware(interrupt_on={"weather": True}),
    ]
    moma = MoMAMiddleware(router, max_tools=1, bind=bind)
    agent = create_agent(
        ScriptedChat(reply=reply),
        TOOLS,
        middleware=[moma, *around] if ours_first else [*around, moma],
        response_format=ToolStrategy(Verdict),
        checkpointer=InMemorySaver(),
    )
    thread = {"configurable": {"thread_id": "1"}}
    end = ask(agent, config=thread)
    assert end["__interrupt__"]
    assert end["todos"][0]["content"] == "ask"
    assert RAN == []
    end = agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), thread)
    assert RAN == ["weather"]
    assert end["structured_response"] == Verdict(text="sunny")
    assert end["moma_turn"]["bound"][0] == "weather"
