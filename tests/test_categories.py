"""Categories: from cards and lists, from groups, less duplicates; retrieval; agents that come."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core import AgentCard, Category, Query, RoutingState
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.categories import (
    CATCH_ALL,
    Categories,
    Retrieval,
    Taxonomy,
    collect,
    distinctive_terms,
    fit_categories,
    fit_retrieval,
    follow,
    group,
    name_groups,
    near_duplicates,
    unit,
)
from moma_core.agents.ranker import LinearRanker
from moma_core.agents.router import AgentRouter, Choice
from moma_core.decision import Deferred, Trace
from moma_core.registry.memory import MemoryRegistry
from moma_core.testing import HashEncoder

ENCODER = HashEncoder()
pytestmark = pytest.mark.filterwarnings("ignore:agent .* brings:UserWarning")  # random words
TOPICS = {
    "weather": "rain snow wind storm cloud",
    "music": "song album guitar concert tune",
    "cooking": "recipe oven soup dish kitchen",
    "finance": "bank loan credit interest account",
}


def topical(per_topic=10, *, named=False, examples=0):
    """Agents of four topics; a description draws four of the topic's five words."""
    rng = np.random.default_rng(0)
    cards = []
    for topic, words in TOPICS.items():
        for i in range(per_topic):
            own = rng.permutation(words.split())
            shown = tuple(" ".join(rng.permutation(own)[:3]) for _ in range(examples))
            category = (topic,) if named else ()
            name = f"{topic[0]}{i}"
            cards.append(AgentCard(name, " ".join(own[:4]), categories=category, examples=shown))
    return cards


def catalog_of(cards):
    catalog = AgentCatalog(ENCODER, MemoryRegistry())
    catalog.add(*cards)
    return catalog


def snapshot_of(cards):
    return catalog_of(cards).snapshot


FIND = Taxonomy(discover_from=2)


def membership(categories, snapshot):
    return {
        name: {snapshot.names[row] for row in categories.members(name)} for name in categories.names
    }


# Groups of vectors


