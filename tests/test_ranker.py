"""Features, fitting and following a catalog: the ranker as its users see it."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moma_core import AgentCard
from moma_core.agents import rival_training, training
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.gate import Negatives
from moma_core.agents.ranker import (
    N_FEATURES,
    N_WORD_FEATURES,
    Columns,
    Features,
    LinearRanker,
    description_columns,
    document_frequencies,
    fit_columns,
    inverse_frequencies,
    lexical_rows,
    logsumexp,
)
from moma_core.agents.router import AgentRouter
from moma_core.agents.training import extend, fingerprint, train
from moma_core.registry.memory import MemoryRegistry
from moma_core.testing import HashEncoder

ENCODER = HashEncoder()
NOBODY = Negatives.of((), ENCODER, background=False)
WORDS = [f"word{i}" for i in range(2_000)]


def many(n_agents, n_examples, seed=0):
    """Agents of ten words of their own each; examples draw three of them and two of anybody's."""
    rng = np.random.default_rng(seed)
    cards = []
    for i in range(n_agents):
        own = WORDS[10 * i : 10 * i + 10]
        examples = tuple(
            " ".join([*rng.choice(own, 3), *rng.choice(WORDS, 2)]) for _ in range(n_examples)
        )
        cards.append(AgentCard(f"agent{i}", " ".join(own[:4]), examples=examples))
    return cards


def catalog_of(cards):
    catalog = AgentCatalog(ENCODER, MemoryRegistry())
    catalog.add(*cards)
    return catalog


def logits(trained, texts):
    return trained.ranker.logits(texts, ENCODER.encode(texts))


def chosen(trained, texts):
    return [trained.ranker.names[i] for i in logits(trained, texts).argmax(axis=1)]


def column(trained, name):
    one = trained.ranker.columns.rows(np.array([trained.ranker.names.index(name)]))
    return one.dense.tobytes(), one.lexical.toarray().tobytes(), one.bias.tobytes()


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-80, 80, width=32)))
def test_logsumexp_is_what_it_says(values):
    expected = np.log(np.exp(values.astype(np.float64)).sum(axis=1))
    assert np.allclose(logsumexp(values), expected, atol=1e-3)


def test_logsumexp_of_nothing_and_of_much():
    assert np.isneginf(logsumexp(np.zeros((2, 0), np.float32))).all()
    assert np.isfinite(logsumexp(np.array([[1e30, -1e30]], np.float32))).all()


ODD_TEXTS = ["", " ", "!?", "rain", "rain rain", "天气 🌧️", "a\x00b", "x" * 100_000, "rain " * 9_000]


@given(st.lists(st.text(max_size=60), min_size=2, max_size=4))
def test_a_text_alone_has_the_row_that_it_has_beside_others(texts):
    idf = inverse_frequencies(document_frequencies(ODD_TEXTS), len(ODD_TEXTS))
    together = lexical_rows(texts, idf)
    for i, text in enumerate(texts):
        assert abs(lexical_rows([text], idf) - together[i]).sum() < 1e-5


def test_lexical_rows_have_a_word_part_and_a_longer_character_part():
    idf = inverse_frequencies(document_frequencies(["rain in Paris", "snow"]), 2)
    rows = lexical_rows(ODD_TEXTS, idf)
    assert rows.shape == (len(ODD_TEXTS), N_FEATURES)
    assert np.isfinite(rows.data).all()
    squares = rows.multiply(rows)
    words = np.asarray(squares[:, :N_WORD_FEATURES].sum(axis=1)).ravel()
    characters = np.asarray(squares[:, N_WORD_FEATURES:].sum(axis=1)).ravel()
    assert (words < 1.0 + 1e-4).all()
    assert (characters < 1.5 + 1e-2).all()
    assert words[3] == pytest.approx(1.0, abs=1e-4)
    assert characters[3] == pytest.approx(1.5, abs=1e-2)
    assert lexical_rows([], idf).shape == (0, N_FEATURES)


def test_leading_blanks_do_not_hide_the_words():
    idf = inverse_frequencies(document_frequencies(["rain"]), 1)
    assert (lexical_rows(["rain"], idf) != lexical_rows([" \n" * 9_000 + "rain"], idf)).nnz == 0


def test_fitting_moves_the_wanted_agent_up():
    texts = ["red apple", "green pear"]
    idf = inverse_frequencies(document_frequencies(texts), 2)
    features = Features.of(texts, ENCODER.encode(texts), idf)
    prior = description_columns(Features.of(["x", "y"], ENCODER.encode(["x", "y"]), idf))
    y = np.array([1, 0])
    before, after = prior.logits(features), fit_columns(features, y, prior).logits(features)
    margins = np.array([[-1, 1], [1, -1]])
    assert ((after * margins).sum(axis=1) > (before * margins).sum(axis=1)).all()
    assert (after.argmax(axis=1) == y).all()


