"""LangChain's own suites over ChatMoMA, with local LLMs as the chat models it chooses among.

The LLMs are tiny and their weights drawn by a seed: what they say means nothing, how it comes does.
They call no tools, so the suites' tests of tools and structured output do not apply.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_moma import ChatMoMA
from moma_core import MoMARouter

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from langchain_moma import LocalChat
from moma_core.decoding.local_llm import LocalLLM

NAMES = ("gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06")
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


@functools.cache
def tiny() -> LocalLLM:
    """Return an LLM over bytes with one small layer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"</s>": 0, **{letter: i for i, letter in enumerate(letters, 1)}}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")  # noqa: S106
    tokenizer.chat_template = TEMPLATE
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        num_hidden_layers=1,
        max_position_embeddings=2048,
        eos_token_id=0,
        **sizes,
    )
    return LocalLLM("tiny", transformers.LlamaForCausalLM(config).eval(), tokenizer)


@functools.cache
def router() -> MoMARouter:
    return MoMARouter.from_cards()


class Suite:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMoMA

    @property
    def chat_model_params(self) -> dict[str, Any]:
        llms = {name: LocalChat(llm=tiny(), max_tokens=12) for name in NAMES}
        return {"router": router(), "llms": llms}

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False


class TestLocalUnit(Suite, ChatModelUnitTests):
    pass


class TestLocalIntegration(Suite, ChatModelIntegrationTests):
    pass
