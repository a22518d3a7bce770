"""The mask and the hook inside transformers' own `generate`, with a tiny random LLM."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from moma_core import InvalidInputError, NoTargetError
from moma_core.decoding.generate import NameChoices, choose_name, top_k
from moma_core.decoding.mask import NameMask
from moma_core.decoding.prefix import PrefixCache
from moma_core.decoding.search import masked_scores
from moma_core.decoding.trie import Eligibility, NamePrior, NameTrie
from moma_core.errors import ScoreError

END, PAD = 0, 1
VOCABULARY = 64


@pytest.fixture(scope="module")
def llm():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=2,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    return transformers.LlamaForCausalLM(config).eval()


class Switcher(transformers.LogitsProcessor):
    """Switches a random agent after every step and remembers who was eligible in which step."""

    def __init__(self, eligible, rng):
        self.eligible, self.rng = eligible, rng
        self.by_step = []

    def __call__(self, input_ids, scores):
        self.by_step.append([set(one.names()) for one in self.eligible])
        for one in self.eligible:
            if self.rng.random() < 0.3:
                name = one.trie.names[self.rng.integers(len(one.trie))]
                (one.disable if name in one else one.enable)(name)
        return scores


def drawn_trie(rng):
    alphabet = int(rng.integers(4, VOCABULARY))
    drawn = {
        tuple(rng.integers(2, alphabet, rng.integers(1, 6)).tolist())
        for _ in range(rng.integers(1, 40))
    }
    return NameTrie(sorted(drawn), END)


def drawn_eligible(trie, rng):
    chosen = rng.random(len(trie)) < rng.random()
    chosen[rng.integers(len(trie))] = True
    eligible = Eligibility(trie)
    eligible.only_where(chosen)
    return eligible


def padded(rng, rows):
    """Prompts of unlike lengths, padded on the left, with their attention mask."""
    lengths = rng.integers(1, 7, rows)
    ids = torch.full((rows, int(lengths.max())), PAD)
    for row, length in enumerate(lengths):
        ids[row, -length:] = torch.from_numpy(rng.integers(2, VOCABULARY, length))
    return ids, (torch.arange(ids.shape[1]) >= ids.shape[1] - torch.tensor(lengths)[:, None]).long()


def choose(llm, ids, trie, **options):
    """Generate with the hook; `generate` warns where no length is given."""
    return llm.generate(
        ids, custom_generate=choose_name, trie=trie, max_new_tokens=trie.length, **options
    )


MODES = {
    "greedy": {},
    "sampled": {"do_sample": True, "temperature": 1.7, "top_k": 0},
    "top-p": {"do_sample": True, "top_p": 0.6, "top_k": 5},
    "beams": {"num_beams": 3},
    "several": {"do_sample": True, "num_return_sequences": 2},
}


def fuzz_once(llm, mode, seed, rows=8):
    """Decode a batch under changing eligibility; return names given and whether all were right."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    trie = drawn_trie(rng)
    eligible = [drawn_eligible(trie, rng) for _ in range(rows)]
    ids, attention = padded(rng, rows)
    switcher = Switcher(eligible, rng)
    options = MODES[mode]
    mask = NameMask(trie, eligible, ids.shape[1], num_beams=options.get("num_beams", 1))
    try:
        out = llm.generate(
            ids,
            attention_mask=attention,
            logits_processor=[mask, switcher],
            max_new_tokens=trie.length,
            **options,
        )
    except NoTargetError:
        return 0, []  # switched off in the middle: said so, and nothing was named
    tails = out[:, ids.shape[1] :].tolist()
    each = len(tails) // rows
    wrong = []
    for i, tail in enumerate(tails):
        name = trie.match(tail)
        step = tail.index(END) if END in tail else None
        if name is None or name not in switcher.by_step[step][i // each]:
            wrong.append((mode, seed, i, tail, name))
    return len(tails), wrong


@pytest.mark.parametrize("mode", MODES)
def test_no_name_outside_the_eligible_set(llm, mode):
    decodes = 0
    seed = 0
    while decodes < 300:
        given_names, wrong = fuzz_once(llm, mode, seed)
        assert not wrong
        decodes += given_names
        seed += 1


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(MODES)))
def test_no_name_outside_the_eligible_set_anywhere(llm, seed, mode):
    assert not fuzz_once(llm, mode, seed, rows=3)[1]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_the_hook_finds_what_exhaustive_scoring_finds(llm, seed):
    rng = np.random.default_rng(seed)
    trie = drawn_trie(rng)
    eligible = [drawn_eligible(trie, rng) for _ in range(4)]
    priors = [NamePrior(trie, rng.normal(size=len(trie))) for _ in eligible]
    ids, attention = padded(rng, 4)
    out = choose(
        llm,
        ids,
        trie,
        attention_mask=attention,
        eligible=eligible,
        prior=priors,
        n_names=3,
        return_dict_in_generate=True,
    )
    assert isinstance(out, NameChoices)
    for row, (allowed, prior) in enumerate(zip(eligible, priors, strict=True)):
        prompt = ids[row][attention[row].bool()].tolist()
        every = np.exp(masked_scores(llm, trie, prompt, allowed, prior=prior).log_probs)
        assert len(out.names[row]) == min(3, len(allowed))
        for name, probability in zip(out.names[row], out.probabilities[row], strict=True):
            assert name in allowed
            assert probability == pytest.approx(every[trie.place(name)], rel=1e-3)
        assert out.probabilities[row][0] == pytest.approx(every.max(), rel=1e-3)
        tail = out.sequences[row, ids.shape[1] :].tolist()
        assert trie.match(tail) == out.names[row][0]


