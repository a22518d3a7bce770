"""Pareto front, TOPSIS and the three preferences."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moma_core import Auto, Cost, NoTargetError, Performance, ScoreTable
from moma_core.errors import InvalidPreferenceError, ScoreError
from moma_core.llms.selection import (
    LEAST_USD,
    StreamBudget,
    check_latency,
    choose,
    choose_at_rate,
    front_mask,
    in_time,
    pareto_front,
    rank,
    select,
    topsis,
    value,
)
from moma_core.types import Topsis, parse_preference, preference_name, preference_text

grid = st.integers(0, 20).map(lambda n: n / 20)
pools = st.lists(st.tuples(grid, grid), min_size=1, max_size=9).map(
    lambda pairs: tuple(np.array(column) for column in zip(*pairs, strict=True))
)
preferences = st.one_of(
    st.just(Performance()),
    st.floats(0, 1).map(Auto),
    st.floats(0, 1).map(Topsis),
    st.one_of(st.none(), st.floats(0, 1.2)).map(Cost),
)


def table(costs, scores):
    return ScoreTable(tuple(f"llm{i}" for i in range(len(costs))), scores, costs)


@given(pools, preferences)
def test_choice_is_on_the_front(pool, preference):
    costs, scores = pool
    assert select(table(costs, scores), preference) in pareto_front(costs, scores)


@given(pools)
def test_front_holds_exactly_what_nothing_beats(pool):
    costs, scores = pool
    expected = [
        i
        for i in range(len(costs))
        if not any(
            costs[k] <= costs[i]
            and scores[k] >= scores[i]
            and (costs[k] < costs[i] or scores[k] > scores[i])
            for k in range(len(costs))
        )
    ]
    assert sorted(pareto_front(costs, scores).tolist()) == expected
    assert (np.diff(costs[pareto_front(costs, scores)]) >= 0).all()


def test_front_keeps_equal_candidates():
    assert pareto_front(np.array([1.0, 1.0, 2.0]), np.array([0.5, 0.5, 0.5])).tolist() == [0, 1]


@given(pools, st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_topsis_with_more_weight_on_cost_never_picks_a_dearer_llm(pool, weights):
    costs, scores = pool
    low, high = sorted(weights)
    cheap, dear = (select(table(costs, scores), Topsis(weight)) for weight in (low, high))
    assert costs[cheap] <= costs[dear] or math.isclose(low, high, abs_tol=1e-9)


def test_auto_does_not_give_half_the_quality_for_a_small_price():
    scores, costs = (
        np.array([0.11, 0.23, 0.33, 0.41, 0.80]),
        np.array([5e-5, 1e-4, 4e-4, 8.5e-3, 2.75e-2]),
    )
    assert select(table(costs, scores), Auto()) == 4
    assert select(table(costs, scores), Topsis()) != 4  # why it is no longer the default
    assert select(table(np.array([0.0, 1e-3]), np.array([0.8, 0.9])), Auto(0.01)) == 0


@given(pools, st.lists(st.floats(0, 1.2), min_size=2, max_size=2))
def test_a_smaller_budget_never_scores_better(pool, budgets):
    costs, scores = pool
    small, large = (select(table(costs, scores), Cost(budget)) for budget in sorted(budgets))
    assert scores[small] <= scores[large]


@given(pools, st.floats(0, 10), st.floats(0, 10))
def test_a_higher_rate_never_picks_a_dearer_llm(pool, first, second):
    costs, scores = pool
    low, high = sorted((first, second))
    assume(high - low > 1e-6)
    cheap, dear = (choose_at_rate(costs[None], scores[None], r)[0] for r in (high, low))
    assert costs[cheap] <= costs[dear]


@given(pools, st.sampled_from([1e-6, 0.5, 3.0, 1e4]), grid)
def test_topsis_does_not_depend_on_the_unit_of_cost(pool, factor, weight):
    costs, scores = pool
    before = select(table(costs, scores), Topsis(weight))
    closeness = topsis(
        *(column[pareto_front(costs, scores)] for column in pool), 1 - weight, weight
    )
    top = np.sort(closeness)[-2:]
    assume(len(top) < 2 or top[1] - top[0] > 1e-9)
    assert select(table(costs * factor, scores), Topsis(weight)) == before


@given(pools, preferences, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_many_queries_at_once_choose_as_one_by_one(pool, preference, random):
    costs, scores = pool
    rows = [random.sample(range(len(costs)), len(costs)) for _ in range(4)]
    together = choose(costs[rows], scores[rows], preference)
    alone = [select(table(costs[row], scores[row]), preference) for row in rows]
    assert together.tolist() == alone


@given(pools, preferences)
def test_rank_lists_every_llm_once(pool, preference):
    costs, scores = pool
    assert sorted(rank(table(costs, scores), preference)) == list(range(len(costs)))


def test_topsis_by_hand():
    # cost 0, .5, 1 and score 0, .9, 1 after min-max; equal weights
    closeness = topsis(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.9, 1.0]), 0.5, 0.5)
    middle = math.hypot(0.5, 0.9) / (math.hypot(0.5, 0.9) + math.hypot(0.5, 0.1))
    assert closeness == pytest.approx([0.5, middle, 0.5])


def test_topsis_constant_columns_count_as_ideal():
    assert topsis(np.array([2.0, 2.0]), np.array([0.4, 0.4]), 0.5, 0.5).tolist() == [1.0, 1.0]
    assert topsis(np.array([1.0, 3.0]), np.array([0.4, 0.4]), 0.5, 0.5).tolist()[0] == 1.0


@pytest.mark.parametrize("weights", [(-1, 1), (0, 0), (math.nan, 1)])
def test_topsis_refuses_weights(weights):
    with pytest.raises(ValueError, match="weights"):
        topsis(np.array([1.0]), np.array([1.0]), *weights)


def test_ties_of_topsis_go_to_the_higher_score_then_the_lower_cost():
    costs, scores = np.array([1.0, 3.0]), np.array([0.2, 0.8])  # closeness .5 each
    assert select(table(costs, scores), Topsis(0.5)) == 1
    assert select(table(np.array([2.0, 1.0]), np.array([0.5, 0.5])), Performance()) == 1


def test_a_front_of_two_in_a_larger_pool_is_a_tie_at_equal_weights_of_topsis():
    costs, scores = np.array([1.0, 100.0, 101.0]), np.array([0.89, 0.90, 0.1])
    assert select(table(costs, scores), Topsis(0.5)) == 1  # eq. 8 sees only 0 and 1
    assert select(table(costs, scores), Topsis(0.49)) == 0


def test_extreme_weights_take_the_ends_of_the_front():
    costs, scores = np.array([1.0, 2.0, 4.0]), np.array([0.2, 0.7, 0.8])
    assert select(table(costs, scores), Topsis(0.0)) == 0
    assert select(table(costs, scores), Topsis(1.0)) == 2
    assert select(table(costs, scores), Auto(0.0)) == 2
    assert select(table(costs, scores), Auto(1.0)) == 0


# --- auto: halving the cost is worth some score

usd = st.one_of(st.just(0.0), st.floats(1e-7, 1.0))
priced = st.lists(st.tuples(usd, st.floats(0, 1)), min_size=1, max_size=9).map(
    lambda pairs: tuple(np.array(column) for column in zip(*pairs, strict=True))
)
any_pool = st.one_of(pools, priced)
some_points = st.floats(0, 0.2)


@given(any_pool, some_points, st.integers(0, 8))
def test_an_llm_that_is_not_chosen_changes_nothing(pool, points, which):
    costs, scores = pool
    full = table(costs, scores)
    chosen, which = full.names[select(full, Auto(points))], which % len(costs)
    assume(full.names[which] != chosen)
    kept = [i for i in range(len(costs)) if i != which]
    left = ScoreTable(tuple(full.names[i] for i in kept), scores[kept], costs[kept])
    assert left.names[select(left, Auto(points))] == chosen


def test_ten_thousand_pools_without_what_is_not_chosen():
    rng = np.random.default_rng(0)
    costs = 10.0 ** rng.uniform(-7, -1, (10_000, 6)) * (rng.random((10_000, 6)) < 0.9)
    scores = rng.integers(0, 21, (10_000, 6)) / 20  # ties too
    picks = choose(costs, scores, Auto())
    for dropped in range(6):
        rows = np.flatnonzero(picks != dropped)
        kept = np.delete(np.arange(6), dropped)
        left = choose(costs[rows][:, kept], scores[rows][:, kept], Auto())
        assert (kept[left] == picks[rows]).all()


@given(any_pool, st.tuples(some_points, some_points))
def test_the_more_halving_is_worth_the_cheaper_the_choice(pool, both):
    costs, scores = pool
    low, high = sorted(both)
    assume(high - low > 1e-9)
    dear, cheap = (select(table(costs, scores), Auto(points)) for points in (low, high))
    assert costs[cheap] <= costs[dear]


@given(any_pool, some_points, st.one_of(st.none(), st.integers(0, 8)))
def test_cost_without_a_budget_is_never_dearer_than_auto(pool, points, anchor):
    full = table(*pool)
    name = None if anchor is None else f"llm{anchor}"
    saving, balanced = rank(full, Cost(), name, points=points), rank(full, Auto(), points=points)
    assert full.costs[saving[0]] <= full.costs[balanced[0]]
    assert balanced == rank(full, Auto(points))


@given(any_pool, some_points)
def test_auto_is_never_dominated(pool, points):
    costs, scores = pool
    assert select(table(costs, scores), Auto(points)) in pareto_front(costs, scores)


@given(any_pool, st.sampled_from([2.0, 1e3, 1e6]), some_points)
def test_auto_needs_no_unit_of_cost(pool, factor, points):
    costs, scores = pool
    costs = costs + LEAST_USD
    best = np.sort(value(costs, scores, points))[::-1]
    assume(len(best) < 2 or best[0] - best[1] > 1e-9)
    before = select(table(costs, scores), Auto(points))
    assert select(table(costs * factor, scores), Auto(points)) == before


def test_halving_the_cost_is_worth_that_much():
    pair = table(np.array([1e-3, 2e-3]), np.array([0.80, 0.83]))
    assert [select(pair, Auto(points)) for points in (0.0, 0.029, 0.031)] == [1, 1, 0]
    assert rank(pair, Auto(), points=0.031)[0] == 0


def test_what_is_free_does_not_win_whatever_it_scores():
    free, failing = np.array([0.0, 1e-3]), np.array([0.0, 0.0])
    assert select(table(free, np.array([0.5, 0.9])), Auto()) == 1
    assert select(table(free, np.array([0.8, 0.9])), Auto()) == 0
    assert select(table(free, failing), Auto(0.0)) == 0  # not worse, and cheaper
    assert select(table(np.zeros(2), np.array([0.5, 0.9])), Auto()) == 1


def test_a_useless_llm_that_joins_turns_nothing_round():
    small, large, useless = (0.847, 2.9e-5), (0.894, 5.2e-4), (0.785, 2.3e-4)
    for pool in ((small, large), (small, large, useless)):
        scores, costs = np.array(pool).T
        assert select(table(costs, scores), Auto()) == 0
    steps = np.array([[0.11, 5e-5], [0.23, 1e-4], [0.33, 4e-4], [0.41, 8.5e-3], [0.80, 2.75e-2]]).T
    assert select(table(steps[1], steps[0]), Auto()) == 4  # no step is worth half the score
    assert select(table(steps[1], steps[0]), Topsis()) != 4


def test_cost_budget():
    pool = table(np.array([1.0, 2.0, 8.0]), np.array([0.2, 0.7, 0.9]))
    assert select(pool, Cost(2.0)) == 1
    assert select(pool, Cost(0.5)) == 0  # nothing affordable: the cheapest
    assert select(pool, Cost()) == 1  # a quarter of the strongest one's 8
    assert select(pool, Cost(), anchor="llm1") == 0  # a quarter of 2
    assert select(pool, Cost(), anchor="gone") == 1
    assert rank(pool, Cost(2.0)) == (1, 0, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, Auto()),
        ("performance", Performance()),
        (" Auto ", Auto()),
        ("cost", Cost()),
        ("cost:0.002", Cost(0.002)),
        ("cost: $0.5", Cost(0.5)),
        (Auto(0.9), Auto(0.9)),
        ("auto:0.03", Auto(0.03)),
        ("auto: 0", Auto(0.0)),
        ("topsis", Topsis()),
        ("topsis:0.7,0.3", Topsis(0.7)),
        ("topsis:3,1", Topsis(0.75)),
        ("Topsis: 1, 0", Topsis(1.0)),
    ],
)
def test_parse_preference(text, expected):
    assert parse_preference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cheap",
        "cost:",
        "cost:-1",
        "cost:nan",
        "auto:",
        "auto:-1",
        "auto:x",
        7,
        "cost:x",
        "topsis:",
        "topsis:1",
        "topsis:0,0",
        "topsis:-1,2",
        "topsis:1,2,3",
        "performance:1",
    ],
)
def test_unknown_preferences_list_the_choices(text):
    with pytest.raises(InvalidPreferenceError, match=r"performance.*auto.*cost"):
        parse_preference(text)


@given(preferences)
def test_preferences_read_back_from_their_text(preference):
    again = parse_preference(preference_text(preference))
    if isinstance(preference, Topsis):
        assert again.w_score == pytest.approx(preference.w_score)
    else:
        assert again == preference


def test_preference_name():
    assert [preference_name(p) for p in (Performance(), Auto(), Cost(1.0), Topsis())] == [
        "performance",
        "auto",
        "cost",
        "topsis",
    ]


def test_nothing_to_choose_from():
    with pytest.raises(NoTargetError, match="Enable or add"):
        select(table(np.array([]), np.array([])), Topsis())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_tables_refuse_what_is_not_finite(bad):
    with pytest.raises(ScoreError, match="llm1"):
        table(np.array([1.0, 2.0]), np.array([0.5, bad]))


def test_front_mask_shape():
    assert front_mask(np.ones((3, 2)), np.ones((3, 2))).all()


@given(st.lists(pools, min_size=1, max_size=20), st.floats(0, 10))
@settings(max_examples=40)
def test_a_stream_spends_what_it_was_given(stream, total):
    budget = StreamBudget(total, len(stream))
    cheapest = 0.0
    for costs, scores in stream:
        picked = select(table(costs, scores), budget.preference())
        if costs[picked] > budget.left + 1e-12:  # nothing is affordable: the cheapest answers
            assert costs[picked] == costs.min()
            cheapest += costs[picked]
        budget = budget.after(float(costs[picked]))
    assert budget.spent <= total + cheapest + 1e-9


@given(st.floats(0, 10), st.floats(0, 10), st.integers(1, 50))
def test_having_spent_more_never_allows_more(first, second, queries):
    low, high = sorted((first, second))
    allowed = [StreamBudget(5.0, queries, spent=spent).preference().budget for spent in (low, high)]
    assert allowed[0] >= allowed[1]


def test_stream_budgets_refuse_nonsense():
    for bad in ({"total": -1.0, "queries": 3}, {"total": 1.0, "queries": 0}):
        with pytest.raises(InvalidPreferenceError, match="budget"):
            StreamBudget(**bad)


seconds = st.one_of(st.none(), st.floats(0, 10))


@given(st.lists(seconds, min_size=1, max_size=9), st.floats(0.1, 10))
def test_who_is_in_time(latencies, limit):
    fits = in_time(latencies, limit)
    known = [0.0 if each is None else each for each in latencies]
    assert fits.any()
    if min(known) <= limit:
        assert fits.tolist() == [each <= limit for each in known]
    else:
        assert {each for each, kept in zip(known, fits, strict=True) if kept} == {min(known)}


@given(pools, st.data())
def test_more_time_never_scores_worse(pool, draw):
    costs, scores = pool
    latencies = draw.draw(st.lists(st.floats(0, 9), min_size=len(costs), max_size=len(costs)))
    limits = sorted(draw.draw(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9))))
    if min(latencies) > limits[0]:
        return
    best = []
    for limit in limits:
        kept = in_time(latencies, limit)
        best.append(scores[kept][select(table(costs[kept], scores[kept]), Performance())])
    assert best[0] <= best[1]


@given(pools, st.data(), st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_limit_of_time_keeps_the_order_of_weights(pool, draw, weights):
    costs, scores = pool
    latencies = draw.draw(st.lists(seconds, min_size=len(costs), max_size=len(costs)))
    kept = in_time(latencies, 3.0)
    low, high = sorted(weights)
    cheap, dear = (select(table(costs[kept], scores[kept]), Auto(points)) for points in (high, low))
    assert costs[kept][cheap] <= costs[kept][dear] or math.isclose(low, high, abs_tol=1e-9)


@pytest.mark.parametrize("limit", [0, -1, "2", True, math.nan])
def test_a_limit_of_time_is_seconds(limit):
    with pytest.raises(InvalidPreferenceError, match="max_latency"):
        check_latency(limit)
    assert check_latency(None) == math.inf


@given(pools, st.floats(0, 5), st.floats(0, 5))
def test_a_larger_min_gain_never_picks_a_dearer_llm_and_stays_on_the_front(pool, first, second):
    low, high = sorted((first, second))
    costs, scores = pool
    picks = [rank(table(*pool), Performance(), min_gain_per_usd=each)[0] for each in (low, high)]
    assert costs[picks[1]] <= costs[picks[0]] + 1e-12
    assert all(front_mask(costs[None], scores[None])[0, pick] for pick in picks)
    assert picks[0] == choose(costs[None], scores[None], Performance(), min_gain_per_usd=low)[0]


def test_min_gain_ties_what_differs_by_less():
    two = table(np.array([1.0, 2.0]), np.array([0.80, 0.81]))
    assert [rank(two, Performance(), min_gain_per_usd=each)[0] for each in (0.0, 0.009, 0.011)] == [
        1,
        1,
        0,
    ]
    assert rank(two, Auto(), min_gain_per_usd=9.0) == rank(two, Auto())
