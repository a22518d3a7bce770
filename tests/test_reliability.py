"""The gate's reliability diagram."""

from pathlib import Path

import numpy as np
import pytest

from moma_core import ArtifactError
from moma_core.training.evaluate_agents import calibration_error, draw_reliability, reliability


def test_a_calibrated_gate_has_a_small_error() -> None:
    generator = np.random.default_rng(0)
    chances = generator.random(20_000)
    right = generator.random(20_000) < chances
    table = reliability(chances, right)
    assert table[:, 2].sum() == 20_000
    assert calibration_error(table) < 0.02
    assert calibration_error(reliability(chances, ~right)) > 0.4


@pytest.mark.parametrize("name", ["gate.png", "gate.svg"])
def test_it_is_drawn(tmp_path: Path, name: str) -> None:
    table = reliability(np.array([0.1, 0.9]), np.array([False, True]))
    draw_reliability(table, 0.5, tmp_path / "new" / name)
    assert (tmp_path / "new" / name).stat().st_size > 1_000


def test_an_ending_nobody_knows(tmp_path: Path) -> None:
    table = reliability(np.array([0.1, 0.9]), np.array([False, True]))
    with pytest.raises(ArtifactError, match="png"):
        draw_reliability(table, 0.5, tmp_path / "gate.xyz")
