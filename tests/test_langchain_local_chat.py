"""LocalChat over a tiny LLM of random weights, and over SmolLM2 where that is installed."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_moma import LocalChat
from moma_core import InvalidInputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from moma_core.decoding.local_llm import LocalLLM, folder_of, is_ready

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CONTEXT = 512
REAL = is_ready(folder_of("smollm2"))


@functools.cache
def smollm2() -> LocalLLM:
    return LocalLLM.load("smollm2")


def tiny(context: int = CONTEXT, template: str | None = TEMPLATE) -> LocalLLM:
    """Return a byte-level LLM of two small layers whose weights are drawn by a fixed seed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"</s>": 0, **{letter: i for i, letter in enumerate(letters, 1)}}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")  # noqa: S106
    tokenizer.chat_template = template
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        eos_token_id=0,
    )
    return LocalLLM("tiny", transformers.LlamaForCausalLM(config).eval(), tokenizer)


TINY = tiny()


def chat(**fields: Any) -> LocalChat:
    return LocalChat(**{"llm": TINY, "max_tokens": 12, **fields})


class Suite:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return LocalChat

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"llm": TINY}


class TestLocalChatUnit(Suite, ChatModelUnitTests):
    pass


class TestTinyIntegration(Suite, ChatModelIntegrationTests):
    """LangChain's suite; random weights give nonsense, but in the right form."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"llm": TINY, "max_tokens": 8}


@pytest.mark.skipif(not REAL, reason="SmolLM2 is not installed: moma local-llm install smollm2")
class TestSmolLM2Integration(Suite, ChatModelIntegrationTests):
    """LangChain's suite with a real LLM."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"llm": smollm2(), "max_tokens": 4}


def reference(llm: LocalLLM, text: str, most: int) -> list[int]:
    """What transformers' own greedy search gives."""
    turns = [{"role": "user", "content": text}]
    prompt = llm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([llm.tokens(prompt)])
    out = llm.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=most,
        do_sample=False,
        pad_token_id=0,
    )
    return out[0, ids.shape[1] :].tolist()


def test_greedy_answers_are_those_of_transformers() -> None:
    for text in ("hello", "what is 2 + 2?", "ünï"):
        expected = reference(TINY, text, 12)
        answer = chat().invoke(text)
        assert answer.text == TINY.tokenizer.decode(expected, skip_special_tokens=True)
        assert answer.usage_metadata["output_tokens"] == len(expected)


def test_usage_counts_prompt_and_answer_once() -> None:
    answer = chat().invoke([("system", "s"), ("human", "hi")])
    assert answer.usage_metadata == {
        "input_tokens": len("<system>s\n<user>hi\n<assistant>"),
        "output_tokens": 12,
        "total_tokens": 30 + 12,
    }
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.response_metadata["model_name"] == "tiny"
    whole = None
    for chunk in chat().stream([("system", "s"), ("human", "hi")]):
        whole = chunk if whole is None else whole + chunk
    assert isinstance(whole, AIMessageChunk)
    assert whole.usage_metadata == answer.usage_metadata
    assert whole.text == answer.text


def test_max_tokens_of_the_call_and_of_the_model() -> None:
    assert chat(max_tokens=3).invoke("hi").usage_metadata["output_tokens"] == 3
    assert chat().invoke("hi", max_tokens=5).usage_metadata["output_tokens"] == 5
    assert chat().bind(max_tokens=2).invoke("hi").usage_metadata["output_tokens"] == 2
    with pytest.raises(InvalidInputError, match="max_tokens is 1 or more, got 0"):
        chat().invoke("hi", max_tokens=0)


def test_an_answer_ends_before_a_stop_text_and_never_shows_its_beginning() -> None:
    whole = chat().invoke("hello").text
    stop = whole[4:7]
    assert len(stop) == 3
    answer = chat().invoke("hello", stop=[stop, "never there"])
    assert answer.text == whole[: whole.index(stop)]
    assert answer.response_metadata["finish_reason"] == "stop"
    chunks = [chunk.text for chunk in chat(stop=[stop]).stream("hello")]
    assert "".join(chunks) == answer.text
    assert chat(stop=[stop]).invoke("hello", stop=[]).text == whole


