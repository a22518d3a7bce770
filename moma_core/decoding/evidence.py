"""What an LLM says about each agent of a shortlist (eq. 26): two measures beside each other.

`NoisyChannel` asks how likely the agent's users are to say this; `ChoiceLikelihood` how likely the
LLM is to name the agent. Neither decides: `moma_core.decoding.fusion` weighs them against the
ranker, since a small LLM alone is right far less often than the ranker is.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from moma_core.decoding.continuation import continuation_log_probs
from moma_core.decoding.local_llm import LocalLLM
from moma_core.decoding.prefix_cache import PrefixCache
from moma_core.decoding.prompts import agent_prompt, choice_prompt
from moma_core.decoding.scoring import score_names
from moma_core.decoding.trie import NameTrie
from moma_core.types import AgentCard

__all__ = ["ChoiceLikelihood", "Evidence", "NoisyChannel"]

Floats = npt.NDArray[np.float64]

_CACHE_BYTES = 512 << 20  # SmolLM2: 1 MB an agent of 45 tokens
_MOST_QUERY_TOKENS = 64
_MOST_QUERY_CHARS = 4_096  # looked at, so that a book is not tokenised for its first words
_MOST_KNOWN = 100_000  # base rates kept, a float a name


@runtime_checkable
class Evidence(Protocol):
    """Scores agents for a query; only differences between agents mean something."""

    @property
    def fingerprint(self) -> str:
        """What the scores depend on; weights fitted for one are no use for another."""

    def scores(self, query: str, cards: Sequence[AgentCard]) -> Floats:
        """Return one score an agent, shape (k,), higher for likelier ones."""


class NoisyChannel:
    """Scores log P(query | agent's card) a token, each agent's card encoded once and kept.

    The mean over the query's tokens, not their sum: tokens of one query are far from independent,
    and a sum would drown the ranker on long queries.

    Args:
        llm: A local LLM with full attention.
        max_bytes: Most bytes of encoded cards to keep.
        most_tokens: Of a query; what follows is not looked at.
    """

    def __init__(
        self,
        llm: LocalLLM,
        max_bytes: int = _CACHE_BYTES,
        most_tokens: int = _MOST_QUERY_TOKENS,
    ) -> None:
        self.llm = llm
        self.prefixes = PrefixCache(llm.model, max_bytes)
        self._most_tokens = most_tokens

    @property
    def fingerprint(self) -> str:
        """The LLM's."""
        return f"noisy-channel-{self.llm.fingerprint}"

    def scores(self, query: str, cards: Sequence[AgentCard]) -> Floats:
        """Return the mean log probability of the query's tokens under each card, shape (k,).

        Raises:
            ScoreError: The LLM gave NaN.
        """
        said = self.llm.tokens(" " + _begin(query))[: self._most_tokens]
        prefixes, continuations = [], []
        for card in cards:
            prompt = self.llm.prompt(agent_prompt(card))
            prefixes.append(self.prefixes.get(prompt[:-1], owner=card.name))
            continuations.append([prompt[-1], *said])
        rows = continuation_log_probs(self.llm.model, prefixes, continuations)
        return np.array([row.mean() for row in rows])

    def prefetch(self, cards: Sequence[AgentCard]) -> None:
        """Encode cards in the background, before a query asks for them."""
        for card in cards:
            prompt = self.llm.prompt(agent_prompt(card))
            self.prefixes.prefetch(prompt[:-1], owner=card.name)


class ChoiceLikelihood:
    """Scores log P(name | query) - log P(name): how much the query speaks for the name (PMI).

    Without the second part short and common names win whatever is asked.

    Args:
        llm: A local LLM.
    """

    def __init__(self, llm: LocalLLM) -> None:
        self.llm = llm
        self._end = llm.tokens("\n")[-1]
        self._base: dict[str, float] = {}
        self._lock = Lock()

    @property
    def fingerprint(self) -> str:
        """The LLM's."""
        return f"choice-{self.llm.fingerprint}"

    def scores(self, query: str, cards: Sequence[AgentCard]) -> Floats:
        """Return the pointwise mutual information of query and each name, shape (k,).

        Raises:
            ScoreError: The LLM gave NaN.
        """
        names = [card.name for card in cards]
        return self._log_probs(self.clipped(query), names) - self._base_rates(names)

    def clipped(self, query: str) -> str:
        """Return as much of a query as is looked at."""
        said = self.llm.tokens(query[:_MOST_QUERY_CHARS])[:_MOST_QUERY_TOKENS]
        shown: str = self.llm.tokenizer.decode(said)
        return shown

    def _base_rates(self, names: Sequence[str]) -> Floats:
        with self._lock:
            rates = {name: self._base[name] for name in names if name in self._base}
        missing = [name for name in names if name not in rates]
        if missing:
            found = dict(zip(missing, self._log_probs(None, missing).tolist(), strict=True))
            rates |= found
            with self._lock:
                if len(self._base) > _MOST_KNOWN:
                    self._base.clear()
                self._base |= found
        return np.array([rates[name] for name in names])

    def _log_probs(self, query: str | None, names: Sequence[str]) -> Floats:
        trie = NameTrie.from_names(names, self.llm.tokenizer, terminator=self._end, lead=" ")
        prompt = self.llm.prompt(choice_prompt(query))
        return score_names(self.llm.model, trie, prompt).log_probs


def _begin(query: str) -> str:
    """Return the first words of a query in one line."""
    return " ".join(query[:_MOST_QUERY_CHARS].split())
