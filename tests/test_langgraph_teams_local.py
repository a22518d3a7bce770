"""A team of real LLMs on this machine: SmolLM2, where that is installed."""

from __future__ import annotations

import pytest
from langchain_core.messages import HumanMessage

from langchain_moma.teams.graph import build
from langchain_moma.teams.transcript import Limits
from moma_core import LLMCard, TeamPlan
from moma_core.decision import TeamMember
from moma_core.teams.cards import calls

pytest.importorskip("torch")
pytest.importorskip("transformers")

from langchain_moma import LocalChat
from moma_core.decoding.local_llm import LocalLLM, folder_of, is_ready

if not is_ready(folder_of("smollm2")):
    pytest.skip("SmolLM2 is not installed: moma local-llm install smollm2", allow_module_level=True)

ASK = "What is the capital of France? Answer in one short sentence."
MEMBERS = (
    TeamMember("author", "brief", "You know geography."),
    TeamMember("critic", "longer", "You check facts."),
)


@pytest.fixture(scope="module")
def llms():
    smollm2 = LocalLLM.load("smollm2")
    return {
        "brief": LocalChat(llm=smollm2, max_tokens=12),
        "longer": LocalChat(llm=smollm2, max_tokens=16),
    }


def test_a_real_llm_drafts_criticises_and_revises(llms) -> None:
    plan = TeamPlan("reflection", MEMBERS)
    cards = [LLMCard("brief", 1.0, 1.0), LLMCard("longer", 1.0, 1.0)]
    graph = build(plan, llms, cards=cards, equal=None, limits=Limits(tokens=4000))
    parts, end = [], None
    for mode, part in graph.stream(
        {"messages": [HumanMessage(ASK)]}, stream_mode=["messages", "values"]
    ):
        if mode == "messages":
            parts.append(part)
        else:
            end = part
    draft, critique, revised = end["team"]["transcript"]
    assert "Paris" in draft["text"]
    assert max(draft["output_tokens"], revised["output_tokens"]) <= 12
    assert critique["output_tokens"] <= 16
    assert not any(turn["estimated"] for turn in (draft, critique, revised))
    assert revised["input_tokens"] > draft["input_tokens"] + critique["output_tokens"]
    assert end["team"]["total"]["calls"] == calls("reflection", 2)
    assert "".join(chunk.text for chunk, _ in parts) == end["messages"][-1].text == revised["text"]
    assert {meta["langgraph_node"] for _, meta in parts} == {"author"}


async def test_real_llms_agree_and_need_no_judge(llms) -> None:
    same = {"brief": llms["brief"], "longer": llms["brief"]}
    plan = TeamPlan("debate", (TeamMember("a", "brief"), TeamMember("b", "longer")))
    end = await build(plan, same).ainvoke({"messages": [HumanMessage(ASK)]})
    assert (end["team"]["stopped"], end["team"]["total"]["calls"]) == ("agreement", 2)
