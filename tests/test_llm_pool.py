"""Adding, removing and repricing LLMs of a trained pool, without retraining."""

import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from moma_core import CascadeRouter, LLMCard, LLMDataset, LLMRouter, NoTargetError, UnknownNameError
from moma_core.cli.llms import app
from moma_core.errors import DuplicateNameError, InvalidCardError, InvalidDataError
from moma_core.llms.heads.adapted import GAMMA, fit_blend, similarity
from moma_core.llms.training import train, train_cascade


class TopicEncoder:
    fingerprint, dimension = "topics-2", 2

    def encode(self, texts):
        return np.array([[1, 0] if "sum" in t else [0, 1] for t in texts], np.float32)


def pool(n=200, seed=0):
    """s is right on sums, l on laws; new is right on laws too."""
    rng = np.random.default_rng(seed)
    law = rng.integers(0, 2, n)
    chance = np.where(law[:, None] == 0, [0.9, 0.2, 0.2], [0.2, 0.9, 0.8])
    queries = tuple(("law" if each else "sum") + f" {i}?" for i, each in enumerate(law))
    costs = 1e-4 * np.array([1.0, 4.0, 2.0]) * rng.uniform(0.9, 1.1, (n, 3))
    scores = (rng.random((n, 3)) < chance).astype(float)
    return LLMDataset(queries, ("s", "l", "new"), scores, costs)


@pytest.fixture(scope="module")
def router():
    prices = {"s": [1, 1], "l": [4, 4]}
    return train(pool().pool(["s", "l"]), TopicEncoder(), head="clusters", prices=prices)


CARD = LLMCard("new", 2.0, 2.0)
TEXTS = ["sum 1?", "law 1?"]


def predict(router):
    return router.predict(TEXTS, TopicEncoder().encode(TEXTS))


def test_a_new_llm_learns_from_a_few_queries(router):
    start = time.perf_counter()
    grown = router.add(CARD, pool(80, seed=3), TopicEncoder())
    assert time.perf_counter() - start < 1.0
    assert grown.names == (*router.names, "new")
    quality, costs = predict(grown)
    assert quality[1, 2] > quality[0, 2] + 0.3
    assert costs[:, 2] == pytest.approx([2e-4] * 2, rel=0.2)
    for before, after in zip(predict(router), (quality, costs), strict=True):
        assert after[:, :2] == pytest.approx(before, rel=1e-5)


def test_of_the_other_llms_the_scores_are_enough(router, tmp_path):
    scored = pool(80, seed=3)
    columns = {f"score|{name}": scored.scores[:, i] for i, name in enumerate(scored.llms)}
    table = pa.table({"query": scored.queries, "cost|new": scored.costs[:, 2], **columns})
    pq.write_table(table, tmp_path / "new.parquet")
    data = LLMDataset.read(tmp_path / "new.parquet", llm="new")
    grown, full = (router.add(CARD, each, TopicEncoder()) for each in (data, scored))
    for found, expected in zip(predict(grown), predict(full), strict=True):
        assert found == pytest.approx(expected)
    with pytest.raises(InvalidDataError, match=r"lacks the column 'cost\|s'"):
        LLMDataset.read(tmp_path / "new.parquet")
    with pytest.raises(InvalidDataError, match=r"lacks the column 'cost\|l'"):
        LLMDataset.read(tmp_path / "new.parquet", llm="l")
    with pytest.raises(InvalidDataError, match=r"lacks the column 'score\|typo'"):
        LLMDataset.read(tmp_path / "new.parquet", llm="typo")


def test_a_card_alone_gives_a_cautious_guess(router):
    quality, costs = predict(router.add(LLMCard("twin", 4.0, 4.0)))
    base = predict(router)
    like = router.names.index("l")
    assert (quality[:, 2] < base[0][:, like]).all()
    assert costs[:, 2] == pytest.approx(base[1][:, like], rel=1e-6)
    published = router.add(LLMCard("pub", 1.0, 1.0, metadata={"quality": 0.7}))
    assert predict(published)[0][:, 2] == pytest.approx([0.65] * 2, abs=1e-6)


def test_removing_and_repricing_hold_at_once(router):
    left = router.remove("s")
    assert left.names == ("l",)
    assert left.best_single == "l"
    assert predict(left)[0][:, 0] == pytest.approx(predict(router)[0][:, 0])
    cheap = router.reprice("l", 0.4, 0.4)
    assert predict(cheap)[1][:, 0] == pytest.approx(predict(router)[1][:, 0] / 10)
    assert cheap.card("l").output_price == 0.4
    free = router.reprice("l", 0.0, 0.0)
    assert predict(free)[1][:, 0] == pytest.approx([0, 0], abs=1e-8)
    again = router.reprice("s", 2, 2).add(CARD).remove("l")
    assert again.names == ("s", "new")


def test_a_changed_pool_survives_a_restart(router, tmp_path):
    grown = router.add(CARD, pool(50, seed=3), TopicEncoder()).remove("s")
    grown.save(tmp_path)
    loaded = LLMRouter.load(tmp_path)
    assert loaded.names == ("l", "new")
    for before, after in zip(predict(grown), predict(loaded), strict=True):
        assert np.array_equal(before, after)


