"""Agent cards from compiled LangGraph graphs: sub-agents as targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langgraph.pregel import Pregel

from moma_core import AgentCard, InvalidCardError
from moma_core.words import Words, check_names, joined

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
