"""Scores, searches, packing, lists and prefixes with a tiny random LLM, against plain forwards."""

from __future__ import annotations

from threading import Barrier, Thread

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from moma_core import InvalidInputError, NoTargetError
from moma_core.decoding.generate import ordered_names, run, top_k, top_k_packed
from moma_core.decoding.prefix import KvPrefix, PrefixCache
from moma_core.decoding.search import BestFirst, NamePath, masked_scores, score_names
from moma_core.decoding.tree import HeadRows, TokenTree, WholeLogits, readout_of
from moma_core.decoding.trie import Eligibility, NamePrior, NameTrie
from moma_core.errors import ScoreError

END = 0
VOCABULARY = 48


@pytest.fixture(scope="module")
def llm(tiny):
    return tiny()


def logits_after(llm, tokens):
    with torch.no_grad():
        return llm(torch.tensor([tokens])).logits[0].double().numpy()


def exhaustive(llm, trie, prompt, eligible, prior=None):
    """Log probabilities of names, one plain forward each: the LLM's own, and masked decoding's."""
    own, masked = np.full((2, len(trie)), -np.inf)
    for name in eligible.names():
        tokens = trie.tokens_of(name)
        logits = logits_after(llm, [*prompt, *tokens])[len(prompt) - 1 :]
        own_sum = masked_sum = 0.0
        node = 0
        for row, token in zip(logits, tokens, strict=False):
            children = eligible.live(node)
            shares = row[trie.token[children]]
            if prior is not None:
                shares = shares + prior.shares(eligible.counts, children)
            node = trie.child(node, token)
            at = children.tolist().index(node)
            masked_sum += shares[at] - np.logaddexp.reduce(shares)
            own_sum += row[token] - np.logaddexp.reduce(row)
        own[trie.place(name)], masked[trie.place(name)] = own_sum, masked_sum
    return own, masked


def world(rng, n_most=25):
    """A random trie, who is eligible, a prompt and a prior."""
    alphabet = int(rng.integers(3, 12))
    drawn = {
        tuple(rng.integers(1, alphabet, rng.integers(1, 6)).tolist())
        for _ in range(rng.integers(1, n_most))
    }
    trie = NameTrie(sorted(drawn), END)
    eligible = Eligibility(trie)
    chosen = rng.random(len(trie)) < 0.7
    chosen[rng.integers(len(trie))] = True
    eligible.only_where(chosen)
    prompt = rng.integers(1, VOCABULARY, rng.integers(2, 9)).tolist()
    return trie, eligible, prompt, NamePrior(trie, rng.normal(size=len(trie)) * 2)


def close(got, expected):
    """Tell whether log probabilities are equal to 1e-3, -inf at the same places."""
    got, expected = np.asarray(got), np.asarray(expected)
    known = np.isfinite(expected)
    same = bool((np.isfinite(got) == known).all())
    return same and bool(np.abs(got[known] - expected[known]).max() < 1e-3)


@pytest.mark.parametrize("seed", range(25))
def test_all_ways_agree_with_exhaustive_scoring(llm, seed):
    rng = np.random.default_rng(seed)
    trie, eligible, prompt, prior = world(rng)
    prior = prior if seed % 2 else None
    own, masked = exhaustive(llm, trie, prompt, eligible, prior)
    prefix = KvPrefix.encode(llm, prompt[:1]) if seed % 3 else None
    rest = prompt[1:] if prefix else prompt
    scores = score_names(llm, trie, rest, eligible, prefix=prefix)
    assert close(scores.log_probs, own)
    assert np.exp(scores.among_eligible).sum() == pytest.approx(1)
    assert scores.forwards == 1
    shared = masked_scores(llm, trie, rest, eligible, prefix=prefix, prior=prior)
    assert close(shared.log_probs, masked)
    assert np.exp(shared.log_probs).sum() == pytest.approx(1, abs=1e-4)
    best = np.sort(masked)[::-1][:3]
    found = top_k(llm, trie, rest, eligible, k=3, prefix=prefix, prior=prior)
    assert close(found.log_probs, best[np.isfinite(best)])
    assert set(found.names) <= set(eligible.names())


