"""``moma collect`` from the command line, and `langchain_moma.collect` over chat models."""

import json
import sys
from importlib.util import find_spec

import pytest
from langchain_core.messages import AIMessage

from langchain_moma import collect
from langchain_moma.collect import ask_chat_model
from langchain_moma.testing import ScriptedChat
from moma_core import InvalidInputError, LLMDataset, MissingExtraError
from moma_core.errors import InvalidCardError
from moma_core.training.calls import CallRules
from moma_core.training.collect import CollectConfig
from moma_core.training.judge import exact_match

SUMS = [{"query": f"{n} + 1?", "reference": str(n + 1)} for n in range(4)]
OWN_LLMS = """
from moma_core.training.calls import Reply
asked = []
def adds(prompt):
    asked.append(prompt)
    return Reply(f"Answer: {int(prompt.split()[0]) + 1}", 10, 20)
def guesses(prompt):
    return "Answer: 3"
def fails(prompt):
    raise ConnectionError("down")
def judge(prompt):
    return "[[A=B]]"
def half(query, answer, reference):
    return 0.5
number = 3
"""
PLUGIN = """
def connect(spec):
    return lambda prompt: f"{spec} says 1"
"""


@pytest.fixture
def moma(run_moma, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delitem(sys.modules, "own_llms", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "own_llms.py").write_text(OWN_LLMS)
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, SUMS)))

    def moma(*arguments):
        status, out, err = run_moma(*arguments)
        return status, out + err

    return moma


GOOD = ("collect", "queries.jsonl", "--llm", "good=python:own_llms:adds", "--out", "out")


def test_scored_twice_on_the_command_line(moma, tmp_path):
    (tmp_path / "prices.json").write_text('{"good": [1, 2], "bad": 1}')
    command = (*GOOD, "--llm", "bad=python:own_llms:guesses", "--prices", "prices.json")
    for _ in range(2):
        status, said = moma(*command, "--scorer", "exact", "--seed", "1")
        assert status == 0, said
        assert "4 queries, 8 answers, $0.0002" in said
        assert "moma train llms --data out/scored.parquet" in said
    assert len(sys.modules["own_llms"].asked) == 4
    data = LLMDataset.read(tmp_path / "out" / "scored.parquet")
    assert data.scores.mean(axis=0).tolist() == [1.0, 0.25]
    assert data.costs[0, 0] == pytest.approx(50e-6)


def test_judged_on_the_command_line(moma):
    status, said = moma(
        *GOOD, "--llm", "down=python:own_llms:fails", "--llm", "bad=python:own_llms:guesses",
        "--judge", "j=python:own_llms:judge", "--pairs", "3",
    )  # fmt: skip
    assert status == 0, said
    assert "4 judged pairs, 100% the same in both orders" in said
    assert "the same command asks them again" in said
    assert "down" in said


def test_a_budget_on_the_command_line(moma, tmp_path):
    (tmp_path / "prices.json").write_text('{"good": 1000000}')
    priced = (*GOOD, "--prices", "prices.json", "--scorer", "exact", "--concurrency", "1")
    status, said = moma(*priced, "--budget", "75", "--max-output-tokens", "30")
    assert status == 0, said
    assert "2 calls did not fit the budget" in said  # 30 USD each; 33 must be left for the third
    status, said = moma(*priced, "--budget", "1")
    assert status == 0
    assert "2 queries, 2 answers" in said


def test_slips_on_the_command_line(moma, tmp_path):
    for arguments, message in (
        (("--scorer", "python:own_llms:nothing"), "cannot load"),
        (("--scorer", "python:own_llms:number"), "is no function"),
        (("--scorer", "half"), "a scorer is exact"),
        (("--llm", "x", "--scorer", "exact"), "NAME=PROVIDER:MODEL"),
        (("--llm", "x=openai:gpt", "--scorer", "exact"), "price of LLM 'x' is not given"),
        ((), "one of them"),
        (("--llm", "good=python:own_llms:judge", "--scorer", "exact"), "named twice"),
        (("--sample", "9", "--scorer", "exact"), "9 of 4 queries cannot be chosen"),
    ):
        status, said = moma(*GOOD, *arguments)
        assert status == 1, said
        assert message in " ".join(said.split()), said
    status, said = moma(*GOOD, "--scorer", "python:own_llms:half")
    assert status == 0, said


def test_chat_models_come_from_whoever_offers_them(moma, tmp_path):
    (tmp_path / "prices.json").write_text('{"x": 0}')
    command = ("collect", "queries.jsonl", "--llm", "x=some:model", "--prices", "prices.json",
               "--scorer", "exact", "--out", "out")  # fmt: skip
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[moma.llms]\nfirst = moma_test_plugin:connect\n")
    status, said = moma(*command)
    assert status == 1
    assert 'pip install "moma-router[langchain]"' in said
    (tmp_path / "moma_test_plugin.py").write_text(PLUGIN)
    status, said = moma(*command)
    assert status == 0, said
    assert "4 answers" in said


def adds(messages, tools, choice):
    return AIMessage(f"Answer: {int(str(messages[-1].text).split()[0]) + 1}")


def test_chat_models_are_asked_judged_and_priced(tmp_path):
    pool = {
        "good": ScriptedChat(name="good", reply=adds, failures=2),
        "vague": ScriptedChat(name="vague"),
    }

    def fair(messages, tools, choice):
        text = str(messages[-1].text)
        right = (
            text.split("<answer_a>")[1]
            .split("</answer_a>", maxsplit=1)[0]
            .strip()
            .startswith("Answer")
        )
        return AIMessage("[[A>B]]" if right else "[[B>A]]")

    judge = ScriptedChat(name="judge", reply=fair)
    prices = {"good": (1.0, 2.0), "vague": (0.1, 0.1), "judge": (1.0, 1.0)}
    rules = CallRules(backoff=0.0)
    done = collect(
        SUMS, pool, tmp_path, judge=judge, prices=prices, config=CollectConfig(rules=rules)
    )
    assert done.complete
    assert len(pool["good"].calls) == 6
    assert len(judge.calls) == 8
    assert done.ratings[0].name == "good"
    usage = ask_chat_model(pool["good"])("0 + 1?")
    data = LLMDataset.read(done.scored)
    cost = (usage.input_tokens * 1.0 + usage.output_tokens * 2.0) / 1e6
    assert data.costs[0, data.llms.index("good")] == pytest.approx(cost)
    with pytest.raises(InvalidCardError, match="judge"):
        collect(SUMS, pool, tmp_path, judge=judge, prices={**prices, "judge": None})
    with pytest.raises(InvalidInputError, match="expected a chat model"):
        collect(SUMS, {"x": 3}, tmp_path, scorer=exact_match)


@pytest.mark.parametrize("name", ["no-provider", "nobody:model"])
def test_a_chat_model_that_no_provider_has(name):
    with pytest.raises(InvalidInputError, match=r"cannot be asked.*'provider:model'") as caught:
        ask_chat_model(name)
    assert "\n" not in str(caught.value)


def test_a_provider_whose_package_is_missing():
    if find_spec("langchain_mistralai"):
        pytest.skip("langchain-mistralai is installed here")
    with pytest.raises(MissingExtraError, match="pip install"):
        ask_chat_model("mistralai:mistral-small")
