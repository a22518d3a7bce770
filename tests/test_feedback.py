"""Learning from use: the safe floor, what feedback teaches, off-policy estimates, persistence."""

import dataclasses
import json
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_moma import feedback_from_scores
from langchain_moma.collect import reward_of_scores
from langchain_moma.decision import record as node_record
from moma_core import (
    AgentCard,
    ArtifactError,
    Auto,
    Candidate,
    Cost,
    InvalidInputError,
    Learning,
    MoMARouter,
    Performance,
    RoutingDecision,
    ScoreTable,
)
from moma_core.errors import InvalidDataError
from moma_core.llms.feedback import FeedbackLog, FeedbackRecord, LearningConfig, Memory, safe_set
from moma_core.llms.off_policy import estimate
from moma_core.llms.selection import POINTS, rank, value
from moma_core.types import Topsis, parse_preference, preference_text

VECTOR = np.zeros(4, np.float32)
LLMS = (
    Candidate("big", 0.80, 0.004),
    Candidate("small", 0.78, 0.001),
    Candidate("weak", 0.60, 0.0005),
    Candidate("dear", 0.79, 0.5),
)
ON = LearningConfig(explore=0.2, apply=True, mean_prior=20.0, dearest=1.5)


def plain(order=LLMS):
    best = order[0]
    return RoutingDecision("llm", (best.name,), best.score, order, cost=best.cost)


def trial_of(learning, preference=None, decision=None):
    return learning.instead(decision or plain(), VECTOR, preference or Performance(), "big")


def use(learning, truth, n, seed=0, preference=None):
    """Give rewards of a Bernoulli draw with each LLM's true quality."""
    rng, chosen = np.random.default_rng(seed), []
    for _ in range(n):
        decision = trial_of(learning, preference)
        chosen.append(decision.target)
        learning.feedback(decision, float(rng.random() < truth[decision.target]))
    return chosen


@given(
    scores=st.lists(st.floats(0, 1), min_size=2, max_size=6),
    costs=st.lists(st.floats(0, 1), min_size=6, max_size=6),
    delta=st.floats(0, 0.3),
    dearest=st.floats(1, 4),
    rewards=st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), max_size=20),
    preference=st.sampled_from([Performance(), Auto(), Cost(), Cost(0.3)]),
)
def test_the_floor_holds_whatever_was_learnt(scores, costs, delta, dearest, rewards, preference):
    candidates = tuple(
        Candidate(f"llm {i}", score, cost)
        for i, (score, cost) in enumerate(zip(scores, costs, strict=False))
    )
    config = LearningConfig(0.5, delta, dearest, apply=True, mean_prior=0.1)
    learning = Learning(config)
    decision = plain(candidates)
    for position, reward in rewards:
        tried = trial_of(learning, preference, decision)
        moved = dataclasses.replace(tried, targets=(f"llm {position % len(candidates)}",))
        learning.feedback(moved, reward)
    for _ in range(10):
        tried = trial_of(learning, preference, decision)
        chosen, first = tried.candidates[0], candidates[0]
        assert chosen.name == tried.target
        assert chosen.score >= first.score - delta
        if isinstance(preference, Auto):  # worth its price but for delta
            worth = value(np.array([chosen.cost, first.cost]),
                          np.array([chosen.score, first.score]), POINTS)  # fmt: skip
            assert worth[0] >= worth[1] - delta
        else:
            assert chosen.cost <= max(first.cost * dearest, first.cost)
        if preference == Cost(0.3):
            assert chosen.cost <= max(0.3, first.cost)
        assert {c.name for c in tried.candidates} == {c.name for c in candidates}
        assert 0 < tried.trial.propensity <= 1 + 1e-12


def test_nothing_changes_before_something_was_learnt():
    learning = Learning(LearningConfig(explore=0.0, apply=True))
    table = ScoreTable(tuple(c.name for c in LLMS), [c.score for c in LLMS], [c.cost for c in LLMS])
    for preference in (Performance(), Auto(0.3), Topsis(0.3), Cost(), Cost(0.0001)):
        order = tuple(LLMS[i] for i in rank(table, preference, "dear"))
        decision = learning.instead(plain(order), VECTOR, preference, "dear")
        assert (decision.target, decision.trial.propensity) == (order[0].name, 1.0)
        assert decision.candidates == order


