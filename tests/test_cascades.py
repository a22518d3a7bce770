"""Cascades: answers, plans, the lattice, planning, training, checkpoints, evaluation."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moma_core import (
    ArtifactError,
    CascadeRouter,
    InvalidInputError,
    LLMCard,
    LLMDataset,
    NoTargetError,
)
from moma_core.errors import InvalidDataError, InvalidPreferenceError
from moma_core.llms.answers import answer_ids, normalise_answer
from moma_core.llms.cascade import (
    Accept,
    Ask,
    CascadePlan,
    Watch,
    Weigh,
    build_plan,
    replay,
    slowest,
)
from moma_core.llms.cascade_planner import WEIGHTS, Outlook, SharedDifficulty, build_lattice, solve
from moma_core.llms.training import train_cascade
from moma_core.training.evaluate_llms import evaluate_cascade


class LengthEncoder:
    fingerprint, dimension = "length-2", 2

    def encode(self, texts):
        angle = np.array([len(t) % 7 for t in texts], np.float32)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).reshape(-1, 2)


def pool(n=300, seed=0):
    """Two cheap LLMs, each right 70 % of the time on their own; a dear one right 90 %."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(0, 1, n)
    level = np.array([1.0, 1.0, 3.0])
    right = rng.random((n, 3)) < 1 / (1 + np.exp(-(ease[:, None] + level)))
    said = np.where(right, 0, rng.integers(1, 50, (n, 3)))
    answers = answer_ids([[str(a) if a < 48 else None for a in row] for row in said])
    costs = 1e-4 * np.array([1.0, 1.2, 30.0]) * rng.uniform(0.8, 1.2, (n, 3))
    queries = tuple("q" * (i % 11 + 1) + f" {i}?" for i in range(n))
    names = ("a-small", "b-small", "large")
    return LLMDataset(queries, names, right.astype(float), costs, answers=answers)


@pytest.fixture(scope="module")
def router():
    return train_cascade(pool(), LengthEncoder(), head="linear")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("'abc'", "abc"), ("26.00", "26"), ("1,000", "$1000"), ("70%", " 70 "), ("C.", "c"),
        ('\\"x\\"', "x"), ("-0.50", "-.5"), ("$x+1$", "x+1"), ("007", "7"), ("-0", "0"),
    ],
)  # fmt: skip
def test_answers_that_mean_the_same(first, second):
    assert normalise_answer(first) == normalise_answer(second)


@pytest.mark.parametrize(("first", "second"), [("1", "10"), ("-2", "2"), ("a b", "ab"), ("", "0")])
def test_answers_that_differ(first, second):
    assert normalise_answer(first) != normalise_answer(second)


@given(st.text(max_size=20))
def test_normalising_twice_changes_nothing(text):
    once = normalise_answer(text)
    assert answer_ids([[text, once]]).tolist()[0][0] == 0


def test_reads_answers(tmp_path):
    import pyarrow as pa

    columns = {"query": ["a?", "b?"]}
    for name, answers in (("x", ["1", None]), ("y", ["1.0", "3"]), ("z", ["2", "3"])):
        columns |= {f"score|{name}": [1, 0], f"cost|{name}": [1.0, 1.0], f"answer|{name}": answers}
    data = LLMDataset.from_table(pa.table(columns))
    assert data.answers.tolist() == [[0, 0, 1], [-1, 0, 0]]
    assert data.take([1]).pool(["z", "x"]).answers.tolist() == [[0, -1]]
    exact = LLMDataset.from_table(pa.table(columns), normalise=lambda answer: answer)
    assert exact.answers[0].tolist() == [0, 1, 2]
    with pytest.raises(InvalidDataError, match="answers of shape"):
        LLMDataset(("a",), ("x",), np.ones((1, 1)), np.ones((1, 1)), answers=np.zeros((2, 1)))


