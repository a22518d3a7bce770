"""Heads, training, checkpoints and the LLM router, on a small pool made here."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core import (
    ArtifactError,
    Auto,
    Cost,
    InvalidInputError,
    LLMCard,
    LLMDataset,
    LLMRouter,
    NoTargetError,
    Performance,
    UnknownNameError,
)
from moma_core.errors import InvalidDataError, InvalidPreferenceError, ScoreError
from moma_core.llms.costs import PricedCosts, count_tokens, indicative_price
from moma_core.llms.heads import HEADS, TasksConfig, fit_head, head_choices
from moma_core.llms.heads.moe import MoEConfig, averaged, fit_moe
from moma_core.llms.heads.stack import fit_weights
from moma_core.llms.selection import choose
from moma_core.llms.training import fit_margin, fit_min_gain, fit_points, train
from moma_core.protocols import QualityHead
from moma_core.training.evaluate_llms import cost_of_score, evaluate_llms, score_at_cost, upper_hull

WORDS = {"maths": "sum prime integral digit", "law": "court statute tort appeal"}


class WordEncoder:
    """Counts known words; enough to tell two topics apart."""

    fingerprint, dimension = "words-9", 9

    def encode(self, texts):
        vocabulary = " ".join(WORDS.values()).split()
        counts = np.array([[t.count(w) for w in vocabulary] + [0.1] for t in texts], np.float32)
        return counts.reshape(-1, 9) / np.linalg.norm(counts.reshape(-1, 9), axis=1, keepdims=True)


def pool(n=240, seed=0):
    """maths-llm is right on maths, law-llm on law, big is often right and ten times dearer."""
    rng = np.random.default_rng(seed)
    topics = rng.integers(0, 2, n)
    queries = tuple(
        " ".join(rng.choice(list(WORDS.values())[t].split(), rng.integers(3, 9))) + f" {i}?"
        for i, t in enumerate(topics)
    )
    chance = np.where(topics[:, None] == 0, [0.95, 0.1, 0.8], [0.1, 0.95, 0.8])
    scores = (rng.random((n, 3)) < chance).astype(float)
    length = np.array([len(q) for q in queries])[:, None]
    costs = 1e-5 * length * np.array([1.0, 1.0, 10.0]) * rng.uniform(0.9, 1.1, (n, 3))
    return LLMDataset(queries, ("maths-llm", "law-llm", "big"), scores, costs)


@pytest.fixture(scope="module")
def router():
    return train(pool(), WordEncoder())


@pytest.fixture
def tables(router):
    texts = ["prime sum digit 7?", "court appeal statute 7?"]
    return router.score_batch(texts, WordEncoder().encode(texts))


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_heads_learn_the_topics(kind):
    data = pool()
    cards = tuple(LLMCard(name, 1, 1) for name in data.llms)
    encoder = WordEncoder()
    topics = tuple(
        "law" if {*text.split()} & {*WORDS["law"].split()} else "maths" for text in data.queries
    )
    config = TasksConfig(topics) if kind == "tasks" else None
    head = fit_head(kind, encoder.encode(data.queries), data.scores, cards, config=config)
    assert isinstance(head, QualityHead)
    predicted = head.predict(encoder.encode(["prime sum digit", "court appeal statute"]))
    assert predicted.shape == (2, 3)
    assert predicted.dtype == np.float32
    assert predicted.min() >= 0
    assert predicted.max() <= 1
    assert predicted[0, 0] > predicted[0, 1] + 0.1
    assert predicted[1, 1] > predicted[1, 0] + 0.1


def test_averaged_nets_answer_with_their_mean():
    data, rng = pool(60), np.random.default_rng(0)
    inputs = WordEncoder().encode(data.queries)
    cards = tuple(LLMCard(name, 1, 1) for name in data.llms)
    for experts in (1, 3):
        config = MoEConfig(experts=experts, top=2, width=4, epochs=2)
        nets = [fit_moe(inputs, data.scores, cards, config, rng) for _ in range(3)]
        mean = np.mean([net.outputs(inputs) for net in nets], axis=0)
        assert np.ptp([net.outputs(inputs) for net in nets], axis=0).max() > 1e-3
        assert averaged(nets).outputs(inputs) == pytest.approx(mean, abs=1e-5)
        assert averaged(nets).outputs(inputs[:1]) == pytest.approx(mean[:1], abs=1e-5)


@pytest.mark.parametrize("kind", head_choices())
def test_saved_routers_predict_the_same(kind, tmp_path):
    texts = ["prime sum", "court appeal", "nothing known"]
    vectors = WordEncoder().encode(texts)
    trained = train(pool(80), WordEncoder(), head=kind)
    trained.save(tmp_path)
    loaded = LLMRouter.load(tmp_path)
    for before, after in zip(
        trained.predict(texts, vectors), loaded.predict(texts, vectors), strict=True
    ):
        assert np.array_equal(before, after)
    assert loaded.names == trained.names
    assert loaded.metadata == trained.metadata
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head.json", "head.safetensors"]


def test_order_of_rows_and_llms_cannot_matter(router):
    data = pool()
    shuffled = data.take(np.random.default_rng(3).permutation(len(data))).pool(
        ["big", "maths-llm", "law-llm"]
    )
    other = train(shuffled, WordEncoder())
    assert other.names == router.names
    texts = ["prime sum", "court"]
    vectors = WordEncoder().encode(texts)
    for a, b in zip(other.predict(texts, vectors), router.predict(texts, vectors), strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def test_the_seed_decides():
    texts = ["prime sum", "court"]
    vectors = WordEncoder().encode(texts)
    same, again, other = (train(pool(80), WordEncoder(), seed=s) for s in (5, 5, 6))
    assert np.array_equal(same.predict(texts, vectors)[0], again.predict(texts, vectors)[0])
    assert not np.array_equal(same.predict(texts, vectors)[0], other.predict(texts, vectors)[0])


def test_missing_scores_are_not_zeros():
    data = pool()
    scores, costs = data.scores.copy(), data.costs.copy()
    gone = np.random.default_rng(0).random(len(data)) < 0.7
    scores[gone, 2] = costs[gone, 2] = np.nan
    thin = train(LLMDataset(data.queries, data.llms, scores, costs), WordEncoder())
    texts = ["prime sum digit", "court appeal"]
    predicted, spent = thin.predict(texts, WordEncoder().encode(texts))
    assert predicted[:, thin.names.index("big")].min() > 0.7
    assert spent[:, thin.names.index("big")].min() > 3 * spent[:, 1].min()


@pytest.mark.parametrize("n", [8, 21])
def test_tiny_pools_train(n):
    tiny = train(pool(n), WordEncoder())
    assert np.isfinite(tiny.score("sum", np.zeros(9, np.float32)).scores).all()


def test_one_llm_and_constant_scores_train():
    data = pool(40).pool(["big"])
    same = LLMDataset(data.queries, data.llms, np.ones((40, 1)), np.zeros((40, 1)))
    table = train(same, WordEncoder()).score("sum", np.zeros(9, np.float32))
    assert table.scores[0] > 0.9
    assert table.costs.tolist() == [0.0]


def test_training_refuses():
    with pytest.raises(InvalidInputError, match=r"auto, classifier, clusters"):
        train(pool(20), WordEncoder(), head="magic")
    with pytest.raises(InvalidDataError, match="too few"):
        train(pool(7), WordEncoder())
    blank = pool(20)
    blank.scores[:, 1] = np.nan
    with pytest.raises(InvalidDataError, match=r"'score\|law-llm' is empty"):
        train(blank, WordEncoder())
    with pytest.raises(InvalidDataError, match="vectors"):
        train(pool(20), WordEncoder(), vectors=np.zeros((3, 9), np.float32))
    with pytest.raises(InvalidDataError, match="price of LLM 'big'"):
        train(pool(20), WordEncoder(), head="linear", prices={"big": "much"})
    with pytest.raises(InvalidInputError, match="fill_scores"):
        fit_head(
            "linear", np.zeros((2, 2), np.float32), np.full((2, 1), np.nan), (LLMCard("a", 0, 0),)
        )
    with pytest.raises(InvalidInputError, match="unknown head"):
        fit_head("magic", np.zeros((2, 2), np.float32), np.zeros((2, 1)), (LLMCard("a", 0, 0),))


def test_prices_and_progress():
    steps = []
    trained = train(
        pool(20),
        WordEncoder(),
        head="linear",
        prices={"big": [2, 8]},
        progress=lambda what, done, total: steps.append((done, total)),
    )
    assert (trained.card("big").input_price, trained.card("big").output_price) == (2, 8)
    assert trained.card("law-llm").metadata == {"price": "indicative"}
    assert steps[-1][0] == steps[-1][1]
    assert steps == sorted(steps)


def test_preferences(router, tables):
    maths, law = tables
    assert router.best_single == "big"
    assert router.select(maths, Auto(0.4))[0] == "maths-llm"
    assert router.select(law, "auto")[0] == "law-llm"
    assert router.select(maths, "cost")[0] == "maths-llm"
    name, candidates = router.select(law, "performance", exclude={"big", "unknown"})
    assert name == "law-llm"
    assert [c.name for c in candidates] == ["law-llm", "maths-llm"]
    with pytest.raises(NoTargetError, match="Enable one"):
        router.select(law, "auto", exclude=router.names)
    with pytest.raises(InvalidPreferenceError):
        router.select(law, "free")


def test_costs_are_calibrated(router):
    data = pool(seed=9)
    _, spent = router.predict(data.queries, WordEncoder().encode(data.queries))
    columns = [data.llms.index(name) for name in router.names]
    assert spent.mean(axis=0) == pytest.approx(data.costs[:, columns].mean(axis=0), rel=0.05)
    assert (spent[np.argmax([len(q) for q in data.queries])] > spent.mean(axis=0)).all()


def test_priced_costs_and_indicative_price():
    card = LLMCard("a", 1.0, 4.0)
    text, no_inputs = "word " * 80, np.zeros((1, 1), np.float32)
    read = count_tokens(text)
    assert read == pytest.approx(80, rel=0.1)
    assert PricedCosts((card,), 250).predict([text], no_inputs) == (
        pytest.approx(np.array([[(read + 1000) / 1e6]]))
    )
    thinks = LLMCard("t", 1.0, 4.0, reasoning_tokens=1000)
    assert PricedCosts((thinks,), 250).predict([text], no_inputs)[0, 0] == (
        pytest.approx((read + 5000) / 1e6)
    )
    spent = np.array([(read + 300) * 1e-6, np.nan])
    assert indicative_price([text] * 2, spent) == pytest.approx(1.0, rel=0.01)


def test_router_refuses_other_vectors(router):
    with pytest.raises(ScoreError, match="shape"):
        router.score("sum", np.zeros(4, np.float32))
    with pytest.raises(ScoreError, match="not finite"):
        router.score("sum", np.full(9, np.nan, np.float32))
    with pytest.raises(ArtifactError, match="words-9"):
        router.check_encoder("other")
    with pytest.raises(UnknownNameError, match="no LLM 'x'"):
        router.card("x")
    assert router.score_batch([], np.zeros((0, 9), np.float32)) == []


def damage(directory, what):
    config, weights = directory / "head.json", directory / "head.safetensors"
    if what == "no config":
        config.unlink()
    elif what == "no weights":
        weights.unlink()
    elif what == "cut config":
        config.write_bytes(config.read_bytes()[:100])
    elif what == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-7])
    elif what == "garbage weights":
        weights.write_bytes(b"\x80\x04garbage")
    elif what == "binary config":
        config.write_bytes(b"\xff\xfe\x00")
    else:
        body = json.loads(config.read_text())
        body |= {
            "future": {"format": 99},
            "list": {"format": None},
            "no llms": {"llms": body["llms"][:1]},
            "bad card": {"llms": [{"name": "", "input_price": 1, "output_price": 1}]},
            "other head": {"head": {"kind": "magic"}},
            "other size": {"encoder": {"fingerprint": "words-9", "dimension": 4}},
            "no training": {"training": None},
            "other features": {"features": {"names": ["x"], "weight": 1.0}},
        }[what]
        if what == "no training":
            del body["training"]
        config.write_text(json.dumps(body))


@pytest.mark.parametrize(
    "what",
    [
        "no config", "no weights", "cut config", "cut weights", "garbage weights", "binary config",
        "future", "list", "no llms", "bad card", "other head", "other size", "no training",
        "other features",
    ],
)  # fmt: skip
def test_damaged_checkpoints_say_what_to_do(router, tmp_path, what):
    router.save(tmp_path)
    damage(tmp_path, what)
    with pytest.raises(ArtifactError, match="moma train llms"):
        LLMRouter.load(tmp_path)


def test_saving_where_one_cannot(router, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        router.save(tmp_path / "file")


def test_evaluation(router):
    data = pool(120, seed=4)
    report = evaluate_llms(router, data, WordEncoder())
    assert set(report) == {
        "n_test", "best_single", "best_single_score", "best_single_cost", "oracle_score",
        "preferences", "curve", "score_at_cost", "cost_to_match_best_single", "usage",
        "intervals", "baselines", "why_null",
    }  # fmt: skip
    assert report["n_test"] == 120
    assert report["best_single"] == "big"
    assert report["best_single_score"] == pytest.approx(data.scores[:, 2].mean())
    assert report["preferences"]["auto"]["score"] > report["best_single_score"] - 0.05
    assert report["preferences"]["auto"]["cost"] < 0.2 * report["best_single_cost"]
    assert list(report["score_at_cost"]) == ["0.25", "0.5", "0.7"]
    assert sum(report["usage"]["cost"].values()) == pytest.approx(1)
    assert report["oracle_score"] >= report["preferences"]["performance"]["score"]
    costs = [point[0] for point in report["curve"]]
    assert costs == sorted(costs)
    json.dumps(report)


def test_evaluation_compares_with_plain_routers(router):
    data, known = pool(120, seed=4), pool(400, seed=5)
    report = evaluate_llms(router, data, WordEncoder(), trained_on=known)
    assert set(report["baselines"]) == {
        "best single", "neighbours 100", "clusters 32", "ridge", "logistic",
    }  # fmt: skip
    assert report["baselines"]["best single"]["score"] == report["best_single_score"]
    for name in ("ridge", "logistic", "clusters 32"):
        found = report["baselines"][name]
        low, high = found["interval"]
        assert low <= found["lead"] <= high
        assert found["lead"] == pytest.approx(found["score"] - report["best_single_score"])
        assert found["score"] >= report["best_single_score"] - 0.02
    for name, (low, high) in report["intervals"].items():
        lead = report["preferences"][name]["score"] - report["best_single_score"]
        assert low <= lead <= high
    json.dumps(report)


def test_a_figure_that_is_null_has_its_reason(router):
    data = pool(120, seed=4)
    dear = LLMDataset(data.queries, data.llms, data.scores, np.ones(data.costs.shape))
    report = evaluate_llms(router, dear, WordEncoder())
    assert report["score_at_cost"]["0.25"] is None
    assert "the cheapest costs $1 a query" in report["why_null"]["score_at_cost 0.25"]
    only_best = np.where(np.array(data.llms) == "big", 1.0, 0.0) * np.ones(data.scores.shape)
    unmatched = replace(router, head=_Constant(router.cards))
    beaten = LLMDataset(data.queries, data.llms, only_best, data.costs)
    report = evaluate_llms(unmatched, beaten, WordEncoder())
    assert report["cost_to_match_best_single"] is None
    assert "is never reached" in report["why_null"]["cost_to_match_best_single"]


class _Constant:
    """Says of the best LLM that it is the worst."""

    kind = "constant"

    def __init__(self, llms):
        self.llms = llms

    def predict(self, embeddings):
        each = np.array([0.1 if card.name == "big" else 0.9 for card in self.llms], np.float32)
        return np.tile(each, (len(embeddings), 1))


def test_a_margin_guards_the_best_single_llm_unless_held_out_rows_gain():
    rng = np.random.default_rng(0)
    n = 2000
    topic = rng.random(n) < 0.5
    chance = np.stack([np.where(topic, 0.9, 0.3), np.full(n, 0.75)], axis=1)
    scores = (rng.random((n, 2)) < chance).astype(float)
    costs = np.ones((n, 2))
    assert fit_margin(chance, costs, scores, 1) <= 0.1  # it sees where the other one is better
    noise = np.full((n, 2), 0.75) + rng.normal(0, 0.05, (n, 2))
    margin = fit_margin(noise, costs, scores, 1)  # what it sees is noise
    picks = choose(costs, noise, Performance(), 1, margin=margin)
    assert (picks == 1).mean() > 0.99
    assert fit_margin(chance, costs, np.full((n, 2), np.nan), 1) == 0.0


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6),
    st.floats(0, 1),
    st.integers(0, 5),
)
def test_another_llm_leads_the_anchor_by_more_than_the_margin(pool, margin, anchor):
    costs, scores = (np.array(column)[None] for column in zip(*pool, strict=True))
    anchor %= costs.shape[1]
    [chosen] = choose(costs, scores, Performance(), anchor, margin=margin)
    assert chosen == anchor or scores[0, chosen] >= scores[0, anchor] + margin - 1e-12
    free = choose(costs, scores, Performance(), anchor)
    assert margin > 0 or chosen == free[0]


def test_the_margin_is_learnt_and_kept(router, tmp_path):
    assert 0.0 <= router.margin <= 1.0
    own = replace(router, margin=1.0)
    own.save(tmp_path)
    again = LLMRouter.load(tmp_path)
    assert again.margin == 1.0
    texts = pool(40, seed=8).queries
    for table in again.score_batch(texts, WordEncoder().encode(texts)):
        assert again.select(table, "performance")[0] == again.best_single
    assert again.remove(again.best_single).margin == 0.0


def test_evaluation_counts_complete_rows_only(router):
    data = pool(30, seed=4)
    data.scores[:10, 1] = np.nan
    vectors = WordEncoder().encode(data.queries)
    assert evaluate_llms(router, data, WordEncoder(), vectors)["n_test"] == 20
    data.scores[10:, 0] = np.nan
    with pytest.raises(InvalidDataError, match="no query was scored on all"):
        evaluate_llms(router, data, WordEncoder())
    with pytest.raises(InvalidDataError, match=r"score\|"):
        evaluate_llms(router, pool(30).pool(["big"]), WordEncoder())


def test_hull_by_hand():
    hull = upper_hull(np.array([[4.0, 0.9], [1.0, 0.5], [2.0, 0.55], [3.0, 0.8], [5.0, 0.7]]))
    assert hull.tolist() == [[1.0, 0.5], [3.0, 0.8], [4.0, 0.9]]
    assert score_at_cost(hull, 2.0) == pytest.approx(0.65)
    assert score_at_cost(hull, 0.5) is None
    assert score_at_cost(hull, 9.0) == pytest.approx(0.9)
    assert cost_of_score(hull, 0.65) == pytest.approx(2.0)
    assert cost_of_score(hull, 0.95) is None
    assert cost_of_score(hull, 0.1) == 1.0


def test_stack_ignores_a_member_of_noise():
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.1, 0.9, (500, 3))
    scores = (rng.random(chance.shape) < chance).astype(float)
    predictions = np.stack([chance, rng.uniform(0, 1, chance.shape)])
    weights = fit_weights(predictions, scores, np.ones(scores.shape, bool))
    assert weights.spread_weights[0] > 0.7
    assert weights.spread_weights[1] < 0.15
    blended = weights.blend(predictions * 3 - 1)
    assert blended.min() > 0
    assert blended.max() < 1


def test_the_packaged_router():
    packaged = LLMRouter.packaged()
    assert packaged.encoder_fingerprint.startswith("moma")
    assert {source["licence"] for source in packaged.metadata["sources"]} == {"Apache-2.0"}
    table = packaged.score("What is 2 + 2?", np.zeros(packaged.dimension, np.float32))
    assert packaged.best_single in table.names
    cheap = packaged.select(table, "cost")[1][0]
    best = packaged.select(table, "performance")[1][0]
    assert cheap.cost < 0.3 * best.cost
    assert cheap.score < best.score


def test_importing_is_light():
    code = (
        "import sys, moma_core as r; r.LLMRouter.packaged(); "
        "heavy = {'sklearn', 'pyarrow', 'torch', 'scipy', 'chromadb'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run(  # noqa: S603 - our own interpreter and code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


def test_min_gain_gives_away_what_is_noise_and_no_more():
    rng = np.random.default_rng(0)
    n, costs = 2000, np.tile([1.0, 2.0], (2000, 1))
    scores = (rng.random((n, 2)) < 0.7).astype(float)  # alike; the dear one looks a bit better
    predicted = np.tile([0.70, 0.701], (n, 1))
    alike = np.repeat(scores[:, :1], 2, axis=1)
    assert fit_min_gain(predicted, costs, alike, 2.0) == 0.05 / 2.0
    worse = alike * [1.0, 1.0]
    worse[:100, 0] = 0.0  # the cheap one loses 3.5 points that nobody foresaw
    assert fit_min_gain(predicted, costs, worse, 2.0) == 0.0
    assert fit_min_gain(predicted[:100], costs[:100], alike[:100], 2.0) == 0.0


def test_points_are_the_default_or_what_keeps_up_with_the_best_single_llm():
    n = 4000
    hard = np.arange(n) % 4 == 0  # the cheap one fails at a quarter of the queries
    scores = np.stack([~hard, np.ones(n, bool)], axis=1).astype(float)
    costs = np.tile([1e-4, 1.6e-3], (n, 1))  # four halvings
    seen = np.stack([np.where(hard, 0.0, 0.95), np.full(n, 1.0)], axis=1)
    assert fit_points(seen, costs, scores, 1) == 0.02  # the head sees which ones: the default
    blind = np.tile([0.95, 1.0], (n, 1))  # cheap from .0125 on, at a loss of a quarter
    assert fit_points(blind, costs, scores, 1) == 0.01
    assert fit_points(blind[:99], costs[:99], scores[:99], 1) == 0.02
    known = np.where(np.arange(n)[:, None] < 99, scores, np.nan)
    assert fit_points(blind, costs, known, 1) == 0.02  # too few with all scores


def test_points_are_learnt_kept_and_said(router, tmp_path):
    own = replace(router, points=0.035)
    own.save(tmp_path)
    again = LLMRouter.load(tmp_path)
    assert again.points == 0.035
    assert again.resolved("auto") == again.resolved(None) == Auto(0.035)
    assert again.resolved("auto:0.01") == Auto(0.01)
    assert again.resolved("cost") == Cost()
    table = again.score("sum", np.zeros(again.dimension, np.float32))
    chosen = again.select(table, "auto")[1][0]
    assert "halving the cost is worth 0.035 of score" in again.reason(chosen, "auto")
    assert again.select(table, "auto") == again.select(table, Auto(0.035))
    assert "no LLM is within the budget of $0" in again.reason(chosen, Cost(0.0))


def test_the_tasks_of_a_table_are_read_where_they_route_better():
    rng = np.random.default_rng(0)
    n, k, d = 900, 8, 48
    task, centres = rng.integers(0, k, n), rng.normal(size=(k, d))
    vectors = centres[task] * 0.35 + rng.normal(size=(n, d))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    chance = np.where(np.arange(4) == np.arange(k)[:, None] % 4, 0.9, 0.3)[task]
    scores, queries = (
        (rng.random((n, 4)) < chance).astype(float),
        tuple(map("query {}".format, range(n))),
    )
    encoder = WordEncoder()
    encoder.dimension = d

    def trained(tasks):
        data = LLMDataset(queries, ("a", "b", "c", "d"), scores, np.full((n, 4), 1e-3), tasks=tasks)
        return train(data.take(np.arange(600)), encoder, vectors=vectors[:600])

    told = trained(tuple(map(str, task)))
    assert [member.kind for member in told.head.members][-1] == "tasks"
    others = [trained(tasks) for tasks in ((), tuple(map(str, rng.permutation(task))))]
    for other in others:
        assert "tasks" not in [member.kind for member in other.head.members]
    right = [
        scores[600:][np.arange(300), router.predict(queries[600:], vectors[600:])[0].argmax(axis=1)]
        for router in (told, others[0])
    ]
    assert right[0].mean() > right[1].mean() + 0.02
