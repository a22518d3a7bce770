"""What a tool does to the world: reads, changes or destroys, by its own hints or its name's verb.

MCP's annotations (``readOnlyHint``, ``destructiveHint``) count, as cards keep them in
``metadata["annotations"]``; without them the first word of the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from moma_core._checks import readable
from moma_core.types import AgentCard

__all__ = ["effect_of"]

Effect = Literal["reads", "destroys", "unknown"]

_READS = frozenset({"get", "list", "read", "show", "find", "search", "view", "fetch", "describe"})
_DESTROYS = frozenset(
    {"delete", "remove", "destroy", "drop", "erase", "wipe", "purge", "cancel", "terminate"}
)


def effect_of(card: AgentCard) -> Effect:
    """Return what a tool does, as far as its card says.

    Example:
        >>> effect_of(AgentCard("delete_file", "Deletes a file")), effect_of(AgentCard("a", "b"))
        ('destroys', 'unknown')
        >>> safe = {"annotations": {"readOnlyHint": True}}
        >>> effect_of(AgentCard("drop_rate", "How many packets are lost", metadata=safe))
        'reads'
    """
    hints = card.metadata.get("annotations")
    if isinstance(hints, Mapping):
        if hints.get("readOnlyHint") is True:
            return "reads"
        if isinstance(hints.get("destructiveHint"), bool):
            return "destroys" if hints["destructiveHint"] else "unknown"
    verb = readable(card.name).lower().split()[:1]
    if verb and verb[0] in _DESTROYS:
        return "destroys"
    return "reads" if verb and verb[0] in _READS else "unknown"