def test_plans_follow_answers():
    last = Ask("c", Accept("c"), Accept("a"), (("a", Accept("a")), ("b", Accept("b"))))
    plan = CascadePlan(Ask("a", Ask("b", last, last, (("a", Accept("a")),)), last), 0.9, 0.1)
    assert plan.llms == ("a", "b", "c")
    assert plan.calls == 3
    assert plan.next({"a": "x", "b": "'X'"}) == Accept("a")
    assert plan.next({"a": "x", "b": "y"}) == last
    assert plan.next({"a": "x", "b": "y", "c": "y"}) == Accept("b")
    assert plan.next({"a": None}) == last
    assert plan.next({"a": "x", "b": "X"}, normalise=lambda t: t) == last
    assert CascadePlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_lattice_counts():
    # sets of k LLMs times groupings with an unreadable mark (shifted Bell numbers 2, 5, 15, 52)
    sizes = [len(level.members) for level in build_lattice(5, 4)]
    assert sizes == [1, 5 * 2, 10 * 5, 10 * 15, 5 * 52]
    assert len(build_lattice(2, 4)) == 3


def test_plans_weigh_what_a_call_cost():
    weigh = Weigh("a", (0.1, 0.2), (Ask("b", Accept("b"), Accept("a")), Accept("a"), Accept("a")))
    plan = CascadePlan(Ask("a", weigh, Accept("a")), 0.9, 0.1)
    assert plan.next({"a": "x"}, costs={"a": 0.05}).llm == "b"
    assert plan.next({"a": "x"}, costs={"a": 0.1}) == plan.next({"a": "x"}, costs={"a": 0.0})
    assert plan.next({"a": "x"}, costs={"a": 0.11}) == Accept("a")
    assert plan.next({"a": "x"}) == Accept("a")
    assert plan.calls == 2
    assert plan.llms == ("a", "b")
    assert CascadePlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def watched_outlook(n, seed=0):
    """LLM 0's short answers are mostly wrong."""
    lengths = np.broadcast_to(np.array([[0.6, 0.1], [0.4, 0.9]])[:, :, None], (2, 2, len(WEIGHTS)))
    return replace(outlook(n, 3, seed), watched=0, lengths=lengths)


def test_lengths_leave_a_distribution():
    from moma_core.llms.cascade_planner import _beliefs

    view = replace(watched_outlook(4), mistake=np.zeros(4), spending=np.ones((4, 3, len(WEIGHTS))))
    levels = build_lattice(3, 3, watched=0, bins=2)
    assert [len(level.members) for level in levels] == [1, 8, 25, 30]
    _, asked = _beliefs(levels[1], view)
    first = levels[1].members[:, 0] == 0
    assert asked[:, first, 0].sum(axis=1) == pytest.approx(np.ones(4), abs=1e-9)


@given(st.integers(0, 30))
@settings(max_examples=8, deadline=None)
def test_looking_at_lengths_never_hurts(seed):
    rates, view = np.array([0.05, 0.3]), watched_outlook(3, seed)
    blind = solve(build_lattice(3, 3), outlook(3, 3, seed), rates)
    seeing = solve(build_lattice(3, 3, watched=0, bins=2), view, rates)
    gain = (seeing.scores - rates * seeing.costs) - (blind.scores - rates * blind.costs)
    assert (gain >= -1e-9).all()


def outlook(n, m, seed=0, r=0.3):
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.3, 0.95, (n, m, 1))
    probabilities = np.clip(base + np.linspace(-0.25, 0.25, len(WEIGHTS)), 0.02, 0.98)
    spending = np.broadcast_to(rng.uniform(0.1, 1, (n, m, 1)), probabilities.shape)
    return Outlook(probabilities, spending, np.full(m, 0.1), np.full(n, r))


def test_beliefs_are_a_distribution():
    from moma_core.llms.cascade_planner import _beliefs

    view = outlook(4, 3, r=0.0)
    view = Outlook(view.probabilities, np.ones_like(view.spending), view.unreadable, view.mistake)
    for level in build_lattice(3, 3)[:-1]:
        _, asked = _beliefs(level, view)  # with unit costs: the probability of the node
        per_set = {}
        for node, members in enumerate(map(tuple, level.members)):
            per_set[members] = per_set.get(members, 0) + asked[:, node, 0]
        for total in per_set.values():
            assert total == pytest.approx(np.ones(4), abs=1e-9)


