"""The seams: what a part must offer to be plugged in. Four methods at most each.

Written before the implementations; `moma_core.testing` holds their conformance suites.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from moma_core.types import (
    AgentCard,
    FloatArray,
    LLMCard,
    Preference,
    Query,
    RoutingDecision,
    RoutingState,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "AgentRecord",
    "Encoder",
    "FinalDecider",
    "Progress",
    "QualityHead",
    "Registry",
    "Router",
]


Progress = Callable[[str, int, int], None]
"""Told how far a long job is: a label, steps done, steps in all."""


@runtime_checkable
class Encoder(Protocol):
    """Turns texts into unit vectors."""

    @property
    def fingerprint(self) -> str:
        """What the vectors depend on; two encoders with the same one are interchangeable."""

    @property
    def dimension(self) -> int:
        """Length d of a vector."""

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Return one unit vector a text, shape (n, d), float32; (0, d) for no texts."""


@dataclass(frozen=True, slots=True, eq=False)
class AgentRecord:
    """A card beside its vectors, as a registry keeps it.

    Args:
        card: The agent.
        description_vector: Shape (d,).
        example_vectors: Shape (len(card.examples), d).
    """

    card: AgentCard
    description_vector: FloatArray
    example_vectors: FloatArray


@runtime_checkable
class Registry(Protocol):
    """Keeps agent records across restarts; knows nothing of routing."""

    def put(self, records: Sequence[AgentRecord]) -> None:
        """Store records, replacing those of the same name.

        Raises:
            RegistryError: The store does not answer or cannot write; nothing is half-written.
        """

    def delete(self, names: Sequence[str]) -> None:
        """Forget these names; unknown ones are ignored."""

    def load(self) -> Sequence[AgentRecord]:
        """Return every record, in the order in which its name was first stored."""


@runtime_checkable
class FinalDecider(Protocol):
    """Decides among a ranker's shortlist, as an LLM does (eq. 26)."""

    def decide(
        self, query: str, cards: Sequence[AgentCard], log_prior: npt.ArrayLike
    ) -> npt.NDArray[np.float64]:
        """Return the probability of each of k agents, summing to one, shape (k,).

        Args:
            query: The words to route.
            cards: The k agents that may be chosen, at least one.
            log_prior: The ranker's log probabilities, up to a constant, shape (k,).
        """


@runtime_checkable
class QualityHead(Protocol):
    """Predicts how well each LLM would answer."""

    @property
    def llms(self) -> tuple[LLMCard, ...]:
        """The LLMs, in the order of the columns."""

    def predict(self, embeddings: FloatArray) -> FloatArray:
        """Return quality in [0, 1] from query vectors (n, d), shape (n, n_llms)."""


@runtime_checkable
class Router(Protocol):
    """Decides where a query goes."""

    def route(
        self,
        query: str | Query,
        preference: str | Preference | None = None,
        state: RoutingState | None = None,
    ) -> RoutingDecision:
        """Decide for one query.

        Raises:
            InvalidInputError: The query or preference cannot be used.
            NoTargetError: Nothing could take the query.
        """
