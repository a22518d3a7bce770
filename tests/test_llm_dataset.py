"""Reading scored queries, and filling in what was not measured."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moma_core import LLMDataset, MissingExtraError
from moma_core.errors import InvalidDataError
from moma_core.llms.features import FEATURES, QueryFeatures, text_features
from moma_core.llms.training import abilities, fill_costs, fill_scores


def columns(**changes):
    good = {
        "query": ["a?", "b?", "c?"],
        "split": ["train", "val", "train"],
        "score|x": [1.0, None, 0.0],
        "cost|x": [0.1, None, 0.2],
        "score|y": [1, 0, 1],
        "cost|y": [1.0, 1.0, 1.0],
    }
    return {name: v for name, v in {**good, **changes}.items() if v is not None}


def test_reads_parquet(tmp_path):
    pq.write_table(pa.table(columns()), tmp_path / "d.parquet")
    data = LLMDataset.read(tmp_path / "d.parquet")
    assert (len(data), data.llms, data.splits) == (3, ("x", "y"), ("train", "val", "train"))
    assert np.isnan(data.scores[1, 0])
    assert data.scores[:, 1].tolist() == [1, 0, 1]
    assert data.only("val").queries == ("b?",)
    assert data.pool(["y"]).costs.tolist() == [[1], [1], [1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": None}, "lacks the column 'query'"),
        ({"cost|y": None}, r"lacks the column 'cost\|y'"),
        ({"score|x": None, "score|y": None}, r"lacks the column 'score\|<llm>'"),
        ({"score|y": [1, 2, 0]}, r"row 2 has 2.0 in the column 'score\|y'"),
        ({"cost|y": [1.0, -1.0, 0.0]}, r"has -1.0 in the column 'cost\|y'"),
        ({"cost|y": [1.0, float("inf"), 0.0]}, r"has inf in the column 'cost\|y'"),
        ({"score|y": pa.nulls(3, pa.float64())}, "empty"),
        ({"score|y": ["a", "b", "c"]}, "must hold numbers"),
        ({"query": ["a?", " ", "c?"]}, "row 2 has no query"),
        ({"query": ["a?", None, "c?"]}, "row 2 has no query"),
        ({"query": [1, 2, 3]}, "row 1 has no query"),
    ],
)
def test_bad_tables_say_what_is_wrong(changes, message):
    with pytest.raises(InvalidDataError, match=message):
        LLMDataset.from_table(pa.table(columns(**changes)))


def test_unreadable_files(tmp_path):
    with pytest.raises(InvalidDataError, match="cannot read"):
        LLMDataset.read(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InvalidDataError, match="cannot read"):
        LLMDataset.read(tmp_path / "bad.parquet")


def test_empty_and_misshapen():
    with pytest.raises(InvalidDataError, match="at least one query"):
        LLMDataset((), ("x",), np.zeros((0, 1)), np.zeros((0, 1)))
    with pytest.raises(InvalidDataError, match="shape"):
        LLMDataset(("a",), ("x",), np.zeros((1, 2)), np.zeros((1, 1)))
    with pytest.raises(InvalidDataError, match="twice"):
        LLMDataset(("a",), ("x", "x"), np.zeros((1, 2)), np.zeros((1, 2)))
    data = LLMDataset.from_table(pa.table(columns()))
    with pytest.raises(InvalidDataError, match=r"score\|z"):
        data.pool(["z"])
    with pytest.raises(InvalidDataError, match="no row of split"):
        data.only("test")


def test_fingerprint_ignores_order():
    data = LLMDataset.from_table(pa.table(columns()))
    shuffled = data.take([2, 0, 1]).pool(["y", "x"])
    assert shuffled.fingerprint() == data.fingerprint()
    assert data.take([0, 1]).fingerprint() != data.fingerprint()


def rasch(n=600, seed=0):
    rng = np.random.default_rng(seed)
    ease, ability = rng.normal(0, 1.5, n), np.array([-1.0, 0.0, 0.5, 1.5])
    chance = 1 / (1 + np.exp(-(ease[:, None] + ability)))
    return chance, (rng.random(chance.shape) < chance).astype(float)


def test_abilities_order_the_llms():
    _, scores = rasch()
    assert (np.diff(abilities(scores)[1]) > 0.2).all()


def test_missing_scores_follow_difficulty_and_ability():
    chance, scores = rasch()
    inputs = np.random.default_rng(1).normal(size=(600, 8)).astype(np.float32)
    hidden = scores.copy()
    hidden[300:, 3] = np.nan  # the best LLM was not asked the second half
    filled = fill_scores(hidden, inputs)
    assert np.array_equal(filled[:300], scores[:300])
    assert abs(filled[300:, 3].mean() - chance[300:, 3].mean()) < 0.06
    assert np.corrcoef(filled[300:, 3], chance[300:, 3])[0, 1] > 0.6
    assert fill_scores(scores, inputs) is scores


def test_missing_scores_use_what_was_measured_nearby():
    rng = np.random.default_rng(0)
    region = np.arange(400) % 2
    inputs = np.stack([region, 1 - region], 1).astype(np.float32) + rng.normal(0, 0.01, (400, 2))
    scores = np.full((400, 3), 0.5)
    scores[:, 2] = region  # right in one region, wrong in the other
    scores[rng.random(400) < 0.5, 2] = np.nan
    filled = fill_scores(scores, inputs.astype(np.float32), regions=2)[:, 2]
    assert filled[region == 1].mean() > 0.8
    assert filled[region == 0].mean() < 0.2


def test_missing_costs_keep_ratios_and_free_stays_free():
    query, ratio = np.array([1.0, 2.0, 4.0, 8.0]), np.array([1.0, 10.0, 0.0])
    true = 1e-4 * query[:, None] * ratio
    hidden = true.copy()
    hidden[1, 1] = hidden[2, 2] = hidden[3, 0] = np.nan
    assert fill_costs(hidden) == pytest.approx(true, rel=0.35, abs=1e-12)
    assert fill_costs(true) is true


def test_text_features():
    rows = text_features(["def f(x): return 1", "Is it not 12 or 345?\nA. yes\nB. no", "", "é" * 9])
    named = [dict(zip(FEATURES, row, strict=True)) for row in rows]
    assert [row["code"] for row in named] == [1, 0, 0, 0]
    assert named[1]["options"] == 2
    assert named[1]["numbers"] == pytest.approx(2**0.5)
    assert named[1]["negation"] == 1
    assert named[3]["non_ascii"] == 1
    assert np.isfinite(rows).all()
    assert text_features([]).shape == (0, len(FEATURES))


def test_join_survives_odd_text():
    features = QueryFeatures.fit(["same"] * 5)
    joined = features.join(["x" * 1_000_000, "\ud800"], np.zeros((2, 3), np.float32))
    assert joined.shape == (2, 3 + len(FEATURES))
    assert np.isfinite(joined).all()
    assert np.abs(joined).max() <= 4 * features.weight + 1e-6


def test_parquet_without_its_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r'pip install "moma-router\[train\]"'):
        LLMDataset.read(tmp_path / "scored.parquet")
