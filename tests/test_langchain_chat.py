"""ChatMoMA and its circuit breakers, over scripted chat models and a real router."""

from __future__ import annotations

import asyncio
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    ToolMessage,
    trim_messages,
)
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from pydantic import BaseModel, Field

from langchain_moma import ChatMoMA
from langchain_moma.calls import tokens_of
from langchain_moma.portable import portable_messages
from langchain_moma.testing import ScriptedChat
from moma_core import InvalidInputError, MoMARouter, NoTargetError, UnknownNameError
from moma_core.errors import InvalidPreferenceError
from moma_core.health import Health

SMALL, LARGE = "gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06"
ASK = "Prove that there are infinitely many primes."
ROUTER = MoMARouter.from_cards()


@tool
def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


def chat(small: Any = None, large: Any = None, **options: Any) -> ChatMoMA:
    llms = {
        SMALL: ScriptedChat(name=SMALL, **(small or {})),
        LARGE: ScriptedChat(name=LARGE, **(large or {})),
    }
    return ChatMoMA(router=ROUTER, llms=llms, **options)


def who(answer: AIMessage) -> str:
    return answer.response_metadata["moma_llm"]


class Trace(BaseCallbackHandler):
    def __init__(self) -> None:
        self.runs: list[str] = []
        self.events: list[tuple[str, Any]] = []

    def on_chain_start(self, serialized, inputs, **kwargs) -> None:
        self.runs.append(f"chain {kwargs.get('name')}")

    def on_chat_model_start(self, serialized, messages, **kwargs) -> None:
        self.runs.append("llm")

    def on_custom_event(self, name, data, **kwargs) -> None:
        self.events.append((name, data))


def test_the_preference_decides_for_each_call() -> None:
    both = chat(preference="performance")
    assert who(both.invoke(ASK)) == LARGE
    assert who(both.invoke(ASK, {"configurable": {"moma_preference": "cost:0"}})) == SMALL
    excluded = {"configurable": {"moma_exclude": [LARGE]}}
    assert who(both.invoke(ASK, excluded)) == SMALL
    purse = both.configurable_fields(preference=ConfigurableField(id="purse"))
    assert who(purse.invoke(ASK, {"configurable": {"purse": "cost:0"}})) == SMALL
    assert who(both.invoke(ASK, {"configurable": {"moma_exclude": LARGE}})) == SMALL
    part_of_a_name = {"configurable": {"moma_exclude": "gpt-4o"}}
    assert who(both.invoke(ASK, part_of_a_name)) == LARGE
    with pytest.raises(InvalidInputError, match="takes names"):
        both.invoke(ASK, {"configurable": {"moma_exclude": 5}})


def test_one_run_of_ours_and_one_of_the_llm_with_true_usage() -> None:
    trace, usage = Trace(), UsageMetadataCallbackHandler()
    answer = chat(preference="cost").invoke(ASK, {"callbacks": [trace, usage]})
    assert trace.runs == ["chain ChatMoMA", "llm"]
    [(event, data)] = trace.events
    assert (event, data["targets"]) == ("moma.route", [SMALL])
    assert usage.usage_metadata[SMALL]["total_tokens"] == answer.usage_metadata["total_tokens"]


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_stream_mode_messages_gives_each_token_once(mode: str) -> None:
    both = chat(preference="cost")
    builder = StateGraph(MessagesState)
    if mode == "sync":
        builder.add_node("llm", lambda state: {"messages": both.invoke(state["messages"])})
    else:

        async def node(state: MessagesState) -> dict[str, Any]:
            return {"messages": await both.ainvoke(state["messages"])}

        builder.add_node("llm", node)
    graph = builder.add_edge(START, "llm").compile()
    value = {"messages": [("human", "one two three")]}
    if mode == "sync":
        parts = [part for part, _ in graph.stream(value, stream_mode="messages")]
    else:
        parts = [part async for part, _ in graph.astream(value, stream_mode="messages")]
    assert "".join(str(part.text) for part in parts) == f"{SMALL} heard: one two three"


