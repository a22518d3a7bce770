"""Cards from what LangChain has: tools, graphs, MCP servers, chat models; kept in step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as as_tool
from langgraph.pregel import Pregel
from pydantic import BaseModel

from moma_core import AgentCard, InvalidInputError, LLMCard
from moma_core.agents.catalog import AgentCatalog
from moma_core.errors import DuplicateNameError, InvalidCardError
from moma_core.llms.prices import listed_card
from moma_core.types import MAX_DESCRIPTION_CHARS, Words, check_names, is_text, joined

__all__ = [
    "MCPTool",
    "Synced",
    "agent_cards_from_graphs",
    "agent_cards_from_mcp",
    "agent_cards_from_tools",
    "input_schema_of",
    "llm_cards_from_chat_models",
    "sync_agents",
]


def agent_cards_from_tools(
    tools: Iterable[BaseTool | Callable[..., Any]],
    examples: Words | None = None,
    *,
    categories: Words | None = None,
) -> list[AgentCard]:
    """Describe tools to the router.

    Args:
        tools: Tools, or functions with a docstring.
        examples: Queries that each tool should take, by tool name. Added to those that a tool
            brings along in ``tool.metadata["examples"]``.
        categories: Categories of each tool, by tool name; also ``tool.metadata["categories"]``.

    Returns:
        One card a tool, in order.

    Raises:
        DuplicateNameError: Two tools share a name.
        UnknownNameError: ``examples`` or ``categories`` speak of a tool that is not there.
        InvalidCardError: A function has no docstring.

    A tool without a description is described by its title, its name and its arguments. What an MCP
    server says of its tool (``readOnlyHint``, ...) is kept in ``metadata["annotations"]``.

    Example:
        >>> def shout(text: str) -> str:
        ...     "Put text in capitals."
        ...     return text.upper()
        >>> [card] = agent_cards_from_tools([shout], {"shout": ["make this LOUD: hello"]})
        >>> card.name, card.description, list(card.input_schema["properties"])
        ('shout', 'Put text in capitals.', ['text'])
    """
    built = [_as_tool(item) for item in tools]
    _refuse_twice([item.name for item in built])
    check_names("tool", [item.name for item in built], examples, categories)
    return [_card(item, examples or {}, categories or {}) for item in built]


def input_schema_of(tool: BaseTool) -> dict[str, Any]:
    """Return the JSON schema of the arguments that a caller gives; injected ones are left out."""
    schema = tool.tool_call_schema
    if isinstance(schema, dict):
        return dict(schema)
    if issubclass(schema, BaseModel):
        return schema.model_json_schema()
    return schema.schema()


def _as_tool(item: BaseTool | Callable[..., Any]) -> BaseTool:
    if isinstance(item, BaseTool):
        return item
    try:
        return as_tool(item)
    except (TypeError, ValueError) as error:
        raise InvalidCardError(
            f"cannot make a tool of {item!r}: {error} Give the function a docstring that says "
            "what it does."
        ) from error


def _card(tool: BaseTool, examples: Words, categories: Words) -> AgentCard:
    schema, hints = input_schema_of(tool), _hints(tool.metadata)
    return AgentCard(
        name=tool.name,
        description=_about(tool.name, tool.description, hints, schema),
        input_schema=schema,
        categories=_words(tool, "categories", categories),
        examples=_words(tool, "examples", examples),
        metadata={"annotations": hints} if hints else {},
    )


def _words(tool: BaseTool, key: str, given: Words) -> tuple[str, ...]:
    own: Sequence[str] = (tool.metadata or {}).get(key, ())
    return joined(key, tool.name, own, given.get(tool.name, ()))


def agent_cards_from_graphs(
    graphs: Iterable[Pregel[Any, Any, Any, Any]],
    descriptions: Mapping[str, str],
    examples: Words | None = None,
    *,
    categories: Words | None = None,
) -> list[AgentCard]:
    """Describe compiled graphs, such as what ``create_agent`` returns, to the router.

    Args:
        graphs: Compiled graphs with a name: ``compile(name="writer")``.
        descriptions: What each does, by its name; a graph does not say so itself.
        examples: Queries that each should take, by its name.
        categories: Categories of each, by its name.

    Returns:
        One card a graph, in order.

    Raises:
        InvalidCardError: A graph has no name or no description.
        DuplicateNameError: Two graphs share a name.
        UnknownNameError: There are words for a graph that is not there.

    Example:
        >>> from langgraph.graph import START, MessagesState, StateGraph
        >>> builder = StateGraph(MessagesState).add_node("echo", lambda state: {"messages": []})
        >>> graph = builder.add_edge(START, "echo").compile(name="writer")
        >>> [card] = agent_cards_from_graphs([graph], {"writer": "Writes letters"})
        >>> card.name, list(card.input_schema["properties"])
        ('writer', ['messages'])
    """
    built = list(graphs)
    names = [_name(graph) for graph in built]
    check_names("graph", names, descriptions, examples, categories)
    return [
        AgentCard(
            name=name,
            description=_described(name, descriptions),
            input_schema=graph.get_input_jsonschema(),
            output_schema=graph.get_output_jsonschema(),
            examples=joined("examples", name, (examples or {}).get(name, ())),
            categories=joined("categories", name, (categories or {}).get(name, ())),
        )
        for name, graph in zip(names, built, strict=True)
    ]


def _name(graph: Pregel[Any, Any, Any, Any]) -> str:
    name = graph.get_name()
    if name == "LangGraph":
        raise InvalidCardError(
            "a graph has no name of its own. Give it one: builder.compile(name='writer') or "
            "create_agent(..., name='writer')."
        )
    return name


def _described(name: str, descriptions: Mapping[str, str]) -> str:
    if name not in descriptions:
        raise InvalidCardError(
            f"graph {name!r} needs a description: descriptions={{{name!r}: 'Writes letters'}}."
        )
    return descriptions[name]


class MCPTool(Protocol):
    """A tool as an MCP server lists it (``mcp.types.Tool``)."""

    name: str
    description: str | None
    inputSchema: dict[str, Any]  # noqa: N815  # the protocol's spelling


def agent_cards_from_mcp(
    tools: Iterable[MCPTool],
    examples: Words | None = None,
    *,
    server: str = "",
    prefix: bool = False,
) -> list[AgentCard]:
    """Describe an MCP server's tools to the router.

    A tool without a description is described by its title, its name and its arguments; what it
    says of itself (``readOnlyHint``, ``destructiveHint``, ...) is in ``metadata["annotations"]``.

    Args:
        tools: From ``(await session.list_tools()).tools``.
        examples: Queries that each tool should take, by its card's name.
        server: Name of the server; it becomes the tools' category, and ``metadata["source"]`` by
            which `sync_agents` knows them again.
        prefix: Whether the server's name leads the tools': ``"office_book_room"``, as with
            ``MultiServerMCPClient(..., tool_name_prefix=True)``.

    Returns:
        One card a tool, in order.

    Raises:
        InvalidInputError: There is to be a prefix, and no server is named.
        DuplicateNameError: Two tools share a name.
        UnknownNameError: ``examples`` speak of a tool that is not there.

    Example:
        >>> from types import SimpleNamespace
        >>> listed = SimpleNamespace(name="clock", description="Tell the time", inputSchema={})
        >>> [card] = agent_cards_from_mcp([listed], server="home")
        >>> card.name, card.categories, card.metadata["source"]
        ('clock', ('home',), 'home')
    """
    if prefix and not server:
        raise InvalidInputError("whose prefix? Name the server: server='office', prefix=True.")
    listed = list(tools)
    _refuse_twice([tool.name for tool in listed])
    named = {f"{server}_{tool.name}" if prefix else tool.name: tool for tool in listed}
    check_names("tool", list(named), examples)
    return [
        _mcp_card(name, tool, joined("examples", name, (examples or {}).get(name, ())), server)
        for name, tool in named.items()
    ]


def _mcp_card(name: str, tool: MCPTool, examples: tuple[str, ...], server: str) -> AgentCard:
    schema, hints = tool.inputSchema or {}, _hints(getattr(tool, "annotations", None))
    title = getattr(tool, "title", None)
    about = {"title": title, **hints} if title else hints
    return AgentCard(
        name=name,
        description=_about(tool.name, tool.description, about, schema),
        input_schema=schema,
        output_schema=getattr(tool, "outputSchema", None) or {},
        categories=(server,) if server else (),
        examples=examples,
        metadata=({"source": server} if server else {}) | ({"annotations": hints} if hints else {}),
    )


_HINTS = ("title", "readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")


def _hints(annotations: Any) -> dict[str, Any]:
    """Return what an MCP server says of its tool, as far as it does."""
    if isinstance(annotations, BaseModel):
        annotations = annotations.model_dump()
    found = annotations if isinstance(annotations, Mapping) else {}
    return {key: found[key] for key in _HINTS if isinstance(found.get(key), str | bool)}


def _about(
    name: str, description: str | None, hints: Mapping[str, Any], schema: Mapping[str, Any]
) -> str:
    """Return what a tool says of itself, else its title, name and arguments."""
    if description and is_text(description):
        return description[:MAX_DESCRIPTION_CHARS]
    title, properties = str(hints.get("title") or ""), schema.get("properties") or {}
    said = f"{title or name} ({', '.join(map(str, properties))})" if properties else title or name
    return said[:MAX_DESCRIPTION_CHARS]


def _refuse_twice(names: Sequence[str]) -> None:
    """Refuse two tools of one name, as two MCP servers may bring.

    Raises:
        DuplicateNameError: There are two.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DuplicateNameError(
            f"{names.count(twice[0])} tools are called {twice[0]!r}; a router tells them apart by "
            f"name. Rename all but one, {_PREFIX}"
        )


