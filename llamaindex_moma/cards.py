"""Agent cards from LlamaIndex's tools, workflows and choices."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.agent.workflow import AgentWorkflow, BaseWorkflowAgent
from llama_index.core.tools import BaseTool, FunctionTool, ToolMetadata

from moma_core import AgentCard, InvalidInputError, MoMARouter, UnknownNameError
from moma_core.errors import DuplicateNameError
from moma_core.types import Words, check_names, is_text, is_visible, joined

__all__ = [
    "Choice",
    "KnownChoices",
    "MoMAToolMetadata",
    "add_example",
    "agent_cards_from_function_tools",
    "agent_cards_from_query_engine_tools",
    "agent_cards_from_workflow",
    "cards_of",
    "examples_by_name",
    "fingerprint",
    "nearest",
    "positions_in",
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


# The core's own bounds are wider; these leave room for what is added here.
_MAX_NAME = 100
_CHOICES_MAX_DESCRIPTION = 8_000
# Likeness (difflib) from which an unknown key is taken for a slip: one wrong letter in five.
_NEAR = 0.8


@dataclass(frozen=True, slots=True)
class Choice:
    """What a card depends on.

    Args:
        name: As given; may be missing.
        description: As given.
        examples: What the choice's own metadata brings along.
    """

    name: str | None
    description: str
    examples: tuple[str, ...] = ()

    @property
    def called(self) -> str:
        """Name by which users speak of it: its name, else its description."""
        return self.name or self.description


def fingerprint(choices: Sequence[ToolMetadata]) -> tuple[Choice, ...]:
    """Return what the cards depend on: equal for equal choices in the same order.

    Example:
        >>> fingerprint([ToolMetadata("Papers on physics", "papers")])
        (Choice(name='papers', description='Papers on physics', examples=()),)
    """
    return tuple(
        Choice(choice.name, choice.description or "", words_of(choice, "examples"))
        for choice in choices
    )


def cards_of(
    choices: Sequence[Choice], examples: Mapping[str, Sequence[str]] | None = None
) -> tuple[AgentCard, ...]:
    """Return one card a choice, in order, all with different names.

    Args:
        choices: From `fingerprint`.
        examples: Queries that a choice should take, by its name or, where it has none, by its
            description.

    Raises:
        DuplicateNameError: Two choices are meant by one key of ``examples``.
        InvalidCardError: A choice's examples are one text, not a list.
        UnknownNameError: There are examples, but for none of these choices, or a key is nearly the
            name of a choice that has none.

    Example:
        >>> choices = [Choice("papers", "a"), Choice("papers", "b"), Choice(None, "c")]
        >>> [card.name for card in cards_of(choices)]
        ['papers (1)', 'papers (2)', 'choice 3']
    """
    given = examples_by_name(examples)
    if given and choices and not any(choice.called in given for choice in choices):
        raise UnknownNameError(
            f"there are examples for {list(given)!r:.300}, but the choices are "
            f"{[choice.called for choice in choices]!r:.300}. Use the choices' names as keys."
        )
    _check_spelling(given, [choice.called for choice in choices])
    for key in given:
        _only([choice for choice in choices if choice.called == key], key)
    counts = Counter(_printable(choice.name) for choice in choices)
    cards: dict[str, AgentCard] = {}
    for position, choice in enumerate(choices, start=1):
        name = _free_name(_printable(choice.name), position, counts, cards)
        said = choice.description.strip()[:_CHOICES_MAX_DESCRIPTION]
        text = said if is_text(said) else name
        texts = dict.fromkeys((*choice.examples, *given.get(choice.called, ())))
        cards[name] = AgentCard(name, text, examples=tuple(texts))
    return tuple(cards.values())


def examples_by_name(examples: Mapping[str, Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
    """Return the examples of each choice.

    Raises:
        InvalidCardError: A choice's examples are one text, whose letters would become examples.
        InvalidInputError: They are not by name.

    Example:
        >>> examples_by_name({"papers": ["who proved it?"]})
        {'papers': ('who proved it?',)}
    """
    if not isinstance(examples, Mapping | None):
        raise InvalidInputError(
            f"examples are lists of queries by a choice's name, got {type(examples).__name__}. "
            "Write {'papers': ['which paper proves it?']}."
        )
    return {key: joined("examples", key, texts) for key, texts in (examples or {}).items()}


@dataclass(frozen=True)
class KnownChoices:
    """A list of choices and the router that tells them apart.

    Args:
        router: Knows a card for each choice.
        choices: As given, in order.
        positions: Position of each card's choice, by card name, in order.
    """

    router: MoMARouter
    choices: tuple[Choice, ...]
    positions: Mapping[str, int]

    @property
    def names(self) -> list[str]:
        """Card names, in order."""
        return list(self.positions)

    def find(self, called: str | Choice) -> int | None:
        """Return the position that a name or description speaks of; None when nothing does.

        Raises:
            DuplicateNameError: Several choices are called so.
        """
        if isinstance(called, str) and called in self.positions:
            return self.positions[called]
        found = [
            position
            for position, choice in enumerate(self.choices)
            if (choice.called == called if isinstance(called, str) else choice == called)
        ]
        if isinstance(called, str):
            _only([self.choices[position] for position in found], called)
        return found[0] if found else None

    def learn(self, query: str, position: int) -> None:
        """Add an example to the choice at ``position``; the next route knows it."""
        add_example(self.router, self.names[position], query)


def add_example(router: MoMARouter, name: str, query: str) -> None:
    """Give a registered agent one more example.

    Raises:
        UnknownNameError: Nobody registered it.
    """
    card = router.agents.get(name)
    if query not in card.examples:
        router.agents.update(dataclasses.replace(card, examples=(*card.examples, query)))


def positions_in(router: MoMARouter, choices: Sequence[Choice]) -> dict[str, int]:
    """Return the position of each choice whose card a shared router holds already.

    Raises:
        DuplicateNameError: Two choices share a name.
        UnknownNameError: A choice is not registered.
    """
    positions: dict[str, int] = {}
    for position, choice in enumerate(choices):
        if choice.name is None or choice.name not in router.agents:
            raise UnknownNameError(
                f"the router knows no agent {choice.name!r}. Register the choices first: "
                "register_cards(router, agent_cards_from_query_engine_tools(tools))."
            )
        if choice.name in positions:
            _only([choice, choice], choice.name)
        positions[choice.name] = position
    return positions


def nearest(name: str, known: Iterable[str]) -> str:
    """Return words that say which known name was perhaps meant."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"There are {names!r:.300}."


