"""No file, whatever is in it, raises anything but an error of ours, nor routes by nonsense."""

import copy
import json
import shutil
import sqlite3
import warnings
from contextlib import suppress
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moma_core import (
    AgentCard,
    ArtifactError,
    Category,
    Learning,
    MoMAError,
    MoMARouter,
    Query,
    RegistryError,
    RoutingDecision,
    RoutingState,
    State,
    StateMachine,
)
from moma_core._tables import ENDINGS, write_table
from moma_core.agents.data import read_agents, read_queries
from moma_core.cli.llms import read_prices
from moma_core.decoding.decider import FusionWeights
from moma_core.errors import InvalidCardError, InvalidStatesError
from moma_core.llms.data import LLMDataset
from moma_core.llms.feedback import FeedbackLog
from moma_core.registry.chroma import ChromaRegistry
from moma_core.teams.cards import read_roles
from moma_core.testing import HashEncoder
from moma_core.training.collect import Questions
from moma_core.training.judgements import read_judgements
from moma_core.training.report import read_asked

ENCODER = HashEncoder()
DEEP = "[" * 100_000 + "]" * 100_000

odd = st.sampled_from(
    [
        *(None, True, 0, -1, 1.5, float("nan"), float("inf"), 10**400, "", "x", "y" * 10_000),
        *([], {}, [[]], ["a"], {"a": 1}, "DEEP"),
    ]
)


def places(value, at=()):
    """Where something can be changed in a JSON value; of long lists, the first few."""
    if at:
        yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value[:4] if at else value)
    if isinstance(value, dict | list):
        for key, each in inner:
            yield from places(each, (*at, key)) if isinstance(each, dict | list) else [(*at, key)]


@st.composite
def damaged(draw, documents):
    """Return a file's name and its text with one value changed, left out or added."""
    name = draw(st.sampled_from(sorted(documents)))
    document = copy.deepcopy(documents[name])
    *path, last = draw(st.sampled_from(list(places(document))))
    inner = document
    for key in path:
        inner = inner[key]
    how = draw(st.sampled_from(["change", "change", "change", "leave out", "add"]))
    if how == "leave out":
        del inner[last]
    elif how == "add" and isinstance(inner, dict):
        inner["foreign"] = draw(odd)
    else:
        inner[last] = draw(odd)
    return name, json.dumps(document).replace('"DEEP"', DEEP)


@pytest.fixture(scope="module")
def saved(pool, word_cards, tmp_path_factory):
    router = MoMARouter.from_cards(
        word_cards,
        llms=pool,
        encoder=ENCODER,
        states=StateMachine([State("OUT", keywords=("outside",), categories=("outside",))]),
        categories=[Category("outside", "rain snow wind")],
    )
    router.learn(Learning())
    folder = tmp_path_factory.mktemp("readers") / "router"
    router.save(folder)
    return folder


@settings(max_examples=250)
@given(data=st.data())
def test_a_router_of_any_json(saved, tmp_path_factory, data):
    documents = {
        str(p.relative_to(saved)): json.loads(p.read_text()) for p in sorted(saved.rglob("*.json"))
    }
    name, text = data.draw(damaged(documents))
    folder = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    (folder / name).write_text(text)
    try:
        router = MoMARouter.load(folder, encoder=ENCODER)
    except MoMAError:
        return
    for decision in (router.route("rain outside"), *router.route_batch(["sum", "why prove"])):
        assert 0 <= decision.probability <= 1
    router.rank("sum")
    router.save(folder)


TABLES = {
    "agents": {"name": ["a", "b"], "description": ["adds", "bakes"], "examples": [["1 + 1"], []]},
    "queries": {"query": ["one", "two"], "agents": [["a"], []], "conversation": ["1", "2"]},
    "scores": {"query": ["one", "two"], "score|x": [1.0, 0.5], "cost|x": [0.1, 0.2]},
    "pairs": {"query": ["one"], "llm_a": ["x"], "llm_b": ["y"], "outcome": [1], "cost_a": [0.1]},
}
READERS = {
    "agents": (read_agents,),
    "queries": (read_queries, Questions.read, read_asked),
    "scores": (LLMDataset.read,),
    "pairs": (lambda path: list(read_judgements(path)),),
    "roles.toml": (read_roles,),
    "prices.json": (read_prices,),
    "feedback.jsonl": (FeedbackLog.read,),
    "weights.json": (FusionWeights.load,),
}


@pytest.fixture(scope="module")
def whole_files(pool, word_cards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for name, columns in TABLES.items():
        for ending in ENDINGS:
            write_table(folder / f"{name}{ending}", columns)
    role = {"name": "a", "description": "adds", "prompt": "Add.", "domain": "sums"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in role.items()]
    (folder / "roles.toml").write_text("\n".join(["[[role]]", *lines]))
    (folder / "prices.json").write_text('{"x": [1, 2]}')
    FusionWeights().save(folder / "weights.json")
    router = MoMARouter.from_cards(word_cards, llms=pool, encoder=ENCODER)
    router.learn(Learning(log=folder / "feedback.jsonl"))
    router.feedback(router.choose_llm("why"), 0.5)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=300)
