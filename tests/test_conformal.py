"""The promise of max_wrong_agent_rate: kept on average, and by nine calibrations in ten."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core import InvalidInputError
from moma_core.agents.gate import conformal_threshold


def _population(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    probabilities = generator.beta(2, 1, n)
    # Overconfident on purpose: the promise must not lean on calibration.
    return probabilities, generator.random(n) < probabilities**2


def _realised(rate: float, confidence: float | None) -> np.ndarray:
    """Return the wrong-agent rate on fresh queries after each of 200 calibrations."""
    generator = np.random.default_rng(7)
    realised = []
    for _ in range(200):
        probabilities, right = _population(generator, 1_000)
        threshold = conformal_threshold(probabilities, right, rate, confidence)
        probabilities, right = _population(generator, 20_000)
        realised.append(((probabilities >= threshold) & ~right).mean())
    return np.array(realised)


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.2])
def test_the_rate_is_kept_on_average(rate: float) -> None:
    realised = _realised(rate, None)
    assert realised.mean() <= rate + realised.std() / np.sqrt(200)
    assert realised.mean() >= 0.8 * rate, "a promise kept by refusing nearly everything is cheap"


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.2])
def test_nine_calibrations_in_ten_keep_the_rate(rate: float) -> None:
    realised = _realised(rate, 0.9)
    noise = np.sqrt(0.1 * 0.9 / 200)
    assert (realised > rate).mean() <= 0.1 + 2 * noise
    assert realised.mean() >= 0.6 * rate, "a promise kept by refusing nearly everything is cheap"


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60),
    st.floats(0.01, 0.99),
)
def test_calibration_losses_stay_within_the_bound(
    rows: list[tuple[float, bool]], rate: float
) -> None:
    probabilities = np.array([chance for chance, _ in rows])
    right = np.array([ok for _, ok in rows], dtype=bool)
    threshold = conformal_threshold(probabilities, right, rate)
    wrong = int(((probabilities >= threshold) & ~right).sum())
    if threshold < 1.0:
        assert (wrong + 1) / (len(rows) + 1) <= rate + 1e-9
    assert 0.0 <= threshold <= 1.0


def test_too_few_queries_promise_nothing() -> None:
    assert conformal_threshold(np.array([0.9, 0.8]), np.array([True, True]), 0.05) == 1.0


def test_confidence_needs_more_queries_than_the_average_does() -> None:
    probabilities, right = np.linspace(0.5, 1.0, 30), np.ones(30, dtype=bool)
    assert conformal_threshold(probabilities, right, 0.05, None) == 0.0
    assert conformal_threshold(probabilities, right, 0.05) == 1.0
    assert conformal_threshold(np.tile(probabilities, 2), np.tile(right, 2), 0.05) == 0.0


@pytest.mark.parametrize("confidence", [0.0, 1.0, float("nan")])
def test_a_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(InvalidInputError, match="90 %"):
        conformal_threshold(np.array([0.5]), np.array([True]), 0.05, confidence)


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0, float("nan")])
def test_a_rate_is_a_share(rate: float) -> None:
    with pytest.raises(InvalidInputError, match="5 %"):
        conformal_threshold(np.array([0.5]), np.array([True]), rate)
