"""Labelled data in, the report out: parquet schemas and the figures of `moma eval agents`."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moma_core import AgentCard, MoMARouter
from moma_core.agents.data import LabelledQueries, read_agents, read_queries, with_examples
from moma_core.errors import DuplicateNameError, InvalidCardError, InvalidDataError
from moma_core.testing import HashEncoder
from moma_core.training.evaluate_agents import ToldEncoder, evaluate_agents

KEYS = [
    "n_agents",
    "n_test",
    "in_scope_top1",
    "top5",
    "recall_at_5",
    "oos_auroc",
    "kept_in_scope_top1",
    "oos_recall",
    "encode_ms_p50",
    "route_ms_p50",
    "route_ms_p95",
]
ENCODER = HashEncoder()
NONE = LabelledQueries((), ())


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def labelled(*rows):
    return LabelledQueries(tuple(row[0] for row in rows), tuple(tuple(row[1:]) for row in rows))


def report(cards, train, test, **given):
    return evaluate_agents(cards, train, test, encoder=ENCODER, **given)


TEST = labelled(
    ("rain snow wind", "weather"),
    ("french german", "translator"),
    ("sum times rain", "calculator", "weather"),
    ("zebra okapi",),
)


def test_agents_from_parquet(tmp_path):
    path = write(
        tmp_path / "a.parquet",
        name=["weather", "getUser", "long"],
        description=["Forecast", None, "x" * 20_000],
        category=["outside", "", None],
        other=[1, 2, 3],
    )
    cards = read_agents(path)
    assert [card.name for card in cards] == ["weather", "getUser", "long"]
    assert [card.description for card in cards[:2]] == ["Forecast", "get user"]
    assert [card.categories for card in cards] == [("outside",), (), ()]
    bare = read_agents(write(tmp_path / "b.parquet", name=["a"], description=["b"]))
    assert bare == [AgentCard("a", "b")]


def test_queries_from_parquet(tmp_path):
    path = write(
        tmp_path / "q.parquet",
        query=["one", "two", "three", "four", " \n", "", None],
        agents=[["a"], ["a", "b", "a"], [], None, ["a"], [], ["a"]],
    )
    queries = read_queries(path)
    assert queries.agents == (("a",), ("a", "b"), (), ())
    assert queries.negatives() == ("three", "four")
    assert len(queries) == 4


def test_unreadable_files(tmp_path):
    (tmp_path / "text.parquet").write_text("not parquet")
    for read in (read_agents, read_queries):
        with pytest.raises(InvalidDataError, match=r"text\.parquet"):
            read(tmp_path / "text.parquet")
        with pytest.raises(InvalidDataError, match=r"missing\.parquet"):
            read(tmp_path / "missing.parquet")
        with pytest.raises(InvalidDataError, match="are missing"):
            read(write(tmp_path / "other.parquet", other=["x"]))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"query": [3], "agents": [["a"]]}, "row 1"),
        ({"query": ["ok"], "agents": [3]}, "row 1"),
    ],
)
def test_unfit_rows(tmp_path, columns, says):
    with pytest.raises(InvalidDataError, match=says):
        read_queries(write(tmp_path / "q.parquet", **columns))


@pytest.mark.parametrize("name", [None, "", 3, "x" * 999])
def test_unfit_agent_names(tmp_path, name):
    with pytest.raises(InvalidCardError):
        read_agents(write(tmp_path / "a.parquet", name=[name], description=["x"]))


def test_examples_join_their_agents():
    cards = [AgentCard("a", "x"), AgentCard("b", "y", examples=("old",))]
    queries = labelled(("one", "a"), ("both", "a", "b"), ("none",), ("x" * 9_000, "b"))
    first, second = with_examples(cards, queries)
    assert first.examples == ("one", "both")
    assert second.examples[0] == "both"
    assert len(second.examples[1]) == 4_096
    with pytest.raises(InvalidDataError, match="'gone'"):
        with_examples(cards, labelled(("x", "gone")))


def test_shots_are_drawn_with_a_seed():
    cards = [AgentCard("a", "x"), AgentCard("b", "y")]
    queries = labelled(*((f"query {i}", "ab"[i % 2]) for i in range(40)))
    drawn = [with_examples(cards, queries, 3, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(card.examples) == 3 for card in drawn[2])
    assert [len(card.examples) for card in with_examples(cards, queries, 99)] == [20, 20]


def test_the_report(word_cards):
    train = labelled(*((e, card.name) for card in word_cards for e in card.examples), ("lion",))
    told = []
    found = report(word_cards, train, TEST, progress=lambda *step: told.append(step))
    assert list(found) == KEYS
    assert found["n_agents"] == 3
    assert found["n_test"] == 4
    assert found["in_scope_top1"] == found["top5"] == found["recall_at_5"] == 1.0
    assert found["oos_auroc"] == 1.0
    assert found["oos_recall"] == 1.0
    assert 0 <= found["kept_in_scope_top1"] <= 1
    assert 0 < found["encode_ms_p50"] <= found["route_ms_p50"] <= found["route_ms_p95"]
    assert told


def test_the_bar_moves_by_queries(word_cards):
    told = []
    many = labelled(*((f"rain snow {i}", "weather") for i in range(1200)))
    report(word_cards, NONE, many, progress=lambda *each: told.append(each))
    steps = [done for what, done, total in told if what == "routing" and total == 1200]
    assert steps == [512, 1024, 1200]
    assert [done for what, done, _ in told if what == "timing"] == list(range(300))


def test_several_wanted_agents_count_by_their_share():
    cards = [AgentCard(f"agent{i}", f"only{i}") for i in range(9)]
    wanted = [f"agent{i}" for i in range(8)]
    found = report(cards, NONE, labelled(("only0 only1", *wanted)))
    assert found["in_scope_top1"] == found["top5"] == 1.0
    assert 4 / 8 <= found["recall_at_5"] <= 5 / 8


def test_an_empty_train_file_measures_descriptions(word_cards):
    bare = [AgentCard(card.name, card.description, examples=("ignored",)) for card in word_cards]
    assert report(bare, NONE, TEST)["in_scope_top1"] == 1.0


def test_figures_without_queries_are_none(word_cards):
    inside = report(word_cards, NONE, labelled(("rain snow", "weather")))
    assert inside["oos_auroc"] is inside["oos_recall"] is None
    outside = report(word_cards, NONE, labelled(("zebra",)))
    assert outside["in_scope_top1"] is outside["top5"] is outside["oos_auroc"] is None


def test_no_agents_and_no_queries():
    found = report([], NONE, labelled(("zebra",)))
    assert (found["n_agents"], found["oos_recall"]) == (0, 1.0)
    with pytest.raises(InvalidDataError, match="no rows"):
        report([], NONE, NONE)


def test_unknown_and_repeated_agents(word_cards):
    for train, test in ((labelled(("x", "gone")), TEST), (NONE, labelled(("x", "gone")))):
        with pytest.raises(InvalidDataError, match="'gone'"):
            report(word_cards, train, test)
    with pytest.raises(DuplicateNameError):
        report([*word_cards, word_cards[0]], NONE, TEST)


def test_it_measures_what_users_get(minilm):
    cards = [
        AgentCard("weather", "Weather forecast for a place"),
        AgentCard("bank", "Shows balances and makes payments"),
        AgentCard("travel", "Books flights and hotels"),
    ]
    texts = ("will it rain?", "Translate 'pay the rent' to French", "a room in Paris", "prove it")
    told = ToldEncoder(minilm, lambda *_: None)
    alone, wrapped = (
        MoMARouter.from_cards(cards, llms=None, encoder=each).rank(list(texts), 3)
        for each in (minilm, told)
    )
    for mine, its in zip(alone, wrapped, strict=True):
        assert mine.names == its.names
        assert mine.probability == pytest.approx(its.probability, abs=1e-4)
        assert mine.fits == its.fits