def test_a_slow_llm_is_left_out_when_there_is_no_time(router):
    timed = router.reprice("l", 4, 4, latency=9.0).reprice("s", 1, 1, latency=0.4)
    assert timed.card("l").latency == 9.0
    assert timed.reprice("l", 5, 5).card("l").latency == 9.0
    table = timed.score("law 1?", TopicEncoder().encode(["law 1?"])[0])
    assert timed.select(table, "performance")[0] == "l"
    name, candidates = timed.select(table, "performance", max_latency=1.0)
    assert name == "s"
    assert len(candidates) == 1
    assert timed.select(table, "performance", max_latency=0.1)[0] == "s"


def test_measured_columns_sharpen_a_new_llm():
    """Where LLMs are lucky together, the level comes out truer than a small sample's mean."""
    rng = np.random.default_rng(0)
    errors = {"plain": [], "blend": []}
    for _ in range(200):
        predicted = rng.uniform(0.3, 0.8, (50, 4))
        luck = rng.normal(0, 0.3, 50)
        measured = predicted + luck[:, None] + rng.normal(0, 0.1, (50, 4))
        scores = predicted.mean(axis=1) + luck + rng.normal(0, 0.1, 50)
        found = fit_blend(np.zeros((50, 1), np.float32), predicted, scores, measured)
        assert 0 < found.error < 0.1
        level = found.bias + found.kernel_weights.sum()
        errors["blend"].append(np.full(4, 0.55) @ found.weights + level - 0.55)
        errors["plain"].append(scores.mean() - 0.55)
    assert np.std(errors["blend"]) < 0.6 * np.std(errors["plain"])


def test_a_new_llm_may_be_good_at_what_no_other_is():
    """Two topics; the others are alike on both, the new one is right on the second only."""
    rng = np.random.default_rng(0)
    topic = rng.integers(0, 2, 100)
    inputs = np.eye(2, dtype=np.float32)[topic] + rng.normal(0, 0.05, (100, 2)).astype(np.float32)
    predicted = np.full((100, 3), 0.5) + rng.normal(0, 0.02, (100, 3))
    scores = (rng.random(100) < np.where(topic, 0.9, 0.1)).astype(float)
    found = fit_blend(inputs, predicted, scores, (rng.random((100, 3)) < 0.5).astype(float))
    near = similarity(np.eye(2, dtype=np.float32), found.points, GAMMA)
    first, second = near @ found.kernel_weights + np.full(3, 0.5) @ found.weights + found.bias
    assert second - first > 0.5


def test_llms_added_one_after_the_other_keep_their_columns(router):
    first = router.add(CARD, pool(80, seed=3), TopicEncoder())
    other = pool(60, seed=4)
    renamed = LLMDataset(other.queries, ("s", "l", "more"), other.scores, other.costs)
    both = first.add(LLMCard("more", 1.0, 1.0), renamed, TopicEncoder())
    assert predict(both)[0][:, :3] == pytest.approx(predict(first)[0], abs=1e-6)
    copied = both.add(LLMCard("copy", 2.0, 2.0))
    assert predict(copied)[0][:, -1] == pytest.approx(predict(first)[0][:, 2] - 0.05, abs=1e-6)
    left = copied.remove("new").remove("copy")
    assert predict(left)[0][:, -1] == pytest.approx(predict(both)[0][:, -1], abs=1e-6)
    assert len(left.head.points) < len(both.head.points)


def test_the_command_line_changes_the_cascade_too(tmp_path):
    data = pool(120)
    answers = np.where(data.scores > 0, 0, 1).astype(np.int32)
    told = LLMDataset(data.queries, data.llms, data.scores, data.costs, answers=answers)
    train_cascade(told, TopicEncoder(), head="clusters").save(tmp_path)
    runner = CliRunner(env={"COLUMNS": "200"})
    for words, said in (
        (["remove", "s"], "2 LLMs now; its cascades ask"),
        (["price", "l", "--input", "1", "--output", "2", "--latency", "3"], "Repriced 'l'"),
        (["add", "fresh", "--input", "1", "--output", "2"], "on no cascade yet"),
    ):
        result = runner.invoke(app, [*words, "--router", str(tmp_path)])
        assert result.exit_code == 0, result.output
        assert said in result.output
    changed = CascadeRouter.load(tmp_path)
    assert changed.base.names == ("l", "new", "fresh")
    assert set(changed.shortlist) <= {"l", "new"}
    assert changed.base.card("l").latency == 3.0


def test_refusals(router):
    with pytest.raises(DuplicateNameError, match="in the pool"):
        router.add(LLMCard("s", 1, 1))
    with pytest.raises(InvalidDataError, match="too few"):
        router.add(CARD, pool(5), TopicEncoder())
    with pytest.raises(InvalidDataError, match="encoder"):
        router.add(CARD, pool(50))
    with pytest.raises(InvalidDataError, match=r"score\|other"):
        router.add(LLMCard("other", 1, 1), pool(50), TopicEncoder())
    with pytest.raises(UnknownNameError):
        router.remove("gone")
    with pytest.raises(NoTargetError, match="last"):
        router.remove("s").remove("l")
    with pytest.raises(InvalidCardError):
        router.reprice("s", -1, 1)