def test_an_agent_fitted_against_frozen_others_learns_to_leave_their_texts():
    texts = ["red apple", "green pear"]
    idf = inverse_frequencies(document_frequencies(texts), 2)
    features = Features.of(texts, ENCODER.encode(texts), idf)
    prior = description_columns(Features.of(["apple pear"], ENCODER.encode(["apple pear"]), idf))
    fitted = fit_columns(features, np.array([0, 1]), prior, np.full(2, 1.0, np.float32))
    mine, theirs = fitted.logits(features)[:, 0]
    assert mine > 1.0 > theirs


def test_arrays_rebuild_the_ranker():
    trained = train(catalog_of(many(5, 4)).snapshot, NOBODY)
    again = LinearRanker.from_arrays(trained.ranker.names, trained.ranker.arrays())
    texts = ["word1 word2", "", "word44"]
    vectors = ENCODER.encode(texts)
    assert np.array_equal(again.logits(texts, vectors), trained.ranker.logits(texts, vectors))


def test_the_fast_product_is_the_plain_one():
    trained = train(catalog_of(many(5, 4)).snapshot, NOBODY)
    texts = ["word1 word2", "", "word44 " * 5_000]
    features = Features.of(texts, ENCODER.encode(texts), trained.ranker.idf)
    assert isinstance(trained.ranker.columns, Columns)
    assert np.allclose(logits(trained, texts), trained.ranker.columns.logits(features), atol=1e-4)


@pytest.mark.parametrize("n_examples", [0, 1, 4])
def test_few_agents_and_few_examples_train(n_examples):
    for n_agents in (0, 1, 2):
        trained = train(catalog_of(many(n_agents, n_examples)).snapshot, NOBODY)
        assert logits(trained, ["word1", ""]).shape == (2, n_agents)
        assert np.isfinite(logits(trained, ["word1", ""])).all()
        assert 0 < trained.gate.threshold < 1


def test_training_twice_gives_the_same():
    first, second = (train(catalog_of(many(6, 5)).snapshot, NOBODY) for _ in range(2))
    assert first.gate == second.gate
    for name in first.ranker.names:
        assert column(first, name) == column(second, name)


def test_progress_is_told_to_the_end():
    told = []
    train(catalog_of(many(6, 5)).snapshot, NOBODY, lambda *step: told.append(step))
    assert told[0][1] == 0
    assert told[-1][1] == told[-1][2] > 0
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_a_new_agent_leaves_the_others_to_the_bit():
    catalog = catalog_of(many(14, 4))
    before = train(catalog.snapshot, NOBODY)
    new = AgentCard("new", "zebra okapi", examples=("feed the zebra", "where do okapi live"))
    catalog.add(new)
    after = extend(before, catalog.snapshot)
    assert after.ranker.names == (*before.ranker.names, "new")
    for name in before.ranker.names:
        assert column(after, name) == column(before, name)
    assert after.gate == before.gate
    assert chosen(after, ["please feed my zebra", "okapi"]) == ["new", "new"]
    old = [card.examples[0] for card in catalog][:-1]
    assert chosen(after, old) == chosen(before, old)


def test_changed_and_removed_agents_leave_the_others_to_the_bit():
    catalog = catalog_of(many(14, 4))
    before = train(catalog.snapshot, NOBODY)
    catalog.remove("agent3")
    catalog.update(AgentCard("agent5", "zebra okapi", examples=("feed the zebra",)))
    catalog.disable("agent7")
    after = extend(before, catalog.snapshot)
    assert after.ranker.names == catalog.names
    for name in set(catalog.names) - {"agent5"}:
        assert column(after, name) == column(before, name)
    assert column(after, "agent5") != column(before, "agent5")


def test_from_nothing_to_something_and_back():
    catalog = catalog_of([])
    router = AgentRouter(catalog)
    assert router.trained.ranker.names == ()
    catalog.add(*many(3, 4))
    assert chosen(router.trained, [card.examples[0] for card in catalog]) == list(catalog.names)
    catalog.remove(*catalog.names)
    assert router.trained.ranker.names == ()


def test_adding_to_150_agents_is_quick():
    catalog = catalog_of(many(150, 10))
    described = train(catalog_of([replace(c, examples=()) for c in catalog]).snapshot, NOBODY)
    sources = {record.card.name: fingerprint(record) for record in catalog.snapshot.records}
    trained = replace(described, sources=sources)  # as if fitted: that takes longer than this test
    times = []
    for i in range(5):
        examples = tuple(f"zebra{i} {j}" for j in range(10))
        catalog.add(AgentCard(f"new{i}", f"zebra{i}", examples=examples))
        start = time.thread_time()  # the machine may be busy
        trained = extend(trained, catalog.snapshot)
        times.append(time.thread_time() - start)
        assert chosen(trained, [f"zebra{i} please"]) == [f"new{i}"]
    assert min(times) < 0.1, times


