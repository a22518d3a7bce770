"""Reads agents and their labelled queries from parquet (schemas in docs/data.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moma_core._checks import is_text, readable
from moma_core.errors import InvalidDataError, needs_extra
from moma_core.types import MAX_DESCRIPTION_CHARS, MAX_EXAMPLE_CHARS, AgentCard

__all__ = [
    "LabelledQueries",
    "read_agents",
    "read_queries",
    "with_examples",
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
    """Read cards from columns name, description and, when there, category.

    An empty description is replaced by the name in words; a long one is cut.

    Raises:
        InvalidDataError: The file is no parquet or lacks a column.
        InvalidCardError: A name cannot be used.
    """
    table = _columns(path, ("name", "description"), ("category",))
    cards = []
    for i, name in enumerate(table["name"]):
        text = str(table["description"][i] or "").strip()
        text = text if is_text(text) else readable(str(name))
        category = str(table.get("category", {i: ""})[i] or "").strip()
        cards.append(
            AgentCard(
                name=name,
                description=text[:MAX_DESCRIPTION_CHARS],
                categories=(category,) if category else (),
            )
        )
    return cards


def read_queries(path: str | Path) -> LabelledQueries:
    """Read columns query and agents (a list of names; empty when no agent fits).

    Rows without a visible character in their query are passed over: nobody could route them.

    Raises:
        InvalidDataError: The file is no parquet or lacks a column, or a row has no list of names.
    """
    table = _columns(path, ("query", "agents"))
    texts, agents = [], []
    for i, (text, wanted) in enumerate(zip(table["query"], table["agents"], strict=True)):
        if wanted is not None and not isinstance(wanted, list):
            raise InvalidDataError(f"{path}: row {i} needs a list of names, got {wanted!r:.40}.")
        if text is not None and not isinstance(text, str):
            raise InvalidDataError(f"{path}: row {i} has {text!r:.40} for a query; give texts.")
        if is_text(text):
            texts.append(text)
            agents.append(tuple(dict.fromkeys(wanted or ())))
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


def _columns(
    path: str | Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Any]:
    with needs_extra("train"):
        import pyarrow.parquet as pq
        from pyarrow.lib import ArrowException

    try:
        names = pq.read_schema(path).names
        missing = [name for name in needed if name not in names]
        if missing:
            raise InvalidDataError(
                f"{path} has columns {names}, but {missing} are missing; needed are {list(needed)}."
            )
        wanted = [*needed, *(name for name in optional if name in names)]
        columns: dict[str, Any] = pq.read_table(path, columns=wanted).to_pydict()
    except (OSError, ArrowException) as error:
        raise InvalidDataError(
            f"{path} cannot be read as parquet ({error}). Check the path and the file."
        ) from error
    return columns
