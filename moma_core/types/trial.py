"""What a decision must carry so that feedback on it can be learnt from, also after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moma_core.types.checks import rebuilding

__all__ = ["Trial"]


@dataclass(frozen=True, slots=True)
class Trial:
    """How an LLM was chosen while learning from use is on.

    Args:
        id: Unique; feedback on it counts once.
        propensity: Chance with which this LLM was chosen.
        baseline: What would have been chosen without learning.
        safe: The LLMs among which was chosen.
        context: What the correction of an LLM is linear in, shape (k,).
        preference: ``"performance"``, ``"auto:0.5"``, ``"cost"`` or ``"cost:0.002"``.
        anchor: The LLM whose cost sets the default budget.

    Example:
        >>> trial = Trial("1", 0.9, "small", ("small", "big"), (1.0,), "auto:0.5", "big")
        >>> import dataclasses, json
        >>> Trial.from_dict(json.loads(json.dumps(dataclasses.asdict(trial)))) == trial
        True
    """

    id: str
    propensity: float
    baseline: str
    safe: tuple[str, ...]
    context: tuple[float, ...]
    preference: str
    anchor: str

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trial:
        """Rebuild from a plain dict, also after a trip through JSON.

        Raises:
            InvalidInputError: A key is missing, or a value has a wrong type.
        """
        with rebuilding("a Trial"):
            kept = {**data, "safe": tuple(data["safe"]), "context": tuple(data["context"])}
            return cls(**kept)
