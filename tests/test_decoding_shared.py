"""Attention to a shared prefix apart from what follows it, against plain forwards."""

from __future__ import annotations

from threading import Thread

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from moma_core.decoding.generate import top_k, top_k_packed
from moma_core.decoding.prefix import KvPrefix, PrefixCache
from moma_core.decoding.search import masked_scores
from moma_core.decoding.tree import (
    SharedPrefix,
    TokenTree,
    attends_apart,
    attends_apart_exactly,
    let_attend_apart,
)
from moma_core.decoding.trie import NameTrie

END = 0
VOCABULARY = 48


@pytest.fixture(scope="module")
def apart(tiny):
    llm = tiny()
    let_attend_apart(llm)
    return llm


def names(rng, n=40):
    drawn = rng.integers(1, 12, (n, 4))
    return NameTrie(np.unique(drawn, axis=0).tolist(), END)


@pytest.mark.parametrize("lengths", [[3], [1, 5, 2], [40] * 9])
def test_answers_are_those_of_plain_attention(tiny, apart, lengths):
    """The last are more tokens than one block of attention holds."""
    rng = np.random.default_rng(len(lengths))
    trie, plain = names(rng), tiny()
    assert attends_apart_exactly(apart)
    assert not attends_apart_exactly(plain)
    start = rng.integers(1, VOCABULARY, 70).tolist()
    prompts = [rng.integers(1, VOCABULARY, n).tolist() for n in lengths]
    prefix = KvPrefix.encode(apart, start)
    got = top_k_packed(apart, trie, prompts, k=3, prefix=prefix)
    for found, prompt in zip(got, prompts, strict=True):
        expected = top_k(plain, trie, [*start, *prompt], k=3)
        assert found.names == expected.names
        assert found.log_probs == pytest.approx(expected.log_probs, abs=1e-3)
    everyone = masked_scores(apart, trie, prompts[0], prefix=prefix).log_probs
    whole = masked_scores(plain, trie, [*start, *prompts[0]]).log_probs
    assert everyone == pytest.approx(whole, abs=1e-3)


def test_a_prefix_is_neither_copied_nor_grown(apart):
    prefix = KvPrefix.encode(apart, [3, 4, 5])
    tree = TokenTree(apart, prefix)
    tree.feed_chain([6, 7])
    assert tree._cache.get_seq_length() == 2  # the prefix lies elsewhere
    tree.cut(1)
    again = tree.feed_chain([7], parent=0)
    with torch.no_grad():
        logits = apart(torch.tensor([[3, 4, 5, 6, 7]])).logits[0, -1]
    assert torch.allclose(tree.readout.whole(again)[0], logits, atol=1e-4)
    assert len(prefix) == prefix.layers[0][0].shape[2] == 3


def test_generate_is_as_before(tiny, apart):
    ids = torch.tensor([[0, 5, 6], [7, 8, 9]])
    seen = torch.tensor([[0, 1, 1], [1, 1, 1]])
    options = {"attention_mask": seen, "max_new_tokens": 5, "do_sample": False, "num_beams": 2}
    assert torch.equal(apart.generate(ids, **options), tiny().generate(ids, **options))


@pytest.mark.parametrize("config", [transformers.GraniteConfig, transformers.Qwen3Config])
def test_other_llms_attend_apart(tiny, config):
    llm, plain = tiny(config), tiny(config)
    let_attend_apart(llm)
    assert attends_apart_exactly(llm)
    trie = names(np.random.default_rng(3))
    found = top_k(llm, trie, [9, 2], prefix=KvPrefix.encode(llm, [3, 4, 5]))
    expected = top_k(plain, trie, [3, 4, 5, 9, 2])
    assert found.names == expected.names
    assert found.log_probs == pytest.approx(expected.log_probs, abs=1e-3)


def test_an_llm_with_attention_of_its_own_keeps_it(tiny):
    llm = tiny(attn_implementation="eager")
    let_attend_apart(llm)
    assert not attends_apart(llm)
    assert llm.config._attn_implementation == "eager"
    trie = names(np.random.default_rng(4))
    assert top_k(llm, trie, [9], prefix=KvPrefix.encode(llm, [3])).names


def test_bfloat16_attends_apart(tiny):
    llm = tiny(dtype=torch.bfloat16)
    let_attend_apart(llm)
    assert attends_apart_exactly(llm)
    prefix = KvPrefix.encode(llm, [3, 4, 5])
    assert len(top_k(llm, names(np.random.default_rng(4)), [9], k=2, prefix=prefix).names) == 2


def test_blocks_cover_what_is_seen():
    rng = np.random.default_rng(0)
    sees = rng.random((300, 400)) < 0.01
    sees[np.arange(300), 100 + np.arange(300)] = True  # itself
    blocks = SharedPrefix.seen((), sees).blocks
    covered = np.zeros_like(sees)
    for rows, columns in blocks:
        covered[rows, columns] = True
    assert len(blocks) > 1
    assert (covered | ~sees).all()


def test_a_cache_forgets_what_another_precision_computed(tiny):
    llm = tiny()
    with PrefixCache(llm, max_bytes=1 << 20) as cache:
        cache.get([3, 4, 5], owner="a")
        llm.to(torch.bfloat16)
        assert cache.longest([3, 4, 5, 6]) is None
        assert cache.get([3, 4, 5], owner="a").layers[0][0].dtype == torch.bfloat16
        assert cache.counters.entries == 1


def test_threads_share_one_llm_and_one_prefix(apart):
    rng = np.random.default_rng(6)
    trie = names(rng)
    prefix = KvPrefix.encode(apart, rng.integers(1, VOCABULARY, 50).tolist())
    prompts = [rng.integers(1, VOCABULARY, 6).tolist() for _ in range(12)]
    expected = [top_k(apart, trie, prompt, prefix=prefix).names for prompt in prompts]
    got: list[tuple[str, ...] | None] = [None] * len(prompts)

    def ask(i):
        got[i] = top_k(apart, trie, prompts[i], prefix=prefix).names

    threads = [Thread(target=ask, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == expected
