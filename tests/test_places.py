"""Places on a shortlist are shared among the requests of a query."""

from hypothesis import given
from hypothesis import strategies as st

from moma_core import AgentCard, Candidate, MoMARouter
from moma_core.decision import Ranking
from moma_core.places import rank_requests, shared

CARDS = [
    AgentCard("weather", "Weather forecast for a place"),
    AgentCard("climate", "Average weather and climate of a place over the year"),
    AgentCard("rain", "Says whether it will rain in a place, as a weather forecast does"),
    AgentCard("flights", "Find flights between two airports"),
    AgentCard("jokes", "Tell a joke about anything"),
]
BOTH = "What is the weather forecast for Rome? Then find flights from Rome to Oslo."


def test_each_request_gets_its_place():
    router = MoMARouter.from_cards(CARDS, llms=None)
    rankings = rank_requests(router, BOTH, 2)
    assert len(rankings) == 3
    assert "flights" in [candidate.name for candidate in shared(rankings, 2)]
    [alone] = rank_requests(router, "find flights from Rome to Oslo", 2)
    assert shared([alone], 2) == alone.candidates
    assert len(rank_requests(router, "What is the weather? Hm, well, I mean in Rome.", 2)) == 1
    [nobody] = rank_requests(router, BOTH, 2, among=())
    assert shared([nobody], 2) == ()


names = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6)


@given(whole=names, parts=st.lists(names, max_size=3), k=st.integers(1, 8))
def test_nobody_is_named_twice_and_each_requests_best_comes_first(whole, parts, k):
    def ranked(names):
        return Ranking(tuple(Candidate(name, 1 / (i + 1)) for i, name in enumerate(names)), 1.0)

    found = [each.name for each in shared([ranked(whole), *map(ranked, parts)], k)]
    everybody = set(whole).union(*parts)
    assert len(set(found)) == len(found) == min(k, len(everybody))
    firsts = {names[0] for names in (*parts, whole) if names}
    assert set(found[: len(firsts)]) <= firsts or k < len(firsts)
    if not parts:
        assert found == whole[:k]