def _check_spelling(keys: Collection[str], called: Collection[str]) -> None:
    """Refuse slips of the pen; a key may well be for a choice of another list."""
    without = [name for name in called if name not in keys]
    for key in keys:
        close = [] if key in called else difflib.get_close_matches(key, without, n=1, cutoff=_NEAR)
        # Names that differ in a number, as sales_2023 and sales_2024, are two on purpose.
        if close and re.findall(r"\d+", key) == re.findall(r"\d+", close[0]):
            raise UnknownNameError(
                f"there are examples for {key!r}, which is no choice, and none for "
                f"{close[0]!r:.100}. Did you mean that? Use the choices' names as keys."
            )


def _only(found: Sequence[Choice], called: str) -> None:
    if len(found) > 1:
        raise DuplicateNameError(
            f"{len(found)} choices are called {called!r}, so it is not clear which one is meant. "
            "Give them different names."
        )


def _free_name(
    name: str, position: int, counts: Mapping[str, int], taken: Mapping[str, AgentCard]
) -> str:
    """Return a name that only one choice gave as it is, or make one of the position."""
    if name and counts[name] == 1:
        return name
    name = f"{name} ({position})" if name else f"choice {position}"
    while name in taken or name in counts:
        name += "'"
    return name


def _printable(name: str | None) -> str:
    seen = (c if c.isprintable() and is_visible(c) else " " for c in name or "")
    letters = "".join(seen)
    return letters[:_MAX_NAME].strip()
