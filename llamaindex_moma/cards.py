"""Agent cards from LlamaIndex's tools and workflows, and how they get into a shared registry.

A card's name is the tool's own, so that every framework that opens the registry calls it the same.
Knows nothing of routing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.agent.workflow import AgentWorkflow, BaseWorkflowAgent
from llama_index.core.tools import BaseTool, FunctionTool, ToolMetadata

from moma_core import AgentCard, MoMARouter
from moma_core.words import Words, check_names, joined

__all__ = [
    "MoMAToolMetadata",
    "agent_cards_from_function_tools",
    "agent_cards_from_query_engine_tools",
    "agent_cards_from_workflow",
    "register_cards",
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
    """Describe query engine tools, or retriever tools with a ``metadata``, to the router.

    Args:
        tools: The tools; each needs a name of its own.
        examples: Queries that each tool should take, by tool name. Added to those that a tool
            brings along in its `MoMAToolMetadata`.
        categories: Categories of each tool, by tool name.

    Returns:
        One card a tool, in order.

    Raises:
        DuplicateNameError: Two tools share a name.
        UnknownNameError: ``examples`` or ``categories`` speak of a tool that is not there.
        InvalidCardError: A tool has no name or no description.

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
    metadata = [tool.metadata for tool in tools]
    check_names("tool", [item.name or "" for item in metadata], examples, categories)
    return [_card(item, examples or {}, categories or {}) for item in metadata]


def agent_cards_from_function_tools(
    tools: Iterable[BaseTool | Callable[..., Any]],
    examples: Words | None = None,
    *,
    categories: Words | None = None,
) -> list[AgentCard]:
    """Describe function tools, or functions with a docstring; see the sister function above.

    Example:
        >>> def shout(text: str) -> str:
        ...     "Put text in capitals."
        ...     return text.upper()
        >>> [card] = agent_cards_from_function_tools([shout])
        >>> card.name, card.description, list(card.input_schema["properties"])
        ('shout', 'Put text in capitals.', ['text'])
    """
    built = [t if isinstance(t, BaseTool) else FunctionTool.from_defaults(t) for t in tools]
    return agent_cards_from_query_engine_tools(built, examples, categories=categories)


def agent_cards_from_workflow(
    workflow: AgentWorkflow | Iterable[BaseWorkflowAgent],
    examples: Words | None = None,
    *,
    categories: Words | None = None,
) -> list[AgentCard]:
    """Describe the agents of a workflow: what each says it does, and the tools it has.

    Args:
        workflow: The workflow, or its agents.
        examples: Queries that each agent should take, by agent name.
        categories: Categories of each agent, by agent name.

    Raises:
        DuplicateNameError: Two agents share a name.
        UnknownNameError: ``examples`` or ``categories`` speak of an agent that is not there.
    """
    agents = workflow.agents.values() if isinstance(workflow, AgentWorkflow) else workflow
    metadata = [ToolMetadata(_described(agent), agent.name, fn_schema=None) for agent in agents]
    check_names("agent", [item.name or "" for item in metadata], examples, categories)
    cards = [_card(item, examples or {}, categories or {}) for item in metadata]
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
            examples=tuple(dict.fromkeys((*card.examples, *old.examples))),
            enabled=old.enabled,
            metadata={**old.metadata, **card.metadata},
        )
        # In another order they are the same examples.
        if dataclasses.replace(merged, examples=old.examples) != old or set(merged.examples) != set(
            old.examples
        ):
            changed.append(merged)
    router.agents.add(*fresh)
    router.agents.update(*changed)


def words_of(metadata: ToolMetadata, key: str) -> tuple[str, ...]:
    """Return the examples or categories that a tool's metadata brings along.

    Raises:
        InvalidCardError: They are one text, not a list of texts.
    """
    own: Sequence[str] = getattr(metadata, key, ())
    return joined(key, metadata.name or "", own)


def _card(metadata: ToolMetadata, examples: Words, categories: Words) -> AgentCard:
    name = metadata.name or ""
    return AgentCard(
        name=name,
        description=_described_in_words(metadata),
        input_schema=metadata.get_parameters_dict(),
        categories=joined(
            "categories", name, words_of(metadata, "categories"), categories.get(name, ())
        ),
        examples=joined("examples", name, words_of(metadata, "examples"), examples.get(name, ())),
    )


def _described_in_words(metadata: ToolMetadata) -> str:
    """Leave out the signature that LlamaIndex puts before a function's docstring."""
    first, _, rest = (metadata.description or "").partition("\n")
    return rest.strip() or first if first.startswith(f"{metadata.name}(") else metadata.description


def _described(agent: BaseWorkflowAgent) -> str:
    tools = [tool.metadata for tool in agent.tools or () if isinstance(tool, BaseTool)]
    words = [agent.description, *(_described_in_words(item) for item in tools)]
    return " ".join(text.strip() for text in words if text.strip())[:_MAX_DESCRIPTION]


_MAX_DESCRIPTION = 8_000