def test_the_mask_with_a_prior_samples_what_the_scores_say(llm):
    trie = NameTrie([[5, 6], [5, 7], [9], [5]], END)
    prior = NamePrior(trie, [0.0, 1.0, 2.0, 0.5])
    ids = torch.tensor([[3, 4]]).repeat(4000, 1)
    torch.manual_seed(0)
    out = llm.generate(
        ids,
        logits_processor=[NameMask(trie, Eligibility(trie), 2, prior=prior)],
        max_new_tokens=trie.length,
        do_sample=True,
        top_k=0,
    )
    shares = [0.0] * len(trie)
    for tail in out[:, 2:].tolist():
        shares[trie.place(trie.match(tail))] += 1 / len(out)
    expected = np.exp(masked_scores(llm, trie, [3, 4], prior=prior).log_probs)
    assert np.abs(shares - expected).max() < 0.03
    torch.manual_seed(0)
    drawn = choose(llm, ids[:400], trie, prior=prior, do_sample=True, top_k=0)
    shares = [0.0] * len(trie)
    for tail in drawn[:, 2:].tolist():
        shares[trie.place(trie.match(tail))] += 1 / len(drawn)
    assert np.abs(shares - expected).max() < 0.08


def test_processors_apply_in_the_hook(llm):
    trie = NameTrie([[5, 6], [5, 7], [9]], END)
    ids = torch.tensor([[3, 4]])
    only = choose(llm, ids, trie, bad_words_ids=[[5]])
    assert trie.match(only[0, 2:].tolist()) == "2"
    with pytest.raises(NoTargetError, match="bad_words_ids"):
        choose(llm, ids, trie, bad_words_ids=[[5], [9]])


def test_resumed_generation_goes_on_with_the_name(llm):
    trie = NameTrie([[5, 6, 7, 8], [5, 6, 9, 9], [4]], END)
    mask = NameMask(trie, Eligibility(trie, ["0", "1"]), 2)
    half = llm.generate(torch.tensor([[3, 4]]), logits_processor=[mask], max_new_tokens=3)
    assert trie.match(half[0, 2:].tolist()) is None
    whole = llm.generate(half, logits_processor=[mask], max_new_tokens=3)
    assert trie.match(whole[0, 2:].tolist()) in {"0", "1"}
    at_once = llm.generate(torch.tensor([[3, 4]]), logits_processor=[mask], max_new_tokens=9)
    assert at_once.tolist() == whole.tolist()


