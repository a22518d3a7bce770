"""Outcomes of pairs, losses, Elo, representative queries, and heads trained on who beats whom."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core import InvalidInputError, LLMCard
from moma_core.errors import InvalidDataError
from moma_core.llms.heads import fit_head
from moma_core.llms.heads.judged import (
    Outcomes,
    best_llm_loss,
    five_to_three,
    log_outcomes,
    outcome_loss,
    outcomes_of_scores,
    pairwise_loss,
)
from moma_core.training.collect import representatives
from moma_core.training.judgements import elo_ratings

values = st.floats(-30, 30)
forms = st.builds(Outcomes, st.floats(0.1, 5), st.floats(0, 3), st.booleans())
SWAP = [0, 2, 1, 4, 3, 5]


def one(*numbers):
    return tuple(np.array([number]) for number in numbers)


@given(values, values, values, forms)
def test_outcomes_are_a_distribution(a, b, eta, form):
    logs = log_outcomes(*one(a, b, eta), form)
    assert logs.shape == (1, 6 if form.grounded else 5)
    assert np.exp(logs).sum() == pytest.approx(1.0, abs=1e-9)
    assert np.isfinite(logs).all()


@given(values, values, values, forms)
def test_swapping_the_llms_swaps_the_outcomes(a, b, eta, form):
    forward, backward = log_outcomes(*one(a, b, eta), form), log_outcomes(*one(b, a, eta), form)
    assert backward[0, SWAP[: forward.shape[1]]] == pytest.approx(forward[0], abs=1e-9)


def test_outcomes_match_the_formulas():
    a, b, eta = 0.7, -0.2, 0.3
    theta, pi_a, pi_b = 1 + np.exp(eta), np.exp(a), np.exp(b)
    a_wins, b_wins = pi_a / (pi_a + theta * pi_b), pi_b / (pi_b + theta * pi_a)
    three = np.exp(five_to_three(log_outcomes(*one(a, b, eta))))[0]
    assert three == pytest.approx([1 - a_wins - b_wins, a_wins, b_wins])
    strong = 1 / (1 + np.exp(-(a - b - np.log(theta) - 1.0)))
    assert np.exp(log_outcomes(*one(a, b, eta)))[0, 3] == pytest.approx(a_wins * strong)
    grounded = np.exp(log_outcomes(*one(a, b, eta), Outcomes(grounded=True)))[0]
    assert grounded[1] + grounded[3] == pytest.approx(pi_a / (1 + pi_a + theta * pi_b))
    assert grounded[5] == pytest.approx(1 / (1 + pi_a + pi_b))


def test_large_scores_do_not_overflow():
    logs = log_outcomes(*one(5e3, -5e3, 0.0))
    assert logs[0, 3] == pytest.approx(0.0)
    assert np.isfinite(log_outcomes(*one(-5e3, 5e3, 800.0), Outcomes(grounded=True))).all()


def test_outcomes_of_scores_are_antisymmetric():
    scores = np.random.default_rng(0).integers(0, 5, (200, 2)) / 4
    forward = outcomes_of_scores(scores[:, 0], scores[:, 1], bad=0.1)
    backward = outcomes_of_scores(scores[:, 1], scores[:, 0], bad=0.1)
    assert [SWAP[code] for code in forward] == backward.tolist()


def test_gradients_point_downhill():
    rng = np.random.default_rng(0)
    a, b, eta = rng.normal(size=(3, 40))
    code = rng.integers(0, 5, 40)
    loss, by_a, by_b, by_eta = outcome_loss(a, b, eta, code, Outcomes())
    moved = outcome_loss(a - by_a, b - by_b, eta - by_eta, code, Outcomes())[0]
    step = (by_a**2 + by_b**2 + by_eta**2).sum()
    assert loss - moved == pytest.approx(step, rel=0.2)
    f, scores = rng.normal(size=(30, 4)), rng.integers(0, 3, (30, 4)) / 2
    for each in (pairwise_loss, best_llm_loss):
        loss, slope = each(f, scores)
        small = 1e-3 * slope
        assert loss - each(f - small, scores)[0] == pytest.approx(
            (small * slope).sum() / len(f), rel=0.02
        )


def test_three_class_labels_add_the_halves():
    rng = np.random.default_rng(1)
    a, b, eta = rng.normal(size=(3, 9))
    code = rng.integers(0, 3, 9)
    loss = outcome_loss(a, b, eta, code, Outcomes(), three=True)[0]
    other = outcome_loss(a, b, eta, code, Outcomes(margin=9.0), three=True)[0]
    assert loss == pytest.approx(other)


@pytest.mark.parametrize("loss", [pairwise_loss, best_llm_loss])
def test_order_of_llms_and_rows_cannot_matter(loss):
    rng = np.random.default_rng(2)
    f, scores = rng.normal(size=(20, 5)), rng.integers(0, 3, (20, 5)) / 2
    rows, columns = rng.permutation(20), rng.permutation(5)
    plain, slope = loss(f, scores)
    mixed, other = loss(f[rows][:, columns], scores[rows][:, columns])
    assert mixed == pytest.approx(plain)
    assert other == pytest.approx(slope[rows][:, columns])


@pytest.mark.parametrize("kind", ["classifier", "contrastive", "preference"])
def test_judged_heads_are_calibrated(kind):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(600, 4)).astype(np.float32)
    chance = np.stack([np.where(inputs[:, 0] > 0, 0.9, 0.3), np.full(600, 0.6)], axis=1)
    scores = (rng.random(chance.shape) < chance).astype(float)
    cards = (LLMCard("x", 1, 1), LLMCard("y", 1, 1))
    head = fit_head(kind, inputs, scores, cards)
    predicted = head.predict(inputs)
    assert predicted.mean(axis=0) == pytest.approx(scores.mean(axis=0), abs=0.03)
    assert (predicted[:, 0] > predicted[:, 1])[inputs[:, 0] > 0.3].mean() > 0.8
    assert (predicted[:, 0] < predicted[:, 1])[inputs[:, 0] < -0.3].mean() > 0.8
    if kind == "preference":
        assert head.tie_threshold(inputs).shape == (600,)


def test_elo_finds_the_order_and_its_own_doubt():
    rng = np.random.default_rng(0)
    skill = np.array([0.0, 1.0, 2.0])
    first, second = rng.integers(0, 3, 600), rng.integers(1, 3, 600)
    second = (first + second) % 3
    wins = rng.random(600) < 1 / (1 + np.exp(skill[second] - skill[first]))
    outcome = np.where(wins, rng.choice([1, 3], 600), rng.choice([2, 4], 600))
    rated = elo_ratings(["x", "y", "z"], first, second, outcome, rounds=60)
    assert [r.name for r in rated] == ["z", "y", "x"]
    assert rated[0].elo - rated[2].elo == pytest.approx(2 * 400 / np.log(10), abs=80)
    assert all(r.low < r.elo < r.high for r in rated)
    order = rng.permutation(600)
    swapped = elo_ratings(
        ["x", "y", "z"], second[order], first[order], np.array(SWAP)[outcome[order]], rounds=5
    )
    assert [r.elo for r in swapped] == pytest.approx([r.elo for r in rated])
    few = elo_ratings(["x", "y", "z"], first[:30], second[:30], outcome[:30], rounds=60)
    assert few[0].high - few[0].low > rated[0].high - rated[0].low
    with pytest.raises(InvalidDataError, match="pairs"):
        elo_ratings(["x"], [0], [0], [1])


@pytest.mark.parametrize("method", ["k-centre", "k-means"])
def test_representatives_cover_every_domain(method):
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 5, (6, 3))
    vectors = (centres[np.arange(120) % 6] + rng.normal(0, 0.1, (120, 3))).astype(np.float32)
    domains = ["big"] * 100 + ["tiny"] * 19 + ["lone"]
    rows = representatives(vectors, domains, 13, method)
    assert len(set(rows.tolist())) == 13
    assert 119 in rows
    assert (rows < 100).sum() > 8
    assert len(set((rows[rows < 100] % 6).tolist())) >= 5  # every cluster is seen
    for wrong in (2, 500):
        with pytest.raises(InvalidInputError, match="representatives"):
            representatives(vectors, domains, wrong, method)


def test_representatives_refuse_an_unknown_method():
    with pytest.raises(InvalidInputError, match="k-means"):
        representatives(np.eye(3, dtype=np.float32), ["a"] * 3, 2, "best")


def test_same_points_still_give_distinct_rows():
    rows = representatives(np.ones((9, 2), np.float32), ["a"] * 9, 5)
    assert len(set(rows.tolist())) == 5
