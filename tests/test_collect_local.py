"""Collection over the real local LLM: its answers, its token counts, and itself as judge."""

import pytest

pytest.importorskip("torch")

from langchain_moma import LocalChat, collect
from langchain_moma.collect import ask_chat_model
from langchain_moma.testing import ScriptedChat
from moma_core import Judge, LLMCard, LLMDataset
from moma_core import collect as collect_core
from moma_core.decoding.local_llm import folder_of, is_ready
from moma_core.training.calls import CallRules
from moma_core.training.collect import CollectConfig, Questions

pytestmark = pytest.mark.skipif(
    not is_ready(folder_of("smollm2")), reason="type: moma local-llm install smollm2"
)
QUERIES = [{"query": "What is the capital of France?", "reference": "Paris"}]
PRICES = dict.fromkeys(("short", "long", "scripted"), (1.0, 2.0))
CONFIG = CollectConfig(rules=CallRules(concurrency=1, attempts=1, timeout=300.0))
SHORT_JUDGE = "Q: {query}\nA: {answer_a}\nB: {answer_b}\nSay [[A>B]], [[A=B]] or [[B>A]]."


def names_it(query, answer, reference):
    return float(reference.lower() in answer.lower())


def test_a_real_llm_is_asked_scored_and_judged(tmp_path):
    chat = LocalChat.load("smollm2", max_tokens=8)
    pool = {"short": LocalChat(llm=chat.llm, max_tokens=1), "long": chat}
    done = collect(QUERIES, pool, tmp_path, scorer=names_it, prices=PRICES, config=CONFIG)
    assert done.mean_scores == {"short": 0.0, "long": 1.0}
    data = LLMDataset.read(done.scored)
    # The same question is read by both; what they write is counted, not estimated.
    assert data.costs[0, 1] - data.costs[0, 0] == pytest.approx(7 * 2e-6)
    pool["scripted"] = ScriptedChat(name="scripted")
    done = collect(QUERIES, pool, tmp_path, scorer=names_it, prices=PRICES, config=CONFIG)
    assert done.answers == 3
    # So small an LLM may or may not give a verdict that can be read; what cannot is no verdict.
    terse = LocalChat(llm=chat.llm, max_tokens=4)
    judge = Judge(ask_chat_model(terse), LLMCard("smollm2", 0.0, 0.0), SHORT_JUDGE)
    llms = {"right": lambda prompt: "Paris", "wrong": lambda prompt: "Oslo"}
    scored = {**llms, "same": lambda prompt: "Paris"}  # equal answers are a tie without a verdict
    done = collect_core(
        Questions.of(QUERIES),
        scored,
        {name: LLMCard(name, 0.0, 0.0) for name in scored},
        tmp_path / "judged",
        judge=judge,
        config=CONFIG,
    )
    assert done.judged + sum(done.failed.values()) >= 2
    assert 1 <= done.judged <= 3
