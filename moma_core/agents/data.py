"""Reads agents and their labelled queries from tables (schemas in docs/data.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moma_core._checks import is_text, readable
from moma_core._tables import Table, names_in, read_table, write_table
from moma_core.errors import InvalidCardError, InvalidDataError
from moma_core.types import MAX_DESCRIPTION_CHARS, MAX_EXAMPLE_CHARS, AgentCard

__all__ = [
    "LabelledQueries",
    "read_agents",
    "read_queries",
    "with_examples",
    "write_agents",
]


@dataclass(frozen=True, slots=True)
class LabelledQueries:
    """Queries beside the agents that should take each; no agents means none fits.

    Args:
        texts: n queries.
        agents: For each query the wanted names, in order.
    """

    texts: tuple[str, ...]
    agents: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.texts)

    def negatives(self) -> tuple[str, ...]:
        """Return the queries that no agent should take."""
        return tuple(t for t, wanted in zip(self.texts, self.agents, strict=True) if not wanted)


def read_agents(path: str | Path) -> list[AgentCard]:
    """Read cards from columns name, description and, when there, category and examples.

    An empty description is replaced by the name in words; a long one is cut.

    Args:
        path: CSV, TSV, JSON lines or parquet, by its ending. ``examples`` is a list of queries, in
            CSV and TSV one query or a JSON list of them.

    Raises:
        InvalidDataError: The file cannot be read or lacks a column.
        InvalidCardError: A name or example cannot be used.
    """
    table = read_table(path, ("name", "description"), {"category", "examples"}.__contains__)
    return [_card(table, row) for row in range(len(table))]


def _card(table: Table, row: int) -> AgentCard:
    name = table.column("name")[row]
    text = str(table.column("description")[row] or "").strip()
    text = text if is_text(text) else readable(str(name))
    category = str(table.column("category")[row] or "").strip()
    examples = names_in(table.column("examples")[row])
    if examples is None:
        raise InvalidDataError(
            f"{table.where(row)}: examples are a list of texts, got "
            f"{table.column('examples')[row]!r:.40}."
        )
    try:
        return AgentCard(
            name=name,
            description=text[:MAX_DESCRIPTION_CHARS],
            categories=(category,) if category else (),
            examples=tuple(examples),
        )
    except InvalidCardError as error:
        raise InvalidCardError(f"{table.where(row)}: {error}") from error


def write_agents(cards: Iterable[AgentCard], path: str | Path) -> None:
    """Write what `read_agents` reads.

    Raises:
        InvalidDataError: The name's ending is none of a table's.
        ArtifactError: The file cannot be written.
    """
    known = list(cards)
    columns: dict[str, list[Any]] = {
        "name": [card.name for card in known],
        "description": [card.description for card in known],
        "category": [next(iter(card.categories), None) for card in known],
        "examples": [list(card.examples) for card in known],
    }
    write_table(path, columns)


def read_queries(path: str | Path) -> LabelledQueries:
    """Read columns query and agents (a list of names; empty when no agent fits).

    Rows without a visible character in their query are passed over: nobody could route them.

    Args:
        path: CSV, TSV, JSON lines or parquet; a cell of CSV or TSV is one name or a JSON list.

    Raises:
        InvalidDataError: The file cannot be read, lacks a column, or a row has no names.
    """
    table = read_table(path, ("query", "agents"), lambda _: False)
    texts, agents = [], []
    for row, (text, given) in enumerate(
        zip(table.column("query"), table.column("agents"), strict=True)
    ):
        wanted = names_in(given)
        if wanted is None:
            raise InvalidDataError(f"{table.where(row)} needs a list of names, got {given!r:.40}.")
        if text is not None and not isinstance(text, str):
            raise InvalidDataError(f"{table.where(row)} has {text!r:.40} for a query; give texts.")
        if is_text(text):
            texts.append(text)
            agents.append(tuple(dict.fromkeys(wanted)))
    return LabelledQueries(tuple(texts), tuple(agents))


def with_examples(
    cards: Sequence[AgentCard], queries: LabelledQueries, shots: int | None = None, seed: int = 0
) -> list[AgentCard]:
    """Return the cards with the queries that name them as few-shot examples.

    Args:
        cards: The agents.
        queries: Labelled queries; those that no agent should take are passed over.
        shots: At most so many examples an agent, drawn at random; None takes all.
        seed: Of the draw.

    Raises:
        InvalidDataError: A query names an agent that has no card.
    """
    own: dict[str, list[str]] = {card.name: [] for card in cards}
    for text, wanted in zip(queries.texts, queries.agents, strict=True):
        for name in wanted:
            if name not in own:
                raise InvalidDataError(
                    f"query {text[:60]!r} names agent {name!r}, which is not among the "
                    f"{len(own)} agents given. Add it to the agents' file or drop the query."
                )
            own[name].append(text[:MAX_EXAMPLE_CHARS])
    generator = np.random.default_rng(seed)
    if shots is not None:
        own = {
            name: [texts[i] for i in generator.permutation(len(texts))[:shots]]
            for name, texts in own.items()
        }
    return [replace(card, examples=tuple(own[card.name])) for card in cards]
