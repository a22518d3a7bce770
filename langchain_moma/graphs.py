"""Agent cards from compiled LangGraph graphs: sub-agents as targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langgraph.pregel import Pregel

from langchain_moma.tools import Words
from moma_core import AgentCard, DuplicateNameError, InvalidCardError, UnknownNameError

__all__ = ["agent_cards_from_graphs"]


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
    built: dict[str, Pregel[Any, Any, Any, Any]] = {}
    for graph in graphs:
        name = _name(graph, descriptions)
        if name in built:
            raise DuplicateNameError(
                f"two graphs are called {name!r}; compile one of them under another name."
            )
        built[name] = graph
    for words in (descriptions, examples or {}, categories or {}):
        for name in words:
            if name not in built:
                raise UnknownNameError(
                    f"there are words for a graph {name!r}, but the graphs are {sorted(built)!r}."
                )
    return [
        AgentCard(
            name=name,
            description=descriptions[name],
            input_schema=graph.get_input_jsonschema(),
            output_schema=graph.get_output_jsonschema(),
            examples=tuple((examples or {}).get(name, ())),
            categories=tuple((categories or {}).get(name, ())),
        )
        for name, graph in built.items()
    ]


def _name(graph: Pregel[Any, Any, Any, Any], descriptions: Mapping[str, str]) -> str:
    name = graph.get_name()
    if name == "LangGraph":
        raise InvalidCardError(
            "a graph has no name of its own. Give it one: builder.compile(name='writer') or "
            "create_agent(..., name='writer')."
        )
    if name not in descriptions:
        raise InvalidCardError(
            f"graph {name!r} needs a description: descriptions={{{name!r}: 'Writes letters'}}."
        )
    return name
