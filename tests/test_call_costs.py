"""What a call costs: the whole conversation, in any script, of any length; budgets hold for it."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core import LLMCard, LLMRouter, MoMARouter, Query
from moma_core.errors import InvalidQueryError
from moma_core.llms.costs import FittedCosts, Sent, count_tokens

SMALL = LLMCard("small", 0.1, 0.4, quality={"mmlu_pro": 0.5}, cached_input_price=0.01)
LARGE = LLMCard("large", 5.0, 20.0, quality={"mmlu_pro": 0.85}, cached_input_price=0.5)
PYTHON = """
class LRUCache:
    def __init__(self, capacity: int = 128) -> None:
        self._items: OrderedDict[str, int] = OrderedDict()
        self.capacity = capacity

    def get(self, key: str) -> int | None:
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key]
"""
CHINESE = "请帮我把这份合同翻译成英文,并检查其中有没有对我方不利的条款。如果有,请逐条说明理由。"
COUNTED = {
    # text: mean tokens of cl100k, o200k, Claude's and DeepSeek's tokenisers
    PYTHON: 88,
    CHINESE: 37,
    json.dumps([{"id": i, "name": f"item-{i}", "price": 1.5 * i} for i in range(20)]): 431,
    "Could you look at the report that I sent you yesterday and summarise its main points?": 18,
    "Не могли бы вы перевести это письмо на английский язык и отправить его моему коллеге?": 32,  # noqa: RUF001
    "このレポートを要約して、重要な点を三つ挙げてください。": 22,
}


@pytest.fixture(scope="module")
def router():
    return MoMARouter.from_cards(llms=[SMALL, LARGE])


@pytest.mark.parametrize("text", COUNTED, ids=range(len(COUNTED)))
def test_tokens_are_counted_right_in_code_and_other_scripts(text):
    assert count_tokens(text) == pytest.approx(COUNTED[text], rel=0.2)


@given(first=st.text(max_size=300), second=st.text(max_size=300))
def test_a_longer_text_never_has_fewer_tokens(first, second):
    assert count_tokens(first + second) >= max(count_tokens(first), count_tokens(second)) - 1
    assert (count_tokens(first) == 0) == (first == "")


def test_the_whole_conversation_is_paid_for(router):
    history = ("policy text. " * 2000, "Write a Go LRU cache.", "code " * 40_000)
    alone = router.choose_llm("commit it", "large")
    whole = router.choose_llm(Query("commit it", history), "large")
    read = sum(map(count_tokens, history)) * LARGE.input_price / 1e6
    assert whole.cost - alone.cost == pytest.approx(read, rel=0.01)
    told = router.choose_llm(Query("commit it", history, tokens=500_000), "large")
    assert told.cost - alone.cost == pytest.approx(2.5, rel=0.01)


def test_every_verb_counts_it(router):
    query = Query("Prove it.", ("word " * 20_000,))
    costs = [
        {c.name: c.cost for c in decision.candidates}["large"]
        for decision in (
            router.route(query),
            router.route_batch([query])[0],
            router.choose_llm(query),
        )
    ]
    assert min(costs) > 0.1
    assert costs == pytest.approx([costs[0]] * 3)


@pytest.mark.parametrize("pool", ["cards", "packaged"])
@pytest.mark.parametrize("words", [1_000, 20_000, 200_000])
def test_there_is_no_ceiling_on_length(router, pool, words):
    if pool == "packaged":
        router = MoMARouter.from_cards()
    for candidate in router.route("word " * words, "cost:0.0005").candidates:
        price = router.llms.card(candidate.name).input_price
        assert candidate.cost >= 0.95 * words * price / 1e6


def test_budgets_hold_for_the_conversation_and_say_where_none_does(router):
    short = router.choose_llm("Prove it.", preference="cost:0.02")
    long = router.choose_llm(Query("Prove it.", ("word " * 50_000,)), preference="cost:0.02")
    assert short.target == "large"
    assert long.target == "small"
    assert long.cost < 0.02
    none = router.choose_llm(Query("Prove it.", ("word " * 500_000,)), preference="cost:0.02")
    assert none.target == "small"
    assert "no LLM is within the budget" in none.reason


def test_the_llm_that_answered_before_has_the_history_in_its_cache(router):
    query = Query("And now?", ("word " * 20_000,))
    fresh = {c.name: c.cost for c in router.route(query).candidates}
    after = router.route(query, state={"last_target": "large"})
    again = {c.name: c.cost for c in after.candidates}
    assert again["small"] == pytest.approx(fresh["small"])
    saved = 0.9 * LARGE.input_price * 20_000 / 1e6
    assert fresh["large"] - again["large"] == pytest.approx(saved, rel=0.1)


def test_a_window_too_small_for_the_conversation_is_passed_over():
    small = LLMCard("small", 0.1, 0.4, quality={"mmlu_pro": 0.5}, context_window=8_000)
    middle = LLMCard("middle", 0.1, 0.4, quality={"mmlu_pro": 0.4}, context_window=64_000)
    router = MoMARouter.from_cards(llms=[small, middle])
    long = Query("commit it", ("word " * 20_000,))
    assert router.route("commit it", "performance").target == "small"
    for decision in (
        router.route(long, "performance"),
        router.route_batch([long], "performance")[0],
        router.choose_llm(long, preference="performance"),
    ):
        assert decision.target == "middle"
        assert [each.name for each in decision.candidates] == ["middle"]
    assert router.route(long, "performance", exclude="middle").target == "small"  # none has room
    assert router.choose_llm(long, "small").target == "small"
    assert router.choose_llm(Query("x", tokens=10**6), preference="performance").target == "small"


def test_scripted_conversations_cost_what_was_said(router):
    """Real usage counts the tokens as written above; answers are of other lengths each time."""
    rng = np.random.default_rng(0)
    pool = LLMRouter.from_cards([SMALL, LARGE])
    mine, errors = MoMARouter.from_cards(llms=pool), []
    for _ in range(60):
        turns = [list(COUNTED)[i] for i in rng.integers(0, len(COUNTED), rng.integers(20, 120))]
        decision = mine.choose_llm(Query("Go on, please.", tuple(turns)), "large")
        read = sum(COUNTED[turn] + 4 for turn in turns) + 4
        real = LARGE.usd(read, 150 * np.exp(0.3 * rng.normal()))
        errors.append(abs(decision.cost / real - 1.0))
        mine.llms.observe("large", decision.cost, real)
    assert np.median(errors) < 0.15


def test_a_fit_says_how_long_its_texts_were():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(50, 3)).astype(np.float32)
    costs = FittedCosts.fit(inputs, rng.uniform(1, 2, (50, 2)) * 1e-4, longest=700.0)
    assert costs.longest == 700.0


def test_tokens_of_a_query_are_checked():
    for tokens in (-1, "many", True, float("nan")):
        with pytest.raises(InvalidQueryError, match="tokens of a query"):
            Query("hi", tokens=tokens)
    assert Sent.of(Query("hi", tokens=0)).tokens == count_tokens("hi")
