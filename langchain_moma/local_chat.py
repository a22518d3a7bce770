"""A chat model on this machine: a `LocalLLM` of transformers, token by token, with no server.

What needs torch is imported at the first call; extra ``[llm]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, ModelProfile
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessageChunk, BaseMessage, ChatMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field, SkipValidation

from moma_core import InvalidInputError
from moma_core.decoding import LocalLLM

__all__ = [
    "LocalChat",
]

# ruff: noqa: ARG002  # LangChain passes `run_manager` by its name, needed or not


_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class _Token(NamedTuple):
    """One step of generation: the text that became certain, and why it was the last, if so."""

    text: str
    finish: str | None


class LocalChat(BaseChatModel):
    """A chat model that answers with an LLM on this machine; streams, counts tokens, calls no tool.

    Args:
        llm: The LLM and its tokenizer; `LocalChat.load` makes one.
        max_tokens: Most tokens of an answer; also an option of a call.
        temperature: 0 always takes the likeliest token; higher is more varied.
        seed: Makes answers at a temperature the same each time.
        stop: Texts that end an answer and are left out of it.

    Raises:
        InvalidInputError: At a call: the conversation is longer than the LLM's context, holds
            something other than text, or an option is out of bounds.

    Example:
        >>> from moma_core.decoding.local_llm import folder_of, is_ready
        >>> if is_ready(folder_of("smollm2")):  # after: moma local-llm install smollm2
        ...     chat = LocalChat.load("smollm2", max_tokens=8)
        ...     answer = chat.invoke("Say hello.")
        ...     assert answer.usage_metadata["output_tokens"] <= 8
    """

    llm: SkipValidation[LocalLLM] = Field(exclude=True, repr=False)
    max_tokens: int | None = 256
    temperature: float | None = 0.0
    seed: int | None = None
    stop: list[str] | None = Field(default=None, alias="stop_sequences")

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    @classmethod
    def load(cls, source: str | Path = "smollm2", *, device: str = "cpu", **fields: Any) -> Self:
        """Load the LLM, then the chat model around it.

        Args:
            source: A packaged LLM's short name, a folder, or a hub id; see `LocalLLM.load`.
            device: A device of torch, such as ``"cuda"``.
            **fields: Of the chat model.

        Raises:
            ArtifactError: It is not installed, damaged, no causal LLM, or cannot be reached.
            MissingExtraError: The ``[llm]`` extra is not installed.
        """
        return cls(llm=LocalLLM.load(source, device=device), **fields)

    @property
    def model_name(self) -> str:
        """What the LLM was loaded as."""
        return self.llm.name

    @property
    def _llm_type(self) -> str:
        return "moma-local"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        own = ("max_tokens", "temperature", "seed", "stop")
        return {"model_name": self.model_name, **{name: getattr(self, name) for name in own}}

    def _resolve_model_profile(self) -> ModelProfile | None:
        room = self._context
        known = {} if room is None else {"max_input_tokens": room}
        return cast("ModelProfile", {**known, "tool_calling": False, "image_inputs": False})

    @property
    def _context(self) -> int | None:
        return getattr(self.llm.model.config, "max_position_embeddings", None)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        prompt = self._prompt(messages)
        stops = [text for text in (self.stop if stop is None else stop) or () if text]
        most = self._room(len(prompt), kwargs.get("max_tokens", self.max_tokens))
        temperature = kwargs.get("temperature", self.temperature) or 0.0
        if not temperature >= 0:
            raise InvalidInputError(f"temperature is 0 or more, got {temperature!r}.")
        read = len(prompt)  # counted once, with the first chunk
        for token in _tokens(self.llm, prompt, most, temperature, self.seed, stops):
            yield self._chunk(token, read)
            read = 0

    def _chunk(self, token: _Token, read: int) -> ChatGenerationChunk:
        usage = UsageMetadata(input_tokens=read, output_tokens=1, total_tokens=read + 1)
        last: dict[str, Any] = {}
        if token.finish is not None:
            facts = {"model_name": self.model_name, "finish_reason": token.finish}
            last = {"response_metadata": facts, "chunk_position": "last"}
        return ChatGenerationChunk(
            message=AIMessageChunk(content=token.text, usage_metadata=usage, **last)
        )

    def _prompt(self, messages: Sequence[BaseMessage]) -> list[int]:
        tokenizer = self.llm.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            return self.llm.prompt("\n\n".join(_text(message) for message in messages))
        turns = [{"role": _role(message), "content": _text(message)} for message in messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return self.llm.tokens(text)

    def _room(self, read: int, most: int | None) -> int:
        """Return how many tokens an answer may have."""
        if most is not None and most < 1:
            raise InvalidInputError(f"max_tokens is 1 or more, got {most!r}.")
        context = self._context
        if context is None:
            return most or 256
        if read >= context:
            raise InvalidInputError(
                f"the conversation has {read:,} tokens, {self.model_name!r} takes {context:,}. "
                "Leave out earlier turns, for example with trim_messages of langchain_core."
            )
        return min(most or context, context - read)


def _tokens(
    llm: LocalLLM,
    prompt: list[int],
    most: int,
    temperature: float,
    seed: int | None,
    stops: Sequence[str],
) -> Iterator[_Token]:
    """Yield an answer token by token; the last one says ``"stop"`` or ``"length"``."""
    ends = _end_tokens(llm)
    ids: list[int] = []
    sent = 0
    for token in _choices(llm, prompt, temperature, seed):
        ids.append(token)
        ended = token in ends
        text = llm.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
        cut = min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)
        if cut is not None or ended or len(ids) == most:
            whole = text if cut is None else text[:cut]
            finish = "length" if cut is None and not ended else "stop"
            yield _Token(whole[sent:], finish)
            return
        certain = len(text) - _uncertain(text, stops)
        yield _Token(text[sent:certain], None)
        sent = max(sent, certain)


def _choices(
    llm: LocalLLM, prompt: list[int], temperature: float, seed: int | None
) -> Iterator[int]:
    """Yield token after token, without end; the keys and values of those before are kept."""
    import torch

    generator = torch.Generator()
    if seed is not None:
        generator.manual_seed(seed)
    else:
        generator.seed()
    device, given, cache = llm.model.device, prompt, None
    while True:
        with torch.inference_mode():
            ids = torch.tensor([given], device=device)  # (1, n), later (1, 1)
            out = llm.model(input_ids=ids, past_key_values=cache, use_cache=True)
            logits = out.logits[0, -1].float().cpu()  # (V,)
            if temperature > 0:
                probabilities = torch.softmax(logits / temperature, dim=-1)
                token = int(torch.multinomial(probabilities, 1, generator=generator))
            else:
                token = int(logits.argmax())
        given, cache = [token], out.past_key_values
        yield token


def _end_tokens(llm: LocalLLM) -> frozenset[int]:
    """Return every token that ends an answer, by the LLM's own settings and its tokenizer's."""
    own = getattr(llm.model.generation_config, "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    return frozenset(i for i in (*listed, llm.tokenizer.eos_token_id) if i is not None)


def _uncertain(text: str, stops: Sequence[str]) -> int:
    """Return how many characters at the end may still change or turn out to be a stop's start."""
    broken = len(text) - len(text.rstrip(_UNFINISHED))
    starts = (
        n
        for stop in stops
        for n in range(1, min(len(stop), len(text)) + 1)
        if text[-n:] == stop[:n]
    )
    return max(broken, max(starts, default=0))


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    return _ROLES.get(message.type, "user")


def _text(message: BaseMessage) -> str:
    blocks = [] if isinstance(message.content, str) else message.content
    for block in blocks:
        if isinstance(block, dict) and block.get("type") not in ("text", "reasoning", "tool_use"):
            raise InvalidInputError(
                f"a local LLM reads text, got {block.get('type')!r} in a {message.type} message. "
                "Leave it out, or ask an LLM whose profile says that it takes it."
            )
    return str(message.text)