async def test_streams_are_merged_into_the_same_answer() -> None:
    both = chat(preference="cost")
    full = None
    for chunk in both.stream(ASK):
        full = chunk if full is None else full + chunk
    assert full.text == both.invoke(ASK).text
    assert who(full) == SMALL
    text = [str(chunk.text) async for chunk in both.astream(ASK)]
    assert "".join(text) == full.text
    assert len(text) > 3


def test_a_failing_llm_is_followed_by_the_next() -> None:
    trace = Trace()
    both = chat(large={"failures": 1}, preference="performance")
    answer = both.invoke(ASK, {"callbacks": [trace]})
    assert who(answer) == SMALL
    assert [name for name, _ in trace.events] == ["moma.route", "moma.fallback"]
    assert trace.events[1][1]["llm"] == LARGE
    assert who(both.invoke(ASK)) == LARGE
    assert both.telemetry.counts()["fallbacks"] == {LARGE: 1}


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_every_way_of_calling_falls_back() -> None:
    def fresh() -> ChatMoMA:
        return chat(large={"failures": 1}, preference="performance")

    assert who(await fresh().ainvoke(ASK)) == SMALL
    assert SMALL in "".join(str(chunk.text) for chunk in fresh().stream(ASK))
    assert SMALL in "".join([str(chunk.text) async for chunk in fresh().astream(ASK)])
    assert who(fresh().generate([[HumanMessage(ASK)]]).generations[0][0].message) == SMALL
    result = await fresh().agenerate([[HumanMessage(ASK)]])
    assert who(result.generations[0][0].message) == SMALL
    stream = fresh().stream_events(ASK, version="v3")
    list(stream)
    assert stream.output.text.startswith(SMALL)
    astream = await fresh().astream_events(ASK, version="v3")
    _ = [event async for event in astream]
    assert (await astream.output).text.startswith(SMALL)


async def test_when_all_fail_the_first_error_tells_of_the_others() -> None:
    both = chat({"failures": 9}, {"failures": 9}, preference="performance")
    with pytest.raises(TimeoutError, match=LARGE) as caught:
        both.invoke(ASK)
    assert any(SMALL in note for note in caught.value.__notes__)
    with pytest.raises(TimeoutError):
        await both.ainvoke(ASK)
    with pytest.raises(TimeoutError):
        list(both.stream(ASK))
    answers = both.batch([ASK, ASK], return_exceptions=True)
    assert all(isinstance(answer, TimeoutError) for answer in answers)


def test_a_circuit_opens_and_closes_by_itself() -> None:
    now = [0.0]
    health = Health(failures=2, cooldown=30, clock=lambda: now[0])
    both = chat(large={"failures": 3}, preference="performance", health=health)
    assert [who(both.invoke(ASK)) for _ in range(3)] == [SMALL] * 3
    assert len(both.llms[LARGE].calls) == 2  # the third call went straight to the other
    now[0] = 31.0
    assert who(both.invoke(ASK)) == SMALL  # the probe fails, the circuit stays open
    assert len(both.llms[LARGE].calls) == 3
    assert who(both.invoke(ASK)) == SMALL
    assert len(both.llms[LARGE].calls) == 3
    now[0] = 62.0
    assert who(both.invoke(ASK)) == LARGE
    assert not health.is_open(LARGE)


def test_only_one_call_probes_and_a_cancelled_one_frees_the_probe() -> None:
    now = [0.0]
    health = Health(failures=1, cooldown=1, clock=lambda: now[0])
    with pytest.raises(ValueError, match="x"), health.attempt("a"):
        raise ValueError("x")
    now[0] = 2.0
    assert not health.is_open("a")
    with pytest.raises(KeyboardInterrupt), health.attempt("a"):  # noqa: PT012  # seen from inside
        assert health.is_open("a")
        raise KeyboardInterrupt
    assert not health.is_open("a")
    with pytest.raises(InvalidInputError, match="failures"):
        Health(failures=0)


def test_an_open_circuit_is_better_than_nothing() -> None:
    health = Health(failures=1)
    both = chat({"failures": 9}, {"failures": 1}, preference="performance", health=health)
    with pytest.raises(TimeoutError):
        both.invoke(ASK)
    assert health.is_open(SMALL)
    assert health.is_open(LARGE)
    assert who(both.invoke(ASK)) == LARGE


