"""What an LLM says about each agent of a shortlist (eq. 26): two measures beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from moma_core._checks import readable
from moma_core.decoding.local_llm import LocalLLM
from moma_core.decoding.prefix import KvPrefix, PrefixCache, causal_lm, check_context
from moma_core.decoding.search import score_names
from moma_core.decoding.trie import NameTrie
from moma_core.errors import InvalidInputError, ScoreError
from moma_core.types import AgentCard

__all__ = [
    "ChoiceLikelihood",
    "Evidence",
    "NoisyChannel",
    "agent_prompt",
    "arguments_prompt",
    "choice_prompt",
    "continuation_log_probs",
    "list_prompt",
    "parameters",
]

_MOST_CHARS = 400  # of a description; what follows seldom tells one agent from another
_MOST_LISTED = 160  # the same where all agents of a shortlist are shown at once


def agent_prompt(card: AgentCard) -> str:
    """Return what comes before a query under one agent: the noisy channel's condition.

    Example:
        >>> print(agent_prompt(AgentCard("weather_now", "Forecast for a place")))
        Tool: weather now
        Description: Forecast for a place
        User request:
    """
    name = readable(card.name) or card.name
    lines = [f"Tool: {name}", f"Description: {_clipped(card.description, _MOST_CHARS)}"]
    if inputs := parameters(card):
        lines.append(f"Inputs: {inputs}")
    return "\n".join([*lines, "User request:"])


def choice_prompt(query: str | None) -> str:
    """Return what comes before an agent's name, with a query or, for its base rate, without.

    Example:
        >>> print(choice_prompt("will it rain?"))
        User request: will it rain?
        Tool:
    """
    return "Tool:" if query is None else f"User request: {query}\nTool:"


def list_prompt(query: str, cards: Sequence[AgentCard]) -> str:
    """Return the paper's prompt: every eligible agent with its metadata, then the query.

    Example:
        >>> cards = [AgentCard("radar", "Rain now"), AgentCard("clock", "The time")]
        >>> print(list_prompt("will it rain?", cards))
        Tools:
        - radar: Rain now
        - clock: The time
        <BLANKLINE>
        User request: will it rain?
        Tool:
    """
    lines = [f"- {card.name}: {_clipped(card.description, _MOST_LISTED)}" for card in cards]
    return "\n".join(["Tools:", *lines, "", choice_prompt(query)])


def arguments_prompt(query: str, card: AgentCard) -> str:
    """Return what comes before an agent's argument object."""
    return (
        f"Fill in the arguments of the tool {card.name!r} ({_clipped(card.description, 400)}).\n"
        f"Parameters: {parameters(card) or 'none'}\n"
        f"User request: {query}\n"
        "Answer with one JSON object and take every value from the request."
    )


def parameters(card: AgentCard) -> str:
    """Return an agent's input parameters in a line; empty where it has none.

    Example:
        >>> schema = {"properties": {"city": {"type": "string", "description": "Where"}, "n": {}}}
        >>> parameters(AgentCard("weather", "Forecast", input_schema=schema))
        'city (string, Where), n'
    """
    properties = card.input_schema.get("properties", {})
    if not isinstance(properties, Mapping):
        return ""
    shown = []
    for name, schema in properties.items():
        about = schema if isinstance(schema, Mapping) else {}
        notes = [str(about[key]) for key in ("type", "description") if about.get(key)]
        shown.append(f"{name} ({', '.join(notes)})" if notes else str(name))
    return _clipped(", ".join(shown), _MOST_CHARS)


def _clipped(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most].rsplit(" ", 1)[0] + " ..."


Floats = npt.NDArray[np.float64]

_MOST_TOKENS = 1_024  # of continuations in one forward, padding included
_MOST_HELD = 8_192  # of prefixes side by side, padding included: 190 MB with SmolLM2
_BLOCK = 256  # states whose logits over the vocabulary are in memory at once
_PRECISE = 64  # of these, in float32 too


