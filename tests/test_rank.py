"""The two verbs beside route: rank (which agents, how probably) and choose_llm (which LLM)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moma_core import AgentCard, InvalidInputError, Learning, MoMARouter, NoTargetError, Query
from moma_core.errors import InvalidQueryError

MANY = [AgentCard(f"agent {i}", f"does thing number {i} in the garden") for i in range(40)]


@pytest.fixture(scope="module")
def many(hashing):
    return MoMARouter.from_cards(MANY, encoder=hashing, llms=None)


@pytest.fixture(scope="module")
def router(hashing, word_cards, pool):
    return MoMARouter.from_cards(word_cards, encoder=hashing, llms=pool)


@settings(max_examples=30)
@given(k=st.integers(1, 60), text=st.sampled_from(["thing 3", "garden", "zebra", "number 7 thing"]))
def test_candidates_sum_to_at_most_the_probability_that_any_fits(many, k, text):
    ranking = many.rank(text, k)
    scores = [candidate.score for candidate in ranking]
    assert len(ranking) == min(k, len(MANY))
    assert scores == sorted(scores, reverse=True)
    assert 0.0 <= sum(scores) <= ranking.probability + 1e-6 <= 1.0 + 1e-6
    assert len(set(ranking.names)) == len(ranking)


def test_a_longer_list_begins_like_a_shorter_one(many):
    short, long = many.rank("thing 3", 5), many.rank("thing 3", 40)
    assert long.names[:5] == short.names
    assert sum(c.score for c in long) == pytest.approx(long.probability, abs=1e-3)


def test_among_and_exclude_take_a_text_as_one_name(many):
    assert many.rank("thing 3", 5, "agent 3").names == ("agent 3",)
    assert "agent 3" not in many.rank("thing 3", 40, exclude="agent 3").names
    assert "agent 30" in many.rank("thing 3", 40, exclude="agent 3").names
    assert set(many.rank("thing", 9, ["agent 1", "agent 2"]).names) == {"agent 1", "agent 2"}
    assert len(many.rank("thing", 9, among=[])) == 0


def test_a_list_gives_a_list(many):
    texts = ["thing 3", Query("number 7")]
    together = many.rank(texts, 4)
    assert [r.names for r in together] == [many.rank(text, 4).names for text in texts]
    assert many.rank([], 4) == []


def test_it_follows_a_conversation_like_route(router):
    first = router.rank("rain snow wind")
    decision = router.route("rain snow wind")
    assert first[0].name == decision.target
    assert first.best_probability == pytest.approx(decision.probability)
    follow_up = router.rank("and for tomorrow?", state=decision.state)
    assert follow_up[0].name == decision.target


@pytest.mark.parametrize("k", [0, -1, 2.5, True, "3"])
def test_k_is_a_whole_number_from_one(many, k):
    with pytest.raises(InvalidInputError, match="k is how many"):
        many.rank("thing", k)


def test_slips(many):
    with pytest.raises(InvalidQueryError):
        many.rank("  ")
    with pytest.raises(InvalidInputError, match="among takes names"):
        many.rank("thing", among=[3])
    with pytest.raises(NoTargetError):
        many.choose_llm("why")


def test_choosing_an_llm_never_asks_the_agents(router):
    decision = router.choose_llm("rain snow wind", preference="performance")
    assert decision.kind == "llm"
    assert decision.target in router.llms.names
    assert decision.cost is not None
    assert "performance picks" in decision.reason
    assert router.route("rain snow wind").kind == "agent"


def test_choosing_among_llms(router):
    only = router.llms.names[0]
    assert router.choose_llm("why", only).target == only
    assert router.choose_llm("why", exclude=only).target != only
    vector = router.encoder.encode(["why"])[0]
    by_vector = router.choose_llm(vector, preference="performance")
    assert by_vector.target == router.choose_llm("why", preference="performance").target
    with pytest.raises(NoTargetError):
        router.choose_llm("why", ["nobody of that name"])


def test_feedback_takes_what_choose_llm_returns(hashing, word_cards, pool):
    router = MoMARouter.from_cards(word_cards, encoder=hashing, llms=pool)
    router.learn(Learning())
    decision = router.choose_llm("why prove explain")
    assert router.feedback(decision, 1.0)
    assert not router.feedback(decision, 1.0)


def test_a_decision_for_an_llm_carries_the_nearest_agents(router):
    decision = router.route("zebra okapi")
    assert decision.kind == "llm"
    assert {candidate.name for candidate in decision.nearest} == set(router.agents.names)
    assert 0.0 <= decision.nearest_probability < 1.0
    told = decision.explain()
    assert decision.target in told
    assert "nearest agents:" in told
    assert "encode" in told
    assert type(decision).from_dict(decision.to_dict()) == decision


def test_scores_are_finite(many):
    scores = [c.score for r in many.rank([f"thing {i}" for i in range(9)], 40) for c in r]
    assert np.isfinite(scores).all()


def test_agents_without_examples_do_not_take_all_places(hashing):
    shown = [
        AgentCard(
            f"tool {i}",
            f"tool for matter {i}",
            examples=[f"matter {i} in {j}" for j in "abcdefghijkl"],
        )
        for i in range(6)
    ]
    router = MoMARouter.from_cards([*MANY, *shown], encoder=hashing, llms=None)
    texts = ["thing 3 in the garden", "garden", "number 7 thing", "matter 2 in the garden"]
    for text in texts:
        eight = router.rank(text, 8)
        named = [name for name in eight.names if name.startswith("tool")]
        assert len(named) >= 3  # of 8, at 12 examples each
        assert len(set(eight.names)) == 8
        scores = [candidate.score for candidate in eight]
        assert scores == sorted(scores, reverse=True)
        alone = router.rank(text, 1)
        assert (alone.names[0], alone.best_probability) == (eight.names[0], eight.best_probability)