def test_a_large_trie_after_a_long_prompt(llm):
    """Fed in portions, and after a prompt encoded first."""
    rng = np.random.default_rng(5)
    trie = NameTrie(np.unique(rng.integers(1, VOCABULARY, (600, 4)), axis=0).tolist(), END)
    prompt = rng.integers(1, VOCABULARY, 600).tolist()
    scores = score_names(llm, trie, prompt)
    assert scores.forwards > 1
    few = Eligibility(trie, trie.names[::40])
    own, masked = exhaustive(llm, trie, prompt, few)
    known = np.isfinite(own)
    assert close(scores.log_probs[known], own[known])
    assert close(masked_scores(llm, trie, prompt, few).log_probs, masked)
    assert close(
        top_k(llm, trie, prompt).log_probs, [masked_scores(llm, trie, prompt).log_probs.max()]
    )


def test_forwards_are_the_live_branchings_on_the_way(llm):
    trie = NameTrie([[5, 6, 7], [5, 6, 8], [5, 9, 9, 9], [4]], END)
    eligible = Eligibility(trie)
    assert top_k(llm, trie, [3], eligible, k=4).forwards == 3  # root, 5, 5 6
    eligible.disable("3")
    eligible.disable("2")
    one = top_k(llm, trie, [3], eligible)
    assert one.forwards == 1  # 5 6 is forced, fed with the prompt
    eligible.disable("0")
    assert top_k(llm, trie, [3], eligible) == top_k(llm, trie, [9], eligible)
    assert top_k(llm, trie, [3], eligible).forwards == 0  # nothing to choose


def test_prior_decides_what_the_llm_leaves_open(llm):
    trie = NameTrie([[5, 6], [5, 7], [4]], END)
    for i in range(3):
        sure = NamePrior(trie, np.where(np.arange(3) == i, 0.0, -60.0))
        assert top_k(llm, trie, [3], prior=sure).names == (str(i),)


def test_packed_queries_get_what_each_gets_alone(llm):
    rng = np.random.default_rng(1)
    trie, _, _, _ = world(rng)
    prefix = KvPrefix.encode(llm, [7, 8, 9])
    prompts = [rng.integers(1, VOCABULARY, rng.integers(1, 7)).tolist() for _ in range(6)]
    eligible = [Eligibility(trie, [name]) for name in trie.names[:3]]
    eligible += [Eligibility(trie) for _ in range(3)]
    priors = [NamePrior(trie, rng.normal(size=len(trie))) for _ in prompts]
    together = top_k_packed(llm, trie, prompts, eligible, k=3, prefix=prefix, priors=priors)
    for got, prompt, allowed, prior in zip(together, prompts, eligible, priors, strict=True):
        alone = top_k(llm, trie, prompt, allowed, k=3, prefix=prefix, prior=prior)
        assert got.names == alone.names
        assert got.forwards == alone.forwards
        assert close(got.log_probs, alone.log_probs)


def test_packing_shares_forwards(llm):
    trie = NameTrie([[5, 6], [5, 7], [4]], END)
    tree = TokenTree(llm)
    run(tree, [BestFirst(NamePath(trie, Eligibility(trie).counts, [i]), 3) for i in range(1, 9)])
    assert tree.forwards == 2  # of 16 alone


def test_ordered_lists_mask_what_was_chosen(llm):
    rng = np.random.default_rng(2)
    comma = [VOCABULARY - 1]
    for _ in range(10):
        trie, eligible, prompt, prior = world(rng, 8)
        got = ordered_names(llm, trie, prompt, comma, eligible, at_most=9, at_least=9, prior=prior)
        assert sorted(got.names) == sorted(eligible.names())  # each once
        left = eligible.copy()
        text = list(prompt)
        for name, log_prob in zip(got.names, got.log_probs, strict=True):
            expected = exhaustive_list_step(llm, trie, text, left, prior, comma[0])
            assert name == max(expected, key=expected.get)
            assert log_prob == pytest.approx(expected[name], abs=1e-3)
            left.disable(name)
            text += [*trie.tokens_of(name)[:-1], *comma]


