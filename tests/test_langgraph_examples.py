"""The LangGraph examples run, offline, as a user would run them."""

from __future__ import annotations

import importlib.util
import json
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("langgraph_chat", "is down: gpt-4o-mini"),
        ("langgraph_many_tools", "tools: 100, bound in a call: [3, 3"),
        ("langgraph_middleware", "refused: {'wipe_disk': 1}"),
        ("langgraph_team", "invoice? -> billing"),
    ],
)
def test_example_runs(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
    runpy.run_path(str(path), run_name="__main__")
    assert words in capsys.readouterr().out


def test_studio_finds_the_graph() -> None:
    folder = EXAMPLES / "langgraph_studio"
    settings = json.loads((folder / "langgraph.json").read_text(encoding="utf-8"))
    [(name, place)] = settings["graphs"].items()
    file, _, attribute = place.partition(":")
    spec = importlib.util.spec_from_file_location("studio_graph", folder / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    graph = getattr(module, attribute)
    assert graph.get_name() == name
    end = graph.invoke({"messages": [("human", "write hello in capitals")]})
    assert end["messages"][-1].text == "WRITE HELLO IN CAPITALS"
    assert "moma" in graph.get_output_jsonschema()["properties"]
    assert "messages" in graph.get_input_jsonschema()["properties"]