def test_propensities_are_how_often_it_happens():
    learning = Learning(LearningConfig(explore=0.4, dearest=2.0))
    decisions = [trial_of(learning) for _ in range(4000)]
    told = {d.target: d.trial.propensity for d in decisions}
    assert told == pytest.approx({"big": 0.8, "small": 0.2})
    share = np.mean([d.target == "small" for d in decisions])
    assert share == pytest.approx(0.2, abs=0.02)
    assert decisions[0].trial.safe == ("big", "small")


def test_rewards_move_the_choice_within_the_floor():
    truth = {"big": 0.5, "small": 0.9, "weak": 1.0, "dear": 1.0}
    learning = Learning(ON)
    chosen = use(learning, truth, 600)
    assert chosen[-300:].count("small") > 240
    assert set(chosen) == {"big", "small"}
    assert learning.corrections(VECTOR)["big"] < -0.15
    assert sum(learning.rewards().values()) == 600
    quiet = Learning(dataclasses.replace(ON, apply=False))
    assert use(quiet, truth, 600)[-300:].count("small") < 60
    quiet.configure(apply=True)
    assert use(quiet, truth, 100).count("small") > 70


def test_caution_waits_for_evidence():
    truth = {"big": 0.55, "small": 0.6}
    bold = Learning(dataclasses.replace(ON, explore=0.5, caution=0.0), seed=1)
    wary = Learning(dataclasses.replace(ON, explore=0.5, caution=3.0), seed=1)
    for learning in (bold, wary):
        use(learning, truth, 60)
        learning.configure(explore=0.0)
    assert bold.rewards()["small"] > 0
    assert trial_of(wary).target == "big"  # sixty rewards do not tell 0.55 from 0.6
    use(wary, {"big": 0.0, "small": 1.0}, 200)
    assert trial_of(wary).target == "small"


def units(*rows):
    vectors = np.array(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_outcomes_are_remembered_near_their_queries():
    rng = np.random.default_rng(0)
    learning = Learning(LearningConfig(1.0, mean_prior=10, nearby_prior=5))
    right, left, far = units([1, 0, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1])
    for number in range(400):
        vector = units((right, left)[number % 2] + rng.normal(size=4) * 0.2)[0]
        decision = learning.instead(plain(), vector, Performance(), "big")
        good = (decision.target == "small") == (number % 2 == 0)
        learning.feedback(decision, 0.95 if good else 0.6)
    there, here = learning.corrections(right), learning.corrections(left)
    assert there["small"] > there["big"] + 0.1
    assert here["big"] > here["small"] + 0.1
    assert learning.corrections(far)["big"] == pytest.approx(
        np.mean([there["big"], here["big"]]), abs=0.03
    )  # nothing near: the level alone
    learning.configure(apply=True, explore=0.0, caution=0.5)
    assert learning.instead(plain(), right, Performance(), "big").target == "small"
    assert learning.instead(plain(), left, Performance(), "big").target == "big"
    longer = Learning(ON).instead(plain(), np.zeros(9, np.float32), Performance(), "big")
    with pytest.raises(InvalidInputError, match="another encoder"):
        learning.feedback(longer, 1.0)


@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.floats(-1, 1)), min_size=1, max_size=30),
    prior=st.floats(0.5, 50),
)
def test_a_memory_is_a_shrunk_mean_until_it_has_many_outcomes(steps, prior):
    memory = Memory(LearningConfig(mean_prior=prior, nearby_prior=prior))
    (here,) = units([1, 0])
    for llm, surprise in steps:
        memory.learn(str(llm), here, surprise)
    for name, (correction, variance) in memory.beliefs(here, ["new"]).items():
        own = [surprise for llm, surprise in steps if str(llm) == name]
        assert correction == pytest.approx(sum(own) / (len(own) + prior))
        assert 0 < variance <= 0.16 / prior + 1e-12


