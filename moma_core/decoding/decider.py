"""The final decision by a local LLM, fused with the ranker (sect. 4.2, eq. 26).

Stands between ranker and gate: takes a query and the ranker's shortlist, gives each agent's
probability. It sees eligible agents only, so it cannot name another. Knows no states, no registry
and no threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moma_core.decoding.adapter import PACKAGED_ADAPTERS, merge_adapter
from moma_core.decoding.evidence import ChoiceLikelihood, Evidence, NoisyChannel
from moma_core.decoding.fusion import (
    DEFAULT_WEIGHTS,
    Case,
    FusionWeights,
    fit_weights,
    fuse,
)
from moma_core.decoding.local_llm import LocalLLM
from moma_core.decoding.ordered import ordered_names
from moma_core.decoding.prior import NamePrior
from moma_core.decoding.prompts import choice_prompt
from moma_core.decoding.trie import NameTrie
from moma_core.errors import InvalidInputError, UnknownNameError
from moma_core.types import AgentCard, Query

__all__ = ["FusedDecider", "HeldOut"]

Floats = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]


class HeldOut(Protocol):
    """An example of an agent, and how a ranker listed it that had not seen it."""

    @property
    def query(self) -> str:
        """The example."""

    @property
    def names(self) -> tuple[str, ...]:
        """The agents listed, k of them."""

    @property
    def log_prior(self) -> tuple[float, ...]:
        """Their log probabilities, length k."""

    @property
    def wanted(self) -> str:
        """The agent whose example it is."""


@dataclass(frozen=True)
class FusedDecider:
    """Gives each agent of a shortlist its probability, the LLM's say weighed against the ranker's.

    Args:
        noisy_channel: Scores queries under agents.
        choice: Scores names after queries; None leaves that out.
        weights: Fitted by `fit`, or the defaults.
        sure: Share of the shortlist's probability from which the ranker's first agent is taken
            without asking the LLM.

    Raises:
        InvalidInputError: ``weights`` were fitted for other evidence or need evidence that is
            missing, or ``sure`` is not in (0, 1].
    """

    noisy_channel: Evidence
    choice: Evidence | None = None
    weights: FusionWeights = DEFAULT_WEIGHTS
    sure: float = 0.99

    def __post_init__(self) -> None:
        if not 0.0 < self.sure <= 1.0:
            raise InvalidInputError(f"sure is a share in (0, 1], got {self.sure!r}.")
        if self.weights.evidence not in ("", self.fingerprint):
            raise InvalidInputError(
                f"these weights were fitted for {self.weights.evidence!r}, not "
                f"{self.fingerprint!r}. Fit them again: decider.fit(...)."
            )
        if self.weights.choice and self.choice is None:
            raise InvalidInputError(
                "these weights need the choice likelihood. Pass choice=ChoiceLikelihood(llm)."
            )

    @classmethod
    def load(
        cls,
        llm: str | LocalLLM = "smollm2",
        weights: FusionWeights = DEFAULT_WEIGHTS,
        *,
        choice: bool = False,
        sure: float = 0.99,
    ) -> FusedDecider:
        """Build a decider around a local LLM.

        Args:
            llm: As `LocalLLM.load` takes it, or one that is loaded. SmolLM2 by its short name gets
                the packaged adapter, trained to tell agents apart that it has not seen.
            weights: Of the evidence.
            choice: Whether to be able to weigh the LLM's choice among names, too.
            sure: As above.

        Raises:
            ArtifactError: The LLM is not installed or damaged.
            MissingExtraError: The ``[llm]`` extra is not installed.
        """
        known = llm if isinstance(llm, LocalLLM) else LocalLLM.load(llm)
        adapter = PACKAGED_ADAPTERS.get(llm) if isinstance(llm, str) else None
        if adapter:
            merge_adapter(known.model, adapter)
        names = ChoiceLikelihood(known) if choice or weights.choice else None
        return cls(NoisyChannel(known), names, weights, sure)

    @property
    def fingerprint(self) -> str:
        """What fitted weights depend on."""
        return self.noisy_channel.fingerprint

    def decide(
        self, query: str | Query, cards: Sequence[AgentCard], log_prior: npt.ArrayLike
    ) -> npt.NDArray[np.float64]:
        """Return the probability of each agent, summing to one, shape (k,).

        Args:
            query: The user's words, or a query; its history is not looked at.
            cards: k eligible agents, at least one.
            log_prior: The ranker's log probabilities, up to a constant, shape (k,).

        Raises:
            InvalidInputError: There is no agent, or not one log probability for each.
            ScoreError: A log probability is not finite, or the LLM gave NaN.
        """
        prior = _checked(cards, log_prior)
        nothing = np.zeros(len(cards))
        alone = fuse(FusionWeights(), prior, nothing, nothing)
        if not self.weights.asks or float(np.exp(alone.max())) >= self.sure:
            return np.exp(alone)
        text = Query.of(query).text
        return np.exp(fuse(self.weights, prior, *self._evidence(text, cards, self.weights)))

    def order(
        self,
        query: str | Query,
        cards: Sequence[AgentCard],
        log_prior: npt.ArrayLike,
        count: int,
    ) -> tuple[str, ...]:
        """Return ``count`` different agents in order, each chosen after the ones before it.

        With a weight on the choice likelihood the LLM reads the names chosen so far; without one
        the order is that of `decide`.

        Args:
            query: The user's words.
            cards: k eligible agents.
            log_prior: As in `decide`.
            count: How many; at most k are returned.

        Raises:
            InvalidInputError: As in `decide`; or ``count`` is less than 1.
            ScoreError: As in `decide`.
        """
        if count < 1:
            raise InvalidInputError(f"count must be 1 or more, got {count!r}.")
        chances = self.decide(query, cards, log_prior)
        names = [card.name for card in cards]
        if not (isinstance(self.choice, ChoiceLikelihood) and self.weights.choice):
            best = np.argsort(-chances, kind="stable")[:count]
            return tuple(names[i] for i in best)
        llm = self.choice.llm
        end = llm.tokens("\n")[-1]
        trie = NameTrie.from_names(names, llm.tokenizer, terminator=end, lead=" ")
        # The LLM's own say has weight one along the trie, so the prior's is scaled up instead.
        mass = np.log(np.maximum(chances, 1e-12)) / self.weights.choice
        found = ordered_names(
            llm.model,
            trie,
            llm.prompt(choice_prompt(self.choice.clipped(Query.of(query).text))),
            llm.tokens(", then"),
            at_most=min(count, len(cards)),
            at_least=min(count, len(cards)),
            prior=NamePrior(trie, mass),
        )
        return found.names

    def fit(
        self,
        held_out: Sequence[HeldOut],
        cards: Mapping[str, AgentCard],
        progress: Progress | None = None,
    ) -> FusedDecider:
        """Return a decider whose weights were fitted on held-out examples; zero where it is noise.

        Args:
            held_out: Examples as listed by a ranker that had not seen them, a few hundred.
            cards: Every listed agent by its name.
            progress: Told of each example scored.

        Raises:
            UnknownNameError: A listed agent has no card.
        """
        tell = progress or (lambda _label, _done, _total: None)
        everything = FusionWeights(1.0, 1.0 if self.choice else 0.0)
        cases = []
        for i, row in enumerate(held_out):
            tell("asking the LLM about held-out examples", i, len(held_out))
            missing = [name for name in row.names if name not in cards]
            if missing:
                raise UnknownNameError(f"agent {missing[0]!r} is listed and has no card. Pass it.")
            listed = [cards[name] for name in row.names]
            noisy, choice = self._evidence(row.query, listed, everything)
            wanted = row.names.index(row.wanted) if row.wanted in row.names else None
            cases.append(Case(np.array(row.log_prior), noisy, choice, wanted))
        weights = fit_weights(cases, self.fingerprint)
        return type(self)(self.noisy_channel, self.choice, weights, self.sure)

    def _evidence(
        self, query: str, cards: Sequence[AgentCard], weights: FusionWeights
    ) -> tuple[Floats, Floats]:
        nothing = np.zeros(len(cards))
        noisy = self.noisy_channel.scores(query, cards) if weights.noisy_channel else nothing
        asked = self.choice is not None and weights.choice
        return noisy, self.choice.scores(query, cards) if asked and self.choice else nothing


def _checked(cards: Sequence[AgentCard], log_prior: npt.ArrayLike) -> Floats:
    prior = np.asarray(log_prior, dtype=np.float64)
    if not cards or prior.shape != (len(cards),):
        raise InvalidInputError(
            f"expected one log probability for each of at least one agent, got {len(cards)} agents "
            f"and shape {prior.shape}. Pass the ranker's shortlist."
        )
    return prior
