"""In or out of scope by the words alone: learnt from negatives, saved, blind to newcomers."""

import numpy as np
import pytest

from moma_core import AgentCard, Query
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.gate import ENOUGH_NEGATIVES, Negatives, Scope, cross_fit_scope, fit_scope
from moma_core.agents.ranker import Features, document_frequencies, inverse_frequencies
from moma_core.agents.router import AgentRouter
from moma_core.agents.training import read_trained, write_trained
from moma_core.decision import Handled
from moma_core.registry.memory import MemoryRegistry
from moma_core.testing import HashEncoder

ENCODER = HashEncoder()
TOPICS = {
    "weather": ["rain", "snow", "sun", "wind", "storm", "cloud"],
    "travel": ["flight", "hotel", "train", "ticket", "luggage", "visa"],
    "bank": ["loan", "account", "transfer", "card", "payment", "interest"],
}
FOREIGN = ["write", "a", "poem", "about", "love", "story", "essay", "rhyme", "novel", "verse"]


def texts(words, n, seed=0, size=3):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, size)) for _ in range(n)]


def features(some):
    idf = inverse_frequencies(document_frequencies(some), len(some))
    return Features.of(some, ENCODER.encode(some), idf)


@pytest.fixture
def router():
    catalog = AgentCatalog(ENCODER, MemoryRegistry())
    catalog.add(
        *(
            AgentCard(name, " ".join(words[:3]), examples=tuple(texts(words, 12, seed)))
            for seed, (name, words) in enumerate(TOPICS.items())
        )
    )
    negatives = Negatives.of(texts(FOREIGN, 40), ENCODER, background=False)
    return AgentRouter(catalog, negatives=negatives)


def outcome(router, text):
    return router.route_batch([Query(text)], router.states.encode([Query(text)], ENCODER))[0]


def test_examples_and_negatives_are_told_apart():
    inside, outside = texts(TOPICS["bank"], 30), texts(FOREIGN, 30)
    both = features(inside + outside)
    scope = fit_scope(both.rows(np.arange(30)), both.rows(np.arange(30, 60)))
    logits = scope.logits(both)
    assert logits[:30].min() > logits[30:].max()
    alone = [scope.logits(both.rows(np.array([i])))[0] for i in range(60)]
    assert alone == pytest.approx(logits.tolist(), abs=1e-4)


def test_held_out_logits_come_from_the_other_folds():
    both = features(texts(TOPICS["bank"], 8) + texts(FOREIGN, 8))
    inside, outside = both.rows(np.arange(8)), both.rows(np.arange(8, 16))
    folds = np.arange(8) % 4
    in_scope, out_of_scope = cross_fit_scope(inside, outside, folds, folds)
    kept = np.flatnonzero(folds != 2)
    column = fit_scope(inside.rows(kept), outside.rows(kept))
    held = np.flatnonzero(folds == 2)
    assert in_scope[held] == pytest.approx(column.logits(inside.rows(held)), abs=1e-4)
    assert out_of_scope[held] == pytest.approx(column.logits(outside.rows(held)), abs=1e-4)


def test_arrays_and_back():
    both = features(texts(TOPICS["bank"], 5) + texts(FOREIGN, 5))
    scope = fit_scope(both.rows(np.arange(5)), both.rows(np.arange(5, 10)))
    again = Scope.from_arrays(scope.arrays())
    assert again.logits(both) == pytest.approx(scope.logits(both))
    assert Scope.from_arrays({}) is None


def test_enough_negatives_make_the_gate_look_at_the_words(router):
    assert router.trained.scope is not None
    assert router.trained.gate.fits.scope > 0
    assert router.trained.gate.right.scope == 0
    assert not isinstance(outcome(router, "poem essay verse"), Handled)
    assert outcome(router, "loan payment account").agents == ("bank",)
    few = Negatives.of(texts(FOREIGN, ENOUGH_NEGATIVES - 1), ENCODER)
    assert AgentRouter(router.catalog, negatives=few).trained.scope is None


def test_a_new_agent_is_not_held_against_old_negatives(router):
    assert not isinstance(outcome(router, "poem rhyme verse"), Handled)
    poet = AgentCard("poet", "poem rhyme verse", examples=tuple(texts(FOREIGN[2:], 12, 7)))
    before = router.trained
    router.catalog.add(AgentCard("idle", "nothing at all"))
    router.catalog.disable("idle")
    changes = [AgentCard(f"filler{i}", f"filler {i}") for i in range(20)]
    router.catalog.add(*changes)
    router.fit()
    router.catalog.add(poet)
    assert router.trained.fresh == {"poet"}
    assert router.trained.scope is not None
    assert before.fresh == frozenset()
    best = outcome(router, "poem rhyme verse")
    assert best.candidates[0].name == "poet"
    blind = router.trained.scope.logits(
        router.trained.ranker.features(["poem rhyme verse"], ENCODER.encode(["poem rhyme verse"]))
    )
    assert blind[0] < router.trained.scope.usual
    assert best.probability > 0.2


def test_scope_and_newcomers_are_saved(router, tmp_path):
    router.catalog.add(*(AgentCard(f"filler{i}", f"filler {i}") for i in range(20)))
    router.fit()
    router.catalog.add(AgentCard("poet", "poem rhyme verse"))
    write_trained(tmp_path, router.trained, router.negatives, ENCODER.fingerprint)
    trained, negatives = read_trained(tmp_path, ENCODER.fingerprint)
    assert trained.fresh == {"poet"}
    loaded = AgentRouter(router.catalog, negatives=negatives, trained=trained)
    for text in ("loan payment", "poem verse", "novel story", "rain sun"):
        again, before = outcome(loaded, text), outcome(router, text)
        assert [each.name for each in again.candidates] == [c.name for c in before.candidates]
        assert again.probability == pytest.approx(before.probability, abs=1e-6)


def test_more_negatives_are_learnt_on_the_next_route(router):
    few = AgentRouter(router.catalog)
    assert few.trained.scope is None
    few.set_negatives(few.negatives.also(texts(FOREIGN, 30), ENCODER))
    assert few.negatives.n_given == len(set(texts(FOREIGN, 30)))
    assert few.trained.scope is not None
    again = few.negatives.also(texts(FOREIGN, 30), ENCODER)
    assert again.texts == few.negatives.texts
    assert len(again.vectors) == len(again.texts)
