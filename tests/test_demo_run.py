"""The demo from end to end, with real agents, a real graph and the real router."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from langgraph.graph.state import CompiledStateGraph
from moma_demo import chat
from moma_demo.agents import demo_agents
from moma_demo.graph import build_graph, build_router
from moma_demo.picture import draw
from moma_demo.queries import LLM, DemoQuery
from moma_demo.run import run
from moma_demo.story import ask
from rich.console import Console

from moma_core import Candidate, MoMARouter

PNG = b"\x89PNG\r\n\x1a\n"


KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "MOMA_DEMO_LLM")


@pytest.fixture(autouse=True, scope="module")
def _no_keys() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for key in KEYS:
            patch.delenv(key, raising=False)
        yield


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the demo printed on 80 columns, and its picture."""
    folder, out = tmp_path_factory.mktemp("demo"), io.StringIO()
    picture = folder / "pictures" / "demo.png"
    run(folder / "registry", Console(file=out, width=80), picture)
    return out.getvalue(), picture


@pytest.fixture(scope="module")
def application() -> tuple[MoMARouter, CompiledStateGraph]:
    # A few agents will do here, and are fitted in no time.
    agents = [agent for agent in demo_agents() if agent.category == "conversion"]
    router = build_router(agents, None)
    return router, build_graph(router, agents)


def test_the_whole_story(told: tuple[str, Path]) -> None:
    text, picture = told
    words = " ".join(text.split())
    right, total = map(int, re.search(r"(\d+) of (\d+) went where they belong", words).groups())
    assert total >= 15
    assert right >= 0.9 * total, text
    assert picture.read_bytes().startswith(PNG)
    for said in ("33 small agents in 9 categories", "OPENAI_API_KEY=", "is disabled", "saved)"):
        assert said in words


def test_the_table_fits_eighty_columns(told: tuple[str, Path]) -> None:
    text, _ = told
    table = text[text.index("Every query of this demo") : text.index("went where they belong")]
    assert max(map(len, table.splitlines())) <= 80
    assert re.search(r"✓ +calculator +[01]\.\d\d +\d+\.\d", table)


def test_a_disabled_agent_is_avoided_in_the_next_decision(application) -> None:
    router, graph = application
    before = DemoQuery("write 888 in roman numerals please", "roman_numerals")
    after = replace(before, expected="not roman_numerals")
    assert ask(graph, before, real=False).right
    router.agents.disable(before.expected)
    try:
        assert ask(graph, after, real=False).right
    finally:
        router.agents.enable(before.expected)


def test_picture_of_free_llms(tmp_path: Path) -> None:
    pool = [Candidate("a", 0.5, 0.0), Candidate("b", 0.7, 0.002)]
    drawn = draw(pool, {"auto": "b"}, "why?", tmp_path / "free.png")
    assert drawn.read_bytes().startswith(PNG)


def test_a_key_without_its_package_is_no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.setattr(chat.importlib.util, "find_spec", lambda name: None)
    assert chat.provider_at_hand() is None
    assert "pip install langchain-openai" in chat.how_to_set_a_key()


def test_a_provider_that_fails_does_not_end_the_demo(
    application, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its key is set, but its package cannot be imported: the error is told, not raised.
    broken = chat.Provider("SOME_KEY", "json", "openai", ("gpt-",), "gpt-none")
    monkeypatch.setenv("SOME_KEY", "x")
    monkeypatch.setattr(chat, "_PROVIDERS", (broken,))
    monkeypatch.setenv("MOMA_DEMO_LLM", "nobody:nothing")
    _, graph = application
    outcome = ask(graph, DemoQuery("who painted the Sistine Chapel?", LLM), real=True)
    assert "did not answer" in outcome.output
    assert "export MOMA_DEMO_LLM" in outcome.output
