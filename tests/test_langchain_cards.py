"""Cards from graphs, MCP servers and chat models; keeping the registry in step."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langgraph.graph import START, MessagesState, StateGraph

from langchain_moma import (
    Synced,
    agent_cards_from_graphs,
    agent_cards_from_mcp,
    agent_cards_from_tools,
    create_moma_agent,
    llm_cards_from_chat_models,
    sync_agents,
)
from langchain_moma.testing import ScriptedChat
from moma_core import AgentCard, MoMARouter, UnknownNameError
from moma_core.errors import DuplicateNameError, InvalidCardError
from moma_core.llms.prices import price_table

SERVER = '''
import sys
from mcp.server.fastmcp import FastMCP

server = FastMCP("office")

@server.tool()
def book_room(size: int) -> str:
    """Book a meeting room."""
    return f"a room for {size}"

@server.tool()
def order_lunch(dish: str) -> str:
    """Order lunch from the canteen."""
    return f"{dish} is on its way"

if len(sys.argv) > 1:
    @server.tool()
    def water_plants() -> str:
        """Water the plants."""
        return "watered"

server.run("stdio")
'''


def graph(name: str) -> Any:
    builder = StateGraph(MessagesState).add_node("echo", lambda state: {"messages": []})
    return builder.add_edge(START, "echo").compile(name=name)


def test_graphs_need_a_name_and_a_description() -> None:
    [card] = agent_cards_from_graphs(
        [graph("writer")],
        {"writer": "Writes letters"},
        {"writer": ["write to my landlord"]},
        categories={"writer": ["text"]},
    )
    assert (card.name, card.description) == ("writer", "Writes letters")
    assert (card.examples, card.categories) == (("write to my landlord",), ("text",))
    with pytest.raises(InvalidCardError, match="name of its own"):
        agent_cards_from_graphs([graph("LangGraph")], {})
    with pytest.raises(InvalidCardError, match="needs a description"):
        agent_cards_from_graphs([graph("writer")], {})
    with pytest.raises(DuplicateNameError, match="writer"):
        agent_cards_from_graphs([graph("writer"), graph("writer")], {"writer": "Writes"})
    with pytest.raises(UnknownNameError, match="wrter"):
        agent_cards_from_graphs([graph("writer")], {"writer": "x", "wrter": "x"})
    with pytest.raises(InvalidCardError, match="list of texts"):
        agent_cards_from_graphs([graph("writer")], {"writer": "x"}, {"writer": "write this"})


def test_words_about_an_mcp_servers_tools() -> None:
    clock = SimpleNamespace(name="clock", description="Tell the time", inputSchema={})
    [card] = agent_cards_from_mcp([clock], {"clock": ["how late is it?"]})
    assert card.examples == ("how late is it?",)
    with pytest.raises(UnknownNameError, match="clcok"):
        agent_cards_from_mcp([clock], {"clcok": ["how late is it?"]})
    with pytest.raises(InvalidCardError, match="list of texts"):
        agent_cards_from_mcp([clock], {"clock": "how late is it?"})
    with pytest.raises(DuplicateNameError, match="clock"):
        agent_cards_from_mcp([clock, clock])


def server_in(folder: Path, *extra: str) -> dict[str, Any]:
    file = folder / "server.py"
    file.write_text(SERVER, encoding="utf-8")
    return {"transport": "stdio", "command": sys.executable, "args": [str(file), *extra]}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
async def test_a_real_mcp_server(tmp_path: Path) -> None:
    pytest.importorskip("langchain_mcp_adapters")
    from langchain_mcp_adapters.sessions import create_session
    from langchain_mcp_adapters.tools import load_mcp_tools

    router = MoMARouter.from_cards(llms=None)
    async with create_session(server_in(tmp_path)) as session:
        await session.initialize()
        cards = agent_cards_from_mcp((await session.list_tools()).tools, server="office")
        assert [card.name for card in cards] == ["book_room", "order_lunch"]
        assert cards[0].input_schema["properties"]["size"]["type"] == "integer"
        assert sync_agents(router.agents, cards, source="office").added == (
            "book_room",
            "order_lunch",
        )
        tools = await load_mcp_tools(session)
        loaded = agent_cards_from_tools(tools)
        assert [(c.name, c.description) for c in loaded] == [(c.name, c.description) for c in cards]
        agent = create_moma_agent(ScriptedChat(), tools, router=router, max_tools=1)
        end = await agent.ainvoke({"messages": [("human", "order lunch for me: 'soup'")]})
        assert "soup is on its way" in end["messages"][-1].text
    async with create_session(server_in(tmp_path, "more")) as session:
        await session.initialize()
        cards = agent_cards_from_mcp((await session.list_tools()).tools, server="office")
    assert sync_agents(router.agents, cards, source="office").added == ("water_plants",)


def test_sync_touches_only_what_changed() -> None:
    router = MoMARouter.from_cards([AgentCard("own", "Mine")], llms=None)
    agents = router.agents
    a = AgentCard("a", "Does a", examples=("do a",))
    b = AgentCard("b", "Does b")
    assert sync_agents(agents, [a, b], source="x").added == ("a", "b")
    assert sync_agents(agents, [a, b], source="x") == Synced()
    agents.disable("a")
    done = sync_agents(agents, [AgentCard("a", "Does a well")], source="x")
    assert (done.added, done.updated, done.removed) == ((), ("a",), ("b",))
    assert agents.get("a").examples == ("do a",)
    assert not agents.get("a").enabled
    assert "own" in agents
    with pytest.raises(DuplicateNameError, match="own"):
        sync_agents(agents, [AgentCard("own", "Theirs")], source="x")


def test_prices_are_given_or_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Named(ScriptedChat):
        model_name: str = "paid"

    with pytest.raises(InvalidCardError, match=r"LLMCard\('mine'"):
        llm_cards_from_chat_models({"mine": Named()})
    package = tmp_path / "litellm"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('never imported')", encoding="utf-8")
    listed = {"paid": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}}
    table = package / "model_prices_and_context_window_backup.json"
    table.write_text(json.dumps(listed), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    price_table.cache_clear()
    [card] = llm_cards_from_chat_models({"mine": Named(profile={"max_input_tokens": 9})})
    assert (card.input_price, card.output_price, card.context_window) == (1.0, 2.0, 9)
    with pytest.raises(InvalidCardError, match="table has none"):
        llm_cards_from_chat_models({"mine": ScriptedChat()})
    price_table.cache_clear()
