"""Agent cards from LlamaIndex's tools and workflows, and a router that holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from llama_index.core.agent.workflow import AgentWorkflow, BaseWorkflowAgent
from llama_index.core.objects import ObjectRetriever
from llama_index.core.tools import BaseTool, FunctionTool, ToolMetadata

from moma_core import AgentCard, Encoder, InvalidInputError, MoMARouter, RoutingEncoder
from moma_core.types import MAX_DESCRIPTION_CHARS, Words, check_names, joined

__all__ = [
    "MoMAToolMetadata",
    "add_example",
    "agent_cards_from_function_tools",
    "agent_cards_from_query_engine_tools",
    "agent_cards_from_workflow",
    "check_by_name",
    "examples_in",
    "register_cards",
    "router_of",
    "tools_in",
]


@dataclass
class MoMAToolMetadata(ToolMetadata):
    """Tool metadata that brings its few-shot examples along.

    Args:
        examples: Queries that the tool should take.
        categories: Names of the categories it belongs to.

    Example:
        >>> MoMAToolMetadata("Papers on physics", "papers", examples=("who proved it?",)).name
        'papers'
    """

    examples: Sequence[str] = ()
    categories: Sequence[str] = ()


def agent_cards_from_query_engine_tools(
    tools: Iterable[BaseTool], examples: Words | None = None, *, categories: Words | None = None
) -> list[AgentCard]:
    """Return a card for each query engine tool or retriever tool.

    Args:
        tools: The tools; each needs a name of its own.
        examples: Queries that each tool should take, by tool name. Added to those that a tool
            brings along in its `MoMAToolMetadata`.
        categories: Categories of each tool, by tool name.

    Returns:
        One card a tool, in order.

    Raises:
        DuplicateNameError: Two tools share a name.
        InvalidCardError: A tool has no name or no description.
        InvalidInputError: ``tools`` holds something else, or ``examples`` are not by name.
        UnknownNameError: ``examples`` or ``categories`` name a tool that is not there.

    Example:
        >>> from llama_index.core import MockEmbedding, VectorStoreIndex
        >>> from llama_index.core.llms import MockLLM
        >>> from llama_index.core.tools import QueryEngineTool
        >>> index = VectorStoreIndex([], embed_model=MockEmbedding(embed_dim=2))
        >>> tool = QueryEngineTool.from_defaults(
        ...     index.as_query_engine(llm=MockLLM()), name="papers", description="On physics")
        >>> agent_cards_from_query_engine_tools([tool], {"papers": ["who proved it?"]})[0].examples
        ('who proved it?',)
    """
    return _cards("tool", [tool.metadata for tool in tools_in(tools)], examples, categories)


def agent_cards_from_function_tools(
    tools: Iterable[BaseTool | Callable[..., Any]],
    examples: Words | None = None,
    *,
    categories: Words | None = None,
) -> list[AgentCard]:
    """Return a card for each function tool, or function with a docstring.

    Arguments and errors are those of `agent_cards_from_query_engine_tools`.

    Example:
        >>> def shout(text: str) -> str:
        ...     "Put text in capitals."
        ...     return text.upper()
        >>> [card] = agent_cards_from_function_tools([shout])
        >>> card.name, card.description, list(card.input_schema["properties"])
        ('shout', 'Put text in capitals.', ['text'])
    """
    return _cards("tool", [tool.metadata for tool in tools_in(tools)], examples, categories)


def agent_cards_from_workflow(
    workflow: AgentWorkflow | Iterable[BaseWorkflowAgent],
    examples: Words | None = None,
    *,
    categories: Words | None = None,
) -> list[AgentCard]:
    """Return a card for each agent of a workflow: what it says it does, and what its tools do.

    Tools behind an agent's ``tool_retriever`` count like those in its list.

    Args:
        workflow: The workflow, or its agents.
        examples: Queries that each agent should take, by agent name.
        categories: Categories of each agent, by agent name.

    Raises:
        DuplicateNameError: Two agents share a name.
        InvalidInputError: ``workflow`` holds something else, or ``examples`` are not by name.
        UnknownNameError: ``examples`` or ``categories`` name an agent that is not there.
    """
    agents = list(workflow.agents.values() if isinstance(workflow, AgentWorkflow) else workflow)
    for agent in agents:
        if not isinstance(agent, BaseWorkflowAgent):
            raise InvalidInputError(
                f"a workflow's agents are expected, got {agent!r:.60}. Pass the AgentWorkflow, or "
                "a list such as [FunctionAgent(...)]."
            )
    metadata = [ToolMetadata(_agent_description(agent), agent.name) for agent in agents]
    cards = _cards("agent", metadata, examples, categories)
    return [dataclasses.replace(card, input_schema={}) for card in cards]


def register_cards(router: MoMARouter, cards: Iterable[AgentCard]) -> None:
    """Add cards to a router, or bring those already there up to date.

    Safe to call at every start: examples that were learnt since, and whether an agent is enabled,
    are kept, and a card that did not change costs nothing.

    Raises:
        RegistryError: The store cannot write; nothing changed.

    Example:
        >>> router = MoMARouter.from_cards(llms=None)
        >>> for _ in range(2):
        ...     register_cards(router, [AgentCard("weather", "Forecast for a place")])
        >>> router.agents.names
        ('weather',)
    """
    fresh, changed = [], []
    for card in cards:
        if card.name not in router.agents:
            fresh.append(card)
            continue
        old = router.agents.get(card.name)
        merged = dataclasses.replace(
            card,
            examples=tuple(dict.fromkeys((*old.examples, *card.examples))),
            enabled=old.enabled,
            metadata={**old.metadata, **card.metadata},
        )
        if merged != old:
            changed.append(merged)
    router.agents.add(*fresh)
    router.agents.update(*changed)


def add_example(router: MoMARouter, name: str, query: str) -> None:
    """Give a registered agent one more example.

    Raises:
        UnknownNameError: There is no such agent.
    """
    card = router.agents.get(name)
    if query not in card.examples:
        router.agents.update(dataclasses.replace(card, examples=(*card.examples, query)))


def router_of(
    cards: Iterable[AgentCard], encoder: Encoder | None, negatives: Sequence[str] = ()
) -> MoMARouter:
    """Return a router in memory, with agents only and, by default, the shared encoder."""
    encoder = encoder or _packaged_encoder()
    return MoMARouter.from_cards(cards, llms=None, encoder=encoder, negatives=negatives)


@cache
def _packaged_encoder() -> Encoder:
    return RoutingEncoder()  # a session takes 130 MB, so a process has one


def tools_in(tools: Iterable[BaseTool | Callable[..., Any]]) -> list[BaseTool]:
    """Return tools, those given as plain functions included.

    Raises:
        InvalidInputError: One is neither.
    """
    found = list(tools)
    for tool in found:
        if not (isinstance(tool, BaseTool) or callable(tool)):
            raise InvalidInputError(
                f"a list of LlamaIndex tools is expected, got {tool!r:.60} in it. Write "
                "[QueryEngineTool.from_defaults(engine, name=..., description=...)]."
            )
    return [t if isinstance(t, BaseTool) else FunctionTool.from_defaults(t) for t in found]


def examples_in(metadata: ToolMetadata) -> tuple[str, ...]:
    """Return the examples that a tool's metadata brings along.

    Raises:
        InvalidCardError: They are one text, not a list of texts.
    """
    return joined("examples", metadata.name or "", getattr(metadata, "examples", ()))


def check_by_name(label: str, words: object) -> None:
    """Refuse examples or categories that are not lists by name.

    Raises:
        InvalidInputError: They are something else, such as a list.
    """
    if not isinstance(words, Mapping | None):
        raise InvalidInputError(
            f"{label} are lists by name, got {type(words).__name__}. Write "
            f"{label}={{'papers': ['...']}}."
        )


def _cards(
    what: str, metadata: Sequence[ToolMetadata], examples: Words | None, categories: Words | None
) -> list[AgentCard]:
    check_by_name("examples", examples)
    check_by_name("categories", categories)
    check_names(what, [item.name or "" for item in metadata], examples, categories)
    return [_card(item, examples or {}, categories or {}) for item in metadata]


def _card(metadata: ToolMetadata, examples: Words, categories: Words) -> AgentCard:
    name = metadata.name or ""
    own_categories = getattr(metadata, "categories", ())
    return AgentCard(
        name=name,
        description=_description(metadata)[:MAX_DESCRIPTION_CHARS],
        input_schema=metadata.get_parameters_dict(),
        categories=joined("categories", name, own_categories, categories.get(name, ())),
        examples=joined("examples", name, examples_in(metadata), examples.get(name, ())),
    )


def _description(metadata: ToolMetadata) -> str:
    """Leave out the signature that LlamaIndex puts before a function's docstring."""
    said = metadata.description or ""
    first, _, rest = said.partition("\n")
    return rest.strip() or first if first.startswith(f"{metadata.name}(") else said


def _agent_description(agent: BaseWorkflowAgent) -> str:
    tools = [_description(tool.metadata).strip() for tool in _tools_of(agent)]
    about = agent.description.strip()
    if not any(tools):
        return about[:MAX_DESCRIPTION_CHARS]
    each = max(20, (MAX_DESCRIPTION_CHARS - len(about)) // len(tools) - 1)  # all are heard
    return " ".join([about, *(text[:each] for text in tools)]).strip()[:MAX_DESCRIPTION_CHARS]


def _tools_of(agent: BaseWorkflowAgent) -> list[BaseTool]:
    tools = [tool for tool in agent.tools or () if isinstance(tool, BaseTool)]
    retriever = agent.tool_retriever
    if not isinstance(retriever, ObjectRetriever):
        return tools
    mapping = retriever.object_node_mapping
    # LlamaIndex's own mapping of tools leaves the property that lists them without a body.
    held = getattr(mapping, "_tools", None)
    if held is None:
        try:
            held = mapping.obj_node_mapping
        except NotImplementedError:
            return [*tools, *retriever.retrieve(agent.description)]
    return [*tools, *(tool for tool in held.values() if isinstance(tool, BaseTool))]