def blobs(n=60, corners=4, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.eye(8, dtype=np.float32)[np.arange(n) % corners]
    return unit(centres + 0.05 * rng.standard_normal((n, 8)).astype(np.float32))


def test_k_means_finds_what_is_there_and_the_same_every_time():
    labels, centres = group(blobs(64))
    assert len(centres) == 4
    assert all(len(set(labels[i::4])) == 1 for i in range(4))
    again = group(blobs(64))
    assert np.array_equal(labels, again[0])
    assert np.array_equal(centres, again[1])


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_and_equal_vectors_group_without_ado(n):
    for vectors in (np.eye(8, dtype=np.float32)[:n], np.ones((n, 8), np.float32) / np.sqrt(8)):
        labels, centres = group(vectors.astype(np.float32))
        assert labels.shape == (n,)
        assert set(labels.tolist()) == set(range(len(centres)))


@given(st.integers(0, 1_000), st.floats(0.5, 0.99))
def test_what_is_kept_has_no_near_duplicate(seed, least):
    vectors = unit(np.random.default_rng(seed).standard_normal((30, 3)).astype(np.float32))
    owner = near_duplicates(vectors, least)
    kept = np.unique(owner)
    assert (owner[kept] == kept).all()
    assert (owner <= np.arange(30)).all()
    cosines = vectors[kept] @ vectors[kept].T - 2 * np.eye(kept.size)
    assert cosines.max() < least
    merged = np.flatnonzero(owner != np.arange(30))
    assert (np.einsum("nd,nd->n", vectors[merged], vectors[owner[merged]]) >= least).all()


# Names


def test_groups_are_named_by_what_sets_them_apart():
    texts = [f"get the {words}" for words in TOPICS.values()]
    names = distinctive_terms(texts, np.arange(4))
    for terms, words in zip(names, TOPICS.values(), strict=True):
        assert set(terms) <= set(words.split())


def test_names_without_words_and_twice_the_same():
    cards = [AgentCard("1", "42"), AgentCard("2", "43")]
    assert name_groups(cards, np.array([0, 1])) == ["unnamed", "unnamed (2)"]
    same = name_groups(cards, np.array([0, 1]), {"sums"}, lambda _: "sums")
    assert same == ["sums (2)", "sums (3)"]


def test_a_callable_names_groups_from_their_cards():
    seen = []

    def name(cards):
        seen.append([card.name for card in cards])
        return f" group {len(seen)} "

    taxonomy = Taxonomy(discover_from=2, name_category=name)
    categories = collect(snapshot_of(topical()), taxonomy)
    assert set(categories.names) == {f"group {i + 1}" for i in range(len(seen))}
    assert sorted(name for names in seen for name in names) == sorted(
        card.name for card in topical()
    )


# The union


def test_no_category_at_all_is_one_that_holds_everybody():
    categories = collect(snapshot_of(topical(2)))
    assert categories.names == (CATCH_ALL,)
    assert categories.members(CATCH_ALL).size == 8
    assert collect(snapshot_of([])).members(CATCH_ALL).size == 0


def test_cards_name_their_categories():
    snapshot = snapshot_of(topical(3, named=True))
    found = membership(collect(snapshot), snapshot)
    assert found == {t: {f"{t[0]}{i}" for i in range(3)} for t in TOPICS}
    assert collect(snapshot).members("unknown").size == 0


def test_groups_are_found_where_nobody_named_them():
    snapshot = snapshot_of(topical())
    categories = collect(snapshot, FIND)
    assert categories.discovered
    for members in membership(categories, snapshot).values():
        assert len({name[0] for name in members}) == 1
    assert set(np.unique(categories.agents)) == set(range(40))


def test_found_groups_that_repeat_named_ones_are_merged_into_them():
    snapshot = snapshot_of(topical(named=True))
    assert set(collect(snapshot, FIND).names) >= set(TOPICS)
    vectors = collect(snapshot, FIND).vectors
    assert (vectors @ vectors.T - 2 * np.eye(len(vectors))).max() < 0.9


def test_near_duplicates_keep_the_first_name_and_know_both():
    words = " ".join(TOPICS["weather"].split() + TOPICS["music"].split())
    cards = [
        AgentCard("rain song", words, categories=("weather",)),
        AgentCard("song rain", words, categories=("climate",)),
        AgentCard("c", "bank loan", categories=("money",)),
    ]
    snapshot = snapshot_of(cards)
    categories = collect(snapshot)
    assert categories.names == ("weather", "money")
    found = {"weather": {"rain song", "song rain"}, "money": {"c"}}
    assert membership(categories, snapshot) == found
    assert categories.members("climate").tolist() == [0, 1]


def test_agents_without_a_category_join_the_users_list():
    taxonomy = Taxonomy.of(
        [Category(topic, words) for topic, words in TOPICS.items()], ENCODER, discover_from=None
    )
    snapshot = snapshot_of(topical(3))
    for topic, members in membership(collect(snapshot, taxonomy), snapshot).items():
        assert {name[0] for name in members} == {topic[0]}


def test_collecting_twice_gives_the_same():
    snapshot = snapshot_of(topical())
    first, second = collect(snapshot, FIND), collect(snapshot, FIND)
    assert first.names == second.names
    assert np.array_equal(first.vectors, second.vectors)
    assert np.array_equal(first.agents, second.agents)


# Retrieval


def test_retrieval_keeps_the_nearest_even_below_the_threshold():
    cosines = np.array([0.1, 0.2], np.float32)
    assert Retrieval(2, 0.9).of(cosines).tolist() == [1]
    assert Retrieval(9, -1.0).of(cosines).tolist() == [1, 0]


@pytest.mark.parametrize("seed", range(5))
def test_the_wanted_category_is_retrieved_as_often_as_promised(seed):
    rng = np.random.default_rng(seed)
    n, k = 3_000, 40
    wanted = rng.integers(k, size=n)
    cosines = 0.2 * rng.standard_normal((n, k)).astype(np.float32)
    cosines[np.arange(n), wanted] += 0.5
    mask = np.arange(k) == wanted[:, None]
    fitted = fit_retrieval(cosines[:500], mask[:500], np.full(k, 10))
    found = [w in fitted.of(row) for w, row in zip(wanted[500:], cosines[500:], strict=True)]
    assert np.mean(found) > 0.98
    assert fitted.k < k


def test_too_few_examples_promise_nothing():
    cosines, wanted = np.eye(50, dtype=np.float32), np.eye(50, dtype=bool)
    assert fit_retrieval(cosines, wanted, np.ones(50, int)) is None
    assert fit_retrieval(cosines, wanted, np.ones(50, int), share=0.9) == Retrieval(1, 1.0)


def test_without_examples_nothing_is_restricted():
    categories = collect(snapshot_of(topical()), replace(FIND, restrict=True))
    assert categories.retrieval is None
    rows = np.arange(40)
    assert categories.narrowed(ENCODER.encode(["rain"])[0], rows) is rows


def test_examples_restrict_to_the_right_categories():
    cards = topical(examples=8)
    snapshot = snapshot_of(cards)
    categories = collect(snapshot, replace(FIND, restrict=True))
    kept, scored = [], []
    for card in cards:
        for row in snapshot.records[snapshot.position[card.name]].example_vectors[:2]:
            rows = categories.narrowed(row, np.arange(40))
            kept.append(snapshot.position[card.name] in rows)
            scored.append(rows.size)
    assert np.mean(kept) > 0.98
    assert np.mean(scored) < 30


def test_an_example_of_several_agents_is_found_with_one_of_them():
    cards = topical(2, named=True)
    both = [replace(cards[0], examples=("rain",)), replace(cards[2], examples=("rain",))]
    snapshot = snapshot_of([*both, cards[1], *cards[3:]])
    fitted = fit_categories(collect(snapshot), snapshot, share=0.5)
    assert fitted.retrieval.k == 1


def test_who_is_not_eligible_is_not_let_in_and_nobody_left_means_everybody():
    categories = Categories(
        ("a", "b"),
        np.eye(2, dtype=np.float32),
        np.array([0, 1, 2]),
        np.array([0, 1, 3]),
        4,
        retrieval=Retrieval(1, 0.0),
    )
    to_a = np.array([1.0, 0.0], np.float32)
    assert categories.narrowed(to_a, np.array([0, 1, 2])).tolist() == [0]
    assert categories.narrowed(to_a, np.array([1, 2])).tolist() == [1, 2]
    assert categories.narrowed(to_a, np.array([0, 3])).tolist() == [0, 3]  # 3 is in no category


# Agents that come and go


def changed(change, cards=None):
    catalog = catalog_of(cards or topical())
    before = catalog.snapshot
    known = collect(before, FIND)
    change(catalog)
    return known, follow(known, before, catalog.snapshot), catalog.snapshot


def test_a_new_agent_joins_its_closest_category():
    new = AgentCard("new", "rain snow wind storm")
    known, now, snapshot = changed(lambda catalog: catalog.add(new))
    assert now.names == known.names
    joined = [name for name, members in membership(now, snapshot).items() if "new" in members]
    assert 1 <= len(joined) <= 2
    others = set().union(*(membership(now, snapshot)[name] for name in joined)) - {"new"}
    assert {name[0] for name in others} == {"w"}


def test_a_stranger_opens_a_category_of_its_own_and_the_next_one_joins_it():
    def change(catalog):
        catalog.add(AgentCard("zebraFeeder", "zebra okapi tapir"))
        catalog.add(AgentCard("zebra_feeder2", "zebra okapi tapir"))

    known, now, snapshot = changed(change)
    assert now.names == (*known.names, "zebra feeder")
    assert membership(now, snapshot)["zebra feeder"] == {"zebraFeeder", "zebra_feeder2"}


def test_a_new_agent_with_a_new_name_on_its_card():
    card = AgentCard("new", "zebra okapi", categories=("zoo",))
    _, now, snapshot = changed(lambda catalog: catalog.add(card))
    assert membership(now, snapshot)["zoo"] == {"new"}


def test_others_stay_where_they_were():
    def change(catalog):
        catalog.remove("w3")
        catalog.update(AgentCard("m1", "bank loan credit interest"))
        catalog.disable("c2")

    known, now, snapshot = changed(change)
    before = membership(known, snapshot_of(topical()))
    for name, members in membership(now, snapshot).items():
        assert members - {"m1"} == before.get(name, set()) - {"w3", "m1"}
    assert "m1" in set().union(*membership(now, snapshot).values())


@given(st.lists(st.tuples(st.sampled_from("arud"), st.integers(0, 45)), max_size=8))
def test_any_changes_leave_every_agent_somewhere(changes):
    catalog = catalog_of(topical(3))
    before, categories = catalog.snapshot, collect(catalog.snapshot, FIND)
    for action, number in changes:
        names = catalog.names
        name = names[number % len(names)]
        if action == "r" and len(names) > 1:
            catalog.remove(name)
        elif action == "u":
            catalog.update(AgentCard(name, f"song album {number}"))
        elif action == "d":
            catalog.disable(name)
        elif f"n{number}" not in catalog:
            catalog.add(AgentCard(f"n{number}", f"thing {number}"))
        categories = follow(categories, before, catalog.snapshot)
        before = catalog.snapshot
    assert set(categories.agents.tolist()) == set(range(len(catalog)))
    assert categories.starts[-1] == categories.agents.size
    assert len(categories.names) == len(categories.vectors) == categories.sizes.size


# In the router


def routed(router, text):
    trace = Trace()
    outcome, _ = router.route(
        Query(text), router.states.encode([Query(text)], ENCODER), RoutingState(), trace=trace
    )
    return outcome, trace.done()


def test_the_layer_leaves_decisions_alone_unless_asked():
    cards = topical(examples=8)
    plain = AgentRouter(catalog_of(cards))
    found = AgentRouter(catalog_of(cards), taxonomy=FIND)
    for text in ("rain snow", "bank loan credit", "guitar song"):
        assert routed(plain, text)[0] == routed(found, text)[0]


def test_a_restricted_route_says_so_and_agrees_with_the_batch():
    router = AgentRouter(catalog_of(topical(examples=8)), taxonomy=replace(FIND, restrict=True))
    texts = ["rain snow wind", "bank loan credit", "guitar song tune"]
    queries = [Query(text) for text in texts]
    batch = router.route_batch(queries, router.states.encode(queries, ENCODER))
    for text, from_batch in zip(texts, batch, strict=True):
        outcome, trace = routed(router, text)
        assert outcome.candidates[0].name == from_batch.candidates[0].name
        assert outcome.probability == pytest.approx(from_batch.probability, abs=1e-4)
        detail = next(step.detail for step in trace if step.name == "eligible")
        assert "in the nearest categories" in detail
        assert len({c.name[0] for c in outcome.candidates}) < 4


def test_adding_to_thousands_takes_milliseconds():
    cards = [AgentCard(f"agent{i}", f"does thing {i % 97} with {i}") for i in range(3_000)]
    router = AgentRouter(catalog_of(cards))
    routed(router, "thing 3")
    times = []
    for i in range(5):
        start = time.thread_time()  # the machine may be busy
        router.catalog.add(AgentCard(f"new{i}", f"zebra{i}"))
        outcome, _ = routed(router, f"zebra{i}")
        times.append(time.thread_time() - start)
        assert outcome.candidates[0].name == f"new{i}"
    assert min(times) < 0.1, times


# Very many agents


@pytest.fixture
def many_at_once(monkeypatch):
    """Have a thousand agents count as very many."""
    monkeypatch.setattr("moma_core.agents.rank.MANY", 1_000)
    monkeypatch.setattr("moma_core.agents.rank._FEW", 200)


def counted(n, every=0):
    """n agents of a few words each; one in ``every`` has examples."""
    told = [f"does thing {i} with {i % 89} for {i % 7}" for i in range(n)]
    return [
        AgentCard(
            f"agent{i}", text, examples=(f"thing {i}", text) if every and not i % every else ()
        )
        for i, text in enumerate(told)
    ]


QUERIES = [f"thing {3 * i} with {i % 89}" for i in range(150)] + ["with 7 for 3", "?", "okapi"]


@pytest.mark.parametrize("every", [0, 20])
def test_of_very_many_agents_the_best_are_found_without_looking_at_all(monkeypatch, every):
    router = AgentRouter(catalog_of(counted(3_000, every)))
    exact = [routed(router, text)[0] for text in QUERIES]
    monkeypatch.setattr("moma_core.agents.rank.MANY", 1_000)
    now = [routed(router, text)[0] for text in QUERIES]
    names = [[[c.name for c in each.candidates] for each in found] for found in (exact, now)]
    same = np.mean([before == after for before, after in zip(*names, strict=True)])
    assert same >= 0.99, [both for both in zip(QUERIES, *names, strict=True) if both[1] != both[2]]
    off = [b.candidates[0].score - n.candidates[0].score for b, n in zip(exact, now, strict=True)]
    assert np.abs(off).max() < 0.05


def test_very_many_agents_change_and_are_left_out_as_few_are(many_at_once):
    router = AgentRouter(catalog_of(counted(1_500)))
    assert routed(router, "thing 3")[0].candidates[0].name == "agent3"
    router.catalog.add(AgentCard("zebra", "okapi"))
    assert routed(router, "okapi")[0].candidates[0].name == "zebra"
    router.catalog.disable("agent3")
    outcome, _ = routed(router, "thing 3 with 3 for 3")
    assert "agent3" not in [c.name for c in outcome.candidates]
    assert isinstance(outcome, Deferred)
    router.catalog.remove("agent5")
    assert "agent5" not in [c.name for c in routed(router, "thing 5")[0].candidates]


def test_a_share_of_very_many_agents_is_searched_as_all_are(many_at_once):
    router = AgentRouter(catalog_of(counted(1_500)))
    only = [f"agent{i}" for i in range(0, 1_500, 5)]
    query = Query("thing 40 with 40")
    turns = router.states.encode([query], ENCODER)
    for k in (3, 250):
        choice = Choice(among=only, k=k)
        outcome, _ = router.route(query, turns, RoutingState(), choice)
        names = [candidate.name for candidate in outcome.candidates]
        assert names[0] == "agent40"
        assert len(names) == k
        assert set(names) <= set(only)


def test_a_follow_up_among_very_many_agents_stays_where_it_was(many_at_once):
    router = AgentRouter(catalog_of(counted(1_500)))
    before = RoutingState(last_target="agent77", topic="thing 77 with 77")
    query = Query("and for 3?")
    turns = router.states.encode([query], ENCODER, before)
    assert turns.readings[0].follows
    assert router.route(query, turns, before)[0].candidates[0].name == "agent77"


def test_few_eligible_agents_are_scored_as_ever():
    router = AgentRouter(catalog_of(topical(examples=4)))
    ranker = router.trained.ranker
    assert isinstance(ranker, LinearRanker)
    vectors = ENCODER.encode(["rain snow", "loan"])
    whole = ranker.logits(["rain snow", "loan"], vectors)
    rows = np.array([3, 17])
    for n in (1, 2):
        part = ranker.logits(["rain snow", "loan"][:n], vectors[:n], rows)
        assert np.allclose(part[:, rows], whole[:n, rows], atol=1e-4)
        assert np.isneginf(np.delete(part, rows, axis=1)).all()