def test_what_looked_like_a_stop_text_is_given_back() -> None:
    whole = chat().invoke("hello").text
    almost = whole[2:4] + "\x00"
    assert chat(stop=[almost]).invoke("hello").text == whole
    assert "".join(chunk.text for chunk in chat(stop=[almost]).stream("hello")) == whole


def test_an_end_token_ends_the_answer() -> None:
    llm = tiny()
    with torch.no_grad():
        llm.model.lm_head.weight[0] = 0.0
        llm.model.generation_config.eos_token_id = [0, reference(TINY, "hello", 3)[2]]
    answer = LocalChat(llm=llm).invoke("hello")
    assert answer.usage_metadata["output_tokens"] == 3
    assert answer.response_metadata["finish_reason"] == "stop"


def test_temperature_varies_and_a_seed_repeats() -> None:
    hot = {"temperature": 5.0}
    assert len({chat(**hot, seed=i).invoke("hello").text for i in range(5)}) > 1
    assert chat(**hot, seed=1).invoke("hello").text == chat(**hot, seed=1).invoke("hello").text
    with pytest.raises(InvalidInputError, match="temperature is 0 or more"):
        chat(temperature=-1).invoke("hello")


def test_letters_of_several_tokens_stream_whole() -> None:
    llm = tiny(template=None)
    ids = llm.tokens("né")
    assert len(ids) == 3
    texts = [llm.tokenizer.decode(ids[:n]) for n in (1, 2, 3)]
    assert texts[1].endswith("\N{REPLACEMENT CHARACTER}"), "the case this test is about"
    for seed in range(3):
        options = {"temperature": 9.0, "seed": seed, "max_tokens": 64}
        whole = LocalChat(llm=llm, **options).invoke("x").text
        parts = [chunk.text for chunk in LocalChat(llm=llm, **options).stream("x")]
        assert "".join(parts) == whole
        assert len([part for part in parts if part]) > 8


def test_an_llm_without_a_template_reads_the_words() -> None:
    answer = LocalChat(llm=tiny(template=None), max_tokens=2).invoke([("human", "abc")])
    assert answer.usage_metadata["input_tokens"] == 3


def test_room_and_content_are_checked() -> None:
    small = LocalChat(llm=tiny(context=64), max_tokens=None)
    answer = small.invoke("hello")
    assert answer.usage_metadata["total_tokens"] <= 64
    with pytest.raises(InvalidInputError, match=r"takes 64.*trim_messages"):
        small.invoke("a" * 99)
    with pytest.raises(InvalidInputError, match="reads text, got 'image_url'"):
        chat().invoke([HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}])])
    assert chat().profile["max_input_tokens"] == CONTEXT
    assert not chat().profile["tool_calling"]


async def test_async_gives_the_same() -> None:
    expected = chat().invoke("hello").text
    assert (await chat().ainvoke("hello")).text == expected
    assert "".join([chunk.text async for chunk in chat().astream("hello")]) == expected
    assert [answer.text for answer in chat().batch(["hello"] * 4)] == [expected] * 4


@pytest.mark.skipif(not REAL, reason="SmolLM2 is not installed: moma local-llm install smollm2")
def test_the_packaged_llm_answers() -> None:
    local = LocalChat(llm=smollm2(), max_tokens=12)
    expected = reference(smollm2(), "What is the capital of France?", 12)
    answer = local.invoke("What is the capital of France?")
    assert "Paris" in answer.text
    assert answer.text == smollm2().tokenizer.decode(expected, skip_special_tokens=True)
    said = [SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Hi!"), HumanMessage("Bye")]
    parts = [chunk.text for chunk in local.stream(said, max_tokens=6)]
    assert len(parts) <= 6
    assert "".join(parts) == local.invoke(said, max_tokens=6).text