def test_what_is_not_significant_near_a_query_is_the_level():
    rng, memory = np.random.default_rng(0), Memory(LearningConfig())
    for _ in range(3000):
        memory.learn("small", units(rng.normal(size=8))[0], float(rng.normal() * 0.4))
    level = memory.levels["small"][1] / (3000 + 100)
    near = [memory.beliefs(units(rng.normal(size=8))[0])["small"][0] for _ in range(100)]
    assert np.isclose(near, level).mean() > 0.8


def test_what_is_new_counts_more_and_the_oldest_is_forgotten():
    memory = Memory(LearningConfig(mean_prior=1e9, nearby_prior=1.0))
    here, there = units([1, 0], [0, 1])
    for surprise in (1.0, -1.0):
        for number in range(400):
            memory.learn("small", here if number % 4 == 0 else there, surprise)
    assert memory.beliefs(here)["small"][0] == pytest.approx(0.0, abs=0.05)
    for _ in range(6000):
        memory.learn("small", here, 0.5)
    assert memory.beliefs(here)["small"][0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("reward", [-0.1, 1.5, float("nan"), "good", None, "1"])
def test_bad_rewards(reward):
    learning = Learning()
    with pytest.raises(InvalidInputError, match="reward"):
        learning.feedback(trial_of(learning), reward)
    assert learning.rewards() == {}


def test_feedback_counts_once_and_needs_a_trial(tmp_path):
    learning = Learning(log=tmp_path / "deep" / "feedback.jsonl")
    decision = trial_of(learning)
    again = RoutingDecision.from_dict(json.loads(json.dumps(decision.to_dict())))
    assert again == decision
    assert learning.feedback(again, True)
    assert not learning.feedback(decision, 0)
    assert sum(learning.rewards().values()) == 1
    with pytest.raises(InvalidInputError, match="before learning was on"):
        learning.feedback(plain(), 1)
    with pytest.raises(InvalidInputError, match="agent 'weather'"):
        learning.feedback(RoutingDecision("agent", ("weather",), 0.9), 1)
    old = {k: v for k, v in decision.to_dict().items() if k != "trial"}
    assert RoutingDecision.from_dict(old).trial is None
    [line] = FeedbackLog.read(tmp_path / "deep" / "feedback.jsonl")
    assert (line.reward, line.chosen, line.trial) == (1.0, decision.target, decision.trial)


def test_many_threads_share_one():
    learning = Learning(ON)

    def work():
        for _ in range(50):
            decision = trial_of(learning)
            learning.feedback(decision, 1.0)
            assert not learning.feedback(decision, 0.0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(learning.rewards().values()) == 400


def test_saved_replayed_and_damaged(tmp_path):
    log = tmp_path / "feedback.jsonl"
    learning = Learning(ON, log)
    last = [trial_of(learning) for _ in range(60)]
    for number, decision in enumerate(last):
        learning.feedback(decision, (number % 3) / 2)
    learning.save(tmp_path / "saved")
    loaded = Learning.load(tmp_path / "saved", seed=1)
    assert loaded.corrections(VECTOR) == learning.corrections(VECTOR)
    assert loaded.config == ON
    assert not loaded.feedback(last[0], 1.0)
    fresh = Learning(ON)
    assert (fresh.replay(log), fresh.replay(log)) == (60, 0)
    assert fresh.corrections(VECTOR) == pytest.approx(learning.corrections(VECTOR))
    with log.open("ab") as file:
        file.write(b'{"trial": ')
    with pytest.warns(UserWarning, match="line 61 .* was cut off"):
        assert len(FeedbackLog.read(log)) == 60
    FeedbackLog(log).append(FeedbackRecord.of(trial_of(learning), 0.5))  # the next run's
    with pytest.warns(UserWarning, match="line 61 .* was cut off"):
        assert len(FeedbackLog.read(log)) == 61
    log.write_text(log.read_text().replace('"reward": 0.5', '"reward": 5', 1))
    with pytest.raises(ArtifactError, match="line 2"):
        FeedbackLog.read(log)
    with pytest.raises(ArtifactError, match="no feedback log"):
        FeedbackLog.read(tmp_path / "none")
    (tmp_path / "train.parquet").write_bytes(b"PAR1\x15\x04\n\xff\x00\nPAR1")
    with pytest.raises(ArtifactError, match=r"no feedback log: line 1 .*Learning\(log="):
        FeedbackLog.read(tmp_path / "train.parquet")
    weights = tmp_path / "saved" / "learning.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match="truncated"):
        Learning.load(tmp_path / "saved")
    with pytest.raises(ArtifactError, match="cannot write"):
        Learning(log="/proc/none/feedback.jsonl")


def logged(truth, n, seed, explore=0.3, tmp=None):
    """Records of a router that explores but does not apply what it learns."""
    learning = Learning(LearningConfig(explore=explore), seed=seed)
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(n):
        decision = trial_of(learning)
        reward = float(rng.random() < truth[decision.target])
        records.append(FeedbackRecord.of(decision, reward))
    return records


def test_estimates_cover_the_truth():
    truth = {"big": 0.6, "small": 0.85}
    inside = {"ips": 0, "snips": 0, "dr": 0, "gain": 0}
    for seed in range(40):
        found = estimate(logged(truth, 400, seed))
        for name in ("ips", "snips", "dr"):
            low, high = getattr(found.static, f"{name}_range")
            assert low <= getattr(found.static, name) <= high
            inside[name] += low <= truth["big"] <= high
        inside["gain"] += found.gain_range[0] <= 0.25 <= found.gain_range[1]
        assert found.learnt.dr_range[1] - found.learnt.dr_range[0] > 0
    assert min(inside["ips"], inside["snips"], inside["dr"]) >= 34, inside
    assert inside["gain"] >= 30, inside
    found = estimate(logged(truth, 3000, 1))
    assert found.worthwhile
    assert found.learnt.dr == pytest.approx(0.85, abs=0.05)
    assert found.learnt.cost < found.static.cost
    ranges = (found.static.dr_range, found.static.ips_range)
    assert ranges[0][1] - ranges[0][0] < ranges[1][1] - ranges[1][0]


def test_no_gain_is_not_taken_for_one():
    truth = {"big": 0.8, "small": 0.78}
    taken = [estimate(logged(truth, 300, seed)).worthwhile for seed in range(30)]
    assert sum(taken) <= 3


def test_estimates_need_exploration_and_lines():
    truth = {"big": 0.6, "small": 0.85}
    with pytest.raises(InvalidDataError, match="too few"):
        estimate(logged(truth, 10, 0))
    with pytest.raises(InvalidDataError, match="nothing was explored"):
        estimate(logged(truth, 50, 0, explore=0.0))


def test_preferences_travel_as_text():
    for preference in (Performance(), Auto(), Auto(0.123), Cost(), Cost(1e-7)):
        assert parse_preference(preference_text(preference)) == preference


def test_slips_in_the_configuration():
    for wrong in (
        {"explore": 2}, {"delta": -1}, {"dearest": 0.5}, {"mean_prior": 0}, {"nearby_prior": -1},
        {"caution": -1},
    ):  # fmt: skip
        with pytest.raises(InvalidInputError):
            LearningConfig(**wrong)
    free = Candidate("free", 0.8, 0.0)
    assert safe_set([free, *LLMS], free, Performance(), ON) == ("free",)


@pytest.fixture
def router(pool, hashing):
    cards = [AgentCard("weather", "rain snow", examples=("rain snow",) * 1)]
    return MoMARouter.from_cards(cards, llms=pool, encoder=hashing)


def test_a_router_learns_only_when_told(router, tmp_path, hashing):
    query = "why prove essay law"
    before = router.route(query)
    assert before.kind == "llm"
    assert before.trial is None
    with pytest.raises(InvalidInputError, match="does not learn from use"):
        router.feedback(before, 1.0)
    router.learn(
        Learning(LearningConfig(explore=0.5, delta=1.0, dearest=100), tmp_path / "f.jsonl")
    )
    decisions = [router.route(query) for _ in range(20)] + router.route_batch([query] * 20)
    assert {d.target for d in decisions} == {"small", "big"}
    for decision in decisions:
        assert router.feedback(decision, decision.target == "small")
    router.save(tmp_path / "saved")
    loaded = MoMARouter.load(tmp_path / "saved", encoder=hashing)
    assert loaded.learning.rewards() == router.learning.rewards()
    assert not loaded.feedback(decisions[0], 1.0)
    router.learn(None)
    assert router.route(query).trial is None
    with pytest.raises(InvalidInputError, match="no LLMs"):
        MoMARouter.from_cards([], llms=None, encoder=hashing).learn(Learning())


def test_scores_of_langsmith(router):
    learning = Learning(LearningConfig(explore=0.0))
    router.learn(learning)
    decisions = router.route_batch([f"why prove essay law {n}" for n in range(4)])
    scores = [{"key": "correctness", "score": 0.5}, SimpleNamespace(key="helpful", score=True)]
    assert feedback_from_scores(router, decisions[0], scores)
    assert not feedback_from_scores(router, decisions[0], scores)
    assert feedback_from_scores(router, decisions[1].to_dict(), scores, key="helpful")
    left = node_record(decisions[2], None, "", 1.0)
    assert feedback_from_scores(router, left, [{"key": "stars", "score": 4}], low=1, high=5)
    assert not feedback_from_scores(router, decisions[3], [{"key": "x", "score": None}])
    assert not feedback_from_scores(router, decisions[3], scores, key="other")
    assert not feedback_from_scores(router, {"decision": None}, scores)
    assert not feedback_from_scores(router, decisions[3], scores, answered_by="stand-in")
    assert sum(learning.rewards().values()) == 3
    with pytest.raises(InvalidInputError, match="'stars' is 4"):
        feedback_from_scores(router, decisions[3], [{"key": "stars", "score": 4}])
    for wrong in ([{"key": "x", "score": "high"}],):
        with pytest.raises(InvalidInputError):
            reward_of_scores(wrong)
    with pytest.raises(InvalidInputError, match="below"):
        reward_of_scores([], low=1, high=1)


@pytest.mark.parametrize(
    ("truth", "advice"),
    [
        ({"big": 0.5, "small": 0.95}, "It pays: router.learning.configure(apply=True)"),
        ({"big": 0.8, "small": 0.8}, "Not certain yet"),
    ],
)
def test_the_estimate_on_the_command_line(truth, advice, tmp_path, monkeypatch, capsys):
    from moma_core.cli.main import main

    log = FeedbackLog(tmp_path / "f.jsonl")
    for record in logged(truth, 400, 0):
        log.append(record)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["moma", "feedback", "estimate", str(log.path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    said = capsys.readouterr().out
    assert advice in said
    assert "doubly robust" in said


@pytest.mark.parametrize("junk", [{"kind": "llm"}, None, "big"])
def test_feedback_on_what_is_no_decision_says_how_to_get_one(junk):
    with pytest.raises(InvalidInputError, match=r"RoutingDecision\.from_dict"):
        Learning(ON).feedback(junk, 1.0)


@pytest.mark.parametrize("wrong", [{"explore": "x"}, {"delta": None}, {"apply": "yes"}])
def test_a_configuration_of_other_types_is_refused(wrong):
    with pytest.raises(InvalidInputError):
        LearningConfig(**wrong)


@pytest.mark.parametrize(("key", "value"), [("apply", "x"), ("apply", None), ("delta", "x")])
def test_a_changed_configuration_on_disk_is_refused(key, value, tmp_path):
    learning = Learning(ON)
    learning.feedback(trial_of(learning), 1.0)
    learning.save(tmp_path)
    path = tmp_path / "learning.json"
    saved = json.loads(path.read_text())
    saved["config"][key] = value
    path.write_text(json.dumps(saved))
    with pytest.raises(ArtifactError, match="does not hold together"):
        Learning.load(tmp_path)
    saved["config"] = dataclasses.asdict(ON)
    saved["memory"]["outcomes"] = [None]
    path.write_text(json.dumps(saved))
    with pytest.raises(ArtifactError, match="does not hold together"):
        Learning.load(tmp_path)


def test_a_folder_is_no_log(tmp_path):
    with pytest.raises(ArtifactError, match="Name a file in it"):
        Learning(ON, log=tmp_path)
