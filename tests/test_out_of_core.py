"""Judged pairs from file to router: read in parts, encoded once, trained out of core."""

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moma_core import ArtifactError, InvalidInputError, LLMRouter
from moma_core.cli.llms import Strategy, _tell, _Training
from moma_core.errors import InvalidDataError
from moma_core.llms.heads.judged import Outcomes, log_outcomes, outcome_loss, outcomes_of_scores
from moma_core.llms.heads.moe import MoEConfig
from moma_core.testing import HashEncoder
from moma_core.training.bradley_terry import Levels, fit_levels
from moma_core.training.evaluate_llms import evaluate_pairs
from moma_core.training.judgements import (
    count_outcomes,
    elo_of_counts,
    holds_pairs,
    read_judgements,
)
from moma_core.training.pair_store import PairStore, QueryStore
from moma_core.training.pairs import PairConfig, train_pairs

ROOT = Path(__file__).parent.parent
LLMS = ("big", "maths", "small")
PRICES = {"big": [1.0, 4.0], "maths": 1.0, "small": 0.1}
QUICK = PairConfig(net=MoEConfig(experts=2, top=1, width=16, epochs=40, dropout=0.1))


def judged(n, seed=0):
    """``maths`` wins on queries that hold "prime", ``big`` on the rest, ``small`` nowhere."""
    rng = np.random.default_rng(seed)
    words = ("why", "how", "prove", "explain", "write", "poem", "law", "court", "essay")
    rows = []
    for number in range(n):
        prime = bool(rng.random() < 0.5)
        query = " ".join(rng.choice(words, 4)) + (" prime" if prime else " song") + f" {number}"
        level = {"big": 0.6, "maths": 0.9 if prime else 0.2, "small": 0.1}
        a, b = rng.permutation(LLMS)[:2]
        noise = rng.normal(0, 0.15, 2)
        scores = np.clip([[level[a] + noise[0]], [level[b] + noise[1]]], 0, 1)
        code = int(outcomes_of_scores(scores[0], scores[1])[0])
        rows.append({"query": query, "llm_a": str(a), "llm_b": str(b), "outcome": code})
    return rows


def write(rows, path, group=100):
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return (
        write(judged(900), folder / "train.parquet"),
        write(judged(300, 1), folder / "test.parquet"),
    )


@pytest.mark.parametrize("head", ["preference", "contrastive", "classifier"])
def test_each_head_learns_who_wins_where(files, head, hashing):
    train, test = files
    router = train_pairs(train, hashing, head=head, prices=PRICES, config=QUICK)
    report = evaluate_pairs(router, test, hashing)
    assert report["winner_accuracy"] > report["elo_accuracy"] + 0.05
    assert report["preferences"]["performance"]["points"] > report["best_single"]["points"]
    texts = ["prove prime", "why song"]
    quality, costs = router.predict(texts, hashing.encode(texts))
    assert [LLMS[i] for i in quality.argmax(axis=1)] == ["maths", "big"]
    many = [row["query"] for row in judged(200, 5)]
    shares, _ = router.predict(many, hashing.encode(many))
    assert shares.mean() == pytest.approx(0.5, abs=0.02)  # of points against the pool
    assert costs[0, 0] > costs[0, 2] > 0
    assert router.metadata["elo"]["small"] < 1000 < router.metadata["elo"]["big"]
    assert ("outcome_log_loss" in report) == (head == "preference")
    if head == "preference":
        assert report["outcome_log_loss"] < report["base_rate_log_loss"] - 0.1


def test_the_tie_threshold_knows_where_ties_are(tmp_path, hashing):
    rng = np.random.default_rng(0)
    rows = [
        {
            "query": f"{'easy' if n % 2 else 'hard'} {n}",
            "llm_a": "x",
            "llm_b": "y",
            "outcome": 0 if n % 2 else int(rng.choice([1, 2])),
        }
        for n in range(600)
    ]
    path = write(rows, tmp_path / "ties.parquet")
    router = train_pairs(path, hashing, prices={"x": 1, "y": 1}, config=QUICK)
    inputs = router.features.join(["easy", "hard"], hashing.encode(["easy", "hard"]))
    easy, hard = router.head.tie_threshold(inputs)
    assert easy > hard + 2.0


def test_the_same_seed_gives_the_same_router(files, hashing, tmp_path):
    few = PairConfig(net=MoEConfig(experts=2, top=1, width=8, epochs=2))
    routers = [
        train_pairs(files[0], hashing, seed=seed, prices=PRICES, folder=tmp_path, config=few)
        for seed in (3, 3, 4)
    ]
    weights = [router.head.arrays()["hidden"] for router in routers]
    assert (weights[0] == weights[1]).all()
    assert not (weights[0] == weights[2]).all()
    routers[0].save(tmp_path / "router")
    loaded = LLMRouter.load(tmp_path / "router")
    texts = ["prove prime"]
    for mine, its in zip(
        routers[0].predict(texts, hashing.encode(texts)),
        loaded.predict(texts, hashing.encode(texts)),
        strict=True,
    ):
        assert (mine == its).all()