def test_the_order_of_agents_does_not_matter():
    cards = many(12, 6)
    texts = [card.examples[0] for card in many(12, 3, seed=1)]
    forwards = train(catalog_of(cards).snapshot, NOBODY)
    backwards = train(catalog_of(cards[::-1]).snapshot, NOBODY)
    assert chosen(forwards, texts) == chosen(backwards, texts)
    assert np.allclose(logits(forwards, texts), logits(backwards, texts)[:, ::-1], atol=0.2)
    assert forwards.gate.threshold == pytest.approx(backwards.gate.threshold, abs=0.1)


def test_examples_improve_on_descriptions():
    cards, asked = many(12, 5), many(12, 5, seed=7)
    texts = [text for card in asked for text in card.examples]
    wanted = [card.name for card in asked for _ in card.examples]

    def accuracy(known):
        found = chosen(train(catalog_of(known).snapshot, NOBODY), texts)
        return np.mean([a == b for a, b in zip(found, wanted, strict=True)])

    described = accuracy([replace(card, examples=()) for card in cards])
    assert accuracy(cards) > described + 0.05
    assert described > 0.5


def test_agents_without_examples_are_reachable_beside_agents_with_many(minilm, cards):
    many_shots = [
        replace(card, examples=tuple(f"{e} {end}" for e in card.examples for end in ("", "please")))
        for card in cards
    ]
    catalog = AgentCatalog(minilm, MemoryRegistry())
    catalog.add(*many_shots, AgentCard("currency", "Converts money between currencies"))
    trained = train(catalog.snapshot, Negatives.of((), minilm, background=False))
    texts = ["which currency do they use in Japan?", "yen to pounds", "will it rain", "12 plus 5"]
    found = trained.ranker.logits(texts, minilm.encode(texts)).argmax(axis=1)
    assert [catalog.names[i] for i in found] == ["currency", "currency", "weather", "calculator"]


def test_twins_share_their_queries():
    card = AgentCard("one", "zebra okapi", examples=("feed the zebra", "okapi food"))
    catalog = catalog_of([*many(3, 5), card, replace(card, name="two")])
    found = logits(train(catalog.snapshot, NOBODY), ["feed the zebra"])[0]
    assert abs(found[3] - found[4]) < 0.5
    assert set(found.argsort()[-2:]) == {3, 4}


def test_a_query_given_to_two_agents_ranks_both_first():
    cards = many(6, 5)
    shared = "tapir okapi zebra"
    both = [replace(card, examples=(*card.examples, shared)) for card in cards[:2]]
    found = logits(train(catalog_of([*both, *cards[2:]]).snapshot, NOBODY), [shared])[0]
    assert set(found.argsort()[-2:]) == {0, 1}


def fitted_both_ways(cards, queries, monkeypatch, **settings):
    """Return logits of queries by columns fitted with all other agents, and with rivals only."""
    found = []
    for least in (len(cards) + 1, 2):
        monkeypatch.setattr(training, "MANY", least)
        for name, value in settings.items():
            monkeypatch.setattr(rival_training, name, value)
        ranker = train(catalog_of(cards).snapshot, NOBODY).ranker
        found.append(ranker.logits(queries, ENCODER.encode(queries)))
    return found


def test_where_all_are_rivals_nothing_is_left_out(monkeypatch):
    cards = many(13, 5)
    queries = [card.examples[0] for card in cards] + ["word3 word77", "word119 unheard of"]
    exact, among = fitted_both_ways(cards, queries, monkeypatch, _RIVALS=(99, 99))
    np.testing.assert_allclose(exact, among, atol=0.1)


def test_rivals_are_enough_to_be_right_as_often(monkeypatch):
    cards = many(80, 5)
    queries = [text for card in many(80, 9, seed=1) for text in card.examples]
    wanted = np.repeat(np.arange(80), 9)
    right = [
        float((logits.argmax(axis=1) == wanted).mean())
        for logits in fitted_both_ways(cards, queries, monkeypatch)
    ]
    assert right[0] > 0.5
    assert right[1] >= right[0] - 0.02


def test_an_agent_of_very_many_examples_among_rivals(monkeypatch):
    """Its column is made of some of its texts, not of all."""
    monkeypatch.setattr(training, "MANY", 2)
    monkeypatch.setattr(rival_training, "_SPAN", 20)
    [first, *rest] = many(10, 4)
    own = first.description.split()
    rng = np.random.default_rng(2)
    more = {" ".join(rng.permutation(own)[:3]) + f" word{n}" for n in range(100, 200)}
    cards = [replace(first, examples=tuple(sorted(more))), *rest]
    ranker = train(catalog_of(cards).snapshot, NOBODY).ranker
    queries = [card.examples[0] for card in cards]
    found = ranker.logits(queries, ENCODER.encode(queries)).argmax(axis=1)
    assert found.tolist() == list(range(10))
