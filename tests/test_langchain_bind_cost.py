"""bind="auto": the way of binding tools that costs least, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.memory import InMemorySaver

from langchain_moma import MoMAMiddleware, agent_cards_from_tools
from langchain_moma.bind_cost import Prompt
from langchain_moma.testing import ScriptedChat
from moma_core import LLMCard, MoMARouter


def stub(i: int) -> BaseTool:
    about = f"Look up matter number {i}, " + "with all that is known of it, in some detail. " * 4
    return StructuredTool.from_function(lambda text: "done", name=f"matter_{i}", description=about)


def first_turn(n: int, llm: Any, hashing: Any, **options: Any) -> tuple[Any, Any]:
    tools = [stub(i) for i in range(n)]
    router = MoMARouter.from_cards(agent_cards_from_tools(tools), encoder=hashing, llms=None)
    moma = MoMAMiddleware(router, max_tools=4, bind="auto", **options)
    agent = create_agent(llm, tools, middleware=[moma], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    end = agent.invoke({"messages": "matter number 3"}, config)
    return end["moma_turn"], lambda text: agent.invoke({"messages": text}, config)["moma_turn"]


def quiet() -> ScriptedChat:
    return ScriptedChat(reply=lambda *_: "done")


def test_few_tools_are_all_bound_and_of_many_the_list_is_stable(hashing: Any) -> None:
    few, many = quiet(), quiet()
    turn, again = first_turn(5, few, hashing)
    assert turn["bind"] == "all"
    assert len(few.calls[0].tools) == 5  # and no find_tools
    assert again("matter number 4")["bind"] == "all"
    turn, again = first_turn(120, many, hashing)
    assert turn["bind"] == "stable"
    assert len(many.calls[0].tools) == 4
    assert turn["costs"]["stable"] < min(turn["costs"]["all"], turn["costs"]["turn"])
    assert "deferred" not in turn["costs"]
    assert turn["decision"]["reason"].endswith("stable costs least")
    assert again("matter number 90")["bind"] == "stable"


def test_where_the_provider_can_tools_are_deferred_or_restricted(hashing: Any) -> None:
    openai = pytest.importorskip("langchain_openai")

    class GPT(openai.ChatOpenAI):
        payloads: list[Any]

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kw: Any):
            self.payloads.append(self._get_request_payload(messages, stop=stop, **kw))
            return GenericFakeChatModel(messages=iter(["done"]))._generate(messages)

    gpt = GPT(model="gpt-5.4", api_key="x", use_responses_api=True, payloads=[])
    turn, _ = first_turn(120, gpt, hashing)
    assert turn["bind"] == "deferred"
    assert [tool["type"] for tool in gpt.payloads[0]["tools"]] == ["tool_search"]
    turn, _ = first_turn(5, gpt, hashing)
    assert turn["bind"] == "allowed"
    assert len(gpt.payloads[1]["tools"]) == 5
    assert gpt.payloads[1]["tool_choice"]["type"] == "allowed_tools"


def test_without_a_cache_a_turn_binds_its_own(hashing: Any) -> None:
    def costs(cached: float) -> Any:
        card = LLMCard("one", 2.0, 8.0, quality=0.6, cached_input_price=cached)
        llm = quiet()
        return first_turn(120, llm, hashing, llms={"one": llm}, cards=[card])[0]

    assert (costs(0.2)["bind"], costs(2.0)["bind"]) == ("stable", "turn")


@settings(max_examples=100)
@given(
    n=st.integers(1, 500),
    one=st.floats(20, 1_000),
    picked=st.integers(1, 20),
    said=st.floats(0, 50_000),
    cached=st.floats(0, 1),
)
def test_costs_are_in_order(n: int, one: float, picked: int, said: float, cached: float) -> None:
    costs = Prompt(n * one, n, picked, said, cached).costs()
    assert 0 < costs["deferred"] <= costs["stable"] + 1e-6
    assert costs["deferred"] <= costs["all"] + 1e-6
    dearer = Prompt(n * one, n, picked, said, min(cached + 0.1, 1.0)).costs()
    assert all(dearer[way] >= cost - 1e-6 for way, cost in costs.items())
    if n <= picked:
        assert costs["all"] == pytest.approx(costs["stable"])