@given(st.data(), st.integers(0), st.sampled_from([0, 0, 1, 20]), st.binary(max_size=9))
def test_tables_of_any_bytes(whole_files, tmp_path_factory, data, at, out, bytes_in):
    name = data.draw(st.sampled_from(sorted(whole_files)))
    marks = [bytes_in, b"NaN", b"1e999", b"9" * 5_000, b'"', b"null", b"[", b"{", DEEP.encode()]
    mark = data.draw(st.sampled_from(marks))
    content = whole_files[name]
    at %= len(content) + 1
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content[:at] + mark + content[at + out :])
    for read in READERS.get(name) or READERS[path.stem]:
        with suppress(MoMAError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a line that a crash cut off
            read(path)


@settings(max_examples=150)
@given(st.text(max_size=60), st.integers(0, 400), st.sampled_from(["", *"=[]'\"\\{}\n"]))
def test_states_of_any_text(text, at, mark):
    whole = StateMachine(
        [
            State("A", keywords=("a",), patterns=("b+",), threshold=0.5, sticky=2),
            State("B", events=("e",), agents=("x",)),
            State("C", all_of=("A", "B")),
        ]
    ).to_toml()
    for source in (text, whole[:at] + mark + text + whole[at:], whole[:at]):
        with suppress(InvalidStatesError):
            StateMachine.from_toml(source, ENCODER).next(RoutingState(), Query("a b c"))


@pytest.mark.parametrize(
    "text",
    [
        "[[states]]\nname = 'A'\nkeywords = ['x']\nthreshold = nan",
        "[[states]]\nname = 'A'\nkeywords = ['x']\npriority = 1" + "0" * 5_000,
        "x = " + "[" * 20_000,
        "x = " + "{a=" * 5_000 + "1" + "}" * 5_000,
        "[[states]]\nname = 'A'\nall_of = ['A']",
    ],
    ids=["nan", "huge", "deep list", "deep table", "itself"],
)
def test_states_of_odd_numbers_and_depth(text):
    with pytest.raises(InvalidStatesError):
        StateMachine.from_toml(text)


def _nested(inner):
    return st.lists(inner) | st.dictionaries(st.text(), inner)


plain = st.recursive(odd | st.text(max_size=5), _nested)


@settings(max_examples=100)
@given(data=st.data(), value=plain)
def test_values_of_any_dict(data, value):
    whole = {
        "decision": RoutingDecision("llm", ("big",), 0.8, cost=0.1).to_dict(),
        "state": json.loads(json.dumps(asdict(RoutingState(("A",), 1, "x")))),
    }
    name, text = data.draw(damaged(whole))
    try:
        changed = json.loads(text)
    except RecursionError:
        return
    for rebuild, given_ in (
        (RoutingDecision.from_dict, changed if name == "decision" else value),
        (RoutingState.of, changed if name == "state" else value),
    ):
        with suppress(MoMAError):
            rebuild(given_)


@pytest.mark.parametrize("content", [b"", b"\0", b"SQLite format 3\0", b"{}", b"\xff" * 9_000])
def test_a_store_of_any_bytes(tmp_path, content):
    (tmp_path / "chroma.sqlite3").write_bytes(content)
    with suppress(RegistryError):
        assert not ChromaRegistry(tmp_path, "hash-64", 64).load()  # nothing was in it: it is made


def test_a_store_of_another_program(tmp_path):
    with sqlite3.connect(tmp_path / "chroma.sqlite3") as other:
        other.execute("create table collections (a int)")
    other.close()
    with pytest.raises(RegistryError, match="undamaged"):
        ChromaRegistry(tmp_path, "hash-64", 64)


def test_cards_keep_any_number_and_no_bottomless_metadata(tmp_path):
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidCardError, match="metadata"):
        AgentCard("a", "adds", metadata={"deep": deep})
    card = AgentCard("a", "adds", metadata={"most": float("inf"), "digits": 10**30})
    router = MoMARouter.from_cards([card], llms=None, encoder=ENCODER)
    router.save(tmp_path / "files")
    assert MoMARouter.load(tmp_path / "files", encoder=ENCODER).agents.get("a") == card
    router = MoMARouter.from_cards([card], path=tmp_path / "chroma", llms=None, encoder=ENCODER)
    router.agents.refresh()
    assert router.agents.get("a") == card
    router.close()


def test_numbers_that_are_none_do_not_reach_a_gate(saved, tmp_path):
    for at in ("threshold", "fits"):
        shutil.copytree(saved, tmp_path / at)
        document = json.loads((saved / "ranker.json").read_text())
        if at == "fits":
            document["gate"]["fits"]["top"] = float("nan")
        else:
            document["gate"]["threshold"] = float("nan")
        (tmp_path / at / "ranker.json").write_text(json.dumps(document))
        with pytest.raises(ArtifactError, match="NaN is no number"), warnings.catch_warnings():
            MoMARouter.load(tmp_path / at, encoder=ENCODER)