def test_lines_give_the_same_as_parquet(files, hashing, tmp_path):
    rows = pq.read_table(files[0]).to_pylist()
    lines = tmp_path / "pairs.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    stores = [
        PairStore.build(path, tmp_path / str(n), hashing)
        for n, path in enumerate((files[0], lines))
    ]
    assert stores[0].fingerprint == stores[1].fingerprint
    assert (stores[0].inputs == stores[1].inputs).all()
    assert [len(part) for part in read_judgements(lines, rows=400)] == [400, 400, 100]
    assert holds_pairs(lines)
    assert holds_pairs(files[0])
    write([{"query": "a", "score|x": 1.0}], tmp_path / "scored.parquet")
    assert not holds_pairs(tmp_path / "scored.parquet")


def test_pairs_stay_with_their_query(tmp_path, hashing):
    rows = judged(50) + judged(50)[::-1] + judged(20, 2)
    store = PairStore.build(write(rows, tmp_path / "p.parquet", 7), tmp_path / "v", hashing)
    assert (len(store), len(store.inputs)) == (120, 70)
    wanted = {}
    for row in rows:
        wanted.setdefault(row["query"], []).append((row["llm_a"], row["llm_b"], row["outcome"]))
    order = list(dict.fromkeys(row["query"] for row in rows))
    local, pairs = store.pairs_of(np.array([60, 3, 0]))
    for place, query in enumerate((60, 3, 0)):
        mine = [
            (LLMS[store.first[p]], LLMS[store.second[p]], int(store.outcome[p]))
            for p in pairs[local == place]
        ]
        assert mine == wanted[order[query]]
    vectors = hashing.encode(order)
    assert store.inputs[:, :64] == pytest.approx(vectors, abs=1e-3)
    joined = store.features.join(order, vectors)
    assert store.inputs == pytest.approx(joined, abs=4e-3)


class Counting(HashEncoder):
    """Counts what it encodes; breaks down after some texts."""

    def __init__(self, breaks_after=10**9):
        super().__init__()
        self.seen, self.left = [], breaks_after

    def encode(self, texts):
        self.seen += texts
        if len(self.seen) > self.left:
            raise RuntimeError("out of power")
        return super().encode(texts)