def test_one_eligible_name_and_many_beams(llm):
    trie = NameTrie([[5, 6], [5, 7], [9]], END)
    mask = NameMask(trie, Eligibility(trie, ["2"]), 2, num_beams=4)
    out = llm.generate(
        torch.tensor([[3, 4]]),
        logits_processor=[mask],
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=5,
    )
    named = {trie.match(tail) for tail in out[:, 2:].tolist()}
    assert "2" in named
    assert named <= {"2", None}  # a beam without a name, never a wrong one


def test_rows_in_hook_share_their_beginning(llm):
    trie = NameTrie([[5, 6], [5, 7], [9]], END)
    rng = np.random.default_rng(0)
    shared = rng.integers(2, VOCABULARY, 80).tolist()
    rows = [[*shared, *rng.integers(2, VOCABULARY, 3).tolist()] for _ in range(3)]
    with PrefixCache(llm, 10**8) as prefixes:
        prefixes.get(shared[:50])
        out = choose(llm, torch.tensor(rows), trie, prefixes=prefixes, return_dict_in_generate=True)
        assert prefixes.counters.tokens_saved == 50
    for row, names, probabilities in zip(rows, out.names, out.probabilities, strict=True):
        alone = top_k(llm, trie, row)
        assert names == alone.names
        assert probabilities[0] == pytest.approx(np.exp(alone.log_probs[0]), rel=1e-3)


def test_each_row_may_have_a_prior_of_its_own(llm):
    trie = NameTrie([[5, 6], [5, 7], [9]], END)
    sure = [NamePrior(trie, np.where(np.arange(3) == i, 0.0, -80.0)) for i in (2, 0, 1)]
    ids = torch.tensor([[3, 4]] * 3)
    mask = NameMask(trie, Eligibility(trie), 2, prior=sure)
    out = llm.generate(ids, logits_processor=[mask], max_new_tokens=trie.length)
    assert [trie.match(tail) for tail in out[:, 2:].tolist()] == ["2", "0", "1"]
    out = choose(llm, ids, trie, prior=sure)
    assert [trie.match(tail) for tail in out[:, 2:].tolist()] == ["2", "0", "1"]


# Errors


def test_a_row_that_can_name_nobody_is_an_error_and_not_token_zero():
    trie = NameTrie([[5, 6], [7]], END)
    eligible = [Eligibility(trie), Eligibility(trie, ["1"])]
    mask = NameMask(trie, eligible, 1)
    ids = torch.tensor([[3, 5], [3, 5]])
    with pytest.raises(NoTargetError, match="row 1"):
        mask(ids, torch.zeros(2, VOCABULARY))
    beams = NameMask(trie, eligible[1], 1, num_beams=2)
    alive = beams(torch.tensor([[3, 5], [3, 7]]), torch.zeros(2, VOCABULARY))
    assert alive.isfinite().nonzero().tolist() == [[1, END]]  # a dead beam is no dead query
    with pytest.raises(NoTargetError, match="row 0"):
        beams(ids, torch.zeros(2, VOCABULARY))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_of_any_precision(dtype):
    trie = NameTrie([[5, 6], [7]], END)
    scores = torch.arange(VOCABULARY, dtype=dtype)[None]
    masked = NameMask(trie, Eligibility(trie), 1)(torch.tensor([[3]]), scores)
    assert masked.dtype == dtype
    assert masked.isfinite().nonzero().tolist() == [[0, 5], [0, 7]]
    assert masked[0, 7] == 7
    assert scores.isfinite().all()  # the input is left alone