@given(st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_a_higher_rate_never_plans_a_dearer_cascade(seed):
    rates = np.array([0.0, 0.1, 0.5, 2.0])
    policy = solve(build_lattice(3, 3), outlook(3, 3, seed), rates)
    assert (np.diff(policy.costs, axis=1) <= 1e-9).all()
    assert (np.diff(policy.scores, axis=1) <= 1e-9).all()


def test_more_calls_allowed_never_hurt():
    rates = np.array([0.05, 0.2])
    values = []
    for depth in (1, 2, 3):
        policy = solve(build_lattice(3, depth), outlook(6, 3), rates)
        values.append(policy.scores - rates * policy.costs)
    assert all((b >= a - 1e-9).all() for a, b in pairwise(values))


def test_one_call_is_the_plain_choice():
    view, rates = outlook(8, 3), np.array([0.2])
    policy = solve(build_lattice(3, 1), view, rates)
    quality, cost = view.probabilities @ WEIGHTS, view.spending @ WEIGHTS
    assert policy.choices[0][:, 0, 0].tolist() == (quality - 0.2 * cost).argmax(axis=1).tolist()


def test_a_tree_does_what_the_replay_does():
    view, levels, names = outlook(20, 4), build_lattice(4, 3), ("a", "b", "c", "d")
    policy = solve(levels, view, np.array([0.02]))
    rng = np.random.default_rng(1)
    answers = rng.integers(-1, 2, (20, 4)).astype(np.int32)
    scores, costs = rng.random((20, 4)), rng.random((20, 4))
    zero = np.zeros(20, np.intp)
    replayed, spent, asked = replay(levels, policy, zero, answers, scores, costs)
    for row in range(20):
        plan = CascadePlan(build_plan(levels, names, policy, row, 0), 0.5, 0.1)
        seen, total = {}, 0.0
        while isinstance(step := plan.next(seen), Ask):
            column = names.index(step.llm)
            seen[step.llm] = None if answers[row, column] < 0 else f"is {answers[row, column]}"
            total += costs[row, column]
        assert spent[row] == pytest.approx(total)
        assert set(seen) == {names[c] for c in np.flatnonzero(asked[row])}
        accepted = names.index(step.llm)
        if answers[row, accepted] >= 0:
            assert answers[row, names.index(step.llm)] in answers[row]
            assert replayed[row] in scores[row][answers[row] == answers[row, accepted]]


def test_a_tree_with_lengths_does_what_the_replay_does():
    levels, names = build_lattice(3, 3, watched=0, bins=2), ("a", "b", "c")
    policy = solve(levels, watched_outlook(30), np.array([0.05]))
    rng = np.random.default_rng(1)
    answers = rng.integers(-1, 2, (30, 3)).astype(np.int32)
    scores, costs = rng.random((30, 3)), rng.random((30, 3))
    watch = Watch(0, np.full((30, 1), 0.5))
    zero = np.zeros(30, np.intp)
    _, spent, _ = replay(levels, policy, zero, answers, scores, costs, watch=watch)
    weighed = 0
    for row in range(30):
        plan = CascadePlan(build_plan(levels, names, policy, row, 0, watch), 0.5, 0.1)
        weighed += "weigh" in json.dumps(plan.to_dict())
        seen, paid = {}, {}
        while isinstance(step := plan.next(seen, costs=paid), Ask):
            column = names.index(step.llm)
            seen[step.llm] = None if answers[row, column] < 0 else f"is {answers[row, column]}"
            paid[step.llm] = costs[row, column]
        assert spent[row] == pytest.approx(sum(paid.values()))
    assert weighed > 0


def test_lengths_that_tell_are_watched(router):
    data = pool(200)
    wrong = data.scores[:, 0] < 0.5
    data.costs[:, 0] *= np.where(wrong, 0.2, 1.0)
    watching = train_cascade(data, LengthEncoder(), head="linear")
    assert watching.watched == "a-small"
    assert router.watched is None


@given(st.integers(0, 30), st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.5]), min_size=3, max_size=3))
@settings(max_examples=10, deadline=None)
def test_no_plan_takes_longer_than_it_may(seed, seconds):
    levels, names, rates = build_lattice(3, 3), ("a", "b", "c"), np.array([0.01])
    view = replace(outlook(2, 3, seed), seconds=np.array(seconds), limit=4.0)
    policy = solve(levels, view, rates)
    free = solve(levels, outlook(2, 3, seed), rates)
    assert (policy.scores - rates * policy.costs <= free.scores - rates * free.costs + 1e-9).all()
    for row in range(2):
        root = build_plan(levels, names, policy, row, 0)
        assert slowest(root, dict(zip(names, seconds, strict=True))) <= 4.0