def test_what_was_encoded_is_not_encoded_again(files, tmp_path):
    folder = tmp_path / "vectors"
    first = QueryStore(folder, Counting())
    rows = first.rows_of(["a", "b", "a", "c"])
    assert rows.tolist() == [0, 1, 0, 2]
    with pytest.raises(RuntimeError):
        QueryStore(folder, Counting(0)).rows_of(["b", "d"])
    second = Counting()
    again = QueryStore(folder, second)
    assert again.rows_of(["d", "c", "a"]).tolist() == [3, 2, 0]
    assert second.seen == ["d"]
    for name, torn in (("inputs.f16", b"12345"), ("hashes.u64", b"1" * 11)):
        with (folder / name).open("ab") as file:
            file.write(torn)
    third = QueryStore(folder, Counting())
    assert len(third) == 4
    inputs, _ = third.finish()
    assert inputs[:, :64] == pytest.approx(HashEncoder().encode(["a", "b", "c", "d"]), abs=1e-3)
    with pytest.raises(ArtifactError, match="another directory"):
        QueryStore(folder, HashEncoder(32))
    (folder / "store.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        QueryStore(folder, HashEncoder())
    with pytest.raises(ArtifactError, match="cannot write"):
        QueryStore("/proc/none", HashEncoder())


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from moma_core.testing import HashEncoder
from moma_core.training.pair_store import QueryStore
class Slow(HashEncoder):
    def encode(self, texts):
        time.sleep(0.05)
        with open(sys.argv[1] + ".log", "a") as log:
            log.write(f"{len(texts)}" + chr(10))
        return super().encode(texts)
store = QueryStore(sys.argv[1], Slow())
for part in range(20):
    store.rows_of([f"query {part} {n}" for n in range(50)])
print(len(store))
"""


def test_a_killed_encoding_goes_on(tmp_path):
    folder = tmp_path / "vectors"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, str(folder)]
    first = subprocess.Popen(command, env=env)  # noqa: S603
    hashes = folder / "hashes.u64"
    while not hashes.exists() or hashes.stat().st_size < 5 * 400:
        assert first.poll() is None
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = subprocess.run(  # noqa: S603
        command, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert second.stdout.split() == ["1000"], second.stderr
    encoded = Path(f"{folder}.log").read_text().split()
    assert 1000 <= sum(map(int, encoded)) <= 1050  # one part was under way
    inputs, _ = QueryStore(folder, HashEncoder()).finish()
    texts = [f"query {part} {n}" for part in range(20) for n in range(50)]
    assert inputs[:, :64] == pytest.approx(HashEncoder().encode(texts), abs=1e-3)


class Wide:
    """Long random vectors, so that all of them together would not go unnoticed."""

    fingerprint, dimension = "wide", 2048

    def encode(self, texts):
        rng = np.random.default_rng(len(texts))
        rows = rng.random((len(texts), 2048), dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_memory_does_not_grow_with_the_vectors(tmp_path):
    net = MoEConfig(experts=1, top=1, width=4, epochs=1, dropout=0.0, batch=64)
    config = PairConfig(net=net, sample=256)
    peaks = {}
    for n in (3_000, 9_000):
        rows = [{"query": str(i), "llm_a": "x", "llm_b": "y", "outcome": i % 5} for i in range(n)]
        path, folder = write(rows, tmp_path / f"{n}.parquet", 1_000), tmp_path / str(n)
        del rows
        tracemalloc.start()
        train_pairs(path, Wide(), prices={"x": 1, "y": 1}, folder=folder, config=config)
        peaks[n] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    on_disk = (folder / "inputs.f16").stat().st_size / 2**20
    assert on_disk > 35
    assert peaks[9_000] - peaks[3_000] < 0.25 * on_disk * 2 / 3  # texts and pairs of one part


def test_closed_gradients_are_those_of_the_probabilities():
    rng = np.random.default_rng(0)
    code = rng.integers(0, 5, 200)
    points = rng.normal(size=(3, 200)) * 3
    for form in (Outcomes(), Outcomes(strength=2.5, margin=0.2)):
        loss, *slopes = outcome_loss(*points, code, form)

        def each(inputs, form=form):
            return -log_outcomes(*inputs, form)[np.arange(200), code]

        assert loss == pytest.approx(each(points).mean())
        for axis, slope in enumerate(slopes):
            step = np.zeros((3, 1))
            step[axis] = 1e-4
            numeric = (each(points + step) - each(points - step)) / 2e-4
            assert slope * 200 == pytest.approx(numeric, abs=1e-6)


def test_counts_of_parts_add_up():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 4, 500)
    b = (a + rng.integers(1, 4, 500)) % 4
    code = rng.integers(0, 5, 500)
    whole = count_outcomes(a, b, code, 4)
    assert (count_outcomes(a[:200], b[:200], code[:200], 4)
            + count_outcomes(a[200:], b[200:], code[200:], 4) == whole).all()  # fmt: skip
    rated = elo_of_counts("wxyz", whole * 1000)
    assert all(rating.high - rating.low < 4 for rating in rated)  # half a million pairs
    with pytest.raises(InvalidDataError, match="pairs"):
        elo_of_counts("wxyz", whole * 0)


def test_prices_may_come_from_measured_costs(tmp_path, hashing):
    rows = [{**row, "cost_a": 3e-4, "cost_b": None} for row in judged(100)]
    few = PairConfig(net=MoEConfig(experts=1, top=1, width=4, epochs=1))
    path = write(rows, tmp_path / "p.parquet")
    router = train_pairs(path, hashing, config=few, prices={"big": 5.0})
    assert router.card("big").output_price == 5.0
    tokens = np.mean([len(row["query"]) / 4 + 300 for row in rows])
    assert router.card("small").input_price == pytest.approx(3e-4 / tokens * 1e6, rel=0.02)
    with pytest.raises(InvalidDataError, match="neither a price nor a cost"):
        train_pairs(write(judged(50), path), hashing)


def test_slips(tmp_path, hashing, files):
    good = {"query": "q", "llm_a": "x", "llm_b": "y", "outcome": 0}
    lines = tmp_path / "bad.jsonl"
    for wrong in (
        {"outcome": 5}, {"outcome": None}, {"outcome": 1.5}, {"query": " "}, {"llm_b": "x"},
        {"llm_a": 3}, {"cost_a": -1}, {"cost_b": "much"},
    ):  # fmt: skip
        lines.write_text(json.dumps({**good, **wrong}))
        with pytest.raises(InvalidDataError):
            list(read_judgements(lines))
    for content in ("", "[1]", "{"):
        lines.write_text(content)
        with pytest.raises(InvalidDataError):
            list(read_judgements(lines))
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    write([{"query": "q", "llm_a": "x"}], tmp_path / "short.parquet")
    write([{**good, "outcome": 0.5}], tmp_path / "half.parquet")
    for name in ("junk.parquet", "short.parquet", "half.parquet", "none.parquet"):
        with pytest.raises(InvalidDataError):
            list(read_judgements(tmp_path / name))
    with pytest.raises(InvalidInputError, match="judged pairs train"):
        train_pairs(files[0], hashing, head="kernel", prices=PRICES)
    few = PairConfig(net=MoEConfig(experts=1, top=1, width=4, epochs=1))
    router = train_pairs(files[0], hashing, prices=PRICES, config=few)
    other = write([{**good}], tmp_path / "other.parquet")
    with pytest.raises(InvalidDataError, match="no pair"):
        evaluate_pairs(router, other, hashing)


def test_on_the_command_line(files, tmp_path, monkeypatch, run_moma):
    def moma(*arguments):
        status, out, err = run_moma(*arguments)
        assert not status, err
        return out

    monkeypatch.setenv("COLUMNS", "200")
    rows = pq.read_table(files[0]).to_pylist()[:200]
    path = write(rows, tmp_path / "pairs.parquet")
    (tmp_path / "prices.json").write_text(json.dumps(PRICES))
    pool, prices = tmp_path / "pool", tmp_path / "prices.json"
    said = moma("train", "llms", "--data", path, "--prices", prices, "--out", pool)
    assert "Trained on 3 LLMs" in said
    assert (pool / "vectors" / "inputs.f16").exists()
    report = tmp_path / "report.json"
    assert "winner_accuracy" in moma(
        "eval", "llms", "--router", pool, "--data", path, "--out", report
    )
    assert json.loads(report.read_text())["n_pairs"] == 200


def test_a_pool_of_one_is_told_in_the_singular(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    pool = LLMRouter.packaged()
    for name in pool.names[1:]:
        pool = pool.remove(name)
    asked = _Training(Path("data"), Path("pool"), "moe", 0, None, Strategy.SINGLE, False)
    _tell(pool, "LLMRouter", asked)
    assert "Trained on 1 LLM; the best" in capsys.readouterr().out


def star(rng, n, llms=12):
    """One LLM against many, on queries that tell nothing: only levels can be learnt."""
    level = np.linspace(-3, 1, llms)
    rows = []
    for number in range(n):
        for other in rng.permutation(llms)[:3].tolist():
            gap = level[other] + rng.logistic()
            outcome = int(gap < 0) + 1 + 2 * (abs(gap) > 0.7)
            query = f"{' '.join(rng.choice(list('abcdefgh'), 3))} {number}"
            rows.append({"query": query, "llm_a": f"m{other:02}", "llm_b": "z", "outcome": outcome})
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_where_queries_tell_nothing_the_levels_are_the_floor(tmp_path, hashing, seed):
    rng = np.random.default_rng(seed)
    train = write(star(rng, 150), tmp_path / "train.parquet")
    test = write(star(rng, 300), tmp_path / "test.parquet")
    prices = {row["llm_a"]: 1.0 for row in star(rng, 40)} | {"z": 1.0}
    router = train_pairs(train, hashing, prices=prices, seed=seed)
    report = evaluate_pairs(router, test, hashing)
    assert report["outcome_log_loss"] < report["base_rate_log_loss"] - 0.1
    assert report["outcome_log_loss"] <= report["bradley_terry_log_loss"] + 0.01
    assert report["winner_accuracy"] >= report["bradley_terry_accuracy"] - 0.02
    router.save(tmp_path)
    again = evaluate_pairs(LLMRouter.load(tmp_path), test, hashing)
    for key in ("outcome_log_loss", "bradley_terry_log_loss", "winner_accuracy"):
        assert again[key] == pytest.approx(report[key])


def test_levels_are_those_that_the_outcomes_were_drawn_from():
    rng = np.random.default_rng(0)
    true, form = np.array([1.0, 0.0, -1.0]), Outcomes(strength=2.0, margin=0.5)
    a, b = np.array([0, 0, 1]), np.array([1, 2, 2])
    logs = log_outcomes(true[a], true[b], np.full(3, -0.5), form)
    counts = np.zeros((3, 3, 5))
    for row in range(3):
        counts[a[row], b[row]] = rng.multinomial(20_000, np.exp(logs[row]))
    levels = fit_levels(counts)
    assert levels.values == pytest.approx(true, abs=0.05)
    assert levels.eta == pytest.approx(-0.5, abs=0.1)
    assert (levels.form.strength, levels.form.margin) == pytest.approx((2.0, 0.5), abs=0.15)
    assert Levels.from_dict(levels.to_dict()).to_dict() == levels.to_dict()
    never_lost = np.zeros((2, 2, 5))
    never_lost[1, 0] = [0, 9, 0, 9, 0]
    unbeaten = fit_levels(never_lost)
    assert np.isfinite(unbeaten.values).all()
    assert unbeaten.values[1] > unbeaten.values[0]
