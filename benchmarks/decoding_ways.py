"""Four ways to mask an LLM's tokens to N names, alike: built from names, one processor a choice.

Imported by `decoding_peers.py`; the engines are installed for the benchmark only.
"""

# ruff: noqa: D102  # one shape for four ways
from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import llguidance
import llguidance.numpy
import torch
import xgrammar
import xgrammar.contrib.hf
from transformers import LogitsProcessor, PrefixConstrainedLogitsProcessor

from moma_core.decoding import Eligibility, NameMask, NameTrie

PROMPT = 3  # tokens before the name where one step is timed
Step = Callable[[torch.Tensor, torch.Tensor], object]


class Moma:
    """A trie with a vector of who is eligible."""

    def __init__(self, world: Any) -> None:
        self.trie = NameTrie(world.tokens, world.end, world.names)
        self.eligible = Eligibility(self.trie)

    def processor(self, prompt_length: int) -> LogitsProcessor:
        return NameMask(self.trie, self.eligible, prompt_length)

    def stepper(self) -> Step:
        return self.processor(PROMPT)

    def disable(self, world: Any) -> None:
        self.eligible.disable(world.names[3])

    def restore(self, world: Any) -> None:
        self.eligible.enable(world.names[3])


class PrefixFunction:
    """transformers' own hook over a trie of dictionaries, as its users write it."""

    def __init__(self, world: Any) -> None:
        self.root: dict[int, Any] = {}
        for tokens in world.tokens:
            node = self.root
            for token in [*tokens, world.end]:
                node = node.setdefault(token, {})
        self.end = world.end

    def allowed(self, _: int, ids: torch.Tensor, prompt_length: int) -> list[int]:
        node = self.root
        for token in ids[prompt_length:].tolist():
            node = node.get(token, {})
        return list(node) or [self.end]

    def processor(self, prompt_length: int) -> LogitsProcessor:
        return PrefixConstrainedLogitsProcessor(
            partial(self.allowed, prompt_length=prompt_length), 1
        )

    def stepper(self) -> Step:
        return self.processor(PROMPT)


class XGrammar:
    """xgrammar's compiled alternation and its own processor."""

    def __init__(self, world: Any) -> None:
        self.grammar = world.xgrammar.compile_grammar(
            "root ::= " + " | ".join(json.dumps(name) for name in world.names)
        )

    def processor(self, _: int) -> LogitsProcessor:
        return xgrammar.contrib.hf.LogitsProcessor(self.grammar)

    def stepper(self) -> Step:
        matcher = xgrammar.GrammarMatcher(self.grammar)
        size = self.grammar.tokenizer_info.vocab_size
        bits = xgrammar.allocate_token_bitmask(1, size)

        def step(_: torch.Tensor, scores: torch.Tensor) -> None:
            matcher.fill_next_token_bitmask(bits, 0)
            xgrammar.apply_token_bitmask_inplace(scores, bits)

        return step


class LLGuidance(LogitsProcessor):
    """llguidance's matcher over an alternation; one row."""

    def __init__(self, world: Any) -> None:
        choices = " | ".join(json.dumps(name) for name in world.names)
        grammar = llguidance.LLMatcher.grammar_from_lark(f"start: {choices}")
        self.matcher = llguidance.LLMatcher(world.llguidance, grammar)
        if self.matcher.is_error():
            raise RuntimeError(self.matcher.get_error())
        self.bits = llguidance.numpy.allocate_token_bitmask(1, world.vocabulary)
        self.used: Any = None

    def processor(self, prompt_length: int) -> LogitsProcessor:
        self.used, self.prompt_length = self.matcher.deep_copy(), prompt_length
        return self

    def stepper(self) -> Step:
        return self.processor(PROMPT)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] > self.prompt_length:
            self.used.consume_token(int(input_ids[0, -1]))
        llguidance.numpy.fill_next_token_bitmask(self.used, self.bits, 0)
        llguidance.numpy.apply_token_bitmask_inplace(scores.numpy(), self.bits)
        return scores


WAYS = {
    "moma": Moma,
    "prefix function": PrefixFunction,
    "xgrammar": XGrammar,
    "llguidance": LLGuidance,
}
