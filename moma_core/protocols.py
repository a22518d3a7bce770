"""The seams: what a part must offer to be plugged in. Four methods at most each.

Written before the implementations; `moma_core.testing` holds their conformance suites.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from moma_core.decision import RoutingDecision
from moma_core.types import AgentCard, FloatArray, LLMCard, Preference, Query, RoutingState

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
    "Switches",
    "Version",
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


@dataclass(frozen=True, slots=True)
class Version:
    """Which writing of a name this is, and whose; equal by number and birth.

    Args:
        number: Grows by one with every writing of a name, also after it was forgotten; 0: none yet.
        born: Nanoseconds since 1970 at which the name was first stored.
        by: Host and process that wrote it.
        at: Seconds since 1970 at which it did.
    """

    number: int = 0
    born: int = 0
    by: str = field(default="", compare=False)
    at: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class AgentRecord:
    """A card beside its vectors, as a registry keeps it.

    Args:
        card: The agent.
        description_vector: Shape (d,).
        example_vectors: Shape (len(card.examples), d).
        version: The writing that it was read from. A registry puts a record only over that one,
            over none where the number is 0, and over any where it is None.
    """

    card: AgentCard
    description_vector: FloatArray
    example_vectors: FloatArray
    version: Version | None = None


Switches = Mapping[tuple[str, int], bool]
"""Whether agents are on, by name and `Version.born`."""


@runtime_checkable
class Registry(Protocol):
    """Keeps agent records across restarts and processes; knows nothing of routing.

    It may also have ``stamp()``, a short text that is another after every change, cheap enough to
    be asked for every second; ``switches()``, the `Switches` of all that were ever switched, which
    waits for no other process; and ``close()``.
    """

    def put(self, records: Sequence[AgentRecord]) -> Sequence[AgentRecord]:
        """Store records, each whole or not at all, and return them with their new versions.

        A card's ``enabled`` counts for a new name; a known one stays as `switch` left it.

        Raises:
            ConflictError: Somebody else wrote a name since; nothing of it was overwritten.
            RegistryError: The store does not answer or cannot write; nothing is half-written.
        """

    def delete(self, names: Sequence[str]) -> None:
        """Forget these names; unknown ones are ignored."""

    def switch(self, names: Sequence[str], *, enabled: bool) -> None:
        """Set whether these may be chosen, whatever it was; unknown ones are ignored."""

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
