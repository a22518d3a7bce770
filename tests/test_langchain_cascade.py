"""ChatCascade over scripted chat models and a cascade trained on made-up scores."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

from langchain_moma import ChatCascade
from langchain_moma.testing import ScriptedChat
from moma_core import (
    ArtifactError,
    CascadeRouter,
    InvalidInputError,
    LLMDataset,
    NoTargetError,
    UnknownNameError,
)
from moma_core.health import Health
from moma_core.llms.cascade import Accept, Ask, CascadePlan, Weigh
from moma_core.llms.costs import Usage
from moma_core.llms.training import train_cascade
from moma_core.testing import HashEncoder

ENCODER = HashEncoder()
ASK = "What is 17 * 23? End with 'Answer: ...'."
A, B, LARGE = "a-small", "b-small", "large"


def scored() -> LLMDataset:
    """Two cheap LLMs that are right as often as not, mostly alone; a dear one nearly always."""
    rng = np.random.default_rng(0)
    right = rng.random((200, 3)) < 1 / (
        1 + np.exp(-(rng.normal(0, 1, (200, 1)) + np.array([1.0, 1.0, 3.0])))
    )
    answers = np.where(right, 0, rng.integers(1, 50, (200, 3))).astype(np.int32)
    costs = 1e-4 * np.array([1.0, 1.2, 30.0]) * rng.uniform(0.8, 1.2, (200, 3))
    queries = tuple(f"what is {i} times {i + 3}?" for i in range(200))
    return LLMDataset(queries, (A, B, LARGE), right.astype(float), costs, answers=answers)


def trained() -> Any:
    prices = {A: [1.0, 2.0], B: [1.2, 2.4], LARGE: [30.0, 60.0]}
    router = train_cascade(DATA, ENCODER, head="linear", prices=prices)
    return replace(router, watched=None)


DATA = scored()
ROUTER = trained()
TOPSIS = ROUTER.plan(ASK, ENCODER.encode([ASK])[0], "topsis")


def saying(text: str, **options: Any) -> ScriptedChat:
    return ScriptedChat(reply=lambda *_: AIMessage(text), **options)


def chat(a: str = "391", b: str = "391", large: str = "391", **options: Any) -> ChatCascade:
    said = {A: a, B: b, LARGE: large}
    llms = {name: saying(f"By {name}.\nAnswer: {text}", name=name) for name, text in said.items()}
    llms |= options.pop("llms", {})
    options = {"preference": "topsis", "encoder": ENCODER, **options}
    base = replace(ROUTER.base, usage=Usage())  # costs are learnt from use
    return ChatCascade(router=replace(ROUTER, base=base), llms=llms, **options)


def who(answer: AIMessage) -> str:
    return str(answer.response_metadata["moma_llm"])


def asked(answer: AIMessage) -> list[str]:
    return list(answer.response_metadata["moma_cascade"]["asked"])


def calls(model: ChatCascade) -> int:
    return sum(len(llm.calls) for llm in model.llms.values())


def test_the_plan_asks_a_cheap_one_first() -> None:
    assert (TOPSIS.root.llm, TOPSIS.calls) == (A, 3)


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream", "generate", "agenerate"])
@pytest.mark.parametrize(
    ("said", "expected"),
    [(("391", "$391.00", "391"), [A, B]), (("390", "392", "391"), [A, B, LARGE])],
)
def test_agreement_is_accepted_and_disagreement_escalates(way, said, expected) -> None:
    model = chat(*said)
    answer = answered(model, way)
    assert asked(answer) == expected
    assert who(answer) == (A if len(expected) == 2 else LARGE)
    assert answer.text == f"By {who(answer)}.\nAnswer: {said[0] if len(expected) == 2 else '391'}"
    assert calls(model) == len(expected)
    one = saying(answer.text).invoke(ASK).usage_metadata
    assert answer.usage_metadata["input_tokens"] == len(expected) * one["input_tokens"]
    assert list(answer.response_metadata["moma_cascade"]["usd"]) == expected


def answered(model: ChatCascade, way: str) -> AIMessage:
    if way == "invoke":
        return model.invoke(ASK)
    if way == "ainvoke":
        return asyncio.run(model.ainvoke(ASK))
    if way in ("stream", "astream"):
        given = chunks(model, way)
        return sum(given[1:], given[0])
    messages = model._convert_input(ASK).to_messages()
    made = model.generate([messages]) if way == "generate" else asyncio.run(
        model.agenerate([messages])
    )  # fmt: skip
    return made.generations[0][0].message


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_only_an_answer_that_nothing_replaces_comes_token_by_token(way) -> None:
    assert len(chunks(chat(a="390", b="392"), way)) == 1
    given = chunks(alone(saying("one two 3", name=LARGE)), way)
    assert [str(chunk.text) for chunk in given][:3] == ["one ", "two ", "3"]
    answer = sum(given[1:], given[0])
    assert (who(answer), asked(answer)) == (LARGE, [LARGE])
    with pytest.raises(TimeoutError):
        chunks(alone(saying("1", name=LARGE, failures=1)), way)
    with pytest.raises(ConnectionError):
        chunks(alone(Breaking(name=LARGE)), way)


class Breaking(ScriptedChat):
    def _stream(self, *args: Any, **options: Any) -> Any:
        yield next(iter(super()._stream(*args, **options)))
        raise ConnectionError("cut")


def alone(llm: ScriptedChat) -> ChatCascade:
    return ChatCascade(router=ROUTER, llms={LARGE: llm}, encoder=ENCODER)


def chunks(model: ChatCascade, way: str) -> list[Any]:
    async def gather() -> list[Any]:
        return [chunk async for chunk in model.astream(ASK)]

    return list(model.stream(ASK)) if way == "stream" else asyncio.run(gather())


def test_usage_is_counted_once_under_each_true_name() -> None:
    handler = UsageMetadataCallbackHandler()
    answer = chat(a="390").invoke(ASK, {"callbacks": [handler]})
    assert set(handler.usage_metadata) == set(asked(answer))
    total = sum(usage["total_tokens"] for usage in handler.usage_metadata.values())
    assert total == answer.usage_metadata["total_tokens"]


def test_a_graph_streams_the_accepted_answer_alone() -> None:
    for model, wanted in ((chat(), A), (chat(a="390", b="392"), LARGE)):
        builder = StateGraph(MessagesState)
        builder.add_node("llm", lambda state, m=model: {"messages": [m.invoke(state["messages"])]})
        graph = builder.add_edge(START, "llm").compile()
        parts = graph.stream({"messages": [("human", ASK)]}, stream_mode="messages")
        assert "".join(str(part.text) for part, _ in parts).startswith(f"By {wanted}.\nAnswer:")


def test_a_failing_llm_is_planned_around() -> None:
    broken = saying("391", name=A, failures=9)
    model = chat(llms={A: broken}, health=Health(failures=2))
    for _ in range(2):
        answer = model.invoke(ASK)
        assert A not in asked(answer)
    tried = len(broken.calls)
    assert A not in asked(asyncio.run(model.ainvoke(ASK)))
    assert len(broken.calls) == tried == 2  # the breaker is open
    late = chat(a="390", b="392", llms={LARGE: saying("391", name=LARGE, failures=9)})
    assert who(late.invoke(ASK)) in (A, B)  # the best of what was said


def test_nobody_answers() -> None:
    llms = {name: saying("391", name=name, failures=9) for name in (A, B, LARGE)}
    with pytest.raises(TimeoutError, match="does not answer") as caught:
        chat(llms=llms).invoke(ASK)
    assert len(caught.value.__notes__) == 3
    everyone = {"configurable": {"moma_exclude": [A, B, LARGE]}}
    with pytest.raises(NoTargetError):
        chat().invoke(ASK, everyone)
    assert who(chat().invoke(ASK, {"configurable": {"moma_exclude": [A, B]}})) == LARGE


def test_an_answer_that_cannot_be_read_agrees_with_nothing() -> None:
    model = chat(read=lambda text: None)
    assert asked(model.invoke(ASK)) == [A, LARGE, B]  # all of them; the plan's order
    dear = chat().invoke(ASK, {"configurable": {"moma_preference": "cost:0"}})
    assert LARGE not in asked(dear)


def test_what_is_refused() -> None:
    with pytest.raises(UnknownNameError):
        chat(llms={"typo": saying("1")})
    with pytest.raises(InvalidInputError, match="chat model"):
        chat(llms={A: "gpt"})
    with pytest.raises(InvalidInputError, match="at least one"):
        ChatCascade(router=ROUTER, llms={}, encoder=ENCODER)
    with pytest.raises(InvalidInputError, match="CascadeRouter"):
        ChatCascade(router=ROUTER.base, llms={A: saying("1")}, encoder=ENCODER)
    with pytest.raises(ArtifactError):
        ChatCascade(router=ROUTER, llms={A: saying("1")}, encoder=HashEncoder(dimension=8))
    with pytest.raises(NotImplementedError, match="ChatMoMA"):
        chat().bind_tools([])


def test_plans_weigh_what_a_call_cost_at_real_prices_only() -> None:
    after = Weigh(A, (1e-3,), (Accept(A), Ask(B, Accept(B), Accept(B))))
    plan = CascadePlan(Ask(A, after, after), 0.9, 1e-3)

    class Planned(CascadeRouter):
        def plan(self, *args: Any, **kwargs: Any) -> CascadePlan:
            return plan

    usage = {"input_tokens": 10, "output_tokens": 10, "total_tokens": 20}  # 3e-5 USD: it is short
    replies = {A: lambda *_: AIMessage("391"), B: lambda *_: AIMessage("392")}
    llms = {name: Metered(name=name, usage=usage, reply=say) for name, say in replies.items()}
    indicative = train_cascade(DATA, ENCODER, head="linear")
    for router, expected in ((ROUTER, [A]), (indicative, [A, B])):
        fields = {field.name: getattr(router, field.name) for field in dataclasses.fields(router)}
        model = ChatCascade(router=Planned(**fields), llms=llms, encoder=ENCODER)
        assert asked(model.invoke(ASK)) == expected


class Metered(ScriptedChat):
    """Reports a usage of its own."""

    usage: dict[str, int]

    def _answer(self, messages: Any, options: Any) -> AIMessage:
        answer = super()._answer(messages, options)
        return answer.model_copy(update={"usage_metadata": self.usage})


def test_windows_are_respected_and_tokens_counted_offline() -> None:
    long = "\u5929" * 3_000 + ASK
    model = chat(llms={A: saying("Answer: 391", name=A, profile={"max_input_tokens": 2_500})})
    assert A in asked(model.invoke(ASK))
    assert A not in asked(model.invoke(long))
    assert 3_000 < model.get_num_tokens(long) < 3_100
    small = {"max_input_tokens": 10}  # nobody has room: they are asked all the same
    model = chat(llms={n: saying("Answer: 391", name=n, profile=small) for n in (A, B, LARGE)})
    assert model.invoke(long).text == "Answer: 391"