_PREFIX = (
    "or let servers' names lead their tools': MultiServerMCPClient(..., tool_name_prefix=True), "
    "agent_cards_from_mcp(tools, server='office', prefix=True)."
)


_ABILITIES = (
    "tool_calling",
    "tool_choice",
    "structured_output",
    "image_inputs",
    "audio_inputs",
    "pdf_inputs",
    "video_inputs",
    "reasoning_output",
    "max_output_tokens",
)


def llm_cards_from_chat_models(
    llms: Mapping[str, BaseChatModel],
    prices: Mapping[str, tuple[float, float]] | None = None,
) -> list[LLMCard]:
    """Describe chat models to the router.

    Args:
        llms: Chat models by the names they are to have.
        prices: USD per million input and output tokens, by name. What is missing is read from
            litellm's table when that package is installed, by the chat model's own name.

    Returns:
        One card a chat model, in order; abilities are in ``metadata`` under the keys of a LangChain
        `ModelProfile`.

    Raises:
        InvalidCardError: No price is known.

    Example:
        >>> from langchain_moma.testing import ScriptedChat
        >>> small = ScriptedChat(profile={"tool_calling": True, "max_input_tokens": 8000})
        >>> [card] = llm_cards_from_chat_models({"small": small}, {"small": (0.15, 0.6)})
        >>> card.output_price, card.context_window, card.metadata["tool_calling"]
        (0.6, 8000, True)
    """
    return [_llm_cards_card(name, llm, (prices or {}).get(name)) for name, llm in llms.items()]


