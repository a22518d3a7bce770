"""Fills in an agent's arguments from a query, or says why it cannot (argument alignment)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from moma_core._checks import parse_json
from moma_core.decoding.evidence import arguments_prompt
from moma_core.decoding.local_llm import LocalLLM
from moma_core.decoding.prefix import causal_lm, context_of
from moma_core.errors import InvalidQueryError, MissingExtraError
from moma_core.types import AgentCard

__all__ = [
    "Accepts",
    "ArgumentFiller",
    "Arguments",
    "grounded",
    "numbers_in",
    "spans_in",
]

Accepts = Callable[[Mapping[str, Any], str], bool]
"""Whether a text satisfies a schema; asked for those with a pattern or a format."""


_INFINITE = float("inf")
_LONGEST = 8  # words of a span, beyond which only the whole request is offered
_MOST_WORDS = 80  # of a request that are looked at
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w]|\.\d)")
_WORD = re.compile(r"[^\W_]+")
_UNTOUCHED = ("enum", "const", "$ref", "anyOf", "oneOf", "allOf")


def grounded(
    schema: Mapping[str, Any], query: str, accepts: Accepts = lambda _schema, _text: True
) -> tuple[dict[str, Any] | None, str]:
    """Return an object schema whose values can only come from a query, or None and why.

    Args:
        schema: Of an object; its texts, numbers, lists of those and objects of those are narrowed.
            Enumerations stay, if the query has a word of theirs or there is nothing to choose.
        query: The user's words.
        accepts: Says whether a word keeps to a pattern or a format.

    Example:
        >>> schema = {"type": "object", "required": ["days"],
        ...           "properties": {"days": {"type": "integer"}, "city": {"type": "string"}}}
        >>> grounded(schema, "rain in Oslo for 3 days?")[0]["properties"]["days"]
        {'enum': [3]}
        >>> grounded(schema, "rain in Oslo?")
        (None, "the request says nothing of 'days'")
    """
    properties = schema.get("properties", {})
    required = list(schema.get("required", ()))
    kept: dict[str, Any] = {}
    for name, about in properties.items():
        narrowed = _narrowed(about, query, accepts) if isinstance(about, Mapping) else None
        if narrowed is not None:
            kept[name] = narrowed
        elif name in required:
            return None, f"the request says nothing of {name!r}"
    unknown = [name for name in required if name not in properties]
    if unknown:
        return None, f"the schema requires {unknown[0]!r} and does not say what it is"
    rest = {key: value for key, value in schema.items() if key in ("$defs", "definitions")}
    made = {"type": "object", "properties": kept, "additionalProperties": False, **rest}
    return {**made, "required": [name for name in kept if name in required]}, ""


def spans_in(query: str) -> list[str]:
    """Return every run of a few words of a query, without the punctuation around it.

    Example:
        >>> spans_in("rain in Oslo?")
        ['rain', 'rain in', 'rain in Oslo', 'in', 'in Oslo', 'Oslo']
    """
    words = query.split()[:_MOST_WORDS]
    spans: dict[str, None] = {}
    for start in range(len(words)):
        for end in range(start + 1, min(start + _LONGEST, len(words)) + 1):
            span = " ".join(words[start:end]).strip(" .,;:!?\"'()[]")
            if span:
                spans[span] = None
    whole = " ".join(query.split())
    return [*spans, *([whole] if len(words) > _LONGEST else [])]


def numbers_in(query: str) -> list[int | float]:
    """Return the numbers that a query has in digits or, up to twelve, in words.

    Example:
        >>> numbers_in("two tickets at 12.50, row 7")
        [2, 12.5, 7]
    """
    found: list[int | float] = []
    for token in query.split():
        bare = token.strip(".,;:!?\"'()[]$€£%").lower()
        if bare in _NUMBER_WORDS:
            found.append(_NUMBER_WORDS.index(bare))
        elif match := _NUMBER.fullmatch(bare):
            text = match.group()
            found.append(float(text) if "." in text else int(text))
    return list(dict.fromkeys(found))


def _narrowed(about: Mapping[str, Any], query: str, accepts: Accepts) -> dict[str, Any] | None:
    """Return the schema of a value that the query speaks of, or None."""
    if any(key in about for key in _UNTOUCHED):
        return _listed(about, query)
    match about.get("type"):
        case "string":
            spans = [span for span in spans_in(query) if _fits(span, about, accepts)]
            return {"enum": spans} if spans else None
        case "integer":
            whole = [n for n in numbers_in(query) if isinstance(n, int) and _within(n, about)]
            return {"enum": whole} if whole else None
        case "number":
            some = [n for n in numbers_in(query) if _within(n, about)]
            return {"enum": some} if some else None
        case "array":
            items = about.get("items")
            item = _narrowed(items, query, accepts) if isinstance(items, Mapping) else None
            bounds = {k: about[k] for k in ("minItems", "maxItems") if k in about}
            return None if item is None else {"type": "array", "items": item, **bounds}
        case "object":
            return grounded(about, query, accepts)[0]
    return None  # booleans, nulls and what has no type: nothing in the words to go by


def _listed(about: Mapping[str, Any], query: str) -> dict[str, Any] | None:
    """Return an enumeration narrowed to the values that the query names."""
    if "const" in about:
        return {"const": about["const"]}
    values = about.get("enum")
    if not isinstance(values, list):
        return None
    if len(values) == 1:
        return {"enum": values}
    said = _plain(query)
    named = [value for value in values if _plain(value) in said]
    return {"enum": named} if named else None


def _plain(value: Any) -> str:
    return f" {' '.join(_WORD.findall(str(value).lower()))} "


def _fits(span: str, about: Mapping[str, Any], accepts: Accepts) -> bool:
    if not int(about.get("minLength", 0)) <= len(span) <= int(about.get("maxLength", 10**9)):
        return False
    if not {"pattern", "format"} & about.keys():
        return True
    return len(span.split()) == 1 and accepts(about, span)


def _within(number: float, about: Mapping[str, Any]) -> bool:
    low, high = about.get("minimum", -_INFINITE), about.get("maximum", _INFINITE)
    return bool(low <= number <= high)


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
            value = parse_json(text, any_number=True)
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