@pytest.mark.parametrize(
    ("lacking", "options", "ask"),
    [
        ({"tool_calling": False}, {"tools": [add]}, ASK),
        ({"structured_output": False}, {"response_format": {"type": "json_schema"}}, ASK),
        ({"max_input_tokens": 20}, {}, ASK * 9),
        ({"image_inputs": False}, {}, [{"type": "image", "url": "https://example.org/a.png"}]),
        ({"image_inputs": False}, {}, [{"type": "image_url", "image_url": {"url": "x"}}]),
        ({"audio_inputs": False}, {}, [{"type": "audio", "url": "https://example.org/a.wav"}]),
        ({"pdf_inputs": False}, {}, [{"type": "file", "url": "https://example.org/a.pdf"}]),
    ],
)
def test_an_llm_that_cannot_is_not_eligible(lacking: Any, options: Any, ask: Any) -> None:
    both = chat(large={"profile": lacking}, preference="performance")
    tools = options.pop("tools", None)
    asked = both.bind_tools(tools) if tools else both.bind(**options)
    assert who(asked.invoke([HumanMessage(ask)])) == SMALL
    neither = chat({"profile": lacking}, {"profile": lacking})
    asked = neither.bind_tools(tools) if tools else neither.bind(**options)
    with pytest.raises(NoTargetError, match=f"{SMALL}.*lacks.*{LARGE}"):
        asked.invoke([HumanMessage(ask)])


def test_structured_output_is_the_llms_own() -> None:
    class Native(ScriptedChat):
        def with_structured_output(self, schema, **kwargs):
            return lambda_runnable(f"native {kwargs.get('method')}")

    def lambda_runnable(text: str):
        from langchain_core.runnables import RunnableLambda

        return RunnableLambda(lambda _: text)

    llms = {SMALL: Native(name=SMALL), LARGE: ScriptedChat(name=LARGE)}
    both = ChatMoMA(router=ROUTER, llms=llms, preference="cost:0")
    assert both.with_structured_output(Joke, method="json_schema").invoke(ASK) == (
        "native json_schema"
    )
    joke = chat(preference="cost").with_structured_output(Joke, include_raw=True).invoke(ASK)
    assert joke["parsed"] == Joke(setup=ASK, punchline=ASK)
    assert isinstance(joke["raw"], AIMessage)


def test_structured_output_needs_one_of_two_abilities() -> None:
    neither = {"profile": {"structured_output": False, "tool_calling": False}}
    both = chat(large=neither, preference="performance")
    assert isinstance(both.with_structured_output(Joke).invoke(ASK), Joke)
    assert not both.llms[LARGE].calls


def test_the_llm_that_called_the_tools_reads_the_results() -> None:
    both = chat(preference="performance")
    asked = both.bind_tools([add])
    first = asked.invoke(ASK)
    assert who(first) == LARGE
    assert first.tool_calls
    turn = [HumanMessage(ASK), first, ToolMessage("3", tool_call_id=first.tool_calls[0]["id"])]
    cheap = {"configurable": {"moma_preference": "cost:0"}}
    assert who(asked.invoke(turn, cheap)) == LARGE
    assert who(asked.invoke([*turn, AIMessage("3"), HumanMessage("thanks!")], cheap)) == SMALL
    both.llms[LARGE].failures = 1
    assert who(asked.invoke(turn)) == SMALL


def test_tools_reach_the_llm_unconverted_and_foreign_cache_marks_do_not() -> None:
    own = tool(lambda text: text, description="Echo.")
    own.extras = {"cache_control": {"type": "ephemeral"}, "defer_loading": True}
    both = chat(preference="cost")
    block = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    both.bind_tools([own], prompt_cache_key="k", temperature=0.5).invoke([HumanMessage([block])])
    [call] = both.llms[SMALL].calls
    assert call.messages[0].content == [{"type": "text", "text": "hi"}]
    assert call.options == {"temperature": 0.5, "stop": None}
    assert own.extras["cache_control"]


def test_profile_is_what_all_have_in_common() -> None:
    small = {"tool_calling": True, "max_input_tokens": 8_000, "image_inputs": False, "name": "s"}
    large = {"tool_calling": True, "max_input_tokens": 128_000, "image_inputs": True, "name": "l"}
    assert chat({"profile": small}, {"profile": large}).profile == {
        "tool_calling": True,
        "max_input_tokens": 8_000,
        "image_inputs": False,
    }
    assert not chat().profile


