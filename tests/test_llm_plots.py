"""The pictures: files of the right kind, and errors in words."""

import sys

import numpy as np
import pytest

from moma_core import ArtifactError, LLMDataset, MissingExtraError
from moma_core.errors import InvalidDataError
from moma_core.training.plots import draw_capability, draw_front, draw_usage

REPORT = {
    "curve": [[1e-4, 0.5], [1e-3, 0.8], [2e-3, 0.9]],
    "preferences": {n: {"score": 0.8, "cost": 1e-3} for n in ("performance", "auto", "cost")},
    "best_single": "large",
    "best_single_score": 0.85,
    "best_single_cost": 2e-3,
    "oracle_score": 0.95,
    "usage": {n: {"small": 0.4, "large": 0.6, "idle": 0.0} for n in ("performance", "auto")},
}


def data(tasks=("sums", "laws")):
    scores, costs = np.array([[1.0, 0.5], [0.0, np.nan]]), np.array([[1e-3, 1e-4]] * 2)
    return LLMDataset(("a?", "b?"), ("large", "small"), scores, costs, tasks=tasks)


def test_pictures_are_written(tmp_path):
    draw_front(REPORT, data(), tmp_path / "front.svg")
    draw_usage(REPORT, tmp_path / "deep" / "usage.png")
    draw_capability(data(), tmp_path / "heat.png")
    draw_capability(data(), tmp_path / "flat.svg", by_difficulty=False)
    assert "easy" not in (tmp_path / "flat.svg").read_text()
    assert "svg" in (tmp_path / "front.svg").read_text()[:400]
    for name in ("deep/usage.png", "heat.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_pictures_refuse(tmp_path):
    with pytest.raises(ArtifactError, match="png or"):
        draw_usage(REPORT, tmp_path / "usage.doc")
    with pytest.raises(InvalidDataError, match="moma eval llms"):
        draw_front({"curve": [[1, 1]]}, None, tmp_path / "front.svg")
    with pytest.raises(InvalidDataError, match="usage"):
        draw_usage({}, tmp_path / "usage.png")
    with pytest.raises(InvalidDataError, match="task"):
        draw_capability(data(tasks=()), tmp_path / "heat.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        draw_usage(REPORT, tmp_path / "file" / "usage.png")


def test_the_others_say_how_hard_a_query_is():
    from moma_core.training.plots import _difficulties

    scores = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, np.nan], [0.5, 0.5, 0.5]])
    cells = _difficulties(scores)
    assert cells["easy"].tolist() == [[True, False, False], [False, True, False], [False] * 3]
    assert cells["hard"].tolist() == [[False, False, False], [True, False, False], [False] * 3]
    assert (sum(each.astype(int) for each in cells.values()) == 1).all()


def test_pictures_without_their_extra_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "moma-router\[plots\]"'):
        draw_front({}, None, tmp_path / "front.png")
