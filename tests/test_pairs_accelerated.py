"""Judged pairs trained by torch and accelerate: the net of the numpy path, in many processes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moma_core import ArtifactError, InvalidInputError, LLMCard
from moma_core.llms.heads.moe import MoEConfig
from moma_core.testing import HashEncoder
from moma_core.training.devices import Launched, Started, launched, processes
from moma_core.training.evaluate_llms import evaluate_pairs
from moma_core.training.pair_store import PairStore
from moma_core.training.pairs import PairConfig, PairTask, fit_pairs, train_pairs

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from moma_core.llms.heads.moe import MoEHead
from moma_core.training.accelerated import join, train_shard

ROOT = Path(__file__).parent.parent
LLMS = ("big", "maths", "small")
PRICES = dict.fromkeys(LLMS, 1.0)
QUICK = PairConfig(net=MoEConfig(experts=3, top=2, width=16, epochs=12, batch=64, balance=0.1))


def write(path, n, seed):
    """``maths`` wins on queries that hold "prime", ``big`` on the rest, ``small`` nowhere."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(n):
        prime = bool(rng.random() < 0.5)
        query = " ".join(rng.choice(("why", "how", "prove", "law"), 3))
        level = {"big": 0.6, "maths": 0.9 if prime else 0.2, "small": 0.1}
        for _ in range(int(rng.integers(1, 3))):
            a, b = rng.permutation(LLMS)[:2].tolist()
            gap = level[a] - level[b] + rng.normal(0, 0.2)
            weak = 0 if abs(gap) < 0.1 else 1 if gap > 0 else 2
            outcome = weak + 2 * (weak > 0 and abs(gap) > 0.5)
            text = f"{query} {'prime' if prime else 'song'} {number}"
            rows.append({"query": text, "llm_a": a, "llm_b": b, "outcome": outcome})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return write(folder / "train.parquet", 601, 0), write(folder / "test.parquet", 200, 1)


@pytest.fixture(scope="module")
def store(files, tmp_path_factory):
    return PairStore.build(files[0], tmp_path_factory.mktemp("vectors"), HashEncoder())


@pytest.mark.parametrize("kind", ["preference", "contrastive", "classifier"])
def test_one_process_gives_what_numpy_gives(store, kind):
    llms = tuple(LLMCard(name, 1.0, 1.0) for name in LLMS)
    task = PairTask.of(kind, store, QUICK, seed=3)
    told = []
    weights = train_shard(join(cpu=True), store, task, lambda *each: told.append(each))
    mine = task.head(MoEHead(llms, weights, 2), store)
    its = fit_pairs(kind, store, llms, QUICK, seed=3)
    for name, values in its.arrays().items():
        assert mine.arrays()[name] == pytest.approx(values, abs=2e-4), name
    inputs = np.asarray(store.inputs[:50], np.float32)
    assert mine.predict(inputs) == pytest.approx(its.predict(inputs), abs=1e-4)
    assert np.ptp(its.predict(inputs)[:, 1]) > 0.2  # it learnt something that could differ
    assert told[-1] == (f"train {kind}", 601 * 12, 601 * 12)


def test_what_is_not_kept_across_the_levels_changes_no_winner(store):
    llms = tuple(LLMCard(name, 1.0, 1.0) for name in LLMS)
    task = PairTask.of("preference", store, QUICK, seed=3)
    assert task.kept > 0.0  # "prime" tells who wins
    assert 0.0 < task.across <= task.kept
    inputs = np.asarray(store.inputs, np.float32)
    net = task.trained(store, np.arange(len(inputs)))
    levels = np.argsort(task.levels.values)
    along = replace(task, kept=1.0, across=0.0).drawn(net).outputs(inputs)[:, : len(llms)]
    spread = along @ task.levels.values
    assert (np.argsort(along[spread > 0], axis=1) == levels).all()
    assert spread.std() > 0.01  # LLMs differ more on some queries than on others
    whole = replace(task, kept=1.0, across=1.0).drawn(net).outputs(inputs)
    assert whole == pytest.approx(net.outputs(inputs), abs=1e-4)


