"""Which examples count: spellings folded, copies given back, floods thinned out."""

import numpy as np
import pytest

from moma_core import AgentCard
from moma_core.agents.catalog import AgentCatalog
from moma_core.agents.claims import counting
from moma_core.registry.memory import MemoryRegistry
from moma_core.testing import HashEncoder

WEATHER = AgentCard("weather", "rain snow wind", examples=("rain today", "snow today", "wind now"))
SUMS = AgentCard("sums", "sum root times", examples=("sum of two", "root of four", "two times two"))


def counted(*cards):
    catalog = AgentCatalog(HashEncoder(), MemoryRegistry())
    catalog.add(*cards)
    return catalog.snapshot, counting(catalog.snapshot)


def test_honest_cards_stay_as_they_are():
    before, after = counted(WEATHER, SUMS, AgentCard("bare", "nothing known"))
    assert after is before


def test_spellings_count_once():
    _, after = counted(AgentCard("weather", "rain", examples=("Rain, today", "rain  today!", "?")))
    assert after.records[0].card.examples == ("Rain, today", "?")
    assert after.records[0].example_vectors.shape[0] == 2


def test_copies_belong_to_whose_description_says_more():
    copies = tuple(text.upper() for text in WEATHER.examples)
    thief = AgentCard("helper", "any question", examples=(*copies, "what now"))
    with pytest.warns(UserWarning, match="'helper' brings 3 examples that are rather .*'weather'"):
        _, after = counted(WEATHER, SUMS, thief)
    assert after.records[2].card.examples == ("what now",)
    assert after.records[0].card == WEATHER


def test_a_flood_is_thinned_out():
    many = tuple(f"word{i} alone" for i in range(300))
    _, after = counted(WEATHER, SUMS, AgentCard("flood", "many words", examples=many))
    kept = after.records[2].card.examples
    assert len(kept) == 40
    assert (kept[0], kept[-1]) == (many[0], many[-1])
    assert np.array_equal(after.records[2].example_vectors.shape, (40, 64))
