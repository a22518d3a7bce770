"""The LlamaIndex examples run, offline, as a user would run them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from llama_index.core.instrumentation import get_dispatcher

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")
@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llamaindex_selector", ["-> papers", "-> policies"]),
        ("llamaindex_llm", ["cost:", "performance:", "answered by g"]),
        ("llamaindex_agents", ["cellar -> house", "cellar_heater", "you -> host"]),
        ("llamaindex_subquestions", ["trains", "weather", "soup -> recipes"]),
    ],
)
def test_example_runs(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
    handlers = list(get_dispatcher().event_handlers)
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        get_dispatcher().event_handlers[:] = handlers
    said = capsys.readouterr().out
    assert all(word in said for word in words), said
