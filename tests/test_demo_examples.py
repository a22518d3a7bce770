"""The examples run, offline, as a user would run them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quickstart", "after disabling it"),
        ("langgraph_router", "turns kept by the checkpointer"),
        ("llamaindex_selector", "papers"),
    ],
)
def test_example_runs(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
    runpy.run_path(str(path), run_name="__main__")
    assert words in capsys.readouterr().out