def test_a_limit_of_time(router):
    base = router.base
    for name, seconds in (("a-small", 0.5), ("b-small", 0.6), ("large", 3.0)):
        base = base.reprice(name, 1.0, 1.0, latency=seconds)
    timed, vector = router.over(base), LengthEncoder().encode(["qqq?"])[0]
    plan = timed.plan("qqq?", vector, "performance")
    assert plan.latency > 3.0
    quick = timed.plan("qqq?", vector, "performance", max_latency=1.2)
    assert quick.latency <= 1.2
    assert "large" not in quick.llms
    assert timed.plan("qqq?", vector, max_latency=0.1).llms == ("a-small",)
    assert router.plan("qqq?", vector).latency is None
    with pytest.raises(InvalidPreferenceError, match="max_latency"):
        timed.plan("qqq?", vector, max_latency=0)


def test_a_pool_changes_under_its_cascade(router, tmp_path):
    vector = LengthEncoder().encode(["qqq?"])[0]
    left = router.over(router.base.remove("a-small"))
    left.save(tmp_path)
    assert "a-small" not in CascadeRouter.load(tmp_path).plan("qqq?", vector).llms
    grown = router.over(router.base.add(LLMCard("new", 1.0, 1.0)))
    grown.save(tmp_path)
    loaded = CascadeRouter.load(tmp_path)
    assert loaded.base.names == (*router.base.names, "new")
    assert loaded.plan("qqq?", vector).llms == router.plan("qqq?", vector).llms
    alone = router.over(router.base.remove("a-small").remove("b-small"))
    assert alone.plan("qqq?", vector).llms == ("large",)
    free = router.over(router.base.reprice("large", 0.0, 0.0))
    assert free.plan("qqq?", vector, "auto").root.llm == "large"


def test_the_hidden_difficulty_is_found():
    rng = np.random.default_rng(0)
    n, hidden = 2000, rng.normal(0, 1, 2000)
    predicted = rng.uniform(0.2, 0.9, (n, 3))
    logits = np.log(predicted / (1 - predicted)) + hidden[:, None] * np.array([2.0, 2.0, 0.0])
    scores = (rng.random((n, 3)) < 1 / (1 + np.exp(-logits))).astype(float)
    scores[:50, 2] = np.nan
    costs = np.exp(-0.5 * hidden)[:, None] * np.array([1.0, 2.0, 3.0])
    answers = np.where(np.nan_to_num(scores) > 0, 0, rng.integers(1, 3, (n, 3))).astype(np.int32)
    found = SharedDifficulty.fit(predicted, np.ones((n, 3)), scores, costs, answers)
    assert found.loading[0] == pytest.approx(2.0, abs=0.5)
    assert abs(found.loading[2]) < 0.5
    assert (found.cost_slope < -0.1).all()
    assert found.popular_mistake(predicted).mean() == pytest.approx(0.5**0.5, abs=0.1)
    assert found.spending(np.ones((4, 3))).shape == (4, 3, len(WEIGHTS))


