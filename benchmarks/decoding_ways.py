"""Five ways to mask an LLM's tokens to N names, alike: built from names, one processor a choice.

Imported by `decoding_peers.py`; the engines are installed for the benchmark only. Grammar engines
get an alternation of the names, their caches off. outlines-core is masked in numpy here, since its
own kernels want a compiler or numba; its index is what takes the time.
"""

# ruff: noqa: D102  # one shape for five ways
from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import llguidance
import llguidance.hf
import llguidance.numpy
import numpy as np
import outlines_core
import torch
import xgrammar
import xgrammar.contrib.hf
from transformers import LogitsProcessor, PrefixConstrainedLogitsProcessor

from moma_core.agents.data import read_agents, read_queries
from moma_core.decoding.mask import NameMask
from moma_core.decoding.trie import Eligibility, NameTrie

DATA = Path(os.environ.get("MOMA_DATA", "../shared/data"))
DESCRIBED = 100
PROMPT = 3  # tokens before the name where one step is timed
Step = Callable[[torch.Tensor, torch.Tensor], object]


class World:
    """N names with their cached tokens, prompts, and what the engines prepare once."""

    def __init__(self, n: int, tokenizer: Any, vocabulary: int) -> None:
        cards = read_agents(DATA / "metatool_agents.parquet")
        texts = read_queries(DATA / "metatool_queries.parquet").texts
        self.queries = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:64]]
        for more in ("sealtools", "lobe"):
            cards = [*cards, *read_agents(DATA / f"{more}_agents.parquet")]
        about = {card.name: card.description for card in cards}
        names = list(about) + [f"{name}_{i}" for i in (2, 3, 4) for name in about]
        self.names, self.end, self.vocabulary = names[:n], tokenizer.eos_token_id, vocabulary
        self.tokens = tokenizer(self.names, add_special_tokens=False)["input_ids"]
        self.tokenizer = tokenizer
        shown = self.names[:DESCRIBED]
        self.system = "Reply with the name of the one agent that fits the request.\n" + "\n".join(
            f"{name}: {' '.join(about[name].split()[:10])}" for name in shown
        )
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary)
        self.xgrammar = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self.llguidance = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary)
        spelled: dict[bytes, list[int]] = {}
        for token in set(range(len(tokenizer))) - set(tokenizer.all_special_ids):
            spelled.setdefault(self.llguidance.decode_bytes([token]), []).append(token)
        self.outlines = outlines_core.Vocabulary(self.end, spelled)

    def prompt(self, query: str) -> list[int]:
        """Return the whole prompt's token ids."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "system", "content": self.system}, {"role": "user", "content": query}],
            add_generation_prompt=True,
            tokenize=False,
        )
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


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


class OutlinesCore:
    """outlines-core's index of the alternation, and its guide."""

    def __init__(self, world: Any) -> None:
        self.index = outlines_core.Index(
            "|".join(re.escape(name) for name in world.names), world.outlines
        )
        self.bits = np.zeros((world.vocabulary + 31) // 32, dtype=np.int32)

    def stepper(self) -> Step:
        guide, bits = outlines_core.Guide(self.index), self.bits

        def step(_: torch.Tensor, scores: torch.Tensor) -> None:
            guide.write_mask_into(bits.ctypes.data, bits.size, bits.itemsize)
            allowed = np.unpackbits(bits.view(np.uint8), bitorder="little")[: scores.shape[1]]
            scores.numpy()[:, allowed == 0] = -np.inf

        return step


WAYS = {
    "moma": Moma,
    "prefix function": PrefixFunction,
    "xgrammar": XGrammar,
    "llguidance": LLGuidance,
}
