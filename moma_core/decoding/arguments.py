"""Fills in an agent's arguments from a query, or says why it cannot (argument alignment).

Absent rather than wrong: decoding is held to the agent's JSON schema, in which every free text may
only be words of the request and every number only one that occurs in it. A small LLM then decides
*which* words, never makes any up.

The grammar is llguidance's. Of the three libraries weighed, outlines-core builds an automaton a
schema beforehand (25 s for 1,000 names, where llguidance takes 6 ms) and xgrammar compiles over the
whole vocabulary (39-128 ms a grammar); a request's own words make a new schema each time, so the
one that compiles lazily wins. It also refuses keywords that it cannot hold to, instead of ignoring
them, and tells which tokens are forced. Knows one agent and one query; chooses nobody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from moma_core.decoding.local_llm import LocalLLM
from moma_core.decoding.prefix import causal_lm, context_of
from moma_core.decoding.prompts import arguments_prompt
from moma_core.decoding.spans import grounded
from moma_core.errors import InvalidQueryError, MissingExtraError
from moma_core.types import AgentCard

__all__ = ["ArgumentFiller", "Arguments"]

_COMPACT: Any = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}


@dataclass(frozen=True, slots=True)
class Arguments:
    """An agent's argument object, or why there is none.

    Args:
        value: Valid by the agent's schema; None where it could not be filled in.
        reason: Why not; empty where it could.
    """

    value: Mapping[str, Any] | None
    reason: str = ""


class ArgumentFiller:
    """Decodes argument objects with a local LLM, held to each agent's JSON schema.

    Args:
        llm: A local LLM with a fast tokenizer.
        most_tokens: Of an object; a longer one is given up.

    Raises:
        MissingExtraError: llguidance is not installed.
    """

    def __init__(self, llm: LocalLLM, most_tokens: int = 200) -> None:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise MissingExtraError(
                f'arguments need {error.name}. Type: pip install "moma-router[llm]"'
            ) from error
        self._llm = llm
        self._most_tokens = most_tokens
        rows = causal_lm(llm.model).get_input_embeddings().weight.shape[0]
        self._tokenizer = from_tokenizer(llm.tokenizer, n_vocab=rows)

    def fill(self, query: str, card: AgentCard) -> Arguments:
        """Return the arguments of one agent for one query.

        An agent without parameters gets an empty object. None comes with a reason: a required
        parameter of which the request says nothing, a schema that cannot be held to, or an object
        that grew too long.

        Raises:
            InvalidQueryError: The query is not text.
        """
        if not isinstance(query, str):
            raise InvalidQueryError(f"a query is text with words in it, got {query!r:.40}.")
        schema = dict(card.input_schema)
        if schema:
            matcher, reason = self._matcher(schema)  # first of all: whether it is a schema
            if matcher is None:
                return Arguments(None, reason)
        if not schema.get("properties"):
            value: dict[str, Any] = {}
            refused = self._refusal(schema, value) if schema else ""
            return Arguments(None if refused else value, refused)
        narrowed, reason = grounded(
            schema, query, lambda about, text: not self._refusal(about, text)
        )
        if narrowed is None:
            return Arguments(None, reason)
        text, reason = self._decode(query, card, narrowed)
        if text is None:
            return Arguments(None, reason)
        try:
            value = json.loads(text)
        except ValueError as error:
            return Arguments(None, f"the object is no JSON: {error}")
        reason = self._refusal(schema, value)
        return Arguments(None if reason else value, reason)

    def _refusal(self, schema: Mapping[str, Any], value: Any) -> str:
        """Return why a value does not satisfy the agent's own schema; empty where it does."""
        matcher, reason = self._matcher(schema)
        if matcher is None:
            return reason
        text = json.dumps(value, ensure_ascii=False)
        tokens = self._tokenizer.tokenize_str(text)
        if matcher.try_consume_tokens(tokens) != len(tokens) or not matcher.is_accepting():
            return f"{text:.80} does not satisfy the schema"
        return ""

    def _matcher(self, schema: Mapping[str, Any]) -> tuple[Any, str]:
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_json_schema(dict(schema), overrides=_COMPACT)
        except ValueError as error:
            return None, f"the schema cannot be held to: {error!s:.200}"
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            return None, f"the schema cannot be held to: {matcher.get_error():.200}"
        return matcher, ""

    @torch.inference_mode()
    def _decode(
        self, query: str, card: AgentCard, schema: Mapping[str, Any]
    ) -> tuple[str | None, str]:
        """Decode greedily; forced tokens are fed together, in the forward of the choice."""
        matcher, reason = self._matcher(schema)
        if matcher is None:
            return None, reason
        lm = causal_lm(self._llm.model)
        cache = DynamicCache(config=lm.config)
        fed = self._llm.prompt(self._llm.chat(arguments_prompt(query, card)))
        room = context_of(lm) - len(fed)
        if room < self._most_tokens:
            return None, f"the request is too long for {type(lm).__name__} to read"
        made: list[int] = []
        while len(made) < self._most_tokens:
            forced = matcher.compute_ff_tokens()
            if forced:
                if not matcher.consume_tokens(forced):
                    return None, matcher.get_error()
                made += forced
                fed = [*fed, *forced]
            if matcher.is_stopped():
                break
            logits = _next_logits(lm, cache, fed)
            token = _best_allowed(logits, matcher.compute_bitmask())
            if token == self._tokenizer.eos_token:
                break
            if not matcher.consume_token(token):
                return None, matcher.get_error()
            made.append(token)
            fed = [token]
        if not matcher.is_accepting():
            return None, f"no whole object within {self._most_tokens} tokens"
        return self._tokenizer.decode_str(made), ""


def _next_logits(lm: Any, cache: DynamicCache, tokens: Sequence[int]) -> torch.Tensor:
    """Feed tokens after those of the cache; return the logits of what comes next, (vocabulary,)."""
    begin = cache.get_seq_length()
    places = torch.arange(begin, begin + len(tokens), device=lm.device)[None]
    out = lm(
        input_ids=torch.tensor([list(tokens)], device=lm.device),
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: torch.Tensor = out.logits[0, -1].float()
    return logits


def _best_allowed(logits: torch.Tensor, bitmask: bytes) -> int:
    """Return the most probable token whose bit is set."""
    bits = np.unpackbits(np.frombuffer(bitmask, dtype=np.uint8), bitorder="little")
    scores = logits.cpu().numpy()
    allowed = bits[: scores.size].astype(bool)
    allowed = np.pad(allowed, (0, scores.size - allowed.size))
    return int(np.where(allowed, scores, -np.inf).argmax())
