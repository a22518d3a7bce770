"""The promise of max_wrong_agent_rate: kept on average over random calibration splits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core import InvalidInputError
from moma_core.agent_routing.conformal import conformal_threshold


def _population(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    chances = generator.beta(2, 1, n)
    # Overconfident on purpose: the promise must not lean on calibration.
    return chances, generator.random(n) < chances**2


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.2])
def test_the_rate_is_kept_over_200_splits(rate: float) -> None:
    generator = np.random.default_rng(7)
    chances, right = _population(generator, 3_000)
    realised = []
    for _ in range(200):
        order = generator.permutation(3_000)
        calibration, fresh = order[:1_000], order[1_000:]
        threshold = conformal_threshold(chances[calibration], right[calibration], rate)
        realised.append(((chances[fresh] >= threshold) & ~right[fresh]).mean())
    assert np.mean(realised) <= rate + np.std(realised) / np.sqrt(200)
    assert np.mean(realised) >= 0.8 * rate, "a promise kept by refusing nearly everything is cheap"


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60),
    st.floats(0.01, 0.99),
)
def test_calibration_losses_stay_within_the_bound(
    rows: list[tuple[float, bool]], rate: float
) -> None:
    chances = np.array([chance for chance, _ in rows])
    right = np.array([ok for _, ok in rows], dtype=bool)
    threshold = conformal_threshold(chances, right, rate)
    wrong = int(((chances >= threshold) & ~right).sum())
    if threshold < 1.0:
        assert (wrong + 1) / (len(rows) + 1) <= rate + 1e-9
    assert 0.0 <= threshold <= 1.0


def test_too_few_queries_promise_nothing() -> None:
    assert conformal_threshold(np.array([0.9, 0.8]), np.array([True, True]), 0.05) == 1.0


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0, float("nan")])
def test_a_rate_is_a_share(rate: float) -> None:
    with pytest.raises(InvalidInputError, match="5 %"):
        conformal_threshold(np.array([0.5]), np.array([True]), rate)