def test_what_cannot_be_asked_is_refused_when_built() -> None:
    with pytest.raises(InvalidInputError, match="chat models by name"):
        ChatMoMA(router=ROUTER, llms={})
    with pytest.raises(InvalidInputError, match="must be a chat model"):
        ChatMoMA(router=ROUTER, llms={SMALL: ScriptedChat().with_retry()})
    with pytest.raises(UnknownNameError, match=f"Did you mean '{LARGE}'"):
        ChatMoMA(router=ROUTER, llms={"gpt-4o-2024-08": ScriptedChat()})


async def test_cancelling_a_stream_stops_the_llm_and_blames_nobody() -> None:
    both = chat(preference="cost", health=Health(failures=1))
    stream = both.astream("a " * 500)
    async for _ in stream:
        break
    await stream.aclose()
    assert not both.health.is_open(SMALL)

    async def endless() -> None:
        async for _ in both.astream("b " * 5_000):
            await asyncio.sleep(0.001)

    task = asyncio.create_task(endless())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not both.health.is_open(SMALL)


def test_two_threads_and_many_tasks_share_one() -> None:
    both = chat(preference="cost")

    async def many() -> list[AIMessage]:
        return await asyncio.gather(*(both.ainvoke(f"{ASK} {i}") for i in range(25)))

    with ThreadPoolExecutor(2) as threads:
        answers = [a for part in threads.map(lambda _: asyncio.run(many()), range(2)) for a in part]
    assert len(answers) == 50
    assert both.telemetry.counts()["by_target"] == {SMALL: 50}


def test_a_log_line_counters_and_saved_money(caplog: pytest.LogCaptureFixture) -> None:
    both = chat(preference="cost:0")
    with caplog.at_level(logging.INFO, "langchain_moma"):
        both.invoke(ASK)
    [line] = caplog.messages
    assert line.startswith(f"chat: llm '{SMALL}'")
    assert "primes" not in line
    counts = both.telemetry.counts()
    assert (counts["routes"], counts["deferrals"]) == (1, 1)
    assert counts["saved"] > 0


def test_words_from_elsewhere_when_no_human_spoke() -> None:
    both = chat(preference="cost")
    assert both.invoke([("system", "Write a poem.")]).text.endswith("Write a poem.")
    both.invoke([HumanMessage([{"type": "image", "url": "https://example.org/a.png"}])])


def test_a_span_a_decision_when_opentelemetry_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from langchain_moma import telemetry

    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("test")
    monkeypatch.setattr(telemetry, "_tracer", lambda: tracer)
    chat(preference="cost:0").invoke(ASK)
    [span] = spans.get_finished_spans()
    assert span.name == "moma.route"
    assert span.attributes["moma.targets"] == (SMALL,)
    assert span.end_time > span.start_time


class Careful(ScriptedChat):
    """Asks a person before it answers."""

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        interrupt("may I?")
        return super()._generate(*args, **kwargs)


