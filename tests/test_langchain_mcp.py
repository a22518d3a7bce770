"""Agents over real MCP servers, ours over stdio and HTTP, and what servers may say of tools."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain_core.tools import StructuredTool

from langchain_moma import (
    MoMAMiddleware,
    agent_cards_from_mcp,
    agent_cards_from_tools,
    create_moma_agent,
    sync_agents,
)
from langchain_moma.testing import ScriptedChat
from moma_core import AgentCard, InvalidInputError, MoMARouter
from moma_core.errors import DuplicateNameError
from moma_core.types import MAX_DESCRIPTION_CHARS

pytest.importorskip("langchain_mcp_adapters")
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.sessions import create_session
from langchain_mcp_adapters.tools import load_mcp_tools

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")

SERVER = '''
import sys
from mcp.server.fastmcp import Context, FastMCP
from mcp.types import ToolAnnotations

name = sys.argv[1]
port = int(sys.argv[2]) if len(sys.argv) > 2 else 8000
server = FastMCP(name, host="127.0.0.1", port=port, log_level="ERROR")

@server.tool(annotations=ToolAnnotations(title="Search papers", readOnlyHint=True))
def search(words: str) -> str:
    return f"{name} found {words}"

@server.tool(description="Delete a paper for good. " + "More of this. " * 700,
             annotations=ToolAnnotations(destructiveHint=True))
def wipe(paper: str) -> str:
    return "gone"

@server.tool()
async def hire(context: Context) -> str:
    """Hire a gardener."""
    def water_plants() -> str:
        """Water the plants in the garden."""
        return "watered"
    server.add_tool(water_plants)
    server.remove_tool("wipe")
    await context.session.send_tool_list_changed()
    return "hired"

server.run("streamable-http" if len(sys.argv) > 2 else "stdio")
'''


def server(folder: Path, name: str) -> dict[str, Any]:
    file = folder / "server.py"
    file.write_text(SERVER, encoding="utf-8")
    return {"transport": "stdio", "command": sys.executable, "args": [str(file), name]}


@asynccontextmanager
async def http_server(folder: Path, name: str, port: int) -> AsyncIterator[dict[str, Any]]:
    """Run a server until the body ends; it is killed, as one that dies is."""
    args = server(folder, name)["args"]
    process = subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, *args, str(port)], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(400):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            await asyncio.sleep(0.05)
        yield {"transport": "streamable_http", "url": f"http://127.0.0.1:{port}/mcp"}
    finally:
        process.kill()
        process.wait()


def calling(name: str, arguments: dict[str, Any]) -> Any:
    def reply(messages: Any, tools: Any, choice: Any) -> Any:
        from langchain_core.messages import AIMessage, HumanMessage

        if not isinstance(messages[-1], HumanMessage):
            return str(messages[-1].text)
        call = {"name": name, "args": arguments, "id": "1", "type": "tool_call"}
        return AIMessage("", tool_calls=[call])

    return reply


async def test_a_list_that_changes_is_followed_in_both_directions(tmp_path: Path) -> None:
    changed = asyncio.Event()

    async def heard(message: Any) -> None:
        if "ToolListChanged" in type(getattr(message, "root", message)).__name__:
            changed.set()

    connection = {**server(tmp_path, "office"), "session_kwargs": {"message_handler": heard}}
    router, llm = MoMARouter.from_cards(llms=None), ScriptedChat()
    moma = MoMAMiddleware(router, max_tools=1)
    async with create_session(connection) as session:
        await session.initialize()
        tools = await load_mcp_tools(session)
        assert moma.sync(tools, source="office").added == ("search", "wipe", "hire")
        agent = create_agent(llm, tools, middleware=[moma])

        async def say(text: str) -> str:
            return str((await agent.ainvoke({"messages": text}))["messages"][-1].text)

        assert "hired" in await say("hire a gardener")
        await asyncio.wait_for(changed.wait(), 10)
        done = moma.sync(await load_mcp_tools(session), source="office")
        assert (done.added, done.removed) == (("water_plants",), ("wipe",))
        assert "watered" in await say("water the plants in the garden")
        assert llm.calls[-2].tools == ("water_plants",)
        llm.reply = calling("wipe", {"paper": "1"})
        assert "wipe is not available" in await say("delete a paper for good")
        assert "wipe" not in llm.calls[-1].tools


async def test_what_a_server_says_of_its_tools(tmp_path: Path) -> None:
    async with create_session(server(tmp_path, "office")) as session:
        await session.initialize()
        listed = agent_cards_from_mcp((await session.list_tools()).tools, server="office")
        loaded = agent_cards_from_tools(await load_mcp_tools(session))
    for search, wipe, _ in (listed, loaded):
        assert search.description == "Search papers (words)"
        assert search.metadata["annotations"] == {"title": "Search papers", "readOnlyHint": True}
        assert wipe.metadata["annotations"] == {"destructiveHint": True}
        assert wipe.description.startswith("Delete a paper")
        assert len(wipe.description) == MAX_DESCRIPTION_CHARS
    assert (listed[0].categories, listed[0].metadata["source"]) == (("office",), "office")
    assert "annotations" not in listed[2].metadata


async def test_two_servers_with_the_same_tools_need_a_prefix(tmp_path: Path) -> None:
    names = ("office", "library")
    connections = {name: server(tmp_path, name) for name in names}
    with pytest.raises(DuplicateNameError, match="tool_name_prefix=True"):
        agent_cards_from_tools(await MultiServerMCPClient(connections).get_tools())
    tools = await MultiServerMCPClient(connections, tool_name_prefix=True).get_tools()
    router = MoMARouter.from_cards(llms=None)
    for name in names:
        async with create_session(connections[name]) as session:
            await session.initialize()
            listed = (await session.list_tools()).tools
        if name == "library":
            plain = agent_cards_from_mcp(listed, server=name)
            sync_agents(router.agents, [AgentCard("search", "Mine")], source="own")
            with pytest.raises(DuplicateNameError, match=r"'search' of 'library' .* 'own'.*prefix"):
                sync_agents(router.agents, plain, source=name)
        cards = agent_cards_from_mcp(listed, server=name, prefix=True)
        assert len(sync_agents(router.agents, cards, source=name).added) == 3
    assert {tool.name for tool in tools} < set(router.agents.names)
    llm = ScriptedChat(reply=calling("library_search", {"words": "cats"}))
    moma = MoMAMiddleware(router, max_tools=8)
    agent = create_agent(llm, tools, middleware=[moma])
    end = await agent.ainvoke({"messages": "search papers about cats"})
    assert "library found cats" in end["messages"][-1].text
    with pytest.raises(InvalidInputError, match="server='office'"):
        agent_cards_from_mcp([], prefix=True)


async def test_a_dead_servers_tools_go_out_and_the_run_goes_on(tmp_path: Path) -> None:
    tools = await MultiServerMCPClient({"office": server(tmp_path, "office")}).get_tools()
    (tmp_path / "server.py").unlink()  # each call starts the server, which is no more
    router = MoMARouter.from_cards(agent_cards_from_tools(tools), llms=None)
    moma = MoMAMiddleware(router, max_tools=1)
    goes_on = ToolRetryMiddleware(max_retries=0)
    llm = ScriptedChat(reply=calling("search", {"words": "cats"}))
    agent = create_agent(llm, tools, middleware=[goes_on, moma])
    asked = {"messages": "search papers about cats"}
    for _ in range(3):
        assert "search" in (await agent.ainvoke(asked))["messages"][-1].text
    assert router.health.unhealthy() == {"search"}
    assert "search is not available" in (await agent.ainvoke(asked))["messages"][-1].text
    assert "search" not in llm.calls[-1].tools


async def test_over_http_a_server_changes_dies_and_comes_back(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    changed = asyncio.Event()

    async def heard(message: Any) -> None:
        if "ToolListChanged" in type(getattr(message, "root", message)).__name__:
            changed.set()

    router = MoMARouter.from_cards(llms=None)
    router.agent_router.health._cooldown = 0.0  # half-open at once
    moma, llm = MoMAMiddleware(router, max_tools=1), ScriptedChat()
    goes_on = ToolRetryMiddleware(max_retries=0)

    async def say(text: str) -> str:
        return str((await agent.ainvoke({"messages": text}))["messages"][-1].text)

    async with http_server(tmp_path, "office", port) as connection:
        listening = {**connection, "session_kwargs": {"message_handler": heard}}
        async with create_session(listening) as session:
            await session.initialize()
            tools = await load_mcp_tools(session)
            assert moma.sync(tools, source="office").added == ("search", "wipe", "hire")
            agent = create_agent(llm, tools, middleware=[goes_on, moma])
            assert "office found" in await say("search papers about cats")
            assert "hired" in await say("hire a gardener")
            await asyncio.wait_for(changed.wait(), 10)
        tools = await MultiServerMCPClient({"office": connection}).get_tools()
        done = moma.sync(tools, source="office")
        assert (done.added, done.removed) == (("water_plants",), ("wipe",))
        assert "watered" in await say("water the plants in the garden")
    for _ in range(3):
        assert "found" not in await say("search papers about cats")
    assert router.health.circuit("search") != "closed"
    async with http_server(tmp_path, "office", port):
        assert "office found" in await say("search papers about cats")
    assert router.health.circuit("search") == "closed"


def listed(name: str, **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(
        name=name, **{"description": None, "inputSchema": {}, "title": None, **fields}
    )


def test_a_tool_without_a_description_is_still_found() -> None:
    arguments = {"properties": {"city": {"type": "string"}, "day": {"type": "string"}}}
    tools = [
        listed("weather_report", inputSchema=arguments),
        listed("fx", title="Convert money between currencies"),
        listed("noop", description="  "),
    ]
    cards = agent_cards_from_mcp(tools)
    assert [card.description for card in cards] == [
        "weather_report (city, day)",
        "Convert money between currencies",
        "noop",
    ]
    router = MoMARouter.from_cards(cards, llms=None)
    assert router.rank("how will the weather be in Rome?").names[0] == "weather_report"
    assert router.rank("convert 5 euros to dollars").names[0] == "fx"


def test_sync_works_on_a_router_built_of_the_tools() -> None:
    def stub(name: str, about: str) -> StructuredTool:
        return StructuredTool.from_function(lambda x: x, name=name, description=about)

    tools = [stub("clock", "Tell the time in a place"), stub("rain", "Say whether it will rain")]
    router = MoMARouter.from_cards(agent_cards_from_tools(tools), llms=None)
    router.agents.disable("rain")
    done = sync_agents(router.agents, agent_cards_from_tools(tools), source="home")
    assert (done.added, done.updated, done.removed) == ((), ("clock", "rain"), ())
    assert not router.agents.get("rain").enabled
    llm = ScriptedChat()
    agent = create_moma_agent(llm, tools, router=router, max_tools=1)
    assert sync_agents(router.agents, [], source="home").removed == ("clock", "rain")
    agent.invoke({"messages": "what time is it?"})
    assert llm.calls[-1].tools == ()
    with pytest.raises(DuplicateNameError, match="called 'clock'"):
        sync_agents(router.agents, agent_cards_from_tools(tools[:1]) * 2, source="home")
