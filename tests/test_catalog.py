"""The catalog: what changes, what does not, and that nothing is ever half done."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from moma_core import (
    AgentCard,
    InvalidInputError,
    Query,
    RegistryError,
    RoutingState,
    UnknownNameError,
)
from moma_core._checks import readable
from moma_core.agents.catalog import AgentCatalog, card_text
from moma_core.agents.router import AgentRouter
from moma_core.errors import DuplicateNameError, InvalidCardError, ScoreError
from moma_core.registry.chroma import ChromaRegistry
from moma_core.registry.memory import MemoryRegistry
from moma_core.testing import HashEncoder

ENCODER = HashEncoder()


class Failing(MemoryRegistry):
    """Works until told not to."""

    broken = False

    def put(self, records):
        self._check()
        return super().put(records)

    def delete(self, names):
        self._check()
        super().delete(names)

    def switch(self, names, *, enabled):
        self._check()
        super().switch(names, enabled=enabled)

    def _check(self):
        if self.broken:
            raise RegistryError("the disk is full")


class Encoding:
    """An encoder that gives what it is told to."""

    fingerprint, dimension = "odd", 4

    def __init__(self, make):
        self.encode = make


@pytest.fixture
def catalog(cards):
    catalog = AgentCatalog(ENCODER, MemoryRegistry())
    catalog.add(*cards)
    return catalog


def test_reading(catalog, cards):
    assert len(catalog) == 3
    assert list(catalog) == list(cards)
    assert catalog.names == ("weather", "translator", "calculator")
    assert "weather" in catalog
    assert "Weather" not in catalog
    assert catalog.get("weather") is cards[0]


def test_every_change_is_seen_and_stored(cards):
    registry = MemoryRegistry()
    catalog = AgentCatalog(ENCODER, registry)
    catalog.add(*cards)
    catalog.update(AgentCard("weather", "Climate of a place", examples=("is it humid",)))
    catalog.disable("translator")
    catalog.remove("calculator")
    catalog.add(cards[2])
    again = AgentCatalog(ENCODER, registry)
    for seen in (catalog, again):
        assert seen.names == ("weather", "translator", "calculator")
        assert seen.get("weather").examples == ("is it humid",)
        assert [card.enabled for card in seen] == [True, False, True]
    catalog.enable("translator")
    assert AgentCatalog(ENCODER, registry).get("translator").enabled


def test_names_given_twice(catalog):
    with pytest.raises(DuplicateNameError, match=r"'weather'.*update"):
        catalog.add(AgentCard("new", "comes first"), AgentCard("weather", "is taken"))
    with pytest.raises(DuplicateNameError, match="'twin'"):
        catalog.add(AgentCard("twin", "one"), AgentCard("twin", "two"))
    assert catalog.names == ("weather", "translator", "calculator")
    catalog.disable("weather", "weather")
    assert not catalog.get("weather").enabled
    catalog.remove("weather", "weather")
    assert "weather" not in catalog


@pytest.mark.parametrize("change", ["remove", "enable", "disable", "get"])
def test_unknown_names(catalog, change):
    before = catalog.snapshot
    with pytest.raises(UnknownNameError, match=r"'wether'.*'weather'"):
        getattr(catalog, change)("wether")
    if change != "get":
        with pytest.raises(UnknownNameError, match="'wether'"):
            getattr(catalog, change)("weather", "wether")
    with pytest.raises(UnknownNameError, match="'wether'"):
        catalog.update(replace(catalog.get("weather"), name="wether"))
    assert catalog.snapshot is before


@pytest.mark.parametrize("change", ["remove", "enable", "disable", "get"])
@pytest.mark.parametrize("name", [["weather"], None, 3, ("weather",)], ids=repr)
def test_names_are_texts(catalog, change, name):
    with pytest.raises(InvalidInputError, match=r"unpack lists with \*"):
        getattr(catalog, change)(name)


def test_no_names_change_nothing(catalog):
    before = catalog.snapshot
    for change in (catalog.add, catalog.update, catalog.remove, catalog.enable, catalog.disable):
        change()
    assert catalog.snapshot.records == before.records


@pytest.mark.parametrize("thing", ["weather", None, {"name": "a"}, [AgentCard("a", "b")]])
def test_only_cards_are_added(catalog, thing):
    for change in (catalog.add, catalog.update):
        with pytest.raises(InvalidCardError, match="AgentCard"):
            change(thing)


def test_a_failing_registry_changes_nothing(cards):
    registry = Failing()
    catalog = AgentCatalog(ENCODER, registry)
    catalog.add(*cards[:2])
    before = catalog.snapshot
    registry.broken = True
    for change in (
        lambda: catalog.add(cards[2]),
        lambda: catalog.update(AgentCard("weather", "changed")),
        lambda: catalog.remove("weather"),
        lambda: catalog.disable("weather"),
        lambda: catalog.enable("weather"),  # it is; another process may have disabled it
    ):
        with pytest.raises(RegistryError, match="full"):
            change()
        assert catalog.snapshot is before
    registry.broken = False
    catalog.add(cards[2])
    assert AgentCatalog(ENCODER, registry).names == catalog.names


@pytest.mark.parametrize(
    "make",
    [
        lambda texts: np.full((len(texts), 4), np.nan, np.float32),
        lambda texts: np.full((len(texts), 4), np.inf, np.float32),
        lambda texts: np.ones((len(texts), 5), np.float32),
        lambda texts: np.ones((len(texts) + 1, 4), np.float32),
        lambda texts: np.ones(4, np.float32),
    ],
    ids=["nan", "inf", "wide", "long", "flat"],
)
def test_an_encoder_gone_wrong_registers_nothing(make):
    registry = MemoryRegistry()
    catalog = AgentCatalog(Encoding(make), registry)
    with pytest.raises(ScoreError, match="encoder"):
        catalog.add(AgentCard("a", "does it"))
    assert not len(catalog)
    assert not registry.load()


def test_a_snapshot_never_changes(catalog):
    before = catalog.snapshot
    names, vectors = before.names, before.descriptions.copy()
    catalog.remove("weather")
    catalog.disable("translator")
    catalog.add(AgentCard("new", "comes later"))
    assert before.names == names == ("weather", "translator", "calculator")
    assert before.enabled.all()
    assert np.array_equal(before.descriptions, vectors)
    assert catalog.snapshot.names == ("translator", "calculator", "new")


def test_four_threads_add_and_route(cards):
    catalog = AgentCatalog(ENCODER, MemoryRegistry())
    catalog.add(*cards, *(AgentCard(f"other {i}", f"waits {i}") for i in range(77)))
    router = AgentRouter(catalog)
    query = Query("will it rain tomorrow")
    turns = router.states.encode([query], ENCODER)
    failures, wrong = [], []
    ever = {*catalog.names, *(f"agent {thread} {i}" for thread in range(4) for i in range(3))}

    def work(thread):
        try:
            for i in range(3):
                name = f"agent {thread} {i}"
                catalog.add(AgentCard(name, f"does {thread} {i}", examples=(f"do {thread} {i}",)))
                outcome, _ = router.route(query, turns, RoutingState())
                wrong.extend(c.name for c in outcome.candidates if c.name not in ever)
                if i % 3 == 2:
                    catalog.remove(name)
        except Exception as error:  # noqa: BLE001 - reported below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not wrong
    assert len(catalog) == 80 + 4 * 2
    assert router.trained.ranker.names == catalog.names


def test_a_vector_is_of_the_whole_and_of_its_parts():
    encoder = HashEncoder()
    catalog = AgentCatalog(encoder, MemoryRegistry())
    catalog.add(AgentCard("dice_roller", "Rolls dice"), AgentCard("dice", "dice"))
    first, second = catalog.snapshot.descriptions
    whole, name, about = encoder.encode(["dice roller: Rolls dice", "dice roller", "Rolls dice"])
    mean = whole + 0.5 * name + 0.5 * about
    assert first == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
    assert np.linalg.norm(second) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("weather", "weather"),
        ("get_user", "get user"),
        ("getUserByID", "get user by id"),
        ("HTTPServer", "httpserver"),
        ("a/b.c:d-e", "a b c d e"),
        ("天气", "天气"),
        ("___", ""),
    ],
)
def test_readable_names(name, words):
    assert readable(name) == words


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"cityName": {"description": "where"}}},
        {"properties": {"city_name": {"type": "string", "description": "where"}}},
    ],
)
def test_arguments_are_part_of_the_text(schema):
    assert card_text(AgentCard("rain", "tells", input_schema=schema)).endswith("city name where")


@pytest.mark.parametrize("properties", [None, [], "text", {"a": None}, {"a": {"description": 3}}])
def test_odd_schemas_do_no_harm(properties):
    card = AgentCard("rain", "tells", input_schema={"properties": properties})
    assert card_text(card).startswith("rain: tells")


class CatalogMachine(RuleBasedStateMachine):
    """Any sequence of changes: the catalog, its registry and a dict agree."""

    names = Bundle("names")

    def __init__(self):
        super().__init__()
        self.registry = MemoryRegistry()
        self.catalog = AgentCatalog(ENCODER, self.registry)
        self.model = {}

    @rule(target=names, name=st.sampled_from("abcdefgh"), n=st.integers(0, 3))
    def add(self, name, n):
        card = AgentCard(name, f"does {name}", examples=tuple(f"{name} {i}" for i in range(n)))
        if name in self.model:
            with pytest.raises(DuplicateNameError):
                self.catalog.add(card)
        else:
            self.catalog.add(card)
            self.model[name] = card
        return name

    @rule(name=names, n=st.integers(0, 3), enabled=st.booleans())
    def update(self, name, n, enabled):
        card = AgentCard(name, "changed", examples=("x",) * n, enabled=enabled)
        if name in self.model:
            self.catalog.update(card)
            self.model[name] = card

    @rule(name=names, enabled=st.booleans())
    def switch(self, name, enabled):
        if name in self.model:
            (self.catalog.enable if enabled else self.catalog.disable)(name)
            self.model[name] = replace(self.model[name], enabled=enabled)

    @rule(name=consumes(names))
    def remove(self, name):
        if name in self.model:
            self.catalog.remove(name)
            del self.model[name]

    @invariant()
    def agrees(self):
        assert list(self.catalog) == list(self.model.values())
        assert [r.card for r in self.registry.load()] == list(self.model.values())
        snapshot = self.catalog.snapshot
        assert snapshot.descriptions.shape == (len(self.model), 64)
        for record in snapshot.records:
            assert record.example_vectors.shape == (len(record.card.examples), 64)


TestCatalogMachine = CatalogMachine.TestCase
TestCatalogMachine.settings = settings(max_examples=20, stateful_step_count=20)


def test_changes_survive_a_restart_in_chroma(tmp_path, cards):
    def opened():
        return AgentCatalog(ENCODER, ChromaRegistry.open(tmp_path, "hash-64", 64))

    opened().add(*cards)
    opened().disable("weather")
    opened().remove("translator")
    opened().update(replace(cards[2], examples=("new one",)))
    found = opened()
    assert found.names == ("weather", "calculator")
    assert not found.get("weather").enabled
    assert found.get("calculator").examples == ("new one",)