def _llm_cards_card(name: str, llm: BaseChatModel, price: tuple[float, float] | None) -> LLMCard:
    profile: dict[str, Any] = dict(llm.profile or {})
    own = str(getattr(llm, "model_name", None) or getattr(llm, "model", None) or name)
    card = LLMCard(name, *price) if price is not None else listed_card(name, own)
    return replace(
        card,
        context_window=profile.get("max_input_tokens", card.context_window),
        metadata={
            **card.metadata,
            **{key: profile[key] for key in _ABILITIES if key in profile},
        },
    )


@dataclass(frozen=True, slots=True)
class Synced:
    """What changed.

    Args:
        added: New names.
        updated: Names whose card changed.
        removed: Names that are gone from the list.

    Example:
        >>> Synced(added=("clock",)) == Synced(("clock",), (), ())
        True
    """

    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


def sync_agents(agents: AgentCatalog, cards: Iterable[AgentCard], *, source: str) -> Synced:
    """Add, update and remove agents until those of ``source`` are exactly ``cards``.

    Args:
        agents: ``router.agents``.
        cards: The list as it is now. A card without examples leaves those that are registered.
        source: Where the list comes from, such as an MCP server's name; agents of other sources
            are left alone. It is kept in ``metadata["source"]``. Agents without a source, of the
            same names and descriptions, are taken for the list's own: the router was built of it.

    Returns:
        What changed.

    Raises:
        DuplicateNameError: A name is given twice, or belongs to another source.
        RegistryError: The store cannot write.

    Example:
        >>> from moma_core import MoMARouter
        >>> router = MoMARouter.from_cards(llms=None)
        >>> sync_agents(router.agents, [AgentCard("clock", "Tell the time")], source="home")
        Synced(added=('clock',), updated=(), removed=())
        >>> sync_agents(router.agents, [], source="home").removed
        ('clock',)
    """
    wanted = [replace(card, metadata={**card.metadata, "source": source}) for card in cards]
    _refuse_twice([card.name for card in wanted])
    said = {card.name: card.description for card in wanted}
    own = {card.name: card for card in agents if _is_own(card, source, said)}
    for name in sorted(set(said).intersection(agents.names).difference(own)):
        other = agents.get(name).metadata.get("source")
        raise DuplicateNameError(
            f"{name!r} of {source!r} has the name of an agent "
            f"{f'of {other!r}' if other else 'that was there'}. Rename one of them, {_PREFIX}"
        )
    fresh = [card for card in wanted if card.name not in own]
    kept = [_merged(own[card.name], card) for card in wanted if card.name in own]
    changed = [card for card in kept if card != own[card.name]]
    gone = sorted(set(own).difference(card.name for card in wanted))
    agents.add(*fresh)
    agents.update(*changed)
    agents.remove(*gone)
    return Synced(
        tuple(card.name for card in fresh), tuple(card.name for card in changed), tuple(gone)
    )


def _is_own(card: AgentCard, source: str, said: Mapping[str, str]) -> bool:
    owner = card.metadata.get("source")
    return bool(owner == source or (owner is None and said.get(card.name) == card.description))


def _merged(old: AgentCard, new: AgentCard) -> AgentCard:
    return replace(
        new,
        examples=new.examples or old.examples,
        enabled=old.enabled,
        metadata={**old.metadata, **new.metadata},
    )