@pytest.mark.parametrize("way", ["invoke", "generate", "stream"])
def test_an_interrupt_is_no_failure_of_an_llm(way: str) -> None:
    llms = {name: Careful(name=name, disable_streaming=True) for name in (SMALL, LARGE)}
    moma = ChatMoMA(router=ROUTER, llms=llms, health=Health(failures=1))

    def node(state: MessagesState) -> dict[str, Any]:
        if way == "generate":
            return {"messages": moma.generate([state["messages"]]).generations[0][0].message}
        if way == "stream":
            return {"messages": list(moma.stream(state["messages"]))}
        return {"messages": moma.invoke(state["messages"])}

    graph = StateGraph(MessagesState).add_node("llm", node).add_edge(START, "llm")
    graph = graph.compile(InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    half = graph.invoke({"messages": [("human", "hi")]}, thread)
    assert half["__interrupt__"][0].value == "may I?"
    assert moma.telemetry.counts()["fallbacks"] == {}
    assert not any(moma.health.is_open(name) for name in llms)
    assert graph.invoke(Command(resume=True), thread)["messages"][-1].text.endswith("heard: hi")


def refusing(status: int, **headers: str) -> Any:
    """Reply with an error as a provider's SDK raises it."""

    class ProviderError(Exception):
        status_code = status

    ProviderError.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def reply(*_: Any) -> str:
        raise ProviderError(f"status {status}")

    return reply


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream", "generate"])
async def test_what_is_the_callers_fault_comes_back_at_once(way: str) -> None:
    both = chat({"reply": refusing(400)}, {"reply": refusing(400)}, health=Health(failures=1))
    with pytest.raises(Exception, match="status 400") as caught:
        await asked_by(both, way)
    assert not hasattr(caught.value, "__notes__")
    assert sum(len(llm.calls) for llm in both.llms.values()) == 1
    assert not both.health.unhealthy()
    assert both.telemetry.counts()["fallbacks"] == {}
    stubborn = chat(large={"reply": refusing(400)}, preference="performance",
                    fallback_on=lambda error: True)  # fmt: skip
    assert SMALL in str(await asked_by(stubborn, way))


async def asked_by(both: ChatMoMA, way: str) -> Any:
    if way == "ainvoke":
        return await both.ainvoke(ASK)
    if way == "astream":
        return [chunk async for chunk in both.astream(ASK)]
    if way == "stream":
        return list(both.stream(ASK))
    return both.invoke(ASK) if way == "invoke" else both.generate([[HumanMessage(ASK)]])


def test_a_rate_limited_llm_is_left_alone_as_long_as_it_asks() -> None:
    both = chat(large={"reply": refusing(429, retry_after="60")}, preference="performance")
    assert [who(both.invoke(ASK)) for _ in range(2)] == [SMALL, SMALL]
    assert len(both.llms[LARGE].calls) == 1


class Hesitant(ScriptedChat):
    """Begins with a chunk that says nothing, then breaks."""

    def _stream(self, *args: Any, **kwargs: Any) -> Any:
        yield ChatGenerationChunk(message=AIMessageChunk(""))
        raise TimeoutError("cut")


async def test_an_empty_first_chunk_is_no_commitment() -> None:
    llms = {SMALL: ScriptedChat(name=SMALL), LARGE: Hesitant(name=LARGE)}
    both = ChatMoMA(router=ROUTER, llms=llms, preference="performance")
    first, *more = both.stream(ASK)
    assert who(sum(more, first)) == SMALL
    assert "".join([str(chunk.text) async for chunk in both.astream(ASK)]).startswith(SMALL)


def test_what_another_llm_thought_is_not_sent() -> None:
    both = chat(preference="performance")
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    said = [thought, {"type": "text", "text": "It is prime."}]
    for author, kept in ((SMALL, said[1:]), (LARGE, said)):
        before = AIMessage(said, response_metadata={"moma_llm": author})
        both.invoke([HumanMessage("17?"), before, HumanMessage(ASK)])
        assert both.llms[LARGE].calls[-1].messages[1].content == kept
    only = AIMessage([thought], response_metadata={"moma_llm": SMALL})
    both.invoke([HumanMessage("17?"), only, HumanMessage(ASK)])
    assert both.llms[LARGE].calls[-1].messages[1].content == ""


@pytest.mark.parametrize("text", ["\u96e8" * 3_000, "\u0434\u0430" * 3_000, "word " * 4_000])
def test_a_window_is_kept_in_any_script(text: str) -> None:
    both = chat(large={"profile": {"max_input_tokens": 2_500}}, preference="performance")
    assert who(both.invoke(text)) == SMALL


def test_a_tools_own_schema_counts() -> None:
    both = chat(large={"profile": {"max_input_tokens": 2_500}}, preference="performance")
    about = {"type": "string", "description": "long " * 4_000}
    big = {"name": "t", "description": "d", "parameters": {"type": "object",
                                                           "properties": {"x": about}}}  # fmt: skip
    assert who(both.bind_tools([big]).invoke(ASK)) == SMALL
    assert who(both.bind_tools([add]).invoke(ASK)) == LARGE


def test_max_latency_is_what_route_takes() -> None:
    with pytest.raises(InvalidPreferenceError, match="max_latency"):
        chat(max_latency=0)
    fast = chat(preference="performance", max_latency=1e9)
    assert who(fast.invoke(ASK)) == LARGE


def test_definitions_of_tools_count_against_the_window() -> None:
    class Many(BaseModel):
        """Asks for much."""

        much: str = Field(description="\u8981" * 3_000)

    both = chat(large={"profile": {"max_input_tokens": 2_500}}, preference="performance")
    assert who(both.bind_tools([Many]).invoke(ASK)) == SMALL
    assert who(both.bind_tools([add]).invoke(ASK)) == LARGE
    assert (
        tokens_of([HumanMessage("x")], [{"name": "t", "parameters": {"d": "y" * 100_000}}]) > 25e3
    )


def test_tokens_are_counted_by_the_llm_in_view_and_never_by_a_hub() -> None:
    class Counting(ScriptedChat):
        def get_num_tokens_from_messages(self, messages: Any, tools: Any = None) -> int:
            return 1_000 * len(messages)

    llms = {SMALL: ScriptedChat(name=SMALL), LARGE: Counting(name=LARGE)}
    best = ChatMoMA(router=ROUTER, llms=llms, preference="performance")
    assert best.get_num_tokens(ASK) == 1_000
    assert best.get_num_tokens_from_messages([HumanMessage(ASK)] * 3) == 3_000
    cheap = ChatMoMA(router=ROUTER, llms=llms, preference="cost:0")
    assert cheap.get_num_tokens("\u5929" * 500) == tokens_of([HumanMessage("\u5929" * 500)])
    cut = trim_messages(
        [HumanMessage("old " * 400), HumanMessage(ASK)], max_tokens=100, token_counter=cheap
    )
    assert [message.text for message in cut] == [ASK]


CALL = {"name": "add", "args": {"left": 1, "right": 2}, "type": "tool_call"}


class Strict(ScriptedChat):
    """Takes what Mistral takes."""

    @property
    def _llm_type(self) -> str:
        return "mistralai-chat"


@given(ids=st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=6), strict=st.booleans())
def test_ids_of_another_llms_calls_are_taken_by_everybody(ids: list[str], strict: bool) -> None:
    said: list[Any] = [HumanMessage("add")]
    for each in ids:
        content = [{"type": "tool_use", "id": each, "name": "add", "input": CALL["args"]}]
        called = AIMessage(
            content, tool_calls=[{**CALL, "id": each}], response_metadata={"moma_llm": "other"}
        )
        said += [called, ToolMessage("3", tool_call_id=each)]
    reader = Strict() if strict else ScriptedChat()
    sent = portable_messages(said, reader, "mine")
    asked = [m.tool_calls[0]["id"] for m in sent if isinstance(m, AIMessage)]
    told = [m.tool_call_id for m in sent if isinstance(m, ToolMessage)]
    assert asked == told
    assert len(set(asked)) == len(asked)
    form = r"[A-Za-z0-9]{9}" if strict else r"[A-Za-z0-9_-]{1,40}"
    assert all(re.fullmatch(form, each) for each in asked)
    assert portable_messages(said, reader, "mine") == sent  # the same bytes at each call
    assert portable_messages(said, reader, "other") == said  # its own author's stay
    assert said[1].content[0]["id"] == ids[0]  # the caller's own are not touched


def test_what_only_another_provider_reads_is_dropped() -> None:
    text = {"type": "text", "text": "It is.", "id": "msg_1", "signature": "s", "index": 0}
    search = {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {}}
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    kept = [{"type": "text", "text": "It is."}]
    extra = {"reasoning_content": "hm", "refusal": None}
    for author in ({"moma_llm": "other"}, {"model_provider": "openai"}):
        said = AIMessage(
            [reasoning, search, text], additional_kwargs=extra, response_metadata=author
        )
        [sent] = portable_messages([said], ScriptedChat(), "mine")
        assert sent.content == kept
        assert sent.additional_kwargs == {"refusal": None}
    # Nobody says who wrote it: a thought goes to those alone whose form it has.
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    said = AIMessage([thought, text])
    assert portable_messages([said], ScriptedChat(), "mine")[0].content == [text]

    class Claude(ScriptedChat):
        @property
        def _llm_type(self) -> str:
            return "anthropic-chat"

    assert portable_messages([said], Claude(), "mine") == [said]