def exhaustive_list_step(llm, trie, prompt, eligible, prior, comma):
    """Log probability of each name next in a list, where a comma too may end it."""
    result = {}
    for name in eligible.names():
        logits = logits_after(llm, [*prompt, *trie.tokens_of(name)])[len(prompt) - 1 :]
        node = 0
        result[name] = 0.0
        for row, token in zip(logits, trie.tokens_of(name), strict=False):
            row = row.copy()
            row[END] = np.logaddexp(row[END], row[comma])
            children = eligible.live(node)
            shares = row[trie.token[children]] + prior.shares(eligible.counts, children)
            node = trie.child(node, token)
            at = children.tolist().index(node)
            result[name] += shares[at] - np.logaddexp.reduce(shares)
    return result


def test_an_ordered_list_ends_where_the_llm_ends_it(llm):
    trie = NameTrie([[a, b] for a in (5, 6, 7) for b in (8, 9)] + [[5]], END)
    lengths = set()
    for prompt in range(1, 30):
        got = ordered_names(llm, trie, [prompt], [2], at_most=4)
        lengths.add(len(got.names))
        text = [prompt]
        for i, name in enumerate(got.names):
            text += trie.tokens_of(name)[:-1]
            last = logits_after(llm, text)[-1]
            if i + 1 < 4:
                assert (last[END] >= last[2]) == (i + 1 == len(got.names))
            text.append(2)
    assert len(lengths) > 1


@pytest.mark.parametrize(
    ("config", "readout"),
    [
        (transformers.LlamaConfig, HeadRows),
        (transformers.GraniteConfig, WholeLogits),  # scales its logits
        (transformers.GemmaConfig, HeadRows),
        (transformers.Qwen3Config, HeadRows),
    ],
)
def test_other_llms(tiny, config, readout):
    changes = {"logits_scaling": 3.0} if config is transformers.GraniteConfig else {}
    llm = tiny(config, **changes)
    assert isinstance(readout_of(llm), readout)
    trie, eligible, prompt, _ = world(np.random.default_rng(8))
    own, masked = exhaustive(llm, trie, prompt, eligible)
    assert close(score_names(llm, trie, prompt, eligible).log_probs, own)
    assert close(top_k(llm, trie, prompt, eligible).log_probs, [masked.max()])


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (transformers.MistralConfig, {"sliding_window": 4}),
        (transformers.BloomConfig, {"n_head": 4}),  # places by the mask, not by position_ids
        (transformers.MambaConfig, {}),
    ],
)
def test_an_llm_that_cannot_attend_along_a_tree_is_refused(tiny, config, changes):
    llm = tiny(config, **changes)
    with pytest.raises(InvalidInputError, match="NameMask"):
        top_k(llm, NameTrie([[1], [2]], END), [3])


def test_refusals(llm):
    trie = NameTrie([[1], [2]], END)
    with pytest.raises(InvalidInputError, match="k of at least 1"):
        top_k(llm, trie, [3], k=0)
    with pytest.raises(InvalidInputError, match="at least one token"):
        score_names(llm, trie, [])
    with pytest.raises(InvalidInputError, match="another trie"):
        masked_scores(llm, trie, [3], Eligibility(NameTrie([[1]], END)))
    with pytest.raises(NoTargetError):
        top_k(llm, trie, [3], Eligibility(trie, []))
    with pytest.raises(InvalidInputError, match="each of 2 queries"):
        top_k_packed(llm, trie, [[3], [4]], [Eligibility(trie)])
    with pytest.raises(InvalidInputError, match="separator"):
        ordered_names(llm, trie, [3], [END], at_most=2)
    with pytest.raises(InvalidInputError, match="at_least"):
        ordered_names(llm, trie, [3], [4], at_most=2, at_least=3)
    with pytest.raises(InvalidInputError, match="prefix"):
        KvPrefix.encode(llm, [])


def test_nan_is_an_error(tiny):
    llm = tiny()
    trie = NameTrie([[1], [2]], END)
    top_k(llm, trie, [3])
    with torch.no_grad():
        llm.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ScoreError, match="NaN"):
        top_k(llm, trie, [3])


# Prefixes


def test_a_prefix_is_not_changed_by_its_use(llm):
    prefix = KvPrefix.encode(llm, [5, 6, 7])
    before = [part.clone() for layer in prefix.layers for part in layer]
    top_k(llm, NameTrie([[1, 2], [1, 3]], END), [3], prefix=prefix)
    KvPrefix.encode(llm, [9], after=prefix)
    after = [part for layer in prefix.layers for part in layer]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert prefix.nbytes == 2 * 2 * 2 * 3 * 8 * 4  # layers, keys and values, heads, tokens, size
    assert len(prefix) == 3