def continuation_log_probs(
    llm: Any,
    prefixes: Sequence[KvPrefix],
    continuations: Sequence[Sequence[int]],
) -> list[Floats]:
    """Return log P(token | prefix, tokens before it) for every token but each first one.

    A prefix is what comes before the continuation's first token; that token is fed, not scored,
    since a cache holds keys and values but not what would come next.

    Args:
        llm: A causal LLM of transformers with full attention in every layer.
        prefixes: b encoded beginnings, of any lengths.
        continuations: For each, at least two token ids.

    Returns:
        For each continuation of n tokens its n - 1 log probabilities.

    Raises:
        InvalidInputError: A continuation has fewer than two tokens, or more than the LLM can read
            after its prefix; or there is not one for each.
        ScoreError: The LLM gave NaN.
    """
    if len(prefixes) != len(continuations) or min(map(len, continuations), default=2) < 2:
        raise InvalidInputError(
            "expected for each prefix a continuation of at least two tokens, got "
            f"{len(prefixes)} prefixes and lengths {[len(c) for c in continuations]!s:.60}"
        )
    results: list[Floats] = [np.empty(0)] * len(prefixes)
    for group in _groups([len(c) for c in continuations], [len(p) for p in prefixes]):
        found = _forward(llm, [prefixes[i] for i in group], [continuations[i] for i in group])
        for i, row in zip(group, found, strict=True):
            results[i] = row
    return results


def _groups(lengths: Sequence[int], pasts: Sequence[int]) -> list[list[int]]:
    """Put rows of like length together, so that little is padded and memory is bounded."""
    groups: list[list[int]] = []
    past = 0  # the longest of the last group
    for i in np.argsort(lengths, kind="stable")[::-1].tolist():
        past = max(past, pasts[i])
        rows = len(groups[-1]) + 1 if groups else 1
        if rows == 1 or rows * lengths[groups[-1][0]] > _MOST_TOKENS or rows * past > _MOST_HELD:
            groups.append([])
            past = pasts[i]
        groups[-1].append(i)
    return groups


@torch.inference_mode()
def _forward(
    llm: Any, prefixes: Sequence[KvPrefix], continuations: Sequence[Sequence[int]]
) -> list[Floats]:
    lm = causal_lm(llm)
    past, longest = max(map(len, prefixes)), max(map(len, continuations)) - 1
    check_context(lm, past + longest)
    ids = torch.zeros(len(prefixes), longest, dtype=torch.long)
    targets, places = ids.clone(), ids.clone()
    seen = torch.zeros(len(prefixes), past + longest, dtype=torch.long)
    for row, (prefix, tokens) in enumerate(zip(prefixes, continuations, strict=True)):
        n = len(tokens) - 1
        ids[row, :n], targets[row, :n] = torch.tensor(tokens[:-1]), torch.tensor(tokens[1:])
        places[row] = torch.arange(len(prefix), len(prefix) + longest)
        seen[row, past - len(prefix) : past + n] = 1
    states = lm.base_model(
        input_ids=ids.to(lm.device),
        attention_mask=seen.to(lm.device),
        position_ids=places.to(lm.device),
        past_key_values=_side_by_side(lm, prefixes, past),
        use_cache=True,
    ).last_hidden_state
    scores = _picked(lm, states.flatten(0, 1), targets.flatten().to(lm.device))
    table = scores.reshape(len(prefixes), longest)
    return [table[row, : len(tokens) - 1] for row, tokens in enumerate(continuations)]


def _side_by_side(lm: Any, prefixes: Sequence[KvPrefix], past: int) -> DynamicCache:
    """Return a cache with one row a prefix, padded on the left to ``past`` tokens."""
    cache = DynamicCache(config=lm.config)
    for layer in range(len(prefixes[0].layers)):
        pair = []
        for part in (0, 1):
            first = prefixes[0].layers[layer][part]  # (1, heads, p, head size)
            joined = first.new_zeros(len(prefixes), first.shape[1], past, first.shape[3])
            for row, prefix in enumerate(prefixes):
                joined[row, :, past - len(prefix) :] = prefix.layers[layer][part][0]
            pair.append(joined)
        cache.update(pair[0], pair[1], layer)
    return cache


def _picked(lm: Any, states: torch.Tensor, tokens: torch.Tensor) -> Floats:
    """Return log P(token | state), shape (m,), a block of states at a time."""
    head = lm.get_output_embeddings()
    picked = []
    for at in range(0, len(states), _BLOCK):
        logits = head(states[at : at + _BLOCK])
        for i in range(0, len(logits), _PRECISE):
            log_probs = torch.log_softmax(logits[i : i + _PRECISE].float(), dim=-1)
            wanted = tokens[at + i : at + i + len(log_probs), None]
            picked.append(log_probs.gather(1, wanted).squeeze(1))
    scores: Floats = torch.cat(picked).double().cpu().numpy()
    if np.isnan(scores).any():
        raise ScoreError(
            "the LLM gave NaN. Load it in float32: LocalLLM.load(..., dtype='float32')"
        )
    return scores


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