def test_the_router_asks_cheap_ones_first(router):
    vector = LengthEncoder().encode(["qqq?"])[0]
    plan = router.plan("qqq?", vector, "auto")
    assert plan.root.llm != "large"
    assert 0 < plan.score <= 1
    assert plan.preference == "auto"
    best = router.plan("qqq?", vector, "performance")
    assert best.score >= plan.score
    assert router.plan("qqq?", vector, "cost:0.0001").cost <= 2e-4
    assert "large" not in router.plan("qqq?", vector, exclude={"large"}).llms
    with pytest.raises(NoTargetError, match="Enable one"):
        router.plan("qqq?", vector, exclude=router.base.names)


def test_cascades_beat_the_best_single_llm(router):
    report = evaluate_cascade(router, pool(400, seed=5), LengthEncoder())
    assert report["best_single"] == "large"
    assert report["cost_to_match_best_single"] is None or report["cost_to_match_best_single"] < 0.9
    assert report["calls"]["performance"] > 1
    assert set(report["preferences"]) == {"performance", "auto", "cost"}
    assert list(report["score_at_cost"]) == ["0.25", "0.5", "0.7"]
    json.dumps(report)


def test_depth_one_asks_once():
    once = train_cascade(pool(120), LengthEncoder(), head="linear", depth=1)
    report = evaluate_cascade(once, pool(100, seed=5), LengthEncoder())
    assert set(report["calls"].values()) == {1.0}
    assert once.plan("q?", np.zeros(2, np.float32)).calls == 1


def test_answers_that_tell_nothing_are_not_asked_for(router, tmp_path):
    data = pool(300)
    guesses = np.random.default_rng(3).integers(0, 2, data.scores.shape).astype(np.int32)
    blind = train_cascade(replace(data, answers=guesses), LengthEncoder(), head="linear")
    assert router.depth == 4
    assert router.metadata["held_out_gain"][0] > router.metadata["held_out_gain"][1]
    assert blind.depth == 1
    assert set(blind.shortlist) == set(data.llms)
    assert blind.metadata["held_out_gain"][0] <= blind.metadata["held_out_gain"][1]
    test = pool(400, seed=5)
    report = evaluate_cascade(
        blind, replace(test, answers=np.zeros_like(test.answers)), LengthEncoder()
    )
    assert set(report["calls"].values()) == {1.0}
    assert report["preferences"]["performance"]["score"] >= report["best_single_score"] - 1e-9
    blind.save(tmp_path)
    assert CascadeRouter.load(tmp_path).depth == 1


def test_saved_cascades_plan_the_same(router, tmp_path):
    router.save(tmp_path)
    loaded = CascadeRouter.load(tmp_path)
    vector = LengthEncoder().encode(["qqq?"])[0]
    for preference in ("performance", "auto", "cost"):
        assert loaded.plan("qqq?", vector, preference) == router.plan("qqq?", vector, preference)
    config = tmp_path / "cascade.json"
    body = json.loads(config.read_text())
    for change in (
        {"shortlist": ["gone"]},
        {"watched": "gone"},
        {"depth": "x"},
        {"format": 9},
        {"weights": None},
    ):
        config.write_text(json.dumps({**body, **change}))
        with pytest.raises(ArtifactError, match="moma train llms --strategy cascade"):
            CascadeRouter.load(tmp_path)
    config.unlink()
    with pytest.raises(ArtifactError, match=r"cascade\.json.*--strategy cascade"):
        CascadeRouter.load(tmp_path)


def test_refusals(router):
    data = pool(40)
    blind = LLMDataset(data.queries, data.llms, data.scores, data.costs)
    with pytest.raises(InvalidDataError, match=r"answer\|<llm>.*--strategy single"):
        train_cascade(blind, LengthEncoder())
    with pytest.raises(InvalidDataError, match=r"answer\|<llm>"):
        evaluate_cascade(router, blind, LengthEncoder())
    with pytest.raises(InvalidInputError, match="depth=9"):
        train_cascade(data, LengthEncoder(), depth=9)
    data.scores[:, 0] = np.nan
    with pytest.raises(InvalidDataError, match="no query was scored"):
        evaluate_cascade(router, data, LengthEncoder())
