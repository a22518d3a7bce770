"""Keeps a router's agents in step with a tool list that changes.

Only what changed is touched, so unchanged agents keep what they learnt, and an agent that somebody
disabled stays disabled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from moma_core import AgentCard, AgentCatalog

__all__ = ["Synced", "sync_agents"]


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
            are left alone. It is kept in ``metadata["source"]``.

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
    own = {card.name: card for card in agents if card.metadata.get("source") == source}
    wanted = [replace(card, metadata={**card.metadata, "source": source}) for card in cards]
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


def _merged(old: AgentCard, new: AgentCard) -> AgentCard:
    return replace(
        new,
        examples=new.examples or old.examples,
        enabled=old.enabled,
        metadata={**old.metadata, **new.metadata},
    )
