"""Agent cards from the tool list of an MCP server.

Knows the shape of a tool in the Model Context Protocol, and imports no client of it: pass what
``session.list_tools()`` gave. Tools loaded by langchain-mcp-adapters are LangChain tools already;
`agent_cards_from_tools` takes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from moma_core import AgentCard
from moma_core.words import Words, check_names, joined

__all__ = ["MCPTool", "agent_cards_from_mcp"]


_LONGEST = 8_000  # characters of a description that fit on a card


class MCPTool(Protocol):
    """A tool as an MCP server lists it (``mcp.types.Tool``)."""

    name: str
    description: str | None
    inputSchema: dict[str, Any]  # noqa: N815  # the protocol's spelling


def agent_cards_from_mcp(
    tools: Iterable[MCPTool], examples: Words | None = None, *, server: str = ""
) -> list[AgentCard]:
    """Describe an MCP server's tools to the router.

    Args:
        tools: From ``(await session.list_tools()).tools``.
        examples: Queries that each tool should take, by its name.
        server: Name of the server; it becomes the tools' category, and ``metadata["source"]`` by
            which `sync_agents` knows them again.

    Returns:
        One card a tool, in order.

    Raises:
        InvalidCardError: A tool has neither a description nor a title.
        DuplicateNameError: Two tools share a name.
        UnknownNameError: ``examples`` speak of a tool that is not there.

    Example:
        >>> from types import SimpleNamespace
        >>> listed = SimpleNamespace(name="clock", description="Tell the time", inputSchema={})
        >>> [card] = agent_cards_from_mcp([listed], server="home")
        >>> card.name, card.categories, card.metadata["source"]
        ('clock', ('home',), 'home')
    """
    listed = list(tools)
    check_names("tool", [tool.name for tool in listed], examples)
    return [
        AgentCard(
            name=tool.name,
            description=_about(tool)[:_LONGEST],
            input_schema=tool.inputSchema or {},
            output_schema=getattr(tool, "outputSchema", None) or {},
            categories=(server,) if server else (),
            examples=joined("examples", tool.name, (examples or {}).get(tool.name, ())),
            metadata={"source": server} if server else {},
        )
        for tool in listed
    ]


def _about(tool: MCPTool) -> str:
    hints = getattr(tool, "annotations", None)
    title = getattr(tool, "title", None) or (
        hints.get("title") if isinstance(hints, Mapping) else getattr(hints, "title", None)
    )
    return tool.description or title or ""
