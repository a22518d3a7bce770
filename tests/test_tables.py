"""Tables in and out: every format reads what it wrote, and an error names the true line."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moma_core import AgentCard, InvalidInputError, LLMDataset, MissingExtraError
from moma_core._tables import ENDINGS, names_in, read_table, write_table
from moma_core.agents.data import read_agents, read_queries, write_agents
from moma_core.errors import InvalidCardError, InvalidDataError
from moma_core.training.collect import Questions
from moma_core.training.judgements import holds_pairs, read_judgements

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), min_size=1, max_size=12)
VISIBLE = TEXT.filter(lambda text: text.strip())


@pytest.mark.parametrize("ending", ENDINGS)
@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.tuples(VISIBLE, st.lists(TEXT, max_size=2), st.floats(0, 1)), min_size=1))
def test_every_format_gives_back_what_was_written(ending, rows):
    queries, names, scores = map(list, zip(*rows, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"t{ending}")
        write_table(path, {"query": queries, "agents": names, "score|x": scores})
        table = read_table(path, ("query", "agents"))
        assert list(table.column("query")) == queries
        assert [names_in(each) for each in table.column("agents")] == names
        assert np.array_equal(table.numbers("score|x"), scores)
        assert Questions.read(path).texts == tuple(dict.fromkeys(queries))


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_agents_queries_and_scores_in_every_format(tmp_path, ending, cards):
    agents, asked, scored = (tmp_path / f"{name}{ending}" for name in ("a", "q", "s"))
    write_agents(cards, agents)
    assert read_agents(agents) == list(cards)
    write_table(asked, {"query": ["one", "two"], "agents": [["a", "b"], []]})
    assert read_queries(asked).agents == (("a", "b"), ())
    write_table(scored, {"query": ["one", "two"], "score|x": [1.0, None], "cost|x": [0.1, 0.2]})
    data = LLMDataset.read(scored)
    assert data.scores[:, 0].tolist()[0] == 1.0
    assert np.isnan(data.scores[1, 0])
    pair = {"query": ["q"], "llm_a": ["x"], "llm_b": ["y"], "outcome": [3], "cost_a": [0.5]}
    write_table(scored, pair)
    assert holds_pairs(scored)
    [judged] = read_judgements(scored)
    assert (judged.outcome.tolist(), judged.cost_a.tolist()) == ([3], [0.5])


CSV = 'query,agents,score|x,cost|x\n"two\nlines",a,1,0\n\nthree,a,{score},0\n'


@pytest.mark.parametrize(
    ("name", "content", "read", "says"),
    [
        ("q.csv", CSV.format(score="much"), LLMDataset.read, r"q\.csv, line 5.*'much'"),
        ("q.csv", CSV.format(score="7"), LLMDataset.read, r"q\.csv, line 5 has 7.0"),
        ("q.csv", "query,agents\none,a,b\n", read_queries, r"line 2 has 3 cells and the header 2"),
        ("q.csv", 'query,agents\n"open,a\n', read_queries, r"line 2 cannot be read"),
        ("q.csv", "query,query\none,a\n", read_queries, "a column twice"),
        ("q.tsv", "Query\tagents\none\ta\n", read_queries, "Did you mean 'Query'"),
        ("q.jsonl", '\n{"query": "x"}\n{', Questions.read, r"q\.jsonl, line 3 is not JSON"),
        ("q.jsonl", '\n\n{"query": " "}\n', Questions.read, r"q\.jsonl, line 3 has no query"),
        ("q.jsonl", '\n[1]\n', Questions.read, r"line 2 is no JSON object"),
        ("q.jsonl", '{"query": "x", "agents": [3]}', read_queries, "line 1 needs a list of names"),
        ("q.xlsx", "PK", read_queries, "ends in .csv, .tsv, .jsonl, .parquet"),
        ("a.csv", "name,description\n x ,y\n", read_agents, r"a\.csv, line 2: agent name must"),
        ("p.csv", "query,llm_a,llm_b,outcome\nq,x,y,1\nq,x,x,1\n",
         lambda path: list(read_judgements(path)), r"p\.csv, line 3.*with itself"),
        ("p.csv", "query,llm_a,llm_b,outcome\nq,x,y,most\n",
         lambda path: list(read_judgements(path)), r"p\.csv, line 2.*'most'"),
    ],
)  # fmt: skip
def test_an_error_names_the_true_line(tmp_path, name, content, read, says):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises((InvalidDataError, InvalidCardError), match=says):
        read(tmp_path / name)


def test_what_cannot_be_read_or_written(tmp_path):
    (tmp_path / "latin.csv").write_bytes("query,agents\nfrüh,a\n".encode("latin-1"))
    with pytest.raises(InvalidDataError, match="UTF-8"):
        read_queries(tmp_path / "latin.csv")
    with pytest.raises(InvalidDataError, match="cannot read"):
        read_queries(tmp_path / "none.csv")
    with pytest.raises(InvalidInputError, match="Let it end in"):
        write_agents([AgentCard("a", "b")], tmp_path / "agents.docx")


def test_only_parquet_needs_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    path = tmp_path / "agents.csv"
    path.write_text("\ufeffname,description\nweather,Forecast\n", encoding="utf-8")
    assert read_agents(path) == [AgentCard("weather", "Forecast")]
    with pytest.raises(MissingExtraError, match=r"moma-router\[train\]"):
        write_agents([AgentCard("a", "b")], tmp_path / "agents.parquet")


def test_parquet_may_be_called_anything(tmp_path):
    write_table(tmp_path / "t.parquet", {"query": ["x"], "agents": [["a"]]})
    (tmp_path / "t.parquet").rename(tmp_path / "t.data")
    assert read_queries(tmp_path / "t.data").texts == ("x",)
    assert json.dumps(read_table(tmp_path / "t.data").where(0)).endswith('t.data, row 1"')