def test_a_store_is_the_same_from_disk(store, tmp_path):
    folder = Path(store.inputs.filename).parent
    store.save(folder)
    again = PairStore.open(folder)
    assert (again.llms, again.fingerprint, len(again)) == (LLMS, store.fingerprint, len(store))
    for name in ("inputs", "moments", "starts", "first", "second", "outcome", "counts", "prices"):
        mapped = getattr(again, name)
        assert isinstance(mapped, np.memmap), name
        assert np.array_equal(mapped, getattr(store, name), equal_nan=name == "prices"), name
    assert (again.features.mean == store.features.mean).all()
    with pytest.raises(ArtifactError, match="train again"):
        PairStore.open(tmp_path)


RANK = """
import os, sys
import numpy as np
sys.path.insert(0, sys.argv[4])
from test_pairs_accelerated import PRICES, QUICK
from moma_core.training.pairs import train_pairs
from moma_core.testing import HashEncoder
train, vectors, out = sys.argv[1:4]
router = train_pairs(train, HashEncoder(), seed=1, prices=PRICES, folder=vectors,
                     config=QUICK, devices="auto")
np.savez(out + os.environ["RANK"] + ".npz", **router.head.arrays())
"""


def test_two_processes_end_with_one_net_as_good(files, tmp_path):
    train, test = files
    (tmp_path / "rank.py").write_text(RANK)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env["CUDA_VISIBLE_DEVICES"] = ""  # two processes on one GPU would not do
    at = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*at, "rank.py", train, "vectors", "rank", ROOT / "tests"]
    told, log = [], tmp_path / "ranks.log"
    with log.open("wb") as file:
        ranks = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=file)  # noqa: S603
    started = train_pairs(
        train, HashEncoder(), seed=1, prices=PRICES, config=QUICK, devices="cpu:2",
        progress=lambda *each: told.append(each),
    )  # fmt: skip
    assert ranks.wait(120) == 0, log.read_text()
    first, second = (np.load(tmp_path / f"rank{rank}.npz") for rank in (0, 1))
    for name, values in started.head.arrays().items():
        assert (first[name] == second[name]).all(), name
        assert (first[name] == values).all(), name  # started here or launched: the same
    assert told[-1] == ("train preference", 601 * 12, 601 * 12)
    alone = train_pairs(train, HashEncoder(), seed=1, prices=PRICES, config=QUICK)
    mine, its = (evaluate_pairs(each, test, HashEncoder()) for each in (started, alone))
    assert mine["outcome_log_loss"] < its["outcome_log_loss"] + 0.02
    assert mine["outcome_log_loss"] < its["base_rate_log_loss"] - 0.1
    assert not (alone.head.arrays()["hidden"] == first["hidden"]).all()


def test_who_trains(monkeypatch):
    assert not launched()
    assert processes("cpu") == Started(1, cpu=True)
    assert processes("cpu:3") == Started(3, cpu=True)
    present = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    assert processes("auto") == Started(max(present, 1), cpu=not present)
    for wrong in ("gpu", "cpu:0", "0", -1, "auto:2", "", "cpu:", True, 1.5):
        with pytest.raises(InvalidInputError, match="devices is"):
            processes(wrong)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert processes("auto") == Launched()
    with pytest.raises(InvalidInputError, match="has chosen the devices"):
        processes(2)
    with pytest.raises(InvalidInputError, match="give the folder"):
        train_pairs("pairs.parquet", HashEncoder(), devices="auto")


def test_without_the_extra_it_says_what_to_install(python):
    code = """
import sys
sys.modules["torch"] = None
from moma_core import MissingExtraError
from moma_core.training.devices import processes
try:
    processes("cpu")
except MissingExtraError as error:
    print(error)
"""
    done = python(code)
    assert 'pip install "moma-router[llm]"' in done.stdout, done.stderr


def test_the_command_line_says_what_devices_are_for(files, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    scored = tmp_path / "scored.parquet"
    pq.write_table(pa.table({"query": ["a"], "score|x": [1.0], "cost|x": [0.1]}), scored)
    command = [sys.executable, "-m", "moma_core.cli", "train", "llms", "--out", "pool"]
    cases = [
        (scored, "cpu", "", "several devices train on judged pairs"),
        (files[0], "gpu", "", "devices is"),
        (scored, None, "no", "several devices train on judged pairs"),  # by accelerate launch
    ]
    for data, devices, started, said in cases:
        given = ["--devices", devices] if devices else []
        there = {"ACCELERATE_MIXED_PRECISION": started} if started else {}
        refused = subprocess.run(  # noqa: S603
            [*command, "--data", data, *given],
            cwd=tmp_path, env={**env, **there}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert refused.returncode == 1
        assert said in refused.stderr
