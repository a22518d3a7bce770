"""``moma train llms`` and ``moma eval llms``: one strategy from training to measuring."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from moma_core import ArtifactError, CascadeRouter, LLMDataset
from moma_core.cli.main import app
from moma_core.errors import InvalidDataError


@pytest.fixture
def scored(tmp_path):
    """A cheap and a dear LLM; those that are right say the same."""
    rng = np.random.default_rng(0)
    ease = rng.normal(0, 1.5, 120)
    columns = {"query": [f"what is {i} plus {i}?" for i in range(120)]}
    for name, level, cost in (("small", 0.5, 1e-5), ("other", 0.4, 1.1e-5), ("large", 2.0, 1e-3)):
        right = rng.random(120) < 1 / (1 + np.exp(-ease - level))
        columns[f"score|{name}"] = right.astype(float)
        columns[f"cost|{name}"] = np.full(120, cost)
        columns[f"answer|{name}"] = np.where(right, "0", rng.integers(1, 99, 120).astype(str))
    path = tmp_path / "scored.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def run(*words):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])


def test_measures_what_was_trained(scored, tmp_path):
    pool, out = tmp_path / "pool", tmp_path / "report.json"
    given = ("train", "llms", "--data", scored, "--out", pool, "--head", "linear")
    measure = ("eval", "llms", "--router", pool, "--data", scored, "--out", out)
    assert run(*given, "--strategy", "cascade").exit_code == 0
    assert run(*measure).exit_code == 0
    assert json.loads(out.read_text())["calls"]["performance"] > 1
    assert run(*measure, "--strategy", "single").exit_code == 0
    assert "calls" not in json.loads(out.read_text())
    assert run(*given).exit_code == 0
    assert not (pool / "cascade.json").exists()
    assert run(*measure).exit_code == 0
    assert "calls" not in json.loads(out.read_text())
    with pytest.raises(ArtifactError, match="--strategy cascade"):
        CascadeRouter.load(pool)


def test_a_table_without_rows_is_refused(scored, tmp_path):
    empty = pq.read_table(scored).slice(0, 0)
    with pytest.raises(InvalidDataError, match="no row"):
        LLMDataset.from_table(empty)
    pq.write_table(empty, tmp_path / "empty.parquet")
    failed = run("train", "llms", "--data", tmp_path / "empty.parquet", "--out", tmp_path / "p")
    assert isinstance(failed.exception, InvalidDataError)