def test_what_others_forbid_is_an_error():
    trie = NameTrie([[5, 6], [7]], END)
    mask = NameMask(trie, Eligibility(trie), 1)
    scores = torch.zeros(1, VOCABULARY)
    scores[0, [5, 7]] = -torch.inf
    with pytest.raises(NoTargetError, match="min_new_tokens"):
        mask(torch.tensor([[3]]), scores)
    scores[0, 5] = torch.nan
    with pytest.raises(ScoreError):
        mask(torch.tensor([[3]]), scores)


def test_refused_masks():
    trie = NameTrie([[5, 6], [7]], END)
    with pytest.raises(InvalidInputError, match="this very trie"):
        NameMask(trie, Eligibility(NameTrie([[5]], END)), 1)
    with pytest.raises(InvalidInputError, match="num_beams"):
        NameMask(trie, Eligibility(trie), 1, num_beams=0)
    mask = NameMask(trie, [Eligibility(trie)] * 2, 1)
    with pytest.raises(InvalidInputError, match="3 rows"):
        mask(torch.tensor([[3]] * 3), torch.zeros(3, VOCABULARY))
    with pytest.raises(InvalidInputError, match="begin no name"):
        mask(torch.tensor([[3, 9]] * 2), torch.zeros(2, VOCABULARY))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_beams": 2}, "n_names"),
        ({"do_sample": True, "n_names": 2}, "do_sample=False"),
        ({"n_names": 0}, "n_names"),
        ({"output_scores": True, "return_dict_in_generate": True}, "output_scores"),
        ({"max_time": 9.0}, "MaxTimeCriteria"),
        ({"eligible": ()}, "each of 1 queries"),
    ],
)
def test_what_the_hook_refuses(llm, options, says):
    trie = NameTrie([[5, 6], [7]], END)
    with pytest.raises(InvalidInputError, match=says):
        choose(llm, torch.tensor([[3]]), trie, **options)


def test_the_hook_does_not_go_on_from_a_cache(llm):
    trie = NameTrie([[5, 6], [7]], END)
    cache = llm(torch.tensor([[3, 4]]), use_cache=True).past_key_values
    with pytest.raises(InvalidInputError, match="PrefixCache"):
        choose(llm, torch.tensor([[3, 4, 5]]), trie, past_key_values=cache)


# A real tokeniser


@pytest.fixture(scope="module")
def tokenizer():
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["travel agent travel_agent weather report"] * 9, trainer)
    special = {"eos_token": "<end>", "pad_token": "<pad>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, **special)


NAMES = ("travel", "travel_agent", "travel agent", "Wetter München", "日本旅行", "مسافر", "a b\tc")


def test_names_of_any_script_come_back(tokenizer):
    trie = NameTrie.from_names(NAMES, tokenizer)
    assert trie.terminator == tokenizer.eos_token_id
    for name in NAMES:
        tokens = trie.tokens_of(name)
        assert tokens == [*tokenizer(name)["input_ids"], tokenizer.eos_token_id]
        assert tokenizer.decode(tokens[:-1]) == name
        assert trie.match(tokens) == name


def test_every_name_can_win(tokenizer):
    trie = NameTrie.from_names(NAMES, tokenizer)
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=trie.terminator,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    llm = transformers.LlamaForCausalLM(config).eval()
    inputs = tokenizer("who?", return_tensors="pt")["input_ids"]
    for name in NAMES:
        only = Eligibility(trie, [name])
        out = choose(llm, inputs, trie, eligible=only)
        written = out[0, inputs.shape[1] :]
        assert tokenizer.decode(written, skip_special_tokens=True) == name
        mask = NameMask(trie, only, inputs.shape[1])
        same = llm.generate(inputs, logits_processor=[mask], max_new_tokens=trie.length)
        assert same[0].tolist() == out[0].tolist()


def test_a_name_with_the_terminators_text_is_refused(tokenizer):
    with pytest.raises(InvalidInputError, match="terminator"):
        NameTrie.from_names(["ok", "not<end>ok"], tokenizer)
