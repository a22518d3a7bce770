"""A long text asks in several sentences: the k best agents are for all of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moma_core import AgentCard, MoMARouter

ASKED = {
    "weather": ("Weather forecast for a place", "Could you tell me whether it will rain in Oslo?"),
    "flights": ("Books flights between airports", "Please book a flight from Bonn to Rome."),
    "invoices": ("Finds and pays invoices", "Which invoices of last month are not paid yet?"),
    "translator": ("Translates text between languages", "Translate it into French, please."),
    "gardening": ("Advice on plants and gardens", "How do I keep my tomatoes from rotting?"),
}
OTHERS = {
    "music": "Plays songs and playlists",
    "recipes": "Finds recipes for what is in the fridge",
    "chess": "Plays chess",
    "timer": "Sets timers and alarms",
    "taxi": "Calls a taxi",
}
FILLER = "We had a long and pleasant week here in the mountains with the whole family. "


@pytest.fixture(scope="module")
def router():
    said = {name: text for name, (text, _) in ASKED.items()} | OTHERS
    return MoMARouter.from_cards([AgentCard(*card) for card in said.items()], llms=None)


@settings(max_examples=8, deadline=None)
@given(names=st.permutations(sorted(ASKED)), count=st.integers(2, 4), k=st.integers(1, 10))
def test_every_request_of_a_long_text_has_a_place(router, names, count, k):
    text = 3 * FILLER + " ".join(ASKED[name][1] for name in names[:count])
    alone, [listed] = router.rank(text, k), router.rank([text], k)
    scores = [candidate.score for candidate in alone]
    assert alone.names == listed.names
    assert len(alone) == len(set(alone.names)) == k
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) <= alone.probability + 1e-6
    if k > count:
        assert set(names[:count]) <= set(alone.names)


def test_the_first_of_many_is_the_one_that_is_routed_to(router):
    text = 3 * FILLER + " ".join(asked for _, asked in ASKED.values())
    first = router.route(text).target
    assert router.rank(text, 5).names[0] == router.rank(text, 1).names[0] == first
