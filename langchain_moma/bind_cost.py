"""``bind="auto"``: the way of binding tools that costs least, in tokens at their price."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from langchain_moma.messages import count_tokens_in
from moma_core import AgentCard, LLMCard

__all__ = ["CACHED", "Bind", "Prompt", "cached_share", "tool_tokens"]

Bind = Literal["stable", "deferred", "allowed", "turn", "fitting", "all", "auto"]
"""Which tools are bound: what was picked so far, for this turn, if it fits; or every one."""

_FRAME = 20  # tokens of a definition around its words and schema
_TURNS = 10  # that a conversation is taken to have still, two calls each
_SAID = 300  # tokens that a turn adds to it
_GROWS = 0.5  # of the turns need a tool that is not bound yet, and so
_LISTED = 2  # times as many as are picked for a turn are bound on the average (prompt_cache.py)
CACHED = 0.1  # of the price, for a token read from the cache, where no card says


@dataclass(frozen=True)
class Prompt:
    """What stands in front of a conversation, in tokens.

    Args:
        tools: Of all tools that may be bound.
        n: How many they are.
        picked: How many are picked for a turn.
        said: Of system prompt and messages.
        cached: Price of a token read from the provider's cache, of one that is not.
    """

    tools: float
    n: int
    picked: int
    said: float
    cached: float = CACHED

    def costs(self) -> dict[Bind, float]:
        r"""Return what a turn of each way costs, in tokens at the uncached price.

        With p the cached price, T tokens of n tools, t of one, k picked for a turn, b = min(2k, n)
        bound on the average, N = 10 turns to come that add m = 300 tokens each, and C what is said
        on the average, two calls cost 2p(bound + C) and what is written anew (1 - p):
        ``all`` m + T/N; ``deferred`` m + bt/N; ``stable`` m + bt/N + C/2, as half of the turns
        bring a tool in front of what was said. ``turn`` writes all: (1 + p)(kt + C).

        Example:
            >>> prompt = Prompt(tools=12_000, n=150, picked=8, said=300)
            >>> {way: round(tokens) for way, tokens in prompt.costs().items()}
            {'all': 4110, 'deferred': 1001, 'stable': 1811, 'turn': 2684}
        """
        one, p = self.tools / max(self.n, 1), self.cached
        k, b = min(self.picked, self.n), min(_LISTED * self.picked, self.n)
        said = self.said + _SAID * _TURNS / 2
        grows = _GROWS * said if self.n > k else 0.0
        listed = 2 * p * (b * one + said) + (1 - p) * (_SAID + b * one / _TURNS)
        return {
            "all": 2 * p * (self.tools + said) + (1 - p) * (_SAID + self.tools / _TURNS),
            "deferred": listed,
            "stable": listed + (1 - p) * grows,
            "turn": (1 + p) * (k * one + said),
        }

    def cheapest(self, ways: Mapping[Bind, Bind]) -> tuple[Bind, dict[Bind, float]]:
        """Return the way that costs least, the first of equals, and what each costs.

        Args:
            ways: Those that can be had, and by which of `costs` they go.
        """
        known = self.costs()
        found = {way: known[as_of] for way, as_of in ways.items()}
        return min(found, key=found.__getitem__), found


def tool_tokens(cards: Iterable[AgentCard]) -> float:
    """Return about how many tokens the definitions of tools take."""
    return float(
        sum(
            _FRAME + count_tokens_in(card.description) + len(json.dumps(card.input_schema)) / 4
            for card in cards
        )
    )


def cached_share(cards: Iterable[LLMCard]) -> float:
    """Return the mean price of a cached token of one that is not, of LLMs whose cards say it.

    Example:
        >>> cached_share([LLMCard("a", 2.0, 8.0, cached_input_price=1.0), LLMCard("b", 1.0, 2.0)])
        0.5
    """
    said = [c for c in cards if c.cached_input_price is not None and c.input_price > 0]
    shares = [float(c.cached_input_price or 0.0) / c.input_price for c in said]
    return sum(shares) / len(shares) if shares else CACHED