def test_a_prefix_in_pieces_is_the_prefix(llm):
    whole = KvPrefix.encode(llm, range(1, 9))
    pieces = KvPrefix.encode(llm, range(4, 9), after=KvPrefix.encode(llm, [1, 2, 3]))
    assert pieces.tokens == whole.tokens
    for (a, b), (c, d) in zip(whole.layers, pieces.layers, strict=True):
        assert torch.allclose(a, c, atol=1e-5)
        assert torch.allclose(b, d, atol=1e-5)


def test_cache_counts_hits_and_keeps_within_its_bytes(llm):
    size = KvPrefix.encode(llm, [1, 2, 3]).nbytes
    with PrefixCache(llm, 2 * size) as cache:
        first = cache.get([1, 2, 3])
        assert cache.get([1, 2, 3]) is first
        cache.get([4, 5, 6])
        cache.get([1, 2, 3])
        cache.get([7, 8, 9])  # 4 5 6 was used least recently
        counters = cache.counters
        assert (counters.hits, counters.misses, counters.dropped) == (2, 3, 1)
        assert (counters.entries, counters.nbytes) == (2, 2 * size)
        assert (counters.tokens_saved, counters.bytes_saved) == (6, 2 * size)
        assert cache.longest([4, 5, 6, 1]) is None
        assert cache.longest([1, 2, 3, 1]) is first
        assert cache.longest([1, 2, 3]) is None  # the prompt keeps a token of its own
        assert len(cache.get(range(1, 40))) == 39  # too large to keep
        assert cache.counters.nbytes <= 2 * size


def test_a_changed_card_is_another_key(llm):
    with PrefixCache(llm, 10**6) as cache:
        old = cache.get([1, 2, 3], owner="travel")
        cache.get([1, 2, 3], owner="trips")
        cache.discard("trips")
        assert cache.get([1, 2, 3], owner="trips") is old  # travel has it
        new = cache.get([1, 2, 4], owner="travel")
        assert new.tokens == (1, 2, 4)
        assert cache.get([1, 2, 3]) is old  # trips still has it
        cache.discard("trips")
        assert cache.longest([1, 2, 3, 9]) is None
        cache.get([1, 2, 5], owner="travel")
        assert cache.counters.entries == 1


def test_a_held_beginning_is_not_encoded_again(llm):
    with PrefixCache(llm, 10**6) as cache:
        cache.get([1, 2, 3])
        both = cache.get([1, 2, 3, 4, 5])
        assert cache.counters.tokens_saved == 3
        alone = KvPrefix.encode(llm, [1, 2, 3, 4, 5])
        assert torch.allclose(both.layers[1][0], alone.layers[1][0], atol=1e-5)


def test_prefetch_encodes_in_the_background_once(llm):
    with PrefixCache(llm, 10**6) as cache:
        for _ in range(3):
            cache.prefetch([1, 2, 3], owner="travel")
        prefix = cache.get([1, 2, 3])
        assert prefix.tokens == (1, 2, 3)
        counters = cache.counters
        assert counters.prefetched + counters.misses == 1
        with pytest.raises(InvalidInputError):
            cache.prefetch([])
    cache.close()  # twice is fine


def test_what_fails_in_the_background_is_met_by_who_asks(llm):
    with PrefixCache(llm, 10**6) as cache:
        cache.prefetch([10**6])
        cache.prefetch([1, 2])  # the thread lives on
        with pytest.raises(IndexError):
            cache.get([10**6])
        assert len(cache.get([1, 2])) == 2
    with pytest.raises(InvalidInputError, match="max_bytes"):
        PrefixCache(llm, -1)


def test_many_threads_encode_one_prefix_once(llm):
    got = []
    start = Barrier(6)
    with PrefixCache(llm, 10**6) as cache:

        def ask():
            start.wait()
            got.append(cache.get(range(1, 30)))

        threads = [Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cache.counters.misses == 1
        assert cache.counters.hits == 5
    assert all(one is got[0] for one in got)
