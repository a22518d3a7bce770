"""``moma route --batch``: every row, in order, again after it was ended, in bounded memory."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from moma_core import AgentCard, ArtifactError, MoMARouter
from moma_core._tables import read_table, write_table
from moma_core.cli import batch
from moma_core.cli.main import app
from moma_core.errors import InvalidDataError

ROOT = Path(__file__).parent.parent
CARDS = [AgentCard("weather", "Weather forecast for a place"), AgentCard("bank", "Shows balances")]


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    folder = tmp_path_factory.mktemp("router")
    with MoMARouter.from_cards(CARDS, reranker=None) as made:
        made.save(folder)
    return folder


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(batch, "ROWS", 4)


def table(folder, texts, **columns):
    path = folder / "in.parquet"
    pq.write_table(pa.table({"query": texts, **columns}), path, row_group_size=3)
    return path


TEXTS = [
    "will it rain?",
    "prove it",
    None,
    "  ",
    "my balance",
    "snow in Oslo?",
    "why",
    "rain?",
    "x",
]


@pytest.mark.parametrize(
    ("one", "other"), [("csv", "jsonl"), ("tsv", "parquet"), ("parquet", "csv")]
)
def test_any_table_to_any_other(router, tmp_path, small_parts, one, other):
    source, out = tmp_path / f"in.{one}", tmp_path / f"out.{other}"
    texts = [text or "" for text in TEXTS if text != "  "]
    write_table(source, {"query": texts, "id": list(map(str, range(8)))})
    assert batch.route_file(source, out, router, "auto", 1) == 8
    found = read_table(out).columns
    assert [text or "" for text in found["query"]] == texts
    assert [int(each) for each in found["id"]] == list(range(8))
    assert [found["target"][i] for i in (0, 3)] == ["weather", "bank"]
    assert found["kind"][2] == "none"
    assert sorted(tmp_path.iterdir()) == sorted([source, out])
    write_table(source, {"query": ["x"], "kind": ["y"]})
    with pytest.raises(InvalidDataError, match="rename it"):
        batch.route_file(source, out, router, "auto", 1)


def test_every_row_in_order_beside_its_own_columns(router, tmp_path, small_parts):
    source, out = table(tmp_path, TEXTS, id=list(range(9))), tmp_path / "out.parquet"
    assert batch.route_file(source, out, router, "auto", 1) == 9
    rows = pq.read_table(out).to_pylist()
    assert [row["query"] for row in rows] == TEXTS
    assert [row["id"] for row in rows] == list(range(9))
    assert [row["kind"] for row in rows[2:4]] == ["none", "none"]
    with MoMARouter.load(router) as opened:
        for row in rows:
            if row["kind"] == "none":
                continue
            decision = opened.route(row["query"])
            assert (row["kind"], row["targets"]) == (decision.kind, list(decision.targets))
            assert row["probability"] == pytest.approx(decision.probability, abs=0.02)
            assert (row["cost"] is None) == (decision.cost is None)
    assert not list(tmp_path.glob("*.parts"))


def test_a_row_that_nobody_may_take(tmp_path):
    with MoMARouter.from_cards(CARDS, llms=None, reranker=None) as made:
        made.save(tmp_path / "router")
    source, out = (
        table(tmp_path, ["will it rain?", "Prove that primes never end."]),
        tmp_path / "out.parquet",
    )
    batch.route_file(source, out, tmp_path / "router", "auto", 1)
    assert pq.read_table(out)["kind"].to_pylist() == ["agent", "nobody"]
    assert "Add an agent" in pq.read_table(out)["reason"][1].as_py()


def test_it_goes_on_where_it_was_ended(router, tmp_path, small_parts, monkeypatch):
    source, out = table(tmp_path, TEXTS), tmp_path / "out.parquet"
    routed, inner = [], batch._route_part

    def ends_in_the_second(*given):
        routed.append(given[3])
        if len(routed) == 2:
            raise KeyboardInterrupt
        inner(*given)

    monkeypatch.setattr(batch, "_route_part", ends_in_the_second)
    with pytest.raises(typer.Exit):  # which says what is kept
        batch.route_file(source, out, router, "auto", 1)
    assert not out.exists()
    with pytest.raises(ArtifactError, match="another file, router or preference"):
        batch.route_file(source, out, router, "cost", 1)
    batch.route_file(source, out, router, "auto", 1)
    assert len(routed) == 4  # three parts, one of them twice
    assert pq.read_table(out)["query"].to_pylist() == TEXTS


RUN = """
import sys
from pathlib import Path
from moma_core.cli import batch
if __name__ == "__main__":
    batch.ROWS = 64
    batch.route_file(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), "auto", 2)
"""


def test_two_processes_killed_in_the_midst_lose_nothing(router, tmp_path, monkeypatch):
    texts = [f"will it rain in place {i}?" for i in range(320)]
    source, out = table(tmp_path, texts), tmp_path / "out.parquet"
    (tmp_path / "run.py").write_text(RUN)
    running = subprocess.Popen(  # noqa: S603
        [sys.executable, "run.py", str(source), str(out), str(router)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    parts = tmp_path / "out.parquet.parts"
    deadline = time.monotonic() + 60
    while not list(parts.glob("0*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert list(parts.glob("0*.parquet"))
    assert not out.exists()
    monkeypatch.setattr(batch, "ROWS", 64)
    batch.route_file(source, out, router, "auto", 1)
    found = pq.read_table(out)
    assert found["query"].to_pylist() == texts
    assert set(found["kind"].to_pylist()) == {"agent"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no parquet", "cannot be read as parquet"),
        ({"text": ["x"]}, "needs a column 'query'"),
        ({"query": [1]}, "needs a column 'query'"),
        ({"query": ["x"], "kind": ["y"]}, "'kind' already"),
        ({"query": pa.array([], pa.string())}, "no rows"),
    ],
    ids=["bytes", "no query", "numbers", "taken", "empty"],
)
def test_files_that_cannot_be_routed(router, tmp_path, content, says):
    source = tmp_path / "in.parquet"
    if isinstance(content, bytes):
        source.write_bytes(content)
    else:
        pq.write_table(pa.table(content), source)
    with pytest.raises(InvalidDataError, match=says):
        batch.route_file(source, tmp_path / "out.parquet", router, "auto", 1)


def test_the_command(router, tmp_path):
    source, out = table(tmp_path, TEXTS[:2]), tmp_path / "out.parquet"
    words = ["route", "--router", str(router), "--batch", str(source), "--workers", "1"]
    done = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert done.exit_code == 0
    assert "2 queries routed" in done.output
    for wrong in (
        words,
        ["route"],
        ["route", "rain", "--out", "x"],
        ["route", "rain", *words[3:5]],
    ):
        assert CliRunner().invoke(app, wrong).exit_code == 2


def test_dask_with_two_workers(router, tmp_path):
    pytest.importorskip("dask")
    texts = [f"will it rain in place {i}?" for i in range(400)]
    pq.write_table(pa.table({"query": texts}), tmp_path / "in.parquet", row_group_size=50)
    command = [sys.executable, "examples/dask_batch.py", str(router), str(tmp_path / "in.parquet")]
    done = subprocess.run(  # noqa: S603
        [*command, str(tmp_path / "out"), "2"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert "400 queries routed in 2 processes" in done.stdout
    found = pq.read_table(tmp_path / "out")
    assert found["query"].to_pylist() == texts
    assert set(found["target"].to_pylist()) == {"weather"}
